package couchfile

import (
	"fmt"
	"strconv"
	"sync"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// DocOptions selects a revision and what goes into its JSON. The zero value
// is the winning revision with attachments as stubs.
type DocOptions struct {
	Rev              string // "" is the winner; a deleted one answers ErrDeleted
	Revs             bool   // add _revisions
	RevsInfo         bool   // add _revs_info
	Conflicts        bool   // add _conflicts, if there are any
	DeletedConflicts bool   // add _deleted_conflicts, if there are any
	LocalSeq         bool   // add _local_seq
	AttEncodingInfo  bool   // add encoding and encoded_length to attachments
	Attachments      bool   // inline attachments, decoded, in base64
	Follows          bool   // with Attachments: say that their bytes follow in place of them
	// StubsUpTo, with Attachments: those that came with a revision up to this position stay
	// stubs; nil: none do. What was written without a position, as it can be with
	// new_edits=false, has 0.
	StubsUpTo *uint64
}

// Doc returns a document as the server's JSON. It returns ErrNotFound for an
// unknown id or revision, ErrDeleted if no revision was asked for and the
// winner is a deletion, and ErrMissing if the revision's body is gone.
func (db *DB) Doc(id string, opts DocOptions) ([]byte, error) {
	info, err := db.DocInfo(id)
	if err != nil {
		return nil, err
	}
	rev := info.Winner()
	if opts.Rev == "" && rev.Deleted {
		return nil, fmt.Errorf("document %q: %w", id, ErrDeleted)
	}
	if opts.Rev != "" {
		want, err := ParseRev(opts.Rev)
		if err != nil {
			return nil, err
		}
		var ok bool
		if rev, ok = info.Revision(want); !ok {
			return nil, fmt.Errorf("document %q rev %s: %w", id, opts.Rev, ErrNotFound)
		}
	}
	return db.RevisionJSON(info, rev, opts)
}

// RevisionJSON returns rev of the document that info describes, deleted or
// not, a leaf or an older one whose body is still in the file. opts.Rev is
// ignored. It returns ErrMissing if the body is gone.
//
// Source: CouchDB 3.5, src/couch/src/couch_doc.erl, doc_to_json_obj.
func (db *DB) RevisionJSON(info *DocInfo, rev Revision, opts DocOptions) ([]byte, error) {
	return revisionJSON(newBudget(db.src), info, rev, opts)
}

// Bodies reads documents' bodies in one pass over a file: all that it reads
// together is bounded, like an iteration, by the size of the file. Forged
// records may all name one large body. It is not safe for concurrent use.
type Bodies struct{ budget *budget }

// Bodies returns a new pass.
func (db *DB) Bodies() *Bodies { return &Bodies{newBudget(db.src)} }

// RevisionJSON is DB.RevisionJSON within the pass.
func (b *Bodies) RevisionJSON(info *DocInfo, rev Revision, opts DocOptions) ([]byte, error) {
	return revisionJSON(b.budget, info, rev, opts)
}

func revisionJSON(b *budget, info *DocInfo, rev Revision, opts DocOptions) (dst []byte, err error) {
	err = readSummary(b, info.ID, rev, func(sum summary) (err error) {
		dst, err = summaryJSON(b, info, rev, sum, opts)
		return err
	})
	return dst, err
}

func summaryJSON(b *budget, info *DocInfo, rev Revision, sum summary, opts DocOptions) (dst []byte, err error) {
	dst = append([]byte(`{"_id":`), erlterm.AppendString(nil, []byte(info.ID))...)
	dst = append(dst, `,"_rev":`...)
	dst = erlterm.AppendString(dst, []byte(rev.String()))
	if dst, err = appendBody(dst, sum.body); err != nil {
		return nil, corrupt(rev.Ptr, fmt.Sprintf("body of %q", info.ID), err)
	}
	if rev.Deleted {
		dst = append(dst, `,"_deleted":true`...)
	}
	dst = appendMeta(dst, info, rev, opts)
	if len(sum.atts) > 0 {
		if dst, err = appendAttachments(b, dst, sum.atts, opts); err != nil {
			return nil, fmt.Errorf("document %q: %w", info.ID, err)
		}
	}
	return append(dst, '}'), nil
}

// appendBody appends the members of an object behind those that dst has.
func appendBody(dst []byte, body erlterm.Term) ([]byte, error) {
	at := len(dst)
	dst, err := erlterm.AppendJSON(dst, body)
	if err != nil {
		return nil, err
	}
	if dst[at] != '{' {
		return nil, erlterm.ErrNotJSON
	}
	if len(dst) == at+2 { // {}
		return dst[:at], nil
	}
	dst[at] = ','
	return dst[:len(dst)-1], nil
}

// appendMeta appends the members that describe revisions.
//
// Source: CouchDB 3.5, src/couch/src/couch_doc.erl, to_json_revisions and
// to_json_meta; src/couch/src/couch_db.erl, doc_meta_info, has their order.
func appendMeta(dst []byte, info *DocInfo, rev Revision, opts DocOptions) []byte {
	if opts.Revs {
		dst = append(dst, `,"_revisions":{"start":`...)
		dst = strconv.AppendUint(dst, rev.Pos, 10)
		dst = append(dst, `,"ids":`...)
		dst = append(appendStrings(dst, info.History(rev.Rev)), '}')
	}
	if opts.RevsInfo {
		dst = appendRevsInfo(dst, info, rev.Rev)
	}
	if c := info.Conflicts(false); opts.Conflicts && len(c) > 0 {
		dst = appendStrings(append(dst, `,"_conflicts":`...), revStrings(c))
	}
	if c := info.Conflicts(true); opts.DeletedConflicts && len(c) > 0 {
		dst = appendStrings(append(dst, `,"_deleted_conflicts":`...), revStrings(c))
	}
	if opts.LocalSeq {
		dst = strconv.AppendUint(append(dst, `,"_local_seq":`...), info.UpdateSeq, 10)
	}
	return dst
}

func appendRevsInfo(dst []byte, info *DocInfo, rev Rev) []byte {
	dst = append(dst, `,"_revs_info":[`...)
	for i, first := info.index(rev), true; i >= 0; i, first = info.Revs[i].Parent, false {
		if !first {
			dst = append(dst, ',')
		}
		r := info.Revs[i]
		status := "available"
		switch {
		case !r.Stored:
			status = "missing"
		case r.Deleted:
			status = "deleted"
		}
		dst = erlterm.AppendString(append(dst, `{"rev":`...), []byte(r.String()))
		dst = append(append(append(dst, `,"status":"`...), status...), `"}`...)
	}
	return append(dst, ']')
}

func revStrings(revs []Revision) []string {
	var out []string
	for _, r := range revs {
		out = append(out, r.String())
	}
	return out
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = erlterm.AppendString(dst, []byte(s))
	}
	return append(dst, ']')
}

// summary is what is stored of one revision: its body, and its attachments'
// descriptions.
type summary struct {
	end  int64 // of the chunk
	body erlterm.Term
	atts []Attachment
}

// summaryReader reads summaries with reused buffers.
type summaryReader struct {
	chunks    chunkReader
	body, att inflater
}

func newSummaryReader(b *budget) summaryReader {
	var r summaryReader
	r.use(b)
	return r
}

// use lets r read within b. A nil b takes its file away again.
func (r *summaryReader) use(b *budget) {
	r.chunks.src = nil
	if b != nil {
		r.chunks.src = b.src
	}
	r.chunks.budget, r.body.budget, r.att.budget = b, b, b
}

// read reads the summary at off. The terms are valid until the next call.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, read_doc_body.
func (r *summaryReader) read(off int64) (s summary, err error) {
	c, err := r.chunks.readChecked(off, "doc summary")
	if err != nil {
		return s, err
	}
	return r.decode(c)
}

func (r *summaryReader) decode(c chunk) (s summary, err error) {
	s.end = c.end
	body, atts, ok := splitSummary(c.payload)
	if !ok {
		return s, corrupt(c.off, "doc summary", errShape)
	}
	if s.body, err = innerTerm(&r.body, body); err != nil {
		return s, corrupt(c.off, "doc body", err)
	}
	list, err := innerTerm(&r.att, atts)
	if err != nil {
		return s, corrupt(c.off, "attachment list", err)
	}
	if s.atts, ok = parseAttachments(list); !ok {
		return s, corrupt(c.off, "attachment list", errShape)
	}
	return s, nil
}

// splitSummary takes {body, attachments} apart, which fills its chunk.
func splitSummary(payload []byte) (body, atts erlterm.Term, ok bool) {
	if len(payload) < 2 || payload[0] != erlterm.Version {
		return nil, nil, false
	}
	rest, ok := erlterm.TupleN(payload[1:], 2)
	if !ok {
		return nil, nil, false
	}
	if body, rest, ok = erlterm.Next(rest); !ok {
		return nil, nil, false
	}
	atts, rest, ok = erlterm.Next(rest)
	return body, atts, ok && len(rest) == 0
}

// innerTerm expands a part of a summary: a binary that holds a stored term,
// or, in files before 1.2, the term itself.
func innerTerm(inf *inflater, t erlterm.Term) (erlterm.Term, error) {
	b, _, ok := erlterm.Binary(t)
	if !ok {
		return t, nil
	}
	return inf.term(b)
}

var summaryReaders = sync.Pool{New: func() any { return new(summaryReader) }}

// keepBuffer is how large a buffer may be to be used again by others.
const keepBuffer = 1 << 20

// readSummary reads what is stored of a revision and passes it to fn, which
// must not keep it.
func readSummary(b *budget, id string, rev Revision, fn func(summary) error) error {
	if !rev.Stored {
		return fmt.Errorf("document %q rev %s: %w", id, rev, ErrMissing)
	}
	r := summaryReaders.Get().(*summaryReader)
	r.use(b)
	s, err := r.read(rev.Ptr)
	if err != nil {
		err = fmt.Errorf("document %q rev %s: %w", id, rev, err)
	} else {
		err = fn(s)
	}
	r.use(nil)
	if len(r.chunks.buf)+len(r.body.buf)+len(r.att.buf) <= keepBuffer {
		summaryReaders.Put(r)
	}
	return err
}
