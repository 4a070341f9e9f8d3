package contents

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/states"
)

// Documents is a page of the documents of a database.
type Documents struct {
	State
	Documents []DocumentRow `json:"documents"` // by id
	// Next is the id after which the next page begins; missing at the end.
	Next string `json:"next,omitempty"`
	// Looked is how many documents were looked at, and Complete whether the page is full or the end was reached: else the
	// time was over, and Next goes on.
	Looked   int  `json:"looked"`
	Complete bool `json:"complete"`
}

// DocumentRow is one in a list.
type DocumentRow struct {
	ID          string `json:"id"`
	Rev         string `json:"rev"`
	Deleted     bool   `json:"deleted,omitempty"`
	Conflicts   int    `json:"conflicts,omitempty"`
	Attachments int    `json:"attachments,omitempty"`
	Bytes       int64  `json:"bytes"`      // as JSON, with attachments; of all leaves
	Revisions   uint64 `json:"generation"` // the number of the revision
	Seq         uint64 `json:"update_seq"` // of its shard
}

// DocumentsQuery says which documents.
type DocumentsQuery struct {
	At       states.State
	DB       string
	Prefix   string // of the id
	After    string // an id
	Selector string // Mango, as JSON; "" is all
	Kind     string // "" is all but local ones, design, local
	Deleted  bool   // deleted ones, too
	Conflict bool   // those with conflicts only
	Limit    int
}

// maxSelector is how long a selector may be, in bytes.
const maxSelector = 16 << 10

// selector reads the one of a query, nil if it has none.
func (q *DocumentsQuery) selector() (*mango.Selector, error) {
	if strings.TrimSpace(q.Selector) == "" {
		return nil, nil
	}
	if len(q.Selector) > maxSelector {
		return nil, refusal.New(refusal.Invalid, "The selector is too long.")
	}
	v, err := ejson.Parse([]byte(q.Selector))
	if err != nil {
		return nil, refusal.New(refusal.Invalid, "The selector is no JSON: %s.", firstLine(err))
	}
	return mango.Parse(v)
}

// LookDocuments lists documents of a database.
var LookDocuments = newLook("documents", (*Reader).documents)

func (r *Reader) documents(ctx context.Context, of *states.Shelf, q DocumentsQuery) (*Documents, error) {
	p := Page{Limit: q.Limit}
	p.fill()
	q.Limit = p.Limit
	switch q.Kind {
	case "", "local":
	case "design":
		if !strings.HasPrefix(q.Prefix, designPrefix) {
			q.Prefix = designPrefix + q.Prefix
		}
	default:
		return nil, refusal.New(refusal.Invalid, "kind is design or local, or left out.")
	}
	sel, err := q.selector()
	if err != nil {
		return nil, fault(ctx, err)
	}
	v, d, err := r.database(ctx, of, q.At, q.DB)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	ctx, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	out := &Documents{State: stateOf(v), Documents: []DocumentRow{}, Complete: true}
	if q.Kind == "local" {
		err = out.locals(ctx, v, d, &q)
	} else {
		err = out.fill(ctx, v, d, &q, sel)
	}
	if err != nil {
		return nil, fault(ctx, err)
	}
	return out, nil
}

// fill looks at documents until there are enough.
func (x *Documents) fill(ctx context.Context, v *states.View, d *serve.Database, q *DocumentsQuery, sel *mango.Selector) error {
	var dbs []*couchfile.DB
	for _, s := range d.Shards {
		db, err := open(v, d, s)
		if errors.Is(err, serve.ErrNoShard) {
			continue // Database says so
		}
		if err != nil {
			return err
		}
		dbs = append(dbs, db)
	}
	if len(dbs) == 0 {
		return serve.ErrNoShard
	}
	type found struct {
		row DocumentRow
		fit bool
	}
	read := func(row serve.Row) (found, error) {
		f := found{row: rowOf(row.Info), fit: !q.Conflict || len(row.Info.Conflicts(false)) > 0}
		if !f.fit {
			return f, nil
		}
		w := row.Info.Winner()
		if sel != nil {
			if f.fit = !row.Info.Deleted; !f.fit { // as _find has it
				return f, nil
			}
			b, err := row.DB.RevisionJSON(row.Info, w, couchfile.DocOptions{Conflicts: true})
			if err != nil {
				return f, err
			}
			doc, err := ejson.Parse(b)
			if err != nil {
				return f, err
			}
			if f.fit, err = sel.Match(doc); err != nil || !f.fit {
				return f, err
			}
		}
		if w.Stored {
			atts, err := row.DB.Attachments(row.Info.ID, w)
			if err != nil {
				return f, err
			}
			f.row.Attachments = len(atts)
		}
		return f, nil
	}
	most := serve.AtOnce
	for f, err := range serve.Ahead(x.rows(ctx, dbs, q), most, read) {
		if errors.Is(err, errSlow) {
			x.Complete = false
			return nil
		}
		if err != nil {
			return err
		}
		if len(x.Documents) == q.Limit {
			if f.fit {
				return nil // there is a next page
			}
			x.Looked++
			x.Next = f.row.ID
			continue
		}
		x.Looked++
		x.Next = f.row.ID
		if f.fit {
			x.Documents = append(x.Documents, f.row)
		}
	}
	x.Next = ""
	return nil
}

// rows are those of the query's range. It ends with errSlow when the time is over.
func (x *Documents) rows(ctx context.Context, dbs []*couchfile.DB, q *DocumentsQuery) iter.Seq2[serve.Row, error] {
	return func(yield func(serve.Row, error) bool) {
		rg := serve.IDRange{From: cmp.Or(max(q.Prefix, q.After), ""), Open: true, Deleted: q.Deleted}
		n := 0
		for row, err := range serve.Documents(dbs, rg) {
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				yield(row, err)
				return
			}
			if row.Info.ID == q.After && q.After != "" {
				continue
			}
			if !strings.HasPrefix(row.Info.ID, q.Prefix) {
				return
			}
			if n++; !yield(row, nil) {
				return
			}
		}
	}
}

func rowOf(info *couchfile.DocInfo) DocumentRow {
	w := info.Winner()
	return DocumentRow{ID: info.ID, Rev: w.Rev.String(), Deleted: info.Deleted, Conflicts: len(info.Conflicts(false)), Bytes: int64(info.Sizes.External),
		Revisions: w.Pos, Seq: info.UpdateSeq}
}

// locals lists local documents.
func (x *Documents) locals(ctx context.Context, v *states.View, d *serve.Database, q *DocumentsQuery) error {
	prefix := q.Prefix
	if !strings.HasPrefix(prefix, localPrefix) {
		prefix = localPrefix + prefix
	}
	var all []DocumentRow
	for _, s := range d.Shards {
		db, err := open(v, d, s)
		if errors.Is(err, serve.ErrNoShard) {
			continue
		}
		if err != nil {
			return err
		}
		n := 0
		for doc, err := range db.LocalDocs(max(prefix, q.After)) {
			if err == nil && ctx.Err() != nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			if !strings.HasPrefix(doc.ID, prefix) || n > q.Limit {
				break
			}
			if doc.ID == q.After {
				continue
			}
			n++
			all = append(all, DocumentRow{ID: doc.ID, Rev: doc.Rev})
		}
	}
	slices.SortFunc(all, func(a, b DocumentRow) int { return strings.Compare(a.ID, b.ID) })
	rows, more := cut(all, Page{Limit: q.Limit})
	x.Documents, x.Looked = append(x.Documents, rows...), len(all)
	if more {
		x.Next = rows[len(rows)-1].ID
	}
	return nil
}

// Document is a revision of a document as a state has it.
type Document struct {
	State
	ID  string `json:"id"`
	Rev string `json:"rev"`
	// Deleted says that this revision is a deletion, and Winner that it is the one that the server answers with.
	Deleted     bool            `json:"deleted,omitempty"`
	Winner      bool            `json:"winner"`
	Document    json.RawMessage `json:"document,omitempty"` // as the server's JSON; missing if its body is gone
	Gone        bool            `json:"body_gone,omitempty"`
	Attachments []Attachment    `json:"attachments"`
	Revisions   []Revision      `json:"revisions"` // that the state knows, the newest first
}

// Attachment is one of a revision.
type Attachment struct {
	Name        string `json:"name"`
	ContentType string `json:"content_type"`
	Length      int64  `json:"length"` // bytes, decoded
	Digest      string `json:"digest,omitempty"`
	RevPos      uint64 `json:"revpos"`
}

// Revision is one that the state knows of a document.
type Revision struct {
	Rev     string `json:"rev"`
	Parent  string `json:"parent,omitempty"`
	Leaf    bool   `json:"leaf,omitempty"`
	Winner  bool   `json:"winner,omitempty"`
	Deleted bool   `json:"deleted,omitempty"`
	Stored  bool   `json:"stored"` // its body is in the file
}

// DocumentQuery names a document of a state: the winning revision, a deletion too, or Rev if it isn't "".
type DocumentQuery struct {
	At           states.State
	DB, Doc, Rev string
}

// LookDocument reads a document of a state.
var LookDocument = newLook("document", (*Reader).document)

func (r *Reader) document(ctx context.Context, of *states.Shelf, q DocumentQuery) (*Document, error) {
	v, d, err := r.database(ctx, of, q.At, q.DB)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	out, err := document(v, d, q.Doc, q.Rev)
	return out, fault(ctx, err)
}

func document(v *states.View, d *serve.Database, id, rev string) (*Document, error) {
	out := &Document{State: stateOf(v), ID: id, Attachments: []Attachment{}, Revisions: []Revision{}}
	file, err := find(v, d, id)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(id, localPrefix) {
		doc, err := file.LocalDoc(id)
		if err != nil {
			return nil, err
		}
		out.Rev, out.Winner = doc.Rev, true
		out.Document, err = doc.JSON()
		return out, err
	}
	info, wanted, err := revision(file, id, rev)
	if err != nil {
		return nil, err
	}
	winner := info.Winner()
	for i := range slices.Backward(info.Revs) {
		x := &info.Revs[i]
		y := Revision{Rev: x.Rev.String(), Leaf: x.Leaf, Deleted: x.Deleted, Stored: x.Stored, Winner: x.Rev == winner.Rev}
		if x.Parent >= 0 {
			y.Parent = info.Revs[x.Parent].Rev.String()
		}
		out.Revisions = append(out.Revisions, y)
	}
	slices.SortStableFunc(out.Revisions, func(a, b Revision) int {
		x, _ := couchfile.ParseRev(a.Rev)
		y, _ := couchfile.ParseRev(b.Rev)
		return cmp.Or(cmp.Compare(y.Pos, x.Pos), cmp.Compare(b.Rev, a.Rev))
	})
	out.Rev, out.Deleted, out.Winner = wanted.Rev.String(), wanted.Deleted, wanted.Rev == winner.Rev
	if out.Gone = !wanted.Stored; out.Gone {
		return out, nil
	}
	if out.Document, err = file.RevisionJSON(info, wanted, couchfile.DocOptions{Conflicts: out.Winner}); err != nil {
		return nil, err
	}
	atts, err := file.Attachments(id, wanted)
	for i := range atts {
		out.Attachments = append(out.Attachments, viewAttachment(&atts[i]))
	}
	return out, err
}

func viewAttachment(a *couchfile.Attachment) Attachment {
	return Attachment{a.Name, a.ContentType, a.Length, a.Digest(), a.RevPos}
}

// open opens a shard for as long as its state stays open: others look into it, too.
func open(v *states.View, d *serve.Database, s *serve.Shard) (*couchfile.DB, error) {
	return d.Open(v.Life, s)
}

// find opens the shard that a document is in.
func find(v *states.View, d *serve.Database, id string) (*couchfile.DB, error) {
	return d.Find(v.Life, id)
}

// revision finds a revision of a document, the winner for "".
func revision(file *couchfile.DB, id, rev string) (*couchfile.DocInfo, couchfile.Revision, error) {
	info, err := file.DocInfo(id)
	if err != nil {
		return nil, couchfile.Revision{}, err
	}
	if rev == "" {
		return info, info.Winner(), nil
	}
	i := slices.IndexFunc(info.Revs, func(x couchfile.Revision) bool { return x.Rev.String() == rev })
	if i < 0 {
		return nil, couchfile.Revision{}, couchfile.ErrNotFound
	}
	return info, info.Revs[i], nil
}

// AttachmentQuery names an attachment of a document.
type AttachmentQuery struct {
	DocumentQuery
	Name string
}

// Attachment calls fn with an attachment and what reads its bytes, decoded. Who sends them on must not let a browser take them
// for a page of the server: users of a database stored what they liked.
func (r *Reader) Attachment(ctx context.Context, of *states.Shelf, q AttachmentQuery, fn func(Attachment, io.Reader) error) error {
	v, d, err := r.database(ctx, of, q.At, q.DB)
	if err != nil {
		return err
	}
	defer v.Close()
	file, err := find(v, d, q.Doc)
	if err != nil {
		return fault(ctx, err)
	}
	_, wanted, err := revision(file, q.Doc, q.Rev)
	if err != nil {
		return fault(ctx, err)
	}
	if !wanted.Stored {
		return fault(ctx, couchfile.ErrMissing)
	}
	atts, err := file.Attachments(q.Doc, wanted)
	if err != nil {
		return fault(ctx, err)
	}
	i := slices.IndexFunc(atts, func(a couchfile.Attachment) bool { return a.Name == q.Name })
	if i < 0 {
		return fault(ctx, couchfile.ErrNotFound)
	}
	in, err := file.OpenDecoded(atts[i])
	if err != nil {
		return fault(ctx, err)
	}
	return fault(ctx, fn(viewAttachment(&atts[i]), &until{ctx, in}))
}

// until is a reader that ends with a context.
type until struct {
	ctx context.Context //nolint:containedctx // of the request that reads
	in  io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.in.Read(p)
}
