package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/slipcover/slipcover/internal/storage"
)

// patternBody is a Body of any size that takes no memory: each 8 bytes are their
// own number, mixed.
type patternBody struct{ size int64 }

func (b patternBody) Size() int64 { return b.size }

func (b patternBody) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off+int64(n) < b.size {
		var word [8]byte
		at := off + int64(n)
		binary.LittleEndian.PutUint64(word[:], uint64(at/8+1)*0x9e3779b97f4a7c15)
		n += copy(p[n:min(int64(len(p)), b.size-off)], word[at%8:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// equal reads r to its end and compares it with size bytes of b from off.
func (b patternBody) equal(r io.Reader, off, size int64) error {
	want := io.NewSectionReader(b, off, size)
	got, exp := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := off; ; {
		n, err := io.ReadFull(r, got)
		m, _ := io.ReadFull(want, exp) // its only error is the end
		if !bytes.Equal(got[:n], exp[:m]) {
			return fmt.Errorf("the %d bytes from %d aren't those that were put", n, at)
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if at != off+size {
				return fmt.Errorf("got %d bytes from %d, want %d", at-off, off, size)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func largeObject(ctx context.Context, e *env) error {
	size := e.opts.LargeBytes
	b := patternBody{size}
	if err := e.store.Put(ctx, e.key("large"), b, storage.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	info, err := e.store.Stat(ctx, e.key("large"))
	if err != nil {
		return err
	}
	if info.Size != size {
		return fmt.Errorf("stat: got %d bytes, want %d", info.Size, size)
	}
	for _, r := range []struct{ off, n int64 }{{0, size}, {size / 3, size / 2}, {size - 4099, 4099}} {
		err := e.store.Get(ctx, e.key("large"), r.off, r.n, func(rd io.Reader) error { return b.equal(rd, r.off, r.n) })
		if err != nil {
			return fmt.Errorf("get with off %d, n %d: %w", r.off, r.n, err)
		}
	}
	return nil
}

// group runs functions side by side and keeps their errors; after the first one
// ctx is done.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error // the first; guarded by mu
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

func (g *group) run(fn func(ctx context.Context) error) {
	g.wg.Go(func() {
		if err := fn(g.ctx); err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.err == nil {
				g.err = err
			}
			g.cancel()
		}
	})
}

func (g *group) wait() error {
	g.wg.Wait()
	g.cancel()
	return g.err
}

func ifAbsentRace(ctx context.Context, e *env) error {
	const writers = 16
	for round := range 4 {
		name := fmt.Sprintf("round%d/a", round)
		bodies := make([]string, writers)
		errs := make([]error, writers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range writers {
			bodies[i] = strings.Repeat(string(rune('a'+i)), 1000+100*i)
			wg.Go(func() {
				<-start
				errs[i] = e.putNew(ctx, name, bodies[i])
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				return fmt.Errorf("of %d puts if absent %d and %d both won", writers, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, storage.ErrExist):
				return fmt.Errorf("put if absent: got %w, want ErrExist", err)
			}
		}
		if winner < 0 {
			return fmt.Errorf("of %d puts if absent none won", writers)
		}
		if err := e.want(ctx, name, bodies[winner]); err != nil {
			return err
		}
	}
	return nil
}

// replaceAtomic has readers look at an object which is replaced all the time by
// bodies of one letter, whose length tells the letter.
func replaceAtomic(ctx context.Context, e *env) error {
	size := func(letter byte) int { return 50_000 + 1000*int(letter-'a') }
	makeBody := func(i int) string {
		letter := byte('a' + i%26)
		return strings.Repeat(string(letter), size(letter))
	}
	if err := e.put(ctx, "a", makeBody(0)); err != nil {
		return err
	}
	done := make(chan struct{})
	g := newGroup(ctx)
	g.run(func(ctx context.Context) error {
		defer close(done)
		for i := range 60 {
			if err := e.put(ctx, "a", makeBody(i)); err != nil {
				return err
			}
		}
		return nil
	})
	for range 4 {
		g.run(func(ctx context.Context) error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				got, err := e.get(ctx, "a", 0, -1)
				if err != nil {
					return fmt.Errorf("get during puts: %w", err)
				}
				if len(got) == 0 || len(got) != size(got[0]) || strings.Trim(got, got[:1]) != "" {
					return fmt.Errorf("get during puts: got %s, which nobody put", short(got))
				}
			}
		})
	}
	return g.wait()
}

// listBesideChanges: what is there all the time is shown, once and in order,
// whatever else comes and goes.
func listBesideChanges(ctx context.Context, e *env) error {
	var stable []string
	for i := range 40 {
		name := fmt.Sprintf("d%d/stable%02d", i%4, i/4)
		stable = append(stable, name)
		if err := e.put(ctx, name, "x"); err != nil {
			return err
		}
	}
	slices.Sort(stable)
	done := make(chan struct{})
	g := newGroup(ctx)
	for w := range 4 {
		g.run(func(ctx context.Context) error {
			for i := 0; ; i++ {
				select {
				case <-done:
					return nil
				default:
				}
				name := fmt.Sprintf("d%d/come%d-%d", i%6, w, i%3)
				if err := e.put(ctx, name, "x"); err != nil {
					return err
				}
				if err := e.store.Delete(ctx, e.key(name)); err != nil {
					return err
				}
			}
		})
	}
	g.run(func(ctx context.Context) error {
		defer close(done)
		for range 30 {
			got, err := e.list(ctx, "")
			if err != nil {
				return err
			}
			if !slices.IsSorted(got) {
				return fmt.Errorf("list isn't in order: %q", got)
			}
			got = slices.DeleteFunc(got, func(name string) bool { return !strings.Contains(name, "/stable") })
			if !slices.Equal(got, stable) {
				return fmt.Errorf("list beside changes: of what is there all the time\n got %q\nwant %q", got, stable)
			}
		}
		return nil
	})
	return g.wait()
}

// putDeleteRace has a folder become empty, and be used again, all the time.
func putDeleteRace(ctx context.Context, e *env) error {
	g := newGroup(ctx)
	for w := range 8 {
		g.run(func(ctx context.Context) error {
			name := fmt.Sprintf("deep/er/w%d", w)
			for i := range 25 {
				put := e.put
				if i%2 == 1 {
					put = e.putNew
				}
				if err := put(ctx, name, name); err != nil {
					return fmt.Errorf("put beside deletes: %w", err)
				}
				if err := e.want(ctx, name, name); err != nil {
					return err
				}
				if err := e.store.Delete(ctx, e.key(name)); err != nil {
					return fmt.Errorf("delete beside puts: %w", err)
				}
			}
			return nil
		})
	}
	if err := g.wait(); err != nil {
		return err
	}
	if got, err := e.list(ctx, ""); err != nil || len(got) > 0 {
		return fmt.Errorf("list after all was deleted: got %q, %v", got, err)
	}
	return nil
}

// mixedLoad: each worker knows what its own keys hold, and does anything to them,
// while all of them also use some keys together.
func mixedLoad(ctx context.Context, e *env) error {
	g := newGroup(ctx)
	for w := range 8 {
		g.run(func(ctx context.Context) error {
			wk := worker{e: e, id: w, rnd: rand.New(rand.NewPCG(uint64(w), 1)), model: map[string]string{}}
			for i := range 60 {
				if err := wk.step(ctx); err != nil {
					return fmt.Errorf("worker %d, step %d: %w", w, i, err)
				}
			}
			return wk.compare(ctx)
		})
	}
	return g.wait()
}

type worker struct {
	e     *env
	id    int
	rnd   *rand.Rand
	model map[string]string // what this worker's keys hold
}

func (w *worker) step(ctx context.Context) error {
	name := fmt.Sprintf("w%d/%d/k", w.id, w.rnd.IntN(5))
	text := strings.Repeat(fmt.Sprint(w.rnd.IntN(1000)), 1+w.rnd.IntN(3000))
	switch w.rnd.IntN(6) {
	case 0, 1:
		w.model[name] = text
		return w.e.put(ctx, name, text)
	case 2:
		_, there := w.model[name]
		err := w.e.putNew(ctx, name, text)
		if there != errors.Is(err, storage.ErrExist) {
			return fmt.Errorf("put if absent, object is there: %v: got %v", there, err)
		}
		if there {
			return nil
		}
		w.model[name] = text
		return err
	case 3:
		delete(w.model, name)
		return w.e.store.Delete(ctx, w.e.key(name))
	case 4:
		return w.shared(ctx)
	default:
		if text, ok := w.model[name]; ok {
			return w.e.want(ctx, name, text)
		}
		return w.e.wantAbsent(ctx, name)
	}
}

// shared uses a key that others put and delete too.
func (w *worker) shared(ctx context.Context) error {
	name := fmt.Sprintf("shared/%d", w.rnd.IntN(3))
	if w.rnd.IntN(2) == 0 {
		var err error
		for range 5 { // what another deletes just then may ask for another try, as Swift does
			if err = w.e.putNew(ctx, name, "shared"); !errors.Is(err, storage.ErrUnavailable) {
				break
			}
		}
		if errors.Is(err, storage.ErrExist) {
			return nil
		}
		return err
	}
	got, err := w.e.get(ctx, name, 0, -1)
	if err == nil && got != "shared" {
		return fmt.Errorf("get %s: got %s", name, short(got))
	}
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	return w.e.store.Delete(ctx, w.e.key(name))
}

func (w *worker) compare(ctx context.Context) error {
	got, err := w.e.list(ctx, fmt.Sprintf("w%d/", w.id))
	if err != nil {
		return err
	}
	var want []string
	for name, text := range w.model {
		want = append(want, name)
		if err := w.e.want(ctx, name, text); err != nil {
			return err
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("list: got %q, want %q", got, want)
	}
	return nil
}
