package serve

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// DocHistory is what backups and moments still have of a document.
type DocHistory struct {
	States    []DocState    `json:"states"`    // the oldest first
	Revisions []DocRevision `json:"revisions"` // those whose bodies are in a file, in the order in which they were seen first
}

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

// DocRevision is a revision whose body a backup or moment has.
type DocRevision struct {
	Kind    ChangeKind        `json:"kind"` // what became of the document by it
	Rev     string            `json:"rev"`
	Deleted bool              `json:"deleted,omitempty"`
	Parent  string            `json:"parent,omitempty"` // "" of the first one, or where it isn't known
	Seq     uint64            `json:"update_seq"`       // of its shard, when it was written there
	First   time.Time         `json:"first_seen"`       // the first backup or moment whose file has its body
	Last    time.Time         `json:"last_seen"`        // and the last one
	From    manifest.BackupID `json:"backup,omitempty"` // the newest backup that has it, "" if only moments do

	first int // the state
}

// DocConflict is, of a revision, that it was written beside another one, by a replication as a rule.
const DocConflict ChangeKind = "conflict"

// History returns what any backup or moment still has of a document. It opens few of them: a file that goes on from
// another one holds that, and of each revision the sequence under which it was written, so that the last state of each
// physical file tells what the others have. A compaction begins a new file. One is passed over if the document wasn't
// changed since that file was made, nor since it was replaced. It returns ErrNoDatabase, and couchfile.ErrNotFound if no
// state has the document.
func History(ctx context.Context, r *repo.Repo, instance, db, doc string) (*DocHistory, error) {
	t, err := r.Timeline(ctx, instance, db)
	if err != nil {
		return nil, err
	}
	h := &historian{ctx: ctx, t: t, doc: doc, seen: make([]sight, len(t.States))}
	if err := h.locate(); err != nil {
		return nil, err
	}
	if err := h.run(); err != nil {
		return nil, err
	}
	out := &DocHistory{States: h.states(), Revisions: h.revisions()}
	if len(out.States) == 0 {
		return nil, couchfile.ErrNotFound
	}
	return out, nil
}

// sight is a document as a state has it.
type sight struct {
	known  bool
	info   *couchfile.DocInfo // nil if it wasn't there
	upTo   uint64             // those of its revisions that were written up to this sequence
	purged bool               // it, or some of its leaves, was purged before
}

// historian finds what states have of a document, from the newest back.
type historian struct {
	ctx  context.Context
	t    *repo.Timeline
	doc  string
	hash uint32
	seen []sight
}

// locate finds out whether the database is partitioned, which says in which shard the document is.
func (h *historian) locate() error {
	for i := len(h.t.States) - 1; i >= 0; i-- {
		for path := range h.t.States[i].Shards {
			parted := false
			err := h.open(i, path, func(db *couchfile.DB) (err error) {
				parted, err = db.Partitioned()
				return err
			})
			h.hash = shard.Hash(h.doc, parted)
			return err
		}
	}
	return ErrNoDatabase
}

func (h *historian) open(i int, path string, fn func(*couchfile.DB) error) error {
	rd, d, err := h.t.Shard(h.ctx, &h.t.States[i], path)
	if err != nil {
		return err
	}
	defer rd.Close()
	defer d.Close()
	db, err := couchfile.OpenOffset(d, d.Size, d.Header)
	if err != nil {
		return err
	}
	return fn(db)
}

// shard returns what a state says of the document's shard, ok if it has it.
func (h *historian) shard(i int) (path string, s repo.ShardState, ok bool) {
	for path, s := range h.t.States[i].Shards {
		n, err := shard.ParsePath(path)
		if err != nil || n.Range.Contains(h.hash) {
			return path, s, true
		}
	}
	return "", s, false
}

// file returns where the row of states begins that ends with one: of one physical file.
func (h *historian) file(last int) (first int) {
	_, now, _ := h.shard(last)
	for first = last; first > 0; first-- {
		_, was, ok := h.shard(first - 1)
		if !ok || was.Generation == "" || was.Generation != now.Generation || was.UUID != now.UUID || was.UpdateSeq > now.UpdateSeq {
			break
		}
		now = was
	}
	return first
}

func (h *historian) run() error {
	for i := len(h.t.States) - 1; i >= 0; {
		if err := h.ctx.Err(); err != nil {
			return err
		}
		if _, _, ok := h.shard(i); !ok {
			i--
			continue
		}
		first := h.file(i)
		next, err := h.look(first, i)
		if err != nil {
			return err
		}
		if i = next; i >= 0 && i < first {
			if i, err = h.pass(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// look takes down the document as the state i and those before it have it, down to first as far as i tells, and returns
// the newest state of which nothing is known yet.
func (h *historian) look(first, i int) (next int, err error) {
	path, _, _ := h.shard(i)
	var info *couchfile.DocInfo
	var purge uint64
	err = h.open(i, path, func(db *couchfile.DB) (err error) {
		if info, err = find(db, h.doc); err != nil {
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
	if err != nil {
		return 0, err
	}
	for next = i; next >= first; next-- {
		_, s, _ := h.shard(next)
		if next < i && (s.PurgeSeq < purge || cut(info) && s.UpdateSeq < info.UpdateSeq) {
			break // it had revisions that are not there in i
		}
		h.seen[next] = sight{known: true, info: info, upTo: s.UpdateSeq, purged: purge > 0}
	}
	return next, nil
}

// cut reports whether revisions may be missing in a document that it had before: the oldest, as its history is longer than
// the database's limit, or came so from elsewhere.
func cut(info *couchfile.DocInfo) bool {
	return info != nil && slices.ContainsFunc(info.Revs, func(r couchfile.Revision) bool { return r.Parent < 0 && r.Pos > 1 })
}

// pass passes over files before the state behind last in which the document was not changed, and returns the newest state of
// which nothing is known then. What the oldest one of them has must be the same: it is opened.
func (h *historian) pass(last int) (next int, err error) {
	known := h.seen[last+1]
	_, later, _ := h.shard(last + 1)
	if known.purged {
		return last, nil
	}
	first, end := last+1, last // of the oldest file that is passed over
	for i := last; i >= 0; {
		begin := h.file(i)
		_, was, ok := h.shard(begin)
		_, is, _ := h.shard(i)
		if !ok || is.UUID == "" || is.UUID != later.UUID || is.UpdateSeq > later.UpdateSeq {
			break
		}
		if seq := known.seq(); seq == 0 && was.PurgeSeq != later.PurgeSeq || seq > is.CompactedSeq {
			break
		}
		first, end, later = begin, i, was
		i = begin - 1
	}
	if end == last { // one file costs as much as this
		return last, nil
	}
	if next, err = h.look(first, end); err != nil {
		return 0, err
	}
	if next >= first || !sameBranches(h.seen[end], known) {
		return last, nil
	}
	for k := end + 1; k <= last; k++ {
		_, s, _ := h.shard(k)
		h.seen[k] = sight{known: true, info: h.seen[end].info, upTo: s.UpdateSeq}
	}
	return next, nil
}

// seq is the sequence of the last change of the document, 0 if it isn't there.
func (s *sight) seq() (seq uint64) {
	if s.info == nil {
		return 0
	}
	if s.info.UpdateSeq <= s.upTo {
		return s.info.UpdateSeq
	}
	for _, r := range s.tree() {
		seq = max(seq, r.Seq)
	}
	return seq
}

// tree is the revision tree as it was, with the indexes of parents in it; nil if there was none.
func (s *sight) tree() []couchfile.Revision {
	if s.info == nil {
		return nil
	}
	all := s.info.Revs
	there := make([]bool, len(all))
	for i := range slices.Backward(all) { // a node comes before its children
		r := &all[i]
		there[i] = there[i] || r.Stored && r.Seq <= s.upTo || r.Leaf && !r.Stored
		if there[i] && r.Parent >= 0 {
			there[r.Parent] = true
		}
	}
	out := make([]couchfile.Revision, 0, len(all))
	place := make([]int, len(all))
	for i, r := range all {
		if !there[i] {
			continue
		}
		place[i], r.Leaf = len(out), true
		if r.Parent >= 0 {
			r.Parent = place[r.Parent]
			out[r.Parent].Leaf = false
		}
		r.Stored = r.Stored && r.Seq <= s.upTo
		out = append(out, r)
	}
	return out
}

// leaves are the leaves as they were, the winner first.
func (s *sight) leaves() []couchfile.Revision {
	return (&couchfile.DocInfo{Revs: s.tree()}).Leaves()
}

func sameBranches(a, b sight) bool {
	return slices.EqualFunc(a.leaves(), b.leaves(), func(x, y couchfile.Revision) bool {
		return x.Rev == y.Rev && x.Deleted == y.Deleted && x.Seq == y.Seq
	})
}

// changesAt reports whether what a state has may be other than what the one before it has.
func (h *historian) changesAt(i int) bool {
	if i == 0 {
		return true
	}
	was, is := &h.seen[i-1], &h.seen[i]
	if was.known != is.known || was.info != is.info || was.purged != is.purged {
		return true
	}
	return is.info != nil && slices.ContainsFunc(is.info.Revs, func(r couchfile.Revision) bool {
		return r.Stored && r.Seq > min(was.upTo, is.upTo) && r.Seq <= max(was.upTo, is.upTo)
	})
}

// states says what became of the document from state to state. One in which it is the same as in that before is one with it.
func (h *historian) states() []DocState {
	var out []DocState
	told, uuid := false, "" // whether the state before is told of by the last, and of which database that is
	for i := range h.seen {
		s := &h.seen[i]
		if !s.known {
			told = false
			continue
		}
		at, from := h.t.States[i].At.UTC(), h.from(i)
		if i > 0 && h.seen[i-1].known && !h.changesAt(i) {
			if told {
				last := &out[len(out)-1]
				last.Last, last.From = at, cmp.Or(last.From, from)
			}
			continue
		}
		_, file, _ := h.shard(i)
		leaves := s.leaves()
		if told = len(leaves) > 0 || len(out) > 0 && (s.purged || uuid == file.UUID); !told {
			continue // nothing is known of what was before
		}
		uuid = file.UUID
		now := DocState{Kind: DocPurged, First: at, Last: at, From: from}
		if len(leaves) > 0 {
			w := leaves[0]
			now.Kind, now.Rev, now.Seq = DocChanged, w.Rev.String(), s.seq()
			if w.Deleted {
				now.Kind = DocDeleted
			}
			for _, l := range leaves[1:] {
				now.Leaves = append(now.Leaves, LeafState{l.Rev.String(), l.Deleted})
			}
		}
		out = addState(out, now)
	}
	return out
}

// from is the backup that a state is of, if it is of one.
func (h *historian) from(i int) manifest.BackupID {
	if rec := h.t.States[i].Backup; rec != nil {
		return rec.ID
	}
	return ""
}

// addState adds a state, or makes it one with the last, if that is the same.
func addState(out []DocState, s DocState) []DocState {
	n := len(out)
	if n == 0 {
		if s.Kind == DocChanged {
			s.Kind = DocAdded
		}
		return append(out, s)
	}
	was := &out[n-1]
	if was.Rev == s.Rev && (was.Kind == DocPurged) == (s.Kind == DocPurged) && slices.Equal(was.Leaves, s.Leaves) {
		was.Last, was.From = s.Last, cmp.Or(was.From, s.From)
		return out
	}
	if s.Kind == DocChanged {
		switch was.Kind {
		case DocPurged:
			s.Kind = DocAdded
		case DocDeleted:
			s.Kind = DocUndeleted
		}
	}
	return append(out, s)
}

// revisions lists all revisions whose bodies are there.
func (h *historian) revisions() []DocRevision {
	found := map[couchfile.Rev]*DocRevision{}
	var tree []couchfile.Revision
	for i := range h.seen {
		if !h.seen[i].known {
			continue
		}
		if i == 0 || !h.seen[i-1].known || h.changesAt(i) {
			tree = h.seen[i].tree()
		}
		at, from := h.t.States[i].At.UTC(), h.from(i)
		for k, r := range tree {
			if !r.Stored {
				continue
			}
			x := found[r.Rev]
			if x == nil {
				x = &DocRevision{Kind: kindIn(tree, k), Rev: r.Rev.String(), Deleted: r.Deleted, Seq: r.Seq, First: at, first: i}
				if r.Parent >= 0 {
					x.Parent = tree[r.Parent].Rev.String()
				}
				found[r.Rev] = x
			}
			x.Last, x.From = at, cmp.Or(from, x.From)
		}
	}
	out := make([]DocRevision, 0, len(found))
	for _, x := range found {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b DocRevision) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Rev, b.Rev))
	})
	return out
}

// kindIn says what became of a document by a revision.
func kindIn(tree []couchfile.Revision, k int) ChangeKind {
	r := &tree[k]
	beside := false
	for i := range tree {
		// A branch of which only the names are known was there before.
		if x := &tree[i]; i != k && x.Parent == r.Parent && (x.Seq < r.Seq || x.Seq == r.Seq && i < k) {
			beside = true
		}
	}
	switch {
	case r.Deleted:
		return DocDeleted
	case beside:
		return DocConflict
	case r.Parent < 0:
		return DocAdded
	case tree[r.Parent].Stored && tree[r.Parent].Deleted:
		return DocUndeleted
	}
	return DocChanged
}
