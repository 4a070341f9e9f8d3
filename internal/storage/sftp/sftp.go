// Package sftp keeps objects as files below a folder of an SFTP server
// (sftp://user@host:port/path): the key a/b is the file ROOT/a/b, of mode 0600 in
// folders of mode 0700.
//
// # Power cuts
//
// A body is written to ROOT/.tmp~/, which no key can name, and synced there; then it
// gets its name with posix-rename, or with a hard link for IfAbsent, which fails when
// the name is taken. Put and Delete answer when the folder is synced, and those above
// it are once they were used. All this takes extensions of OpenSSH's server; one that
// lacks them, or can't sync a folder, is refused when the storage is opened.
//
// What a crash leaves in .tmp~ is removed by the first Put of a Store that comes a
// day later.
//
// # Connections
//
// A Store has one connection, on which all calls are under way together. When it is
// lost they return ErrUnavailable, and the next call connects anew. It counts as
// lost when the server gives no sign of life for half a minute; until then a call
// doesn't return, even when its context is done.
//
// # Limits
//
// As with package file, a key can't be a folder of another key. The protocol doesn't
// tell which disk a folder is on: that one isn't mounted is noticed only if the folder
// isn't there without it, so let the URL name a folder on the disk, not the mount
// point. The errors of the protocol are few: a full or read-only disk is told from
// other failures by asking for its room, and a quota isn't.
package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	objectMode = 0o600
	folderMode = 0o700

	// tempFolder is where bodies are written; the tilde is in no key.
	tempFolder = ".tmp~"

	// tempAge is how long nobody must have written to a file in tempFolder until it
	// counts as left by a crash.
	tempAge = 24 * time.Hour

	// bufferBytes is what is read or written at a time, in packets that are all under
	// way together.
	bufferBytes = 512 << 10

	// placeTries bounds how often Put makes a folder again that others remove.
	placeTries = 100
)

// Options are the options of Open. The zero value opens what is there.
type Options struct {
	// Create makes the folder, and those above it, if it isn't there.
	Create bool
}

// Store keeps objects below a folder of a server.
type Store struct {
	target

	connMu sync.Mutex // held while connecting
	conn   *conn      // nil or maybe dead; guarded by connMu
	closed bool       // guarded by connMu

	// mu is held for reading from the moment a folder is known to be there until a
	// name is in it, and for writing while folders are made or removed.
	mu    sync.RWMutex
	known map[string]bool // folders whose names, and those above, are synced; guarded by mu

	sweep sync.Once // of tempFolder
}

var _ storage.Store = (*Store)(nil)

// Open opens sftp://user@host:port/path, with the parameters identity_file and
// known_hosts. It connects.
func Open(ctx context.Context, raw string, opts Options) (*Store, error) {
	t, err := parseURL(raw)
	if err != nil {
		return nil, err
	}
	s := &Store{target: t, known: make(map[string]bool)}
	if err := s.open(ctx, opts); err != nil {
		drop(s) // the first error counts
		return nil, wrap("open storage "+t.url, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, opts Options) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if opts.Create {
		if err := makeAll(c, s.root); err != nil {
			return err
		}
	}
	info, err := c.Stat(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no such folder: check its name, and that its disk is mounted", storage.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("not a folder")
	}
	if err := syncFolder(c, s.root); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the server can't sync a folder, without which a backup can't be stored safely: %w", err)
	}
	s.known[s.root] = true
	return nil
}

// makeAll makes a folder and those above it, and syncs the names of those it made.
func makeAll(c *conn, dir string) error {
	if info, err := c.Stat(dir); err == nil && info.IsDir() || dir == "/" {
		return nil
	}
	if err := makeAll(c, path.Dir(dir)); err != nil {
		return err
	}
	if err := makeFolder(c, dir); err != nil {
		return err
	}
	return syncFolder(c, path.Dir(dir))
}

// makeFolder makes a folder unless it is there.
func makeFolder(c *conn, dir string) error {
	err := c.Mkdir(dir)
	if err == nil {
		return c.Chmod(dir, folderMode)
	}
	if info, statErr := c.Stat(dir); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// syncFolder opens a folder as a file, which on Unix can be synced.
func syncFolder(c *conn, dir string) error {
	f, err := c.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	drop(f) // nothing was written
	return err
}

// connect returns the connection, a new one if there is none that lives.
func (s *Store) connect(ctx context.Context) (*conn, error) {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.closed {
		return nil, errors.New("the storage is closed")
	}
	if s.conn != nil {
		select {
		case <-s.conn.dead:
			s.conn.close()
			s.conn = nil
		default:
			return s.conn, nil
		}
	}
	c, err := dial(ctx, s.target)
	if err != nil {
		return nil, err
	}
	s.conn = c
	return c, nil
}

// URL returns the URL of the root, with the user and no parameters.
func (s *Store) URL() string { return s.url }

// Close ends the connection.
func (s *Store) Close() error {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	s.closed = true
	if s.conn != nil {
		s.conn.close()
		s.conn = nil
	}
	return nil
}

// call does one operation on an object.
func (s *Store) call(ctx context.Context, op string, key storage.Key, do func(c *conn, path string) error) error {
	if !key.Valid() {
		return fmt.Errorf("%s %q: not a valid key", op, key)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return wrap(op+" "+string(key), err)
	}
	err = do(c, s.root+"/"+string(key))
	return c.fail(op+" "+string(key), err)
}

// Room returns the room of the file system that the root is in, if the server tells it (statvfs@openssh.com).
func (s *Store) Room(ctx context.Context) (free, total int64, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return 0, 0, wrap("room", err)
	}
	v, err := c.StatVFS(s.root)
	if err != nil {
		return 0, 0, c.fail("room", err)
	}
	return int64(v.Bavail * v.Frsize), int64((v.Blocks - v.Bfree + v.Bavail) * v.Frsize), nil
}

// absent returns the error for what isn't there: the object, or the root.
func (s *Store) absent(c *conn) error {
	_, err := c.Stat(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the folder %s is gone", storage.ErrUnavailable, s.root)
	}
	if err != nil {
		return err
	}
	return storage.ErrNotExist
}

// orAbsent returns err, or what absent says if err is that something isn't there.
func (s *Store) orAbsent(c *conn, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return s.absent(c)
	}
	return err
}

// Put writes the object under a temporary name and renames or links it.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	return s.call(ctx, "put", key, func(c *conn, path string) error {
		if !opts.RetainUntil.IsZero() {
			return errors.New("an SFTP server can't protect objects until a date")
		}
		err := s.put(ctx, c, path, body, opts.IfAbsent)
		if errors.Is(err, fs.ErrNotExist) {
			if gone := s.absent(c); !errors.Is(gone, storage.ErrNotExist) {
				return gone
			}
			return fmt.Errorf("%w: another process removes what is being written", storage.ErrUnavailable)
		}
		return err
	})
}

func (s *Store) put(ctx context.Context, c *conn, name string, body storage.Body, ifAbsent bool) error {
	// Looking first saves sending a body in vain; the link decides.
	if ifAbsent && isObject(c, name) {
		return s.exists(c, name)
	}
	temp, err := s.write(ctx, c, body)
	if err == nil {
		err = s.name(ctx, c, temp, name, ifAbsent)
	}
	err = s.diagnose(c, err) // before there is room again
	if temp != "" {
		_ = c.Remove(temp) // gone after a rename; else removed by a later Put
	}
	return err
}

// name gives a temporary file its name.
func (s *Store) name(ctx context.Context, c *conn, temp, name string, ifAbsent bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := path.Dir(name)
	if !ifAbsent {
		if err := s.place(c, dir, func() error { return c.PosixRename(temp, name) }); err != nil {
			return err
		}
		return syncFolder(c, dir)
	}
	err := s.place(c, dir, func() error { return c.Link(temp, name) })
	if err != nil && isObject(c, name) {
		return s.exists(c, name)
	}
	if err != nil {
		return err
	}
	return syncFolder(c, dir)
}

func isObject(c *conn, name string) bool {
	info, err := c.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// exists returns ErrExist, once the object that exists is as durable as after a Put:
// the one that put it may have failed at its last step, or be before it.
func (s *Store) exists(c *conn, name string) error {
	dir := path.Dir(name)
	if err := s.place(c, dir, func() error { return nil }); err != nil {
		return err
	}
	if err := syncFolder(c, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return storage.ErrExist
}

// write stores the body in a temporary file, which it names also when it fails.
func (s *Store) write(ctx context.Context, c *conn, body storage.Body) (temp string, err error) {
	temp = path.Join(s.root, tempFolder, rand.Text())
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := c.OpenFile(temp, flags)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeFolder(c, path.Dir(temp)); err != nil {
			return "", err
		}
		f, err = c.OpenFile(temp, flags)
	}
	if err != nil {
		return "", err
	}
	s.sweep.Do(func() { s.removeOld(c, f) })
	err = f.Chmod(objectMode)
	if err == nil {
		err = storage.CopyBody(ctx, f, body)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return temp, err
}

// removeOld removes what crashes have left, by the clock of the server, of which a
// new file knows the time. It is housekeeping: what fails is left for the next time.
func (s *Store) removeOld(c *conn, created *sftp.File) {
	now, err := created.Stat()
	if err != nil {
		return
	}
	dir := path.Join(s.root, tempFolder)
	infos, err := c.ReadDir(dir)
	if err != nil {
		return
	}
	for _, info := range infos {
		if info.Mode().IsRegular() && now.ModTime().Sub(info.ModTime()) > tempAge {
			_ = c.Remove(path.Join(dir, info.Name())) // see above
		}
	}
}

// place calls do, which gives a name to a file in dir, while that folder is there and
// durable.
func (s *Store) place(c *conn, dir string, do func() error) error {
	for try := 1; ; {
		done, err := s.inKnown(dir, do)
		if !done {
			err = s.makeKnown(c, dir)
		}
		if err == nil && done {
			return nil
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) || try == placeTries {
			return err
		}
		// Another process has removed the folder, or the root is gone.
		if gone := s.absent(c); !errors.Is(gone, storage.ErrNotExist) {
			return gone
		}
		s.forget(dir)
		try++
	}
}

// inKnown calls do if dir is known, and reports whether it did.
func (s *Store) inKnown(dir string, do func() error) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.known[dir] {
		return false, nil
	}
	return true, do()
}

// makeKnown makes a folder, and those above it up to the root, unless they are there,
// and syncs their names.
func (s *Store) makeKnown(c *conn, dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.makeBelowRoot(c, dir)
}

// makeBelowRoot is makeKnown for a caller that holds mu for writing.
func (s *Store) makeBelowRoot(c *conn, dir string) error {
	if s.known[dir] {
		return nil
	}
	if err := s.makeBelowRoot(c, path.Dir(dir)); err != nil {
		return err
	}
	if err := makeFolder(c, dir); err != nil {
		return err
	}
	if err := syncFolder(c, path.Dir(dir)); err != nil {
		return err
	}
	s.known[dir] = true
	return nil
}

// forget has a folder, and those above it, be looked at again.
func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; dir != s.root; dir = path.Dir(dir) {
		delete(s.known, dir)
	}
}

// Delete removes the file of an object, and folders that become empty by that.
func (s *Store) Delete(ctx context.Context, key storage.Key) error {
	return s.call(ctx, "delete", key, func(c *conn, name string) error {
		info, err := c.Lstat(name)
		if err == nil && info.IsDir() {
			return nil // holds other objects, and is none
		}
		if err == nil {
			err = c.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.diagnose(c, err)
		}
		// Also when it wasn't there: whoever removed it may have failed at the sync.
		if err := s.syncNearest(c, path.Dir(name)); err != nil {
			return err
		}
		s.removeEmpty(c, path.Dir(name))
		return nil
	})
}

// syncNearest syncs a folder; if it isn't there, then the one above it, so that it
// stays away, and so on up to the root.
func (s *Store) syncNearest(c *conn, dir string) error {
	for ; ; dir = path.Dir(dir) {
		err := syncFolder(c, dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == s.root {
			return s.absent(c)
		}
	}
}

// removeEmpty removes a folder, and those above it, as far as they are empty. This
// isn't synced: an empty folder that a power cut brings back does no harm.
func (s *Store) removeEmpty(c *conn, dir string) {
	if dir == s.root {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; dir != s.root; dir = path.Dir(dir) {
		if err := c.RemoveDirectory(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		delete(s.known, dir)
	}
}

// Get opens the file and calls fn once.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	if off < 0 {
		return fmt.Errorf("get %s: negative offset %d", key, off)
	}
	r := &reader{ctx: ctx, key: key}
	var size int64
	err := s.call(ctx, "get", key, func(c *conn, name string) (err error) {
		r.c = c
		r.f, size, err = s.openObject(c, name)
		return err
	})
	if err != nil {
		return err
	}
	defer drop(r.f)
	r.off = min(off, size)
	r.left = size - r.off
	if n >= 0 {
		r.left = min(r.left, n)
	}
	err = fn(r)
	if r.err != nil && !errors.Is(err, r.err) {
		return r.err // whatever fn made of it
	}
	return err
}

func (s *Store) openObject(c *conn, name string) (*sftp.File, int64, error) {
	f, err := c.Open(name)
	if err != nil {
		return nil, 0, s.orAbsent(c, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = s.absent(c)
	}
	if err != nil {
		drop(f)
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// reader reads a part of an object, ahead of who reads it.
type reader struct {
	ctx  context.Context
	c    *conn
	f    *sftp.File
	key  storage.Key
	off  int64
	left int64 // bytes not yet asked for
	buf  []byte
	got  []byte // of buf, not yet given out
	err  error  // of the storage or of ctx
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.err == nil {
		r.err = r.fill()
	}
	if r.err != nil {
		return 0, r.err
	}
	if len(r.got) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.got)
	r.got = r.got[n:]
	return n, nil
}

// fill reads the next bytes if all were given out.
func (r *reader) fill() error {
	what := "get " + string(r.key)
	if err := r.ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(r.got) > 0 || r.left == 0 {
		return nil
	}
	if r.buf == nil {
		r.buf = make([]byte, min(r.left, bufferBytes))
	}
	part := r.buf[:min(r.left, int64(len(r.buf)))]
	n, err := r.f.ReadAt(part, r.off)
	if n < len(part) {
		if err == nil || errors.Is(err, io.EOF) { // the file had a size, and nobody changes it
			return fmt.Errorf("%s: %w: the file ended %d bytes early", what, storage.ErrUnavailable, r.left-int64(n))
		}
		return r.c.fail(what, err)
	}
	r.off += int64(n)
	r.left -= int64(n)
	r.got = part
	return nil
}

// Stat returns size and time of the object's file; the time has no fractions.
func (s *Store) Stat(ctx context.Context, key storage.Key) (info storage.Info, err error) {
	err = s.call(ctx, "stat", key, func(c *conn, name string) error {
		file, err := c.Stat(name)
		if err == nil && !file.Mode().IsRegular() {
			err = fs.ErrNotExist
		}
		if err != nil {
			return s.orAbsent(c, err)
		}
		info = infoOf(key, file)
		return nil
	})
	return info, err
}

func infoOf(key storage.Key, info fs.FileInfo) storage.Info {
	return storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()}
}

// List walks the folders, and holds the files of one folder at each level. Links are
// followed, as Get does. What isn't a file of an object is passed over.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix != "" {
		key, ok := strings.CutSuffix(prefix, "/")
		if !ok || !storage.Key(key).Valid() {
			return fmt.Errorf("list %q: not a valid prefix", prefix)
		}
	}
	c, err := s.connect(ctx)
	if err != nil {
		return wrap("list "+prefix, err)
	}
	var fnErr error
	err = s.list(ctx, c, prefix, func(info storage.Info) error {
		fnErr = fn(info)
		return fnErr
	})
	if fnErr != nil {
		return fnErr
	}
	// Folders that vanish are passed over, so if the root did, not all was shown.
	if err == nil {
		if err = s.absent(c); errors.Is(err, storage.ErrNotExist) {
			return nil
		}
	}
	return c.fail("list "+prefix, err)
}

// list shows the objects below prefix, which is "" or ends with "/".
func (s *Store) list(ctx context.Context, c *conn, prefix string, fn func(storage.Info) error) error {
	infos, err := c.ReadDirContext(ctx, s.root+"/"+prefix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files := make(map[string]fs.FileInfo, len(infos))
	for _, info := range infos {
		name := prefix + info.Name()
		if !storage.Key(name).Valid() {
			continue // a link in a circle ends here, too
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			if info, err = c.Stat(s.root + "/" + name); err != nil {
				continue // to nothing
			}
		}
		switch {
		case info.IsDir():
			files[name+"/"] = info
		case info.Mode().IsRegular():
			files[name] = info
		}
	}
	// In the byte order of whole keys "a.b" is before "a/b" and "a0" after it. With the
	// slash at the end of folders, names sort in the same way.
	for _, name := range sortedNames(files) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(name, "/") {
			err = s.list(ctx, c, name, fn)
		} else {
			err = fn(infoOf(storage.Key(name), files[name]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sortedNames(files map[string]fs.FileInfo) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
