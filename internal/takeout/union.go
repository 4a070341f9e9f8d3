package takeout

import (
	"context"
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
	Documents int         `json:"documents"` // that the used copies lack, or lack revisions of
	Revisions int         `json:"revisions"` // that were written, or would be
	Refused   []DocResult `json:"refused"`   // by the server's validation
	// Purged counts documents with revisions that stay away, since a used copy knows that they were purged.
	Purged int `json:"purged"`
	// Local counts local documents of which the others have another revision; they stay as they are.
	Local int `json:"local_documents"`
	// Gone counts revisions whose body no copy has any more.
	Gone int `json:"body_gone"`
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
	u.Unread += o.Unread
}

// Union writes what only some copies of a shard have into the database that was made of the others, as a replication does:
// the leaf revisions that are missing, with their histories and attachments. Whatever ends it, another call goes on.
func Union(ctx context.Context, o UnionOptions) (*United, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	pushed := &Pushed{}
	page := &pushPage{p: &push{PushOptions: PushOptions{Server: o.Server, DB: o.DB, Progress: o.Progress}, out: pushed}}
	out := &United{}
	copies := slices.Concat(o.Used, o.Others)
	rep, err := diverge.Compare(ctx, copies, diverge.Options{First: -1, Gone: o.Gone, Each: func(d diverge.Difference) error {
		if d.Local {
			out.Local++
			return nil
		}
		missing := d.Leaves
		for _, held := range d.Copies[:len(o.Used)] {
			missing = slices.DeleteFunc(slices.Clone(missing), func(l diverge.Leaf) bool { return !lacks(held, l) })
		}
		if len(missing) == 0 { // the copies bring it to each other
			return nil
		}
		kept := slices.DeleteFunc(slices.Clone(missing), func(l diverge.Leaf) bool {
			return slices.ContainsFunc(d.Copies[:len(o.Used)], func(h diverge.Held) bool { return slices.Contains(h.Purged, l) })
		})
		if len(kept) < len(missing) {
			out.Purged++
		}
		if missing = kept; len(missing) == 0 {
			return nil
		}
		out.Documents++
		o.Progress.Docs.Add(1)
		for _, leaf := range missing {
			db, info, rev, ok := find(o.Others, d.Copies[len(o.Used):], leaf)
			if !ok {
				out.Gone++
				continue
			}
			if o.DryRun {
				out.Revisions++
				continue
			}
			page.db = db
			if err := page.leaf(ctx, info, rev); err != nil {
				return err
			}
		}
		if len(page.docs) >= pageDocs || page.size >= pageBytes {
			return page.flush(ctx)
		}
		return nil
	}})
	if err == nil {
		err = page.flush(ctx)
	}
	if err != nil {
		return nil, err
	}
	out.Refused = pushed.Refused
	if !o.DryRun {
		out.Revisions = pushed.Revisions
	}
	for _, c := range rep.Copies {
		out.Unread += c.Unread
	}
	return out, nil
}

// lacks reports whether a copy lacks a leaf that another has.
func lacks(h diverge.Held, l diverge.Leaf) bool {
	return h.Info == nil || slices.Contains(h.Lacks, l)
}

// find returns a leaf out of a copy that has its body.
func find(copies []diverge.Copy, held []diverge.Held, leaf diverge.Leaf) (*couchfile.DB, *couchfile.DocInfo, couchfile.Revision, bool) {
	for i, h := range held {
		if h.Info == nil {
			continue
		}
		for _, rev := range h.Info.Leaves() {
			if rev.Rev == leaf.Rev && rev.Deleted == leaf.Deleted && rev.Stored {
				return copies[i].DB, h.Info, rev, true
			}
		}
	}
	return nil, nil, couchfile.Revision{}, false
}
