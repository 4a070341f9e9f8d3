package shard

import (
	"slices"

	"github.com/slipcover/slipcover/couchfile"
)

// NodesFile is the file of the cluster's nodes, relative to the data directory.
const NodesFile = "_nodes.couch"

// ReadNodes returns the names of the cluster's nodes, sorted, out of a _nodes.couch: each node is a document.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_nodes.erl, initialize_nodelist.
func ReadNodes(db *couchfile.DB) ([]string, error) {
	var out []string
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, err
		}
		if !couchfile.IsDesign(info.ID) {
			out = append(out, info.ID)
		}
	}
	slices.Sort(out)
	return out, nil
}
