package couchfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// cancelingReader cancels a context when it was read a number of times.
type cancelingReader struct {
	r      io.ReaderAt
	after  int
	cancel func()
	late   int // reads after that
}

func (c *cancelingReader) ReadAt(p []byte, off int64) (int, error) {
	if c.after == 0 {
		c.late++
	}
	if c.after--; c.after == 0 {
		c.cancel()
	}
	c.after = max(c.after, 0)
	return c.r.ReadAt(p, off)
}

// What is being done with a file ends with the context of its reader, also in
// the middle of a tree whose nodes are all in memory.
func TestWithContext(t *testing.T) {
	w := padded()
	off := w.chunk(kv(record(bin("a"), integer(1), list())))
	for range 40 {
		off = w.chunk(kp(ptr(bin("a"), off, idRed), ptr(bin("a"), off, idRed)))
	}
	root := state(off, idRed, 1)
	w.put(make([]byte, 48<<20)) // worth millions of nodes
	w.header(headerOf(oneEpoch, root, root, root, root, root))
	size := int64(len(w.b))
	for name, use := range map[string]func(ctx context.Context, r io.ReaderAt) error{
		"verify": func(ctx context.Context, r io.ReaderAt) error {
			_, err := Verify(ctx, r, size, VerifyOptions{})
			return err
		},
		"points": func(ctx context.Context, r io.ReaderAt) error {
			_, err := Points(WithContext(ctx, r), size)
			return err
		},
		"iterate": func(ctx context.Context, r io.ReaderAt) (last error) {
			db, err := Open(WithContext(ctx, r), size)
			if err != nil {
				return err
			}
			for _, err := range db.LocalTree().All(nil, true) {
				last = err
			}
			return last
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r := &cancelingReader{r: bytes.NewReader(w.b), after: 2, cancel: cancel}
			if err := use(ctx, r); !errors.Is(err, context.Canceled) || errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			if r.late > 0 {
				t.Errorf("%d reads after the context was done", r.late)
			}
		})
	}
}

// The holes of a file are found where the file system tells them; there the
// header before one is found without reading it.
func TestFileData(t *testing.T) {
	var w builder
	w.header(dbHeader(8, 16, atom("nil")))
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 36
	if _, err := f.Write(w.b); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Skipf("no sparse files here: %v", err)
	}
	src := newSource(f, size, lookupShift, 1)
	if src.present() > 1<<20 {
		t.Skipf("%d bytes of a sparse file count as data here", src.present())
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != int64(len(w.b)) {
		t.Errorf("the file's offset is %d, %v, want %d", at, err, len(w.b))
	}
	h, err := findHeader(src, size)
	if err != nil || h.Offset != 0 {
		t.Errorf("got a header at %d, %v", h.Offset, err)
	}
	if err := EachHeader(f, size, func(RawHeader) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A file whose zeros a copying tool turned into holes is sound.
func TestSparseCopyIsSound(t *testing.T) {
	w := padded()
	const n = 20 << 20
	for len(w.b)%BlockSize != BlockSize-4 { // so that the payload begins a block
		w.put([]byte{0})
	}
	at := w.chunk(make([]byte, n))
	size := integer(n)
	att := tuple(bin("a"), bin("b"), list(tuple(seq64(at), size)), size, size, integer(1), bin(""), atom("identity"))
	body := w.summary(object(), stored(list(att)))
	filler := w.summary(object(tuple(bin("a"), bin(string(random[:1<<20])))), stored(list()))
	revs := list(tuple(integer(1), tuple(bin("0123456789abcdef"), tuple(integer(0), seq64(body), integer(1), tuple(integer(1), integer(1))), list())),
		tuple(integer(1), tuple(bin("0123456789abcdee"), tuple(integer(0), seq64(filler), integer(1), tuple(integer(1), integer(1))), list())))
	w.records(1, revs)
	f := &forgery{data: w.b[:at+4], tail: w.b[at+n:], size: int64(len(w.b))}
	dense, err := Verify(t.Context(), bytes.NewReader(w.b), int64(len(w.b)), VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sparse, err := Verify(t.Context(), &forgedReader{forgery: f}, f.size, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(dense.Findings) != len(sparse.Findings) || sparse.Attachments != 1 || sparse.LiveBytes != dense.LiveBytes {
		t.Errorf("got %d findings and %d attachments: %v, want %v", len(sparse.Findings), sparse.Attachments, sparse.Findings, dense.Findings)
	}
}
