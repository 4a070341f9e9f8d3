package replay

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ErrNotReplayed says that a file can't be stored as a stream, and why not: it
// is no compaction, or not one that is predicted. It is stored as it is then.
var ErrNotReplayed = errors.New("not stored as a replay")

func notReplayed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrNotReplayed, fmt.Errorf(format, args...))
}

// shape is how a compaction went, as the headers of its file show it.
type shape struct {
	f           File
	first       couchfile.RawHeader
	firstObject int64                  // where the object is that the file began with
	begun       int64                  // where the first pass begins
	passes      []couchfile.RawHeader  // that ended them
	swap        *couchfile.RawHeader   // nil if the server wrote none
	checkpoints []point                // headers of the compaction
	copied      []*couchfile.RawHeader // of each pass, the database's in the last checkpoint behind documents; or nil
	size        int64                  // of what is replayed
}

// shapeOf reads the headers of a file up to its cut.
func shapeOf(f File) (*shape, error) {
	s := &shape{f: f, firstObject: -1}
	var before couchfile.HeaderKind
	var next *couchfile.RawHeader // the first database header behind the passes
	cut, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		return nil, err
	}
	err = couchfile.EachHeader(f.R, cut.End, func(h couchfile.RawHeader) error {
		if s.first.Term == nil {
			s.first = h
		}
		switch {
		case h.Kind == couchfile.HeaderCompaction:
			s.checkpoint(h)
			next = nil
		case h.Kind != couchfile.HeaderDB:
			return notReplayed("a header at %d of a kind that no compaction writes", h.Offset)
		case before == couchfile.HeaderCompaction:
			s.passes = append(s.passes, h)
		case next == nil:
			next = &h
		}
		if s.firstObject < 0 && h.Kind == couchfile.HeaderDB {
			if parsed, err := couchfile.ParseHeader(h); err == nil {
				s.firstObject, s.begun = parsed.SecurityPtr, h.End
			}
		}
		before = h.Kind
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(s.passes) == 0 || before == couchfile.HeaderCompaction || s.firstObject < 0 {
		return nil, notReplayed("no compaction made this file")
	}
	last := s.passes[len(s.passes)-1]
	s.size = last.End
	if next != nil && swapped(last, *next) {
		s.swap, s.size = next, next.End
	}
	return s, nil
}

// point is a checkpoint, where the bytes behind it begin, and what it says of the file
// in which the server sorted.
type point struct {
	off, end int64
	sorting  erlterm.Term
}

// checkpoint notes a header of the compaction.
func (s *shape) checkpoint(h couchfile.RawHeader) {
	p := point{off: h.Offset, end: behind(h.End)}
	if len(s.copied) == len(s.passes) {
		s.copied = append(s.copied, nil)
	}
	parts, ok := erlterm.Elements(h.Term[1:])
	if ok && len(parts) == 3 {
		p.sorting = slices.Clone(parts[2])
	}
	if s.checkpoints = append(s.checkpoints, p); p.sorting == nil {
		return
	}
	h.Kind, h.Term = couchfile.HeaderDB, append([]byte{erlterm.Version}, parts[1]...)
	object := s.firstObject // which it has until the documents are copied
	if n := len(s.passes); n > 0 {
		before, err := couchfile.ParseHeader(s.passes[n-1])
		if err != nil {
			return
		}
		object = before.SecurityPtr
	}
	if db, err := couchfile.ParseHeader(h); err == nil && db.SecurityPtr == object {
		s.copied[len(s.passes)] = &h
	}
}

// swapped says whether h is what the server wrote when it took the file of the
// last pass into use: nothing but local documents and numbers are new.
func swapped(last, h couchfile.RawHeader) bool {
	a, okA := erlterm.Elements(last.Term[1:])
	b, okB := erlterm.Elements(h.Term[1:])
	if !okA || !okB || len(a) != len(b) || len(a) <= couchwriter.AtPurgesLimit {
		return false
	}
	for i := range a {
		switch i {
		case couchwriter.AtTimeSeq, couchwriter.AtLocalTree, couchwriter.AtRevsLimit, couchwriter.AtCompactedSeq, couchwriter.AtPurgesLimit:
			continue
		}
		if string(a[i]) != string(b[i]) {
			return false
		}
	}
	return string(a[couchwriter.AtLocalTree]) != string(b[couchwriter.AtLocalTree]) || string(a[couchwriter.AtTimeSeq]) != string(b[couchwriter.AtTimeSeq])
}

// parameters are what the file itself says of how it was made.
func (s *shape) parameters() (*Info, error) {
	info := &Info{made: made{Size: s.size}, Passes: len(s.passes), checksum: s.first.Checksum}
	head, ok := erlterm.Elements(s.passes[0].Term[1:])
	first, okFirst := erlterm.Elements(s.first.Term[1:])
	if !ok || !okFirst || len(head) <= couchwriter.AtPurgesLimit || len(first) <= couchwriter.AtPurgesLimit {
		return nil, notReplayed("a header of an unknown form")
	}
	info.uuid, info.epochs, info.compactedSeq = head[couchwriter.AtUUID], head[couchwriter.AtEpochs], head[couchwriter.AtCompactedSeq]
	parsed, err := couchfile.ParseHeader(s.passes[0])
	if err != nil {
		return nil, notReplayed("%w", err)
	}
	switch version := parsed.DiskVersion; {
	case version == 7:
		info.release = couchwriter.Release23
	case version != 8:
		return nil, notReplayed("compaction of disk version %d", version)
	case erlterm.IsAtom(first[couchwriter.AtTimeSeq], "undefined"):
		info.release = couchwriter.ReleaseMain
	default:
		info.release = couchwriter.Release30
	}
	chunks := couchfile.NewChunkReader(s.f.R, s.f.Size)
	p, err := chunks.Payload(s.firstObject)
	if err != nil {
		return nil, err
	}
	switch {
	case couchwriter.Snappy.Stores(p):
		info.compression = couchwriter.Snappy
	case couchwriter.None.Stores(p):
		info.compression = couchwriter.None
	default:
		return nil, notReplayed("nodes that are compressed with neither snappy nor nothing")
	}
	t, err := couchfile.Inflate(p)
	if err != nil {
		return nil, err
	}
	info.security = slices.Clone(t)
	info.chunkSize, err = s.findChunkSize(chunks, parsed)
	return info, err
}

// extents says where batches of documents end in one pass. Inside a batch
// documents lie side by side, by id; behind it are nodes of the seq tree.
type extents struct {
	after  []int64 // the least start of those behind each document
	at     int
	end    int64 // the largest end up to it
	points []point

	least          int64 // start of all
	deadFrom, dead int64 // what lies in front of the next batch
}

// newExtents reads the entries of a pass once.
func (s *shape) newExtents(src *couchwriter.Source, since uint64) (*extents, error) {
	x := &extents{points: s.checkpoints}
	for e, err := range src.Docs(since) {
		if err != nil {
			return nil, err
		}
		r, err := couchwriter.ParseRecord(e.Entry)
		if err != nil {
			return nil, err
		}
		r.Copied()
		start, _, err := extentOf(r)
		if err != nil {
			return nil, err
		}
		x.after = append(x.after, start)
	}
	least := int64(math.MaxInt64)
	for i, start := range slices.Backward(x.after) {
		x.after[i], least = least, min(least, start)
	}
	x.least = least
	return x, nil
}

// next says whether a batch ends behind the next document. objects is where the
// objects lie that are written behind the last one.
func (x *extents) next(r *couchwriter.Record, objects int64) (couchwriter.Batch, error) {
	_, end, err := extentOf(r)
	if err != nil {
		return 0, err
	}
	if x.at >= len(x.after) {
		return 0, damaged("a tree that changes while it is read")
	}
	x.end = max(x.end, end)
	following := x.after[x.at]
	x.at++
	if following == math.MaxInt64 { // the last one of the pass
		following = objects
		if _, ok := x.checkpoint(following); !ok {
			return couchwriter.BatchGoesOn, nil
		}
	}
	if following <= x.end {
		return couchwriter.BatchGoesOn, nil
	}
	if p, ok := x.checkpoint(following); ok {
		x.deadFrom, x.dead = p.end, following-p.end
		return couchwriter.BatchCheckpoint, nil
	}
	return couchwriter.BatchEnds, nil
}

// begin says where the pass began.
func (x *extents) begin(from int64) {
	if x.least < math.MaxInt64 {
		x.deadFrom, x.dead = from, x.least-from
	}
}

// behind is where bytes begin behind a header that ends at end: the next block's
// marker is written with what ends in front of it.
func behind(end int64) int64 {
	if end%couchfile.BlockSize == 0 {
		return end + 1
	}
	return end
}

// checkpoint is the header of the compaction between x.end and to.
func (x *extents) checkpoint(to int64) (point, bool) {
	i, _ := slices.BinarySearchFunc(x.points, x.end, func(p point, end int64) int { return cmp.Compare(p.off, end) })
	if i == len(x.points) || x.points[i].off >= to {
		return point{}, false
	}
	return x.points[i], true
}

// extentOf is where a document's bodies and attachments lie in a file that a
// compaction wrote; r is Copied.
func extentOf(r *couchwriter.Record) (start, end int64, err error) {
	if len(r.Leaves) == 0 {
		return 0, 0, damaged("document without a body")
	}
	first, last := r.Leaves[0], r.Leaves[len(r.Leaves)-1]
	start = first.Offset
	lists, ok := erlterm.Elements(first.Attachments)
	if !ok {
		return 0, 0, damaged("attachments of a document")
	}
	for _, l := range lists {
		pair, ok := erlterm.Elements(l)
		if !ok || len(pair) == 0 {
			return 0, 0, damaged("attachments of a document")
		}
		chunks, err := parts(pair[0])
		if err != nil {
			return 0, 0, err
		}
		if len(chunks) > 0 {
			start = min(start, chunks[0].off)
			break
		}
	}
	return start, last.Offset + last.Size, nil
}
