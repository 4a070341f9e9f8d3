package capture

import (
	"context"
	"io"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/manifest"
)

// copyOf stores a compacted file as a copy: what it has that the file that is stored
// had not, and where in that the rest is. It returns how many bytes these are, 0 or all.
func (f *taking) copyOf(ctx context.Context, known *replay.CopyKnown) (int64, error) {
	old := f.old.File
	within := copiesFrom(old, old.Size)
	if within.Size == 0 {
		return 0, nil
	}
	return f.store(ctx, 0, func(body io.Writer, at replay.File) (*stream, error) {
		res, err := replay.EncodeCopy(body, at, known, within.Size)
		if err != nil {
			return nil, err
		}
		return &stream{kind: manifest.CopyReplay, prologue: res.Prologue, sum: res.Copy.SHA256, n: at.Size, size: res.StreamSize(),
			older: copiesFrom(old, res.Copy.OlderSize)}, nil
	})
}

// copiesFrom is as much of a file as a copy can rest on, of its first size bytes: what
// computes nothing when it is read.
func copiesFrom(f *manifest.File, size int64) *manifest.Older {
	o := &manifest.Older{Generation: f.Generation}
	for _, e := range f.Extents {
		if e.Seg < 0 && f.Replays[-1-e.Seg].Kind != manifest.CopyReplay {
			break
		}
		if e.Seg < 0 {
			o.Replays = f.Replays[:1:1] // a copy makes a file's first bytes
		}
		n := min(e.N, size-o.Size)
		if n <= 0 {
			break
		}
		if e.Seg >= 0 {
			e.N = n
		}
		o.Extents = append(o.Extents, e)
		o.Size += e.N
	}
	return o
}
