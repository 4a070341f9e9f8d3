package capture

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// TakeTo takes what was appended to a database between two cuts that were taken before: that of old,
// nil for the file's beginning, and that of want. It returns want with extents and replays of these bytes alone; or nil
// if the file isn't there any more, isn't that one, or has damage there, where that is looked for: then the sink has bytes
// that are of no use.
func (t *Taker) TakeTo(ctx context.Context, e node.Entry, old *Known, want *manifest.File) (*manifest.File, error) {
	if old == nil {
		old = &Known{}
	}
	f := &taking{Taker: t, entry: e, name: Name{e.Root, e.Path}, old: old, out: &Taken{}}
	var err error
	f.src, err = Open(ctx, t.o.Node, e)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrIrregular) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.src.Close()
	file := *want
	file.Extents, file.Replays = nil, nil
	f.file, f.sum = &file, f.newPrefixHash(0)
	err = f.takeTo(ctx)
	switch {
	case errors.Is(err, ErrShrunk), errors.Is(err, errOther):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return f.file, nil
}

// errOther says that a file isn't the one that was taken before.
var errOther = errors.New("it is another file")

func (f *taking) takeTo(ctx context.Context) error {
	if f.src.Size() < f.file.Size {
		return ErrShrunk
	}
	if old := f.old.File; old != nil {
		f.sum.resume(&f.old.Local)
		if err := f.hashPrefix(ctx, f.sum, old.Size); err != nil {
			return err
		}
		if hex.EncodeToString(f.sum.Sum(nil)) != old.SHA256 {
			return errOther
		}
		f.out.From = old.Size
	}
	if f.o.Examine || f.o.Scan {
		f.scan = couchfile.NewScanner(f.out.From)
	}
	n, err := f.replayTail(ctx, f.out.From)
	if err != nil {
		return err
	}
	if err := f.takeRange(ctx, f.out.From+n); err != nil {
		return err
	}
	if hex.EncodeToString(f.sum.Sum(nil)) != f.file.SHA256 || f.scan != nil && len(f.scan.Anomalies()) > 0 {
		return errOther
	}
	return nil
}

// Leads reports whether a database that is known is, grown, another state of it: whether its bytes up to that are those that
// the other has. It reads what is between the two. false is also that it isn't there any more.
func (t *Taker) Leads(ctx context.Context, e node.Entry, known *Known, to *manifest.File) (bool, error) {
	f := &taking{Taker: t, entry: e, name: Name{e.Root, e.Path}, old: known, out: &Taken{}}
	var err error
	if f.src, err = Open(ctx, t.o.Node, e); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrIrregular) {
			err = nil
		}
		return false, err
	}
	defer f.src.Close()
	f.sum = f.newPrefixHash(0)
	f.sum.resume(&known.Local)
	for _, want := range []*manifest.File{known.File, to} {
		if err := f.hashPrefix(ctx, f.sum, want.Size); err != nil {
			if errors.Is(err, ErrShrunk) {
				err = nil
			}
			return false, err
		}
		if hex.EncodeToString(f.sum.Sum(nil)) != want.SHA256 {
			return false, nil
		}
	}
	return true, nil
}

// Has reports whether a database has the header with which another state of it ends, in the same place: then it is
// that one, grown, or looks like it.
func (t *Taker) Has(ctx context.Context, e node.Entry, file *manifest.File) bool {
	src, err := Open(ctx, t.o.Node, e)
	if err != nil {
		return false
	}
	defer src.Close()
	if file.Header == nil || src.Size() < file.Size {
		return false
	}
	same, err := sameHeader(src, file)
	return err == nil && same
}
