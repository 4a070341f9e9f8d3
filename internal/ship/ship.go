package ship

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/follow"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

var (
	// ErrNoBase says that there is no backup of this node that shipping could go on from.
	ErrNoBase = errors.New("there is no backup of this node to go on from")
	// ErrOther says that somebody else ships the instance, or has since this node did.
	ErrOther = errors.New("the instance is shipped from elsewhere")
)

// Options are the options of Open.
type Options struct {
	Repo     *repo.Repo
	Node     *node.Node
	Instance string
	StateDir string
	Tool     string        // name and version of the program
	Interval time.Duration // between two ticks; 1 s if 0
	// Compaction and Tails are how what was compacted and appended is stored, as for a backup;
	// "" is capture.Replay.
	Compaction, Tails string
	// TakeOver goes on though another one has shipped the instance since this node did.
	TakeOver bool
	// KeepMoments is for how long moments are kept, counted from the newest one; 0 is for ever.
	KeepMoments time.Duration
	// Protect is for how long the storage protects roll-ups of the long level, and what they refer to, from being
	// deleted or replaced; 0 is not at all.
	Protect time.Duration

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // the clock that ticks are stamped by; nil is time.Now
}

// Shipper ships one instance. Its methods but Status are called by one goroutine.
type Shipper struct {
	o       Options
	dir     string // of the instance's state
	log     *slog.Logger
	key     *repo.WriteKey
	signer  ed25519.PrivateKey
	takers  *capture.Takers
	follow  *follow.Follower
	lock    *os.File // open and locked as long as the shipper works
	journal *state.Journal
	chain   state.Chain
	files   map[capture.Name]*capture.Known
	dirty   map[capture.Name]bool // to be looked at in the next tick; true if it was gone in the last
	config  bool                  // ini files are to be looked at
	quiet   time.Time             // when nothing was known to be new
	waited  bool                  // nothing was new until the system told it, just now
	beat    atomic.Int64          // when Tell last ran, Unix milliseconds; 0 if it doesn't
	stood   atomic.Int64          // since when it stood still, the last time that it did, Unix milliseconds; 0 if never
	looked  time.Time             // when the chain was last found to be this shipper's
	started time.Time             // of the tick that is made
	based   state.Stamp           // of the backup's state that was taken over
	boot    string                // this start of the machine
	booted  bool                  // it was started since the last tick, or that can't be known
	names   int64                 // generations named

	identity manifest.Identity // of the node, as the tick that is made found it
	nodeName string

	unsure    *link                           // a tick that stands in the journal, of which it isn't known whether it is stored
	links     []*link                         // objects that are not part of a roll-up of the long level, oldest first
	long      []string                        // names of roll-ups of the long level
	pinned    map[string]bool                 // keys of objects that those refer to
	old       []state.Drop                    // to be deleted
	kept      []state.Kept                    // ranges that the next backup may refer to
	bare      []string                        // keys of roll-ups of the long level, and what they refer to, that the storage doesn't protect yet
	changed   map[capture.Name]bool           // files that differ from the backup's state
	ahead     map[capture.Name]*manifest.File // those of which a backup has more, as it has them, until that is found to be theirs
	rolling   *rolling                        // nil if no roll-up is being made
	rollAfter time.Time                       // none is made before
	reading   *remembering                    // nil if no database is read to be remembered
	held      map[capture.Name]*held
	early     early
	unread    map[capture.Name]bool // databases that may have to be
	working   context.Context       // of what other goroutines do
	stop      context.CancelFunc
	work      sync.WaitGroup

	attempts []state.JournalTick // at the tick of the next number, whose puts failed

	giveUp error // of a put, at which a test ends; nil
	status status
}

// Open makes a shipper that goes on where the last one on this node ended, or from the last
// backup. It returns ErrNoBase if there was none, ErrOther if the instance is shipped from elsewhere, ErrOtherNode if the
// files are another CouchDB's.
func Open(ctx context.Context, o Options) (*Shipper, error) {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Compaction == "" {
		o.Compaction = capture.Replay
	}
	if o.Tails == "" {
		o.Tails = capture.Replay
	}
	s := &Shipper{o: o, log: o.Log, files: map[capture.Name]*capture.Known{}, dirty: map[capture.Name]bool{}, config: true,
		pinned: map[string]bool{}, changed: map[capture.Name]bool{}, ahead: map[capture.Name]*manifest.File{}, unread: map[capture.Name]bool{}, held: map[capture.Name]*held{}}
	s.working, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.dir = state.Dir(o.StateDir, o.Repo.Config().ID, o.Instance)
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Shipper) open(ctx context.Context) (err error) {
	if s.signer, err = state.WriterKey(s.o.StateDir); err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Join(s.dir, state.ShipDir), 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, state.ShipDir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("lock the state of shipping: %w", err)
	}
	if durable.TryLock(s.lock) {
		return fmt.Errorf("%w: another process ships %s with the state in %s", repo.ErrLocked, s.o.Instance, s.dir)
	}
	s.journal = state.OpenJournal(s.dir)
	if err := s.resume(ctx); err != nil {
		return err
	}
	if err := s.checkNode(); errors.Is(err, errOtherMap) { // a wrong --data-dir; while it runs it is tried again, as a disk may come back
		return err
	}
	if err := s.openKey(ctx); err != nil {
		return err
	}
	s.openTakers()
	return s.openFollow(ctx)
}

// openKey takes the key that the last backup encrypted to.
func (s *Shipper) openKey(ctx context.Context) error {
	pin, err := state.ReadPin(s.dir)
	if err != nil {
		return err
	}
	s.key, err = s.o.Repo.PinnedKey(ctx, s.o.Instance, pin)
	return err
}

func (s *Shipper) openTakers() {
	if err := capture.ShareKnown(s.dir, filepath.Join(s.dir, state.ShipDir)); err != nil {
		s.log.Warn("what backups remember of databases can't be used: those that are compacted are shipped whole until it is read again", "err", err)
	}
	var note string
	s.takers, note = capture.New(capture.Options{
		RememberLater: true,
		Node:          s.o.Node, Dir: filepath.Join(s.dir, state.ShipDir), Encrypted: s.o.Repo.Config().Encrypted(), Compaction: s.o.Compaction, Tails: s.o.Tails,
		LeastTail: leastTail, ProofTail: proofTail, Small: proofTail, Scan: true, Doubt: s.doubt, Generation: s.generation, Now: s.o.Now,
	})
	if note != "" {
		s.log.Warn("shipping", "note", note)
	}
	locals := make(map[capture.Name]capture.Local, len(s.files))
	for nm, f := range s.files {
		locals[nm] = f.Local
	}
	if err := s.takers.Tidy(locals); err != nil {
		s.log.Warn("what was remembered of databases that are gone can't be removed", "err", err)
	}
}

const (
	// leastTail is the smallest tail that is stored as a replay, in bytes: a commit of one
	// document has some nodes of 4 KiB.
	leastTail = 4 << 10
	// proofTail is how much before a cut is read to prove that a file is the same, in bytes.
	proofTail = 64 << 10
)

// openFollow begins to follow the node's files, and has all looked at once.
func (s *Shipper) openFollow(ctx context.Context) (err error) {
	n := s.o.Node
	dirs := []string{n.DataDir}
	for _, f := range append(slices.Clone(n.IniFiles), n.VMArgs) {
		if f != "" && !slices.Contains(dirs, filepath.Dir(f)) {
			dirs = append(dirs, filepath.Dir(f))
		}
	}
	s.follow, err = follow.New(ctx, follow.Options{Dirs: dirs, Want: s.want, Log: s.log})
	if err != nil {
		return err
	}
	list, err := n.Scan(ctx, node.ScanOptions{})
	if err != nil {
		return err
	}
	for _, group := range [][]node.Entry{list.Shards, list.System} {
		for _, e := range group {
			s.dirty[capture.Name{Root: e.Root, Path: e.Path}] = false
		}
	}
	for nm := range s.files { // those that are not there any more too
		if nm.Root == manifest.DataRoot {
			s.dirty[nm] = false
		}
	}
	return nil
}

// want says what the follower tells: databases and configuration.
func (s *Shipper) want(path string, dir bool) bool {
	rel, err := filepath.Rel(s.o.Node.DataDir, path)
	if err != nil || !filepath.IsLocal(rel) { // of configuration
		return !dir && (slices.Contains(s.o.Node.IniFiles, path) || path == s.o.Node.VMArgs)
	}
	if dir {
		top := !strings.ContainsRune(rel, filepath.Separator)
		return !top || rel[0] != '.' && !node.OfFilesystem(rel)
	}
	rel = filepath.ToSlash(rel)
	db, compacts := compactionOf(rel)
	if compacts {
		rel = db
	}
	_, ok := s.o.Node.Entry(rel)
	if compacts && ok {
		s.early.open(filepath.Join(s.o.Node.DataDir, filepath.FromSlash(db)))
	}
	return ok || slices.Contains(s.o.Node.IniFiles, path)
}

// Look looks at all files, as Open does: the next tick has all that is committed by now, also if the system is yet to tell of it.
func (s *Shipper) Look(ctx context.Context) {
	_, _ = s.follow.All(ctx) // of a folder that is missing Status tells
}

// Close ends following. What was not shipped is shipped by the next one.
func (s *Shipper) Close() error {
	s.stop()
	s.work.Wait()
	s.release(true)
	var err error
	if s.follow != nil {
		err = s.follow.Close()
	}
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Run ships until ctx ends, which is no error. It returns ErrOther when somebody else has taken the
// instance over; everything else is tried again.
func (s *Shipper) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		err := s.Tick(ctx)
		switch {
		case ctx.Err() != nil:
			return s.last(ctx)
		case errors.Is(err, ErrOther):
			return err
		case err != nil:
			wait = min(max(2*wait, s.o.Interval), maxWait)
			s.log.WarnContext(ctx, "not shipped, trying again", "err", err, "in", wait)
		default:
			wait = 0
		}
		if err := s.pause(ctx, max(wait, s.o.Interval), wait == 0); err != nil {
			return s.last(ctx)
		}
	}
}

// lastTime is how long a shipper that ends tries to store what is new.
const lastTime = 5 * time.Second

// last ships what is new when a shipper ends.
func (s *Shipper) last(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	s.Look(ctx) // a busy system tells late
	err := s.Tick(ctx)
	if errors.Is(err, ErrOther) {
		return err
	}
	if err != nil {
		s.log.WarnContext(ctx, "the last tick could not be stored; the next start ships it", "err", err)
	}
	return nil
}

// maxWait is the longest wait after a failure.
const maxWait = 30 * time.Second

// pause waits an interval, and then, if nothing is left to do, until a file changes.
func (s *Shipper) pause(ctx context.Context, d time.Duration, idle bool) error {
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	if !idle || len(s.dirty) > 0 || s.config {
		return nil
	}
	select {
	case <-s.follow.Changed(): // meanwhile
		return nil
	default:
	}
	var due <-chan time.Time
	if d, ok := s.nextDue(); ok {
		due = time.After(d)
	}
	select {
	case <-s.follow.Changed():
		s.waited = true
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// nextDue returns when something is to be done though no file changes, if something is.
func (s *Shipper) nextDue() (time.Duration, bool) {
	switch {
	case s.rolling != nil || len(s.old) > 0 || s.reading != nil || len(s.unread) > 0:
		return s.o.Interval, true
	case len(s.links) == 0:
		return 0, false
	}
	due := s.links[0].start().Add(longLevel)
	if n := len(s.links); n > 1 && !s.links[n-2].name.RollUp() {
		i := slices.IndexFunc(s.links, func(l *link) bool { return !l.name.RollUp() })
		due = s.links[i].start().Add(shortLevel)
	}
	return max(due.Sub(s.o.Now()), s.rollAfter.Sub(s.o.Now()), s.o.Interval), true
}
