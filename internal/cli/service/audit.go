package service

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
)

type auditOptions struct {
	since, until, who, action, target, project string
	limit                                      int
}

// mostAudit is how many records one request asks for.
const mostAudit = 500

func newAudit(env *core.Env, g *core.Global) *cobra.Command {
	o := &auditOptions{}
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what at a server, and who looked at which documents",
		Long: `Show the records of a server's audit log, the newest first: who changed what, who signed in or failed to, and who looked at which
documents. It needs an administrator's token, and whoever reads the log is in it, too.

The server reads its own audit_file, and what that was renamed to by log rotation, unless it is compressed. Of several servers
each has its own: ask each.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return runAudit(ctx, env, c, o)
		}),
	}
	f := c.Flags()
	f.StringVar(&o.since, "since", "", "only from this `TIME` on: 2026-11-22T10:32:00Z, \"2026-11-22 10:32\", \"yesterday 18:00\", \"7d ago\"")
	f.StringVar(&o.until, "until", "", "only before this `TIME`")
	f.StringVar(&o.who, "who", "", "only of users whose name, id or address contains this `TEXT`")
	f.StringVar(&o.action, "action", "", "only this `ACTION`, such as backup.delete, or all of a kind, such as document")
	f.StringVar(&o.target, "target", "", "only of what contains this `TEXT`: an id, or INSTANCE/DB/DOC of documents")
	f.StringVar(&o.project, "project", "", "only of the project with this `ID` (default: of all)")
	f.IntVar(&o.limit, "limit", 50, "show this `NUMBER` of records at most")
	serviceFlags(f)
	return c
}

type auditRecord struct {
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	UserID  string    `json:"user_id"`
	Project string    `json:"project"`
	Address string    `json:"address"`
	Action  string    `json:"action"`
	Target  string    `json:"target"`
	Outcome string    `json:"outcome"`
	Status  int       `json:"status"`
}

// auditJSON is an answer, whose records are printed as they are with --json.
type auditJSON struct {
	Audit      []json.RawMessage `json:"audit"`
	Next       string            `json:"next,omitempty"`
	Complete   bool              `json:"complete"`
	Unreadable int               `json:"unreadable"`
	Compressed bool              `json:"compressed"`
	File       string            `json:"file"`
	Host       string            `json:"host"`
}

func (o *auditOptions) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	for name, text := range map[string]string{"since": o.since, "until": o.until} {
		if text == "" {
			continue
		}
		t, err := calendar.ParseWhen(text, now, time.Local)
		if err != nil {
			return nil, core.Usage("--%s: %v", name, err)
		}
		q.Set(name, t.UTC().Format(time.RFC3339))
	}
	for name, text := range map[string]string{"who": o.who, "action": o.action, "target": o.target, "project": o.project} {
		if text != "" {
			q.Set(name, text)
		}
	}
	if o.limit < 1 {
		return nil, core.Usage("--limit must be a number from 1 on")
	}
	return q, nil
}

func runAudit(ctx context.Context, env *core.Env, c *serviceClient, o *auditOptions) error {
	q, err := o.query(env.Now())
	if err != nil {
		return err
	}
	all := auditJSON{Audit: []json.RawMessage{}}
	for {
		var page auditJSON
		q.Set("limit", strconv.Itoa(min(o.limit-len(all.Audit), mostAudit)))
		if err := c.call(ctx, http.MethodGet, "audit?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		page.Audit, page.Unreadable = append(all.Audit, page.Audit...), all.Unreadable+page.Unreadable
		if all = page; all.Next == "" || len(all.Audit) >= o.limit {
			break
		}
		q.Set("before", all.Next)
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, all)
	}
	return all.print(env)
}

func (a *auditJSON) print(env *core.Env) error {
	var rows [][]string
	for _, text := range a.Audit {
		var r auditRecord
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("the server sent a record that can't be read: %w", err)
		}
		outcome := r.Outcome
		if r.Status >= http.StatusBadRequest {
			outcome += " (" + strconv.Itoa(r.Status) + ")"
		}
		rows = append(rows, []string{core.When(r.Time), cmp.Or(r.User, r.UserID), r.Address, r.Action, r.Target, outcome})
	}
	if err := core.Table(env.Stdout, []string{"TIME (UTC)", "WHO", "FROM", "ACTION", "TARGET", "OUTCOME"}, rows); err != nil {
		return err
	}
	notes := []string{core.Count(len(a.Audit), "record") + " of " + core.Clean(a.Host)}
	if a.Next != "" {
		notes = append(notes, "there may be older ones: raise --limit")
	}
	if a.Unreadable > 0 {
		notes = append(notes, core.Count(a.Unreadable, "line")+" can't be read")
	}
	if a.Compressed && a.Next == "" {
		notes = append(notes, "older files are compressed, and weren't read")
	}
	_, err := fmt.Fprintln(env.Stdout, strings.Join(notes, "; "))
	return err
}
