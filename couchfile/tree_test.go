package couchfile_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

func openFixture(t testing.TB, path string) *couchfile.DB {
	t.Helper()
	db, err := couchfile.Open(load(t, filepath.Join(fixtures, "data", path)))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

const batches = "shards/00000000-7fffffff/batches.1795334390.couch"

func ids(t testing.TB, db *couchfile.DB, opts couchfile.DocsOptions) []string {
	t.Helper()
	var out []string
	for info, err := range db.Docs(opts) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.ID)
	}
	return out
}

// Both directions, from every key, from between keys and from beyond the ends.
func TestDocsFromKey(t *testing.T) {
	db := openFixture(t, batches)
	all := ids(t, db, couchfile.DocsOptions{Deleted: true})
	if len(all) < 1000 || !slices.IsSorted(all) {
		t.Fatalf("got %d ids, sorted %v", len(all), slices.IsSorted(all))
	}
	starts := []string{"\x00", "~~~"}
	for i := 0; i < len(all); i += 97 {
		starts = append(starts, all[i], all[i]+"\x00")
	}
	for _, start := range starts {
		at, found := slices.BinarySearch(all, start)
		got := ids(t, db, couchfile.DocsOptions{Start: start, Deleted: true})
		if !slices.Equal(got, all[at:]) {
			t.Errorf("from %q: got %d ids, want %d", start, len(got), len(all)-at)
		}
		if found {
			at++
		}
		want := slices.Clone(all[:at])
		slices.Reverse(want)
		got = ids(t, db, couchfile.DocsOptions{Start: start, Deleted: true, Descending: true})
		if !slices.Equal(got, want) {
			t.Errorf("down from %q: got %d ids, want %d", start, len(got), len(want))
		}
		c, err := db.CountBefore(start)
		if n, _ := slices.BinarySearch(all, start); err != nil || c.Docs+c.Deleted != uint64(n) {
			t.Errorf("before %q: got %+v, %v, want %d", start, c, err, n)
		}
	}
}

func TestChangesSince(t *testing.T) {
	db := openFixture(t, batches)
	var all []uint64
	for info, err := range db.Changes(0, false) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.UpdateSeq)
	}
	for _, since := range []uint64{0, 1, 77, all[len(all)/2], all[len(all)-1] - 1, all[len(all)-1], 1 << 40, ^uint64(0)} {
		at, found := slices.BinarySearch(all, since)
		if found {
			at++
		}
		for _, down := range []bool{false, true} {
			var got []uint64
			for info, err := range db.Changes(since, down) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, info.UpdateSeq)
			}
			if down {
				slices.Reverse(got)
			}
			if !slices.Equal(got, all[at:]) {
				t.Errorf("since %d, down %v: got %d changes, want %d", since, down, len(got), len(all)-at)
			}
		}
		if n, err := db.CountChanges(since); err != nil || n != uint64(len(all)-at) {
			t.Errorf("since %d: counted %d, %v, want %d", since, n, err, len(all)-at)
		}
	}
}

// Every bit of the header rule for files that a compaction wrote.
func TestPointsAfterCompaction(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(fixtures, "data/shards/*/compacted.*.couch"))
	if err != nil || len(paths) != 2 {
		t.Fatalf("got %v, %v", paths, err)
	}
	for _, path := range paths {
		r, size := load(t, path)
		points, err := couchfile.Points(r, size)
		if err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(points, func(p couchfile.Point) bool { return p.History })
		if first != 3 {
			t.Fatalf("%s: history begins at %d of %d, want 3", path, first, len(points))
		}
		if p := points[first]; p.CompactedSeq == 0 || p.CompactedSeq != p.UpdateSeq {
			t.Errorf("%s: first point of history has update_seq %d, compacted_seq %d", path, p.UpdateSeq, p.CompactedSeq)
		}
		if p := points[first-1]; p.CompactedSeq == p.UpdateSeq {
			t.Errorf("%s: the point before history has compacted_seq %d already", path, p.CompactedSeq)
		}
		for i, p := range points {
			if p.History != (i >= first) {
				t.Errorf("%s: point %d: history is %v", path, i, p.History)
			}
		}
	}
	r, size := load(t, filepath.Join(fixtures, "data", batches))
	points, err := couchfile.Points(r, size)
	if err != nil || len(points) != 32 || !points[0].History {
		t.Errorf("batches: got %d points, %v, want 32", len(points), err)
	}
}

// Revisions inside the history are readable until a compaction.
func TestInteriorRevisions(t *testing.T) {
	stored, missing := 0, 0
	for _, path := range fixtureFiles(t) {
		if !strings.HasSuffix(path, ".couch") {
			continue
		}
		db, err := couchfile.Open(load(t, path))
		if err != nil {
			t.Fatal(err)
		}
		for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
			if err != nil {
				t.Fatal(err)
			}
			for _, rev := range info.Revs {
				if rev.Leaf {
					continue
				}
				b, err := db.Doc(info.ID, couchfile.DocOptions{Rev: rev.String()})
				switch {
				case rev.Stored:
					stored++
					if want := `"_rev":"` + rev.String() + `"`; err != nil || !strings.Contains(string(b), want) {
						t.Errorf("%s %s: got %s, %v", info.ID, rev, b, err)
					}
				default:
					missing++
					if !errors.Is(err, couchfile.ErrMissing) {
						t.Errorf("%s %s: got %v, want ErrMissing", info.ID, rev, err)
					}
				}
			}
		}
	}
	if stored < 50 || missing < 50 {
		t.Errorf("got %d interior revisions with a body and %d without", stored, missing)
	}
}

func TestDeletedDoc(t *testing.T) {
	db := openFixture(t, "shards/00000000-7fffffff/deletions.1795334388.couch")
	for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
		if err != nil {
			t.Fatal(err)
		}
		_, err := db.Doc(info.ID, couchfile.DocOptions{})
		if info.Deleted != errors.Is(err, couchfile.ErrDeleted) {
			t.Errorf("%s: deleted is %v, got %v", info.ID, info.Deleted, err)
		}
	}
	if _, err := db.Doc("d000", couchfile.DocOptions{Rev: "9-x"}); !errors.Is(err, couchfile.ErrNotFound) {
		t.Errorf("unknown revision: got %v, want ErrNotFound", err)
	}
}

func TestPurges(t *testing.T) {
	total := 0
	paths, err := filepath.Glob(filepath.Join(fixtures, "data/shards/*/purged.*.couch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		db, err := couchfile.Open(load(t, path))
		if err != nil {
			t.Fatal(err)
		}
		info, err := db.Info()
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for p, err := range db.Purges(0) {
			if n++; err != nil || p.Seq != n || len(p.UUID) != 32 && len(p.UUID) != 36 || p.DocID == "" || len(p.Revs) == 0 {
				t.Errorf("%s: purge %d: got %+v, %v", path, n, p, err)
			}
		}
		if n != info.PurgeSeq {
			t.Errorf("%s: got %d purges, want %d", path, n, info.PurgeSeq)
		}
		total += int(n)
	}
	if total == 0 {
		t.Error("no purges among the fixtures")
	}
}

func TestChecksumKinds(t *testing.T) {
	for db, want := range map[string][]couchfile.ChecksumKind{
		"checksum_md5":   {couchfile.MD5},
		"checksum_mixed": {couchfile.XXH3, couchfile.MD5},
		"batches":        {couchfile.XXH3},
	} {
		seen := map[couchfile.ChecksumKind]bool{}
		paths, err := filepath.Glob(filepath.Join(fixtures, "data/shards/*", db+".*.couch"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			r, size := load(t, path)
			err := couchfile.EachHeader(r, size, func(h couchfile.RawHeader) error {
				seen[h.Checksum] = true
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, kind := range want {
			if !seen[kind] {
				t.Errorf("%s: no header with %v", db, kind)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%s: got %v, want %v", db, seen, want)
		}
	}
}

func TestRevString(t *testing.T) {
	for _, s := range []string{"1-967a00dff5e02add41819138abb3284d", "3-abc", "12-", "7-ZZ7a00dff5e02add41819138abb3284d"} {
		rev, err := couchfile.ParseRev(s)
		if err != nil || rev.String() != s {
			t.Errorf("ParseRev(%q): got %q, %v", s, rev, err)
		}
	}
	for _, s := range []string{"", "x-1", "12", "-1"} {
		if rev, err := couchfile.ParseRev(s); err == nil {
			t.Errorf("ParseRev(%q): got %q", s, rev)
		}
	}
}
