package restores

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/userfile"
)

type createOptions struct {
	open.Options
	open.When
	backup       string
	dir          string
	port         int
	user         string
	passwordFile string
	couchdb      string
	noStart      bool
	nodeName     string
	timeout      time.Duration
	history      history
}

func newCreate(env *core.Env, g *core.Global) *cobra.Command {
	o := &createOptions{}
	c := &cobra.Command{
		Use:   "create NAME --backup ID",
		Short: "Make a new CouchDB instance from a backup or any moment, and start it",
		Long: `Make a new CouchDB instance from a backup, or of a moment (--at, --at-seq, --before-change): data, configuration and a start script, in a directory of its own. It
listens on 127.0.0.1 only, with its own port and admin password, and never touches the original. If CouchDB is installed on
this machine, the instance is started.`,
		Args: core.Arguments(1, 1, "the NAME of the new instance"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runCreate(ctx, env, s, o, args[0])
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose backup it is")
	o.When.Flags(f)
	f.StringVar(&o.backup, "backup", "", "`ID` of the backup, its name, or \"latest\"")
	f.StringVar(&o.dir, "dir", "", "`DIR` of the instance (default: its name); must be empty")
	f.IntVar(&o.port, "port", 0, "port of HTTP on 127.0.0.1 (default: a free one)")
	f.StringVar(&o.nodeName, "node-name", "", "Erlang `NAME` of its node: shard maps are rewritten for it (default: the one that they know)")
	f.StringVar(&o.user, "admin", "", "name of the admin (default: admin)")
	f.StringVar(&o.passwordFile, "admin-password-file", "",
		"`FILE` with the admin's password (default: one is made and printed)")
	f.StringVar(&o.couchdb, "couchdb", "", "CouchDB's program, `FILE` (default: COUCHDB_BIN, /opt/couchdb/bin/couchdb, or couchdb in PATH)")
	o.history.flags(f, "backups that aren't the newest get one, the newest keeps it")
	f.BoolVar(&o.noStart, "no-start", false, "don't start it")
	f.DurationVar(&o.timeout, "timeout", 0, "how long the server has for its first answer (default 30s)")
	f.String("owner", "", "`USER:GROUP` to own the files and run the server (default: couchdb:couchdb)")
	f.String("parallel", "", "write `N` files at once (default: the number of CPUs, at most 4)")
	core.ProgressFlag(f)
	return c
}

type createJSON struct {
	Backup core.SummaryJSON `json:"backup"`
	*restore.Created
	Restored restoreJSON `json:"restored"`
}

func runCreate(ctx context.Context, env *core.Env, s *core.Settings, o *createOptions, name string) error {
	if o.backup == "" && !o.Given() {
		return core.Usage("create needs --backup ID, the backup to make the instance of, or --at with a time")
	}
	history, err := o.history.chosen()
	if err != nil {
		return err
	}
	password := ""
	if o.passwordFile != "" {
		if password, err = userfile.ReadSecret(o.passwordFile); err != nil {
			return core.FileError("read the admin's password", err)
		}
	}
	from, err := openSource(ctx, env, s, o.Instance, o.backup, &o.When)
	if err != nil {
		return err
	}
	defer from.repo.Close()
	p := &restore.Progress{}
	stop := core.StartProgress(env, s.Progress, "restoring", core.RestoreReading(p))
	defer stop()
	made, err := restore.Create(ctx, restore.CreateOptions{Repo: from.repo.Repo, Record: from.rec, Moment: from.made, Name: name, Dir: o.dir,
		Port: o.port, NodeName: o.nodeName, AdminUser: o.user,
		AdminPassword: password, CouchDBBin: o.couchdb, Start: !o.noStart, History: history, Tell: tellComesBack(env), Owner: s.Owner,
		Timeout: o.timeout, Parallel: s.Parallel, Progress: p})
	stop()
	// An instance that was made and did not start is told all the same: its admin's
	// password is nowhere else.
	if made != nil && made.Restored != nil {
		env.Done("the instance %s was made", name)
		if env.JSON {
			made.Notes = core.NonNil(made.Notes)
			out := createJSON{Backup: core.SummaryOf(from.rec), Created: made, Restored: newRestoreJSON(env, from, made.Restored)}
			if perr := core.PrintJSON(env.Stdout, out); err == nil {
				err = perr
			}
		} else {
			printRestore(env.Stdout, from, made.Restored, false)
			if perr := printCreated(env.Stdout, made); err == nil {
				err = perr
			}
		}
	}
	if err != nil {
		return core.WhenStopped(ctx, err, marked)
	}
	if !made.Restored.OK() {
		return core.Say(core.ErrProblem, "the instance is there, but the backup did not restore whole: %s",
			core.Count(len(made.Restored.Problems)+len(made.Restored.Damaged), "problem"))
	}
	return nil
}

func printCreated(w io.Writer, m *restore.Created) error {
	fmt.Fprintln(w)
	state := "not started"
	if m.Running {
		state = fmt.Sprintf("running, process %d", m.PID)
	}
	err := core.Facts(w, []core.Fact{{"instance", m.Name}, {"state", state}, {"url", m.URL}, {"admin", m.User},
		{"password", m.Password},
		{"node", m.NodeName}, {"directory", m.Dir}, {"start it by", m.Command}, {"log", m.Log}})
	for _, n := range m.Notes {
		fmt.Fprintf(w, "note: %s\n", core.Clean(n))
	}
	return err
}
