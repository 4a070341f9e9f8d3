package couchfile_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// TestChunks finds every byte of every fixture in a chunk, a header or the padding before one.
func TestChunks(t *testing.T) {
	t.Parallel()
	for _, path := range fixtureFiles(t) {
		r, size := load(t, path)
		single := couchfile.NewChunkReader(r, size)
		at, headers, chunks := int64(0), 0, 0
		for c, err := range couchfile.Chunks(r, 0, size) {
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if c.Offset < at || c.Offset > at && (!c.IsHeader || c.Offset-at >= couchfile.BlockSize) {
				t.Fatalf("%s: chunk at %d behind %d: got %+v", path, c.Offset, at, c)
			}
			if at = c.End; c.IsHeader {
				headers++
				continue
			}
			chunks++
			if got, err := single.Payload(c.Offset); err != nil || !bytes.Equal(got, c.Payload) {
				t.Fatalf("%s: payload at %d: got %d bytes, %v; want %d", path, c.Offset, len(got), err, len(c.Payload))
			}
		}
		want := 0
		if err := couchfile.EachHeader(r, size, func(couchfile.RawHeader) error { want++; return nil }); err != nil {
			t.Fatal(err)
		}
		if at != size || headers != want || chunks == 0 && headers > 2 {
			t.Errorf("%s: got %d of %d bytes, %d of %d headers, %d chunks", path, at, size, headers, want, chunks)
		}
	}
}

// TestChunksTorn ends at a chunk whose end is missing.
func TestChunksTorn(t *testing.T) {
	t.Parallel()
	r, size := load(t, fixtureFiles(t)[0])
	var last couchfile.Chunk
	for c, err := range couchfile.Chunks(r, 0, size) {
		if err != nil {
			t.Fatal(err)
		}
		last = c
	}
	var err error
	for _, err = range couchfile.Chunks(r, 0, last.End-2) { //nolint:revive // the last error is what is asked for
	}
	if !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("without the end of the chunk at %d: got %v, want ErrCorrupt", last.Offset, err)
	}
}
