package repo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

const (
	// placesAtOnce is about of how many places Stream holds where they are, 48 bytes each.
	placesAtOnce = 1 << 20
	// lookedUp is of how many bytes of payload these are looked up at a time.
	lookedUp = 64 << 20
)

// damagedStep is how many bytes of a copy are given up together, a block of the file.
const damagedStep = couchfile.BlockSize

// openCopy is what the stream of a copy says, and where the extents begin that it needs.
type openCopy struct {
	*replay.Copy
	stream, older []int64
}

// copyOf opens the stream of a copy.
func (rd *Reader) copyOf(ctx context.Context, r *manifest.Replay) (*openCopy, error) {
	return rd.copies.get(ctx, r, func() (*openCopy, error) {
		o := &openCopy{stream: startsOf(r.Stream), older: startsOf(r.Older.Extents)}
		in := &fileReader{rd: rd, ctx: ctx, extents: r.Stream, starts: o.stream}
		var err error
		if o.Copy, err = replay.OpenCopy(in, o.stream[len(r.Stream)]); err != nil {
			return nil, asStored(err)
		}
		if o.Size != r.Size || o.OlderSize > r.Older.Size {
			return nil, fmt.Errorf("%w: a copy says other sizes than the manifest", ErrCorrupt)
		}
		return o, nil
	})
}

// copyReader reads the bytes that a copy makes.
func (rd *Reader) copyReader(ctx context.Context, r *manifest.Replay) (*replay.CopyReader, error) {
	o, err := rd.copyOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return &replay.CopyReader{Copy: o.Copy, Stream: &fileReader{rd: rd, ctx: ctx, extents: r.Stream, starts: o.stream},
		Older: &fileReader{rd: rd, ctx: ctx, extents: r.Older.Extents, replays: r.Older.Replays, starts: o.older}}, nil
}

// place is some payload of a file in a segment: bytes with the markers of the file that
// begin at off in it, or, with an off below 0, without any.
type place struct {
	extent manifest.Extent
	off    int64
	to     int64 // where it belongs
}

// copyPlaces appends where n bytes of payload are, from at on, that a copy makes.
func (rd *Reader) copyPlaces(ctx context.Context, dst []place, r *manifest.Replay, at, n int64) ([]place, error) {
	o, err := rd.copyOf(ctx, r)
	if err != nil {
		return dst, err
	}
	err = o.Runs(at, n, func(run replay.Run) error {
		if !run.Older {
			dst = appendPlaces(dst, r.Stream, o.stream, run.At, run.At+run.N, false)
			return nil
		}
		from, to := replay.BytesOf(run.At, run.N)
		if e := r.Older.Extents[0]; e.Seg < 0 && from < e.N { // another copy
			at, n := replay.PayloadIn(from, min(to, e.N))
			if dst, err = rd.copyPlaces(ctx, dst, r.Older.Replays[0], at, n); err != nil {
				return err
			}
			from = min(to, e.N)
		}
		dst = appendPlaces(dst, r.Older.Extents, o.older, from, to, true)
		return nil
	})
	return dst, err
}

// appendPlaces appends where bytes of extents are that are stored.
func appendPlaces(dst []place, extents []manifest.Extent, starts []int64, from, to int64, markers bool) []place {
	for i := extentAt(starts, from); from < to && i < len(extents); i++ {
		e, end := extents[i], min(to, starts[i+1])
		p := place{manifest.Extent{Seg: e.Seg, At: e.At + from - starts[i], N: end - from}, -1, 0}
		if markers {
			p.off = from
		}
		dst, from = append(dst, p), end
	}
	return dst
}

// copied writes the bytes that a copy makes to out. A compaction puts documents into another
// order, so it reads the segments one after the other, and lays what it takes from them
// where it belongs, in a scratch file.
func (rd *Reader) copied(ctx context.Context, r *manifest.Replay, out io.Writer) error {
	o, err := rd.copyOf(ctx, r)
	if err != nil {
		return err
	}
	s, err := durable.NewScratch(rd.Scratch)
	if err != nil {
		return err
	}
	defer s.Discard()
	fill := o.NewFiller(out)
	_, end := replay.PayloadIn(0, r.Size)
	var places []place
	for at := int64(0); at < end; {
		places = places[:0]
		from := at
		for at < end && len(places) < placesAtOnce {
			n := min(lookedUp, end-at)
			if places, err = rd.copyPlaces(ctx, places, r, at, n); err != nil {
				return err
			}
			at += n
		}
		if err := rd.lay(ctx, places, s); err != nil {
			return err
		}
		if _, err := io.Copy(fill, io.NewSectionReader(s, 0, at-from)); err != nil {
			return err
		}
	}
	return fill.Close()
}

// lay writes the payload that is in some places, which it puts into another order, into a
// file, one behind the other.
func (rd *Reader) lay(ctx context.Context, places []place, to io.WriterAt) error {
	at := int64(0)
	for i := range places {
		p := &places[i]
		p.to = at
		if at += p.extent.N; p.off >= 0 {
			_, n := replay.PayloadIn(p.off, p.off+p.extent.N)
			at = p.to + n
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.extent.Seg, b.extent.Seg), cmp.Compare(a.extent.At, b.extent.At))
	})
	extents := make([]manifest.Extent, len(places))
	needed := map[int]int64{}
	for i, p := range places {
		extents[i] = p.extent
		needed[p.extent.Seg] += p.extent.N
	}
	var buf []byte
	done := int64(0) // of the first place
	return rd.storedBy(ctx, extents, func(seg int) bool { return needed[seg] >= rd.m.Segments[seg].Plain/4 }, func(b []byte) error {
		p := &places[0]
		payload := b
		if p.off >= 0 {
			buf = append(buf[:0], b...)
			payload = replay.Strip(buf, p.off+done)
		}
		_, err := to.WriteAt(payload, p.to)
		p.to += int64(len(payload))
		if done += int64(len(b)); done == p.extent.N {
			places, done = places[1:], 0
		}
		return err
	})
}

// salvageCopy is Salvage for the bytes of a copy: damage costs the blocks that it is in.
func (rd *Reader) salvageCopy(ctx context.Context, r *manifest.Replay, off int64, fn func(off int64, b []byte) error) (lost int64, err error) {
	in, err := rd.copyReader(ctx, r)
	if Damaged(err) {
		return r.Size, nil
	}
	if err != nil {
		return 0, err
	}
	buf := make([]byte, frameSize)
	for at, step := int64(0), int64(frameSize); at < r.Size; {
		part := buf[:min(step, r.Size-at)]
		_, err := in.ReadAt(part, at)
		switch {
		case err == nil:
			if err = fn(off+at, part); err != nil {
				return lost, err
			}
			at, step = at+int64(len(part)), min(2*step, frameSize)
		case !Damaged(err):
			return lost, err
		case step > damagedStep:
			step = max(step/2, damagedStep)
		default:
			lost, at = lost+int64(len(part)), at+int64(len(part))
		}
	}
	return lost, nil
}
