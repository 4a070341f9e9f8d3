package repo_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// Frames of a segment are read by range when little of it is wanted. The opened
// segment is kept, and must serve calls after the one that opened it has ended.
func TestStreamAfterStream(t *testing.T) {
	r, m, plain := oneSegment(t, mem.New())
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

// A range that comes with a wrong bit, as from a cache, is read again with its whole
// segment; what is wrong there too is damaged.
func TestWrongRange(t *testing.T) {
	file := &manifest.File{Size: 100, Extents: []manifest.Extent{{Seg: 0, At: 300 << 10, N: 100}}}
	for _, whole := range []bool{false, true} {
		wrong := 0
		r, m, plain := oneSegment(t, faulty.New(mem.New(), func(op faulty.Op) faulty.Action {
			if op.Kind != faulty.Get || !strings.HasPrefix(string(op.Key), "segments/") {
				return faulty.Action{}
			}
			if wrong++; wrong > 1 && !whole {
				return faulty.Action{}
			}
			return faulty.WrongBytes(0)
		}))
		var got []byte
		err := r.NewReader(m, []*manifest.File{file}).Stream(t.Context(), file, func(b []byte) error { got = append(got, b...); return nil })
		if whole && !errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("wrong each time: got %v, want ErrCorrupt", err)
		}
		if !whole && (err != nil || !bytes.Equal(got, plain[300<<10:][:100])) {
			t.Errorf("wrong once: got %q, %v", got, err)
		}
		if wrong < 2 {
			t.Errorf("%d reads", wrong)
		}
	}
}

// oneSegment makes a repository with a segment of 1 MiB, and a manifest that names it.
func oneSegment(t *testing.T, store storage.Store) (*repo.Repo, *manifest.Manifest, []byte) {
	t.Helper()
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
	return r, m, plain
}

// The memory of a segment is used again for others, but not while somebody still reads
// in it: not even if it went out of the cache long ago.
func TestContentStays(t *testing.T) {
	t.Parallel()
	const size, segments = 5 << 20, 12 // enough to be used again, and twice as many as are kept
	r, m, _ := oneSegment(t, mem.New())
	m.Segments = nil
	var files []*manifest.File
	for n := range segments {
		id, err := manifest.NewID()
		if err != nil {
			t.Fatal(err)
		}
		var s repo.Sealed
		if err := r.Seal(&s, &repo.WriteKey{}, id, n, bytes.Repeat([]byte{byte(n)}, size)); err != nil {
			t.Fatal(err)
		}
		if err := r.PutSegment(t.Context(), "db1", &s); err != nil {
			t.Fatal(err)
		}
		m.Segments = append(m.Segments, s.Segment)
		files = append(files, &manifest.File{Size: size, Extents: []manifest.Extent{{Seg: n, N: size}}})
	}
	rd := r.NewReader(m, append(files, files...))
	is := func(b []byte, n int) {
		if len(b) != size || bytes.Count(b, []byte{byte(n)}) != size {
			t.Errorf("segment %d has other bytes", n)
		}
	}
	err := rd.Stream(t.Context(), files[0], func(first []byte) error {
		for range 2 {
			for n := 1; n < segments; n++ {
				if err := rd.Stream(t.Context(), files[n], func(b []byte) error { is(b, n); return nil }); err != nil {
					return err
				}
			}
		}
		is(first, 0)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
