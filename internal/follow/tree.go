package follow

import (
	"path/filepath"
	"slices"
	"strings"
)

// folder returns what is kept of a folder, or nil.
func (f *Follower) folder(path string) *folder {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.folders[path]
}

// enter returns what is kept of a folder, from now on if it is new.
func (f *Follower) enter(path string) *folder {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.folders[path]
	if d == nil {
		d = &folder{}
		f.folders[path] = d
	}
	return d
}

func (f *Follower) takeTold(d *folder) map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := d.told
	d.told = nil
	return told
}

// giveBack undoes takeTold.
func (f *Follower) giveBack(d *folder, told map[string]uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, print := range told {
		if _, newer := d.told[name]; !newer {
			d.remember(name, print)
		}
	}
}

// forget drops a folder that is gone, and tells the files that were in it and below.
func (f *Follower) forget(path string) {
	f.mu.Lock()
	d := f.folders[path]
	delete(f.folders, path)
	f.mu.Unlock()
	if d == nil {
		return
	}
	f.giveUp(path, d)
	f.tell(joinAll(path, d.merge(nil, f.takeTold(d)))...)
	for _, sub := range d.subs {
		f.forget(filepath.Join(path, sub))
	}
}

// unwatch gives back the watches of a folder and of those below.
func (f *Follower) unwatch(path string) {
	d := f.folder(path)
	if d == nil {
		return
	}
	f.giveUp(path, d)
	for _, sub := range d.subs {
		f.unwatch(filepath.Join(path, sub))
	}
}

// giveUp gives back the watch of one folder.
func (f *Follower) giveUp(path string, d *folder) {
	if d == nil || !d.watched {
		return
	}
	d.watched = false
	if f.watched[d.id] == path {
		delete(f.watched, d.id)
	}
	if f.watcher != nil {
		_ = f.watcher.Remove(path) // it ends by itself where the folder is gone for good
	}
}

// link notes whether a folder of that name is in d.
func (d *folder) link(name string, there bool) {
	i, found := slices.BinarySearch(d.subs, name)
	switch {
	case there && !found:
		d.subs = slices.Insert(d.subs, i, name)
	case !there && found:
		d.subs = slices.Delete(d.subs, i, i+1)
	}
}

// below returns what paths of what is in a folder begin with.
func below(dir string) string {
	return strings.TrimSuffix(dir, string(filepath.Separator)) + string(filepath.Separator)
}

func joinAll(dir string, names []string) []string {
	paths, prefix := make([]string, len(names)), below(dir)
	for i, name := range names {
		paths[i] = prefix + name
	}
	return paths
}
