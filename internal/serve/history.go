package serve

import (
	"context"
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// DocState is a state of a document that a backup or moment has.
type DocState struct {
	Kind  ChangeKind        `json:"kind"` // what had become of it since the state before
	Rev   string            `json:"rev,omitempty"`
	Seq   uint64            `json:"update_seq,omitempty"` // of its shard, when it got that revision
	First time.Time         `json:"first_seen"`           // the first backup or moment that has it
	Last  time.Time         `json:"last_seen"`
	From  manifest.BackupID `json:"backup,omitempty"` // a backup that has it, "" if only moments do
	// Leaves are all its leaves but the winner: conflicts, and deleted branches.
	Leaves []LeafState `json:"leaves,omitempty"`
}

// LeafState is a leaf of a document's revision tree.
type LeafState struct {
	Rev     string `json:"rev"`
	Deleted bool   `json:"deleted,omitempty"`
}

// History returns the states of a document that any backup or moment still has, the oldest first. A shard's sequences tell
// which of them can differ: of those in which the document's last change is the same only one is opened. It returns
// ErrNoDatabase, and couchfile.ErrNotFound if no state has it.
func History(ctx context.Context, r *repo.Repo, instance, db, doc string) ([]DocState, error) {
	t, err := r.Timeline(ctx, instance, db)
	if err != nil {
		return nil, err
	}
	h := &historian{ctx: ctx, repo: r, t: t, db: db, doc: doc}
	if err := h.locate(); err != nil {
		return nil, err
	}
	if err := h.run(); err != nil {
		return nil, err
	}
	if len(h.out) == 0 {
		return nil, couchfile.ErrNotFound
	}
	slices.Reverse(h.out)
	h.kinds()
	return h.out, nil
}

// historian finds the states of a document, from the newest back.
type historian struct {
	ctx     context.Context
	repo    *repo.Repo
	t       *repo.Timeline
	db, doc string
	parted  bool
	out     []DocState // newest first
}

// locate finds out whether the database is partitioned, which says in which shard the document is.
func (h *historian) locate() error {
	for i := len(h.t.States) - 1; i >= 0; i-- {
		if len(h.t.States[i].Shards) == 0 {
			continue
		}
		return h.open(i, func(d *Database) error {
			db, err := d.any(h.ctx)
			if err == nil {
				h.parted, err = db.Partitioned()
			}
			return err
		})
	}
	return ErrNoDatabase
}

// open opens the database as a state has it.
func (h *historian) open(i int, fn func(*Database) error) error {
	m, err := h.t.Open(h.ctx, &h.t.States[i])
	if err != nil {
		return err
	}
	n, err := OpenNode(h.ctx, h.repo, m)
	if err != nil {
		return err
	}
	defer n.Close()
	d, err := n.Database(h.db)
	if err != nil {
		return err
	}
	return fn(d)
}

// shard returns what a state says of the document's shard, ok if it has it.
func (h *historian) shard(i int) (repo.ShardState, bool) {
	hash := shard.Hash(h.doc, h.parted)
	for path, s := range h.t.States[i].Shards {
		n, err := shard.ParsePath(path)
		if err != nil || n.Range.Contains(hash) {
			return s, true
		}
	}
	return repo.ShardState{}, false
}

// row returns where the row of states begins that ends with one: of one file's history, with sequences that never fall.
func (h *historian) row(last int) (first int) {
	now, _ := h.shard(last)
	for first = last; first > 0; first-- {
		was, ok := h.shard(first - 1)
		if !ok || was.UUID != now.UUID || was.UpdateSeq > now.UpdateSeq {
			break
		}
		now = was
	}
	return first
}

func (h *historian) run() error {
	for i := len(h.t.States) - 1; i >= 0; {
		if _, ok := h.shard(i); !ok {
			i--
			continue
		}
		first := h.row(i)
		for i >= first {
			next, err := h.look(first, i)
			if err != nil {
				return err
			}
			i = next
		}
	}
	return nil
}

// look takes down the document as the state i has it, and returns the newest state before it in which it can be another one;
// the row begins at first.
func (h *historian) look(first, i int) (next int, err error) {
	var info *couchfile.DocInfo
	var purge uint64
	err = h.open(i, func(d *Database) error {
		db, err := d.Find(h.ctx, h.doc)
		if err != nil {
			return err
		}
		if info, err = find(db, h.doc); err != nil || info != nil {
			return err
		}
		for p, err := range db.Purges(0) {
			if err != nil {
				return err
			}
			if p.DocID == h.doc {
				purge = p.Seq
			}
		}
		return nil
	})
	if errors.Is(err, ErrNoDatabase) || errors.Is(err, ErrNoShard) {
		return i - 1, nil
	}
	if err != nil {
		return 0, err
	}
	if info == nil && purge == 0 { // nor was it there before, in this row
		return first - 1, nil
	}
	span := i - first + 1
	k := first + sort.Search(span, func(n int) bool { // the first state that has this one
		s, _ := h.shard(first + n)
		if info == nil {
			return s.PurgeSeq >= purge
		}
		return s.UpdateSeq >= info.UpdateSeq
	})
	k = min(k, i)
	s := DocState{Kind: DocPurged, First: h.t.States[k].At.UTC(), Last: h.t.States[i].At.UTC()}
	for x := k; x <= i && s.From == ""; x++ {
		if rec := h.t.States[x].Backup; rec != nil {
			s.From = rec.ID
		}
	}
	if info != nil {
		w := info.Winner()
		s.Kind, s.Rev, s.Seq = DocChanged, w.Rev.String(), info.UpdateSeq
		if info.Deleted {
			s.Kind = DocDeleted
		}
		for _, l := range info.Leaves()[1:] {
			s.Leaves = append(s.Leaves, LeafState{l.Rev.String(), l.Deleted})
		}
	}
	h.out = append(h.out, s)
	return k - 1, nil
}

// kinds says what became of the document from state to state. One that is in two rows, as a restore begins a new one, and is the
// same in both is one state.
func (h *historian) kinds() {
	var out []DocState
	for _, s := range h.out {
		var was *DocState
		if n := len(out); n > 0 {
			was = &out[n-1]
		}
		if was != nil && was.Rev == s.Rev && (was.Kind == DocPurged) == (s.Kind == DocPurged) && slices.Equal(was.Leaves, s.Leaves) {
			was.Last = s.Last
			if was.From == "" {
				was.From = s.From
			}
			continue
		}
		if s.Kind == DocChanged {
			switch {
			case was == nil || was.Kind == DocPurged:
				s.Kind = DocAdded
			case was.Kind == DocDeleted:
				s.Kind = DocUndeleted
			}
		}
		out = append(out, s)
	}
	if len(out) > 0 && out[0].Kind == DocPurged { // nothing is known of what was before
		out = out[1:]
	}
	h.out = out
}
