package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// maxConfig bounds an ini file that is taken, in bytes.
const maxConfig = 4 << 20

// taking is a file while it is taken.
type taking struct {
	*Taker
	entry node.Entry
	name  Name
	old   *Known // never nil; its File may be
	src   *Source
	out   *Taken

	file *manifest.File     // what becomes of it
	sum  *prefixHash        // of its bytes up to the cut
	scan *couchfile.Scanner // nil if chunks are of no interest
	all  bool               // all that is stored of it was read
}

// Take takes a file up to its newest header, or an ini file, on top of what is known of it;
// old may be nil. Its errors are those of the sink, of the hooks, ErrPermission, or what
// else stands in the way of all files; what is wrong with this one alone is in what it returns.
func (t *Taker) Take(ctx context.Context, e node.Entry, old *Known) (*Taken, error) {
	if old == nil {
		old = &Known{}
	}
	nm, path := Name{e.Root, e.Path}, t.o.Node.Path(&e)
	if t.unchanged(path, nm, old) {
		return &Taken{File: old.File, Local: old.Local, From: old.File.Size, Kept: true}, nil
	}
	src, err := Open(ctx, t.o.Node, e)
	if err != nil {
		f := &taking{name: nm, out: &Taken{}}
		return f.unreadable(path, err)
	}
	defer src.Close()
	return t.TakeOpen(ctx, e, src, old)
}

// TakeOpen is Take of a database or index that is open, though perhaps not at its path any
// more, up to the newest header before the end that Source.EndAt set. It doesn't close it.
func (t *Taker) TakeOpen(ctx context.Context, e node.Entry, src *Source, old *Known) (*Taken, error) {
	if old == nil {
		old = &Known{}
	}
	f := &taking{Taker: t, entry: e, name: Name{e.Root, e.Path}, old: old, src: src, out: &Taken{Local: LocalOf(src.info)}}
	path, before := src.f.Name(), src.Read()
	var err error
	if f.entry.Kind == manifest.Config {
		err = f.takeConfig(ctx)
	} else {
		err = f.takeCouch(ctx)
	}
	f.out.Read += src.Read() - before
	src.whole = nil // it is the taker's
	var perr *fs.PathError
	switch {
	case err == nil:
		return f.out, nil
	case ctx.Err() != nil:
	case errors.Is(err, ErrShrunk) && f.entry.Kind == manifest.View:
		f.leaveOut("CouchDB reset the index during the backup and builds it anew")
		return f.out, nil
	case errors.As(err, &perr) && perr.Path == path:
		return f.unreadable(path, err)
	}
	return nil, err
}

// unchanged reports whether a file is as it was the last time, by its inode, size and
// times alone.
func (t *Taker) unchanged(path string, nm Name, old *Known) bool {
	if old.File == nil || old.Local.Ino == 0 || old.File.Kind == manifest.Config || old.Lost || t.unremembered(old) {
		return false
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	is, was := LocalOf(info), &old.Local
	return is.Dev == was.Dev && is.Ino == was.Ino && is.Size == was.Size && is.MTime == was.MTime && is.CTime == was.CTime && t.doubt(nm, was, &is) == ""
}

// doubt says why a file must be read whole though it is known.
func (t *Taker) doubt(nm Name, was, is *Local) string {
	if t.o.Doubt == nil {
		return ""
	}
	return t.o.Doubt(nm, was, is)
}

// unreadable decides what a file that can't be read means.
func (f *taking) unreadable(path string, err error) (*Taken, error) {
	switch {
	case errors.Is(err, ErrIrregular):
		f.leaveOut(err.Error())
	case errors.Is(err, fs.ErrNotExist):
		f.leaveOut("it vanished during the backup: its database or index was deleted")
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s: run as the user that CouchDB runs as, or as root", ErrPermission, path)
	case errors.Is(err, syscall.EIO):
		f.damaged(manifest.Damage{What: "file", Error: err.Error()})
		f.leaveOut("it can't be read: " + err.Error())
	default:
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return f.out, nil
}

func (f *taking) leaveOut(reason string) { f.out.File, f.out.LeftOut = nil, reason }

func (f *taking) damaged(d manifest.Damage) {
	d.Root, d.Path = f.name.Root, f.name.Path
	f.out.Damage = append(f.out.Damage, d)
}

func (f *taking) note(text string) { f.out.Notes = append(f.out.Notes, text) }

// newFile is the file as its entry and its inode tell it.
func (f *taking) newFile() *manifest.File {
	info := f.src.info
	owner, group := f.owners.names(info)
	return &manifest.File{Root: f.name.Root, Path: f.name.Path, RawPath: []byte(f.entry.RawPath), Kind: f.entry.Kind, Mode: uint32(info.Mode().Perm()),
		Owner: owner, Group: group, MTime: info.ModTime().UnixNano()}
}

// takeConfig takes an ini file, or vm.args, whole, unless it is stored. Without encryption
// its secrets are left out.
func (f *taking) takeConfig(ctx context.Context) error {
	b, err := node.ReadConfig(ctx, f.src.f.Name())
	if err != nil {
		return err
	}
	f.out.Read += int64(len(b))
	if len(b) > maxConfig {
		f.leaveOut(fmt.Sprintf("a configuration file of more than %d bytes", maxConfig))
		return nil
	}
	if !f.o.Encrypted {
		b, f.out.Redacted = node.Redact(f.entry.Path, b)
	}
	sum := sha256.Sum256(b)
	f.file = f.newFile()
	f.file.Size, f.file.SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
	if old := f.old.File; old != nil && old.SHA256 == f.file.SHA256 && !f.old.Lost {
		f.file.Extents, f.out.From = old.Extents, f.file.Size
	} else {
		if f.file.Extents, err = f.sink.Append(f.name, 0, b); err != nil {
			return err
		}
		f.out.Added = f.file.Size
		f.o.Done.Add(f.file.Size)
	}
	f.out.File = f.file
	return nil
}
