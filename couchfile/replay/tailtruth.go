package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/slipcover/slipcover/couchfile"
)

// truth is the true bytes of a tail, against which all is held that its stream
// makes.
type truth struct {
	r        io.ReaderAt
	off, end int64 // what is written next, and where the tail ends
	summed   int64 // up to where the bytes are accepted
	sum      hash.Hash

	window []byte
	at     int64 // of the window
}

const truthWindow = 512 << 10

func newTruth(r io.ReaderAt, from, end int64) *truth {
	return &truth{r: r, off: from, end: end, summed: from, sum: sha256.New(), window: make([]byte, 0, truthWindow)}
}

// bytes are true bytes from off on, n of them or, at the window's or the tail's
// end, less. They are valid until the next call.
func (t *truth) bytes(off, n int64) ([]byte, error) {
	n = min(n, t.end-off, truthWindow)
	if n <= 0 {
		return nil, nil
	}
	if off < t.at || off+n > t.at+int64(len(t.window)) {
		if t.at = off; t.summed <= off && off+n <= t.summed+truthWindow {
			t.at = t.summed // what is asked for next is most often there
		}
		t.window = t.window[:min(truthWindow, t.end-t.at)]
		if k, err := t.r.ReadAt(t.window, t.at); k < len(t.window) {
			t.window = t.window[:0]
			return nil, fmt.Errorf("read the file at %d: %w", off, err)
		}
	}
	return t.window[off-t.at:][:n], nil
}

// Write holds bytes against the true ones.
func (t *truth) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		is, err := t.bytes(t.off, int64(len(p)-done))
		if err != nil {
			return done, err
		}
		if len(is) == 0 || !bytes.Equal(is, p[done:done+len(is)]) {
			return done, errWrong
		}
		t.off += int64(len(is))
		done += len(is)
	}
	return len(p), nil
}

// accept sums up what was written.
func (t *truth) accept() error {
	for t.summed < t.off {
		is, err := t.bytes(t.summed, t.off-t.summed)
		if err != nil {
			return err
		}
		t.sum.Write(is)
		t.summed += int64(len(is))
	}
	return nil
}

// chunk says whether the chunk at off has no checksum and holds payload.
func (t *truth) chunk(off int64, payload []byte) (bool, error) {
	raw, err := t.bytes(off, chunkEnd(off, uint64(len(payload)))-off)
	if err != nil || len(raw) < 4+len(payload) {
		return false, err
	}
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(payload)))
	raw, off, ok := cutSame(raw, off, head[:])
	if ok {
		_, _, ok = cutSame(raw, off, payload)
	}
	return ok, nil
}

// cutSame cuts p off the beginning of raw, which lies at off.
func cutSame(raw []byte, off int64, p []byte) (rest []byte, at int64, ok bool) {
	for len(p) > 0 {
		if off%couchfile.BlockSize == 0 {
			if len(raw) == 0 {
				return nil, 0, false
			}
			raw, off = raw[1:], off+1
		}
		n := min(len(p), int(couchfile.BlockSize-off%couchfile.BlockSize))
		if len(raw) < n || !bytes.Equal(raw[:n], p[:n]) {
			return nil, 0, false
		}
		raw, off, p = raw[n:], off+int64(n), p[n:]
	}
	return raw, off, true
}
