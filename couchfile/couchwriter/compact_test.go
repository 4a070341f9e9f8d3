package couchwriter_test

import (
	"bytes"
	"errors"
	"iter"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/testenv"
)

var releases = map[string]couchwriter.Release{"2.3": couchwriter.Release23, "3.5.0": couchwriter.Release30, "main": couchwriter.ReleaseMain}

// dbHeaders returns the headers of databases and of compactions in a file.
func rawHeaders(t testing.TB, file []byte) (headers []couchfile.RawHeader) {
	t.Helper()
	err := couchfile.EachHeader(bytes.NewReader(file), int64(len(file)), func(h couchfile.RawHeader) error {
		headers = append(headers, h)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return headers
}

func openSource(t testing.TB, file []byte, h couchfile.RawHeader) *couchwriter.Source {
	t.Helper()
	src, err := couchwriter.OpenSource(bytes.NewReader(file), int64(len(file)), h)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// sorting is what the headers of a compaction say of the file in which the server sorted.
func sorting(t testing.TB, file []byte) func() (erlterm.Term, error) {
	t.Helper()
	var states []erlterm.Term
	for _, h := range rawHeaders(t, file) {
		if h.Kind == couchfile.HeaderCompaction {
			parts, _ := erlterm.Elements(h.Term[1:])
			states = append(states, parts[2])
		}
	}
	return func() (erlterm.Term, error) {
		if len(states) == 0 {
			return nil, errors.New("more headers than the server's compaction has")
		}
		s := states[0]
		states = states[1:]
		return s, nil
	}
}

// firstSecurity is the object that a file begins with: the first chunk that a header points to.
func firstSecurity(t testing.TB, file []byte) erlterm.Term {
	t.Helper()
	for _, h := range rawHeaders(t, file) {
		if parsed, err := couchfile.ParseHeader(h); err == nil && parsed.SecurityPtr >= 0 {
			term, err := couchfile.NewChunkReader(bytes.NewReader(file), int64(len(file))).Term(parsed.SecurityPtr)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Clone(term)
		}
	}
	t.Fatal("no header with a security object")
	return nil
}

// sameBytes says where a predicted file differs.
func sameBytes(t testing.TB, got, want []byte) {
	t.Helper()
	n := min(len(got), len(want))
	for i := range n {
		if got[i] != want[i] {
			t.Fatalf("byte %d of %d differs (%d predicted): chunk %s", i, len(want), len(got), chunkAround(want, int64(i)))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %d bytes, want %d", len(got), len(want))
	}
}

func chunkAround(file []byte, at int64) string {
	for c, err := range couchfile.Chunks(bytes.NewReader(file), 0, int64(len(file))) {
		if err == nil && c.End > at {
			if c.IsHeader {
				return "header " + string(c.Payload)
			}
			return string(c.Payload[:min(len(c.Payload), 200)])
		}
	}
	return "unknown"
}

// TestCompaction compacts what three servers compacted, nothing written meanwhile.
func TestCompaction(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			older, want := testenv.GrownFile(t, version, "2-grown", ".couch"), testenv.GrownFile(t, version, "3-compacted", ".couch")
			headers := rawHeaders(t, older)
			newest := headers[len(headers)-1]
			src := openSource(t, older, newest)
			src.Sorting = sorting(t, want)
			out := &memory{}
			f := couchwriter.NewFile(out, out, 0, newest.Checksum)
			c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: releases[version], DefaultSecurity: firstSecurity(t, older)})
			if err := c.Pass(src, 0); err != nil {
				t.Fatal(err)
			}
			if err := c.Swap(src); err != nil {
				t.Fatal(err)
			}
			sameBytes(t, out.b, want)
		})
	}
}

// TestCompactionUnderWrites compacts what was written while the servers compacted, in as many
// passes as they needed. Documents come from the older file as far as it has them, the others
// out of the result.
func TestCompactionUnderWrites(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			older := testenv.GrownFile(t, version, "4-grown", ".couch")
			want := testenv.GrownFile(t, version, "5-compacted-under-writes", ".couch")
			passes, swap := compactionOf(t, want)
			olderHeaders := rawHeaders(t, older)
			known := docsOf(t, openSource(t, older, olderHeaders[len(olderHeaders)-1]))
			out := &memory{}
			f := couchwriter.NewFile(out, out, 0, swap.Checksum)
			c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: releases[version], DefaultSecurity: firstSecurity(t, older)})
			reused, states := 0, sorting(t, want)
			for _, h := range passes {
				src := openSource(t, want, h)
				src.Sorting = states
				src.Docs = overlay(known, src.Docs, &reused)
				if err := c.Pass(src, 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Swap(openSource(t, want, swap)); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d passes, %d bytes; %d documents of the older file", len(passes), len(out.b), reused)
			sameBytes(t, out.b, want[:min(len(out.b), len(want))])
			if end := swap.End; int64(len(out.b)) != end {
				t.Errorf("got %d bytes, want %d", len(out.b), end)
			}
		})
	}
}

// compactionOf returns the headers that ended the passes of the compaction that made a file,
// and the one of the swap.
func compactionOf(t testing.TB, file []byte) (passes []couchfile.RawHeader, swap couchfile.RawHeader) {
	t.Helper()
	headers := rawHeaders(t, file)
	for i, h := range headers[1:] {
		if h.Kind == couchfile.HeaderDB && headers[i].Kind == couchfile.HeaderCompaction {
			passes, swap = append(passes, h), headers[i+2]
		}
	}
	return passes, swap
}

// docsOf returns the documents of a source by their update_seq, as it is stored.
func docsOf(t testing.TB, src *couchwriter.Source) map[string]couchwriter.SourceDoc {
	t.Helper()
	docs := map[string]couchwriter.SourceDoc{}
	for d, err := range src.Docs(0) {
		if err != nil {
			t.Fatal(err)
		}
		docs[string(d.Key)] = d
	}
	return docs
}

// overlay takes documents from known where it has the same update, and counts them.
func overlay(known map[string]couchwriter.SourceDoc, all func(uint64) iter.Seq2[couchwriter.SourceDoc, error],
	reused *int) func(uint64) iter.Seq2[couchwriter.SourceDoc, error] {
	return func(since uint64) iter.Seq2[couchwriter.SourceDoc, error] {
		return func(yield func(couchwriter.SourceDoc, error) bool) {
			for d, err := range all(since) {
				if o, ok := known[string(d.Key)]; ok && err == nil {
					*reused++
					d = o
				}
				if !yield(d, err) {
					return
				}
			}
		}
	}
}
