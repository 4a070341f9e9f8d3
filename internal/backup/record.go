package backup

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/state"
)

// The ways to store what a compaction wrote, and what was appended to a file; see capture.
const (
	Replay = capture.Replay
	Copy   = capture.Copy
	Whole  = capture.Whole
)

// newTakers makes what takes the files of the run.
func (r *run) newTakers() {
	o := &r.opts
	shipped, err := state.ReadShipped(r.dir, 0)
	r.shipped = shipped.Kept
	if err != nil {
		r.note(fmt.Sprintf("shipped moments after this backup rest on it, since what shipping calls files could not be read: %v", err))
	}
	if len(r.shipped) > 0 && o.Compaction == Replay { // without it what was shipped is read to be remembered
		_ = capture.ShareKnown(filepath.Join(r.dir, state.ShipDir), r.dir)
	}
	takers, note := capture.New(capture.Options{
		Node: o.Node, Dir: r.dir, Encrypted: o.Repo.Config().Encrypted(), Compaction: o.Compaction, Tails: o.Tails, Examine: true, Strict: o.Strict,
		Doubt:      func(nm capture.Name, was, is *capture.Local) string { return string(r.proofs.doubt(nm, was, is)) },
		Judge:      r.checkUUID,
		Look:       r.lookForMap,
		Named:      func(nm capture.Name) *capture.Known { return shipped.Files[nm] },
		Generation: func() string { return fmt.Sprintf("%s-%d", r.id, r.generations.Add(1)) },
		Now:        func() time.Time { return r.started },
		Done:       &o.Progress.taken,
	})
	r.takers = takers
	if note != "" {
		r.note(note)
	}
}

// known returns what the backup before knows of a file.
func (r *run) known(nm capture.Name) *capture.Known {
	r.mu.Lock()
	old := r.old[nm]
	r.mu.Unlock()
	if old == nil {
		old = &capture.Known{}
	} else {
		old.Lost = !r.segmentsStored(old.File)
	}
	old.Damaged = r.wasDamaged(nm)
	return old
}

// record takes into the backup what was taken of a file.
func (r *run) record(nm capture.Name, old *capture.Known, t *capture.Taken) {
	r.read.Add(t.Read)
	r.added.Add(t.Added)
	r.replayed.Add(t.Replayed)
	if t.WentBack {
		r.proofs.foundBack(nm.Path)
	}
	if t.Doubt != "" {
		r.proofs.found(doubt(t.Doubt), old.File.Size)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sawEpochs(t.Epochs)
	r.notes = append(r.notes, t.Notes...)
	if len(t.Redacted) > 0 {
		r.notes = append(r.notes, fmt.Sprintf("%s: left out of it, since the repository is not encrypted: %s", nm.Path, joinShort(t.Redacted)))
	}
	r.damage = append(r.damage, t.Damage...)
	if t.Kept {
		r.damage = append(r.damage, r.oldDamage[nm]...)
	}
	if t.File == nil {
		r.leftOut = append(r.leftOut, manifest.LeftOut{Root: nm.Root, Path: nm.Path, Reason: t.LeftOut})
		return
	}
	r.files[nm], r.locals[nm] = t.File, t.Local
	delete(r.old, nm) // not needed any more: with many files this is most of the memory
}

// wasDamaged reports whether the backup before found damage in a file.
func (r *run) wasDamaged(nm capture.Name) bool { return len(r.oldDamage[nm]) > 0 }

// lookForMap reads the shard map out of the _dbs.couch that was just taken.
func (r *run) lookForMap(ctx context.Context, src *capture.Source, f *manifest.File) ([]manifest.Damage, error) {
	if f.Path != dbsPath || f.Root != manifest.DataRoot || f.Header == nil {
		return nil, nil
	}
	err := r.readMap(ctx, src, f.Size)
	if ctx.Err() != nil || err == nil {
		return nil, ctx.Err()
	}
	return []manifest.Damage{mapDamage(err)}, nil
}
