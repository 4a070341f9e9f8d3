package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// stored is a file of a manifest, or one that a replay rests on.
type stored struct {
	extents      []manifest.Extent
	replays      []*manifest.Replay
	size, header int64
}

func storedOlder(o *manifest.Older) stored { return stored{o.Extents, o.Replays, o.Size, o.Header} }

// compaction is the replay of a compacted database that a file begins with, or nil.
func (s stored) compaction() *manifest.Replay {
	if len(s.extents) > 0 && s.extents[0].Seg < 0 && s.replays[0].Kind == manifest.CompactionReplay {
		return s.replays[0]
	}
	return nil
}

// longer reports whether the extents make more than the file: of a moment's that may be so.
func (s stored) longer() bool {
	n := int64(0)
	for _, e := range s.extents {
		if n += e.N; e.Seg < 0 && e.At > 0 {
			return true // some of what a replay makes is there twice
		}
	}
	return n > s.size
}

// merged makes a file that holds the same database as f, though not its bytes, without making
// those below it that replays make: what is new in each goes onto the one before. base
// gives the first one, which takes what is appended. manifest.Merges is true of f.
func (rd *Reader) merged(ctx context.Context, f stored, base func(stored) (replay.Output, error)) (file replay.File, out replay.Output, err error) {
	if f.longer() { // what is behind must not be merged
		return file, nil, replay.ErrNotMerged
	}
	r := f.compaction()
	if r == nil {
		out, err = base(f)
		return replay.File{R: out, Size: f.size, Header: f.header}, out, err
	}
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
	for _, e := range f.extents[1:] { // all replays: manifest.Merges
		if err != nil {
			break
		}
		err = rd.decode(ctx, f.replays[-1-e.Seg], func(in io.Reader) (err error) {
			file, err = replay.MergeTail(in, file, out)
			return err
		})
	}
	return file, out, err
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
	s := stored{f.Extents, f.Replays, f.Size, f.Header.Offset}
	whole := &Database{ReaderAt: rd.ReaderAt(ctx, f), Size: s.size, Header: s.header}
	if s.compaction() == nil || f.Longer != nil || !manifest.Merges(s.extents, s.replays) {
		return whole, nil
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
		return &Database{ReaderAt: file.R, Size: file.Size, Header: file.Header, scratch: scratch}, nil
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

	scratch *durable.Scratch
}

// Close removes what was made of it.
func (d *Database) Close() {
	if d.scratch != nil {
		d.scratch.Discard()
	}
}
