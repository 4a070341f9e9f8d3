package backup

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/state"
)

// What was shipped since the backup before, and is stored for good, a backup refers to: it neither reads nor stores it
// again. Between two such ranges, and behind the last, it reads the file.

// findShipped finds the objects of chains that the backup may refer to.
func (r *run) findShipped(ctx context.Context, parent *state.State) error {
	if r.opts.Full || r.opts.Prove || r.opts.Strict || parent == nil || r.opts.Compaction == Copy { // copies read older files where a replay can't be
		r.shipped = nil
	}
	if len(r.shipped) == 0 {
		return nil
	}
	segments := map[string]manifest.Segment{}
	for _, list := range r.shipped {
		for _, k := range list {
			for _, s := range k.Parts {
				segments[s.Key] = s
			}
		}
	}
	list := slices.Collect(maps.Values(segments))
	stored, err := r.opts.Repo.Stored(ctx, r.opts.Instance, list)
	if err != nil {
		return err
	}
	r.objects = map[string]*storedSegment{}
	for i, s := range list {
		if stored[i] {
			r.objects[s.Key] = &storedSegment{segment: s, index: -1}
		}
	}
	for i, s := range parent.Segments { // those that it refers to already have a number
		if o := r.objects[s.Key]; o != nil {
			o.index = i
		}
	}
	return nil
}

// overtaken is what is known of a file with what was shipped of it since.
type overtaken struct {
	known                  *capture.Known
	shipped, read, content int64 // bytes of the file that were shipped, and that were read in between; those of segments for the latter
}

// takeOver returns what is known of a file with what was shipped of it since; nil if that is nothing, or can't be used:
// whoever takes the file then says what is wrong with it.
func (w *worker) takeOver(ctx context.Context, e node.Entry, old *capture.Known) (*overtaken, error) {
	list := w.run.shipped[capture.Name{Root: e.Root, Path: e.Path}]
	if len(list) == 0 || old.Lost || old.Damaged || old.File != nil && old.File.Generation != list[0].File.Generation ||
		!w.taker.Has(ctx, e, list[len(list)-1].File) {
		return nil, nil
	}
	out := &overtaken{known: old}
	for i := range list {
		ok, err := w.takeRange(ctx, e, out, &list[i])
		var perr *fs.PathError
		if errors.As(err, &perr) && ctx.Err() == nil { // the file can't be read
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
	}
	if out.shipped == 0 {
		return nil, nil
	}
	return out, nil
}

// takeRange puts a range that was shipped behind what is known of a file, with what is in front of it, which it reads. Not
// ok is that it, and what is behind it, can't be used.
func (w *worker) takeRange(ctx context.Context, e node.Entry, out *overtaken, k *state.Kept) (ok bool, err error) {
	now, have := out.known, int64(0)
	file := &manifest.File{}
	if now.File != nil {
		have = now.File.Size
		file.Append(now.File.Extents, now.File.Replays)
	}
	switch {
	case k.From() < have: // the backup before has some of it
		return true, nil
	case k.From() == have && have > 0 && k.Was.SHA256 != now.File.SHA256: // of another timeline
		return false, nil
	}
	for _, s := range k.Parts {
		if w.run.objects[s.Key] == nil {
			return true, nil
		}
	}
	if k.From() > have {
		from := now
		if have == 0 {
			from = nil
		}
		got, err := w.taker.TakeTo(ctx, e, from, k.Was)
		if err != nil || got == nil {
			return false, err
		}
		file.Append(got.Extents, got.Replays)
		out.read += k.From() - have
		out.content += got.Content()
	}
	extents, replays := manifest.Renumbered(k.File.Extents, k.File.Replays, func(seg int) int {
		return w.run.segments.use(w.run.objects[k.Parts[seg].Key])
	})
	file.Append(extents, replays)
	f := *k.File
	f.Extents, f.Replays = file.Extents, file.Replays
	next := *now
	next.File, next.Local = &f, k.Local
	if !w.taker.Remembers(k.Local.Known) {
		next.Local.Known = now.Local.Known
	}
	out.known = &next
	out.shipped += k.File.Size - k.From()
	return true, nil
}

// takeFile takes a file on top of what is known of it, and of what was shipped since. It returns on what it took it.
func (w *worker) takeFile(ctx context.Context, e node.Entry, old *capture.Known) (on *capture.Known, t *capture.Taken, err error) {
	over, err := w.takeOver(ctx, e, old)
	if err != nil {
		return nil, nil, err
	}
	if over != nil {
		t, err := w.taker.Take(ctx, e, over.known)
		if err != nil || !t.WentBack && t.From >= over.known.File.Size {
			w.run.takenOver.Add(over.shipped)
			w.run.opts.Progress.taken.Add(over.shipped)
			w.run.read.Add(over.read)
			w.run.added.Add(over.content)
			return over.known, t, err
		}
	}
	t, err = w.taker.Take(ctx, e, old)
	return old, t, err
}
