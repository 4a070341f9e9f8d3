package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// stored is a file of a manifest, or one that a replay rests on.
type stored struct {
	extents      []manifest.Extent
	replays      []*manifest.Replay
	size, header int64
	seq          uint64 // update_seq of the header, of a file that is the beginning of what the extents make
}

func storedOlder(o *manifest.Older) stored {
	return stored{extents: o.Extents, replays: o.Replays, size: o.Size, header: o.Header}
}

// compaction is the replay of a compacted database that a file begins with, or nil.
func (s stored) compaction() *manifest.Replay {
	if len(s.extents) > 0 && s.extents[0].Seg < 0 && s.replays[0].Kind == manifest.CompactionReplay {
		return s.replays[0]
	}
	return nil
}

// tails returns from which extent on there are nothing but tails, behind the first one, and where that extent begins.
func (s stored) tails() (first int, at int64) {
	first = len(s.extents)
	for first > 1 && s.extents[first-1].Seg < 0 && s.replays[-1-s.extents[first-1].Seg].Kind == manifest.TailReplay {
		first--
	}
	for _, e := range s.extents[:first] {
		at += e.N
	}
	return first, at
}

// replaysOf returns the replays of the first n extents.
func (s stored) replaysOf(n int) []*manifest.Replay { return s.replays[:replaysOf(s.extents[:n])] }

// merged makes a file that holds the same database as f, though not its bytes, without making
// those below it that replays make: what is new in each goes onto the one before. base
// gives the first one, which takes what is appended. It returns replay.ErrNotMerged where that
// can't be done.
func (rd *Reader) merged(ctx context.Context, f stored, base func(stored) (replay.Output, error)) (file replay.File, out replay.Output, err error) {
	n, at := f.tails()
	r := f.compaction()
	if r == nil || n > 1 || f.size < at { // there are bytes that go on from what a compaction wrote
		first := stored{extents: f.extents[:n], replays: f.replaysOf(n), size: min(f.size, at), header: f.header}
		if out, err = base(first); err != nil || f.size <= at {
			return replay.File{R: out, Size: first.size, Header: first.header}, out, err
		}
		file = replay.File{R: out, Size: at, Header: -1}
	} else {
		if r.Older != nil {
			file, out, err = rd.merged(ctx, storedOlder(r.Older), base)
		} else {
			out, err = base(stored{})
		}
		if err != nil {
			return file, out, err
		}
		err = rd.decode(ctx, r, func(in io.Reader) (err error) {
			file, err = replay.Merge(in, file, out)
			return err
		})
		if err != nil {
			return file, out, err
		}
	}
	file, err = rd.mergedTails(ctx, f, n, at, file, out)
	return file, out, err
}

// mergedTails merges the tails of f from an extent on, which begins at an offset of f, onto file, whose header is -1 if it has
// f's bytes up to there.
func (rd *Reader) mergedTails(ctx context.Context, f stored, n int, at int64, file replay.File, out replay.Output) (replay.File, error) {
	t := &tails{out: out, ends: map[int64]int64{}, file: file}
	if file.Header >= 0 {
		t.ends[at] = file.Header
	} else {
		t.whole = at
	}
	var list []*manifest.Replay
	var from []int64 // where each begins in f
	for _, e := range f.extents[n:] {
		if at >= f.size {
			break
		}
		list = append(list, f.replays[-1-e.Seg])
		from = append(from, at-e.At)
		at += e.N
	}
	cut := at > f.size // of the last one some is behind
	err := rd.eachStream(ctx, list, func(i int, in io.Reader) error {
		return t.merge(in, from[i], from[i]+list[i].Size, cut && i == len(list)-1, f.seq)
	})
	return t.file, err
}

// tails merges tails that may overlap.
type tails struct {
	out    replay.Output
	file   replay.File
	merger *replay.TailMerger
	whole  int64           // out has the bytes of that file up to here
	end    int64           // of the last tail
	ends   map[int64]int64 // offset of the header in out, by where it ends in that file
}

// merge merges the tail that begins at an offset of the file that is told of and ends at another one. If
// it is cut, what is wanted is the commit in it with an update_seq, which must be the only such.
func (t *tails) merge(in io.Reader, from, end int64, cut bool, wanted uint64) error {
	if t.merger == nil || from != t.end {
		if err := t.goTo(from); err != nil {
			return err
		}
	}
	var found []replay.File
	var each func(couchfile.Header, replay.File)
	if cut {
		each = func(h couchfile.Header, f replay.File) {
			if h.UpdateSeq == wanted {
				found = append(found, f)
			}
		}
	}
	file, err := t.merger.Merge(in, each)
	if err != nil {
		return err
	}
	t.file, t.end, t.ends[end] = file, end, file.Header
	if cut {
		if len(found) != 1 {
			return fmt.Errorf("%w: %d commits with that update_seq", replay.ErrNotMerged, len(found))
		}
		t.file = found[0]
	}
	return nil
}

// goTo goes on from the header that ends at an offset of the file that is told of.
func (t *tails) goTo(from int64) (err error) {
	at, ok := t.ends[from]
	if !ok && from <= t.whole {
		h, err := couchfile.FindHeader(t.out, from)
		if err != nil {
			return err
		}
		at, ok = h.Offset, h.End == from
	}
	if !ok {
		return replay.ErrNotMerged
	}
	t.file.Header = at
	t.merger, err = replay.NewTailMerger(t.file, t.out)
	return err
}

const (
	// smallStream is up to how many bytes a stream is read before it is needed.
	smallStream = 256 << 10
	// streamsAhead is how many of them at most.
	streamsAhead = 16
)

// eachStream calls fn with the stream of each replay, in order.
func (rd *Reader) eachStream(ctx context.Context, list []*manifest.Replay, fn func(i int, in io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	type stream struct {
		done chan struct{}
		b    []byte
		err  error
	}
	ahead := make([]*stream, len(list))
	begun := 0
	for i, r := range list {
		for ; begun < len(list) && begun < i+streamsAhead; begun++ {
			if streamSize(list[begun]) > smallStream {
				continue
			}
			s, r := &stream{done: make(chan struct{})}, list[begun]
			ahead[begun] = s
			reading.Go(func() {
				defer close(s.done)
				s.err = rd.storedBy(ctx, r.Stream, rd.wholeIfSmall, func(b []byte) error {
					s.b = append(s.b, b...)
					return nil
				})
			})
		}
		s := ahead[i]
		if s == nil {
			if err := rd.decode(ctx, r, func(in io.Reader) error { return fn(i, in) }); err != nil {
				return err
			}
			continue
		}
		<-s.done
		if s.err != nil {
			return s.err
		}
		if err := asStored(fn(i, bytes.NewReader(s.b))); err != nil {
			return err
		}
		ahead[i] = nil
	}
	return nil
}

// wholeIfSmall is whole for what is read once: an object of a chain as a rule holds little else.
func (rd *Reader) wholeIfSmall(seg int) bool {
	return rd.m.Segments[seg].Size <= smallObject || rd.whole(seg)
}

func streamSize(r *manifest.Replay) (n int64) {
	for _, e := range r.Stream {
		n += e.N
	}
	return n
}

// compactedOfMerged is compacted where the older file is what a replay makes, too: it is made
// by merging. It is proven by the result alone, so this is kept in a scratch file until its
// hash is right. done is false if the older file has to be made itself.
func (rd *Reader) compactedOfMerged(ctx context.Context, r *manifest.Replay, out replay.Output) (done bool, err error) {
	if r.Older == nil || storedOlder(r.Older).compaction() == nil || !manifest.Merges(r.Older.Extents, r.Older.Replays) {
		return false, nil
	}
	older, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return false, err
	}
	defer older.Discard()
	made, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return false, err
	}
	defer made.Discard()
	file, _, err := rd.merged(ctx, storedOlder(r.Older), func(f stored) (replay.Output, error) {
		return older, rd.content(ctx, f.extents, f.replays, older, func(b []byte) error {
			_, err := older.Write(b)
			return err
		})
	})
	if err == nil {
		err = rd.compactedOf(ctx, r, &file, &madeBytes{made, r.Size, r.Size})
	}
	switch {
	case errors.Is(err, replay.ErrNotMerged), Damaged(err):
		return false, nil
	case err != nil:
		return false, err
	}
	_, err = io.Copy(out, io.NewSectionReader(made, 0, r.Size))
	return true, err
}

// Database opens the database in a file for its documents: r has size bytes and a header at
// header. Where replays make the file, what r has is the same database in other bytes, for
// the time and the room of what is new, if that can be had without making the file. Close
// must be called.
func (rd *Reader) Database(ctx context.Context, f *manifest.File) (db *Database, err error) {
	if f.Header == nil {
		return nil, fmt.Errorf("%s has no header", f.Path)
	}
	s := stored{f.Extents, f.Replays, f.Size, f.Header.Offset, f.Header.UpdateSeq}
	whole := &Database{ReaderAt: rd.ReaderAt(ctx, f), Size: s.size, Header: s.header, path: f.Path}
	if n, at := s.tails(); s.compaction() == nil && (n == len(s.extents) || s.size <= at) {
		return whole, nil // no more is needed than what is stored
	}
	scratch, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return nil, err
	}
	file, _, err := rd.merged(ctx, s, func(f stored) (replay.Output, error) {
		var before io.ReaderAt = bytes.NewReader(nil)
		if len(f.extents) > 0 {
			before = rd.readerAt(ctx, f.extents, f.replays)
		}
		return both{&joined{before, scratch, f.size}, func(b []byte) error {
			_, err := scratch.Write(b)
			return err
		}}, nil
	})
	if err == nil {
		return &Database{ReaderAt: file.R, Size: file.Size, Header: file.Header, path: f.Path, scratch: scratch}, nil
	}
	scratch.Discard()
	if errors.Is(err, replay.ErrNotMerged) || Damaged(err) { // the file itself tells what is damaged
		return whole, nil
	}
	return nil, err
}

// Database is a file that can be read as a database.
type Database struct {
	io.ReaderAt
	Size, Header int64

	path    string
	scratch *durable.Scratch
}

// ReadAt reads of the file. Its errors name it.
func (d *Database) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", d.path, err)
	}
	return n, err
}

// Keeps says that what was read is kept, as far as that is worth it, so that no reader of it has to.
func (d *Database) Keeps() bool { return true }

// Merged reports whether it has the same database in other bytes than the file's.
func (d *Database) Merged() bool { return d.scratch != nil }

// Close removes what was made of it.
func (d *Database) Close() {
	if d.scratch != nil {
		d.scratch.Discard()
	}
}
