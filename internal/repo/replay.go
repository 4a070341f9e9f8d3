package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// rebuilding is how many files at most are made out of replays at a time: each needs
// what the simulator of CouchDB's writer holds, and scratch files.
const rebuilding = 2

// both hands the bytes of a file on and gives them back.
type both struct {
	io.ReaderAt
	write func([]byte) error
}

func (b both) Write(p []byte) (int, error) {
	if err := b.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// content calls fn with the bytes of extents, some of which replays make, in order. back
// gives back what fn was given; nil if there are no replays. The caller has a place in
// rd.rebuilds if there are, which what they rest on shares.
func (rd *Reader) content(ctx context.Context, extents []manifest.Extent, replays []*manifest.Replay, back io.ReaderAt, fn func([]byte) error) error {
	for len(extents) > 0 {
		if e := extents[0]; e.Seg < 0 {
			if err := rd.replayed(ctx, replays[-1-e.Seg], both{back, behindOf(e.At, fn)}); err != nil {
				return err
			}
			extents = extents[1:]
			continue
		}
		n := slices.IndexFunc(extents, func(e manifest.Extent) bool { return e.Seg < 0 })
		if n < 0 {
			n = len(extents)
		}
		if err := rd.stored(ctx, extents[:n], fn); err != nil {
			return err
		}
		extents = extents[n:]
	}
	return nil
}

// behindOf is fn without the first n bytes that it would be given: the file has them already.
func behindOf(n int64, fn func([]byte) error) func([]byte) error {
	if n == 0 {
		return fn
	}
	return func(b []byte) error {
		skip := min(n, int64(len(b)))
		if n -= skip; skip == int64(len(b)) {
			return nil
		}
		return fn(b[skip:])
	}
}

// kept calls do with what keeps the bytes that are given to fn, if the caller of a
// Reader doesn't, in a scratch file.
func (rd *Reader) kept(fn func([]byte) error, do func(back io.ReaderAt, fn func([]byte) error) error) error {
	s, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return err
	}
	defer s.Discard()
	return do(s, func(b []byte) error {
		if _, err := s.Write(b); err != nil {
			return err
		}
		return fn(b)
	})
}

// madeBytes takes no more bytes than the manifest says that a replay makes: the stream, which
// says it too, may be anyone's.
type madeBytes struct {
	replay.Output
	size, left int64
}

func (b *madeBytes) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("%w: a replay makes more than the %d bytes that the manifest says", ErrCorrupt, b.size)
	}
	return b.Output.Write(p)
}

// replayed writes the bytes that a replay makes to out, which has those of the file
// before them. What failed by damage isn't made again: it would fail again, and late.
func (rd *Reader) replayed(ctx context.Context, r *manifest.Replay, out replay.Output) error {
	if err := rd.failure(r); err != nil {
		return err
	}
	err := rd.makeReplay(ctx, r, out)
	if Damaged(err) {
		rd.mu.Lock()
		rd.failed[r] = err
		rd.mu.Unlock()
	}
	return err
}

// failure returns why a replay can't be made, if that is known.
func (rd *Reader) failure(r *manifest.Replay) error {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.failed[r]
}

func (rd *Reader) makeReplay(ctx context.Context, r *manifest.Replay, out replay.Output) (err error) {
	made := &madeBytes{out, r.Size, r.Size}
	switch r.Kind {
	case manifest.CopyReplay:
		err = rd.copied(ctx, r, made)
	case manifest.TailReplay:
		err = rd.decode(ctx, r, func(in io.Reader) error {
			_, err := replay.DecodeTail(in, made)
			return err
		})
	default:
		err = rd.compacted(ctx, r, made)
	}
	if err == nil && made.left != 0 {
		err = fmt.Errorf("%w: a replay makes %d bytes, and the manifest says %d", ErrCorrupt, made.size-made.left, made.size)
	}
	return err
}

// compacted is replayed for what a compaction wrote.
func (rd *Reader) compacted(ctx context.Context, r *manifest.Replay, out replay.Output) error {
	if done, err := rd.compactedOfMerged(ctx, r, out); done || err != nil {
		return err
	}
	file, discard, err := rd.older(ctx, r.Older)
	if err != nil {
		return err
	}
	defer discard()
	return rd.compactedOf(ctx, r, file, out)
}

// compactedOf is compacted with the older file, which may be nil.
func (rd *Reader) compactedOf(ctx context.Context, r *manifest.Replay, file *replay.File, out replay.Output) error {
	if r.Kind == manifest.ViewReplay {
		return rd.index(ctx, r, file, out)
	}
	var older replay.Older
	if file != nil {
		f, err := replay.OpenOlder(*file)
		if err != nil {
			return asStored(err)
		}
		defer f.Close()
		older = f
	}
	sorting, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return err
	}
	defer sorting.Discard()
	return rd.decode(ctx, r, func(in io.Reader) error {
		_, err := replay.Decode(in, older, out, sorting)
		return err
	})
}

// index is compacted for a view index.
func (rd *Reader) index(ctx context.Context, r *manifest.Replay, file *replay.File, out replay.Output) error {
	var older *replay.OlderView
	if file != nil {
		var err error
		if older, err = replay.OpenOlderView(*file); err != nil {
			return asStored(err)
		}
		defer older.Close()
	}
	return rd.decode(ctx, r, func(in io.Reader) error {
		_, err := replay.DecodeView(in, older, out)
		return err
	})
}

// decode calls fn with the stream of a replay.
func (rd *Reader) decode(ctx context.Context, r *manifest.Replay, fn func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	in, to := io.Pipe()
	var reading sync.WaitGroup
	reading.Go(func() {
		to.CloseWithError(rd.stored(ctx, r.Stream, func(b []byte) error {
			_, err := to.Write(b)
			return err
		}))
	})
	defer func() { // the reader of the stream ends first
		cancel()
		_ = in.Close()
		reading.Wait()
	}()
	return asStored(fn(in))
}

// asStored says of damage in what a replay is made of that stored bytes are damaged.
func asStored(err error) error {
	switch {
	case err == nil, Damaged(err):
		return err
	case errors.Is(err, replay.ErrVersion):
		return fmt.Errorf("%w: %w: a later version of Slipcover reads it", ErrFormat, err)
	case errors.Is(err, couchfile.ErrCorrupt), errors.Is(err, couchfile.ErrNoHeader), errors.Is(err, couchfile.ErrNotDatabase):
		return fmt.Errorf("%w: what a replay is made of: %w", ErrCorrupt, err)
	}
	return err
}

// older makes the file that a replay rests on, in a scratch file that discard removes.
func (rd *Reader) older(ctx context.Context, o *manifest.Older) (file *replay.File, discard func(), err error) {
	if o == nil {
		return nil, func() {}, nil
	}
	s, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return nil, nil, err
	}
	put := func(b []byte) error {
		_, err := s.Write(b)
		return err
	}
	if err = rd.content(ctx, o.Extents, o.Replays, s, put); err != nil {
		s.Discard()
		return nil, nil, err
	}
	return &replay.File{R: s, Size: o.Size, Header: o.Header}, s.Discard, nil
}

// built returns the bytes that a replay makes, which begin at from in the file that
// before reads up to there, in a scratch file that Close removes.
func (rd *Reader) built(ctx context.Context, r *manifest.Replay, from int64, before io.ReaderAt) (io.ReaderAt, error) {
	return rd.rebuilt.get(ctx, r, func() (*durable.Scratch, error) {
		if r.Kind != manifest.TailReplay { // a tail may need one first
			if err := enter(ctx, rd.rebuilds); err != nil {
				return nil, err
			}
			defer leave(rd.rebuilds)
		}
		if err := rd.failure(r); err != nil {
			return nil, err
		}
		s, err := durable.NewScratch(rd.Scratch)
		if err != nil {
			return nil, err
		}
		err = rd.replayed(ctx, r, both{&joined{before, s, from}, func(b []byte) error {
			_, err := s.Write(b)
			return err
		}})
		if err != nil {
			s.Discard()
			return nil, err
		}
		return s, nil
	})
}

// joined reads before up to from, and behind after.
type joined struct {
	before, after io.ReaderAt
	from          int64
}

func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	if off >= j.from {
		return j.after.ReadAt(p, off-j.from)
	}
	head := p[:min(int64(len(p)), j.from-off)]
	n, err := j.before.ReadAt(head, off)
	if n < len(head) || n == len(p) {
		return n, err
	}
	k, err := j.after.ReadAt(p[n:], 0)
	return n + k, err
}

// Close removes the scratch files that ReaderAt and Salvage made. It comes when no reader
// is in use any more.
func (rd *Reader) Close() {
	rd.rebuilt.mu.Lock()
	defer rd.rebuilt.mu.Unlock()
	for r := range rd.rebuilt.items {
		rd.rebuilt.forget(r)
	}
}

// salvageReplay is Salvage for the bytes of a replay, which begin at off in the file:
// they are there, or all are lost, but for a copy.
func (rd *Reader) salvageReplay(ctx context.Context, f *manifest.File, e manifest.Extent, off int64, fn func(off int64, b []byte) error) (lost int64, err error) {
	r := f.Replays[-1-e.Seg]
	if r.Kind == manifest.CopyReplay {
		return rd.salvageCopy(ctx, r, off, fn)
	}
	off -= e.At // where the replay begins
	b, err := rd.built(ctx, r, off, rd.ReaderAt(ctx, f))
	if Damaged(err) {
		return e.N, nil
	}
	if err != nil {
		return 0, err
	}
	buf := make([]byte, frameSize)
	for at := e.At; at < r.Size; {
		part := buf[:min(frameSize, r.Size-at)]
		if _, err := b.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if err := fn(off+at, part); err != nil {
			return 0, err
		}
		at += int64(len(part))
	}
	return 0, nil
}
