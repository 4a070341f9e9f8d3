package shard

import (
	"encoding/json"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
)

// NodesFile is the file of the cluster's nodes, relative to the data directory.
const NodesFile = "_nodes.couch"

// ReadZones returns the zone of each node that has one, by the node's name, out of a _nodes.couch.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3.erl, nodes_in_zone.
func ReadZones(db *couchfile.DB) (map[string]string, error) {
	out := map[string]string{}
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, err
		}
		doc, err := db.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
		if err != nil {
			return nil, err
		}
		var node struct{ Zone string }
		if json.Unmarshal(doc, &node) == nil && node.Zone != "" { // another kind of value is no zone
			out[info.ID] = node.Zone
		}
	}
	return out, nil
}

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
