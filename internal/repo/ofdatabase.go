package repo

import (
	"iter"
	"strings"

	"github.com/slipcover/slipcover/internal/shard"
)

// DatabaseName returns the database that a file below the data directory has the name of, by its path: that of a shard, or a
// node's own one. Whether such a file is of that database Clustered tells.
func DatabaseName(path string) string {
	if n, err := shard.ParsePath(path); err == nil {
		return n.DB
	}
	return strings.TrimSuffix(path, ".couch")
}

// Clustered are the databases that have shards.
//
// A node has files of its own beside some of them, such as _users.couch, which are no part of the clustered database of that
// name. Where a name has no shards such a file is the database: _dbs, _nodes, and all of a CouchDB 1.x.
type Clustered map[string]bool

// ClusteredIn returns those that have shards among files below the data directory, by their paths.
func ClusteredIn(paths iter.Seq[string]) Clustered {
	c := Clustered{}
	for path := range paths {
		c.see(path)
	}
	return c
}

func (c Clustered) see(path string) {
	if n, err := shard.ParsePath(path); err == nil {
		c[n.DB] = true
	}
}

// Has reports whether a file is of the database of its name: a shard, or a node's own file where there are no shards.
func (c Clustered) Has(path string) bool { return !ownFile(path) || !c[DatabaseName(path)] }

// earlier reports whether a node's own file of a database's name may be what it was in the files of a CouchDB 1.x, of which
// a later version has made shards since: of the system's databases a node has such files at any time.
func earlier(db string) bool { return !strings.HasPrefix(db, "_") }

// ownFile reports whether a file is no shard.
func ownFile(path string) bool {
	_, err := shard.ParsePath(path)
	return err != nil
}
