package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
)

// shelf is a table of documents with a copy in memory, which follows what other
// servers change. Documents are never changed in place: whoever has one may read it
// for as long as he likes.
type shelf[T any] struct {
	table table
	name  string
	log   *slog.Logger
	// changed is told of each change, under the lock: old or now is nil for what comes
	// or goes.
	changed func(id string, old, now *T)
	ring    func()               // is called after each change, under the lock
	watch   func() time.Duration // see Config.Watch
	// share lets a new document use strings that there are already: its key, and what
	// others have too.
	share func(id string, doc *T)

	mu    sync.RWMutex
	docs  map[string]kept[T]
	gone  map[string]uint64 // revisions of deletions that the watch hasn't told yet
	bad   map[string]bool   // what can't be read
	last  uint64            // the highest revision that is known
	told  uint64            // and that the watch has told
	ready chan struct{}     // closed once the copy is complete
}

// table is what a shelf needs of a *bus.Table.
type table interface {
	Get(ctx context.Context, key string) ([]byte, uint64, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)
	Delete(ctx context.Context, key string, rev uint64) error
	Watch(ctx context.Context, fn func(bus.Change)) error
}

type kept[T any] struct {
	rev uint64
	doc *T
	at  time.Duration // by the watch, when this revision came to be known here
}

func openShelf[T any](ctx context.Context, b *bus.Bus, name string, log *slog.Logger, watch func() time.Duration, changed func(string, *T, *T)) (*shelf[T], error) {
	table, err := b.Table(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open table %s: %w", name, err)
	}
	s := &shelf[T]{table: table, name: name, log: log.With("table", name), watch: watch, changed: changed, docs: map[string]kept[T]{}, gone: map[string]uint64{},
		bad: map[string]bool{}, ready: make(chan struct{})}
	if changed == nil {
		s.changed = func(string, *T, *T) {}
	}
	s.share, s.ring = func(string, *T) {}, func() {}
	return s, nil
}

// get returns a document from memory, or else from the table: another server may have
// made it just now. It returns bus.ErrNotFound.
func (s *shelf[T]) get(ctx context.Context, id string) (*T, error) {
	if doc := s.have(id); doc != nil {
		return doc, nil
	}
	k, err := s.read(ctx, id)
	return k.doc, err
}

// have returns the document in memory, or nil.
func (s *shelf[T]) have(id string) *T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.docs[id].doc
}

// all calls fn with each document in memory, in no order, until it returns false.
func (s *shelf[T]) all(fn func(id string, doc *T) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, k := range s.docs {
		if !fn(id, k.doc) {
			return
		}
	}
}

// each is all with how long ago each document last changed, by the watch of this server,
// whatever its stamps and the clocks say. What it had when it started changed then.
func (s *shelf[T]) each(fn func(id string, doc *T, ago time.Duration) bool) {
	now := s.watch()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, k := range s.docs {
		if !fn(id, k.doc, now-k.at) {
			return
		}
	}
}

// ago is the third argument of each's function for one document.
func (s *shelf[T]) ago(id string) time.Duration {
	now := s.watch()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return now - s.docs[id].at
}

// read returns what the table has.
func (s *shelf[T]) read(ctx context.Context, id string) (kept[T], error) {
	b, rev, err := s.table.Get(ctx, id)
	if err != nil {
		return kept[T]{}, err
	}
	doc := new(T)
	if err := json.Unmarshal(b, doc); err != nil {
		return kept[T]{}, fmt.Errorf("document %s: %w", id, err)
	}
	s.share(id, doc)
	s.put(id, doc, rev)
	return kept[T]{rev: rev, doc: doc}, nil
}

// create stores a new document. It returns bus.ErrExists.
func (s *shelf[T]) create(ctx context.Context, id string, doc *T) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	rev, err := s.table.Create(ctx, id, b)
	if err != nil {
		return err
	}
	s.share(id, doc)
	s.put(id, doc, rev)
	return nil
}

// update changes a copy of a document by fn and stores it, again from the start if
// somebody else changed it meanwhile: fn may run several times. The error of fn is
// returned as it is and nothing is stored; errSame stores nothing and is no error. Both
// are what fn says of the table, and not of a copy in memory that may lag behind it.
func (s *shelf[T]) update(ctx context.Context, id string, fn func(*T) error) (*T, error) {
	s.mu.RLock()
	k := s.docs[id]
	s.mu.RUnlock()
	for try := 0; ; try++ {
		fresh := k.doc == nil
		if fresh {
			var err error
			if k, err = s.read(ctx, id); err != nil {
				return nil, err
			}
		}
		next := *k.doc
		switch err := fn(&next); {
		case err != nil && !fresh:
			k.doc = nil
			continue
		case errors.Is(err, errSame):
			return k.doc, nil
		case err != nil:
			return nil, err
		}
		b, err := json.Marshal(&next)
		if err != nil {
			return nil, err
		}
		rev, err := s.table.Update(ctx, id, b, k.rev)
		if err == nil {
			s.share(id, &next)
			s.put(id, &next, rev)
			return &next, nil
		}
		if !errors.Is(err, bus.ErrConflict) || try > 100 {
			return nil, err
		}
		k.doc = nil // read it anew
	}
}

var errSame = errors.New("nothing to change")

// remove deletes a document; that it is gone already is no error.
func (s *shelf[T]) remove(ctx context.Context, id string) error {
	err := s.table.Delete(ctx, id, 0)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.docs[id]; old.doc != nil {
		s.gone[id] = old.rev
		delete(s.docs, id)
		s.changed(id, old.doc, nil)
		s.ring()
	}
	return nil
}

// put takes a revision into memory, unless a newer one is there.
func (s *shelf[T]) put(id string, doc *T, rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place(id, doc, rev)
}

// place is put with the lock held.
func (s *shelf[T]) place(id string, doc *T, rev uint64) {
	s.last = max(s.last, rev)
	old := s.docs[id]
	if old.doc != nil && old.rev >= rev || rev <= s.gone[id] {
		return
	}
	delete(s.gone, id)
	s.docs[id] = kept[T]{rev, doc, s.watch()}
	s.changed(id, old.doc, doc)
	s.ring()
}

// follow keeps the copy in step with the table until ctx ends.
func (s *shelf[T]) follow(ctx context.Context) error {
	return s.table.Watch(ctx, s.learn)
}

// learn takes in one thing that the watch says.
func (s *shelf[T]) learn(c bus.Change) {
	var doc *T
	switch {
	case c.Ready, c.Deleted:
	default:
		doc = new(T)
		if err := json.Unmarshal(c.Value, doc); err != nil {
			s.log.Error("a document can't be read and is left out", "id", c.Key, "err", err)
			doc = nil
		} else {
			s.share(c.Key, doc)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = max(s.told, c.Rev)
	s.last = max(s.last, c.Rev)
	switch {
	case c.Ready:
		close(s.ready)
	case doc != nil:
		delete(s.bad, c.Key)
		s.place(c.Key, doc, c.Rev)
	case !c.Deleted:
		s.bad[c.Key] = true
	default:
		delete(s.bad, c.Key)
		delete(s.gone, c.Key)
		if old := s.docs[c.Key]; old.doc != nil && old.rev < c.Rev {
			delete(s.docs, c.Key)
			s.changed(c.Key, old.doc, nil)
			s.ring()
		}
	}
}

func (s *shelf[T]) title() string            { return s.name }
func (s *shelf[T]) isReady() <-chan struct{} { return s.ready }
func (s *shelf[T]) tell(ring func())         { s.ring = ring }

// count returns how many documents there are, and up to which revision; false at a moment
// at which the watch has not told all that was done here.
func (s *shelf[T]) count() (counted, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := len(s.docs)
	for id := range s.bad {
		if s.docs[id].doc == nil { // else it is there as it was before
			n++
		}
	}
	return counted{Entries: n, Last: s.last}, s.told == s.last
}

// lost returns how many documents can't be read.
func (s *shelf[T]) lost() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.bad)
}
