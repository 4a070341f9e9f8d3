// Package file keeps objects as files below a folder: the key a/b is the file
// ROOT/a/b, of mode 0600 in folders of mode 0700.
//
// What root makes below a folder of another user belongs to that user, so that a
// command that is run as root doesn't shut out the node's own.
//
// # Power cuts
//
// Put answers when the file, its name, and the names of all folders from the root
// down to it are synced (package durable). A folder that was there before is synced
// into the one above it at the first use by a Store, because whoever made it may
// not have come so far, and not again after that. Delete answers when the folder
// that held the name is synced.
//
// What a crash leaves is a file with a name that is no key; List doesn't show it.
// The first Put or Delete in a folder, and one each day after, removes those that
// nobody has written to for a day.
//
// # Disks that go away
//
// The root is a place in the tree of files, and what is found there can change: a
// disk is unmounted and the bare mount point stays, a folder is renamed. Writes
// would go to the wrong disk, and "not there" would be said of every object. So a
// Store keeps the folder that it opened open, and compares: before and after each
// change, before it says ErrNotExist, and at the end of a List. When the path
// leads elsewhere the answer is ErrUnavailable. While a Store is open its disk
// can't be unmounted in the usual way, as it is in use.
//
// # Several processes
//
// Puts and deletes of several processes, over one file system, go together. Delete
// removes folders that become empty, and Put makes them again. One thing isn't
// covered: a folder that another process has just made again, and has not yet
// synced, counts as durable for a Store that had used it before; the file systems
// of Linux, which keep a journal, write both in order.
//
// # Limits
//
// A key can't be a folder of another key: with a/b stored, a can't be. Where file
// names don't tell upper from lower case (macOS, Windows), keys don't either.
// Windows refuses to replace or delete an object while it is being read.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/storage"
)

const (
	objectMode = 0o600
	folderMode = 0o700

	// createTries bounds how often Put makes a folder again that others remove.
	createTries = 100

	// tempAge is how long nobody must have written to a temporary file until it
	// counts as left by a crash, and how often a folder is looked through for them.
	tempAge = 24 * time.Hour
)

// Store keeps objects below a folder.
type Store struct {
	root   string   // absolute
	handle *os.File // open, so that no other folder can get its identity
	id     os.FileInfo

	// mu is held for reading from the moment a folder is known to be there until a
	// temporary file is in it, and for writing while folders are made or removed.
	mu      sync.RWMutex
	folders map[string]folder // by path, the root included; guarded by mu
}

// folder is what a Store knows about one.
type folder struct {
	durable bool      // its name and those of all above it were synced
	swept   time.Time // when leftovers of crashes were last removed
}

var _ storage.Store = (*Store)(nil)

// Open opens the storage below the folder path, which must be there: a folder that
// is missing may be a disk that isn't mounted. See Create.
func Open(path string) (*Store, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", path, err)
	}
	handle, err := os.Open(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open storage %s: %w: there is no such folder: check its name, and that its disk is mounted", root, storage.ErrUnavailable)
	}
	if err != nil {
		return nil, wrap("open storage "+root, err)
	}
	id, err := handle.Stat()
	if err != nil {
		handle.Close()
		return nil, wrap("open storage "+root, err)
	}
	if !id.IsDir() {
		handle.Close()
		return nil, fmt.Errorf("open storage %s: not a folder", root)
	}
	return &Store{root: root, handle: handle, id: id, folders: make(map[string]folder)}, nil
}

// Create makes the folder path, with those above it, if it isn't there, and opens
// the storage below it.
func Create(path string) (*Store, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("create storage %s: %w", path, err)
	}
	if err := durable.MkdirAll(root, folderMode); err != nil {
		return nil, wrap("create storage "+root, err)
	}
	return Open(root)
}

// PathOfURL returns the folder that a URL names, which has the form file:///path.
func PathOfURL(raw string) (string, error) {
	const form = `write file:///path/of/the/folder, with three slashes`
	rest, ok := strings.CutPrefix(raw, "file://")
	if !ok {
		return "", fmt.Errorf("%q is not a file URL: %s", raw, form)
	}
	if !strings.HasPrefix(rest, "/") {
		return "", fmt.Errorf("%q names a host or a relative folder, which a file URL can't: %s", raw, form)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%q: %w: %s", raw, errors.Unwrap(err), form)
	}
	if u.RawQuery != "" || u.ForceQuery || strings.Contains(rest, "#") {
		return "", fmt.Errorf("%q has parameters, and a file URL has none (in a name ? is %%3F and # is %%23)", raw)
	}
	if strings.ContainsRune(u.Path, 0) {
		return "", fmt.Errorf("%q has a zero byte in its path", raw)
	}
	path := filepath.FromSlash(u.Path)
	if runtime.GOOS == "windows" {
		path = strings.TrimPrefix(path, `\`) // \C:\folder
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q names no absolute folder: %s", raw, form)
	}
	return filepath.Clean(path), nil
}

// URL returns the file URL of the root.
func (s *Store) URL() string {
	path := filepath.ToSlash(s.root)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/folder
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// Room returns the room of the file system that the root is in.
func (s *Store) Room(context.Context) (free, total int64, err error) {
	if free, total, err = room(s.root); err != nil {
		return 0, 0, wrap("room of "+s.root, err)
	}
	return free, total, nil
}

// Close lets go of the root.
func (s *Store) Close() error {
	return s.handle.Close()
}

// begin is what all methods with a key do first; it returns the path of its file.
func (s *Store) begin(ctx context.Context, op string, key storage.Key) (string, error) {
	if !key.Valid() {
		return "", fmt.Errorf("%s %q: not a valid key", op, key)
	}
	local, err := filepath.Localize(string(key)) // Windows has names that are devices
	if err != nil {
		return "", fmt.Errorf("%s %s: no file can have that name here", op, key)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("%s %s: %w", op, key, err)
	}
	return filepath.Join(s.root, local), nil
}

// check returns ErrUnavailable if the path of the root doesn't lead to the folder
// that was opened.
func (s *Store) check() error {
	info, err := os.Stat(s.root)
	switch {
	case errors.Is(err, fs.ErrNotExist) || isNotDir(err):
		return fmt.Errorf("%w: the folder %s is gone", storage.ErrUnavailable, s.root)
	case err != nil:
		return wrap("look at the folder", err)
	case !os.SameFile(info, s.id):
		return fmt.Errorf("%w: %s is not the folder that was opened; is a disk no longer mounted, or another one?", storage.ErrUnavailable, s.root)
	}
	return nil
}

// absent returns the error for an object whose file isn't there.
func (s *Store) absent() error {
	if err := s.check(); err != nil {
		return err
	}
	return storage.ErrNotExist
}

// orGone returns err, or ErrUnavailable if err is that a file isn't there because
// the root isn't.
func (s *Store) orGone(err error) error {
	if be := (*storage.BodyError)(nil); isAbsent(err) && !errors.As(err, &be) {
		if gone := s.check(); gone != nil {
			return gone
		}
	}
	return err
}

// Put writes the object under a temporary name and renames it.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	path, err := s.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	if !opts.RetainUntil.IsZero() {
		return fmt.Errorf("put %s: a folder can't protect objects until a date: write without that, or use a storage with object lock", key)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if err := s.put(ctx, path, body, opts); err != nil {
		return wrap("put "+string(key), s.orGone(err))
	}
	// Had the disk been changed in the middle, the object would be on the wrong one.
	if err := s.check(); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, path string, body storage.Body, opts storage.PutOptions) error {
	// Looking first saves writing a body in vain; CommitNew decides.
	if opts.IfAbsent && isObject(path) {
		return s.exists(path)
	}
	f, err := s.create(ctx, path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := storage.CopyBody(ctx, f, body); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !opts.IfAbsent {
		return f.Commit()
	}
	err = f.CommitNew()
	if errors.Is(err, fs.ErrExist) && !isFolder(path) {
		return s.exists(path) // or it did, and was deleted since
	}
	return err
}

func isObject(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// exists returns ErrExist, once the object that exists is as durable as after a
// Put: the one that put it may have failed at its last step, or be before it.
func (s *Store) exists(path string) error {
	dir := filepath.Dir(path)
	if err := s.knowFolderOf(path); err != nil {
		return err
	}
	if err := durable.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return storage.ErrExist
}

// knowFolderOf makes the folder of a file durable, if the file is there. It makes
// no folder: one that became empty just now would stay.
func (s *Store) knowFolderOf(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isObject(path) {
		return nil
	}
	err := s.useFolder(filepath.Dir(path), false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// create begins the file of an object, in a folder that is durable.
func (s *Store) create(ctx context.Context, path string) (*durable.File, error) {
	for try := 1; ; try++ {
		f, err := s.tryCreate(path)
		if !errors.Is(err, fs.ErrNotExist) || try == createTries {
			return f, err
		}
		// A Delete of another process has removed the folder, or the root is gone.
		if err := s.check(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.forget(filepath.Dir(path))
	}
}

func (s *Store) tryCreate(path string) (*durable.File, error) {
	dir := filepath.Dir(path)
	s.mu.RLock()
	if s.folders[dir].ready() {
		defer s.mu.RUnlock()
		return durable.Create(path, objectMode)
	}
	s.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.useFolder(dir, true); err != nil {
		return nil, err
	}
	return durable.Create(path, objectMode)
}

func (f folder) ready() bool {
	return f.durable && time.Since(f.swept) < tempAge
}

// useFolder syncs the names of a folder and those above it, down from the root, and
// with create makes those that aren't there, except for the root. The caller holds
// mu for writing.
func (s *Store) useFolder(dir string, create bool) error {
	f := s.folders[dir]
	if f.ready() {
		return nil
	}
	if dir != s.root && !f.durable {
		parent := filepath.Dir(dir)
		if err := s.useFolder(parent, create); err != nil {
			return err
		}
		if create {
			if err := durable.Mkdir(dir, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := durable.SyncDir(parent); err != nil {
			return err
		}
	}
	f.durable = true
	s.folders[dir] = f
	s.sweep(dir)
	return nil
}

// forget has a folder, and those above it, be looked at again.
func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; dir != s.root; dir = filepath.Dir(dir) {
		delete(s.folders, dir)
	}
}

// sweep removes what crashes have left in a folder, if that wasn't done of late.
// It is housekeeping: what fails is left for the next time. The caller holds mu for
// writing.
func (s *Store) sweep(dir string) {
	f := s.folders[dir]
	if time.Since(f.swept) < tempAge {
		return
	}
	f.swept = time.Now()
	s.folders[dir] = f
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if !durable.IsTemp(name) {
				continue
			}
			path := filepath.Join(dir, name)
			info, err := os.Lstat(path)
			if err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > tempAge {
				os.Remove(path)
			}
		}
		if err != nil {
			return
		}
	}
}

// Delete removes the file of an object, and folders that become empty by that.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	path, err := s.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if err := s.remove(path); err != nil {
		return wrap("delete "+string(key), s.orGone(err))
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir():
		return nil // holds other objects, and is none
	case err == nil:
		err = os.Remove(path)
	}
	if err != nil && !isAbsent(err) {
		return err
	}
	// Also when it wasn't there: whoever removed it may have failed at the sync.
	if err := s.syncNearest(filepath.Dir(path)); err != nil {
		return err
	}
	s.removeEmpty(filepath.Dir(path))
	return nil
}

// syncNearest syncs a folder; if it isn't there, then the one above it, so that it
// stays away, and so on up to the root.
func (s *Store) syncNearest(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		err := durable.SyncDir(dir)
		if err == nil || !isAbsent(err) || dir == s.root {
			return err
		}
	}
}

// removeEmpty removes a folder, and those above it, as far as they are empty. This
// isn't synced: an empty folder that a power cut brings back does no harm.
func (s *Store) removeEmpty(dir string) {
	if dir == s.root {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(dir)
	for ; dir != s.root; dir = filepath.Dir(dir) {
		// A link to a folder would be removed with all that is behind it.
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() {
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			return
		}
		delete(s.folders, dir)
	}
}

// Get opens the file and calls fn once.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	path, err := s.begin(ctx, "get", key)
	if err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("get %s: negative offset %d", key, off)
	}
	f, size, err := s.open(path)
	if err != nil {
		return wrap("get "+string(key), err)
	}
	defer f.Close()
	off = min(off, size)
	if n < 0 || n > size-off {
		n = size - off
	}
	return fn(&reader{ctx, io.NewSectionReader(f, off, n), key})
}

func (s *Store) open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if isAbsent(err) {
		return nil, 0, s.absent()
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = s.absent()
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// reader reads an object until ctx is done, with the storage's errors.
type reader struct {
	ctx context.Context
	r   io.Reader
	key storage.Key
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("get %s: %w", r.key, err)
	}
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader's EOF is never wrapped
		err = wrap("get "+string(r.key), err)
	}
	return n, err
}

// Stat returns size and time of the object's file.
func (s *Store) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	path, err := s.begin(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	info, err := os.Stat(path)
	if isAbsent(err) || err == nil && !info.Mode().IsRegular() {
		err = s.absent()
	}
	if err != nil {
		return storage.Info{}, wrap("stat "+string(key), err)
	}
	return infoOf(key, info), nil
}

func infoOf(key storage.Key, info os.FileInfo) storage.Info {
	return storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()}
}

// isAbsent reports whether err says that there is no such file: none of that name,
// or one where a folder is needed.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || isNotDir(err)
}

// wrap says what was being done, and which of the contract's errors it is.
func wrap(what string, err error) error {
	kind := kindOf(err)
	if kind == nil || errors.Is(err, kind) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}

// kindOf returns the contract's error for err; nil if there is none, or if it is
// an error of the contract already or not of the storage.
func kindOf(err error) error {
	if be := (*storage.BodyError)(nil); errors.As(err, &be) {
		return nil
	}
	for _, kind := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrFull, storage.ErrDenied, storage.ErrUnavailable} {
		if errors.Is(err, kind) {
			return nil
		}
	}
	switch {
	case isFull(err):
		return storage.ErrFull
	case isUnavailable(err):
		return storage.ErrUnavailable
	case errors.Is(err, fs.ErrPermission) || isReadOnly(err):
		return storage.ErrDenied
	}
	return nil
}
