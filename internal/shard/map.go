package shard

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
)

// Map is a shard map document: one of _dbs, which says where a database's shards
// are.
//
// Source: CouchDB 3.5, src/mem3/src/mem3_util.erl, build_shards_by_node.
type Map struct {
	DB     string             // name of the database, the document's id
	Suffix string             // of the shard files' names: ".1795334390", or ""
	ByNode map[string][]Range // ranges that each node holds
}

// Bounds on a map that is believed, far above what clusters have: each of its
// ranges is looked for on disk. A suffix is a time.
const (
	mostRanges = 1 << 16
	mostSuffix = 255
)

// ParseMap reads a shard map document as the server shows it. Design documents
// and other documents without a map are ok=false.
func ParseMap(doc []byte) (m Map, ok bool, err error) {
	var d struct {
		ID      string              `json:"_id"`
		Deleted bool                `json:"_deleted"`
		Suffix  []byte16            `json:"shard_suffix"`
		ByNode  map[string][]string `json:"by_node"`
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return m, false, fmt.Errorf("shard map: %w", err)
	}
	if d.ByNode == nil || d.Deleted {
		return m, false, nil
	}
	m = Map{DB: d.ID, ByNode: make(map[string][]Range, len(d.ByNode))}
	if len(d.Suffix) > mostSuffix {
		return m, false, fmt.Errorf("shard map of %q: a suffix of %d characters", d.ID, len(d.Suffix))
	}
	for _, c := range d.Suffix {
		m.Suffix += string(rune(c))
	}
	ranges := 0
	for node, list := range d.ByNode {
		if ranges += len(list); ranges > mostRanges {
			return m, false, fmt.Errorf("shard map of %q: more than %d ranges", d.ID, mostRanges)
		}
		for _, s := range list {
			r, err := ParseRange(s)
			if err != nil {
				return m, false, fmt.Errorf("shard map of %q: %w", d.ID, err)
			}
			m.ByNode[node] = append(m.ByNode[node], r)
		}
	}
	return m, true, nil
}

// ReadMaps reads all shard maps of a _dbs.couch. One that can't be read is an error.
func ReadMaps(db *couchfile.DB) ([]Map, error) {
	bodies := db.Bodies()
	var out []Map
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return nil, err
		}
		doc, err := bodies.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
		if err != nil {
			return nil, fmt.Errorf("document %q: %w", info.ID, err)
		}
		m, ok, err := ParseMap(doc)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// byte16 is a character code; a []byte would be read as base64.
type byte16 uint16

// Ranges returns the ranges that node holds. With node "" it is those of the only
// node there is, or of all nodes.
func (m Map) Ranges(node string) []Range {
	if node != "" {
		return m.ByNode[node]
	}
	var all []Range
	for _, list := range m.ByNode {
		all = append(all, list...)
	}
	slices.SortFunc(all, Range.Compare)
	return slices.Compact(all)
}
