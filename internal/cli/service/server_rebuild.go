package service

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
)

type rebuildOptions struct {
	open.Options
	project string
	storage string
}

func newRebuild(env *core.Env, g *core.Global) *cobra.Command {
	o := &rebuildOptions{}
	c := &cobra.Command{
		Use:   "rebuild",
		Short: "Make the server's catalog anew from the repositories alone",
		Long: `Put the backups of a repository into the server's catalog, with the ids, projects and instances that they had.
What the catalog has stays as it is, so you can repeat this, and run it for one repository after another. No key is
needed. Stop a server with its own NATS first. Agents join again afterwards, and get their instances back by their names.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runRebuild(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose backups (default: all)")
	f.StringVar(&o.project, "project", defaultProject, "`ID` of the project of backups that the service didn't make")
	f.StringVar(&o.storage, "swift-account", "", "`URL` of the Swift account that the repository is in, if it is a caller's own (own_swift)")
	return c
}

func runRebuild(ctx context.Context, env *core.Env, s *core.Settings, o *rebuildOptions) error {
	if !access.ValidProject(o.project) {
		return core.Usage("%q can't be a project's id", o.project)
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	found, bad, err := findBackups(ctx, r.Repo, o)
	if err != nil {
		return err
	}
	v := &service{env: env, settings: s, log: newLog(env, s)}
	if err := v.openBus(ctx); err != nil {
		return err
	}
	defer func() { _ = v.bus.Close() }()
	res, err := server.Rebuild(ctx, v.bus, o.project, found)
	if err != nil {
		return err
	}
	if err := server.ForgetCensus(censusFile(s)); err != nil {
		return err
	}
	env.Done("the catalog was rebuilt")
	if env.JSON {
		err = core.PrintJSON(env.Stdout, struct {
			server.Rebuilt
			Unreadable int `json:"unreadable"`
		}{res, len(bad)})
	} else {
		fmt.Fprintf(env.Stdout, "added %s and %s; %d were known\n", core.Count(res.Backups, "backup"),
			core.Count(res.Instances, "instance"), res.Known)
	}
	for _, b := range bad {
		fmt.Fprintf(env.Stderr, "slipcover: backup %s of %s was left out: %s\n", b.ID, b.Instance,
			core.OneLine(b.Err.Error()))
	}
	if err == nil && len(bad) > 0 {
		err = core.Say(core.ErrProblem, "%s could not be read", core.Count(len(bad), "record"))
	}
	return err
}

// findBackups lists what a repository has.
func findBackups(ctx context.Context, r *repo.Repo, o *rebuildOptions) ([]server.Found, []repo.BadRecord, error) {
	recs, bad, err := r.List(ctx, o.Instance)
	if err != nil {
		return nil, nil, err
	}
	marks, err := r.Marks(ctx, o.Instance)
	if err != nil {
		return nil, nil, err
	}
	place := job.Repository{URL: r.URL(), ID: r.Config().ID, Storage: o.storage}
	var found []server.Found
	for _, rec := range recs {
		f := server.Found{Record: rec, Repository: place, LocationRef: agent.LocationRef(r, place, rec)}
		if v := marks[rec.ID].Verified; v != nil {
			f.Verified = &job.Proof{At: v.At, OK: true}
		}
		if p := marks[rec.ID].Pin; p != nil {
			f.Pin = &job.Pin{Reason: p.Reason, Since: p.Since}
		}
		found = append(found, f)
	}
	return found, bad, nil
}
