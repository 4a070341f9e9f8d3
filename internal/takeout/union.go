package takeout

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/diverge"
)

// UnionOptions say what Union does.
type UnionOptions struct {
	Server *Server
	DB     string // its name there
	// Used are the copies of a shard that the server's database was made of, Others those that it was not.
	Used, Others []diverge.Copy
	DryRun       bool             // writes nothing
	Gone         func(error) bool // as in diverge.Options
	Progress     *Progress        // may be nil
}

// United is what Union did.
type United struct {
	Documents int         `json:"documents"` // that the server lacked, or lacked revisions of
	Revisions int         `json:"revisions"` // that were written, or would be
	Refused   []DocResult `json:"refused"`   // by the server's validation
	// Purged counts documents with revisions that stay away, since a used copy knows that they were purged.
	Purged int `json:"purged"`
	// Local counts local documents of which the others have another revision; they stay as they are.
	Local int `json:"local_documents"`
	// Gone counts revisions whose body no copy has any more.
	Gone int `json:"body_gone"`
	// Damaged are revisions that no copy gives whole.
	Damaged []DocResult `json:"damaged"`
	// Unread counts documents that can't be read in some copy: what only that has isn't known.
	Unread uint64 `json:"unread"`
}

// Add adds what was done of another shard.
func (u *United) Add(o *United) {
	u.Documents += o.Documents
	u.Revisions += o.Revisions
	u.Refused = append(u.Refused, o.Refused...)
	u.Purged += o.Purged
	u.Local += o.Local
	u.Gone += o.Gone
	u.Damaged = append(u.Damaged, o.Damaged...)
	u.Unread += o.Unread
}

// union is one call of Union.
type union struct {
	UnionOptions
	copies []diverge.Copy // the used ones first
	page   *pushPage
	asks   []asked
	out    *United
}

// asked is a document that copies disagree about, of which the server is asked what it lacks.
type asked struct {
	id     string
	leaves []diverge.Leaf
	held   []diverge.Held
}

// Union writes what only some copies of a shard have into the database that was made of the others, as a replication does:
// the leaf revisions that the server lacks, with their histories and attachments. The server is asked, and not the used
// copies: another one may have come back in the place of one that was damaged. Whatever ends it, another call goes on and
// sends nothing again that came through.
func Union(ctx context.Context, o UnionOptions) (*United, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	pushed := &Pushed{}
	u := &union{UnionOptions: o, copies: slices.Concat(o.Used, o.Others), out: &United{}}
	u.page = &pushPage{p: &push{PushOptions: PushOptions{Server: o.Server, DB: o.DB, Progress: o.Progress}, out: pushed}}
	rep, err := diverge.Compare(ctx, u.copies, diverge.Options{First: -1, Gone: o.Gone, Each: func(d diverge.Difference) error {
		return u.differ(ctx, d)
	}})
	if err == nil {
		err = u.bring(ctx)
	}
	if err != nil {
		return nil, err
	}
	out := u.out
	out.Refused = pushed.Refused
	if !o.DryRun {
		out.Revisions = pushed.Revisions
	}
	for _, c := range rep.Copies {
		out.Unread += c.Unread
	}
	return out, nil
}

// differ notes what copies disagree about.
func (u *union) differ(ctx context.Context, d diverge.Difference) error {
	if d.Local {
		u.out.Local++
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(d.Leaves), func(l diverge.Leaf) bool {
		return slices.ContainsFunc(d.Copies[:len(u.Used)], func(h diverge.Held) bool { return slices.Contains(h.Purged, l) })
	})
	if len(kept) < len(d.Leaves) {
		u.out.Purged++
	}
	if len(kept) == 0 {
		return nil
	}
	if u.asks = append(u.asks, asked{d.ID, kept, d.Copies}); len(u.asks) < pageDocs {
		return nil
	}
	return u.bring(ctx)
}

// bring writes what the server lacks of the documents that were noted.
func (u *union) bring(ctx context.Context) error {
	if len(u.asks) == 0 {
		return nil
	}
	ask := map[string][]string{}
	for _, a := range u.asks {
		for _, l := range a.leaves {
			ask[a.id] = append(ask[a.id], l.String())
		}
	}
	var lacks map[string]struct{ Missing []string }
	if err := u.Server.call(ctx, http.MethodPost, dbPath(u.DB, "_revs_diff"), ask, &lacks); err != nil {
		return err
	}
	for _, a := range u.asks {
		missing := lacks[a.id].Missing
		if len(missing) == 0 {
			continue
		}
		u.out.Documents++
		u.Progress.Docs.Add(1)
		for _, l := range a.leaves {
			if !slices.Contains(missing, l.String()) {
				continue
			}
			if err := u.leaf(ctx, a, l); err != nil {
				return err
			}
		}
		if len(u.page.docs) >= pageDocs || u.page.size >= pageBytes {
			if err := u.page.flush(ctx); err != nil {
				return err
			}
		}
	}
	u.asks = u.asks[:0]
	return u.page.flush(ctx)
}

// leaf writes a leaf out of the first copy that has its body whole.
func (u *union) leaf(ctx context.Context, a asked, leaf diverge.Leaf) error {
	var bad error
	for i, h := range a.held {
		if h.Info == nil {
			continue
		}
		for _, rev := range h.Info.Leaves() {
			if rev.Rev != leaf.Rev || rev.Deleted != leaf.Deleted || !rev.Stored {
				continue
			}
			if u.DryRun {
				u.out.Revisions++
				return nil
			}
			u.page.db = u.copies[i].DB
			err := u.page.leaf(ctx, h.Info, rev)
			if err == nil || !errors.Is(err, couchfile.ErrCorrupt) && (u.Gone == nil || !u.Gone(err)) {
				return err
			}
			bad = err
		}
	}
	if bad == nil {
		u.out.Gone++
	} else {
		u.out.Damaged = append(u.out.Damaged, DocResult{ID: a.id, From: leaf.String(), Reason: bad.Error()})
	}
	return nil
}
