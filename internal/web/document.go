package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/server"
)

var documentRoutes = []route{
	{"GET /instances/{id}/document", access.Viewer, "document.read", (*call).documentPage},
	{"GET /instances/{id}/attachment", access.Viewer, "document.read", (*call).attachmentPage},
}

// documentData is what the page of a document shows.
type documentData struct {
	*subject
	DB, Doc  string
	S        string // the state from which the reader came; "" is none
	Cannot   string
	Versions []version // the newest first
	Purged   bool      // nothing is known of it in the newest state
	Deleted  bool      // in the newest state that has it
	Conflict int       // leaves beside the winner in it
	Local    bool      // a local document, which has no versions

	A, B    *shownVersion
	DiffErr string
	Diff    sideBySide
	Changed []string // JSON Pointers of what differs
	View    string   // side or json
	Side    string   // links
	JSON    string
	Whole   string // the document of B as text

	Attachments []shownAttachment
	Write       writing
	Word        string // to confirm with
	Moment      string // the page of the state that it was opened from
}

// version is one of the list.
type version struct {
	contents.Version
	Icon, What string
	AsA, AsB   string // links that compare it
	IsA, IsB   bool
	In         string // which backup or moment has it
	Purge      bool   // it is no revision, but a purge
}

// shownVersion is a version that is looked at.
type shownVersion struct {
	*contents.Document
	Name string // names the state that it is read from
}

type shownAttachment struct {
	contents.Attachment
	To, Text string // to download; to see as text, "" if it isn't text
}

func (c *call) documentPage() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	d := &documentData{subject: x, DB: q.Get("db"), Doc: q.Get("doc"), S: q.Get("s"), View: q.Get("view"), Word: q.Get("doc")}
	if d.DB == "" || d.Doc == "" {
		return nil, api.NoResource(d.Doc)
	}
	if err := c.looked(x, d.DB, d.Doc); err != nil {
		return nil, err
	}
	d.Moment = x.to("moment", "s", d.S, "db", d.DB)
	if strings.HasPrefix(d.Doc, "_local/") {
		err = c.fillLocal(d)
	} else {
		err = c.fillVersions(d, q.Get("a"), q.Get("b"))
	}
	if d.Cannot, err = cannot(err); err != nil {
		return nil, err
	}
	return c.page(d.Doc, "document", d), nil
}

// fillLocal shows a local document, of which only a state is known.
func (c *call) fillLocal(d *documentData) error {
	d.Local = true
	at, err := c.stateIn(d.S)
	if err != nil {
		return err
	}
	doc, err := c.reader.Document(c.r.Context(), d.who, d.ID, at, d.DB, d.Doc, "")
	if err != nil {
		return err
	}
	d.B = &shownVersion{doc, d.S}
	d.Diff = compare(nil, doc.Document, true)
	return nil
}

// fillVersions lists the versions, and compares two of them.
func (c *call) fillVersions(d *documentData, a, b string) error {
	h, err := c.reader.History(c.r.Context(), d.who, d.ID, d.DB, d.Doc)
	if err != nil {
		return err
	}
	last := h.States[len(h.States)-1]
	d.Purged, d.Deleted = last.Kind == serve.DocPurged, last.Kind == serve.DocDeleted
	for _, l := range last.Leaves {
		if !l.Deleted {
			d.Conflict++
		}
	}
	list := slices.Clone(h.Revisions)
	slices.Reverse(list)
	has := func(rev string) bool {
		return slices.ContainsFunc(list, func(v contents.Version) bool { return v.Rev == rev })
	}
	if b == "" && len(list) > 0 {
		b = list[0].Rev
		if i := slices.IndexFunc(list, func(v contents.Version) bool { return !v.Deleted }); i >= 0 && d.Deleted {
			b = list[i].Rev // what was deleted is what is looked for
		}
	}
	if a == "" {
		if i := slices.IndexFunc(list, func(v contents.Version) bool { return v.Rev == b }); i >= 0 && has(list[i].Parent) {
			a = list[i].Parent
		} else if i >= 0 && i+1 < len(list) {
			a = list[i+1].Rev
		}
	}
	purges := slices.DeleteFunc(slices.Clone(h.States), func(s contents.DocState) bool { return s.Kind != serve.DocPurged })
	for _, v := range list {
		for n := len(purges); n > 0 && purges[n-1].First.After(v.First); n = len(purges) {
			d.Versions = append(d.Versions, version{Version: contents.Version{DocRevision: serve.DocRevision{First: purges[n-1].First}}, Icon: "trash", What: "Purged", Purge: true})
			purges = purges[:n-1]
		}
		x := version{Version: v, IsA: v.Rev == a, IsB: v.Rev == b, In: c.whichState(d.subject, &v)}
		x.Icon, x.What = kindWords(v.Kind)
		x.AsA = d.to("document", "db", d.DB, "doc", d.Doc, "s", d.S, "a", v.Rev, "b", b, "view", d.View)
		x.AsB = d.to("document", "db", d.DB, "doc", d.Doc, "s", d.S, "b", v.Rev, "view", d.View)
		d.Versions = append(d.Versions, x)
	}
	d.Side = d.to("document", "db", d.DB, "doc", d.Doc, "s", d.S, "a", a, "b", b)
	d.JSON = d.to("document", "db", d.DB, "doc", d.Doc, "s", d.S, "a", a, "b", b, "view", "json")
	return c.fillDiff(d, list, a, b)
}

func kindWords(kind serve.ChangeKind) (icon, what string) {
	switch kind {
	case serve.DocAdded:
		return "plus", "Created"
	case serve.DocDeleted:
		return "trash", "Deleted"
	case serve.DocUndeleted:
		return "restore", "Brought back"
	case serve.DocConflict:
		return "fork", "Conflict"
	case serve.DocPurged:
		return "trash", "Purged"
	}
	return "edit", "Changed"
}

// whichState says which backup or moment has a version.
func (c *call) whichState(x *subject, v *contents.Version) string {
	if v.Backup == "" {
		return "shipped"
	}
	if b, err := c.o.Server.Backup(c.r.Context(), x.who, v.Backup); err == nil && b.Started != nil {
		return "backup of " + when(*b.Started, c.now(), c.set.zone)
	}
	return "in a backup"
}

// fillDiff reads the versions that are compared.
func (c *call) fillDiff(d *documentData, list []contents.Version, a, b string) error {
	var err error
	if d.A, err = c.readVersion(d, list, a); err == nil {
		d.B, err = c.readVersion(d, list, b)
	}
	if d.DiffErr, err = cannot(err); err != nil || d.DiffErr != "" {
		var theirs *server.Error
		if errors.As(err, &theirs) && theirs.Kind == server.NotFound {
			d.DiffErr, err = "That version can't be found any more.", nil
		}
		return err
	}
	if d.B == nil {
		d.B, d.A = d.A, nil
	}
	if d.B == nil {
		return nil
	}
	var before json.RawMessage
	if d.A != nil {
		before = d.A.Document.Document
		if changes, err := serve.Diff(before, d.B.Document.Document); err == nil {
			for _, x := range changes {
				if x.Path != "/_rev" {
					d.Changed = append(d.Changed, x.Path)
				}
			}
		}
	}
	d.Diff = compare(before, d.B.Document.Document, d.A == nil)
	if d.View == "json" {
		d.Diff = compare(nil, d.B.Document.Document, true)
	}
	for _, t := range d.B.Attachments {
		link := func(how string) string {
			return d.to("attachment", "db", d.DB, "doc", d.Doc, "rev", d.B.Rev, "s", d.B.Name, "name", t.Name, "as", how)
		}
		x := shownAttachment{Attachment: t, To: link("")}
		if isText(t.ContentType) {
			x.Text = link("text")
		}
		d.Attachments = append(d.Attachments, x)
	}
	if !d.B.Deleted && !d.B.Gone {
		d.Write = c.writing(d.subject)
	}
	return nil
}

// readVersion reads a revision from where it is had; nil for "".
func (c *call) readVersion(d *documentData, list []contents.Version, rev string) (*shownVersion, error) {
	if rev == "" {
		return nil, nil
	}
	at, err := c.stateIn(d.S)
	if i := slices.IndexFunc(list, func(v contents.Version) bool { return v.Rev == rev }); i >= 0 {
		at, err = list[i].Where(), nil
	}
	if err != nil {
		return nil, err
	}
	doc, err := c.reader.Document(c.r.Context(), d.who, d.ID, at, d.DB, d.Doc, rev)
	if err != nil {
		return nil, err
	}
	return &shownVersion{doc, name(doc.State)}, nil
}

// isText says of a type that its bytes may be shown as text: never as what the type says.
func isText(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch t {
	case "application/json", "application/xml", "application/javascript", "application/x-yaml", "application/yaml", "image/svg+xml":
		return true
	}
	return strings.HasPrefix(t, "text/")
}

// mostText is how much of an attachment is shown, in bytes.
const mostText = 128 << 10

// attachmentData is what the page of an attachment shows: its text.
type attachmentData struct {
	*subject
	DB, Doc, Name string
	Attachment    contents.Attachment
	Text          string
	More          bool
	To, Back      string
}

// attachmentPage sends an attachment as a file, or shows it as text. A browser never gets it as what its type says, for then
// it could run in the dashboard's origin.
func (c *call) attachmentPage() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	db, doc, att := q.Get("db"), q.Get("doc"), q.Get("name")
	if err := c.looked(x, db, doc); err != nil {
		return nil, err
	}
	at, err := c.stateIn(q.Get("s"))
	if err != nil {
		return nil, err
	}
	d := &attachmentData{subject: x, DB: db, Doc: doc, Name: att, Back: x.to("document", "db", db, "doc", doc, "b", q.Get("rev")),
		To: x.to("attachment", "db", db, "doc", doc, "rev", q.Get("rev"), "s", q.Get("s"), "name", att)}
	asText, begun := q.Get("as") == "text", false
	err = c.reader.AttachmentOf(c.r.Context(), x.who, x.ID, at, db, doc, q.Get("rev"), att, func(a contents.Attachment, in io.Reader) error {
		if d.Attachment = a; !asText {
			begun = true
			return contents.Download(c.w, a, in)
		}
		if !isText(a.ContentType) {
			return api.Invalid("This attachment is not text: download it.")
		}
		var b bytes.Buffer
		_, err := io.Copy(&b, io.LimitReader(in, mostText+1))
		if b.Len() > mostText {
			d.More = true
			b.Truncate(mostText)
			for b.Len() > 0 && !utf8.Valid(b.Bytes()[max(0, b.Len()-utf8.UTFMax):]) && mostText-b.Len() < utf8.UTFMax {
				b.Truncate(b.Len() - 1)
			}
		}
		d.Text = strings.ToValidUTF8(b.String(), "\uFFFD")
		return err
	})
	if err != nil && begun {
		c.o.Log.WarnContext(c.r.Context(), "an attachment could not be sent whole", "err", err)
		panic(http.ErrAbortHandler) // nobody may take it for all
	}
	if err != nil || begun {
		return nil, err
	}
	return c.page(att, "attachment", d), nil
}
