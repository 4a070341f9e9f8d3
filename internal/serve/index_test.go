package serve_test

import (
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// The indexes of a backup's shards are found by the signature of a design document, and answer.
func TestIndexOfABackup(t *testing.T) {
	t.Parallel()
	r, m := backedUp(t)
	n, err := serve.OpenNode(t.Context(), r, m)
	must(t, err)
	defer n.Close()
	d, err := n.Database("viewed")
	must(t, err)
	db, err := d.Find(t.Context(), "_design/stats")
	must(t, err)
	b, err := db.Doc("_design/stats", couchfile.DocOptions{})
	must(t, err)
	doc, err := ejson.Parse(b)
	must(t, err)
	design, err := viewindex.ParseDesign(doc.(ejson.Object))
	must(t, err)
	var shards []viewindex.Shard
	for range 2 { // the second time they are open
		shards = nil
		for _, s := range d.Shards {
			db, err := d.Open(t.Context(), s)
			must(t, err)
			index, size, err := d.Index(t.Context(), s, design.Signature)
			must(t, err)
			if index == nil {
				t.Fatalf("no index of %s", s.Range)
			}
			shards = append(shards, viewindex.Shard{Range: s.Range, DB: db, Index: index, Size: size})
		}
	}
	view, err := design.View("plain", false)
	must(t, err)
	args, err := mrargs.ForView(nil, nil, false)
	must(t, err)
	must(t, view.Check(args))
	answer, err := view.Rows(t.Context(), shards, args)
	must(t, err)
	rows := 0
	for _, err := range answer.Rows {
		must(t, err)
		rows++
	}
	if answer.Total != 250 || rows != 250 {
		t.Errorf("%d rows of %d, and the server has 250", rows, answer.Total)
	}
	if index, _, err := d.Index(t.Context(), d.Shards[0], "00000000000000000000000000000000"); index != nil || err != nil {
		t.Errorf("an index that isn't there: %v, %v", index, err)
	}
	info, err := design.Info("stats", shards)
	must(t, err)
	want := struct {
		ViewIndex struct{ Sizes struct{ File int } } `json:"view_index"`
	}{}
	read(t, "viewed/ddoc_info/_design%2Fstats.json", &want)
	index, _ := info.Get("view_index")
	sizes, _ := index.(ejson.Object).Get("sizes")
	if file, _ := sizes.(ejson.Object).Get("file"); ejson.String(file) != ejson.String(want.ViewIndex.Sizes.File) {
		t.Errorf("files of %v bytes, want %d", file, want.ViewIndex.Sizes.File)
	}
}
