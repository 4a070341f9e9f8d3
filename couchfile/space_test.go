package couchfile_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// spaceOf adds up the documents of a file.
func spaceOf(t *testing.T, db *couchfile.DB) (s couchfile.Space) {
	t.Helper()
	var r couchfile.SpaceReader
	for e, err := range db.IDTree().All(nil, false) {
		if err == nil {
			err = r.Add(&s, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// What documents take is what their bodies and attachments have when they are read, and the leaves of it are what CouchDB
// calls active.
func TestSpace(t *testing.T) {
	t.Parallel()
	var all couchfile.Space
	for _, path := range fixtureFiles(t) {
		if !strings.HasSuffix(path, ".couch") {
			continue
		}
		r, size := load(t, path)
		db, err := couchfile.Open(r, size)
		if err != nil {
			t.Fatal(err)
		}
		bodies := map[int64]uint64{} // by offset, as they are stored
		for c, err := range couchfile.Chunks(r, 0, db.Header().End) {
			if err != nil {
				t.Fatal(err)
			}
			if !c.IsHeader {
				bodies[c.Offset] = uint64(c.End - c.Offset)
			}
		}
		got, want := spaceOf(t, db), readSpace(t, db, bodies)
		if got != want {
			t.Errorf("%s: %+v, want %+v", filepath.Base(path), got, want)
		}
		info, err := db.Info()
		if err != nil {
			t.Fatal(err)
		}
		h, live := db.Header(), int64(got.Live())
		for _, tree := range []couchfile.TreeRoot{h.IDTree, h.SeqTree, h.LocalTree, h.PurgeTree, h.PurgeSeqTree} {
			live += tree.Size
		}
		if live != info.ActiveSize && info.PurgeSeq == 0 { // a purge leaves the sizes in the tree as they were
			t.Errorf("%s: %d bytes are live, CouchDB says %d: %+v", filepath.Base(path), live, info.ActiveSize, got)
		}
		all.Documents, all.Attachments, all.Conflicts = all.Documents+got.Documents, all.Attachments+got.Attachments, all.Conflicts+got.Conflicts
		all.Tombstones, all.Older = all.Tombstones+got.Tombstones, all.Older+got.Older
	}
	t.Logf("%+v", all)
	if all.Documents == 0 || all.Attachments == 0 || all.Conflicts == 0 || all.Tombstones == 0 || all.Older == 0 {
		t.Errorf("the fixtures lack a kind: %+v", all)
	}
}

// readSpace reads all revisions.
func readSpace(t *testing.T, db *couchfile.DB, bodies map[int64]uint64) (s couchfile.Space) {
	t.Helper()
	for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
		if err != nil {
			t.Fatal(err)
		}
		counted := map[string]bool{}
		take := func(v couchfile.Revision, body, atts *uint64) {
			if !v.Stored || bodies[v.Ptr] == 0 {
				return
			}
			*body += bodies[v.Ptr]
			list, err := db.Attachments(info.ID, v)
			if err != nil {
				t.Fatalf("%s %s: %v", info.ID, v, err)
			}
			for _, a := range list {
				key := fmt.Sprintf("%s %d %x %d", a.Name, a.RevPos, a.MD5, a.StoredBytes)
				if !counted[key] {
					counted[key] = true
					*atts += uint64(a.StoredBytes)
				}
			}
		}
		winner := info.Winner()
		if !winner.Deleted {
			take(winner, &s.Documents, &s.Attachments)
		}
		for _, deleted := range []bool{false, true} {
			for _, v := range info.Leaves() {
				if v.Deleted == deleted && (v.Rev != winner.Rev || deleted) {
					to := &s.Conflicts
					if deleted {
						to = &s.Tombstones
					}
					take(v, to, to)
				}
			}
		}
		for _, v := range info.Revs {
			if !v.Leaf {
				take(v, &s.Older, &s.Older)
			}
		}
	}
	return s
}
