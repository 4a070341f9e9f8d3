package faulty

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

// late is a Store whose List shows the changes of keys later than they are made.
type late struct {
	storage.Store
	seed   uint64
	window time.Duration

	mu   sync.Mutex
	keys map[storage.Key]*history // guarded by mu
}

// history is what a key was, and from when a List shows it. The states stand in the
// order in which they were made, which is also that of their times; the first is
// what the key was before.
type history struct {
	changes int // all there ever were, which the next lateness is drawn from
	states  []state
}

type state struct {
	from time.Time
	info *storage.Info // nil if the object isn't there
}

// NewLate returns s with a List that is late, as those of some object stores are:
// each change of a key that goes through it shows up within window, at a moment
// drawn from seed and the key, and until then a new object is missing, a deleted
// one still there, and a replaced one the old one. The changes of one key show up
// in their order, those of different keys in any. Get and Stat are current. Time is
// time.Now, so in a bubble of testing/synctest it is the bubble's.
//
// Other clients of the same storage have to share the Store for their changes to
// be late.
func NewLate(s storage.Store, seed uint64, window time.Duration) storage.Store {
	return &late{Store: s, seed: seed, window: window, keys: map[storage.Key]*history{}}
}

// Put stores body under key.
func (l *late) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	return l.change(ctx, key, func() error { return l.Store.Put(ctx, key, body, opts) })
}

// Delete removes an object.
func (l *late) Delete(ctx context.Context, key storage.Key) error {
	return l.change(ctx, key, func() error { return l.Store.Delete(ctx, key) })
}

// change looks at the key before and after: a call that failed may have taken effect.
func (l *late) change(ctx context.Context, key storage.Key, do func() error) error {
	if !key.Valid() || ctx.Err() != nil {
		return do()
	}
	l.before(ctx, key)
	defer l.after(context.WithoutCancel(ctx), key)
	return do()
}

// before notes what the key is, unless changes of it are still to show up.
func (l *late) before(ctx context.Context, key storage.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.keys[key]
	if h == nil {
		h = &history{}
		l.keys[key] = h
	}
	if h.forget(time.Now()); len(h.states) < 2 {
		h.states = []state{{info: l.stat(ctx, key)}}
	}
}

// after notes what became of the key, and draws when that shows up.
func (l *late) after(ctx context.Context, key storage.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.keys[key]
	last := h.states[len(h.states)-1]
	now := l.stat(ctx, key)
	if same(last.info, now) {
		return
	}
	from := time.Now().Add(l.lateness(key, h.changes))
	if from.Before(last.from) {
		from = last.from
	}
	h.changes++
	h.states = append(h.states, state{from, now})
}

func (l *late) stat(ctx context.Context, key storage.Key) *storage.Info {
	info, err := l.Store.Stat(ctx, key)
	if err != nil {
		return nil
	}
	return &info
}

func same(a, b *storage.Info) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// lateness depends on the key and the number of its change alone, not on what is
// done to others meanwhile. A quarter of the changes isn't late.
func (l *late) lateness(key storage.Key, change int) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	r := rand.New(rand.NewPCG(l.seed, h.Sum64()+uint64(change)))
	if l.window <= 0 || r.IntN(4) == 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(l.window)))
}

// List shows what there was, key by key, as late as that key is.
func (l *late) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	shown := map[storage.Key]storage.Info{}
	err := l.Store.List(ctx, prefix, func(info storage.Info) error {
		shown[info.Key] = info
		return nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	for key, h := range l.keys {
		if !strings.HasPrefix(string(key), prefix) {
			continue
		}
		h.forget(time.Now())
		if len(h.states) < 2 {
			continue // it shows as it is
		}
		if info := h.states[0].info; info != nil {
			shown[key] = *info
		} else {
			delete(shown, key)
		}
	}
	l.mu.Unlock()
	infos := make([]storage.Info, 0, len(shown))
	for _, info := range shown {
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b storage.Info) int { return strings.Compare(string(a.Key), string(b.Key)) })
	for _, info := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// forget drops the states that others show up in place of at now.
func (h *history) forget(now time.Time) {
	for len(h.states) > 1 && !h.states[1].from.After(now) {
		h.states = h.states[1:]
	}
}
