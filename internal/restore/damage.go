package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// asideEnding is added to the name of a file that was in the target, where the
// backup's could not be read: it is of another time and must not be served beside the
// backup's, and it may be the only one that is left.
const asideEnding = ".aside"

// unreadable reports whether an error says that the repository can't give a file's
// bytes. An error of the storage, the target or a cancel says no such thing.
func unreadable(err error) bool { return repo.Damaged(err) || errors.Is(err, ErrMismatch) }

// lose goes on without a file that the repository can't give back. CouchDB builds an
// index anew. Of a database what can be read is kept apart under another name, and its
// place is taken, so that it isn't served empty. What is there already stays.
func (w *writer) lose(ctx context.Context, it item, path string, cause error) error {
	r, p := w.run, w.run.opts.Progress
	p.Files.Add(-1)
	p.Bytes.Add(-it.f.Size)
	r.mu.Lock()
	r.lost[it.f] = true
	r.mu.Unlock()
	switch it.f.Kind {
	case manifest.View:
		r.drop(it, "the repository can't give it back: "+cause.Error())
		return removeFile(path)
	case manifest.Config:
		r.res.lose(it.path, cause, "%s can't be read back: %v", it.path, cause)
		return nil
	}
	read, err := w.apart(ctx, it, path)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s can't be read back: %v: ", it.path, cause)
	if read > 0 {
		text += fmt.Sprintf("%d of its %d bytes are in %s", read, it.f.Size, it.path+damagedEnding)
		r.mu.Lock()
		r.res.Damaged = append(r.res.Damaged, it.path+damagedEnding)
		r.mu.Unlock()
	} else {
		text += "none of its bytes are left"
	}
	if err := r.makeWay(path); err != nil {
		return err
	}
	text += "; " + without(it.path)
	if it.path != nodesPath {
		r.mu.Lock()
		r.plan.guards = append(r.plan.guards, it.path)
		r.mu.Unlock()
	}
	r.res.lose(it.path, cause, "%s", text)
	return nil
}

// another takes the copy of a cluster's file that another node's backup has, in the place
// of one that the repository can't give back. The error is cause if there is none.
func (w *writer) another(ctx context.Context, it item, path string, sync bool, before func(*os.File) error, cause error) (took bool, err error) {
	r, p := w.run, w.run.opts.Progress
	if before == nil && !r.begins(it) {
		return false, cause // it may be another node's too, and of one uuid
	}
	for _, f := range r.plan.others[it.f] {
		other := item{f, it.root, it.path}
		r.resized(other, f.Size) // unless it is changed
		kept := false
		if before == nil {
			if kept, err = w.keep(ctx, other, path, sync, nil); err != nil {
				return false, err
			}
		}
		if !kept {
			err = w.write(ctx, other, path, sync, before)
			if unreadable(err) {
				continue
			}
			if err != nil {
				return false, err
			}
		} else {
			p.FilesKept.Add(1)
			p.BytesKept.Add(f.Size)
		}
		p.FilesDone.Add(1)
		p.Bytes.Add(f.Size - it.f.Size)
		r.mu.Lock()
		r.instead[it.path] = true
		r.mu.Unlock()
		if before != nil { // the plan decides what it holds
			r.res.warn("%s can't be read back: %v: that in %s was taken", it.path, cause, r.backupOf(f))
			return true, nil
		}
		r.res.problem("%s can't be read back: %v: the copy in %s was taken, and what only the former had is not restored", it.path, cause, r.backupOf(f))
		return true, nil
	}
	r.mu.Lock()
	delete(r.rewritten, it.path)
	r.mu.Unlock()
	return false, cause
}

// backupOf names the backup that a file of a part is in.
func (r *run) backupOf(f *manifest.File) string {
	for _, b := range r.opts.Part.Backups {
		if b.Manifest.Databases()[f.Path] == f {
			return fmt.Sprintf("the backup %s of %s", b.Manifest.ID.Short(), b.Manifest.NodeName)
		}
	}
	return "another backup"
}

// refill fills a file whose bytes did not all come, or not right, with all that the
// damaged segments give. It is whole if it has its hash; else the error is cause.
func (w *writer) refill(ctx context.Context, f *os.File, want *manifest.File, cause error) error {
	sum := sha256.New()
	lost, err := w.run.readers[want].Salvage(ctx, want, true, func(off int64, b []byte) error {
		_, _ = sum.Write(b)
		_, err := f.WriteAt(b, off)
		return err
	})
	switch {
	case err != nil:
		return err
	case lost > 0 || want.Longer != nil || sameSum(sum, want.Size, want) != nil:
		return cause
	}
	w.run.opts.Progress.BytesDone.Add(want.Size)
	return nil
}

// apart writes what can be read of a database beside its place, each byte where it
// was, zeros for the others, and returns how many could be read.
func (w *writer) apart(ctx context.Context, it item, path string) (read int64, err error) {
	temp := durable.TempPath(path)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close()       // may be closed already
		_ = os.Remove(temp) // it has its name, or is garbage
	}()
	if err := f.Truncate(it.f.Size); err != nil {
		return 0, err
	}
	lost, err := w.run.readers[it.f].Salvage(ctx, it.f, false, func(off int64, b []byte) error {
		_, err := f.WriteAt(b, off)
		return err
	})
	if err != nil || lost == it.f.Size {
		return 0, err
	}
	bare := *it.f
	bare.Header = nil // it isn't held against the manifest
	if err := w.finish(f, item{&bare, it.root, it.path}); err != nil {
		return 0, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return it.f.Size - lost, os.Rename(temp, path+damagedEnding)
}

// makeWay gives a file that stands where a lost one should be another name.
func (r *run) makeWay(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	to, err := setAside(path)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Aside = append(r.res.Aside, to)
	return nil
}

// setAside gives a file a name that CouchDB doesn't open, and returns it.
func setAside(path string) (string, error) {
	for i := 1; ; i++ {
		to := path + asideEnding
		if i > 1 {
			to += fmt.Sprintf(".%d", i)
		}
		_, err := os.Lstat(to)
		if errors.Is(err, fs.ErrNotExist) {
			return to, os.Rename(path, to)
		}
		if err != nil {
			return "", err
		}
	}
}

// asides returns the files that setAside made of path.
func asides(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), filepath.Base(path)+asideEnding) {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return out, nil
}

// takeBack gives a file that was set aside its name again, if its bytes are those of
// the backup.
func (w *writer) takeBack(ctx context.Context, it item, path string, before func(*os.File) error) (bool, error) {
	list, err := asides(path)
	if err != nil {
		return false, err
	}
	for _, from := range list {
		if kept, err := w.keep(ctx, it, from, true, before); err != nil || !kept {
			if err != nil {
				return false, err
			}
			continue
		}
		p := w.run.opts.Progress
		p.FilesDone.Add(1)
		p.FilesKept.Add(1)
		p.BytesKept.Add(it.f.Size)
		return true, os.Rename(from, path)
	}
	return false, nil
}

// guarded reports whether a guard stands at path.
func guarded(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// drop records an index that is left out for want of its bytes.
func (r *run) drop(it item, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Dropped = append(r.res.Dropped, Dropped{Path: it.f.Path, Reason: reason})
	r.lostIndexes++
}

// afterLosses takes away the indexes of databases that could not be read back: whatever
// comes into a database's place, an index that is ahead of it would be served with wrong
// rows. It says what to do about all that was lost.
func (r *run) afterLosses() error {
	if len(r.lost)+len(r.instead) == 0 {
		return nil
	}
	gone := maps.Clone(r.instead)
	for _, it := range r.plan.items {
		if r.lost[it.f] {
			gone[it.path] = true
		}
	}
	for _, it := range r.plan.items {
		if it.f.Kind != manifest.View || r.lost[it.f] {
			continue
		}
		if db, ok := shard.ViewOwner(it.path); ok && gone[db] {
			if err := removeFile(r.targets.path(it)); err != nil {
				return err
			}
			r.lost[it.f] = true
			r.opts.Progress.FilesDone.Add(-1)
			r.opts.Progress.BytesDone.Add(-it.f.Size)
			r.drop(it, "its shard can't be read back")
		}
	}
	if r.lostIndexes > 0 {
		r.res.problem("indexes that can't be read back or whose shard can't: %d; CouchDB builds them anew", r.lostIndexes)
	}
	return nil
}

func (r *run) damagedSegments() (out []repo.DamagedSegment) {
	for rd := range r.openReaders() {
		out = append(out, rd.DamagedSegments()...)
	}
	return out
}

// tellDamage says what was damaged in the repository and what can be done.
func (r *run) tellDamage() {
	const most = 5
	r.res.LostCount = len(r.lost)
	bad := r.damagedSegments()
	for _, d := range bad[:min(most, len(bad))] {
		r.res.warn("%s in the repository can't be read whole: %v", d.Key, d.Err)
	}
	if len(bad) > most {
		r.res.warn("and %d more objects of the repository", len(bad)-most)
	}
	switch {
	case len(r.lost) == 0 && len(bad) > 0:
		r.res.note("all files could be read in spite of the damage: run `slipcover check --read-data`, and make a full backup")
	case len(r.lost) > 0 && r.whole():
		r.res.note("another repository that holds this backup may have what is lost (`slipcover copy` makes such): run the same restore with --repo of that one and --delta, which keeps all that is right; or restore the databases from another backup with --db")
	case len(r.lost) > 0:
		r.res.note("another repository that holds this backup may have what is lost (`slipcover copy` makes such): run the same restore with --repo of that one into another directory; or restore from another backup")
	}
	slices.SortFunc(r.res.Dropped, func(a, b Dropped) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(r.res.Damaged)
}
