package couchfile_test

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// partOf is the part of the id tree between two ids; "" is no bound.
func partOf(start, end string, reverse, open bool) couchfile.Part {
	bound := func(id string) func(erlterm.Term) (int, error) {
		if id == "" {
			return nil
		}
		return func(k erlterm.Term) (int, error) { return cmp.Compare(idOf(k), id), nil }
	}
	return couchfile.Part{Start: bound(start), End: bound(end), Reverse: reverse, OpenEnd: open}
}

func idOf(k erlterm.Term) string {
	b, _, _ := erlterm.Binary(k)
	return string(b)
}

// inPart are the ids of a part in its order, and how many come before it.
func inPart(all []string, start, end string, reverse, open bool) (in []string, before int) {
	if reverse {
		all = slices.Clone(all)
		slices.Reverse(all)
	}
	sign := 1
	if reverse {
		sign = -1
	}
	for _, id := range all {
		c := sign * cmp.Compare(id, end)
		switch {
		case start != "" && sign*cmp.Compare(id, start) < 0:
			before++
		case end == "" || c < 0 || c == 0 && !open:
			in = append(in, id)
		}
	}
	return in, before
}

// docsOf is how many documents a reduction counts, deleted ones too.
func docsOf(t testing.TB, red erlterm.Term) int {
	t.Helper()
	parts, _ := erlterm.Elements(red)
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	docs, _, ok1 := erlterm.Uint(parts[0])
	deleted, _, ok2 := erlterm.Uint(parts[1])
	if !ok1 || !ok2 {
		t.Fatal("no numbers")
	}
	return int(docs + deleted)
}

// Random parts of a tree are visited in their order, and folded to groups that hold what is in them.
func TestParts(t *testing.T) {
	db := openFixture(t, batches)
	all := ids(t, db, couchfile.DocsOptions{Deleted: true})
	rnd := rand.New(rand.NewPCG(1, 2))
	bound := func() string {
		switch rnd.IntN(8) {
		case 0:
			return ""
		case 1:
			return "\x00"
		case 2:
			return "~~~"
		case 3:
			return all[rnd.IntN(len(all))] + "\x00"
		}
		return all[rnd.IntN(len(all))]
	}
	folded := 0
	for range 400 {
		start, end, reverse, open := bound(), bound(), rnd.IntN(2) == 0, rnd.IntN(2) == 0
		if start != "" && end != "" && (start > end) != reverse {
			start, end = end, start
		}
		part := partOf(start, end, reverse, open)
		want, before := inPart(all, start, end, reverse, open)
		var got []string
		passed := 0
		err := db.IDTree().Walk(part, couchfile.Visitor{
			Passed:      func(couchfile.Entry) error { passed++; return nil },
			PassedBelow: func(red erlterm.Term) error { passed += docsOf(t, red); return nil },
			Visit:       func(e couchfile.Entry) (bool, error) { got = append(got, idOf(e.Key)); return true, nil },
		})
		if err != nil || !slices.Equal(got, want) || passed != before {
			t.Fatalf("from %q to %q, reverse %v, open %v: %d ids behind %d, want %d behind %d, %v", start, end, reverse, open, len(got), passed, len(want), before, err)
		}
		length := rnd.IntN(7)
		group := func(id string) string { return id[:min(length, len(id))] }
		type counted struct {
			first string
			n     int
		}
		var groups, wantGroups []counted
		for _, id := range want {
			if n := len(wantGroups); n > 0 && group(wantGroups[n-1].first) == group(id) {
				wantGroups[n-1].n++
			} else {
				wantGroups = append(wantGroups, counted{id, 1})
			}
		}
		err = db.IDTree().Groups(part, func(a, b erlterm.Term) (bool, error) { return group(idOf(a)) == group(idOf(b)), nil },
			func(g couchfile.Group) (bool, error) {
				c := counted{idOf(g.Key), len(g.Entries)}
				for _, red := range g.Reductions {
					c.n += docsOf(t, red)
					folded++
				}
				groups = append(groups, c)
				return true, nil
			})
		if err != nil || !slices.Equal(groups, wantGroups) {
			t.Fatalf("groups of %d from %q to %q, reverse %v, open %v: %v, want %v, %v", length, start, end, reverse, open, groups, wantGroups, err)
		}
	}
	if folded < 500 {
		t.Errorf("%d reductions were used", folded)
	}
}

// A walk ends where it is told to, with the error if there was one.
func TestPartsEnd(t *testing.T) {
	db := openFixture(t, batches)
	wrong := errors.New("wrong")
	n := 0
	err := db.IDTree().Walk(couchfile.Part{}, couchfile.Visitor{Visit: func(couchfile.Entry) (bool, error) { n++; return n < 7, nil }})
	if err != nil || n != 7 {
		t.Errorf("%d visits, %v", n, err)
	}
	if err := db.IDTree().Walk(couchfile.Part{}, couchfile.Visitor{Visit: func(couchfile.Entry) (bool, error) { return false, wrong }}); !errors.Is(err, wrong) {
		t.Error(err)
	}
	bad := couchfile.Part{Start: func(erlterm.Term) (int, error) { return 0, wrong }}
	if err := db.IDTree().Walk(bad, couchfile.Visitor{}); !errors.Is(err, wrong) {
		t.Error(err)
	}
	n = 0
	each := func(a, b erlterm.Term) (bool, error) { return false, nil }
	err = db.IDTree().Groups(couchfile.Part{}, each, func(couchfile.Group) (bool, error) { n++; return n < 7, nil })
	if err != nil || n != 7 {
		t.Errorf("%d groups, %v", n, err)
	}
	if err := db.IDTree().Groups(bad, each, nil); !errors.Is(err, wrong) || !strings.Contains(err.Error(), "wrong") {
		t.Error(err)
	}
}

// A small part and groups of whole nodes are read without the rest of the tree.
func TestPartsReadEdges(t *testing.T) {
	file, size := load(t, filepath.Join(fixtures, "data", batches))
	read := func(use func(*couchfile.Tree) error) int64 {
		t.Helper()
		r := &countingReader{ReaderAt: file, limit: size}
		db, err := couchfile.Open(r, size)
		if err != nil {
			t.Fatal(err)
		}
		r.below = 0
		if err := use(db.IDTree()); err != nil {
			t.Fatal(err)
		}
		return r.below
	}
	all := ids(t, openFixture(t, batches), couchfile.DocsOptions{Deleted: true})
	visit := couchfile.Visitor{Visit: func(couchfile.Entry) (bool, error) { return true, nil }}
	whole := read(func(tree *couchfile.Tree) error { return tree.Walk(couchfile.Part{}, visit) })
	middle := all[len(all)/2]
	for _, reverse := range []bool{false, true} {
		one := read(func(tree *couchfile.Tree) error { return tree.Walk(partOf(middle, middle, reverse, false), visit) })
		group := read(func(tree *couchfile.Tree) error {
			return tree.Groups(couchfile.Part{Reverse: reverse}, func(_, _ erlterm.Term) (bool, error) { return true, nil },
				func(couchfile.Group) (bool, error) { return true, nil })
		})
		if one > whole/4 || group > whole/4 {
			t.Errorf("%d bytes for one key, %d for one group, %d for all", one, group, whole)
		}
	}
}
