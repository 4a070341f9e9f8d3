package replay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestMerge has Merge make databases that are, document by document, those in the files
// that Decode makes.
func TestMerge(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		for _, stages := range compactions {
			was, is := grown(t, version, stages[0]), grown(t, version, stages[1])
			older := atNewest(t, was)
			for what, known := range map[string]*replay.Known{"taken": openKnown(t, knownBytes(t, was)), "new": nil} {
				stream, r := mustEncode(t, atNewest(t, is), known)
				grew := mustMerge(t, stream, older, is)
				t.Logf("%s %s, %s: %d bytes more, %d documents taken, %d new", version, stages[1], what, grew, r.Taken, r.New)
				if known != nil && r.New < r.Taken/4 && grew > older.Size/2 {
					t.Errorf("%s %s: %d bytes more than %d", version, stages[1], grew, older.Size)
				}
			}
		}
	}
}

// TestMergeChain goes from a file over its compaction and what was appended then to the next
// compaction: what is made in other bytes is the same database, and the last file is made
// of it, byte for byte.
func TestMergeChain(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		var files [][]byte
		for _, stage := range []string{"2-grown", "3-compacted", "4-grown", "5-compacted-under-writes"} {
			files = append(files, grown(t, version, stage))
		}
		first, _ := mustEncode(t, atNewest(t, files[1]), openKnown(t, knownBytes(t, files[0])))
		info, err := replay.ReadInfo(bytes.NewReader(first))
		if err != nil {
			t.Fatal(err)
		}
		tail, _ := mustEncodeTail(t, atNewest(t, files[2]), info.Size)
		last, _ := mustEncode(t, atNewest(t, files[3]), openKnown(t, knownBytes(t, files[2])))
		out := &memory{b: bytes.Clone(files[0])}
		f, err := replay.Merge(bytes.NewReader(first), atNewest(t, files[0]), out)
		if err != nil {
			t.Fatal(err)
		}
		if f, err = replay.MergeTail(bytes.NewReader(tail), f, out); err != nil {
			t.Fatal(err)
		}
		sameContents(t, f, atNewest(t, files[2]))
		got, err := decode(last, &f)
		if want := files[3]; err != nil || !bytes.Equal(got, want[:min(len(got), len(want))]) {
			t.Errorf("%s: %d bytes, or others: %v", version, len(got), err)
		}
	}
}

// TestMergeOfPlaces merges tails of a server that delays commits, of which some records say where a
// body is: the file is another one, so they aren't merged.
func TestMergeOfPlaces(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	first, _ := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	info, err := replay.ReadInfo(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	for _, twice := range []bool{false, true} {
		m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
		d := &madeDoc{id: "edited", text: "once"}
		m.edit(50, d)
		if twice {
			m.editTwice(d)
		}
		tail, _ := mustEncodeTail(t, atNewest(t, m.out.b), info.Size)
		out := &memory{b: bytes.Clone(was)}
		f, err := replay.Merge(bytes.NewReader(first), atNewest(t, was), out)
		if err != nil {
			t.Fatal(err)
		}
		if f, err = replay.MergeTail(bytes.NewReader(tail), f, out); twice != errors.Is(err, replay.ErrNotMerged) {
			t.Errorf("edited twice in a commit: %v: %v", twice, err)
		}
		if err == nil {
			sameContents(t, f, atNewest(t, m.out.b))
		}
	}
}

// TestMergeLate merges a compaction that had begun when the older file was written: its first pass
// has a document as it was before, the second one takes the older file's.
func TestMergeLate(t *testing.T) {
	t.Parallel()
	m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
	d := &madeDoc{id: "edited", text: "first"}
	other := &madeDoc{id: "other", text: "other"}
	m.edit(50, d, other)
	began := bytes.Clone(m.out.b)
	d.text = "second"
	m.edit(50, d)
	older := bytes.Clone(m.out.b)
	for _, more := range []bool{false, true} {
		if more {
			other.text = "third"
			m.edit(50, d, other)
		}
		is := compactedInPasses(t, began, m.out.b)
		stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, older)))
		mustMerge(t, stream, atNewest(t, older), is)
		if r.Taken == 0 {
			t.Error("nothing was taken from the older file")
		}
	}
}

// compactedInPasses is the file that a compaction makes of a database which grew while it ran.
func compactedInPasses(t testing.TB, files ...[]byte) []byte {
	t.Helper()
	out := &memory{}
	f := couchwriter.NewFile(out, out, 0, couchfile.XXH3)
	c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: couchwriter.Release30, DefaultSecurity: erlterm.Term{erlterm.TagNil}})
	var src *couchwriter.Source
	for _, b := range files {
		at := atNewest(t, b)
		h, err := couchfile.ReadHeader(at.R, at.Size, at.Header)
		if err != nil {
			t.Fatal(err)
		}
		if src, err = couchwriter.OpenSource(at.R, at.Size, h); err != nil {
			t.Fatal(err)
		}
		if err := c.Pass(src, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Swap(src); err != nil {
		t.Fatal(err)
	}
	return out.b
}

// mustMerge holds what Merge makes against what the stream was made of. It returns how much
// larger the older file became.
func mustMerge(t testing.TB, stream []byte, older replay.File, is []byte) int64 {
	t.Helper()
	info, err := replay.ReadInfo(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	was := make([]byte, older.Size)
	if _, err := older.R.ReadAt(was, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if info.OlderDocs == 0 {
		was, older = nil, replay.File{}
	}
	out := &memory{b: was}
	got, err := replay.Merge(bytes.NewReader(stream), older, out)
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != int64(len(out.b)) {
		t.Errorf("%d bytes, and the header ends at %d", len(out.b), got.Size)
	}
	sameContents(t, got, atNewest(t, is[:info.Size]))
	return got.Size - older.Size
}

// sameContents compares two databases: all but where things are.
func sameContents(t testing.TB, got, want replay.File) {
	t.Helper()
	a, b := contents(t, got), contents(t, want)
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("%d and %d things, the first that differ:\n%s\n%s", len(a), len(b), at(a, i), at(b, i))
		}
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "none"
}

// contents is all that a database holds, in words and hashes.
func contents(t testing.TB, f replay.File) (out []string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	head, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	must(err)
	db, err := couchfile.OpenOffset(f.R, f.Size, f.Header)
	must(err)
	src, err := couchwriter.OpenSource(f.R, f.Size, head)
	if errors.Is(err, couchwriter.ErrUnpredicted) { // of 2.2 and before, which have no purge trees
		return []string{"old"}
	}
	must(err)
	parts, _ := erlterm.Elements(head.Term[1:])
	for at, p := range parts {
		switch {
		case at >= couchwriter.AtIDTree && at <= couchwriter.AtSecurity, at == couchwriter.AtTimeSeq, at == couchwriter.AtProps: // pointers
		default:
			out = append(out, fmt.Sprintf("header %d: %x", at, p))
		}
	}
	out = append(out, fmt.Sprintf("objects %x %x %x", src.Security, src.Props, src.TimeSeq))
	bySeq := map[string]string{}
	for d, err := range src.Docs(0) {
		must(err)
		r, err := couchwriter.ParseRecord(d.Entry)
		must(err)
		bySeq[string(r.ID)] = string(d.Key)
		sum := sha256.New()
		for _, leaf := range r.Leaves {
			p, err := d.Chunks.Payload(leaf.Offset)
			must(err)
			hashSummary(t, sum, bytes.Clone(p), d.Chunks)
		}
		out = append(out, fmt.Sprintf("document %x %x %x", d.Key, r.AppendPlain(nil), sum.Sum(nil)))
	}
	for e, err := range db.IDTree().All(nil, false) {
		must(err)
		value, _ := erlterm.Elements(e.Value)
		if bySeq[string(e.Key)] != string(value[0]) {
			out = append(out, fmt.Sprintf("id %x is at %x", e.Key, value[0]))
		}
		delete(bySeq, string(e.Key))
	}
	for id := range bySeq {
		out = append(out, fmt.Sprintf("no id %x", id))
	}
	for _, tree := range []*couchfile.Tree{db.LocalTree(), db.PurgeTree(), db.PurgeSeqTree()} {
		for e, err := range tree.All(nil, false) {
			must(err)
			out = append(out, fmt.Sprintf("entry %x %x", e.Key, e.Value))
		}
	}
	return out
}

// hashSummary sums up a body and its attachments.
func hashSummary(t testing.TB, sum io.Writer, p []byte, chunks couchwriter.Chunks) {
	t.Helper()
	body, list, err := couchwriter.SplitSummary(p)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := couchfile.Inflate(body)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = sum.Write(plain)
	items, _ := erlterm.Elements(list)
	for _, item := range items {
		fields, _ := erlterm.Elements(item)
		pointers, _ := erlterm.Elements(fields[2])
		for i, f := range fields {
			if i != 2 {
				_, _ = sum.Write(f)
			}
		}
		for _, p := range pointers {
			pair, _ := erlterm.Elements(p)
			off, _, _ := erlterm.Uint(pair[0])
			b, err := chunks.Payload(int64(off))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = sum.Write(b)
		}
	}
}
