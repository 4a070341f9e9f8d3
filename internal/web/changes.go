package web

import (
	"strconv"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/serve"
)

var changesRoutes = []route{
	{"GET /instances/{id}/changes", access.Viewer, "documents.list", (*call).changesPage},
}

// changesData is what the page of changes shows.
type changesData struct {
	*subject
	DB, From, To string // as typed, or named
	Cannot       string
	List         *contents.Changes
	A, B         string // name the states
	Rows         []changeRow
	Kinds        []kindLink
	Query        string
	Offset       int
	Prev, Next   string
	Back         string // of the database in the later state
	Write        writing
}

type changeRow struct {
	serve.DocChange
	To string // the document, compared
}

type kindLink struct {
	Name, To string
	N        int
	Here     bool
}

func (c *call) changesPage() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	d := &changesData{subject: x, DB: q.Get("db"), From: q.Get("from"), To: q.Get("to"), Query: q.Get("q"), Back: x.to("moment")}
	if err := c.looked(x, d.DB, ""); err != nil {
		return nil, err
	}
	title := "What changed in " + d.DB
	if d.DB == "" || d.From == "" {
		c.log.Looked = false
		return c.page("What changed in "+x.Name, "changes", d), nil
	}
	from, err := c.stateIn(d.From)
	var to opened.State
	if err == nil {
		to, err = c.stateIn(d.To)
	}
	if err == nil {
		d.Offset, _ = strconv.Atoi(q.Get("o"))
		d.Offset = max(0, d.Offset)
		d.List, err = c.reader.Changes(c.r.Context(), x.who, x.ID, contents.ChangesQuery{DB: d.DB, From: from, To: to, Kind: q.Get("k"), Prefix: d.Query,
			Page: contents.Page{Offset: d.Offset, Limit: perPage}})
	}
	if d.Cannot, err = cannot(err); err != nil {
		return nil, err
	}
	if d.List != nil {
		c.fillChanges(d, q.Get("k"))
	}
	return c.page(title, "changes", d), nil
}

func (c *call) fillChanges(d *changesData, kind string) {
	l := d.List
	d.A, d.B = name(l.From), name(l.To)
	d.From, d.To = c.asTyped(l.From), c.asTyped(l.To)
	d.Back = d.to("moment", "s", d.B, "db", d.DB)
	link := func(kind string, offset int) string {
		o := ""
		if offset > 0 {
			o = strconv.Itoa(offset)
		}
		return d.to("changes", "db", d.DB, "from", d.A, "to", d.B, "k", kind, "q", d.Query, "o", o)
	}
	all := 0
	for _, n := range l.Counts {
		all += n
	}
	d.Kinds = append(d.Kinds, kindLink{"All", link("", 0), all, kind == ""})
	for _, k := range []serve.ChangeKind{serve.DocDeleted, serve.DocChanged, serve.DocAdded, serve.DocUndeleted, serve.DocPurged} {
		if n := l.Counts[k]; n > 0 || kind == string(k) {
			d.Kinds = append(d.Kinds, kindLink{upperFirst(string(k)), link(string(k), 0), n, kind == string(k)})
		}
	}
	for _, x := range l.Changes {
		d.Rows = append(d.Rows, changeRow{x, d.to("document", "db", d.DB, "doc", x.ID, "a", x.From, "b", x.To)})
	}
	if d.Offset > 0 {
		d.Prev = link(kind, max(0, d.Offset-perPage))
	}
	if l.More {
		d.Next = link(kind, d.Offset+perPage)
	}
	if l.Counts[serve.DocDeleted] > 0 {
		d.Write = c.writing(d.subject)
	}
}

// Deleted is how many documents were deleted.
func (d *changesData) Deleted() int { return d.List.Counts[serve.DocDeleted] }

// Count is how many documents became what a kind says.
func (d *changesData) Count(kind string) int { return d.List.Counts[serve.ChangeKind(kind)] }

// First and Last are the rows that are shown.
func (d *changesData) First() int { return min(d.Offset+1, d.List.Total) }

// Last is the last row that is shown.
func (d *changesData) Last() int { return d.Offset + len(d.Rows) }
