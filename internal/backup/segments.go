package backup

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// segmenter turns the bytes that workers hand over into stored segments.
//
// table holds the segments of the backup that is made: first those of its parent,
// so that extents of unchanged files keep their numbers, then those of this run
// and those taken up from a journal.
type segmenter struct {
	repo     *repo.Repo
	key      *repo.WriteKey
	id       manifest.BackupID
	instance string
	journal  *journal
	progress *Progress

	full    chan *filling // to the packers
	free    chan []byte   // buffers
	packers *errgroup.Group
	ctx     context.Context // that of the run, for the packers

	mu    sync.Mutex
	table []manifest.Segment // guarded by mu, like what follows
	next  int                // number of the next segment of this run
	bytes int64              // stored by this run
}

// filling is a segment that a worker fills.
type filling struct {
	index int // in the table
	n     int // number in the run
	buf   []byte
	parts []part
}

// newSegmenter starts packers, which work until close. buffers bounds how many
// segments are in memory.
func newSegmenter(ctx context.Context, r *repo.Repo, key *repo.WriteKey, id manifest.BackupID, instance string, j *journal, packers, buffers int, p *Progress) *segmenter {
	s := &segmenter{repo: r, key: key, id: id, instance: instance, journal: j, progress: p, full: make(chan *filling), free: make(chan []byte, buffers)}
	for range buffers {
		s.free <- nil // made when first needed
	}
	s.packers, s.ctx = errgroup.WithContext(ctx)
	for range packers {
		s.packers.Go(s.pack)
	}
	return s
}

// begin returns an empty segment to fill, when a buffer is free.
func (s *segmenter) begin() (*filling, error) {
	var buf []byte
	select {
	case buf = <-s.free:
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
	if buf == nil {
		buf = make([]byte, 0, repo.SegmentSize)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &filling{index: len(s.table), n: s.next, buf: buf[:0]}
	s.table = append(s.table, manifest.Segment{})
	s.next++
	return f, nil
}

// send hands a filled segment to a packer.
func (s *segmenter) send(f *filling) error {
	select {
	case s.full <- f:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// use returns the index of a segment that an earlier run stored.
func (s *segmenter) use(seg *storedSegment) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.index < 0 {
		seg.index = len(s.table)
		s.table = append(s.table, seg.segment)
	}
	return seg.index
}

// pack stores filled segments until there are no more.
func (s *segmenter) pack() error {
	var sealed repo.Sealed
	for {
		var f *filling
		var ok bool
		select {
		case f, ok = <-s.full:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		if !ok {
			return nil
		}
		if err := s.store(&sealed, f); err != nil {
			return err
		}
	}
}

// store seals a segment, hands its buffer back, and stores what was sealed.
func (s *segmenter) store(sealed *repo.Sealed, f *filling) error {
	if err := s.repo.Seal(sealed, s.key, s.id, f.n, f.buf); err != nil {
		return err
	}
	if err := s.journal.add(sealed.Segment, f.buf, f.parts); err != nil {
		return err
	}
	s.free <- f.buf
	if err := s.repo.PutSegment(s.ctx, s.instance, sealed); err != nil {
		return err
	}
	s.progress.Stored.Add(sealed.Segment.Size)
	s.progress.held.Add(-sealed.Segment.Plain)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table[f.index] = sealed.Segment
	s.bytes += sealed.Segment.Size
	return nil
}

// close waits for the packers; after it the table is complete.
func (s *segmenter) close() error {
	close(s.full)
	return s.packers.Wait()
}
