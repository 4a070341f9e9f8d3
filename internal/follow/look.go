package follow

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// root is one of Options.Dirs.
type root struct {
	path    string
	used    bool // there was something in it
	missing bool // it isn't there, or nothing is in it any more: where a volume was mounted
	network bool // some folder of it is on a network file system
	linked  bool // some file of it is a symbolic link
}

// reason says why a root must be polled, or "". Caller holds looking.
func (f *Follower) reason(r *root) string {
	switch {
	case r.missing:
		return whyMissing
	case f.why != "":
		return f.why
	case r.network:
		return whyNetwork
	case r.linked:
		return whyLinked
	}
	return ""
}

// run looks whenever it is time, or something says that it is.
func (f *Follower) run(ctx context.Context) {
	defer func() { _ = f.shut() }() // nothing is read any more
	timer := time.NewTimer(f.wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		case <-timer.C:
		}
		f.step(ctx)
		timer.Reset(f.wait())
	}
}

// wait returns the time until something is due.
func (f *Follower) wait() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Until(f.due())
}

// due says when to look next. Caller holds mu.
func (f *Follower) due() time.Time {
	due := f.pace.due(f.opts.Poll, false)
	if f.full || f.status.Polling != "" {
		if soon := f.pace.due(f.opts.Poll, true); soon.Before(due) {
			return soon
		}
	}
	return due
}

// step looks at folders that were made or removed, and, if it is time, at all, or at
// those in which changes aren't told.
func (f *Follower) step(ctx context.Context) {
	f.mu.Lock()
	dirty := f.dirty
	f.dirty = map[string]struct{}{}
	now := time.Now()
	isDue := !now.Before(f.due())
	all := isDue && (f.full || !now.Before(f.pace.due(f.opts.Poll, false)))
	if all {
		f.full = false // what is lost from here on needs another look
	}
	f.mu.Unlock()
	if len(dirty) > 0 {
		f.catchUp(ctx, dirty)
	}
	if !isDue {
		return
	}
	roots := f.roots
	if !all {
		roots = f.polled()
	}
	_ = f.lookAt(ctx, roots, false) // Status has it
}

func (f *Follower) polled() []*root {
	f.looking.Lock()
	defer f.looking.Unlock()
	return slices.DeleteFunc(slices.Clone(f.roots), func(r *root) bool { return f.reason(r) == "" })
}

// lookAt looks at some roots and tells what changed, unless silent. The error says what
// couldn't be read.
func (f *Follower) lookAt(ctx context.Context, roots []*root, silent bool) error {
	f.looking.Lock()
	defer f.looking.Unlock()
	all := len(roots) == len(f.roots)
	elapsed := stopwatch()
	if all {
		f.openWatcher()
	}
	w := &walk{f: f, ctx: ctx, silent: silent}
	for _, r := range roots {
		r.network, r.linked = false, false
		w.visitRoot(r)
	}
	cpu, took := elapsed()
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now()
	f.mu.Lock()
	f.pace.cpu, f.pace.took, f.pace.ended = cpu, took, now
	if all {
		f.pace.floor = now
	}
	f.mu.Unlock()
	f.report(ctx, all, now, took, w.err)
	return w.err
}

// openWatcher opens the watcher if there is none, and lets folders be watched again that
// couldn't be. Caller holds looking.
func (f *Follower) openWatcher() {
	if f.closed {
		return
	}
	f.why = ""
	if f.watcher != nil {
		return
	}
	watcher, err := f.open()
	if err != nil {
		f.why = reasonOf(err)
		return
	}
	f.watcher = watcher
	f.done.Go(func() { f.receive(watcher) })
}

// reasonOf says for people why something can't be watched.
func reasonOf(err error) string {
	if errors.Is(err, errors.ErrUnsupported) {
		return whyUnsupported
	}
	for _, limit := range []error{syscall.ENOSPC, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, limit) {
			return whyLimit
		}
	}
	return "changes are not told: " + err.Error()
}

// catchUp looks at folders that were made or removed. A folder may have been replaced
// by another one of its name: it loses its watch first, and all that are in it theirs.
// Only then are watches added, as of two names of one folder fsnotify knows the first.
func (f *Follower) catchUp(ctx context.Context, dirty map[string]struct{}) {
	f.looking.Lock()
	defer f.looking.Unlock()
	paths := make([]string, 0, len(dirty))
	for path := range dirty {
		paths = append(paths, path)
		f.unwatch(path)
	}
	slices.Sort(paths)
	w := &walk{f: f, ctx: ctx}
	seen := ""
	for _, path := range paths {
		if seen != "" && strings.HasPrefix(path, below(seen)) {
			continue
		}
		if w.root = f.rootOf(path); w.root == nil {
			continue
		}
		if path == w.root.path {
			w.visitRoot(w.root)
			continue
		}
		found := w.visit(path)
		if parent := f.folder(filepath.Dir(path)); parent != nil {
			parent.link(filepath.Base(path), found)
		}
		if found {
			seen = path
		}
	}
	f.report(ctx, false, time.Time{}, 0, w.err)
}

// rootOf returns the root of a path, the longest one if they stand in each other.
func (f *Follower) rootOf(path string) *root {
	var of *root
	for _, r := range f.roots {
		if (path == r.path || strings.HasPrefix(path, below(r.path))) && (of == nil || len(r.path) > len(of.path)) {
			of = r
		}
	}
	return of
}

// walk is one look. Its methods need Follower.looking.
type walk struct {
	f      *Follower
	ctx    context.Context //nolint:containedctx // of one look
	root   *root
	silent bool
	err    error // the first
}

func (w *walk) visitRoot(r *root) {
	w.root = r
	if !w.visit(r.path) {
		r.missing = true
		return
	}
	d := w.f.folder(r.path)
	if d == nil {
		return // the context ended
	}
	empty := len(d.prints)+len(d.subs) == 0
	r.used = r.used || !empty
	r.missing = empty && r.used
}

// visit looks at a folder and those in it, and says whether it is there. The folder is
// known before it is watched, so that its removal is noticed from there on, and watched
// before it is listed, so that nothing is made in between.
func (w *walk) visit(path string) bool {
	if w.ctx.Err() != nil {
		return true
	}
	d := w.f.enter(path)
	w.watch(path, d)
	told := w.f.takeTold(d) // what is told while the folder is listed may be newer than the list
	files, subs, err := w.list(path)
	if err != nil {
		w.f.giveBack(d, told)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		w.f.forget(path)
		return false
	case err != nil:
		w.fail(err)
		return true // what is known stays: it isn't gone because it can't be read
	}
	if w.f.opts.Network(path) {
		w.root.network = true
	}
	changed := d.merge(files, told)
	if !w.silent {
		w.f.tell(joinAll(path, changed)...)
	}
	for _, sub := range d.subs {
		if _, still := slices.BinarySearch(subs, sub); !still {
			w.f.forget(filepath.Join(path, sub))
		}
	}
	d.subs = subs
	for _, sub := range subs {
		w.visit(filepath.Join(path, sub))
	}
	return true
}

func (w *walk) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// watch asks the system to tell changes in a folder; again if it was asked before, as
// watches end with what they watch: a removed folder, an unmounted file system. When there
// are too few watches for all, those that there were are given back to other programs.
//
// inotify has one watch for a folder, however often it is asked, and fsnotify goes on to
// tell it by the first name. So a folder that was moved, and is found at its new place
// before the move is told, gives back the watch that it has by the old name; and fsnotify
// is never asked for a name that it knows, which may be that of another folder by now.
func (w *walk) watch(path string, d *folder) {
	if w.f.watcher == nil || w.f.why != "" {
		return
	}
	w.f.giveUp(path, d)
	id := identOf(path)
	if other := w.f.watched[id]; other != "" {
		w.f.giveUp(other, w.f.folder(other))
	}
	err := w.f.watcher.Add(path)
	if err == nil {
		d.watched, d.id = true, id
		w.f.watched[id] = path
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrPermission) {
		return // listing it says the same
	}
	w.f.why = reasonOf(err)
	for _, r := range w.f.roots {
		w.f.unwatch(r.path)
	}
}

// list returns the wanted files and the names of the wanted folders in a folder, both
// sorted.
func (w *walk) list(path string) (files []file, subs []string, err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	prefix := below(path)
	for _, e := range entries {
		full := prefix + e.Name()
		kind := e.Type()
		if kind&fs.ModeSymlink != 0 {
			kind = kindOf(full)
		}
		switch {
		case kind.IsDir() && w.f.opts.Want(full, true):
			subs = append(subs, e.Name())
		case kind.IsRegular() && w.f.opts.Want(full, false):
			w.root.linked = w.root.linked || e.Type()&fs.ModeSymlink != 0
			print, err := printAt(dir, e.Name())
			w.fail(err)
			if print != 0 {
				files = append(files, file{e.Name(), print})
			}
		}
	}
	return files, subs, nil
}

// kindOf returns what a symbolic link leads to; irregular if that is nothing, or a
// folder above the link.
func kindOf(link string) fs.FileMode {
	target, err := os.Stat(link)
	if err != nil {
		return fs.ModeIrregular
	}
	if !target.IsDir() {
		return target.Mode().Type()
	}
	for dir := filepath.Dir(link); ; dir = filepath.Dir(dir) {
		if above, err := os.Stat(dir); err == nil && os.SameFile(above, target) {
			return fs.ModeIrregular
		}
		if dir == filepath.Dir(dir) {
			return fs.ModeDir
		}
	}
}
