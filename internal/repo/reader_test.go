package repo_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// Frames of a segment are read by range when little of it is wanted. The opened
// segment is kept, and must serve calls after the one that opened it has ended.
func TestStreamAfterStream(t *testing.T) {
	store := mem.New()
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var s repo.Sealed
	if err := r.Seal(&s, &repo.WriteKey{}, id, 0, plain); err != nil {
		t.Fatal(err)
	}
	if err := r.PutSegment(t.Context(), "db1", &s); err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Segments: []manifest.Segment{s.Segment}}
	m.Instance = "db1"
	var files []*manifest.File
	for _, at := range []int64{0, 300 << 10} {
		files = append(files, &manifest.File{Size: 100, Extents: []manifest.Extent{{Seg: 0, At: at, N: 100}}})
	}
	rd := r.NewReader(m, files)
	for i, f := range files {
		ctx, cancel := context.WithCancel(t.Context())
		var got []byte
		err := rd.Stream(ctx, f, func(b []byte) error { got = append(got, b...); return nil })
		cancel()
		if err != nil || !bytes.Equal(got, plain[f.Extents[0].At:][:100]) {
			t.Fatalf("file %d: %q, %v", i, got, err)
		}
	}
}
