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
	b := appendTuple([]byte{tagVersion}, 4)
	b = appendAtom(appendTuple(appendList(b, 1), 9), "mrview")
	b = appendInt(appendInt(appendInt(b, 0), 0), 0) // id_num, update_seq, purge_seq
	b = append(appendBinary(appendList(b, 1), viewName), tagNil)
	b = appendBinary(append(b, tagNil), viewMap) // no reduce functions
	b = append(appendAtom(b, "nil"), tagNil, tagNil)
	b = appendBinary(b, "javascript")
	if partitioned {
		b = appendAtom(appendBinary(appendTuple(appendList(b, 1), 2), "partitioned"), "false")
	}
	b = append(b, tagNil) // options
	b = append(b, tagNil) // library
	return md5.Sum(b)
}

// viewRow is what the view says about a document.
type viewRow struct{ id, rev string }

// viewIDCodec is the tree from document id to [{view, key}].
var viewIDCodec = codec[string, viewRow]{
	value: func(b []byte, r viewRow) []byte {
		b = appendBinary(appendInt(appendTuple(appendList(b, 1), 2), 0), r.id)
		return append(b, tagNil)
	},
	reducer: couchwriter.NoReduce,
}

// viewRowCodec is the view: {key, id} to value, with {count, [], external size}.
var viewRowCodec = codec[string, viewRow]{
	key: func(b []byte, id string) []byte {
		return appendBinary(appendBinary(appendTuple(b, 2), id), id)
	},
	value:   func(b []byte, r viewRow) []byte { return appendBinary(b, r.rev) },
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
	if _, err := out.Header(viewHeader(sig, func(b []byte) []byte { return appendAtom(b, "nil") })); err != nil {
		return err
	}
	ids, view := newTree(out, o.Compression, allNodes, viewIDCodec), newTree(out, o.Compression, allNodes, viewRowCodec)
	if err := errors.Join(ids.apply(rows), view.apply(rows)); err != nil {
		return err
	}
	_, err = out.Header(viewHeader(sig, func(b []byte) []byte {
		b = appendAtom(appendTuple(b, 6), "mrheader")
		b = appendUint(appendUint(b, g.head.updateSeq), g.head.purgeSeq)
		b = appendCollator(append(b, ids.State()...))
		b = append(appendTuple(appendList(b, 1), 5), view.State()...)
		b = appendAtom(appendAtom(b, "nil"), "nil")
		b = appendUint(appendUint(b, g.head.updateSeq), g.head.purgeSeq)
		return append(b, tagNil)
	}))
	return err
}

func viewHeader(sig [16]byte, state func([]byte) []byte) []byte {
	return state(appendBinary(appendTuple([]byte{tagVersion}, 2), sig[:]))
}

// appendCollator writes #{ucol_vs => [[153,120,0,0]]}, the collator's version.
func appendCollator(b []byte) []byte {
	const tagMap = 116
	b = binary.BigEndian.AppendUint32(append(b, tagMap), 1)
	b = appendList(appendAtom(b, "ucol_vs"), 1)
	return append(b, tagString, 0, 4, 153, 120, 0, 0, tagNil)
}

// viewPath is where the server looks for an index.
//
// Source: CouchDB 3.5, src/couch_index/src/couch_index_util.erl, index_dir.
func (db *Database) viewPath(s *Shard, sig [16]byte) string {
	shards := strings.TrimSuffix(s.Path, filepath.Join("shards", s.Range(), filepath.FromSlash(db.Name)+db.Suffix+".couch"))
	return filepath.Join(shards, ".shards", s.Range(), filepath.FromSlash(db.Name)+db.Suffix+"_design",
		"mrview", fmt.Sprintf("%s.view", hex.EncodeToString(sig[:])))
}
