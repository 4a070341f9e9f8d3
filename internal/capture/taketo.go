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
// if the file isn't there any more, or isn't that one: then the sink has bytes that are of no use.
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
	if f.o.Examine {
		f.scan = couchfile.NewScanner(f.out.From)
	}
	n, err := f.replayTail(ctx, f.out.From)
	if err != nil {
		return err
	}
	if err := f.takeRange(ctx, f.out.From+n); err != nil {
		return err
	}
	if hex.EncodeToString(f.sum.Sum(nil)) != f.file.SHA256 {
		return errOther
	}
	return nil
}
