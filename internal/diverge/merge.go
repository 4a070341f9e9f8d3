package diverge

import (
	"bytes"
	"context"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// pick says what of an entry is compared. It appends to dst what is the same in two copies if they agree; the key is a part
// of the entry. It is not ok with an entry that isn't compared.
type pick func(dst []byte, e couchfile.Entry) (key, sum []byte, ok bool, err error)

// item is an entry of a tree, or a part of the tree that can't be read.
type item struct {
	key   []byte
	value erlterm.Term // of the entry, as it is stored
	sum   []byte       // what pick says
	hole  *hole        // instead of all that
}

func (it *item) entry() couchfile.Entry {
	return couchfile.Entry{Key: erlterm.PutBinary(nil, it.key), Value: it.value}
}

// hole is a part of a tree that can't be read: what is behind after, up to last and with it. Nil is no bound.
type hole struct {
	after, last []byte
	err         error
}

func (h *hole) has(key []byte) bool { return bytes.Compare(key, h.after) > 0 && !h.endsBefore(key) }

func (h *hole) endsBefore(key []byte) bool { return h.last != nil && bytes.Compare(h.last, key) < 0 }

// batch is a run of items, and the memory that they lie in.
type batch struct {
	items []item
	bytes []byte
}

const (
	batchItems = 512
	batchBytes = 64 << 10
	readAhead  = 2 // batches of a copy that wait to be compared
)

// keep copies p into the batch.
func (b *batch) keep(p []byte) []byte {
	at := len(b.bytes)
	b.bytes = append(b.bytes, p...)
	return b.bytes[at:len(b.bytes):len(b.bytes)]
}

// reader reads one tree of one copy ahead, in a goroutine of its own.
type reader struct {
	tree       *couchfile.Tree
	pick       pick
	opts       *Options
	full, free chan *batch // free holds all there are: those that wait, one at each end

	batch *batch
	sum   []byte // scratch
	after []byte // the last key that was passed
	some  bool   // there is one
}

// run reads the whole tree. It ends early if ctx is done, and then closes nothing.
func (r *reader) run(ctx context.Context) {
	r.batch = &batch{}
	failures := 0
	err := r.tree.Salvage(func(e couchfile.Entry) error { return r.entry(ctx, e) },
		func(_, last erlterm.Term, err error) error {
			if !r.opts.passOver(ctx, &failures, err) {
				return err
			}
			key, _, _ := erlterm.Binary(last)
			return r.lost(ctx, key, err)
		})
	if ctx.Err() != nil {
		return
	}
	if err != nil && r.lost(ctx, nil, err) != nil {
		return
	}
	if r.send(ctx) == nil {
		close(r.full)
	}
}

func (r *reader) entry(ctx context.Context, e couchfile.Entry) error {
	key, sum, ok, err := r.pick(r.sum[:0], e)
	r.sum = sum
	if err != nil {
		if key, _, ok = erlterm.Binary(e.Key); !ok {
			return err
		}
		return r.lost(ctx, key, err)
	}
	if ok {
		b := r.batch
		b.items = append(b.items, item{key: b.keep(key), value: b.keep(e.Value), sum: b.keep(sum)})
	}
	return r.passed(ctx, key)
}

// lost notes that what is behind the last key, up to last, can't be read.
func (r *reader) lost(ctx context.Context, last []byte, err error) error {
	h := &hole{err: err}
	if r.some {
		h.after = bytes.Clone(r.after)
	}
	if last != nil {
		h.last = bytes.Clone(last)
	}
	r.batch.items = append(r.batch.items, item{hole: h})
	return r.passed(ctx, last)
}

func (r *reader) passed(ctx context.Context, key []byte) error {
	r.after, r.some = append(r.after[:0], key...), true
	if len(r.batch.items) < batchItems && len(r.batch.bytes) < batchBytes {
		return nil
	}
	return r.send(ctx)
}

func (r *reader) send(ctx context.Context) error {
	select {
	case r.full <- r.batch:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case r.batch = <-r.free:
		r.batch.items, r.batch.bytes = r.batch.items[:0], r.batch.bytes[:0]
	default:
		r.batch = &batch{}
	}
	return nil
}

// side is what a merge has of one copy.
type side struct {
	reader
	now   *batch
	at    int    // of the next item in it
	head  *item  // the next entry; nil at the end
	holes []hole // those that were met, but for what was passed
	told  func(*hole)
}

// next goes on to the next entry.
func (s *side) next(ctx context.Context) error {
	for {
		for s.now != nil && s.at < len(s.now.items) {
			it := &s.now.items[s.at]
			s.at++
			if it.hole == nil {
				s.head = it
				return nil
			}
			s.told(it.hole)
			s.hole(it.hole)
		}
		if s.now != nil {
			s.free <- s.now
		}
		var more bool
		select {
		case s.now, more = <-s.full:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.at = 0
		if !more {
			s.now, s.head = nil, nil
			return nil
		}
	}
}

// hole adds to the holes, which follow each other.
func (s *side) hole(h *hole) {
	if n := len(s.holes); n > 0 && bytes.Equal(s.holes[n-1].last, h.after) && h.after != nil {
		s.holes[n-1].last = h.last
		return
	}
	s.holes = append(s.holes, *h)
}

// unread says whether key, which is at or behind all keys that were asked for before, lies where it can't be read.
func (s *side) unread(key []byte) bool {
	for len(s.holes) > 0 && s.holes[0].endsBefore(key) {
		s.holes = s.holes[1:]
	}
	return len(s.holes) > 0 && s.holes[0].has(key)
}

// row is what all copies have of one key.
type row struct {
	key    []byte
	items  []*item // nil where there is none
	unread []bool  // where it can't be read
}

// equal says whether all copies that can be read have it, and the same.
func (r *row) equal() bool {
	var first *item
	for i, it := range r.items {
		switch {
		case it == nil && !r.unread[i]:
			return false
		case it == nil:
		case first == nil:
			first = it
		case !bytes.Equal(first.sum, it.sum):
			return false
		}
	}
	return true
}

// whole says that all copies can be read there.
func (r *row) whole() bool {
	for _, u := range r.unread {
		if u {
			return false
		}
	}
	return true
}

// merge walks a tree of all copies side by side and calls visit with each key that one of them has, in order. What it is given
// is valid only until the call returns. told is called with what can't be read of a copy.
func (c *comparison) merge(ctx context.Context, trees []*couchfile.Tree, picks []pick, told func(int, *hole), visit func(*row) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	sides := make([]*side, len(trees))
	for i, t := range trees {
		s := &side{
			reader: reader{tree: t, pick: picks[i], opts: &c.opts, full: make(chan *batch, readAhead), free: make(chan *batch, readAhead+2)},
			told:   func(h *hole) { told(i, h) },
		}
		sides[i] = s
		wg.Go(func() { s.run(ctx) })
	}
	for _, s := range sides {
		if err := s.next(ctx); err != nil {
			return err
		}
	}
	r := &row{items: make([]*item, len(sides)), unread: make([]bool, len(sides))}
	for {
		var least []byte
		for _, s := range sides {
			if s.head != nil && (least == nil || bytes.Compare(s.head.key, least) < 0) {
				least = s.head.key
			}
		}
		if least == nil {
			return ctx.Err()
		}
		r.key = least
		for i, s := range sides {
			r.items[i] = nil
			if s.head != nil && bytes.Equal(s.head.key, least) {
				r.items[i] = s.head
			}
			r.unread[i] = len(s.holes) > 0 && r.items[i] == nil && s.unread(least)
		}
		if err := visit(r); err != nil {
			return err
		}
		c.passed = append(c.passed[:0], least...)
		for i, s := range sides {
			if r.items[i] == nil {
				continue
			}
			if err := s.next(ctx); err != nil {
				return err
			}
		}
	}
}
