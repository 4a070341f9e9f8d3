package replay_test

import (
	"bytes"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/couchfile/replay"
)

// TestSettings stores what compactions of other settings make of a fixture, which Encode has to
// find out: nodes of other sizes, batches of documents and purges, histories that are cut,
// another compression of bodies.
func TestSettings(t *testing.T) {
	t.Parallel()
	was := grown(t, "3.5.0", "2-grown")
	older := atNewest(t, was)
	known := knownBytes(t, was)
	for name, c := range map[string]struct {
		opts  couchwriter.CompactionOptions
		limit int64 // revs_limit; that of the database if 0
		taken float64
	}{
		"default":   {taken: 1},
		"small":     {opts: couchwriter.CompactionOptions{ChunkSize: 700}, taken: 1},
		"large":     {opts: couchwriter.CompactionOptions{ChunkSize: 8192}, taken: 1},
		"batches":   {opts: couchwriter.CompactionOptions{BufferSize: 700, CheckpointAfter: 10_000}, taken: 1},
		"plain":     {opts: couchwriter.CompactionOptions{Compression: couchwriter.None}, taken: 1},
		"cut":       {limit: 1, taken: 0.2},
		"unrelated": {opts: couchwriter.CompactionOptions{ChunkSize: 4096, BufferSize: 5000, Compression: couchwriter.None}, limit: 2, taken: 0.2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := compacted(t, older, c.opts, c.limit)
			stream, r := mustEncode(t, atNewest(t, is), openKnown(t, known))
			t.Logf("%d bytes of stream for %d, %d taken, %d new", len(stream), len(is), r.Taken, r.New)
			if r.Corrections > 0 || float64(r.Taken) < c.taken*float64(r.Taken+r.New) {
				t.Errorf("%d documents taken, %d new, %d corrections", r.Taken, r.New, r.Corrections)
			}
			if got, err := decode(stream, &older); err != nil || !bytes.Equal(got, is) {
				t.Errorf("other bytes: %v", err)
			}
			mustMerge(t, stream, older, is)
		})
	}
}

// compacted is what a compaction makes of a file.
func compacted(t *testing.T, f replay.File, opts couchwriter.CompactionOptions, limit int64) []byte {
	t.Helper()
	head, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		t.Fatal(err)
	}
	src, err := couchwriter.OpenSource(f.R, f.Size, head)
	if err != nil {
		t.Fatal(err)
	}
	if limit > 0 {
		parts, ok := erlterm.Elements(src.Header)
		if !ok {
			t.Fatal("no header")
		}
		parts[couchwriter.AtRevsLimit] = erlterm.PutInt(nil, limit)
		src.Header = erlterm.PutTuple(nil, len(parts))
		for _, p := range parts {
			src.Header = append(src.Header, p...)
		}
	}
	opts.Release, opts.DefaultSecurity = couchwriter.Release30, erlterm.Term{erlterm.TagNil}
	out := &memory{}
	c := couchwriter.NewCompaction(couchwriter.NewFile(out, out, 0, head.Checksum), nil, opts)
	if err := c.Pass(src, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Swap(src); err != nil {
		t.Fatal(err)
	}
	return out.b
}
