package contents

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// DatabaseSpace says where the bytes of a database are, in the files of a state. From DocumentBytes to UnreadBytes they add up to
// FileBytes; indexes have files of their own.
//
// Sizes are as they are stored: bodies compressed, with their checksums. What is stored once counts once, for the first kind
// that has it. Files of CouchDB 1.x don't tell attachments from the documents that have them.
type DatabaseSpace struct {
	State
	Database  string `json:"database"`
	FileBytes int64  `json:"file_bytes"`

	DocumentBytes   int64 `json:"document_bytes"`   // bodies of the revisions that win
	AttachmentBytes int64 `json:"attachment_bytes"` // of these revisions
	ConflictBytes   int64 `json:"conflict_bytes"`   // other leaves that are no deletions, with attachments
	TombstoneBytes  int64 `json:"tombstone_bytes"`  // leaves that are deletions, with attachments
	// TreeBytes are the B-trees by id and by sequence, those of local documents, which they hold, and of purges.
	TreeBytes int64 `json:"tree_bytes"`
	// OldRevisionBytes are revisions that were replaced, as far as the trees still name them, and attachments that only such have.
	OldRevisionBytes int64 `json:"old_revision_bytes"`
	// OldOtherBytes are the rest: replaced nodes of the trees, headers, and what no tree names any more.
	OldOtherBytes int64 `json:"old_other_bytes"`
	// UnreadBytes are live data that the time for a walk didn't suffice for; 0 if Complete.
	UnreadBytes int64 `json:"unread_bytes"`
	Complete    bool  `json:"complete"`

	Documents uint64 `json:"documents"` // with deleted ones
	Looked    uint64 `json:"looked"`    // how many of them were looked at

	Indexes        []IndexSpace `json:"indexes"` // those of views, the largest first
	IndexBytes     int64        `json:"index_bytes"`
	IndexLiveBytes int64        `json:"index_live_bytes"`
	NoIndexes      bool         `json:"no_indexes"` // the state has none of any database, as if its backup was made without

	MissingShards int `json:"missing_shards"` // that the node didn't have: sizes are of the others
	// Problem says why the sizes are not to be believed, or some are missing.
	Problem string `json:"problem,omitempty"`
}

// IndexSpace is an index of views, in all shards.
type IndexSpace struct {
	Signature string `json:"signature"` // its files are called so
	// Designs are the design documents whose views it has; none if it is of an earlier version of one, or of one that is gone.
	Designs   []string `json:"designs"`
	FileBytes int64    `json:"file_bytes"`
	LiveBytes int64    `json:"live_bytes"` // its B-trees; the rest is what a compaction of the index frees
}

// LiveBytes is what a compaction of the database keeps at most: the trees come out of it smaller, by what they say of old revisions.
func (x *DatabaseSpace) LiveBytes() int64 {
	return x.DocumentBytes + x.AttachmentBytes + x.ConflictBytes + x.TombstoneBytes + x.TreeBytes + x.UnreadBytes
}

// OldBytes is what a compaction of the database frees.
func (x *DatabaseSpace) OldBytes() int64 { return x.OldRevisionBytes + x.OldOtherBytes }

// LookSpace says where the bytes of a database are.
var LookSpace = newLook("space", (*Reader).space)

// space reads only the trees, no attachments and of bodies those of design documents, for as long as a walk may take; what is
// complete is kept while the state is open.
func (r *Reader) space(ctx context.Context, of *states.Shelf, q DatabaseQuery) (*DatabaseSpace, error) {
	v, d, err := r.database(ctx, of, q.At, q.DB)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	errPartly := errors.New("not all was read") // so that it isn't kept
	var out *DatabaseSpace
	x, err := v.Note("space "+q.DB, func() (any, error) {
		walk, done, err := r.walk(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if out, err = spaceOf(walk, v, d); err == nil && !out.Complete {
			return nil, errPartly
		}
		return out, err
	})
	switch {
	case err == nil:
		out = x.(*DatabaseSpace) //nolint:forcetypeassert // put there above
	case !errors.Is(err, errPartly):
		return nil, fault(ctx, err)
	}
	told := *out
	told.State = stateOf(v)
	return &told, nil
}

// spaceOf looks at all shards, as far as it gets until ctx ends.
func spaceOf(ctx context.Context, v *states.View, d *serve.Database) (*DatabaseSpace, error) {
	out := &DatabaseSpace{Database: d.Name, Complete: true, Indexes: []IndexSpace{}, NoIndexes: !v.Node.HasIndexes()}
	indexes, designs := map[string]*IndexSpace{}, map[string][]string{}
	for _, s := range d.Shards {
		if s.File == nil {
			out.MissingShards++
			continue
		}
		db, err := open(v, d, s)
		if err == nil {
			err = out.add(ctx, db, s.File.Size)
		}
		if err == nil {
			err = addDesigns(ctx, db, designs)
		}
		if err == nil {
			err = addIndexes(ctx, v, d, s, indexes)
		}
		switch {
		case err == nil:
		case v.Life.Err() != nil:
			return nil, fault(v.Life, err) //nolint:contextcheck // which ended
		case errors.Is(context.Cause(ctx), errSlow):
			out.Complete = false
		case ctx.Err() != nil:
			return nil, err
		default:
			out.Problem = "a part of it can't be read: " + firstLine(err)
		}
	}
	for signature, i := range indexes {
		i.Designs = append([]string{}, designs[signature]...)
		out.Indexes = append(out.Indexes, *i)
		out.IndexBytes, out.IndexLiveBytes = out.IndexBytes+i.FileBytes, out.IndexLiveBytes+i.LiveBytes
	}
	slices.SortFunc(out.Indexes, func(a, b IndexSpace) int {
		return cmp.Or(cmp.Compare(b.FileBytes, a.FileBytes), strings.Compare(a.Signature, b.Signature))
	})
	return out, nil
}

const spaceAtOnce = 500 // documents between two looks at the time

// add adds a shard, whose file has so many bytes. Whatever ends it, the parts add up.
func (x *DatabaseSpace) add(ctx context.Context, db *couchfile.DB, size int64) error {
	h := db.Header()
	info, err := db.Info()
	if err != nil {
		return err
	}
	trees := int64(0)
	for _, t := range []couchfile.TreeRoot{h.IDTree, h.SeqTree, h.LocalTree, h.PurgeTree, h.PurgeSeqTree} {
		trees += max(0, t.Size)
	}
	if info.ActiveSize < 0 {
		x.Problem = "it is in files of a CouchDB that noted no sizes: all but its files' own is unknown until it is compacted"
	}
	var got couchfile.Space
	looked := uint64(0)
	walked := walkSpace(ctx, db, &got, &looked)
	unread := int64(0)
	if walked != nil {
		unread = max(0, info.ActiveSize-trees-int64(got.Live()))
	}
	x.FileBytes += size
	x.Documents, x.Looked = x.Documents+info.DocCount+info.DeletedCount, x.Looked+looked
	left := size
	take := func(to *int64, n int64) { // a forged file may say anything: more than there is can't be
		n = min(max(n, 0), left)
		*to, left = *to+n, left-n
	}
	take(&x.TreeBytes, trees)
	take(&x.DocumentBytes, int64(got.Documents))
	take(&x.AttachmentBytes, int64(got.Attachments))
	take(&x.ConflictBytes, int64(got.Conflicts))
	take(&x.TombstoneBytes, int64(got.Tombstones))
	take(&x.UnreadBytes, unread)
	take(&x.OldRevisionBytes, int64(got.Older))
	x.OldOtherBytes += left
	return walked
}

// walkSpace adds up the documents, and how many were looked at.
func walkSpace(ctx context.Context, db *couchfile.DB, to *couchfile.Space, looked *uint64) error {
	var r couchfile.SpaceReader
	for e, err := range db.IDTree().All(nil, false) {
		if err != nil {
			return err
		}
		if err := r.Add(to, e); err != nil {
			return err
		}
		if *looked++; *looked%spaceAtOnce == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// addDesigns finds the signatures of a shard's design documents.
func addDesigns(ctx context.Context, db *couchfile.DB, to map[string][]string) error {
	bodies := db.Bodies()
	for info, err := range db.Docs(couchfile.DocsOptions{Start: designPrefix}) {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(info.ID, designPrefix) {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text, err := bodies.RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
		if err != nil {
			return err
		}
		value, err := ejson.Parse(text)
		doc, ok := value.(ejson.Object)
		if err != nil || !ok {
			continue // it has no views that anybody could know
		}
		if design, err := viewindex.ParseDesign(doc); err == nil {
			to[design.Signature] = append(to[design.Signature], info.ID)
		}
	}
	return nil
}

// addIndexes adds the indexes of a shard.
func addIndexes(ctx context.Context, v *states.View, d *serve.Database, s *serve.Shard, to map[string]*IndexSpace) error {
	for _, signature := range d.Signatures(s) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		index, size, err := d.Index(v.Life, s, signature) //nolint:contextcheck // it stays open for others
		if err != nil {
			return err
		}
		i := to[signature]
		if i == nil {
			i = &IndexSpace{Signature: signature}
			to[signature] = i
		}
		i.FileBytes += size
		if index == nil {
			continue
		}
		h := index.Header()
		live := max(0, h.IDTree.Size)
		for _, one := range h.Views {
			live += max(0, one.Tree.Size)
		}
		i.LiveBytes += min(live, size)
	}
	return nil
}
