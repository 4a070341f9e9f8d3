package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// smallObject is up to which stored size, in bytes, an object of a chain is read whole for its index.
	smallObject = 192 << 10
	// edgeHead and edgeTail are how much of the beginning and the end of a larger one is read at first: the
	// header of its encryption, and what the index of an hour takes as a rule.
	edgeHead = 4 << 10
	edgeTail = 128 << 10
)

// readIndex is ReadTick, but of a large object it reads no more than the index: then what is in front of that
// is not held against its hash, and the segment has no SHA256. The hash of a tick's object is what the
// next one is held against, so if lean isn't set ticks are read whole.
func (r *Repo) readIndex(ctx context.Context, instance string, o Shipped, lean bool) (*manifest.Tick, manifest.Segment, error) {
	if o.Size <= smallObject || o.Size > 2*SegmentSize || !lean && !o.RollUp() {
		return r.ReadTick(ctx, instance, o)
	}
	key := r.shipKey(instance, o.String())
	t, s, err := r.indexAt(ctx, instance, key, o)
	if err != nil {
		return nil, s, fmt.Errorf("%s: %w", key, err)
	}
	return t, s, nil
}

func (r *Repo) indexAt(ctx context.Context, instance string, key storage.Key, o Shipped) (*manifest.Tick, manifest.Segment, error) {
	s := manifest.Segment{Backup: o.Chain, Key: o.String(), Size: o.Size}
	if err := enter(ctx, r.fetches); err != nil {
		return nil, s, err
	}
	defer leave(r.fetches)
	seg, err := r.openEdges(ctx, instance, key, &s)
	if err != nil {
		return nil, s, err
	}
	foot, err := seg.readEnd(s.Plain, tickFooter)
	if err != nil {
		return nil, s, err
	}
	if string(foot[4:]) != tickMagic {
		return nil, s, fmt.Errorf("%w: it doesn't end with an index", ErrCorrupt)
	}
	n := int64(binary.LittleEndian.Uint32(foot))
	at := s.Plain - tickFooter - n
	if at < 0 || n > maxIndex {
		return nil, s, fmt.Errorf("%w: an index of %d bytes", ErrCorrupt, n)
	}
	text, err := seg.readEnd(s.Plain, n+tickFooter)
	if err != nil {
		return nil, s, err
	}
	t, err := r.decodeIndex(text[:n], instance, o)
	if err == nil && t.DataSize != at {
		err = fmt.Errorf("%w: its content is not that of its index", ErrCorrupt)
	}
	return t, s, err
}

// decodeIndex reads the two lines of an index, which must be that of an object.
func (r *Repo) decodeIndex(text []byte, instance string, o Shipped) (*manifest.Tick, error) {
	line, writer, err := r.verifySigned(text)
	if err != nil {
		return nil, err
	}
	t, err := manifest.DecodeTick(line)
	if err != nil {
		return nil, errors.Join(ErrCorrupt, err)
	}
	t.Writer = writer
	if t.Instance != instance || t.Chain != o.Chain || t.First != o.First || t.Last != o.Last {
		return nil, fmt.Errorf("%w: it is ticks %d to %d of chain %s of %s", ErrCorrupt, t.First, t.Last, t.Chain, t.Instance)
	}
	return t, checkKeys(t.Parts)
}

// openEdges opens an object of a chain, whose content no manifest tells, to be read from its end. It fills in
// what its trailer says.
func (r *Repo) openEdges(ctx context.Context, instance string, key storage.Key, s *manifest.Segment) (*seekSegment, error) {
	e := &edges{src: &objectReader{ctx: ctx, store: r.store, key: key}, size: s.Size, tailAt: s.Size}
	if err := e.fill(); err != nil {
		return nil, ofStorage(err)
	}
	var src io.ReaderAt = e
	size := s.Size
	if r.config.Encrypted() {
		err := r.withIdentities(ctx, instance, func(ids ...age.Identity) (err error) {
			src, size, err = age.DecryptReaderAt(e, s.Size, ids...)
			return err
		})
		if err != nil {
			return nil, ofStorage(err)
		}
	}
	var err error
	if s.Plain, s.TrailerSHA256, err = contentSize(src, size); err != nil {
		return nil, err
	}
	frames, err := readFrames(src, size, s.Plain, s.TrailerSHA256)
	if err != nil {
		return nil, err
	}
	return &seekSegment{repo: r, src: src, frames: frames}, nil
}

// ofStorage returns the storage's error that came through a decryption, or else err.
func ofStorage(err error) error {
	if of := (*storageError)(nil); errors.As(err, &of) {
		return of.err // no word on the bytes
	}
	return err
}

// readEnd reads the last n bytes of plain ones.
func (s *seekSegment) readEnd(plain, n int64) ([]byte, error) {
	if n > plain {
		return nil, fmt.Errorf("%w: %d bytes of content", ErrCorrupt, plain)
	}
	i, err := s.find(plain - n)
	if err != nil {
		return nil, err
	}
	var out []byte
	from := s.frames[i].from
	for ; i < len(s.frames); i++ {
		b, err := s.read(i)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out[plain-n-from:], nil
}

// edges reads an object by range, its beginning and a good part of its end at once, and ever more of that
// when what is before is asked for: who reads it from its end makes few requests.
type edges struct {
	src    io.ReaderAt
	size   int64
	head   []byte
	tail   []byte
	tailAt int64
}

func (e *edges) fill() error {
	if err := e.grow(e.size - edgeTail); err != nil {
		return err
	}
	e.head = make([]byte, min(edgeHead, e.size))
	return e.read(e.head, 0)
}

// read fills b. An error of the storage stays a storageError on its way through a decryption.
func (e *edges) read(b []byte, at int64) error {
	n, err := e.src.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %d bytes at %d, not %d", ErrCorrupt, n, at, len(b))
	}
	return err
}

// grow reads down to an offset at least.
func (e *edges) grow(at int64) error {
	at = max(0, min(at, e.tailAt-int64(len(e.tail))))
	more := make([]byte, e.tailAt-at)
	if err := e.read(more, at); err != nil {
		return err
	}
	e.tail, e.tailAt = append(more, e.tail...), at
	return nil
}

func (e *edges) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off+int64(len(p)) <= int64(len(e.head)):
		return copy(p, e.head[off:]), nil
	case off >= e.size:
		return 0, io.EOF
	case off < e.tailAt:
		if err := e.grow(off); err != nil {
			return 0, err
		}
	}
	return bytes.NewReader(e.tail).ReadAt(p, off-e.tailAt)
}
