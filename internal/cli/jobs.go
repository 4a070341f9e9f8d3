package cli

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

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/storage"
)

func newJobs(env *Env, g *globalOptions) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List what a server's agents do, and what they did within the last hour",
		Args:  arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *settings, _ []string) error {
			return show(ctx, env, c, inProject("jobs", project), func(l *jobListJSON) error { return l.print(env) })
		}),
	}
	projectFlag(c.Flags(), &project, "whose jobs to list")
	serviceFlags(c.Flags())
	return c
}

type jobListJSON struct {
	Jobs []jobJSON `json:"jobs"`
}

type jobJSON struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	State    job.State `json:"state"`
	Instance string    `json:"instance"`
	Backup   string    `json:"backup"`
	Name     string    `json:"name"`
	Fault    string    `json:"fault"`
	Progress reading   `json:"progress"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
}

func (l *jobListJSON) print(env *Env) error {
	var rows [][]string
	for _, j := range l.Jobs {
		done := ""
		if j.Progress.Bytes > 0 && !j.State.Ended() {
			done = size(j.Progress.BytesDone) + " of " + size(j.Progress.Bytes)
		}
		rows = append(rows, []string{j.ID, j.Kind, string(j.State), cmp.Or(j.Name, j.Backup, j.Instance), when(j.Created), done, j.Fault})
	}
	return table(env.Stdout, []string{"ID", "KIND", "STATE", "OF", "CREATED (UTC)", "DONE", "FAULT"}, rows)
}

type proveOptions struct {
	project string
	noWait  bool
}

func newProve(env *Env, g *globalOptions) *cobra.Command {
	o := &proveOptions{}
	c := &cobra.Command{
		Use:   "prove BACKUP",
		Short: "Let an agent restore a backup for a test",
		Long: `Let an agent restore a backup for a test: it restores all of it, starts a CouchDB on it if there is one, compares
databases and documents with what the backup says, and removes it again. The outcome is kept with the backup.
It waits for the end, unless --no-wait is given; a test that fails is exit code 4.`,
		Args: arguments(1, 1, "the ID of one BACKUP"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *settings, args []string) error {
			return runProve(ctx, env, c, s, o, args[0])
		}),
	}
	f := c.Flags()
	f.BoolVar(&o.noWait, "no-wait", false, "don't wait for the end")
	projectFlag(f, &o.project, "whose backup it is")
	progressFlag(f)
	serviceFlags(f)
	return c
}

type proveResult struct {
	Backup string     `json:"backup"`
	Job    string     `json:"job"`
	Proof  *job.Proof `json:"proof,omitempty"`
}

func runProve(ctx context.Context, env *Env, c *serviceClient, s *settings, o *proveOptions, backup string) error {
	out := &proveResult{Backup: backup}
	path := "backups/" + url.PathEscape(backup)
	if err := c.call(ctx, http.MethodPost, inProject(path+"/prove", o.project), nil, out); err != nil {
		return err
	}
	if o.noWait {
		if env.json {
			return printJSON(env.Stdout, out)
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
		return say(errProblem, "the test did not end: %s", clean(cmp.Or(fault, "its outcome is unknown")))
	}
	if err := out.print(env); err != nil {
		return err
	}
	if !out.Proof.OK {
		return say(errProblem, "the backup did not restore as it should: %s", clean(cmp.Or(out.Proof.Problem, fault)))
	}
	return nil
}

func (r *proveResult) print(env *Env) error {
	if env.json {
		return printJSON(env.Stdout, r)
	}
	p := r.Proof
	how := "without a CouchDB"
	if p.Server {
		how = "with a CouchDB started on it"
	}
	outcome := "restores"
	if !p.OK {
		outcome = "the test failed"
	}
	return facts(env.Stdout, []fact{{"backup", r.Backup}, {"outcome", outcome}, {"tested", how}, {"databases", fmt.Sprint(p.Databases)}, {"documents", fmt.Sprint(p.Documents)},
		{"took", took(time.Duration(p.Took * float64(time.Second)))}, {"problem", p.Problem}})
}

// await waits for the end of a job, with its progress shown, and returns why it failed.
// A server that can't be reached meanwhile is waited for as long as retry_for says. A
// job that is not listed any more has ended.
func (c *serviceClient) await(ctx context.Context, env *Env, s *settings, path, verb string) (fault string, err error) {
	var mu sync.Mutex
	var at reading // guarded by mu
	stop := startProgress(env, s.Progress, verb, func() reading { mu.Lock(); defer mu.Unlock(); return at })
	defer stop()
	lost := time.Time{}
	for {
		var now struct{ Job jobJSON }
		err := c.call(ctx, http.MethodGet, path, nil, &now)
		switch {
		case errors.Is(err, errMissing):
			return "", nil
		case errors.Is(err, storage.ErrUnavailable):
			if lost.IsZero() {
				lost = time.Now()
			}
			if time.Since(lost) >= s.RetryFor {
				return "", err
			}
		case err != nil:
			return "", err
		case now.Job.State.Ended():
			return now.Job.Fault, nil
		default:
			lost = time.Time{}
			mu.Lock()
			at = now.Job.Progress
			mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
