package replay_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/replay"
)

// BenchmarkTail is of 50 commits that change 20 documents each among 20,000 of 250 to 900 bytes
// with ids in no order: what it costs to compress the tail, to make its stream, and to make it again.
// What comes out of both when compressed is told as bytes of the tail and of its stream.
func BenchmarkTail(b *testing.B) {
	file, from := updatedFile(b, 20_000, 50)
	tail, f := file[from:], atNewest(b, file)
	stream, r := mustEncodeTail(b, f, from)
	if r.Predicted != r.Commits {
		b.Fatalf("%d of %d commits are predicted", r.Predicted, r.Commits)
	}
	b.Run("zstd", func(b *testing.B) {
		b.SetBytes(int64(len(tail)))
		for b.Loop() {
			packed(b, tail)
		}
		b.ReportMetric(float64(packed(b, tail)), "packed-bytes")
	})
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(tail)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := replay.EncodeTail(io.Discard, f, from); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(packed(b, stream)), "packed-bytes")
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(tail)))
		b.ReportAllocs()
		out := &memory{bytes.Clone(file)}
		for b.Loop() {
			out.b = out.b[:from]
			if _, err := replay.DecodeTail(bytes.NewReader(stream), out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// updatedFile has so many documents, and behind from so many commits that change 20 each.
func updatedFile(tb testing.TB, docs, commits int) (file []byte, from int64) {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(5, 5))
	words := strings.Fields("the quick brown fox jumps over lazy dog while seventeen engineers ponder about trees and invoices of a city")
	text := func() string {
		var s strings.Builder
		for n := 250 + rnd.IntN(650); s.Len() < n; {
			s.WriteString(words[rnd.IntN(len(words))] + " ")
		}
		return s.String()
	}
	m := makeTail(tb, couchwriter.DatabaseOptions{}, 0)
	all := make([]*madeDoc, docs)
	for i := range all {
		all[i] = &madeDoc{id: fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()), text: text()}
	}
	for at := 0; at < len(all); at += 1000 {
		m.edit(1000, all[at:min(at+1000, len(all))]...)
	}
	from = int64(len(m.out.b))
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := range commits {
		for _, d := range all[20*i:][:20] {
			d.text = text()
		}
		m.edit(1000, all[20*i:][:20]...)
	}
	return m.out.b, from
}

// TestTailOfUpdates holds the size of such a tail's stream against that of its documents.
func TestTailOfUpdates(t *testing.T) {
	t.Parallel()
	file, from := updatedFile(t, 5000, 20)
	stream, r := tailTrip(t, file, from)
	was, is, least := packed(t, file[from:]), packed(t, stream), packed(t, newDocs(t, file, from))
	t.Logf("%d bytes (%d packed) in %d (%d packed), documents %d", r.Info.Size, was, len(stream), is, least)
	if most := least*13/10 + 100*r.Commits; is > most || r.Predicted != r.Commits {
		t.Errorf("%d bytes of stream when packed, want %d at most; %d of %d commits predicted", is, most, r.Predicted, r.Commits)
	}
}
