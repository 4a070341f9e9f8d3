package shard

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

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

// Doc is a document of a _dbs.couch, as it won.
type Doc struct {
	Info *couchfile.DocInfo
	JSON []byte // as the server shows it; nil if it can't be read
	Map  Map
	OK   bool  // it holds a shard map
	Err  error // why it can't be read, or isn't a map that can be believed
}

// Docs iterates over the documents of a _dbs.couch but its design documents, in the order
// of their ids. An error ends it: the tree of documents can't be read on.
func Docs(db *couchfile.DB) iter.Seq2[Doc, error] {
	return func(yield func(Doc, error) bool) {
		bodies := db.Bodies()
		for info, err := range db.Docs(couchfile.DocsOptions{}) {
			if err != nil {
				yield(Doc{}, err)
				return
			}
			if couchfile.IsDesign(info.ID) {
				continue
			}
			d := Doc{Info: info}
			if d.JSON, d.Err = bodies.RevisionJSON(info, info.Winner(), couchfile.DocOptions{}); d.Err == nil {
				d.Map, d.OK, d.Err = ParseMap(d.JSON)
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

// ReadMaps reads all shard maps of a _dbs.couch. One that can't be read is an error.
func ReadMaps(db *couchfile.DB) ([]Map, error) {
	var out []Map
	for d, err := range Docs(db) {
		if err == nil {
			err = d.Err
		}
		if err != nil && d.Info != nil {
			err = fmt.Errorf("document %q: %w", d.Info.ID, err)
		}
		if err != nil {
			return nil, err
		}
		if d.OK {
			out = append(out, d.Map)
		}
	}
	return out, nil
}

// Document returns m as a document of _dbs, without a revision and with a line feed at its
// end: old, the document that it is made of, with other nodes, suffix and name. What else
// old has, such as props, stays; its changelog begins anew.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_bdu.erl, validate: by_node and by_range must
// mirror each other.
func (m Map) Document(old []byte) ([]byte, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(old, &doc); err != nil {
		return nil, fmt.Errorf("shard map of %q: %w", m.DB, err)
	}
	maps.DeleteFunc(doc, func(key string, _ json.RawMessage) bool { return strings.HasPrefix(key, "_") })
	codes := make([]int, len(m.Suffix))
	for i := range len(m.Suffix) {
		codes[i] = int(m.Suffix[i])
	}
	byNode, byRange := make(map[string][]string, len(m.ByNode)), map[string][]string{}
	changes := [][3]string{}
	for _, node := range slices.Sorted(maps.Keys(m.ByNode)) {
		for _, r := range m.ByNode[node] {
			byNode[node] = append(byNode[node], r.String())
			byRange[r.String()] = append(byRange[r.String()], node)
			changes = append(changes, [3]string{"add", r.String(), node})
		}
	}
	for key, v := range map[string]any{
		"_id": m.DB, "shard_suffix": codes, "by_node": byNode, "by_range": byRange, "changelog": changes,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		doc[key] = b
	}
	b, err := json.Marshal(doc)
	return append(b, '\n'), err
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
