// Package states opens repositories and states of an instance to be looked into, in the process of whoever looks: a server that has
// the key, or an agent that has it. It is told which backups there are and may be read, and knows neither catalog nor callers.
//
// What was opened stays open for a while, as looks come in rows: a state until nobody has looked at it for five minutes, or another
// one needs its place. Each holds at most some 50 MiB.
package states

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
)

const (
	// CacheSize is how much a repository that is looked into may keep in memory of what was read, in bytes; Memory is what a
	// state takes in all, about.
	CacheSize = 16 << 20
	Memory    = 3 * CacheSize
	// LookEvery is how often Look is to be called.
	LookEvery = 5 * time.Second

	openTime = 45 * time.Second // for opening one: who asked has hung up then, or will
	// viewIdle is how long what was looked at stays open when nobody looks.
	viewIdle = 5 * time.Minute
	// viewFresh is for how long the newest moment counts as the newest.
	viewFresh = 20 * time.Second
	// viewLate is how long after a time what was shipped then may still arrive.
	viewLate = 10 * time.Minute
)

// State names a backup of an instance by its id in the catalog or in its repository, or by "latest"; or the newest moment up to
// a time. The zero value is the newest moment.
type State struct {
	Backup string    `json:"backup,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Shelf is what may be read of an instance, as the catalog has it.
type Shelf struct {
	// Backups are those that can be read, the newest first; there is one.
	Backups []*job.Backup
	// Open opens the repository that a backup is in, with a key that reads it, and returns how to close it. An error is a
	// *refusal.Error, or what package repo or a storage says.
	Open func(ctx context.Context, b *job.Backup) (*repo.Repo, func(), error)
	// Whose tells those apart for whom Open opens something else in a Swift account.
	Whose string
}

// Beside are the backups in the repository that one is in, under the same name.
func (of *Shelf) Beside(b *job.Backup) (list []*job.Backup) {
	for _, x := range of.Backups {
		if x.Repository.URL == b.Repository.URL && x.Repository.Storage == b.Repository.Storage && x.RepoName == b.RepoName {
			list = append(list, x)
		}
	}
	return list
}

// Options are the options of New.
type Options struct {
	// Most is how many states may be open at a time; two can be in any case, to be compared.
	Most int
	// Readable reports whether a backup that was opened may still be read; nil says that it may.
	Readable func(b *job.Backup) bool
}

// Set is what is open.
type Set struct {
	o Options

	mu      sync.Mutex
	readers map[readerKey]*reader // guarded by mu, like what follows
	ending  bool                  // no more are opened
}

// New returns a set without any.
func New(o Options) *Set {
	if o.Readable == nil {
		o.Readable = func(*job.Backup) bool { return true }
	}
	return &Set{o: o, readers: map[readerKey]*reader{}}
}

// View is the repository of an instance's backups, and a state of it. Close must be called.
type View struct {
	Repo    *repo.Repo
	Name    string        // of the instance in the repository
	Backups []*job.Backup // that can be read there, the newest first
	// What follows is of a state, unless only the repository was asked for.
	Node   *serve.Node
	Taken  time.Time   // of when it is
	Moment bool        // it was shipped, and is no backup
	Backup *job.Backup // that it is, nil of a moment
	Base   *manifest.Record
	// Life is for how long shards that are opened stay open: not only for the request.
	Life context.Context //nolint:containedctx // the node's, which outlives requests

	set    *Set
	reader *reader
	state  *viewed
}

// readerKey says whose reader of what one is.
type readerKey struct {
	project, url, id, storage, name, whose string
}

// reader is a repository that is open. What can change is guarded by the set's mu.
type reader struct {
	key   readerKey
	ready chan struct{} // closed when repo or err is there
	err   error
	repo  *repo.Repo
	close func()

	used   time.Time
	under  int // views
	gone   bool
	states map[string]*viewed
	// same has for exact times of moments that were asked for by a later time, as pages link to them, the keys of states.
	same map[string]string
}

// viewed is a state that is open. What can change is guarded by the set's mu.
type viewed struct {
	ready  chan struct{}
	err    error
	node   *serve.Node
	taken  time.Time
	moment bool
	base   *manifest.Record
	backup string          // id in the catalog, "" of a moment
	life   context.Context //nolint:containedctx // the node's
	cancel context.CancelFunc

	before struct { // the backup before it
		once sync.Once
		rec  *manifest.Record
		m    *manifest.Manifest
		err  error
	}
	notes sync.Map

	stale time.Time // zero: never
	used  time.Time
	under int
	gone  bool
}

// View opens a state to be read, or finds it open.
func (s *Set) View(ctx context.Context, of *Shelf, q State) (*View, error) {
	return s.view(ctx, of, &q)
}

// Repository is View without a state.
func (s *Set) Repository(ctx context.Context, of *Shelf) (*View, error) {
	return s.view(ctx, of, nil)
}

func (s *Set) view(ctx context.Context, of *Shelf, q *State) (*View, error) {
	b := of.Backups[0]
	if q != nil && q.Backup != "" && q.Backup != "latest" {
		i := slices.IndexFunc(of.Backups, func(b *job.Backup) bool { return b.ID == q.Backup || b.RepoID == q.Backup })
		if i < 0 {
			return nil, refusal.New(refusal.NotFound, "Backup %s is none of this instance that can be read.", q.Backup)
		}
		b = of.Backups[i]
	}
	r, err := s.readerOf(ctx, of, b)
	if err != nil {
		return nil, err
	}
	v := &View{Repo: r.repo, Name: b.RepoName, Backups: of.Beside(b), set: s, reader: r, Life: ctx}
	if q == nil {
		return v, nil
	}
	if err := v.open(ctx, b, *q); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// readerOf opens the repository that a backup is in, or finds it open, and counts a view.
func (s *Set) readerOf(ctx context.Context, of *Shelf, b *job.Backup) (*reader, error) {
	key := readerKey{project: b.Project, url: b.Repository.URL, id: b.Repository.ID, storage: b.Repository.Storage, name: b.RepoName}
	if b.Repository.Storage != "" {
		key.whose = of.Whose
	}
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		return nil, refusal.New(refusal.Unavailable, "What reads the backups is ending: ask again in a moment.")
	}
	r := s.readers[key]
	mine := r == nil
	if mine {
		r = &reader{key: key, ready: make(chan struct{}), states: map[string]*viewed{}, same: map[string]string{}}
		s.readers[key] = r
	}
	r.under++
	r.used = time.Now()
	s.mu.Unlock()
	if mine {
		r.err = openReader(ctx, of, b, r)
		close(r.ready)
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		s.leaveReader(r)
		return nil, Told(ctx, ctx.Err())
	}
	if r.err != nil {
		s.mu.Lock()
		if s.readers[key] == r {
			delete(s.readers, key)
		}
		r.gone = true
		s.mu.Unlock()
		s.leaveReader(r)
		return nil, r.err
	}
	return r, nil
}

// openReader opens a repository and proves that what is in it under the instance's name is the project's own.
func openReader(asked context.Context, of *Shelf, b *job.Backup, r *reader) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(asked), openTime)
	defer cancel()
	err := func() (err error) {
		if r.repo, r.close, err = of.Open(ctx, b); err != nil {
			return err
		}
		if b.Repository.ID != "" && r.repo.Config().ID != b.Repository.ID {
			return refusal.New(refusal.Conflict, "The repository that is reached there is another one than that of the backup.")
		}
		if err := r.repo.Unlock(ctx); err != nil {
			return err
		}
		if b.Repository.Storage != "" { // who has a Swift account has what is in it
			return nil
		}
		list, _, err := r.repo.List(ctx, b.RepoName)
		if err != nil {
			return err
		}
		for _, rec := range list {
			if job.OfOtherProject(rec.Labels, b.Project) {
				return refusal.New(refusal.Forbidden, "What is stored there is another project's.")
			}
		}
		return nil
	}()
	if err != nil {
		return Told(ctx, err)
	}
	return nil
}

func (s *Set) leaveReader(r *reader) {
	s.mu.Lock()
	r.under--
	r.used = time.Now()
	free := r.gone && r.under == 0
	s.mu.Unlock()
	if free && r.close != nil {
		r.close()
	}
}

// open opens the state that is meant.
func (v *View) open(ctx context.Context, b *job.Backup, q State) error {
	s, r := v.set, v.reader
	now := time.Now()
	if q.At.After(now.Add(time.Minute)) {
		return refusal.New(refusal.Invalid, "That time is in the future.")
	}
	key := momentKey(q.At)
	if q.Backup != "" {
		key = "backup " + b.RepoID
	}
	s.mu.Lock()
	if other, ok := r.same[key]; ok && r.states[key] == nil {
		if y := r.states[other]; y != nil && (y.stale.IsZero() || !now.After(y.stale)) {
			key = other
		}
	}
	x := r.states[key]
	if x != nil && !x.stale.IsZero() && now.After(x.stale) {
		s.dropState(r, key, x)
		x = nil
	}
	mine := x == nil
	if mine {
		if !s.roomForState() {
			s.mu.Unlock()
			return refusal.New(refusal.Busy, "Too many backups are being looked at here just now: try again in a moment.")
		}
		x = &viewed{ready: make(chan struct{})}
		if q.Backup == "" && (q.At.IsZero() || now.Sub(q.At) < viewLate) {
			x.stale = now.Add(viewFresh)
		}
		if q.Backup != "" {
			x.backup = b.ID
		}
		r.states[key] = x
	}
	x.under++
	x.used = now
	s.mu.Unlock()
	v.state = x
	if mine {
		x.err = v.openState(ctx, b, q)
		if exact := momentKey(x.taken); x.err == nil && q.Backup == "" && exact != key {
			s.mu.Lock()
			if r.states[key] == x {
				r.same[exact] = key
			}
			s.mu.Unlock()
		}
		close(x.ready)
	}
	select {
	case <-x.ready:
	case <-ctx.Done():
		return Told(ctx, ctx.Err())
	}
	if x.err != nil {
		s.mu.Lock()
		if r.states[key] == x {
			delete(r.states, key)
		}
		x.gone = true
		s.mu.Unlock()
		return x.err
	}
	v.Node, v.Taken, v.Moment, v.Base, v.Life = x.node, x.taken, x.moment, x.base, x.life
	if i := slices.IndexFunc(v.Backups, func(b *job.Backup) bool { return b.ID == x.backup }); i >= 0 {
		v.Backup = v.Backups[i]
	}
	return nil
}

// momentKey names the newest moment up to a time among the states of a reader.
func momentKey(at time.Time) string { return "moment " + at.UTC().Format(time.RFC3339Nano) }

func (v *View) openState(asked context.Context, b *job.Backup, q State) error {
	x := v.state
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	x.life, x.cancel = ctx, cancel
	late := time.AfterFunc(openTime, cancel)
	defer late.Stop()
	err := func() error {
		if q.Backup != "" {
			rec, err := v.Repo.Record(ctx, v.Name, manifest.BackupID(b.RepoID))
			if err != nil {
				return err
			}
			m, err := v.Repo.Manifest(ctx, rec)
			if err != nil {
				return err
			}
			x.base, x.taken = rec, rec.Started.UTC()
			x.node, err = serve.OpenNode(ctx, v.Repo, m)
			return err
		}
		m, moment, err := v.Repo.At(ctx, v.Name, q.At)
		if err != nil {
			return err
		}
		x.base, x.taken, x.moment = moment.Base, moment.At.UTC(), moment.Chain != ""
		x.node, err = serve.OpenNode(ctx, v.Repo, m)
		return err
	}()
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		defer cancel()
		return Told(ctx, err)
	}
	return nil
}

// Close ends the look. What was opened stays so for a while.
func (v *View) Close() {
	if x := v.state; x != nil {
		v.set.mu.Lock()
		x.under--
		x.used = time.Now()
		free := x.gone && x.under == 0
		v.set.mu.Unlock()
		if free {
			x.release()
		}
		v.state = nil
	}
	if v.reader != nil {
		v.set.leaveReader(v.reader)
		v.reader = nil
	}
}

// Before returns the backup before the state, and what it has; nil if there is none.
func (v *View) Before(ctx context.Context) (*manifest.Record, *manifest.Manifest, error) {
	b := &v.state.before
	b.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
		defer cancel()
		list, _, err := v.Repo.List(ctx, v.Name)
		if err != nil {
			b.err = err
			return
		}
		for _, rec := range list {
			older := rec.Started.Before(v.Base.Started)
			if v.Moment { // which goes on from its base
				older = rec.ID == v.Base.ID || older
			}
			if older && (b.rec == nil || rec.Started.After(b.rec.Started)) {
				b.rec = rec
			}
		}
		if b.rec != nil {
			b.m, b.err = v.Repo.Manifest(ctx, b.rec)
		}
	})
	return b.rec, b.m, b.err
}

// Note keeps something that was computed of the state for as long as it is open: make is called if there is nothing under the key.
func (v *View) Note(key string, make func() (any, error)) (any, error) {
	if x, ok := v.state.notes.Load(key); ok {
		return x, nil
	}
	x, err := make()
	if err == nil {
		v.state.notes.Store(key, x)
	}
	return x, err
}

func (x *viewed) release() {
	if x.cancel != nil {
		x.cancel()
	}
	if x.node != nil {
		x.node.Close()
	}
}

// Len is how many states are open.
func (s *Set) Len() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.readers {
		n += len(r.states)
	}
	return n
}

// dropState takes a state out of what is open. The set's mu is held.
func (s *Set) dropState(r *reader, key string, x *viewed) {
	if r.states[key] == x {
		delete(r.states, key)
		maps.DeleteFunc(r.same, func(_, of string) bool { return of == key })
	}
	x.gone = true
	if x.under == 0 {
		go x.release()
	}
}

// roomForState makes room for another state, by closing the one that nobody has looked at for the longest. The set's mu is held.
func (s *Set) roomForState() bool {
	n := 0
	var oldest *viewed
	var of *reader
	var at string
	for _, r := range s.readers {
		for key, x := range r.states {
			n++
			if x.under == 0 && (oldest == nil || x.used.Before(oldest.used)) {
				oldest, of, at = x, r, key
			}
		}
	}
	if n < max(s.o.Most, 2) { // two are needed to compare
		return true
	}
	if oldest == nil {
		return false
	}
	s.dropState(of, at, oldest)
	return true
}

// Look closes what nobody looks at any more, or may; now is the time.
func (s *Set) Look(now time.Time) { s.look(now, false) }

// End closes all, and has no more opened. Looks under way fail.
func (s *Set) End() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.look(time.Now(), true)
}

func (s *Set) look(now time.Time, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range s.readers {
		for at, x := range r.states {
			if all || x.under == 0 && now.Sub(x.used) >= viewIdle || x.backup != "" && !s.o.Readable(&job.Backup{ID: x.backup, Project: key.project}) {
				s.dropState(r, at, x)
			}
		}
		if all || r.under == 0 && len(r.states) == 0 && now.Sub(r.used) >= viewIdle {
			delete(s.readers, key)
			r.gone = true
			if r.under == 0 && r.close != nil {
				go r.close()
			}
		}
	}
}

// Told says what went wrong with reading, in a sentence for whoever asked. The cause is for the log.
func Told(ctx context.Context, err error) error {
	var own *refusal.Error
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, repo.ErrNoKey), errors.Is(err, repo.ErrWrongKey):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "This server has no key that reads the backup. Give it one with the setting identity_file, or run slipcover serve where the key is."}
	case errors.Is(err, repo.ErrKeyGone):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "The backup can't be read by anyone: " + repo.ErrKeyGone.Error() + "."}
	case errors.Is(err, repo.ErrNoMoment), errors.Is(err, repo.ErrGap):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "There is no such moment: slipcover points shows which there are, on a machine that has the key."}
	case errors.Is(err, repo.ErrNoBackup):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "The backup isn't in its repository any more."}
	case errors.Is(err, repo.ErrCorrupt), errors.Is(err, repo.ErrSignature):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "What is stored of the backup is damaged: the log of who read it says how."}
	case ctx.Err() != nil:
		return &refusal.Error{Kind: refusal.Unavailable, Cause: err, Message: "The backup could not be opened in time: try again later, or run slipcover serve where the key is."}
	}
	return &refusal.Error{Kind: refusal.Unavailable, Cause: err, Message: "The backup can't be opened now: the log of who read it says why."}
}

// ErrElsewhere is the cause where whoever reads doesn't have the repository of a backup.
var ErrElsewhere = errors.New("whoever reads doesn't have the repository")

// CannotRead reports whether an error says that nothing of the instance can be read here, as the key or the repository lacks,
// whatever is asked for.
func CannotRead(err error) bool {
	return errors.Is(err, repo.ErrNoKey) || errors.Is(err, repo.ErrWrongKey) || errors.Is(err, repo.ErrKeyGone) || errors.Is(err, ErrElsewhere)
}
