package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

const (
	dbsPath   = "_dbs.couch"
	nodesPath = shard.NodesFile
)

// disk3 is the disk version that CouchDB 3 brings every file to that it opens.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine_header.erl, LATEST_DISK_VERSION.
const disk3 = 8

// dbMap is a shard map document of the backup.
type dbMap struct {
	shard.Map
	doc []byte // as the server shows it
}

// nodeMaps is what a _dbs.couch says.
type nodeMaps struct {
	list     []dbMap  // sorted by the database's name
	problems []string // documents that can't be read
	unread   []string // their databases
	self     *shard.Self
	old      bool // a CouchDB 2 wrote them: to disk, none of version 3 has since
}

// readMaps reads the shard maps in a _dbs.couch of size bytes, and makes out which of
// their nodes the files of m are of. told is what the node is to be called, or "": if
// the maps know that name, they must give it the files; else it is ErrOptions.
func readMaps(ctx context.Context, r io.ReaderAt, size int64, m *manifest.Manifest, told string) (*nodeMaps, error) {
	db, err := couchfile.Open(couchfile.WithContext(ctx, r), size)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dbsPath, err)
	}
	n := &nodeMaps{old: db.Header().DiskVersion < disk3}
	for d, err := range shard.Docs(db) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dbsPath, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch {
		case d.JSON == nil:
			n.problems = append(n.problems, fmt.Sprintf("the shard map of database %q can't be read: %v", d.Info.ID, d.Err))
			n.unread = append(n.unread, d.Info.ID)
		case d.Err != nil:
			n.problems = append(n.problems, fmt.Sprintf("the shard map of database %q: %v", d.Info.ID, d.Err))
		case d.OK:
			n.list = append(n.list, dbMap{d.Map, d.JSON})
		}
	}
	slices.SortFunc(n.list, func(a, b dbMap) int { return strings.Compare(a.DB, b.DB) })
	return n, n.findSelf(m, db.Header().Epochs, told)
}

// readNodes returns the names of the cluster's nodes, out of a _nodes.couch.
func readNodes(r io.ReaderAt, size int64) ([]string, error) {
	db, err := couchfile.Open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", nodesPath, err)
	}
	nodes, err := shard.ReadNodes(db)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", nodesPath, err)
	}
	return nodes, nil
}

// gap returns the first hash that no range holds; ok says that there is one.
func gap(ranges []shard.Range) (hash uint32, ok bool) {
	next := uint64(0)
	for _, r := range ranges { // sorted by their beginnings
		if uint64(r.Begin) > next {
			break
		}
		next = max(next, uint64(r.End)+1)
	}
	return uint32(next), next < 1<<32
}

// Databases returns the names of the databases of a node, sorted, out of _dbs.couch in
// its data directory. It needs no server, and one that runs is not disturbed. A
// directory without _dbs.couch, as before CouchDB's first start, has none.
func Databases(ctx context.Context, dataDir string) ([]string, error) {
	f, err := os.Open(filepath.Join(dataDir, dbsPath))
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	db, err := couchfile.Open(couchfile.WithContext(ctx, f), info.Size())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dbsPath, err)
	}
	names := []string{}
	for doc, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dbsPath, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !couchfile.IsDesign(doc.ID) {
			names = append(names, doc.ID)
		}
	}
	return names, nil
}
