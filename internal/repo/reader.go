package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// readAhead is how many segments at most Stream fetches before they are needed.
	readAhead = 2
	// cachedSegments is how many whole segments a Reader keeps, unless there are more CPUs: 32 MiB.
	cachedSegments = 4
	// cachedCopies is how many copies' runs a Reader keeps: 16 bytes for each run.
	cachedCopies = 32
)

// Reader reads files of one backup. Its methods may be called from several
// goroutines.
type Reader struct {
	// Scratch is the directory for the scratch files of replays, which are as large as the
	// files that are read and those that they rest on; "" is the system's for temporary
	// files. It is set before the first use.
	Scratch string

	repo     *Repo
	m        *manifest.Manifest
	wanted   []int64        // bytes that the caller will read of each segment
	left     []atomic.Int64 // of those, bytes that it didn't read yet
	segments lru[int, *content]
	cache    *contentCache
	ids      []atomic.Uint32 // of segments in content, 0 if not asked for yet
	open     lru[int, *seekSegment]
	prefixes lru[int, []byte]
	streams  atomic.Int32 // that go on now
	rebuilds chan struct{}
	rebuilt  lru[*manifest.Replay, *durable.Scratch]
	copies   lru[*manifest.Replay, *openCopy]

	mu      sync.Mutex
	damaged map[int]error              // guarded by mu: why a segment can't be read whole
	failed  map[*manifest.Replay]error // guarded by mu: why a replay can't be made, being damaged
}

// NewReader returns a reader of m. files are those that will be streamed, once
// each: it decides whether a segment is worth reading whole, and until when it is
// kept.
func (r *Repo) NewReader(m *manifest.Manifest, files []*manifest.File) *Reader {
	rd := &Reader{repo: r, m: m, wanted: make([]int64, len(m.Segments)), left: make([]atomic.Int64, len(m.Segments)), damaged: map[int]error{}, failed: map[*manifest.Replay]error{}}
	rd.segments.max, rd.open.max, rd.prefixes.max = max(cachedSegments, 2*min(4, runtime.GOMAXPROCS(0))), 1024, 2
	rd.ids = make([]atomic.Uint32, len(m.Segments))
	rd.cache = newContentCache(0)
	rd.segments.gone = (*content).leave
	rd.rebuilds = make(chan struct{}, rebuilding)
	rd.rebuilt.max, rd.rebuilt.gone = 1<<30, (*durable.Scratch).Discard
	rd.copies.max = cachedCopies
	for _, f := range files {
		for e := range f.Stored() {
			rd.wanted[e.Seg] += e.N
			rd.left[e.Seg].Add(e.N)
		}
	}
	return rd
}

// NewSharing returns a reader of m that shares what it keeps of ranges with all others of its kind, so that their memory is
// bounded by Options.CacheSize. What it reads may have been damaged in the storage since it was kept.
func (r *Repo) NewSharing(m *manifest.Manifest) *Reader {
	rd := r.NewReader(m, nil)
	rd.cache = r.content
	return rd
}

// Stream calls fn with the bytes of f, in order, in parts of any size, which fn
// must not keep. It doesn't check the file's hash: the caller sees all bytes. Of a
// damaged segment it reads the frames that f needs, so that damage costs only the
// files that it hit; see Damaged for what can't be read.
func (rd *Reader) Stream(ctx context.Context, f *manifest.File, fn func([]byte) error) error {
	return rd.StreamBack(ctx, f, nil, fn)
}

// StreamBack is Stream for a caller who has what fn was given: back reads it, which
// saves a replay a scratch file of its own.
func (rd *Reader) StreamBack(ctx context.Context, f *manifest.File, back io.ReaderAt, fn func([]byte) error) error {
	if f.Longer != nil { // fn isn't given all, so back is of no use
		return rd.streamLonger(ctx, f, fn)
	}
	return rd.streamBack(ctx, f, back, fn)
}

// streamLonger calls fn with the bytes of a file that is the beginning of a longer one, and
// proves that: all of them have come right if it returns nil.
func (rd *Reader) streamLonger(ctx context.Context, f *manifest.File, fn func([]byte) error) error {
	sum, n := sha256.New(), int64(0)
	err := rd.streamBack(ctx, f, nil, func(b []byte) error {
		_, _ = sum.Write(b)
		mine := b[:max(0, min(int64(len(b)), f.Size-n))]
		n += int64(len(b))
		if len(mine) == 0 {
			return nil
		}
		return fn(mine)
	})
	if err == nil && (n != f.Longer.Size || hex.EncodeToString(sum.Sum(nil)) != f.Longer.SHA256) {
		err = fmt.Errorf("%w: %s up to a later moment has not the hash that was shipped", ErrCorrupt, f.Path)
	}
	return err
}

func (rd *Reader) streamBack(ctx context.Context, f *manifest.File, back io.ReaderAt, fn func([]byte) error) error {
	if manifest.OnlyCopies(f.Replays) { // or none
		return rd.content(ctx, f.Extents, f.Replays, nil, fn)
	}
	if err := enter(ctx, rd.rebuilds); err != nil {
		return err
	}
	defer leave(rd.rebuilds)
	if back != nil {
		return rd.content(ctx, f.Extents, f.Replays, back, fn)
	}
	return rd.kept(fn, func(back io.ReaderAt, fn func([]byte) error) error {
		return rd.content(ctx, f.Extents, f.Replays, back, fn)
	})
}

// stored calls fn with the bytes of extents.
func (rd *Reader) stored(ctx context.Context, extents []manifest.Extent, fn func([]byte) error) error {
	return rd.storedBy(ctx, extents, rd.whole, fn)
}

// storedBy is stored with another opinion on which segments are worth reading whole.
func (rd *Reader) storedBy(ctx context.Context, extents []manifest.Extent, whole func(seg int) bool, fn func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ahead sync.WaitGroup
	defer ahead.Wait()
	order := segmentOrder(extents)
	rd.streams.Add(1)
	defer rd.streams.Add(-1)
	k, asked := -1, 0
	for _, e := range extents {
		if k < 0 || order[k] != e.Seg {
			k++
		}
		for most := rd.ahead(); asked < len(order) && asked <= k+most; asked++ {
			if seg := order[asked]; asked > k && whole(seg) {
				ahead.Go(func() {
					if c, err := rd.segment(ctx, seg); err == nil { // an error comes again when it is needed
						c.leave()
					}
				})
			}
		}
		if err := rd.extent(ctx, e, whole(e.Seg), fn); err != nil {
			return err
		}
	}
	return nil
}

// ahead returns how many segments a stream may fetch before it needs them, so that none
// is fetched in place of one that another stream needs now.
func (rd *Reader) ahead() int {
	return min(readAhead, rd.segments.max/max(1, int(rd.streams.Load()))-1)
}

// segmentOrder lists the segments that extents are in, as they follow each other.
func segmentOrder(extents []manifest.Extent) []int {
	var order []int
	for _, e := range extents {
		if k := len(order); k == 0 || order[k-1] != e.Seg {
			order = append(order, e.Seg)
		}
	}
	return order
}

// whole reports whether enough of a segment is wanted to read all of it at once.
func (rd *Reader) whole(seg int) bool { return rd.wanted[seg] >= rd.m.Segments[seg].Plain/4 }

func (rd *Reader) extent(ctx context.Context, e manifest.Extent, whole bool, fn func([]byte) error) error {
	if whole {
		c, err := rd.segment(ctx, e.Seg)
		if err == nil {
			err := fn(c.b[e.At : e.At+e.N])
			if rd.left[e.Seg].Add(-e.N) <= 0 { // the last of its bytes that anyone wants
				rd.segments.drop(e.Seg)
			}
			c.leave()
			return err
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
	}
	for at, n := e.At, e.N; n > 0; {
		b, from, err := rd.frame(ctx, e.Seg, at, n)
		if err != nil {
			return err
		}
		part := b[at-from:]
		part = part[:min(n, int64(len(part)))]
		if err := fn(part); err != nil {
			return err
		}
		at, n = at+int64(len(part)), n-int64(len(part))
	}
	return nil
}

// content is that of a whole segment. Its memory is used again once all who took it,
// the Reader's cache among them, have left it; who never leaves it keeps it.
type content struct {
	b     []byte
	users atomic.Int32
	back  *spares // who gets the memory
}

// take reports whether the content is still there, and then counts one more user.
func (c *content) take() bool {
	for {
		n := c.users.Load()
		if n == 0 {
			return false
		}
		if c.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (c *content) leave() {
	if c.users.Add(-1) == 0 {
		c.back.put(c.b)
	}
}

// segment returns the content of a whole segment, for the caller to leave.
func (rd *Reader) segment(ctx context.Context, seg int) (*content, error) {
	for {
		if err := rd.damage(seg); err != nil {
			return nil, err
		}
		c, err := rd.segments.get(ctx, seg, func() (*content, error) {
			b, err := rd.repo.ReadSegment(ctx, rd.m.Instance, rd.m.Segments[seg])
			c := &content{b: b, back: rd.repo.contents}
			c.users.Store(1) // the cache
			return c, err
		})
		if Damaged(err) {
			rd.mu.Lock()
			rd.damaged[seg] = err
			rd.mu.Unlock()
		}
		if err != nil {
			return nil, err
		}
		if c.take() { // else it went out of the cache just now
			return c, nil
		}
	}
}

// frame returns the content of the frame that holds offset at of a segment, and the
// offset where it begins. A range has no checksum of the storage's and may come from
// a cache, so where it isn't right the segment is read whole: then it is damaged, or
// it was the way here. n bytes of it are wanted.
func (rd *Reader) frame(ctx context.Context, seg int, at, n int64) ([]byte, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if err := rd.damage(seg); errors.Is(err, storage.ErrNotExist) {
		return nil, 0, err
	}
	if rd.m.Segments[seg].TrailerSHA256 != "" {
		b, from, err := rd.ranged(ctx, seg, at, n)
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrKeyGone) {
			return b, from, err
		}
	}
	c, err := rd.segment(ctx, seg)
	if err != nil {
		return nil, 0, err
	}
	return c.b, 0, nil // the caller has the bytes for as long as it wants: they are never left
}

// ranged reads a frame by range.
func (rd *Reader) ranged(ctx context.Context, seg int, at, n int64) ([]byte, int64, error) {
	s, err := rd.opened(ctx, seg)
	if err != nil {
		return nil, 0, err
	}
	i, err := s.find(at)
	if err != nil {
		return nil, 0, err
	}
	from := s.frames[i].from
	b, err := rd.cache.frame(ctx, frameID{rd.id(seg), uint32(i)}, from, at, n, func() ([]byte, error) { return s.read(i) })
	return b, from, err
}

// id is the number of a segment in the cache.
func (rd *Reader) id(seg int) uint32 {
	n := rd.ids[seg].Load()
	if n == 0 {
		n = rd.cache.segment(rd.m.Instance, rd.m.Segments[seg])
		rd.ids[seg].Store(n)
	}
	return n
}

// read copies content of a segment from an offset on to p, and returns how much: at least a byte.
func (rd *Reader) read(ctx context.Context, seg int, at int64, p []byte) (int, error) {
	if n := rd.cache.read(rd.id(seg), at, p); n > 0 {
		return n, ctx.Err()
	}
	b, from, err := rd.frame(ctx, seg, at, int64(len(p)))
	if err != nil {
		return 0, err
	}
	return copy(p, b[at-from:]), nil
}

func (rd *Reader) opened(ctx context.Context, seg int) (*seekSegment, error) {
	return rd.open.get(ctx, seg, func() (*seekSegment, error) {
		// It outlives this call, so a cancel of this call must not end it.
		return rd.repo.openSegment(context.WithoutCancel(ctx), rd.m.Instance, rd.m.Segments[seg])
	})
}

// ReaderAt returns f as an io.ReaderAt that reads stored bytes by range, for as
// long as ctx lasts: a 4 KiB read costs one frame, and of a copy one for each run that it
// touches. What another replay makes is made whole when it is first asked for.
func (rd *Reader) ReaderAt(ctx context.Context, f *manifest.File) io.ReaderAt {
	return rd.readerAt(ctx, f.Extents, f.Replays)
}

func (rd *Reader) readerAt(ctx context.Context, extents []manifest.Extent, replays []*manifest.Replay) *fileReader {
	return &fileReader{rd: rd, ctx: ctx, extents: extents, replays: replays, starts: startsOf(extents)}
}

// startsOf is where each extent begins, and the last one ends.
func startsOf(extents []manifest.Extent) []int64 {
	starts := make([]int64, len(extents)+1)
	for i, e := range extents {
		starts[i+1] = starts[i] + e.N
	}
	return starts
}

type fileReader struct {
	rd      *Reader
	ctx     context.Context // io.ReaderAt has none
	extents []manifest.Extent
	replays []*manifest.Replay
	starts  []int64 // of each extent in the file, and the file's size
}

func (fr *fileReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) {
		i := fr.find(off)
		if i == len(fr.extents) {
			return n, io.EOF
		}
		e := fr.extents[i]
		at := e.At + off - fr.starts[i]
		if e.Seg < 0 {
			k, err := fr.replayed(p[n:min(int64(len(p)), int64(n)+e.At+e.N-at)], fr.replays[-1-e.Seg], fr.starts[i]-e.At, at)
			n, off = n+k, off+int64(k)
			if err != nil {
				return n, err
			}
			continue
		}
		k, err := fr.rd.read(fr.ctx, e.Seg, at, p[n:min(int64(len(p)), int64(n)+fr.starts[i+1]-off)])
		if err != nil {
			return n, err
		}
		n, off = n+k, off+int64(k)
	}
	return n, nil
}

// replayed reads what a replay makes.
func (fr *fileReader) replayed(p []byte, r *manifest.Replay, from, at int64) (int, error) {
	b, err := fr.replay(r, from)
	if err != nil {
		return 0, err
	}
	n, err := b.ReadAt(p, at)
	if n == len(p) {
		err = nil
	}
	return n, err
}

func (fr *fileReader) replay(r *manifest.Replay, from int64) (io.ReaderAt, error) {
	if r.Kind == manifest.CopyReplay {
		return fr.rd.copyReader(fr.ctx, r)
	}
	return fr.rd.built(fr.ctx, r, from, fr)
}

// find returns the extent that holds offset off, or len(extents).
func (fr *fileReader) find(off int64) int { return extentAt(fr.starts, off) }

func extentAt(starts []int64, off int64) int {
	lo, hi := 0, len(starts)-1
	for lo < hi {
		mid := (lo + hi) / 2
		if starts[mid+1] <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// lru keeps the values used last. Several callers that want the same value wait
// for one load.
type lru[K comparable, V any] struct {
	max   int
	gone  func(V) // if not nil, is told of values that were loaded and aren't kept any more
	mu    sync.Mutex
	items map[K]*lruItem[V] // guarded by mu, like what follows
	clock int64
}

type lruItem[V any] struct {
	used  int64
	ready chan struct{}
	value V
	err   error
}

// get returns the value of key, loading it if need be. A load that failed isn't
// kept; who waited for it loads by itself, for the reason may have been another
// caller's context.
func (c *lru[K, V]) get(ctx context.Context, key K, load func() (V, error)) (V, error) {
	for {
		item, mine := c.item(key)
		if mine {
			item.value, item.err = load()
			if item.err != nil {
				c.mu.Lock()
				delete(c.items, key)
				c.mu.Unlock()
			}
			close(item.ready)
			return item.value, item.err
		}
		select {
		case <-item.ready:
		case <-ctx.Done():
			var zero V
			return zero, ctx.Err()
		}
		if item.err == nil {
			return item.value, nil
		}
	}
}

// item returns key's item, and whether the caller has to fill it.
func (c *lru[K, V]) item(key K) (item *lruItem[V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items == nil {
		c.items = map[K]*lruItem[V]{}
	}
	c.clock++
	if item, ok := c.items[key]; ok {
		item.used = c.clock
		return item, false
	}
	if len(c.items) >= c.max {
		c.evict()
	}
	item = &lruItem[V]{used: c.clock, ready: make(chan struct{})}
	c.items[key] = item
	return item, true
}

// drop forgets key's value.
func (c *lru[K, V]) drop(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(key)
}

// evict drops the item whose last use is longest ago. One that is still loading
// goes too: those who wait for it have it.
func (c *lru[K, V]) evict() {
	var oldest K
	best := int64(-1)
	for k, item := range c.items {
		if best < 0 || item.used < best {
			oldest, best = k, item.used
		}
	}
	c.forget(oldest)
}

// forget is drop for who holds mu. Of a value that is still loading nobody is told.
func (c *lru[K, V]) forget(key K) {
	item, ok := c.items[key]
	if !ok {
		return
	}
	delete(c.items, key)
	select {
	case <-item.ready:
		if c.gone != nil && item.err == nil {
			c.gone(item.value)
		}
	default:
	}
}
