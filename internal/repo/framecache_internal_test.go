package repo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// What is kept is what was read, and no more than its bound; what is read again and again stays, though other frames, and a
// walk over all of them, push its frames out.
func TestContentCache(t *testing.T) {
	t.Parallel()
	const size, segments, frames = 16 << 20, 5, 16
	content := make([][]byte, segments)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range content {
		content[i] = make([]byte, frames*frameSize-1000)
		for k := 0; k < len(content[i]); k += 64 {
			copy(content[i][k:], fmt.Sprintf("%d/%d", i, k))
		}
	}
	c := newContentCache(size)
	loads := 0
	read := func(seg uint32, at, n int64) {
		t.Helper()
		p := make([]byte, n)
		for got := int64(0); got < n; {
			if k := c.read(seg, at+got, p[got:]); k > 0 {
				got += int64(k)
				continue
			}
			i := (at + got) / frameSize
			from := i * frameSize
			b, err := c.frame(t.Context(), frameID{seg, uint32(i)}, from, at+got, n-got, func() ([]byte, error) {
				loads++
				return bytes.Clone(content[seg][from:min(from+frameSize, int64(len(content[seg])))]), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got += int64(copy(p[got:], b[at+got-from:]))
		}
		if !bytes.Equal(p, content[seg][at:at+n]) {
			t.Fatalf("%d bytes at %d of segment %d are others", n, at, seg)
		}
		if c.held > c.most+frameSize || c.inPages > c.mostPages || c.most+c.mostPages > size ||
			int64(len(c.frames))*frameSize > c.most+frameSize || int64(len(c.pages))*pageSize != c.inPages {
			t.Fatalf("%d bytes of frames, %d of pages", c.held, c.inPages)
		}
	}
	place := func() (seg uint32, at, n int64) {
		n = 1 + rnd.Int64N(3000)
		seg = uint32(rnd.IntN(segments))
		return seg, rnd.Int64N(int64(len(content[seg])) - n + 1), n
	}
	type where struct {
		seg   uint32
		at, n int64
	}
	var hot []where
	for range 300 {
		seg, at, n := place()
		hot = append(hot, where{seg, at, n})
	}
	for range 3 {
		for _, x := range hot {
			read(x.seg, x.at, x.n)
		}
	}
	for range 200 {
		read(place())
	}
	for seg := range content {
		for at := 0; at < len(content[seg]); at += 10000 {
			read(uint32(seg), int64(at), int64(min(10000, len(content[seg])-at)))
		}
	}
	was := loads
	for _, x := range hot {
		read(x.seg, x.at, x.n)
	}
	if loads-was > len(hot)/20 {
		t.Errorf("%d of %d reads opened a frame", loads-was, len(hot))
	}
	bad := errors.New("not there")
	for range 2 {
		if _, err := c.frame(t.Context(), frameID{9, 1}, 0, 0, 1, func() ([]byte, error) { return nil, bad }); !errors.Is(err, bad) {
			t.Error(err)
		}
	}
}
