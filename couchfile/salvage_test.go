package couchfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/testenv"
)

// salvaged walks the id tree. It returns what was visited, and the bounds of what was not, "" for none.
func salvaged(t *testing.T, db *couchfile.DB) (ids []string, holes [][2]string) {
	t.Helper()
	text := func(k erlterm.Term) string {
		b, _, _ := erlterm.Binary(k)
		return string(b)
	}
	err := db.IDTree().Salvage(func(e couchfile.Entry) error {
		ids = append(ids, text(e.Key))
		return nil
	}, func(after, last erlterm.Term, err error) error {
		if !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("damage told as %v", err)
		}
		holes = append(holes, [2]string{text(after), text(last)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids, holes
}

func manyDocs(t *testing.T, n int) []byte {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/f.couch")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := couchgen.Create(f, couchgen.Options{Compression: couchgen.None})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := g.Put(couchgen.Doc{ID: fmt.Sprintf("doc-%05d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever node is damaged, all documents are visited or within what is told of, and none is both.
func TestSalvage(t *testing.T) {
	whole := manyDocs(t, 400)
	open := func(b []byte) *couchfile.DB {
		db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	all, holes := salvaged(t, open(whole))
	if len(all) != 400 || len(holes) != 0 {
		t.Fatalf("of a sound file: %d documents and holes %v", len(all), holes)
	}
	ranges := map[string]int{}
	kinds := [][]byte{[]byte("kv_node"), []byte("kp_node"), []byte("doc-00")}
	for _, kind := range kinds {
		for at := 0; ; at++ {
			i := bytes.Index(whole[at:], kind)
			if i < 0 {
				break
			}
			at += i
			b := bytes.Clone(whole)
			b[at+len(kind)-1] ^= 8
			ids, holes := salvaged(t, open(b))
			if len(holes) > 0 {
				ranges[string(kind)]++
			}
			for _, id := range all {
				in := slices.ContainsFunc(holes, func(h [2]string) bool { return h[0] < id && (id <= h[1] || h[1] == "") })
				if visited := slices.Contains(ids, id); visited && in {
					t.Fatalf("flip at %d: %s was visited, and is in %v", at, id, holes)
				} else if !visited && !in && string(kind) != "doc-00" { // another id of the same order can't be told
					t.Fatalf("flip at %d: %s is in neither, holes %v", at, id, holes)
				}
			}
		}
	}
	for _, kind := range kinds {
		if ranges[string(kind)] == 0 {
			t.Errorf("no flip in %s did any damage", kind)
		}
	}
}

// An error of the caller ends the walk.
func TestSalvageEnds(t *testing.T) {
	b := manyDocs(t, 400)
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	n := 0
	err = db.IDTree().Salvage(func(couchfile.Entry) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	}, func(_, _ erlterm.Term, err error) error { return err })
	if !errors.Is(err, enough) || n != 3 {
		t.Errorf("got %v after %d entries", err, n)
	}
}

// Of sound files of all versions nothing is taken for damaged, and all is visited in order.
func TestSalvageSound(t *testing.T) {
	walked := 0
	testenv.EachFixture(t, func(version, name string, b []byte) {
		var trees []*couchfile.Tree
		if strings.HasSuffix(name, ".view") {
			v, err := couchfile.OpenView(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatalf("%s %s: %v", version, name, err)
			}
			trees = append(v.Trees(), v.IDTree())
		} else {
			db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatalf("%s %s: %v", version, name, err)
			}
			trees = []*couchfile.Tree{db.IDTree(), db.SeqTree(), db.LocalTree(), db.PurgeTree(), db.PurgeSeqTree()}
		}
		for _, tree := range trees {
			var want, got []string
			for e, err := range tree.All(nil, false) {
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, string(e.Key))
			}
			err := tree.Salvage(func(e couchfile.Entry) error {
				got = append(got, string(e.Key))
				return nil
			}, func(_, _ erlterm.Term, err error) error { return err })
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s %s, %s: %d entries, want %d, %v", version, name, tree.Name, len(got), len(want), err)
			}
			walked += len(got)
		}
	})
	if walked < 10_000 {
		t.Errorf("walked over %d entries", walked)
	}
}
