package backup

import (
	"context"
	"maps"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/state"
)

// What was shipped since the backup before, and is stored for good, a backup refers to: it neither reads nor stores it
// again. Between two such ranges, and behind the last, it reads the file.

// findShipped finds the objects of chains that the backup may refer to.
func (r *run) findShipped(ctx context.Context, parent *state.State) error {
	if r.opts.Full || r.opts.Prove || parent == nil || r.opts.Compaction == Copy { // copies read older files where a replay can't be
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
	list := make([]manifest.Segment, 0, len(segments))
	for s := range maps.Values(segments) {
		list = append(list, s)
	}
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

// takeOver returns what is known of a file with what was shipped of it since: old, if that is nothing.
func (w *worker) takeOver(ctx context.Context, e node.Entry, old *capture.Known) (*capture.Known, error) {
	list := w.run.shipped[capture.Name{Root: e.Root, Path: e.Path}]
	if len(list) == 0 || old.Lost || old.Damaged || old.File != nil && old.File.Generation != list[0].File.Generation {
		return old, nil
	}
	now := *old
	for i := range list {
		k := &list[i]
		next, err := w.takeRange(ctx, e, &now, k)
		if err != nil {
			return nil, err
		}
		if next != nil {
			now = *next
		}
	}
	return &now, nil
}

// takeRange returns what is known of a file up to the end of a range that was shipped: with what is in front of it, which
// it reads. It is nil if the range can't be used.
func (w *worker) takeRange(ctx context.Context, e node.Entry, now *capture.Known, k *state.Kept) (*capture.Known, error) {
	have := int64(0)
	out := &manifest.File{}
	if now.File != nil {
		have = now.File.Size
		out.Append(now.File.Extents, now.File.Replays)
	}
	if k.From() < have {
		return nil, nil
	}
	for _, s := range k.Parts {
		if w.run.objects[s.Key] == nil {
			return nil, nil
		}
	}
	if k.From() > have {
		from := now
		if have == 0 {
			from = nil
		}
		got, err := w.taker.TakeTo(ctx, e, from, k.Was)
		if err != nil || got == nil {
			return nil, err
		}
		out.Append(got.Extents, got.Replays)
		w.run.read.Add(k.From() - have)
		w.run.added.Add(got.Content())
	}
	extents, replays := manifest.Renumbered(k.File.Extents, k.File.Replays, func(seg int) int {
		return w.run.segments.use(w.run.objects[k.Parts[seg].Key])
	})
	out.Append(extents, replays)
	w.run.takenOver.Add(k.File.Size - k.From())
	f := *k.File
	f.Extents, f.Replays = out.Extents, out.Replays
	next := *now
	next.File, next.Local = &f, k.Local
	if !w.taker.Remembers(k.Local.Known) {
		next.Local.Known = now.Local.Known
	}
	return &next, nil
}
