package node

import (
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// Entry is one file of the node that belongs into a backup.
type Entry struct {
	Root   manifest.Root
	Path   string // relative to the root, with "/"
	Kind   manifest.Kind
	DB     string      // name of the database, of shards, system files and views
	Range  shard.Range // of shards and their views; zero for node-local files
	Suffix string      // of shards and their views: ".1795334390"
	// Source is the file to read if it isn't at Path below the root; usually
	// empty. See Node.Path.
	Source string
}
