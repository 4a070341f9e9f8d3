package couchgen

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipcover/slipcover/couchfile/couchwriter"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// The design document that DirOptions.Views writes has one view. Its rows show
// whether an index is at the state of its shard: {"key": id, "value": rev}.
const (
	viewsDoc = "_design/revs"
	viewName = "by_id"
	viewMap  = "function(doc) { emit(doc._id, doc._rev); }"
)

// viewsBody is the design document. In a partitioned database the view is a
// global one.
func viewsBody(partitioned bool) Object {
	o := Object{
		{"language", "javascript"},
		{"views", Object{{viewName, Object{{"map", viewMap}}}}},
	}
	if partitioned {
		o = append(o, Member{"options", Object{{"partitioned", false}}})
	}
	return o
}

// viewSignature is what the server names the index after.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl,
// ddoc_to_mrst; record mrview in couch_mrview.hrl.
func viewSignature(partitioned bool) [16]byte {
	b := erlterm.PutTuple([]byte{erlterm.Version}, 4)
	b = erlterm.PutAtom(erlterm.PutTuple(erlterm.PutListHead(b, 1), 9), "mrview")
	b = erlterm.PutInt(erlterm.PutInt(erlterm.PutInt(b, 0), 0), 0) // id_num, update_seq, purge_seq
	b = append(erlterm.PutBinary(erlterm.PutListHead(b, 1), viewName), erlterm.TagNil)
	b = erlterm.PutBinary(append(b, erlterm.TagNil), viewMap) // no reduce functions
	b = append(erlterm.PutAtom(b, "nil"), erlterm.TagNil, erlterm.TagNil)
	b = erlterm.PutBinary(b, "javascript")
	if partitioned {
		b = erlterm.PutAtom(erlterm.PutBinary(erlterm.PutTuple(erlterm.PutListHead(b, 1), 2), "partitioned"), "false")
	}
	b = append(b, erlterm.TagNil) // options
	b = append(b, erlterm.TagNil) // library
	return md5.Sum(b)
}

// viewRow is what the view says about a document.
type viewRow struct{ id, rev string }

// viewIDCodec is the tree from document id to [{view, key}].
var viewIDCodec = codec[string, viewRow]{
	value: func(b []byte, r viewRow) []byte {
		b = erlterm.PutBinary(erlterm.PutInt(erlterm.PutTuple(erlterm.PutListHead(b, 1), 2), 0), r.id)
		return append(b, erlterm.TagNil)
	},
	reducer: couchwriter.NoReduce,
}

// viewRowCodec is the view: {key, id} to value, with {count, [], external size}.
var viewRowCodec = codec[string, viewRow]{
	key: func(b []byte, id string) []byte {
		return erlterm.PutBinary(erlterm.PutBinary(erlterm.PutTuple(b, 2), id), id)
	},
	value:   func(b []byte, r viewRow) []byte { return erlterm.PutBinary(b, r.rev) },
	reducer: couchwriter.ViewReduce(nil),
}

// writeViews writes the index of the shard that g has just committed.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, make_header
// and make_disk_view_state.
func writeViews(g *Generator, db *Database, s *Shard, o DirOptions) (err error) {
	var rows []edit[string, viewRow]
	err = g.ids.each(func(d *info) error {
		if !d.deleted && !strings.HasPrefix(d.id, "_design/") {
			rev, _ := d.winner()
			rows = append(rows, edit[string, viewRow]{d.id, viewRow{d.id, rev.String()}, false})
		}
		return nil
	})
	if err != nil {
		return err
	}
	sig := viewSignature(db.Partitioned)
	path := db.viewPath(s, sig)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := couchwriter.NewFile(f, nil, 0, o.Checksum.kind())
	if _, err := out.Header(viewHeader(sig, func(b []byte) []byte { return erlterm.PutAtom(b, "nil") })); err != nil {
		return err
	}
	ids, view := newTree(out, o.Compression, allNodes, viewIDCodec), newTree(out, o.Compression, allNodes, viewRowCodec)
	if err := errors.Join(ids.apply(rows), view.apply(rows)); err != nil {
		return err
	}
	_, err = out.Header(viewHeader(sig, func(b []byte) []byte {
		b = erlterm.PutAtom(erlterm.PutTuple(b, 6), "mrheader")
		b = erlterm.PutUint(erlterm.PutUint(b, g.head.updateSeq), g.head.purgeSeq)
		b = appendCollator(append(b, ids.State()...))
		b = append(erlterm.PutTuple(erlterm.PutListHead(b, 1), 5), view.State()...)
		b = erlterm.PutAtom(erlterm.PutAtom(b, "nil"), "nil")
		b = erlterm.PutUint(erlterm.PutUint(b, g.head.updateSeq), g.head.purgeSeq)
		return append(b, erlterm.TagNil)
	}))
	return err
}

func viewHeader(sig [16]byte, state func([]byte) []byte) []byte {
	return state(erlterm.PutBinary(erlterm.PutTuple([]byte{erlterm.Version}, 2), sig[:]))
}

// appendCollator writes #{ucol_vs => [[153,120,0,0]]}, the collator's version.
func appendCollator(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, erlterm.TagMap), 1)
	b = erlterm.PutListHead(erlterm.PutAtom(b, "ucol_vs"), 1)
	return append(b, erlterm.TagString, 0, 4, 153, 120, 0, 0, erlterm.TagNil)
}

// viewPath is where the server looks for an index.
//
// Source: CouchDB 3.5, src/couch_index/src/couch_index_util.erl, index_dir.
func (db *Database) viewPath(s *Shard, sig [16]byte) string {
	shards := strings.TrimSuffix(s.Path, filepath.Join("shards", s.Range(), filepath.FromSlash(db.Name)+db.Suffix+".couch"))
	return filepath.Join(shards, ".shards", s.Range(), filepath.FromSlash(db.Name)+db.Suffix+"_design",
		"mrview", fmt.Sprintf("%s.view", hex.EncodeToString(sig[:])))
}
