package couchfile_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// TestLookup looks up every third document of each database, and ids before, between and
// behind them, and holds what comes against DocInfo.
func TestLookup(t *testing.T) {
	looked := 0
	for _, path := range fixtureFiles(t) {
		if !strings.HasSuffix(path, ".couch") {
			continue
		}
		db := openFixture(t, strings.TrimPrefix(path, fixtures+"/data/"))
		ids := []string{"", "\xff\xff", "m"}
		n := 0
		for d, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n%3 == 0 {
				ids = append(ids, d.ID, d.ID+"\x00")
			}
		}
		slices.Reverse(ids)
		var want []*couchfile.DocInfo
		for _, id := range slices.Sorted(slices.Values(ids)) {
			d, err := db.DocInfo(id)
			if err == nil {
				want = append(want, d)
			} else if !errors.Is(err, couchfile.ErrNotFound) {
				t.Fatal(err)
			}
		}
		for d, err := range db.Lookup(ids) {
			if err != nil || len(want) == 0 || d.ID != want[0].ID || d.UpdateSeq != want[0].UpdateSeq || len(d.Revs) != len(want[0].Revs) {
				t.Fatalf("%s: got %v, %v, and %d are to come", path, d, err, len(want))
			}
			want, looked = want[1:], looked+1
		}
		if len(want) > 0 {
			t.Errorf("%s: %s and %d more did not come", path, want[0].ID, len(want)-1)
		}
	}
	if looked < 100 {
		t.Errorf("only %d documents were looked up", looked)
	}
}
