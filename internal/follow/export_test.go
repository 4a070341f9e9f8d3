package follow

import (
	"context"
	"errors"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// NewPolling is New on a system that tells nothing.
func NewPolling(ctx context.Context, opts Options) (*Follower, error) {
	return newFollower(ctx, opts, func() (watcher, error) { return nil, errors.ErrUnsupported })
}

// Strange is a system whose inotify does what a test says.
type Strange struct {
	// Gate, if not nil, must let each event pass, until it is closed.
	Gate chan struct{}

	mu    sync.Mutex // guards what is below
	limit error      // what adding a watch answers
	open  error      // what opening inotify answers
	deaf  bool       // events are lost
	errs  chan error
}

// New is follow.New on that system.
func (s *Strange) New(ctx context.Context, opts Options) (*Follower, error) {
	s.errs = make(chan error)
	return newFollower(ctx, opts, func() (watcher, error) {
		if err := s.get(&s.open); err != nil {
			return nil, err
		}
		w, err := openWatcher()
		if err != nil {
			return nil, err
		}
		out := make(chan fsnotify.Event)
		go s.forward(w.events(), out)
		return &strangeWatcher{w, s, out}, nil
	})
}

// SetLimit says what adding a watch answers, SetOpen what opening inotify does.
func (s *Strange) SetLimit(err error) { s.set(&s.limit, err) }
func (s *Strange) SetOpen(err error)  { s.set(&s.open, err) }

// SetDeaf says whether events are lost.
func (s *Strange) SetDeaf(deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = deaf
}

// Fail sends an error as inotify does.
func (s *Strange) Fail(err error) { s.errs <- err }

func (s *Strange) set(field *error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*field = err
}

func (s *Strange) get(field *error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *field
}

func (s *Strange) forward(in <-chan fsnotify.Event, out chan<- fsnotify.Event) {
	defer close(out)
	for ev := range in {
		if s.Gate != nil {
			<-s.Gate
		}
		s.mu.Lock()
		deaf := s.deaf
		s.mu.Unlock()
		if !deaf {
			out <- ev
		}
	}
}

type strangeWatcher struct {
	watcher
	s   *Strange
	out chan fsnotify.Event
}

func (w *strangeWatcher) Add(path string) error {
	if err := w.s.get(&w.s.limit); err != nil {
		return err
	}
	return w.watcher.Add(path)
}

func (w *strangeWatcher) events() <-chan fsnotify.Event { return w.out }
func (w *strangeWatcher) errors() <-chan error          { return w.s.errs }
