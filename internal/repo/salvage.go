package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Damaged reports whether an error says that stored bytes are damaged or gone. Any
// other one, such as of storage that is away, says nothing of them.
func Damaged(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, storage.ErrNotExist)
}

// DamagedSegment is a segment that can't be read whole.
type DamagedSegment struct {
	Key storage.Key
	Err error // ErrCorrupt, or storage.ErrNotExist
}

// DamagedSegments returns the segments that the Reader met and could not read whole,
// by their keys. Files may have come out of them all the same.
func (rd *Reader) DamagedSegments() []DamagedSegment {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	var out []DamagedSegment
	for i, err := range rd.damaged {
		s := rd.m.Segments[i]
		out = append(out, DamagedSegment{rd.repo.segmentOf(rd.m.Instance, s), err})
	}
	slices.SortFunc(out, func(a, b DamagedSegment) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// damage returns why a segment can't be read whole, if that is known.
func (rd *Reader) damage(seg int) error {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.damaged[seg]
}

// Salvage calls fn, in order, with the bytes of f that can be read and where in f they
// begin, and returns how many could not be. All of them are proven by hashes, unless
// unproven is set, for a caller who holds the whole file against its own: then, where a
// segment's list of frames is damaged or cut off, what can be decompressed from its
// beginning serves too. An error is one of the storage, ctx or fn; damage is none.
func (rd *Reader) Salvage(ctx context.Context, f *manifest.File, unproven bool, fn func(off int64, b []byte) error) (lost int64, err error) {
	if f.Longer != nil {
		whole := fn
		fn = func(off int64, b []byte) error {
			if off >= f.Size {
				return nil
			}
			return whole(off, b[:min(int64(len(b)), f.Size-off)])
		}
		defer func() { lost = min(lost, f.Size) }()
	}
	off := int64(0)
	for _, e := range f.Extents {
		if e.Seg < 0 {
			n, err := rd.salvageReplay(ctx, f, e, off, fn)
			if lost += n; err != nil {
				return lost, err
			}
			off += e.N
			continue
		}
		for at, end := e.At, e.At+e.N; at < end; {
			b, from, err := rd.frame(ctx, e.Seg, at, end-at)
			if unproven && errors.Is(err, ErrCorrupt) {
				b, from, err = rd.prefix(ctx, e.Seg, at, err)
			}
			var n int64
			switch {
			case err == nil:
				b = b[at-from:]
				n = min(end-at, int64(len(b)))
				err = fn(off, b[:n])
			case Damaged(err):
				n = min(end, rd.frameEnd(ctx, e.Seg, at)) - at
				lost += n
				err = nil
			}
			if err != nil {
				return lost, err
			}
			at, off = at+n, off+n
		}
	}
	return lost, nil
}

// frameEnd returns where the frame that holds offset at ends, or the segment if its
// frames aren't known.
func (rd *Reader) frameEnd(ctx context.Context, seg int, at int64) int64 {
	s, err := rd.opened(ctx, seg)
	if err != nil {
		return rd.m.Segments[seg].Plain
	}
	i, err := s.find(at)
	if err != nil {
		return rd.m.Segments[seg].Plain
	}
	return s.frames[i].upTo
}

// prefix returns what can be decompressed from the beginning of a damaged segment if it
// holds offset at, and else the error, or the storage's.
func (rd *Reader) prefix(ctx context.Context, seg int, at int64, err error) ([]byte, int64, error) {
	prefix, perr := rd.prefixes.get(ctx, seg, func() ([]byte, error) {
		return rd.repo.readPrefix(ctx, rd.m.Instance, rd.m.Segments[seg])
	})
	if perr == nil && at < int64(len(prefix)) {
		return prefix, 0, nil
	}
	if perr != nil && !Damaged(perr) {
		return nil, 0, perr
	}
	return nil, 0, err
}

// readPrefix returns what can be read from the beginning of a segment whose object is
// damaged, cut short or too long. No hash proves it.
func (r *Repo) readPrefix(ctx context.Context, instance string, s manifest.Segment) ([]byte, error) {
	if err := checkSizes(s); err != nil {
		return nil, err
	}
	if err := enter(ctx, r.fetches); err != nil {
		return nil, err
	}
	defer leave(r.fetches)
	var b []byte
	err := r.store.Get(ctx, r.segmentOf(instance, s), 0, -1, func(rd io.Reader) (err error) {
		b, err = io.ReadAll(io.LimitReader(rd, s.Size))
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.config.Encrypted() {
		rd, err := r.decrypt(ctx, instance, b)
		if errors.Is(err, ErrWrongKey) || errors.Is(err, ErrKeyGone) { // it names a key of nobody's
			err = errors.Join(ErrCorrupt, err)
		}
		if err != nil {
			return nil, err
		}
		var opened bytes.Buffer
		_, _ = opened.ReadFrom(rd) // up to the first damaged part of it
		b = opened.Bytes()
	}
	out, err := r.decoder.DecodeAll(b, make([]byte, 0, s.Plain))
	n := min(len(out), int(s.Plain))
	switch { // up to the first damaged frame, without what came of that one
	case errors.Is(err, zstd.ErrCRCMismatch):
		n = (n - 1) / frameSize * frameSize
	case err != nil && n < int(s.Plain):
		n = n / frameSize * frameSize
	}
	return out[:n], nil
}
