// Package follow tells which files below some folders change, so that shipping reads
// a CouchDB's files when there is something in them, and nothing in between.
//
// Linux tells changes of a folder's files by inotify: a watch for each folder, none for
// a file. 100,000 databases in 8 ranges are a dozen of watches. What inotify can miss is
// found by looking at all folders and comparing: seldom (Options.Poll) where all is told,
// and as often as it costs no more than 2 % of a core where it isn't: see Status.Polling.
//
// A look compares size, times and inode of each file with those of the look before. For
// that it keeps 8 bytes and the name of a file. A file that was changed without a change
// of any of these isn't found by looking; a database file can't be, since it only grows.
//
// Two goroutines, whatever the number of files. One receives events and does nothing that
// waits: fsnotify hands over errors while it holds the lock that adding a watch needs, so
// whoever adds watches must not be the one who receives. The other one looks.
// Locks: Follower.looking before Follower.mu; none is held while fsnotify is called but looking.
package follow

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Options say what to follow.
type Options struct {
	// Dirs are the folders to follow, with all that is below them. One that isn't
	// there is waited for; see Status.Missing. A symbolic link to a folder is followed,
	// unless to one above it. A wanted file that is a symbolic link has its entry of
	// Dirs polled, since what is written behind it is told in another folder.
	Dirs []string
	// Want says whether a file, or a folder below Dirs, is of interest; nil: all are.
	// It is asked at each event, before anything is kept, by several goroutines. Nothing
	// below an unwanted folder is watched or looked at.
	Want func(path string, dir bool) bool
	// Poll is the time between looks at all folders while all changes are told, which
	// find what was not; 5 minutes if 0.
	Poll time.Duration
	// Network says whether changes in a folder may be made by other machines, and so not
	// be told here; nil: its file system is asked.
	Network func(dir string) bool
	Log     *slog.Logger // nil: nothing is logged
}

// Follower tells changes until it is closed.
type Follower struct {
	opts    Options
	log     *slog.Logger
	open    func() (watcher, error)
	roots   []*root
	changed chan struct{} // capacity 1, like kick
	kick    chan struct{} // there is something in dirty, or full
	cancel  context.CancelFunc
	done    sync.WaitGroup

	looking sync.Mutex       // held for a look; guards what is below, and what roots and folders hold
	watcher watcher          // nil if there is none
	watched map[ident]string // paths of the folders that are watched
	why     string           // why not all folders are watched
	closed  bool

	mu      sync.Mutex // guards what is below, and folder.told
	pending map[string]struct{}
	dirty   map[string]struct{} // folders that were made or removed
	full    bool                // events were lost: look at all
	folders map[string]*folder  // by path
	status  Status
	pace    pace
}

// New looks at all folders once and follows them from there on, until ctx ends or
// Close. It fails if ctx ends meanwhile, and never for what it can't watch or read:
// Status says so.
func New(ctx context.Context, opts Options) (*Follower, error) {
	return newFollower(ctx, opts, openWatcher)
}

func newFollower(ctx context.Context, opts Options, open func() (watcher, error)) (*Follower, error) {
	if opts.Want == nil {
		opts.Want = func(string, bool) bool { return true }
	}
	if opts.Poll <= 0 {
		opts.Poll = 5 * time.Minute
	}
	if opts.Network == nil {
		opts.Network = isNetwork
	}
	f := &Follower{
		opts: opts, log: opts.Log, open: open,
		changed: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		pending: map[string]struct{}{}, dirty: map[string]struct{}{}, folders: map[string]*folder{}, watched: map[ident]string{},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range opts.Dirs {
		if dir = filepath.Clean(dir); !slices.ContainsFunc(f.roots, func(r *root) bool { return r.path == dir }) {
			f.roots = append(f.roots, &root{path: dir})
		}
	}
	running, cancel := context.WithCancel(ctx)
	f.cancel = cancel
	_ = f.lookAt(running, f.roots, true) // Status has it
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.done.Go(func() { f.run(running) })
	return f, nil
}

// Changed has a value when Take gives something. Nothing is sent while nothing changes.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

// Take returns the paths of wanted files that changed since the last Take or New, each
// once and sorted: written to, made, removed or renamed, in this direction or that. A
// path is that of an entry of Options.Dirs with names joined. What is read of a file
// after Take is at least as new as the change. A file may be told that didn't change.
func (f *Follower) Take() []string {
	f.mu.Lock()
	pending := f.pending
	f.pending = map[string]struct{}{}
	select {
	case <-f.changed:
	default:
	}
	f.mu.Unlock()
	paths := make([]string, 0, len(pending))
	for path := range pending {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	// So that a look doesn't tell again what the caller sees now.
	prints := make([]uint64, len(paths))
	for i, path := range paths {
		prints[i] = printOf(path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, path := range paths {
		if d := f.folders[filepath.Dir(path)]; d != nil {
			d.remember(filepath.Base(path), prints[i])
		}
	}
	return paths
}

// All looks at all folders and returns the paths of all wanted files, sorted. The error
// says what could not be read: a folder of Options that isn't there (fs.ErrNotExist), or
// one that may not be read; the paths are those that could be.
func (f *Follower) All(ctx context.Context) ([]string, error) {
	err := f.lookAt(ctx, f.roots, false)
	f.looking.Lock()
	defer f.looking.Unlock()
	for _, r := range f.roots {
		if r.missing {
			err = errors.Join(err, &fs.PathError{Op: "open", Path: r.path, Err: fs.ErrNotExist})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var paths []string
	for dir, d := range f.folders {
		prefix := below(dir)
		for name := range d.files() {
			paths = append(paths, prefix+name)
		}
	}
	slices.Sort(paths)
	return paths, err
}

// Close ends following and waits until nothing of it runs. Changed stays silent.
func (f *Follower) Close() error {
	f.cancel()
	err := f.shut()
	f.done.Wait()
	return err
}

// shut gives watches back, which ends the goroutine that receives events.
func (f *Follower) shut() error {
	f.looking.Lock()
	defer f.looking.Unlock()
	f.closed = true
	if f.watcher == nil {
		return nil
	}
	err := f.watcher.Close()
	f.watcher = nil
	return err
}

// tell adds paths to what the next Take returns.
func (f *Follower) tell(paths ...string) {
	if len(paths) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, path := range paths {
		f.pending[path] = struct{}{}
	}
	signal(f.changed)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
