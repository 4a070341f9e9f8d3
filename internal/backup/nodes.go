package backup

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/state"
)

// clusterNodes returns the nodes of the cluster that the node is of, as its _nodes.couch says that was just
// backed up. A node that is alone has none; nor is one known where the file is missing, damaged, or says what no
// record can: a backup is as good without. What is read doesn't count, as that of the header of the shard map
// doesn't, by which the node is recognised.
func (r *run) clusterNodes(ctx context.Context, l *node.Listing) []string {
	i := slices.IndexFunc(l.System, func(e node.Entry) bool { return e.Root == manifest.DataRoot && e.Path == shard.NodesFile })
	if i < 0 || r.files[capture.Name{Root: manifest.DataRoot, Path: shard.NodesFile}] == nil {
		return nil
	}
	src, err := capture.Open(ctx, r.opts.Node, l.System[i])
	if err != nil {
		return nil
	}
	defer src.Close()
	return readNodes(ctx, src, src.Size())
}

// Member says who a node is, what it is called, and which nodes its cluster has, as a backup of it would: what can't be
// read is not known, and a node that is alone has none.
func Member(ctx context.Context, n *node.Node) (id manifest.Identity, name string, nodes []string) {
	id, name = state.Identify(n)
	f, err := os.Open(filepath.Join(n.DataDir, shard.NodesFile))
	if err != nil {
		return id, name, nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return id, name, nil
	}
	return id, name, readNodes(ctx, f, info.Size())
}

// readNodes returns the nodes that a _nodes.couch has; none of a node that is alone.
func readNodes(ctx context.Context, src io.ReaderAt, size int64) []string {
	db, err := couchfile.Open(couchfile.WithContext(ctx, src), size)
	if err != nil {
		return nil
	}
	nodes, err := shard.ReadNodes(db)
	if err != nil || len(nodes) < 2 || manifest.CheckCluster("", nodes) != nil {
		return nil
	}
	return nodes
}
