package web

import (
	"cmp"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

var momentRoutes = []route{
	{"GET /instances/{id}/moment", access.Viewer, "documents.list", (*call).momentPage},
}

// subject is the instance that a page of contents is about. It may be gone: its backups count.
type subject struct {
	ID, Name string
	who      *access.Caller
}

func (c *call) subject() (*subject, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, err
	}
	x := &subject{ID: id}
	if x.who, err = c.as(id); err != nil {
		return nil, err
	}
	i, err := c.o.Server.Instance(c.r.Context(), x.who, id)
	if err == nil {
		x.Name = i.Name
		return x, nil
	}
	list, _ := c.o.Server.Backups(x.who, server.BackupFilter{Instance: id, Limit: 1})
	if len(list) == 0 || list[0].Instance != id {
		return nil, err
	}
	x.Name = list[0].RepoName
	return x, nil
}

// Home is the page of the instance.
func (x *subject) Home() string { return pathOf("instances", x.ID) }

// to is a page about the instance; pairs are the names and values of its query, of which empty values are left out.
func (x *subject) to(page string, pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	out := pathOf("instances", x.ID, page)
	if len(v) > 0 {
		out += "?" + v.Encode()
	}
	return out
}

// looked notes in the audit log what is read of documents.
func (c *call) looked(x *subject, db, doc string) error {
	c.log.Looked, c.log.Target = true, contents.Target(x.ID, db, doc)
	if !c.who.MayRead() {
		return &api.Refusal{Status: http.StatusForbidden, Message: "Your role, " + c.who.Role.String() + ", may not read documents out of backups. An operator may, or a viewer whose token lets him."}
	}
	return nil
}

// stateIn reads which state a text means: now, latest, the id of a backup, or a time in the reader's zone.
func (c *call) stateIn(text string) (states.State, error) {
	text = strings.TrimSpace(text)
	switch text {
	case "", "now":
		return states.State{}, nil
	case "latest":
		return states.State{Backup: text}, nil
	}
	if id, ok := api.ParseID(text); ok {
		return states.State{Backup: id}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return states.State{At: t}, nil
	}
	t, err := calendar.ParseWhen(text, c.now(), c.set.zone)
	if err != nil {
		return states.State{}, api.Invalid("%.60q is neither a backup nor a time: write 2026-11-22 10:32, yesterday 18:00 or 90m ago.", text)
	}
	return states.State{At: t}, nil
}

// name is the text that stateIn reads as the same state.
func name(s contents.State) string {
	if s.Backup != "" {
		return s.Backup
	}
	return s.State.UTC().Format(time.RFC3339Nano)
}

// asTyped is a state as one writes it into a field: the first second at which it is the newest, which is when a backup had ended.
func (c *call) asTyped(x *subject, s contents.State) string {
	at := s.State
	if s.Backup != "" {
		if b, err := c.o.Server.Backup(c.r.Context(), x.who, s.Backup); err == nil && b.Finished != nil {
			at = *b.Finished
		}
	}
	return at.Add(time.Second - 1).Truncate(time.Second).In(c.set.zone).Format("2006-01-02 15:04:05")
}

// cannot is why nothing can be shown, in a sentence for the page; else the error is one for an error page.
func cannot(err error) (string, error) {
	var refused *server.Error
	var invalid *api.Refusal
	switch {
	case err == nil:
		return "", nil
	case states.CannotRead(err) && errors.As(err, &refused):
		return refused.Message, nil
	case errors.As(err, &refused) && (refused.Kind == server.Conflict || refused.Kind == server.Unsupported || refused.Kind == server.Invalid || refused.Kind == server.Unavailable || refused.Kind == server.Busy):
		return refused.Message, nil
	case errors.As(err, &invalid) && invalid.Status == http.StatusBadRequest:
		return invalid.Message, nil
	}
	return "", err
}

// momentData is what the page of a moment shows.
type momentData struct {
	*subject
	State   contents.State
	S       string // names the state
	Typed   string
	Asked   time.Time // which time was asked for, if the state is an older one
	Cannot  string    // why nothing is shown
	MayRead bool
	Backups []contents.Backup // beside this state
	Older   string            // the backup before it, as a link
	Newer   string
	Less    string // a minute before
	Plus    string
	Changed string // what changed since the backup before
	Restore string

	Prefix    string
	Databases []databaseRow
	Total     int // databases
	Rows      int // the same, with each group as one
	Before    time.Time
	Dropped   []way  // since the backup before, to where they were
	MoreGone  int    // that aren't among these
	All       string // without the search
	DBPrev    string
	DBNext    string
	DBFrom    int
	DBTo      int

	DB        string
	Details   *contents.DatabaseDetails
	DBCannot  string
	By        string // id, selector
	Kind      string
	Query     string
	Selector  string
	Deleted   bool
	Conflicts bool
	Docs      []documentRow
	DocsHave  bool // that something was listed
	Partly    int  // looked at, of a list that isn't complete
	DocsNext  string
	DocsFirst string // the first page, if this isn't
	Links     map[string]string
}

type databaseRow struct {
	contents.Database
	To       string
	Selected bool
	Grew     string
}

type documentRow struct {
	contents.DocumentRow
	To        string
	Pre, Rest string // the id, its searched beginning apart
}

const (
	databasesPerPage = 40
	mostDropped      = 20 // that are named
)

func (c *call) momentPage() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	d := &momentData{subject: x, Typed: q.Get("s"), MayRead: c.who.MayRead(), Prefix: q.Get("p"), DB: q.Get("db"), By: q.Get("by"), Kind: q.Get("kind"), Query: q.Get("q"),
		Selector: q.Get("selector"), Deleted: q.Get("deleted") != "", Conflicts: q.Get("conflicts") != "", Links: map[string]string{}}
	title := x.Name + " at a moment"
	at, err := c.stateIn(q.Get("s"))
	if err == nil {
		err = c.fillDatabases(d, at)
	}
	if d.Cannot, err = cannot(err); err != nil {
		return nil, err
	}
	if d.Cannot != "" {
		return c.page(title, "moment", d), nil
	}
	if !at.At.IsZero() && at.At.Truncate(time.Second).After(d.State.State) {
		d.Asked = at.At
	}
	c.fillBeside(d)
	if c.has("/restore") {
		if d.Restore = restoreOf(d.ID, d.S); d.DB != "" {
			d.Restore += "&what=db&database=" + url.QueryEscape(d.DB)
		}
	}
	if d.DB != "" && d.MayRead {
		if err := c.looked(x, d.DB, ""); err != nil {
			return nil, err
		}
		err := c.fillDocuments(d, d.State.Named(), q.Get("after"))
		if d.DBCannot, err = cannot(err); err != nil {
			return nil, err
		}
		title = d.DB + " at " + when(d.State.State, c.now(), c.set.zone)
	}
	return c.page(title, "moment", d), nil
}

func (c *call) fillDatabases(d *momentData, at states.State) error {
	offset, _ := strconv.Atoi(c.r.URL.Query().Get("dbo"))
	list, err := c.reader.Databases(c.r.Context(), d.who, d.ID, at, contents.DatabasesQuery{Prefix: d.Prefix, Group: d.Prefix == "", Page: contents.Page{Offset: offset, Limit: databasesPerPage}})
	if err != nil {
		return err
	}
	d.State, d.S, d.Typed = list.State, name(list.State), c.asTyped(d.subject, list.State)
	d.Total, d.Rows, d.Before = list.Total, list.Rows, list.Before
	for _, x := range list.Databases {
		to := d.to("moment", "s", d.S, "db", x.Name, "p", d.Prefix, "dbo", c.r.URL.Query().Get("dbo"))
		if x.Group > 0 {
			to = d.to("moment", "s", d.S, "p", x.Name, "db", d.DB)
		}
		row := rowOf(x, d.Before, to)
		row.Selected = x.Name == d.DB || x.Group > 0 && strings.HasPrefix(d.DB, x.Name)
		d.Databases = append(d.Databases, row)
	}
	shown := list.Dropped[:min(len(list.Dropped), mostDropped)]
	for _, n := range shown {
		before := list.BeforeBackup
		if before == "" {
			before = list.Before.Format(time.RFC3339Nano)
		}
		d.Dropped = append(d.Dropped, way{d.to("moment", "s", before, "db", n, "p", n), n})
	}
	d.MoreGone = len(list.Dropped) - len(shown) + list.MoreDropped
	if d.Prefix != "" {
		d.All = d.to("moment", "s", d.S, "db", d.DB)
	}
	offset = max(0, offset)
	d.DBFrom, d.DBTo = min(offset+1, list.Rows), offset+len(list.Databases)
	if offset > 0 {
		d.DBPrev = d.to("moment", "s", d.S, "p", d.Prefix, "db", d.DB, "dbo", strconv.Itoa(max(0, offset-databasesPerPage)))
	}
	if list.More {
		d.DBNext = d.to("moment", "s", d.S, "p", d.Prefix, "db", d.DB, "dbo", strconv.Itoa(offset+databasesPerPage))
	}
	return nil
}

// rowOf is a database in a list, with how much it grew since the backup before.
func rowOf(x contents.Database, before time.Time, to string) databaseRow {
	row := databaseRow{Database: x, To: to}
	if g := x.GrewBytes; g != nil {
		switch {
		case *g > 0:
			row.Grew = "+ " + Bytes(*g)
		case *g < 0:
			row.Grew = "− " + Bytes(-*g)
		default:
			row.Grew = "0"
		}
	} else if !before.IsZero() {
		row.Grew = "new"
	}
	return row
}

// fillBeside finds the ways to states near this one.
func (c *call) fillBeside(d *momentData) {
	list, _ := c.o.Server.Backups(d.who, server.BackupFilter{Instance: d.ID, Limit: math.MaxInt32})
	var older, newer time.Time
	for _, b := range list {
		if !b.Status.Usable() || b.Started == nil || b.ID == d.State.Backup {
			continue
		}
		link := d.to("moment", "s", b.ID, "db", d.DB)
		switch t := *b.Started; {
		case t.Before(d.State.State) && t.After(older):
			older, d.Older = t, link
			d.Changed = d.to("changes", "db", d.DB, "from", b.ID, "to", d.S)
		case t.After(d.State.State) && (newer.IsZero() || t.Before(newer)):
			newer, d.Newer = t, link
		}
	}
	minute := func(by time.Duration) string {
		return d.to("moment", "s", d.State.State.Add(by).UTC().Format(time.RFC3339Nano), "db", d.DB)
	}
	d.Less = minute(-time.Minute)
	if d.State.State.Add(time.Minute).Before(c.now()) {
		d.Plus = minute(time.Minute)
	}
}

func (c *call) fillDocuments(d *momentData, at states.State, after string) error {
	ctx := c.r.Context()
	var err error
	if d.Details, err = c.reader.Database(ctx, d.who, d.ID, at, d.DB); err != nil {
		return err
	}
	base := []string{"s", d.S, "db", d.DB, "p", d.Prefix}
	link := func(more ...string) string { return d.to("moment", append(append([]string{}, base...), more...)...) }
	d.Links["all"], d.Links["design"], d.Links["local"] = link(), link("kind", "design"), link("kind", "local")
	d.Links["conflicts"], d.Links["deleted"], d.Links["selector"] = link("conflicts", "1"), link("deleted", "1"), link("by", "selector")
	q := contents.DocumentsQuery{DB: d.DB, After: after, Kind: d.Kind, Deleted: d.Deleted, Conflict: d.Conflicts, Limit: perPage}
	q.Prefix = d.Query
	if d.By == "selector" {
		q.Selector = d.Selector
		if strings.TrimSpace(q.Selector) == "" {
			return nil
		}
	}
	list, err := c.reader.Documents(ctx, d.who, d.ID, at, q)
	if err != nil {
		return err
	}
	d.DocsHave = true
	for _, x := range list.Documents {
		row := documentRow{DocumentRow: x, Rest: x.ID, To: d.to("document", "db", d.DB, "doc", x.ID, "s", d.S, "b", x.Rev)}
		if rest, ok := strings.CutPrefix(x.ID, d.Query); ok && rest != "" {
			row.Pre, row.Rest = d.Query, rest
		}
		d.Docs = append(d.Docs, row)
	}
	yes := func(b bool) string {
		if b {
			return "1"
		}
		return ""
	}
	same := []string{"kind", d.Kind, "by", d.By, "q", d.Query, "selector", d.Selector, "deleted", yes(d.Deleted), "conflicts", yes(d.Conflicts)}
	if list.Next != "" {
		d.DocsNext = link(append(same, "after", list.Next)...)
	}
	if after != "" {
		d.DocsFirst = link(same...)
	}
	if !list.Complete {
		d.Partly = cmp.Or(list.Looked, 1)
	}
	return nil
}
