package web

import (
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/httpd"
)

var auditRoutes = []route{
	{"GET /audit", access.Admin, "audit.read", (*call).auditPage},
}

type auditPage struct {
	// The filter, as it was typed.
	Who, Action, Target, Since, Until string
	Problem                           string
	Kinds                             []auditKind
	Rows                              []auditRow
	Older, Newest                     string // paths; "" if there is none
	Partly                            bool   // not all was looked through
	Unreadable                        int
	Compressed                        bool
	File, Host                        string
}

// auditKind is a choice of actions that is asked for often.
type auditKind struct {
	Name, To string
	Here     bool
}

type auditRow struct {
	httpd.AuditRecord
	Pill pill
	Home string // path of what it is about; "" if it is gone or has no page
	Name string // of it, if it has one
	Rest string // of the target
}

// auditKinds are names and what AuditQuery.Action takes.
var auditKinds = []struct{ name, action string }{
	{"All", ""}, {"Documents", "document,documents"}, {"Signing in", "session"}, {"Backups", "backup"}, {"Schedules", "schedule"}, {"Tokens", "token,join_token"},
}

// auditPage shows the audit log of this server. Who looks at it is in it, too.
func (c *call) auditPage() (*answer, error) {
	q := c.r.URL.Query()
	p := auditPage{Who: strings.TrimSpace(q.Get("who")), Action: strings.TrimSpace(q.Get("action")), Target: strings.TrimSpace(q.Get("target")),
		Since: strings.TrimSpace(q.Get("since")), Until: strings.TrimSpace(q.Get("until")), File: c.o.Audit.Path()}
	p.Host, _ = os.Hostname() // or it has none
	for _, k := range auditKinds {
		p.Kinds = append(p.Kinds, auditKind{k.name, auditPath(q, "action", k.action), p.Action == k.action})
	}
	ask := httpd.AuditQuery{Who: p.Who, Action: p.Action, Target: p.Target, Before: q.Get("before"), Limit: perPage}
	for _, t := range []struct {
		text, name string
		to         *time.Time
	}{{p.Since, "From", &ask.Since}, {p.Until, "Until", &ask.Until}} {
		if t.text == "" {
			continue
		}
		at, err := calendar.ParseWhen(t.text, c.now(), c.set.zone)
		if err != nil {
			p.Problem = t.name + ": write 2026-11-22 10:32, yesterday 18:00 or 7d ago."
			return c.again("Audit log", "audit", p), nil
		}
		*t.to = at
	}
	c.log.Looked, c.log.Target = true, "audit"
	page, err := api.Audit(c.r.Context(), c.o.Audit, ask)
	if err != nil {
		return nil, err
	}
	names := c.names()
	for _, r := range page.Records {
		p.Rows = append(p.Rows, c.auditRow(r, names))
	}
	if page.Next != "" {
		p.Older = auditPath(q, "before", page.Next)
	}
	if ask.Before != "" {
		p.Newest = auditPath(q, "before", "")
	}
	p.Partly, p.Unreadable, p.Compressed = !page.Complete, page.Unreadable, page.Compressed && page.Next == ""
	return c.page("Audit log", "audit", p), nil
}

// auditPath is the page with another value of a parameter; a choice of records begins with the newest.
func auditPath(q url.Values, name, value string) string {
	v := url.Values{}
	for key, values := range q {
		if key != name && key != "before" && values[0] != "" {
			v.Set(key, values[0])
		}
	}
	if value != "" {
		v.Set(name, value)
	}
	if len(v) == 0 {
		return "/audit"
	}
	return "/audit?" + v.Encode()
}

func (c *call) auditRow(r httpd.AuditRecord, names map[string]string) auditRow {
	row := auditRow{AuditRecord: r, Pill: pill{"ok", "Done"}, Rest: r.Target}
	switch {
	case r.Status >= 500:
		row.Pill = pill{"bad", "Failed"}
	case r.Status >= 400 || r.Outcome != "ok":
		row.Pill = pill{"cancel", "Refused"}
	}
	first, rest, _ := strings.Cut(r.Target, "/")
	id, ok := api.ParseID(first)
	if !ok || c.o.Server.ProjectOf(id) == "" {
		return row
	}
	kind, _, _ := strings.Cut(r.Action, ".")
	to := map[string]string{"document": "instances", "documents": "instances", "instance": "instances", "ship": "instances", "backup": "backups", "schedule": "schedules", "job": "jobs"}[kind]
	if _, is := names[id]; is {
		to = "instances"
	}
	if to != "" {
		row.Home, row.Name, row.Rest = pathOf(to, id), names[id], rest
		if row.Name == "" {
			row.Name = id
		}
	}
	return row
}
