package service

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
)

func newServes(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "serves",
		Short: "Have a server open backups as CouchDBs that can be read",
		Long: `Have a server open backups as CouchDBs that can be read, as "slipcover serve" does on a machine that has the key. Each is below
the server's own address, for whoever has the password that is made for it.`,
	}
	core.AsGroup(c)
	c.AddCommand(newServesOpen(env, g), newServesList(env, g), newServesClose(env, g))
	return c
}

type serveOpened struct {
	ID         string    `json:"id"`
	Backup     string    `json:"backup"`
	BackupName string    `json:"backup_name"`
	Project    string    `json:"project"`
	State      time.Time `json:"state"`
	Node       string    `json:"node"`
	Databases  int       `json:"databases"`
	URL        string    `json:"url"`
	User       string    `json:"user"`
	OpenedBy   string    `json:"opened_by"`
	Idle       string    `json:"idle"`
	Used       time.Time `json:"used"`
	Ends       time.Time `json:"ends"`
	Requests   int64     `json:"requests"`
}

type serveAnswer struct {
	Serve    serveOpened `json:"serve"`
	Password string      `json:"password"`
}

func (a *serveAnswer) print(w io.Writer) error {
	s := a.Serve
	_, err := fmt.Fprintf(w, "%s of %s as it was at %s\n%s  user %s, password %s\nIt can only be read. It ends when nobody has asked for %s, at %s at the latest, or with: slipcover serves close %s\n",
		core.Count(s.Databases, "database"), core.Clean(s.Node), s.State.Format(time.RFC3339), core.Clean(s.URL), s.User, a.Password, s.Idle, core.When(s.Ends), s.ID)
	return err
}

func newServesOpen(env *core.Env, g *core.Global) *cobra.Command {
	project, at, idle := "", "", ""
	c := &cobra.Command{
		Use:   "open BACKUP",
		Short: "Open a backup, or a moment of its instance, and show where and with which password",
		Long: `Open a backup, or with --at a moment of its instance, and show where it is and with which password: this once, since nobody
else is told it. Replicators, PouchDB and other clients can pull out of it.

The server reads it, so it must have the repository in its settings, and a key. It ends when nobody has asked for a while, and
with the token that it was opened with.`,
		Args: core.Arguments(1, 1, "the ID of one BACKUP"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			in := map[string]any{}
			if at != "" {
				t, err := calendar.ParseWhen(at, env.Now(), time.Local)
				if err != nil {
					return core.Usage("--at: %v", err)
				}
				in["at"] = t
			}
			if idle != "" {
				in["idle"] = idle
			}
			return request(ctx, env, c, http.MethodPost, inProject("backups/"+url.PathEscape(args[0])+"/serve", project), in,
				func(a *serveAnswer) string { return "backup " + a.Serve.Backup + " is open as " + a.Serve.ID },
				func(a *serveAnswer) error { return a.print(env.Stdout) })
		}),
	}
	f := c.Flags()
	f.StringVar(&at, "at", "", "the state at that `TIME`, out of what was shipped: 2026-11-22T10:32:00Z, \"2026-11-22 10:32\", \"yesterday 18:00\", \"90m ago\"")
	f.StringVar(&idle, "idle", "", "end when nobody has asked for this `TIME`, from 1m to 24h (default: 1h)")
	projectFlag(f, &project, "whose backup it is")
	serviceFlags(f)
	return c
}

func newServesList(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List the backups that the server has open",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("serves", project), func(l *struct{ Serves []serveOpened }) error {
				var rows [][]string
				for _, s := range l.Serves {
					rows = append(rows, []string{s.ID, s.BackupName, s.Project, core.When(s.State), core.Clean(s.OpenedBy), fmt.Sprint(s.Requests), core.When(s.Used), s.Idle, core.When(s.Ends)})
				}
				return core.Table(env.Stdout, []string{"ID", "BACKUP", "PROJECT", "STATE (UTC)", "OPENED BY", "REQUESTS", "USED (UTC)", "IDLE", "ENDS (UTC)"}, rows)
			})
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

func newServesClose(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "close ID",
		Short: "Close a backup that the server has open; answers under way are cut off",
		Args:  core.Arguments(1, 1, "the ID of one that is open"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return c.remove(ctx, env, inProject("serves/"+url.PathEscape(args[0]), project), args[0], "closed", args[0]+" is closed")
		}),
	}
	projectFlag(c.Flags(), &project, "whose it is")
	serviceFlags(c.Flags())
	return c
}
