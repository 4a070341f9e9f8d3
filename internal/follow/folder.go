package follow

import (
	"iter"
	"strings"
)

// unreadable is the print of a file that is there and can't be looked at.
const unreadable = 1

// ident is which folder it is, whatever its name: device and inode.
type ident struct{ dev, ino uint64 }

// file is one file of a folder, as a look saw it.
type file struct {
	name  string
	print uint64
}

// folder is what is kept of a folder: of a file its name and 8 bytes.
type folder struct {
	names  string            // of the wanted files at the last look, sorted, a NUL behind each
	prints []uint64          // of these
	told   map[string]uint64 // prints at a Take since that look, by name; 0: gone. Guarded by Follower.mu
	subs   []string          // names of the wanted folders in it, sorted
	// watched says whether the system was asked to tell changes in it.
	watched bool
	id      ident // of the folder that is watched
}

// remember notes how a file was when it was told. Caller holds Follower.mu.
func (d *folder) remember(name string, print uint64) {
	if d.told == nil {
		d.told = map[string]uint64{}
	}
	d.told[name] = print
}

// files yields the files of the last look.
func (d *folder) files() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		rest := d.names
		for _, print := range d.prints {
			var name string
			name, rest, _ = strings.Cut(rest, "\x00")
			if !yield(name, print) {
				return
			}
		}
	}
}

// merge replaces what is kept by the files that there are now, sorted by name, and
// returns the names of those that differ. told is what Take remembered; it is used up.
func (d *folder) merge(now []file, told map[string]uint64) []string {
	var changed []string
	anew := len(told) > 0
	compare := func(name string, was, is uint64) {
		if print, ok := told[name]; ok {
			was = print
			delete(told, name)
		}
		if was != is {
			changed = append(changed, name)
		}
	}
	i := 0
	for name, was := range d.files() {
		for ; i < len(now) && now[i].name < name; i++ {
			compare(now[i].name, 0, now[i].print)
		}
		if i < len(now) && now[i].name == name {
			compare(name, was, now[i].print)
			i++
			continue
		}
		compare(name, was, 0)
	}
	for _, n := range now[i:] {
		compare(n.name, 0, n.print)
	}
	for name, was := range told {
		if was != 0 { // made and told since the last look, and gone without a word
			changed = append(changed, name)
		}
	}
	if anew || len(changed) > 0 {
		d.set(now)
	}
	return changed
}

func (d *folder) set(now []file) {
	var names strings.Builder
	size := 0
	for _, n := range now {
		size += len(n.name) + 1
	}
	names.Grow(size)
	prints := make([]uint64, len(now))
	for i, n := range now {
		names.WriteString(n.name)
		names.WriteByte(0)
		prints[i] = n.print
	}
	d.names, d.prints = names.String(), prints
}
