// Package durable writes files that survive a power cut.
//
// A file is written under a temporary name in its own folder, synced, renamed to
// its name, and then the folder is synced. So at any moment, and after a crash at
// any moment, the name shows nothing, the old bytes or the new bytes, each whole;
// and when a function here returns nil, the new bytes are there after a power cut.
//
// A crash leaves the temporary name behind; IsTemp tells it from others. A failure
// without a crash removes it.
//
// Run as root, what is made here belongs to whom the folder belongs that it is in:
// a command that is run once as root doesn't shut out the user whose files these are.
//
// Windows has no sync of a folder. There the rename is asked to return only when it
// is on the disk.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Temporary names are these two around random text. The tilde is in no
// storage.Key, so a storage that keeps objects as files can't mix up the two.
const (
	tempPrefix = ".tmp-"
	tempSuffix = "~"
)

// IsTemp reports whether name, without a folder, is one that this package gives to
// files which aren't complete. Such a file is garbage once its writer is gone.
func IsTemp(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

// TempPath returns a path beside path that IsTemp knows, for a caller that writes
// and renames by itself.
func TempPath(path string) string {
	return filepath.Join(filepath.Dir(path), tempPrefix+rand.Text()+tempSuffix)
}

// hook, when a test sets it, is called before each system call that matters, with
// its name and path; what it returns is taken for the call's own failure.
var hook func(call, path string) error

func before(call, path string) error {
	if hook == nil {
		return nil
	}
	return hook(call, path)
}

// WriteFile writes a file, replacing the one that is there. write is called once,
// with the empty file; it may write in any order and must not close it.
// perm counts before umask.
//
// Good path: as Create, then what write does, then as File.Commit.
func WriteFile(path string, perm fs.FileMode, write func(*os.File) error) error {
	return writeFile(path, perm, write, (*File).Commit)
}

// WriteNewFile is WriteFile which replaces nothing: when path exists, the error is
// fs.ErrExist. Of several writers, also in several processes, one wins.
//
// Good path: as Create, then what write does, then as File.CommitNew.
func WriteNewFile(path string, perm fs.FileMode, write func(*os.File) error) error {
	return writeFile(path, perm, write, (*File).CommitNew)
}

func writeFile(path string, perm fs.FileMode, write func(*os.File) error, commit func(*File) error) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	defer f.Abort() // also when write panics
	if err := write(f.File); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return commit(f)
}

// File is a file that doesn't have its name yet. End it with Commit, CommitNew or
// Abort, never with Close; a second end does nothing and returns an error, except
// for Abort, which can be deferred.
type File struct {
	*os.File // under the temporary name

	path string
	dir  *os.File // nil on Windows
	done bool
}

// Create begins a file that will be named path. Its folder must exist, and can't be
// removed from here until the end, because the temporary file is in it.
// perm counts before umask.
//
// Good path:
//
//	openat(dir/.tmp-X~, O_RDWR|O_CREAT|O_EXCL)
//	fchown(dir/.tmp-X~), as root in another's folder
//	openat(dir)
func Create(path string, perm fs.FileMode) (*File, error) {
	dir := filepath.Dir(path)
	temp := TempPath(path)
	if err := before("create", temp); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	adopt(f)
	// The folder is opened second: until the file was in it, it could have been
	// removed and made again, and the wrong one would be synced.
	d, err := openDir(dir)
	if err != nil {
		f.Close()
		os.Remove(temp)
		return nil, err
	}
	return &File{File: f, path: path, dir: d}, nil
}

// Commit makes the file durable under its name and replaces what has that name.
// After an error from the last step, the sync of the folder, the file has its name
// but a power cut may take it back.
//
// Good path:
//
//	fsync(temp)
//	close(temp)
//	rename(temp, path)
//	fsync(dir)
//	close(dir)
func (f *File) Commit() error {
	return f.commit("rename", rename)
}

// CommitNew is Commit which replaces nothing: when the name is taken, the error is
// fs.ErrExist and the file is gone. One of several writers wins, also of several
// processes.
//
// Good path on Linux; macOS has renamex_np(RENAME_EXCL), Windows MoveFileEx:
//
//	fsync(temp)
//	close(temp)
//	renameat2(temp, path, RENAME_NOREPLACE)
//	fsync(dir)
//	close(dir)
//
// Where the file system has no such rename (NFS), in its place:
//
//	link(temp, path)
//	unlink(temp)
func (f *File) CommitNew() error {
	return f.commit("rename-new", renameNew)
}

func (f *File) commit(call string, rename func(from, to string) error) error {
	if f.done {
		return fmt.Errorf("write %s: %w", f.path, fs.ErrClosed)
	}
	defer f.Abort()
	temp := f.Name()
	if err := before("sync", temp); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := before(call, f.path); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := rename(temp, f.path); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	f.done = true // nothing to remove any more
	if f.dir == nil {
		return nil
	}
	defer f.dir.Close()
	if err := before("sync", f.dir.Name()); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := syncOpenDir(f.dir); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return nil
}

// Abort removes the temporary file. After Commit, CommitNew or Abort it does nothing.
//
// Good path:
//
//	close(temp)
//	unlink(temp)
//	close(dir)
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.Close()           // the file is thrown away, and may be closed already
	os.Remove(f.Name()) // what can't be removed now is garbage by its name
	if f.dir != nil {
		f.dir.Close()
	}
}

// SyncDir makes the names in a folder durable: what was created, renamed or removed
// in it before the call. It does nothing on Windows, and on file systems that
// can't sync a folder, of which there is nothing more to be had.
//
// Good path:
//
//	openat(path)
//	fsync(path)
//	close(path)
func SyncDir(path string) error {
	d, err := openDir(path)
	if err != nil || d == nil {
		return err
	}
	defer d.Close()
	if err := before("sync", path); err != nil {
		return err
	}
	return syncOpenDir(d)
}

// MkdirAll makes a folder and the missing ones above it, and makes their names
// durable. A folder that exists is left as it is, and the one above it isn't
// synced. perm counts before umask.
//
// Good path, with a/b/c to be made and a there already:
//
//	stat(a/b/c), stat(a/b), stat(a)
//	mkdir(a/b)
//	openat(a), fsync(a), close(a)
//	mkdir(a/b/c)
//	openat(a/b), fsync(a/b), close(a/b)
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make folder %s: a file has that name", path)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if parent == path {
		return err // the root of all folders, and it isn't there
	}
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := before("mkdir", path); err != nil {
		return err
	}
	// Whoever was quicker may not have synced yet, so ErrExist is synced as well.
	if err := Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// Open opens a file for flag, and makes it if it isn't there; its name is then not
// durable until the folder is synced. perm counts before umask.
func Open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	for try := 0; ; try++ {
		f, err := os.OpenFile(path, flag|os.O_CREATE|os.O_EXCL, perm)
		if err == nil {
			adopt(f)
			return f, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = os.OpenFile(path, flag, perm)
		if try == 10 || !errors.Is(err, fs.ErrNotExist) { // or it was removed just now
			return f, err
		}
	}
}

// Mkdir makes one folder, whose name isn't durable until the one above it is synced.
// perm counts before umask.
func Mkdir(path string, perm fs.FileMode) error {
	err := os.Mkdir(path, perm)
	if err == nil {
		adoptDir(path)
	}
	return err
}

// RemoveAll removes a folder with all that is in it; one that isn't there is no error. It is moved aside first, so that at any moment,
// and after a crash at any moment, its name shows all of it or nothing. What a crash left aside goes with the next call.
//
// Good path, AWAY being the path and a tilde:
//
//	rename(path, AWAY)
//	openat(parent), fsync(parent), close(parent)
//	unlinkat(AWAY and all below)
func RemoveAll(path string) error {
	away := filepath.Clean(path) + tempSuffix
	if err := os.RemoveAll(away); err != nil {
		return err
	}
	if err := before("rename", path); err != nil {
		return err
	}
	err := os.Rename(path, away)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(away)); err != nil {
		return err
	}
	if err := before("remove", away); err != nil {
		return err
	}
	return os.RemoveAll(away)
}
