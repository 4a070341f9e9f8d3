package follow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/fsnotify/fsnotify"
)

// watcher is what is used of fsnotify.
type watcher interface {
	Add(path string) error // of a folder; no change if it has a watch
	Remove(path string) error
	Close() error // ends both channels
	events() <-chan fsnotify.Event
	errors() <-chan error
}

type inotify struct{ *fsnotify.Watcher }

func (w inotify) events() <-chan fsnotify.Event { return w.Events }
func (w inotify) errors() <-chan error          { return w.Errors }

// openWatcher opens inotify. Other systems are polled: what the BSDs and macOS have needs
// an open descriptor for each file, and Windows tells sizes when a file is closed.
func openWatcher() (watcher, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.ErrUnsupported
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	return inotify{w}, nil
}

// receive takes events until the watcher is closed. It never waits for a look, which
// may wait for events to be taken.
func (f *Follower) receive(w watcher) {
	for {
		select {
		case ev, ok := <-w.events():
			if !ok {
				return
			}
			f.event(ev)
		case err, ok := <-w.errors():
			if !ok {
				return
			}
			f.lost(err)
		}
	}
}

// lost has all looked at: the queue was full, or nobody knows what the error means.
func (f *Follower) lost(err error) {
	f.mu.Lock()
	f.full = true
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		f.status.Overflows++
	}
	f.mu.Unlock()
	signal(f.kick)
}

// event sorts out one event. Of a folder that was made or removed only that is noted:
// what is there now is seen when it is looked at.
func (f *Follower) event(ev fsnotify.Event) {
	if ev.Op == fsnotify.Chmod {
		return
	}
	f.mu.Lock()
	_, pending := f.pending[ev.Name]
	_, known := f.folders[ev.Name]
	f.mu.Unlock()
	made := ev.Has(fsnotify.Create)
	isDir := made && f.opts.Want(ev.Name, true) && kindOf(ev.Name).IsDir()
	if isDir || known && (made || ev.Has(fsnotify.Remove|fsnotify.Rename)) {
		f.lookSoon(ev.Name)
	}
	if isDir || pending && !made || known && !made || !f.opts.Want(ev.Name, false) {
		return
	}
	f.tell(ev.Name)
	if made && isLink(ev.Name) {
		f.lookSoon(filepath.Dir(ev.Name)) // which finds that it must be polled
	}
}

// lookSoon has a folder looked at.
func (f *Follower) lookSoon(dir string) {
	f.mu.Lock()
	f.dirty[dir] = struct{}{}
	f.mu.Unlock()
	signal(f.kick)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
