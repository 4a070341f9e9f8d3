package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

// logJSON is the log of a job or a restore.
type logJSON struct {
	Lines []job.Line `json:"lines"`
	Left  int        `json:"left"`
}

func (l *logJSON) print(env *core.Env) error {
	for n, line := range l.Lines {
		if n == job.FirstLines && l.Left > 0 {
			fmt.Fprintf(env.Stdout, "(%s left out)\n", core.Count(l.Left, "line"))
		}
		if _, err := fmt.Fprintf(env.Stdout, "%s  %s\n", line.At.UTC().Format("2006-01-02 15:04:05"), core.Clean(line.Text)); err != nil {
			return err
		}
	}
	return nil
}

type jobShownJSON struct {
	Job struct {
		jobJSON
		Attempt int        `json:"attempt"`
		Restore string     `json:"restore"`
		Step    string     `json:"step"`
		Ended   *time.Time `json:"ended"`
		Log     logJSON    `json:"log"`
	} `json:"job"`
}

func (s *jobShownJSON) print(env *core.Env) error {
	j := &s.Job
	facts := []core.Fact{{"job", j.ID}, {"kind", j.Kind}, {"state", string(j.State)}, {"of", cmp.Or(j.Name, j.Backup, j.Instance)}, {"restore", j.Restore}, {"step", j.Step},
		{"attempts", number(j.Attempt)}, {"done", doneOf(j.Progress)}, {"created (UTC)", core.When(j.Created)}, {"ended (UTC)", endOf(j.Ended)}, {"fault", j.Fault}}
	return withLog(env, facts, &j.Log)
}

type restoreShownJSON struct {
	Restore struct {
		ID        string             `json:"id"`
		Cluster   string             `json:"cluster"`
		Database  string             `json:"database"`
		As        string             `json:"as"`
		State     job.State          `json:"state"`
		Step      string             `json:"step"`
		By        string             `json:"by"`
		Attempt   int                `json:"attempt"`
		Fault     string             `json:"fault"`
		Nodes     []togetherNodeJSON `json:"nodes"`
		Log       logJSON            `json:"log"`
		Created   time.Time          `json:"created"`
		Ended     *time.Time         `json:"ended"`
		Cancelled string             `json:"cancelled"`
	} `json:"restore"`
}

func (s *restoreShownJSON) print(env *core.Env) error {
	r := &s.Restore
	var sum core.Reading
	for _, n := range r.Nodes {
		sum = plus(sum, n.Progress)
	}
	facts := []core.Fact{{"restore", r.ID}, {"state", string(r.State)}, {"step", r.Step}, {"cluster", r.Cluster}, {"database", r.Database}, {"as", r.As}, {"asked for by", r.By},
		{"attempts", number(r.Attempt)}, {"done", doneOf(sum)}, {"created (UTC)", core.When(r.Created)}, {"ended (UTC)", endOf(r.Ended)}, {"fault", r.Fault}}
	return withLog(env, facts, &r.Log)
}

func doneOf(p core.Reading) string {
	if p.Bytes == 0 {
		return ""
	}
	return core.Size(p.BytesDone) + " of " + core.Size(p.Bytes)
}

func endOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return core.When(*t)
}

func withLog(env *core.Env, facts []core.Fact, l *logJSON) error {
	if err := core.Facts(env.Stdout, facts); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(env.Stdout); err != nil {
		return err
	}
	return l.print(env)
}

func newShowJob(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a job, or a restore by several agents, with its log in words",
		Long: `Show a job, or a restore by several agents, with its log in words: who asked for it, what it waits for, which agent took it, how far it came,
what that agent said, and how it ended. Times are UTC, by the server's clock. The first lines and the newest ones are kept, 60 in all.`,
		Args: core.Arguments(1, 1, "the ID of one job or restore"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			id := url.PathEscape(args[0])
			err := show(ctx, env, c, inProject("jobs/"+id, project), func(s *jobShownJSON) error { return s.print(env) })
			if errors.Is(err, core.ErrMissing) {
				return show(ctx, env, c, inProject("restores/"+id, project), func(s *restoreShownJSON) error { return s.print(env) })
			}
			return err
		}),
	}
	projectFlag(c.Flags(), &project, "whose job it is")
	serviceFlags(c.Flags())
	return c
}

func newCancelJob(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a job, or a restore by several agents, that has not ended",
		Long: `End a job that has not ended: a backup, a restore test, an instance in the making, or a backup that is read in. Its agent
stops within seconds. What a backup has stored by then is taken up by the next one; of a restore test nothing stays; an
instance in the making is one that failed. Deletions and restarts can't be ended halfway.

Or a restore by several agents, as long as nothing is put in its place. The files of a database are then taken away again on all nodes. What of a
cluster was restored stays in the data directories: the same restore goes on with it. Once the shard map of a database is being written it is refused:
the database may be there then.`,
		Args: core.Arguments(1, 1, "the ID of one job or restore"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			id := url.PathEscape(args[0])
			err := c.remove(ctx, env, inProject("jobs/"+id, project), args[0], "cancelled", "job "+core.Clean(args[0])+" is cancelled")
			if !errors.Is(err, core.ErrMissing) {
				return err
			}
			said := func(s *restoreShownJSON) string { return "the restore " + core.Clean(s.Restore.ID) + " is cancelled" }
			return request(ctx, env, c, http.MethodDelete, inProject("restores/"+id, project), nil, said, func(s *restoreShownJSON) error {
				what := cmp.Or(s.Restore.Fault, "what was written is taken away; \"slipcover jobs show\" says how far that is")
				_, err := fmt.Fprintf(env.Stdout, "%s: %s\n", said(s), core.Clean(what))
				return err
			})
		}),
	}
	projectFlag(c.Flags(), &project, "whose job it is")
	serviceFlags(c.Flags())
	return c
}
