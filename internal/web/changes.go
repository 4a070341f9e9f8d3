package web

import (
	"math"
	"strconv"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/words"
)

var changesRoutes = []route{
	{"GET /instances/{id}/changes", access.Viewer, "documents.list", (*call).changesPage},
}

// changesData is what the page of changes shows.
type changesData struct {
	*subject
	DB, From, To string // as typed, or named
	Prefix       string // of the databases to choose from, where none is chosen yet
	Databases    *contents.Databases
	Choice       []databaseRow
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
	d := &changesData{subject: x, DB: q.Get("db"), From: q.Get("from"), To: q.Get("to"), Query: q.Get("q"), Prefix: q.Get("p"), Back: x.to("moment")}
	d.Offset, _ = strconv.Atoi(q.Get("o"))
	d.Offset = max(0, d.Offset)
	if err := c.looked(x, d.DB, ""); err != nil {
		return nil, err
	}
	title := "What changed in " + d.DB
	if d.From == "" || d.DB == "" {
		list, err := c.sinceBackup(d)
		if err != nil {
			return nil, err
		}
		if d.DB == "" || d.Cannot != "" {
			return c.chooseChanges(d, list)
		}
	}
	from, err := c.stateIn(d.From)
	var to states.State
	if err == nil {
		to, err = c.stateIn(d.To)
	}
	if err == nil {
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

// chooseChanges asks of which database the changes are: it lists them, with how much each grew since the backup before the newest state.
func (c *call) chooseChanges(d *changesData, list *contents.Databases) (*answer, error) {
	c.log.Looked = false
	if list == nil {
		return c.page("What changed in "+d.Name, "changes", d), nil
	}
	offset := d.Offset
	d.Databases = list
	for _, x := range list.Databases {
		d.Choice = append(d.Choice, rowOf(x, list.Before, d.to("changes", "db", x.Name, "from", d.From, "to", d.To)))
	}
	link := func(offset int) string {
		return d.to("changes", "from", d.From, "to", d.To, "p", d.Prefix, "o", strconv.Itoa(offset))
	}
	if offset > 0 {
		d.Prev = link(max(0, offset-databasesPerPage))
	}
	if list.More {
		d.Next = link(offset + databasesPerPage)
	}
	if id, ok := api.ParseID(d.From); ok {
		d.From = c.asTyped(d.subject, contents.State{Backup: id})
	}
	return c.page("What changed in "+d.Name, "changes", d), nil
}

// sinceBackup fills in what changes are compared with unless that is chosen: the backup before the newest state. It returns a page of the
// databases of that state, nil if they can't be read.
func (c *call) sinceBackup(d *changesData) (*contents.Databases, error) {
	q := contents.DatabasesQuery{Prefix: d.Prefix, Page: contents.Page{Offset: d.Offset, Limit: databasesPerPage}}
	if d.DB != "" {
		q = contents.DatabasesQuery{Prefix: d.DB, Page: contents.Page{Limit: 1}}
	}
	list, err := c.reader.Databases(c.r.Context(), d.who, d.ID, states.State{}, q)
	if d.Cannot, err = cannot(err); err != nil || d.Cannot != "" {
		return nil, err
	}
	if d.From == "" {
		d.From = c.backupAt(d.subject, list.Before)
	}
	return list, nil
}

// backupAt names the backup that was begun at a time; the newest one if there is none.
func (c *call) backupAt(x *subject, at time.Time) string {
	list, _ := c.o.Server.Backups(x.who, server.BackupFilter{Instance: x.ID, Limit: math.MaxInt32})
	for _, b := range list {
		if b.Instance == x.ID && b.Started != nil && b.Started.Equal(at) {
			return b.ID
		}
	}
	return "latest"
}

func (c *call) fillChanges(d *changesData, kind string) {
	l := d.List
	d.A, d.B = name(l.From), name(l.To)
	d.From, d.To = c.asTyped(d.subject, l.From), c.asTyped(d.subject, l.To)
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
			d.Kinds = append(d.Kinds, kindLink{words.UpperFirst(string(k)), link(string(k), 0), n, kind == string(k)})
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

// First is the first row that is shown.
func (d *changesData) First() int {
	if d.List == nil {
		return min(d.Offset+1, d.Databases.Total)
	}
	return min(d.Offset+1, d.List.Total)
}

// Last is the last row that is shown.
func (d *changesData) Last() int { return d.Offset + len(d.Rows) + len(d.Choice) }
