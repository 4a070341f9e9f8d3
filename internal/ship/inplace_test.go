package ship_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
)

// holdDocuments holds what is read in place of a moment against files, document by document. It returns how many of the
// databases were read in other bytes than the file's.
func (e *env) holdDocuments(what string, at time.Time, files map[string][]byte) (merged int) {
	e.t.Helper()
	r := e.repo()
	m, _, err := r.At(e.t.Context(), "node1", at)
	if err != nil {
		e.t.Fatalf("%s: %v", what, err)
	}
	rd := r.NewReader(m, nil)
	defer rd.Close()
	for _, f := range m.Files {
		if f.Root != manifest.DataRoot || f.Kind == manifest.View || f.Header == nil {
			continue
		}
		d, err := rd.Database(e.t.Context(), f)
		if err != nil {
			e.t.Errorf("%s: %s: %v", what, f.Path, err)
			continue
		}
		got, err := couchfile.OpenOffset(d, d.Size, d.Header)
		must(e.t, err)
		want, err := couchfile.Open(bytes.NewReader(files[f.Path]), int64(len(files[f.Path])))
		must(e.t, err)
		a, b := told(e.t, got), told(e.t, want)
		for i := range max(len(a), len(b)) {
			if i >= len(a) || i >= len(b) || a[i] != b[i] {
				e.t.Errorf("%s: %s: thing %d of %d and %d is another one", what, f.Path, i, len(a), len(b))
				break
			}
		}
		if d.Merged() {
			merged++
		}
		d.Close()
	}
	return merged
}

// told is all that a database tells of documents: each revision, and each body that is there.
func told(t testing.TB, db *couchfile.DB) (out []string) {
	t.Helper()
	for info, err := range db.Changes(0, false) {
		must(t, err)
		byID, err := db.DocInfo(info.ID)
		must(t, err)
		if byID.UpdateSeq != info.UpdateSeq {
			t.Errorf("%s is at %d by id, and at %d by sequence", info.ID, byID.UpdateSeq, info.UpdateSeq)
		}
		for _, rev := range info.Revs {
			line := fmt.Sprintf("%d %s %s %d %t %t %t", info.UpdateSeq, info.ID, rev.Rev, rev.Seq, rev.Deleted, rev.Stored, rev.Leaf)
			if rev.Stored {
				b, err := db.RevisionJSON(info, rev, couchfile.DocOptions{Attachments: true})
				must(t, err)
				line += string(b)
			}
			out = append(out, line)
		}
	}
	for d, err := range db.LocalDocs("") {
		must(t, err)
		b, err := d.JSON()
		must(t, err)
		out = append(out, string(b))
	}
	for p, err := range db.Purges(0) {
		must(t, err)
		out = append(out, fmt.Sprint(p))
	}
	security, err := db.Security()
	must(t, err)
	info, err := db.Info()
	must(t, err)
	return append(out, string(security), fmt.Sprint(info.UpdateSeq, info.PurgeSeq, info.DocCount, info.DeletedCount, info.UUID))
}
