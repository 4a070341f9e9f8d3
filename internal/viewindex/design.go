// Package viewindex answers queries of views out of the index files that CouchDB stored, as CouchDB does: rows of several shards
// merged, and the reductions of its own reduce functions. It runs no functions of design documents, so that it answers only what
// an index has already. It does no I/O but through the readers that it is given.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview.erl, couch_mrview_util.erl, src/fabric/src/fabric_view_map.erl,
// fabric_view_reduce.erl and fabric_view.erl.
package viewindex

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
)

// ErrDesign says that a design document's views can't be understood.
var ErrDesign = errors.New("malformed views")

// Design is what a design document says of its views.
type Design struct {
	// Signature is what CouchDB names the index files after: {Signature}.view.
	Signature string
	Language  ejson.Value

	options ejson.Object
	views   []*tree
}

// tree is what views of the same map function and options share.
type tree struct {
	id      int // the place in the index
	source  ejson.Value
	options ejson.Object
	maps    []string // views without a reduce function
	reduces []reducer
}

// reducer is a view with a reduce function.
type reducer struct {
	view   string
	source ejson.Value
}

// ParseDesign reads a design document, of which it needs the members views, language and options. It returns ErrDesign.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, ddoc_to_mrst.
func ParseDesign(doc ejson.Object) (*Design, error) {
	d := &Design{Language: "javascript"}
	if l, ok := doc.Get("language"); ok {
		d.Language = l
	}
	var views ejson.Object
	if !member(&d.options, doc, "options") || !member(&views, doc, "views") {
		return nil, fmt.Errorf("%w: options and views must be objects", ErrDesign)
	}
	if err := d.group(views); err != nil {
		return nil, err
	}
	var lib ejson.Object
	if !member(&lib, views, "lib") {
		return nil, fmt.Errorf("%w: lib must be an object", ErrDesign)
	}
	b := erlterm.PutTuple([]byte{erlterm.Version}, 4)
	b = d.put(b)
	b = putValue(b, d.Language)
	b = putPairs(b, d.options)
	b = putLib(b, lib)
	sum := md5.Sum(b)
	d.Signature = hex.EncodeToString(sum[:])
	return d, nil
}

// member reads an object, which may be missing.
func member(to *ejson.Object, o ejson.Object, name string) bool {
	v, ok := o.Get(name)
	if !ok {
		return true
	}
	*to, ok = v.(ejson.Object)
	return ok
}

// group makes the list of trees.
func (d *Design) group(views ejson.Object) error {
	type sorted struct {
		tree *tree
		key  erlterm.Term // {source, options}
	}
	var list []sorted
	for _, m := range views {
		def, ok := m.Value.(ejson.Object)
		if !ok {
			continue
		}
		source, ok := def.Get("map")
		if !ok {
			continue
		}
		t := &tree{source: source}
		if !member(&t.options, def, "options") {
			return fmt.Errorf("%w: options of %s must be an object", ErrDesign, m.Name)
		}
		key := erlterm.Term(putPairs(putValue(erlterm.PutTuple(nil, 2), source), t.options))
		if i := slices.IndexFunc(list, func(s sorted) bool { return bytes.Equal(s.key, key) }); i >= 0 {
			t = list[i].tree
		} else {
			list = append(list, sorted{t, key})
		}
		if reduce, _ := def.Get("reduce"); reduce == nil {
			t.maps = append([]string{m.Name}, t.maps...)
		} else {
			t.reduces = append([]reducer{{m.Name, reduce}}, t.reduces...)
		}
	}
	slices.SortFunc(list, func(a, b sorted) int {
		c, _ := erlterm.Compare(a.key, b.key)
		return c
	})
	for i, s := range list {
		s.tree.id = i
		d.views = append(d.views, s.tree)
	}
	return nil
}

// put appends the list of records mrview, as they are before anything was indexed.
//
// Source: CouchDB 3.5, src/couch_mrview/include/couch_mrview.hrl.
func (d *Design) put(b []byte) []byte {
	if len(d.views) == 0 {
		return append(b, erlterm.TagNil)
	}
	b = erlterm.PutListHead(b, len(d.views))
	for i, v := range d.views {
		b = erlterm.PutAtom(erlterm.PutTuple(b, 9), "mrview")
		b = erlterm.PutInt(erlterm.PutInt(erlterm.PutInt(b, int64(i)), 0), 0) // id_num, update_seq, purge_seq
		names := make([]erlterm.Term, len(v.maps))
		for i, name := range v.maps {
			names[i] = erlterm.PutBinary(nil, name)
		}
		b = erlterm.PutList(b, names)
		reduces := make([]erlterm.Term, len(v.reduces))
		for i, r := range v.reduces {
			reduces[i] = putValue(erlterm.PutBinary(erlterm.PutTuple(nil, 2), r.view), r.source)
		}
		b = erlterm.PutList(b, reduces)
		b = erlterm.PutAtom(putValue(b, v.source), "nil")
		b = putPairs(b, v.options)
	}
	return append(b, erlterm.TagNil)
}

// putLib appends the library, sorted; what is nested in it is a list of pairs, and no object.
//
// Source: CouchDB 3.5, src/couch_index/src/couch_index_util.erl, sort_lib.
func putLib(b []byte, lib ejson.Object) []byte {
	if len(lib) == 0 {
		return append(b, erlterm.TagNil)
	}
	lib = sortedMembers(lib)
	b = erlterm.PutListHead(b, len(lib))
	for _, m := range lib {
		b = erlterm.PutBinary(erlterm.PutTuple(b, 2), m.Name)
		if o, ok := m.Value.(ejson.Object); ok {
			b = putLib(b, o)
		} else {
			b = putValue(b, m.Value)
		}
	}
	return append(b, erlterm.TagNil)
}

// View is a view of a design document.
type View struct {
	Name string
	// Reduce is the source of its reduce function, "" if it has none.
	Reduce string

	design      *Design
	tree        *tree
	nth         int  // of the reduce functions of the tree, -1 if it has none
	partitioned bool // its keys are in partitions
	order       order
	function    function // if known is true: the reduce function
	known       bool
}

// View returns a view by its name; partitioned says whether the database is. The error is CouchDB's if there is none.
func (d *Design) View(name string, partitioned bool) (*View, error) {
	v := &View{Name: name, design: d, nth: -1, partitioned: partitioned}
	if o, ok := d.options.Get("partitioned"); ok {
		v.partitioned = partitioned && o == true
	}
	for _, t := range d.views {
		v.tree = t
		raw, _ := t.options.Get("collation")
		v.order = order{raw: raw == "raw"}
		if i := slices.IndexFunc(t.reduces, func(r reducer) bool { return r.view == name }); i >= 0 {
			v.nth = i
			v.Reduce, _ = t.reduces[i].source.(string)
			v.function, v.known = builtin(v.Reduce)
			return v, nil
		}
		if slices.Contains(t.maps, name) {
			return v, nil
		}
	}
	return nil, &mrargs.Error{Status: 404, Name: "not_found", Reason: "missing_named_view"}
}

// Check checks the arguments of a query of this view and makes them whole, its kind too. It returns an *mrargs.Error.
func (v *View) Check(a *mrargs.Args) error {
	a.Kind = mrargs.Map
	if v.nth >= 0 && (a.Reduce == nil || *a.Reduce) {
		a.Kind = mrargs.Reduce
	}
	if err := a.CheckView(v.partitioned); err != nil {
		return err
	}
	if !a.Start.Set || !a.End.Set || bytes.Equal(putValue(nil, a.Start.Key), putValue(nil, a.End.Key)) {
		return nil
	}
	start, end := v.bound(a, a.Start.Key), v.bound(a, a.End.Key)
	c, err := v.order.rows(start, a.Start.DocID, end, a.End.DocID)
	if err != nil {
		return err
	}
	word := "true"
	if a.Descending {
		word = "false"
	}
	if !a.Descending && c >= 0 || a.Descending && c < 0 {
		return &mrargs.Error{Status: 400, Name: "query_parse_error",
			Reason: "No rows can match your key range, reverse your start_key and end_key or set descending=" + word}
	}
	return nil
}

// bound is a key of a query's.
func (v *View) bound(a *mrargs.Args, key ejson.Value) key {
	k := newKey(key)
	if v.partitioned {
		k.partition, k.parted = a.Partition, true
		k.term = append(erlterm.PutBinary(erlterm.PutAtom(erlterm.PutTuple(nil, 3), "p"), a.Partition), k.term...)
	}
	return k
}
