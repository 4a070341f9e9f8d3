package replay_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

func encodeTail(f replay.File, from int64) ([]byte, *replay.TailResult, error) {
	var body bytes.Buffer
	r, err := replay.EncodeTail(&body, f, from)
	if err != nil {
		return nil, nil, err
	}
	return append(r.Prologue, body.Bytes()...), r, nil
}

func mustEncodeTail(t testing.TB, f replay.File, from int64) ([]byte, *replay.TailResult) {
	t.Helper()
	stream, r, err := encodeTail(f, from)
	if err != nil {
		t.Fatal(err)
	}
	return stream, r
}

// decodeTail continues a file, and returns all of it.
func decodeTail(stream, before []byte) ([]byte, error) {
	out := &memory{bytes.Clone(before)}
	_, err := replay.DecodeTail(bytes.NewReader(stream), out)
	return out.b, err
}

// tailTrip stores the tail of a file from an offset on, and holds what comes back against it.
func tailTrip(t testing.TB, file []byte, from int64) ([]byte, *replay.TailResult) {
	t.Helper()
	f := atNewest(t, file)
	stream, r := mustEncodeTail(t, f, from)
	got, err := decodeTail(stream, file[:from])
	if err != nil {
		t.Fatal(err)
	}
	if end := from + r.Info.Size; !bytes.Equal(got, file[:end]) {
		t.Fatal("other bytes")
	}
	if err := mergeTail(t, stream, got, from); err != nil && !errors.Is(err, replay.ErrNotMerged) {
		t.Fatal(err)
	}
	return stream, r
}

// mergeTail has MergeTail put a tail onto what is in front of it.
func mergeTail(t testing.TB, stream, file []byte, from int64) error {
	t.Helper()
	out := &memory{bytes.Clone(file[:from])}
	f, err := replay.MergeTail(bytes.NewReader(stream), atNewest(t, out.b), out)
	if err == nil {
		sameContents(t, f, atNewest(t, file))
	}
	return err
}

// firstCut is the end of the first header of a file's history that has documents.
func firstCut(t testing.TB, file []byte) int64 {
	t.Helper()
	points, err := couchfile.Points(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if p.History && p.UpdateSeq > 0 {
			return p.End
		}
	}
	t.Fatal("no history")
	return 0
}

// firstHeader is the end of a file's first header, of its history or of a compaction.
func firstHeader(t testing.TB, file []byte) (end int64) {
	t.Helper()
	err := couchfile.EachHeader(bytes.NewReader(file), int64(len(file)), func(h couchfile.RawHeader) error {
		end = h.End
		return io.EOF
	})
	if !errors.Is(err, io.EOF) {
		t.Fatalf("first header: %v", err)
	}
	return end
}

// cutBefore is the end of the header so many commits before the newest one.
func cutBefore(t testing.TB, file []byte, commits int) int64 {
	t.Helper()
	points, err := couchfile.Points(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return points[len(points)-1-commits].End
}

// newDocs are the documents of a tail alone: ids, revisions, bodies and attachments.
func newDocs(t testing.TB, file []byte, from int64) (out []byte) {
	t.Helper()
	f := atNewest(t, file)
	was, err := couchfile.FindHeader(f.R, from)
	if err != nil {
		t.Fatal(err)
	}
	h, err := couchfile.ParseHeader(was)
	if err != nil {
		t.Fatal(err)
	}
	db, err := couchfile.OpenOffset(f.R, f.Size, f.Header)
	if err != nil {
		t.Fatal(err)
	}
	for info, err := range db.Changes(h.UpdateSeq, false) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.ID...)
		for _, leaf := range info.Leaves() {
			out = append(out, leaf.Rev.ID...)
		}
	}
	for c, err := range couchfile.Chunks(f.R, from, f.Size) {
		if err != nil {
			t.Fatal(err)
		}
		term, err := couchfile.Inflate(c.Payload)
		switch rest, ok := erlterm.TupleN(term, 2); {
		case c.IsHeader || err == nil && ok && (erlterm.IsAtom(rest, "kp_node") || erlterm.IsAtom(rest, "kv_node")):
		case c.Flagged:
			body, _, _ := erlterm.Binary(rest)
			if t, err := couchfile.Inflate(body); err == nil {
				body = t
			}
			out = append(out, body...)
		default:
			out = append(out, c.Payload...)
		}
	}
	return out
}

// TestGrownTails stores what servers appended to their files after a full backup, and makes it again.
func TestGrownTails(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		for _, stage := range []string{"2-grown", "4-grown"} {
			t.Run(version+"/"+stage, func(t *testing.T) {
				t.Parallel()
				file := grown(t, version, stage)
				from := firstCut(t, file)
				stream, r := tailTrip(t, file, from)
				was, is, least := packed(t, file[from:]), packed(t, stream), packed(t, newDocs(t, file, from))
				t.Logf("%d bytes (%d packed) in %d (%d packed), documents %d; %d commits, %d changed, %d predicted, %d other nodes, %d raw",
					r.Info.Size, was, len(stream), is, least, r.Commits, r.Changed, r.Predicted, r.Others, r.Raw)
				if r.Predicted != r.Changed || r.Changed < 100 || r.Others > 0 || r.Raw > 0 {
					t.Error("not all is predicted")
				}
				if err := mergeTail(t, stream, file, from); err != nil {
					t.Error(err)
				}
				if most := least*13/10 + 20*r.Commits; is > most {
					t.Errorf("%d bytes of stream when packed, want %d at most", is, most)
				}
			})
		}
	}
}

// TestVersionTails stores all that servers wrote behind the first header of their databases, be it
// history or a compaction, and makes it again.
func TestVersionTails(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("computes for long, much as TestGrownTails does")
	}
	type count struct{ files, merged, commits, changed, predicted, size, stream int }
	counts := map[string]*count{}
	testenv.EachFixture(t, func(version, name string, file []byte) {
		if !strings.HasSuffix(name, ".couch") || len(file) > 2<<20 {
			return
		}
		first := firstHeader(t, file)
		if atNewest(t, file).Header < first {
			return
		}
		stream, r := tailTrip(t, file, first)
		if counts[version] == nil {
			counts[version] = &count{}
		}
		c := counts[version]
		c.files, c.commits, c.changed, c.predicted = c.files+1, c.commits+r.Commits, c.changed+r.Changed, c.predicted+r.Predicted
		c.size, c.stream = c.size+int(r.Info.Size), c.stream+len(stream)
		if mergeTail(t, stream, file, first) == nil {
			c.merged++
		}
	})
	for version, c := range counts {
		t.Logf("%s: %+v", version, *c)
		// 2.1 and 2.3 take some writes of a replication without a header behind each
		if c.changed < 400 || c.predicted < c.changed && version[0] != '2' || c.predicted < c.changed-2 {
			t.Errorf("%s: %d of %d commits are predicted", version, c.predicted, c.changed)
		}
		if 4*c.merged < 3*c.files {
			t.Errorf("%s: %d of %d tails are put onto another file", version, c.merged, c.files)
		}
	}
	if len(counts) != 1+len(testenv.Versions) {
		t.Errorf("tails of %d versions", len(counts))
	}
}
