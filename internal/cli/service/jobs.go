package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/storage"
)

func newJobs(env *core.Env, g *core.Global) *cobra.Command {
	project, since := "", ""
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List what a server's agents are doing, and did lately",
		Long: `List what a server's agents are doing, and did in the last hour, or since --since ago. The last 2,000 jobs that have ended
are kept for a week.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			q := url.Values{}
			if since != "" {
				q.Set("since", since)
			}
			if project != "" {
				q.Set("project", project)
			}
			return show(ctx, env, c, "jobs?"+q.Encode(), func(l *jobListJSON) error { return l.print(env) })
		}),
	}
	projectFlag(c.Flags(), &project, "whose jobs to list")
	c.Flags().StringVar(&since, "since", "", "how far back to list those that have ended, such as 12h or 7d (default: 1h)")
	serviceFlags(c.Flags())
	c.AddCommand(newShowJob(env, g), newCancelJob(env, g))
	return c
}

type jobListJSON struct {
	Jobs []jobJSON `json:"jobs"`
}

type jobJSON struct {
	ID       string       `json:"id"`
	Kind     string       `json:"kind"`
	State    job.State    `json:"state"`
	Instance string       `json:"instance"`
	Backup   string       `json:"backup"`
	Name     string       `json:"name"`
	Fault    string       `json:"fault"`
	Progress core.Reading `json:"progress"`
	Created  time.Time    `json:"created"`
	Updated  time.Time    `json:"updated"`
}

func (l *jobListJSON) print(env *core.Env) error {
	var rows [][]string
	for _, j := range l.Jobs {
		done := ""
		if j.Progress.Bytes > 0 && !j.State.Ended() {
			done = core.Size(j.Progress.BytesDone) + " of " + core.Size(j.Progress.Bytes)
		}
		rows = append(rows, []string{j.ID, j.Kind, string(j.State), cmp.Or(j.Name, j.Backup, j.Instance),
			core.When(j.Created), done, j.Fault})
	}
	return core.Table(env.Stdout, []string{"ID", "KIND", "STATE", "OF", "CREATED (UTC)", "DONE", "FAULT"}, rows)
}

type proveOptions struct {
	project string
	noWait  bool
}

func newProve(env *core.Env, g *core.Global) *cobra.Command {
	o := &proveOptions{}
	return onBackup(env, g, &cobra.Command{
		Use:   "prove BACKUP",
		Short: "Have an agent restore a backup as a test",
		Long: `Have an agent restore a backup as a test. It restores all of it, starts a CouchDB on it if one is installed, compares
databases and documents with what the backup says, and removes it all again. Without a CouchDB it reads all of the backup, opens
it as "slipcover serve" does and asks for all databases and some documents: that proves less, and the outcome says so. The outcome is kept with the backup.
The command waits for the end unless --no-wait is given. Exit code 4 if the test fails.`,
	}, &o.project, &o.noWait, func(ctx context.Context, c *serviceClient, s *core.Settings, backup string) error {
		return runProve(ctx, env, c, s, o, backup)
	})
}

// onBackup makes a command one that has a job done about a backup of the service, and waits for it.
func onBackup(env *core.Env, g *core.Global, c *cobra.Command, project *string, noWait *bool,
	run func(ctx context.Context, c *serviceClient, s *core.Settings, backup string) error,
) *cobra.Command {
	c.Args = core.Arguments(1, 1, "the ID of one BACKUP")
	c.RunE = serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *core.Settings, args []string) error {
		return run(ctx, c, s, args[0])
	})
	f := c.Flags()
	f.BoolVar(noWait, "no-wait", false, "don't wait for the end")
	projectFlag(f, project, "whose backup it is")
	core.ProgressFlag(f)
	serviceFlags(f)
	return c
}

type proveResult struct {
	Backup string     `json:"backup"`
	Job    string     `json:"job"`
	Proof  *job.Proof `json:"proof,omitempty"`
}

func runProve(
	ctx context.Context, env *core.Env, c *serviceClient, s *core.Settings, o *proveOptions, backup string,
) error {
	out := &proveResult{Backup: backup}
	path := "backups/" + url.PathEscape(backup)
	if err := c.call(ctx, http.MethodPost, inProject(path+"/prove", o.project), nil, out); err != nil {
		return err
	}
	env.Done("job %s has begun", out.Job)
	if o.noWait {
		if env.JSON {
			return core.PrintJSON(env.Stdout, out)
		}
		_, err := fmt.Fprintf(env.Stdout, "job %s has begun; \"slipcover jobs\" shows it\n", out.Job)
		return err
	}
	fault, err := c.await(ctx, env, s, inProject("jobs/"+url.PathEscape(out.Job), o.project), "testing")
	if err != nil {
		return err
	}
	var now struct {
		Backup struct{ Proof *job.Proof }
	}
	if err := c.call(ctx, http.MethodGet, inProject(path, o.project), nil, &now); err != nil {
		return err
	}
	out.Proof = now.Backup.Proof
	if out.Proof == nil {
		return core.Say(core.ErrProblem, "the test did not end: %s", core.Clean(cmp.Or(fault, "its outcome is unknown")))
	}
	env.Done("the test has ended, and its outcome is kept with the backup")
	if err := out.print(env); err != nil {
		return err
	}
	if !out.Proof.OK {
		return core.Say(core.ErrProblem, "the backup did not restore as it should: %s",
			core.Clean(cmp.Or(out.Proof.Problem, fault)))
	}
	return nil
}

func (r *proveResult) print(env *core.Env) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, r)
	}
	p := r.Proof
	how := "without a CouchDB"
	switch {
	case p.Server:
		how = "with a CouchDB started on it"
	case p.Served:
		how = fmt.Sprintf("without a CouchDB: all of it was read, and Slipcover opened it and was asked for all databases and %s", core.Count(p.Sampled, "document"))
	}
	outcome := "restores"
	if !p.OK {
		outcome = "the test failed"
	}
	return core.Facts(env.Stdout, []core.Fact{{"backup", r.Backup}, {"outcome", outcome}, {"tested", how},
		{"databases", fmt.Sprint(p.Databases)}, {"documents", fmt.Sprint(p.Documents)},
		{"shipped until (UTC)", moment(p.Moment)}, {"beside the CouchDB", number(p.Compared)},
		{"took", core.Took(time.Duration(p.Took * float64(time.Second)))}, {"problem", p.Problem}})
}

// await waits for the end of a job, with its progress shown, and returns why it failed. A
// job that is not listed any more has ended.
func (c *serviceClient) await(
	ctx context.Context, env *core.Env, s *core.Settings, path, verb string,
) (fault string, err error) {
	err = poll(ctx, env, s, verb, func() (at core.Reading, ended bool, err error) {
		var now struct{ Job jobJSON }
		err = c.call(ctx, http.MethodGet, path, nil, &now)
		if errors.Is(err, core.ErrMissing) {
			return at, true, nil
		}
		fault = now.Job.Fault
		return now.Job.Progress, now.Job.State.Ended(), err
	})
	return fault, err
}

// poll asks a server until what it does has ended, with the progress shown that ask tells. A
// server that can't be reached meanwhile is waited for as long as retry_for says.
func poll(ctx context.Context, env *core.Env, s *core.Settings, verb string, ask func() (at core.Reading, ended bool, err error)) error {
	var mu sync.Mutex
	var at core.Reading // guarded by mu
	stop := core.StartProgress(env, s.Progress, verb, func() core.Reading { mu.Lock(); defer mu.Unlock(); return at })
	defer stop()
	lost, wait := time.Time{}, 100*time.Millisecond
	for {
		now, ended, err := ask()
		switch {
		case errors.Is(err, storage.ErrUnavailable):
			if lost.IsZero() {
				lost = time.Now()
			}
			if time.Since(lost) >= s.RetryFor {
				return err
			}
		case err != nil || ended:
			return err
		default:
			lost = time.Time{}
			mu.Lock()
			at = now
			mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// plus adds up the progress of what is done side by side.
func plus(a, b core.Reading) core.Reading {
	return core.Reading{Files: a.Files + b.Files, FilesDone: a.FilesDone + b.FilesDone, Bytes: a.Bytes + b.Bytes, BytesDone: a.BytesDone + b.BytesDone,
		Stored: a.Stored + b.Stored, Docs: a.Docs + b.Docs}
}
