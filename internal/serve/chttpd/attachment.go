package chttpd

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

// attachment answers with an attachment's bytes.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, db_attachment_req.
func (h *Handler) attachment(r *request, d *serve.Database, id, name string) error {
	switch r.method {
	case http.MethodGet:
	case http.MethodPut, http.MethodDelete:
		return errReadOnly
	default:
		return methods("DELETE,GET,HEAD,PUT")
	}
	q, err := r.docQuery()
	if err != nil {
		return err
	}
	db, err := h.find(d, id)
	if err != nil {
		return err
	}
	q.latest = false
	_, rev, _, err := q.find(db, id)
	if err != nil {
		return err
	}
	atts, err := db.Attachments(id, rev)
	if err != nil {
		return err
	}
	for i := range atts {
		if atts[i].Name == name {
			return r.sendAttachment(db, rev, &atts[i])
		}
	}
	return notFound("Document is missing attachment")
}

func (r *request) sendAttachment(db *couchfile.DB, rev couchfile.Revision, att *couchfile.Attachment) error {
	encoded := att.Encoding != "identity"
	raw := !encoded || r.takesEncoding(att.Encoding)
	hd := r.w.w.Header()
	tag := `"` + rev.String() + `"`
	if len(att.MD5) > 0 {
		tag = `"` + base64.StdEncoding.EncodeToString(att.MD5) + `"`
	}
	if r.etag(tag) {
		return nil
	}
	hd.Set("Cache-Control", "must-revalidate")
	hd.Set("Content-Type", att.ContentType)
	hd.Set("Content-Security-Policy", "sandbox")
	hd.Set("Accept-Ranges", "none")
	switch {
	case !encoded:
		hd.Set("Accept-Ranges", "bytes")
	case raw:
		hd.Set("Content-Encoding", att.Encoding)
	}
	length := att.Length
	switch {
	case raw:
		length = att.StoredBytes
	case att.StoredBytes == att.Length: // came compressed: how long it is otherwise isn't known
		length = -1
	}
	if length < 0 {
		r.w.beginChunked(http.StatusOK)
		return r.copyAttachment(db, att, raw)
	}
	ranges, err := parseRanges(r.Header.Get("Range"), length)
	if err != nil {
		return err
	}
	if n := len(ranges); !encoded && n > 0 && n < 10 {
		return r.sendRanges(db, att, ranges, length)
	}
	hd.Set("Content-Length", strconv.FormatInt(length, 10))
	r.w.begin(http.StatusOK)
	return r.copyAttachment(db, att, raw)
}

// copyAttachment writes an attachment's bytes, as they are stored or decoded.
func (r *request) copyAttachment(db *couchfile.DB, att *couchfile.Attachment, raw bool) error {
	if r.w.head {
		return nil
	}
	if raw {
		_, err := io.Copy(r.w, db.OpenStored(*att))
		return err
	}
	in, err := db.OpenDecoded(*att)
	if err != nil {
		return err
	}
	_, err = io.Copy(r.w, in)
	return err
}

// takesEncoding reports whether a client takes a content encoding.
func (r *request) takesEncoding(enc string) bool {
	for p := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(p, ";")
		if name = strings.TrimSpace(name); name == enc || name == "*" {
			return quality(params) > 0
		}
	}
	return false
}

// span is a range of bytes, both ends included.
type span struct{ from, to int64 }

// parseRanges reads a Range header; nil is the whole.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, parse_ranges; mochiweb's parse_range_request.
func parseRanges(header string, length int64) ([]span, error) {
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return nil, nil
	}
	var out []span
	for p := range strings.SplitSeq(list, ",") {
		a, b, ok := strings.Cut(strings.TrimSpace(p), "-")
		from, err1 := strconv.ParseInt(a, 10, 64)
		to, err2 := strconv.ParseInt(b, 10, 64)
		switch {
		case !ok, a != "" && err1 != nil, b != "" && err2 != nil, a == "" && b == "":
			return nil, nil
		case a == "":
			if to >= length { // as CouchDB takes it: all but the first byte
				to = length - 1
			}
			from, to = length-to, length-1
		case b == "":
			if from == 0 {
				return nil, nil
			}
			to = length - 1
		}
		if to >= length {
			to = length - 1
		}
		if to < from || from < 0 {
			return nil, fail{status: http.StatusRequestedRangeNotSatisfiable, name: "requested_range_not_satisfiable", reason: "Requested range not satisfiable"}
		}
		out = append(out, span{from, to})
	}
	return out, nil
}

// sendRanges answers with parts of an attachment.
func (r *request) sendRanges(db *couchfile.DB, att *couchfile.Attachment, ranges []span, length int64) error {
	hd := r.w.w.Header()
	says := func(s span) string { return fmt.Sprintf("bytes %d-%d/%d", s.from, s.to, length) }
	if len(ranges) == 1 {
		hd.Set("Content-Range", says(ranges[0]))
		hd.Set("Content-Length", strconv.FormatInt(ranges[0].to-ranges[0].from+1, 10))
		r.w.begin(http.StatusPartialContent)
		return r.copyRange(db, att, ranges[0])
	}
	boundary := uuid()
	hd.Del("Etag")
	hd.Del("Cache-Control")
	hd.Del("Accept-Ranges")
	hd.Del("Content-Security-Policy")
	hd.Set("Content-Type", `multipart/byteranges; boundary="`+boundary+`"`)
	r.w.beginChunked(http.StatusPartialContent)
	if err := r.w.writeString("--" + boundary); err != nil {
		return err
	}
	for _, s := range ranges {
		if err := r.w.writeString("\r\nContent-Type: " + att.ContentType + "\r\nContent-Range: " + says(s) + "\r\n\r\n"); err != nil {
			return err
		}
		if err := r.copyRange(db, att, s); err != nil {
			return err
		}
		if err := r.w.writeString("\r\n--" + boundary); err != nil {
			return err
		}
	}
	return r.w.writeString("--")
}

// copyRange writes a part of an attachment that isn't encoded.
func (r *request) copyRange(db *couchfile.DB, att *couchfile.Attachment, s span) error {
	if r.w.head {
		return nil
	}
	in := db.OpenStored(*att)
	if _, err := io.CopyN(io.Discard, in, s.from); err != nil {
		return err
	}
	_, err := io.CopyN(r.w, in, s.to-s.from+1)
	return err
}

// followers are the attachments whose bytes follow a document in a multipart answer.
func followers(atts []couchfile.Attachment, opts couchfile.DocOptions) []couchfile.Attachment {
	var out []couchfile.Attachment
	for _, a := range atts {
		if opts.StubsUpTo == nil || a.RevPos > *opts.StubsUpTo {
			out = append(out, a)
		}
	}
	return out
}

// follow sets the options of a document in a multipart answer.
func follow(o couchfile.DocOptions) couchfile.DocOptions {
	o.Attachments, o.Follows, o.AttEncodingInfo = true, true, true
	return o
}

// following reads a revision for a multipart answer, and the attachments whose bytes follow it.
func following(db *couchfile.DB, info *couchfile.DocInfo, rev couchfile.Revision, opts couchfile.DocOptions) (doc []byte, atts []couchfile.Attachment, err error) {
	if doc, err = db.RevisionJSON(info, rev, follow(opts)); err != nil {
		return nil, nil, err
	}
	atts, err = db.Attachments(info.ID, rev)
	return doc, followers(atts, opts), err
}

// related answers with a document and its attachments as multipart/related.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_httpd_multipart.erl.
func (r *request) related(db *couchfile.DB, info *couchfile.DocInfo, rev couchfile.Revision, opts couchfile.DocOptions, atts []couchfile.Attachment) error {
	doc, err := db.RevisionJSON(info, rev, follow(opts))
	if err != nil {
		return err
	}
	atts = followers(atts, opts)
	boundary := uuid()
	hd := r.w.w.Header()
	if len(atts) == 0 {
		hd.Set("Content-Type", "application/json")
		hd.Set("Content-Length", strconv.Itoa(len(doc)))
	} else {
		hd.Set("Content-Type", `multipart/related; boundary="`+boundary+`"`)
		length := int64(len(relatedHead(boundary))+len(doc)+len(relatedEnd(boundary))) + 2
		for i := range atts {
			length += int64(len(attachmentHead(&atts[i]))) + atts[i].StoredBytes + int64(len(relatedEnd(boundary)))
		}
		hd.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	r.w.begin(http.StatusOK)
	return r.writeRelated(db, boundary, doc, atts)
}

func relatedHead(boundary string) string {
	return "--" + boundary + "\r\nContent-Type: application/json\r\n\r\n"
}

func relatedEnd(boundary string) string { return "\r\n--" + boundary }

func attachmentHead(a *couchfile.Attachment) string {
	s := "\r\nContent-Disposition: attachment; filename=\"" + a.Name + "\"\r\nContent-Type: " + a.ContentType +
		"\r\nContent-Length: " + strconv.FormatInt(a.StoredBytes, 10)
	if a.Encoding != "identity" {
		s += "\r\nContent-Encoding: " + a.Encoding
	}
	return s + "\r\n\r\n"
}

// writeRelated writes a document and the attachments that follow it; only the document if none do.
func (r *request) writeRelated(db *couchfile.DB, boundary string, doc []byte, atts []couchfile.Attachment) error {
	if len(atts) == 0 {
		_, err := r.w.Write(doc)
		return err
	}
	if err := r.w.writeString(relatedHead(boundary) + string(doc) + relatedEnd(boundary)); err != nil {
		return err
	}
	for i := range atts {
		if err := r.w.writeString(attachmentHead(&atts[i])); err != nil {
			return err
		}
		if err := r.copyAttachment(db, &atts[i], true); err != nil {
			return err
		}
		if err := r.w.writeString(relatedEnd(boundary)); err != nil {
			return err
		}
	}
	return r.w.writeString("--")
}

// mixed answers with revisions and their attachments as multipart/mixed.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, send_docs_multipart.
func (r *request) mixed(db *couchfile.DB, info *couchfile.DocInfo, list []opened, options func(couchfile.Revision) couchfile.DocOptions) error {
	outer, inner := uuid(), uuid()
	r.w.w.Header().Set("Content-Type", `multipart/mixed; boundary="`+outer+`"`)
	r.w.beginChunked(http.StatusOK)
	if err := r.w.writeString("--" + outer); err != nil {
		return err
	}
	for _, o := range list {
		if err := r.mixedPart(db, info, o, options, inner); err != nil {
			return err
		}
		if err := r.w.writeString("\r\n--" + outer); err != nil {
			return err
		}
	}
	return r.w.writeString("--")
}

func (r *request) mixedPart(db *couchfile.DB, info *couchfile.DocInfo, o opened, options func(couchfile.Revision) couchfile.DocOptions, inner string) error {
	if o.missing {
		return r.w.writeString("\r\nContent-Type: application/json; error=\"true\"\r\n\r\n" + ejson.String(ejson.Object{{Name: "missing", Value: o.rev.String()}}))
	}
	doc, atts, err := following(db, info, o.rev, options(o.rev))
	if err != nil {
		return err
	}
	ctype := "application/json"
	if len(atts) > 0 {
		ctype = `multipart/related; boundary="` + inner + `"`
	}
	if err := r.w.writeString("\r\nContent-Type: " + ctype + "\r\n\r\n"); err != nil {
		return err
	}
	return r.writeRelated(db, inner, doc, atts)
}
