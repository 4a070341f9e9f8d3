package takeout

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
)

// sendAlone sends a document with its attachments, and holds what the server has then against it.
func (r *docRun) sendAlone(ctx context.Context, d *doc) error {
	o, err := r.outgoing(d)
	if err != nil {
		return err
	}
	follow := d.atts
	if !r.Exact {
		if follow, err = d.stubs(o); err != nil {
			return err
		}
	}
	d.sent = true
	rev, err := r.Server.putMultipart(ctx, r.Target, d, o, follow, r.Exact, r.Progress)
	switch st := statusOf(err); {
	case err == nil:
	case st == http.StatusConflict:
		d.res.Outcome, d.res.Reason = Conflict, "others wrote it each time"
		return nil
	case errors.Is(err, ErrUnavailable): // it may have come through
		return sleep(ctx, firstWait)
	case st == http.StatusNotFound || st == http.StatusUnauthorized:
		return err
	case st >= 400:
		d.fail(err)
		return nil
	default:
		return err
	}
	if err := r.compare(ctx, d, rev); err != nil {
		return err
	}
	if !r.Exact {
		r.done(d, rev)
	}
	return nil
}

// compare reads back a revision that was written.
func (r *docRun) compare(ctx context.Context, d *doc, rev string) error {
	var got json.RawMessage
	err := r.Server.call(ctx, http.MethodGet, docPath(r.Target, d.id)+"?rev="+url.QueryEscape(rev), nil, &got)
	if statusOf(err) == http.StatusNotFound { // others wrote it, and it was compacted
		return nil
	}
	if err != nil {
		return err
	}
	same, err := sameContent(d.body, got)
	if err == nil && !same {
		err = fmt.Errorf("document %q was written as %s and doesn't read back as it was sent", d.id, rev)
	}
	return err
}

// stubs makes stubs in o of the attachments that the target's document has already, and returns the others.
func (d *doc) stubs(o ejson.Object) (follow []couchfile.Attachment, err error) {
	if d.live.body == nil {
		return d.atts, nil
	}
	var live struct {
		Atts map[string]struct {
			Type   string `json:"content_type"`
			Digest string `json:"digest"`
			RevPos int64  `json:"revpos"`
			Length int64  `json:"length"`
		} `json:"_attachments"`
	}
	if err := json.Unmarshal(d.live.body, &live); err != nil {
		return nil, err
	}
	v, _ := o.Get("_attachments")
	list, ok := v.(ejson.Object)
	if !ok {
		return nil, fmt.Errorf("document %q has attachments that it doesn't name", d.id)
	}
	for _, a := range d.atts {
		has, ok := live.Atts[a.Name]
		if !ok || has.Digest != a.Digest() || has.Type != a.ContentType || len(a.MD5) == 0 {
			follow = append(follow, a)
			continue
		}
		list.Set(a.Name, ejson.Object{{Name: "content_type", Value: has.Type}, {Name: "revpos", Value: ejson.Int(has.RevPos)},
			{Name: "digest", Value: has.Digest}, {Name: "length", Value: ejson.Int(has.Length)}, {Name: "stub", Value: true}})
	}
	return follow, nil
}

// putMultipart writes a document with the attachments that follow it, which are streamed as they are stored.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_doc.erl, doc_to_multi_part_stream; couch_att.erl, follow_from_json, by which
// the server holds them against their digests.
func (s *Server) putMultipart(ctx context.Context, db string, d *doc, o ejson.Object, follow []couchfile.Attachment, exact bool, p *Progress) (rev string, err error) {
	path := docPath(db, d.id)
	if exact {
		path += "?new_edits=false"
	}
	if len(follow) == 0 {
		var a struct{ Rev string }
		err := s.once(ctx, http.MethodPut, path, ejson.Append(nil, o), &a)
		return a.Rev, err
	}
	var name [16]byte
	_, _ = rand.Read(name[:]) // it never fails
	boundary := hex.EncodeToString(name[:])
	head := "--" + boundary + "\r\nContent-Type: application/json\r\n\r\n" + ejson.String(o) + "\r\n--" + boundary
	length := int64(len(head)) + 2
	for i := range follow {
		length += int64(len(partHead(&follow[i]))+len(boundary)+4) + follow[i].StoredBytes
	}
	pr, pw := io.Pipe()
	req, err := s.request(ctx, http.MethodPut, path, pr)
	if err != nil {
		return "", err
	}
	written := make(chan error, 1)
	go func() {
		err := writeParts(pw, d.db, head, boundary, follow, p)
		_ = pw.CloseWithError(err) // it never fails
		written <- err
	}()
	req.Header.Set("Content-Type", `multipart/related;boundary="`+boundary+`"`)
	req.ContentLength = length
	resp, err := s.do(req)
	_ = pr.CloseWithError(errUnread) // it never fails; whoever still writes ends
	if werr := <-written; werr != nil && !errors.Is(werr, errUnread) && !errors.Is(werr, io.ErrClosedPipe) && statusOf(err) == 0 {
		if resp != nil {
			resp.Body.Close()
		}
		return "", fmt.Errorf("read the attachments of %q: %w", d.id, werr) // of the backup, so that no other try does
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var a struct{ Rev string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&a); err != nil {
		return "", fmt.Errorf("%w: its answer was cut off: %w", ErrUnavailable, err)
	}
	return a.Rev, nil
}

// errUnread says that the server doesn't read on.
var errUnread = errors.New("the server doesn't read on")

func partHead(a *couchfile.Attachment) string {
	name := strings.Map(func(c rune) rune { // CouchDB goes by the order
		if c == '"' || c < ' ' {
			return '_'
		}
		return c
	}, a.Name)
	s := "\r\nContent-Disposition: attachment; filename=\"" + name + "\"\r\nContent-Type: " + oneLine(a.ContentType) + "\r\nContent-Length: " + strconv.FormatInt(a.StoredBytes, 10)
	if a.Encoding != "identity" {
		s += "\r\nContent-Encoding: " + a.Encoding
	}
	return s + "\r\n\r\n"
}

func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

func writeParts(w io.Writer, db *couchfile.DB, head, boundary string, follow []couchfile.Attachment, p *Progress) error {
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	for i := range follow {
		if _, err := io.WriteString(w, partHead(&follow[i])); err != nil {
			return err
		}
		n, err := io.Copy(w, db.OpenStored(follow[i]))
		p.Bytes.Add(n)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\r\n--"+boundary); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "--")
	return err
}
