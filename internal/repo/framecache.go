package repo

import (
	"container/list"
	"context"
	"math/bits"
	"sync"

	"github.com/slipcover/slipcover/internal/manifest"
)

const (
	// DefaultCacheSize is how many bytes of content that is read by ranges are kept.
	DefaultCacheSize = 64 << 20
	// leastCache is enough for a few frames that are read in turns.
	leastCache = 16 * frameSize
	// pageSize is the piece of content that is kept by itself, in bytes.
	pageSize = 4 << 10
	// fewPages is of how many pages at most what was read of a frame is kept by itself: who read more read all
	// of it, in order, and won't come again soon.
	fewPages = 32
)

// contentCache keeps content of segments for a Reader, or all that share it, up to a number of bytes: a quarter of it frames, those used
// last, and the rest pages of which something was read in frames that went. A frame is what must be opened for a byte of
// it, and too large to be kept for one document: pages keep a hundred times as many.
type contentCache struct {
	most      int64 // bytes of frames
	mostPages int64

	mu      sync.Mutex
	ids     map[segmentName]uint32 // guarded by mu, like what follows
	frames  map[frameID]*list.Element
	byUse   *list.List // of *heldFrame, the one used last in front
	held    int64
	pages   map[frameID]*list.Element
	byTurn  *list.List // of *page, likewise
	inPages int64
}

// segmentName names a segment for ever.
type segmentName struct {
	instance string
	id       SegmentID
	sum      string // objects of chains may have the same name one after the other
}

// frameID names a frame of a segment, or a page, by its number.
type frameID struct {
	seg uint32
	n   uint32
}

type heldFrame struct {
	id      frameID
	ready   chan struct{}
	b       []byte
	from    int64 // where it begins in the segment's content
	err     error
	touched [maxFrame / pageSize / 64]uint64 // pages of which something was read; guarded by the cache's mu
}

type page struct {
	id frameID
	b  []byte
}

func newContentCache(size int64) *contentCache {
	if size == 0 {
		size = DefaultCacheSize
	}
	return &contentCache{most: max(size, leastCache) / 4, mostPages: max(size, leastCache) / 4 * 3, ids: map[segmentName]uint32{}, frames: map[frameID]*list.Element{}, byUse: list.New(),
		pages: map[frameID]*list.Element{}, byTurn: list.New()}
}

// segment returns the number of a segment in the cache.
func (c *contentCache) segment(instance string, s manifest.Segment) uint32 {
	name := segmentName{instance, idOf(s), s.SHA256 + s.TrailerSHA256}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.ids[name]
	if !ok {
		n = uint32(len(c.ids)) + 1
		c.ids[name] = n
	}
	return n
}

// read copies content of a segment from an offset on out of a page, and returns how much; 0 if that isn't here.
func (c *contentCache) read(seg uint32, at int64, p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pages[frameID{seg, uint32(at / pageSize)}]
	if e == nil {
		return 0
	}
	b := e.Value.(*page).b
	off := at % pageSize
	if off >= int64(len(b)) {
		return 0
	}
	c.byTurn.MoveToFront(e)
	return copy(p, b[off:])
}

// frame returns a frame, of which n bytes from an offset of the segment on are wanted. A load that failed isn't kept; who
// waited for it loads by itself, for the reason may have been another caller's context.
func (c *contentCache) frame(ctx context.Context, id frameID, from, at, n int64, load func() ([]byte, error)) ([]byte, error) {
	for {
		c.mu.Lock()
		e := c.frames[id]
		if e == nil {
			f := &heldFrame{id: id, ready: make(chan struct{}), from: from}
			e = c.byUse.PushFront(f)
			c.frames[id] = e
			c.mu.Unlock()
			return c.load(e, at, n, load)
		}
		c.byUse.MoveToFront(e)
		f := e.Value.(*heldFrame)
		f.touch(at, n)
		c.mu.Unlock()
		select {
		case <-f.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err == nil {
			return f.b, nil
		}
	}
}

func (c *contentCache) load(e *list.Element, at, n int64, load func() ([]byte, error)) ([]byte, error) {
	f := e.Value.(*heldFrame)
	b, err := load()
	c.mu.Lock()
	defer c.mu.Unlock()
	f.b, f.err = b, err
	close(f.ready)
	if err != nil {
		c.byUse.Remove(e)
		delete(c.frames, f.id)
		return nil, err
	}
	f.touch(at, n)
	c.held += int64(cap(b))
	for x := c.byUse.Back(); c.held > c.most && x != nil && x != e; {
		before := x.Prev()
		if f := x.Value.(*heldFrame); f.b != nil { // else it is still loading
			c.byUse.Remove(x)
			delete(c.frames, f.id)
			c.held -= int64(cap(f.b))
			c.part(f)
		}
		x = before
	}
	return b, nil
}

// touch notes that n bytes from an offset of the segment on are wanted.
func (f *heldFrame) touch(at, n int64) {
	for i := (at - f.from) / pageSize; i <= (at-f.from+n-1)/pageSize && i < int64(64*len(f.touched)); i++ {
		f.touched[i/64] |= 1 << (i % 64)
	}
}

// part keeps the pages of a frame that goes of which something was read, if they are few.
func (c *contentCache) part(f *heldFrame) {
	few := 0
	for _, w := range f.touched {
		few += bits.OnesCount64(w)
	}
	if few > fewPages || f.from%pageSize != 0 {
		return
	}
	for i, w := range f.touched {
		for ; w != 0; w &= w - 1 {
			k := int64(64*i + bits.TrailingZeros64(w))
			if k*pageSize < int64(len(f.b)) {
				c.put(frameID{f.id.seg, uint32(f.from/pageSize + k)}, f.b[k*pageSize:min((k+1)*pageSize, int64(len(f.b)))])
			}
		}
	}
}

// put keeps a copy of a page, in the memory of one that goes.
func (c *contentCache) put(id frameID, b []byte) {
	if c.pages[id] != nil {
		return
	}
	var mem []byte
	for c.inPages+pageSize > c.mostPages {
		last := c.byTurn.Remove(c.byTurn.Back()).(*page)
		delete(c.pages, last.id)
		mem, c.inPages = last.b, c.inPages-pageSize
	}
	if mem == nil {
		mem = make([]byte, 0, pageSize)
	}
	c.pages[id] = c.byTurn.PushFront(&page{id, append(mem[:0], b...)})
	c.inPages += pageSize
}
