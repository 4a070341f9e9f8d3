package couchfile

import (
	"compress/gzip"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strconv"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Attachment describes an attachment of one revision.
type Attachment struct {
	Name        string
	ContentType string
	Encoding    string // "identity" or "gzip"
	StoredBytes int64  // as they lie in the file, after gzip
	Length      int64  // before gzip; an upload that came gzipped has the stored length here
	RevPos      uint64 // position of the revision that brought it
	MD5         []byte // of the stored bytes; empty in very old files
	headers     erlterm.Term
	stream      erlterm.Term // list of {offset, payload length}, or of offsets
}

// Digest is the digest as the server shows it, or "" if none is stored.
func (a *Attachment) Digest() string {
	if len(a.MD5) == 0 {
		return ""
	}
	return "md5-" + base64.StdEncoding.EncodeToString(a.MD5)
}

var errDigest = errors.New("attachment digest mismatch")

// parseAttachments reads the attachment list of a summary.
func parseAttachments(list erlterm.Term) ([]Attachment, bool) {
	n, rest, ok := erlterm.List(list)
	if !ok || n == 0 {
		return nil, ok && len(rest) == 0
	}
	if n > mostAttachments {
		return nil, false
	}
	var atts []Attachment
	for range n {
		var item erlterm.Term
		if item, rest, ok = erlterm.Next(rest); !ok {
			return nil, false
		}
		att, ok := parseAttachment(item)
		if !ok {
			return nil, false
		}
		atts = append(atts, att)
	}
	rest, ok = erlterm.ListEnd(rest)
	return atts, ok && len(rest) == 0
}

// parseAttachment reads {name, type, stream, stored length, length, revpos,
// md5, encoding}, that with a list of properties in a pair, or one of the two
// forms of old releases.
//
// Source: CouchDB 3.5, src/couch/src/couch_att.erl, from_disk_term.
func parseAttachment(t erlterm.Term) (a Attachment, ok bool) {
	var f [8]erlterm.Term
	n, ok := splitTuple(t, f[:])
	if ok && n == 2 && (f[0].Tag() == erlterm.TagSmallTuple || f[0].Tag() == erlterm.TagLargeTuple) {
		inner, props := f[0], f[1]
		if n, ok = splitTuple(inner, f[:]); n == 2 && f[0].Tag() != erlterm.TagBinary {
			return a, false // a pair in a pair is no form of any release
		}
		a.headers = attHeaders(props)
	}
	a.Encoding = "identity"
	switch {
	case ok && n == 2:
		return a, a.fillOldest(f[0], f[1])
	case ok && n == 6:
		return a, a.fill(f[:4], f[3], f[4], f[5])
	case ok && n == 8:
		a.Encoding, ok = parseEncoding(f[7])
		return a, ok && a.fill(f[:4], f[4], f[5], f[6])
	}
	return a, false
}

func (a *Attachment) fill(head []erlterm.Term, length, revpos, sum erlterm.Term) bool {
	var ok [5]bool
	a.Name, ok[0] = text(head[0])
	a.ContentType, ok[1] = text(head[1])
	a.stream = append(erlterm.Term(nil), head[2]...)
	a.StoredBytes, ok[2] = length64(head[3])
	a.Length, ok[3] = length64(length)
	a.RevPos, _, ok[4] = erlterm.Uint(revpos)
	md5sum, _, okSum := erlterm.Binary(sum)
	a.MD5 = append([]byte(nil), md5sum...)
	return okSum && ok == [5]bool{true, true, true, true, true}
}

// fillOldest reads {name, {type, stream, length}}.
func (a *Attachment) fillOldest(name, inner erlterm.Term) bool {
	var f [3]erlterm.Term
	if n, ok := splitTuple(inner, f[:]); !ok || n != 3 {
		return false
	}
	var ok1, ok2, ok3 bool
	a.Name, ok1 = text(name)
	a.ContentType, ok2 = text(f[0])
	a.stream = append(erlterm.Term(nil), f[1]...)
	a.StoredBytes, ok3 = length64(f[2])
	a.Length = a.StoredBytes
	return ok1 && ok2 && ok3
}

func text(t erlterm.Term) (string, bool) {
	b, _, ok := erlterm.Binary(t)
	return string(b), ok
}

func length64(t erlterm.Term) (int64, bool) {
	v, _, ok := erlterm.Uint(t)
	return int64(v), ok && v <= math.MaxInt64
}

// parseEncoding reads an atom; releases before 1.1 wrote a boolean for gzip.
//
// Source: CouchDB 3.5, src/couch/src/couch_att.erl, upgrade_encoding.
func parseEncoding(t erlterm.Term) (string, bool) {
	name, _, ok := erlterm.Atom(t)
	if !ok {
		return "", false
	}
	switch string(name) {
	case "true", "gzip":
		return "gzip", true
	case "false", "identity":
		return "identity", true
	}
	return "", false
}

// attHeaders finds {headers, value} among an attachment's properties.
func attHeaders(list erlterm.Term) erlterm.Term {
	n, rest, ok := erlterm.List(list)
	for ; ok && n > 0; n-- {
		var pair erlterm.Term
		if pair, rest, ok = erlterm.Next(rest); !ok {
			break
		}
		if v, ok := erlterm.TupleN(pair, 2); ok && erlterm.IsAtom(v, "headers") {
			_, v, _ = erlterm.Atom(v)
			return append(erlterm.Term(nil), v...)
		}
	}
	return nil
}

// streamPart is one chunk of an attachment.
type streamPart struct {
	off int64
	len int64 // of the payload; -1 if the file does not say
}

// nextPart takes the next part off the n that are left in rest.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_stream.erl, foldl.
func nextPart(rest []byte) (p streamPart, after []byte, ok bool) {
	if off, rest, ok := erlterm.Uint(rest); ok {
		return streamPart{off: int64(off), len: -1}, rest, off <= math.MaxInt64
	}
	if rest, ok = erlterm.TupleN(rest, 2); !ok {
		return p, nil, false
	}
	off, rest, ok := erlterm.Uint(rest)
	if !ok || off > math.MaxInt64 {
		return p, nil, false
	}
	n, rest, ok := erlterm.Uint(rest)
	return streamPart{off: int64(off), len: int64(n)}, rest, ok && n <= math.MaxInt64
}

// attReader reads the stored bytes of an attachment piece by piece.
type attReader struct {
	chunks chunkReader
	att    *Attachment
	left   int        // parts to come
	rest   []byte     // of the stream's term
	cur    pieceState // of a part that is too large for one piece
	buf    []byte     // of the current piece
	sum    hash.Hash
	got    int64
	onPart func(chunk) // told of each part, without its payload; may be nil
	err    error
}

func newAttReader(b *budget, att *Attachment) *attReader {
	r := &attReader{chunks: chunkReader{src: b.src, budget: b}, att: att, sum: md5.New()}
	r.reset(att)
	return r
}

// reset starts over with another attachment.
func (r *attReader) reset(att *Attachment) {
	r.att, r.buf, r.got, r.err, r.cur = att, nil, 0, nil, pieceState{}
	r.sum.Reset()
	var ok bool
	if r.left, r.rest, ok = erlterm.List(att.stream); !ok {
		r.err = corrupt(0, "attachment's stream", errShape)
		return
	}
	r.err = r.chunks.budget.spend(0, "attachment", leastPiece)
}

// next reads the next piece, or returns io.EOF behind the last one if length
// and digest are right.
func (r *attReader) next() (b []byte, err error) {
	if r.err != nil {
		return nil, r.err
	}
	switch {
	case r.cur.left > 0:
		b, r.err = r.chunks.piece(&r.cur)
	case r.left == 0:
		r.err = r.finish()
	default:
		b, r.err = r.part()
	}
	_, _ = r.sum.Write(b) // a hash does not fail
	return b, r.err
}

// part begins the next part.
func (r *attReader) part() ([]byte, error) {
	p, rest, ok := nextPart(r.rest)
	if !ok {
		return nil, corrupt(0, "attachment's stream", errShape)
	}
	r.rest = rest
	r.left--
	const what = "attachment chunk"
	h, err := r.chunks.head(p.off, what)
	if err != nil {
		return nil, err
	}
	if p.len >= 0 && p.len != h.n {
		return nil, corrupt(p.off, what, fmt.Errorf("got %d bytes, want %d", h.n, p.len))
	}
	if r.got += h.n; r.got > r.att.StoredBytes {
		return nil, corrupt(p.off, "attachment", fmt.Errorf("more than %d bytes", r.att.StoredBytes))
	}
	if h.n > pieceSize {
		r.cur = startPieces(p.off, what, h, r.onPart)
		return r.chunks.piece(&r.cur)
	}
	c, err := r.chunks.rest(p.off, what, h)
	if err == nil && c.flagged && c.kind == ChecksumNone {
		err = corrupt(p.off, what, errChecksum)
	}
	if err == nil && r.onPart != nil {
		r.onPart(c)
	}
	return c.payload, err
}

func (r *attReader) finish() error {
	off := r.firstOffset()
	if r.got != r.att.StoredBytes {
		return corrupt(off, "attachment", fmt.Errorf("got %d bytes, want %d", r.got, r.att.StoredBytes))
	}
	if len(r.att.MD5) > 0 && string(r.sum.Sum(nil)) != string(r.att.MD5) {
		return corrupt(off, "attachment", errDigest)
	}
	return io.EOF
}

func (r *attReader) firstOffset() int64 {
	if n, rest, ok := erlterm.List(r.att.stream); ok && n > 0 {
		if p, _, ok := nextPart(rest); ok {
			return p.off
		}
	}
	return 0
}

// Read implements io.Reader.
func (r *attReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		b, err := r.next()
		if err != nil {
			return 0, err
		}
		r.buf = b
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// Attachments returns the descriptions of a revision's attachments.
func (db *DB) Attachments(id string, rev Revision) ([]Attachment, error) {
	var atts []Attachment
	err := readSummary(newBudget(db.src), id, rev, func(s summary) error {
		atts = s.atts
		return nil
	})
	return atts, err
}

// OpenStored returns a reader of an attachment's bytes as they are stored,
// which for Encoding "gzip" is a gzip stream. Length and digest are checked
// at the end: the last Read answers a *CorruptError instead of io.EOF if they
// are wrong.
func (db *DB) OpenStored(att Attachment) io.Reader { return newAttReader(newBudget(db.src), &att) }

// OpenDecoded is OpenStored with gzip undone, which is what the server's
// clients get unless they accept gzip.
func (db *DB) OpenDecoded(att Attachment) (io.Reader, error) {
	return openDecoded(newBudget(db.src), att)
}

func openDecoded(b *budget, att Attachment) (io.Reader, error) {
	stored := newAttReader(b, &att)
	if att.Encoding != "gzip" {
		return stored, nil
	}
	zr, err := gzip.NewReader(stored)
	if err != nil {
		return nil, fmt.Errorf("attachment %q: %w", att.Name, err)
	}
	return &gunzipReader{zr: zr, stored: stored}, nil
}

// gunzipReader reads what is behind the gzip stream too, so that the digest
// is checked.
type gunzipReader struct {
	zr     *gzip.Reader
	stored *attReader
}

func (r *gunzipReader) Read(p []byte) (int, error) {
	n, err := r.zr.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if _, err := io.Copy(io.Discard, r.stored); err != nil {
		return n, err
	}
	return n, io.EOF
}

// decoded reads a whole attachment, within the bounds on decompression.
func decoded(b *budget, a *Attachment) ([]byte, error) {
	r, err := openDecoded(b, *a)
	if err != nil {
		return nil, err
	}
	limit := max(inflateFree, inflateRatio*min(a.StoredBytes, b.src.size))
	data, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil && int64(len(data)) == limit {
		err = errBomb
	}
	return data, err
}

// appendAttachments appends _attachments.
//
// Source: CouchDB 3.5, src/couch/src/couch_att.erl, to_json.
func appendAttachments(b *budget, dst []byte, atts []Attachment, opts DocOptions) ([]byte, error) {
	dst = append(dst, `,"_attachments":{`...)
	for i := range atts {
		a := &atts[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(erlterm.AppendString(dst, []byte(a.Name)), `:{"content_type":`...)
		dst = append(erlterm.AppendString(dst, []byte(a.ContentType)), `,"revpos":`...)
		dst = strconv.AppendUint(dst, a.RevPos, 10)
		if d := a.Digest(); d != "" {
			dst = append(append(append(dst, `,"digest":"`...), d...), '"')
		}
		var err error
		if dst, err = appendData(b, dst, a, opts); err != nil {
			return nil, err
		}
		dst = append(dst, '}')
	}
	return append(dst, '}'), nil
}

func appendData(b *budget, dst []byte, a *Attachment, opts DocOptions) ([]byte, error) {
	switch {
	case !opts.Attachments || opts.StubsUpTo != nil && a.RevPos <= *opts.StubsUpTo:
		dst = strconv.AppendInt(append(dst, `,"length":`...), a.Length, 10)
		dst = append(dst, `,"stub":true`...)
	case opts.Follows:
		dst = strconv.AppendInt(append(dst, `,"length":`...), a.Length, 10)
		dst = append(dst, `,"follows":true`...)
	default:
		data, err := decoded(b, a)
		if err != nil {
			return nil, fmt.Errorf("attachment %q: %w", a.Name, err)
		}
		dst = base64.StdEncoding.AppendEncode(append(dst, `,"data":"`...), data)
		dst = append(dst, '"')
	}
	if opts.AttEncodingInfo && a.Encoding != "identity" {
		dst = append(append(append(dst, `,"encoding":"`...), a.Encoding...), `","encoded_length":`...)
		dst = strconv.AppendInt(dst, a.StoredBytes, 10)
	}
	if len(a.headers) > 0 {
		return erlterm.AppendJSON(append(dst, `,"headers":`...), a.headers)
	}
	return dst, nil
}
