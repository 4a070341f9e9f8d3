package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/storage"
)

// List walks the folders. It holds the names of one folder at each level, so its
// memory goes with the largest folder and not with the number of objects.
//
// Links are followed, as Get does. What isn't a file of an object is passed over:
// lost+found, temporary files, names that are no keys.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix != "" {
		key, ok := strings.CutSuffix(prefix, "/")
		if !ok || !storage.Key(key).Valid() {
			return fmt.Errorf("list %q: not a valid prefix", prefix)
		}
	}
	w := walk{ctx: ctx, store: s, fn: fn}
	err := w.folder(prefix)
	if w.fnErr != nil {
		return w.fnErr
	}
	// Folders that vanish are passed over, so if the root did, not all was shown.
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return wrap("list "+prefix, err)
	}
	return nil
}

// walk is one List.
type walk struct {
	ctx   context.Context
	store *Store
	fn    func(storage.Info) error
	fnErr error // what fn returned; ends the walk
}

// folder shows the objects below prefix, which is "" or ends with "/".
func (w *walk) folder(prefix string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Join(w.store.root, filepath.FromSlash(prefix))
	names, err := w.names(dir)
	if isAbsent(err) {
		return w.store.check()
	}
	if err != nil {
		return err
	}
	// In the byte order of whole keys "a.b" is before "a/b" and "a0" after it. With
	// the slash at the end of folders, names sort in the same way.
	slices.Sort(names)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			err = w.folder(prefix + name)
		} else {
			err = w.object(storage.Key(prefix+name), filepath.Join(dir, name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) object(key storage.Key, path string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if !key.Valid() {
		return nil // too long
	}
	info, err := os.Stat(path)
	if isAbsent(err) {
		return w.store.check() // removed since its name was read
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	w.fnErr = w.fn(infoOf(key, info))
	return w.fnErr
}

// names returns the names in a folder that can be parts of keys, those of folders
// with a slash at the end, in no order.
func (w *walk) names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var names []string
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if !storage.Key(e.Name()).Valid() {
				continue
			}
			switch isDir, err := w.isDir(dir, e); {
			case err != nil:
				return nil, err
			case isDir:
				names = append(names, e.Name()+"/")
			default:
				names = append(names, e.Name())
			}
		}
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// isDir reports whether an entry is a folder or a link to one. A link to a folder
// that it is in would have no end.
func (w *walk) isDir(dir string, e fs.DirEntry) (bool, error) {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir(), nil
	}
	path := filepath.Join(dir, e.Name())
	target, err := os.Stat(path)
	if err != nil || !target.IsDir() {
		return false, nil // a link to nothing is passed over later
	}
	for up := dir; ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		if err != nil {
			return false, err
		}
		if os.SameFile(info, target) {
			return false, fmt.Errorf("%s is a link to a folder that contains it", path)
		}
		if up == w.store.root {
			return true, nil
		}
	}
}
