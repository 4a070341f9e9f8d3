package service

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newInstances(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "instances",
		Short: "List the CouchDB nodes of a server, and where to find those that it made",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("instances", project), func(l *instanceListJSON) error {
				return l.print(env)
			})
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose instances to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	c.AddCommand(newInstancesCreate(env, g))
	return c
}

type instanceOptions struct {
	looking
	name, instance, agent string
	volume                int
	noWait                bool
}

func newInstancesCreate(env *core.Env, g *core.Global) *cobra.Command {
	o := &instanceOptions{looking: looking{env: env}}
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Have an agent make a new CouchDB out of a backup or a moment",
		Long: `Have an agent with instances_dir restore a backup of the service, or the newest state of an instance up to a moment, to a
CouchDB of its own beside the one that it is of, and start it. Nothing is changed there, and no replication goes on in the new
one. The command waits for the end unless --no-wait is given; "slipcover create" does the same on this machine, without a server.`,
		Args: core.Arguments(1, 1, "the NAME of the new instance"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *core.Settings, args []string) error {
			o.name = args[0]
			return runInstancesCreate(ctx, c, s, o)
		}),
	}
	f := c.Flags()
	o.stateFlags(f)
	f.StringVar(&o.instance, "instance", "", "with --at: the `INSTANCE` that the moment is of, by its name or id")
	f.StringVar(&o.agent, "agent", "", "the `AGENT` to make it, by its name or id (default: one with a key and the most room)")
	f.IntVar(&o.volume, "volume-gb", 0, "how many `GB` of its project's quota it takes (default: what the backup needs)")
	f.BoolVar(&o.noWait, "no-wait", false, "don't wait for the end")
	projectFlag(f, &o.project, "whose it is")
	core.ProgressFlag(f)
	serviceFlags(f)
	return c
}

type madeInstanceJSON struct {
	Instance json.RawMessage `json:"instance"`
	Job      string          `json:"job"`
}

func runInstancesCreate(ctx context.Context, c *serviceClient, s *core.Settings, o *instanceOptions) error {
	switch {
	case o.backup == "" && o.at == "":
		return core.Usage("say what it is made of: --backup with an id, or --instance and --at")
	case o.backup == "" && o.instance == "":
		return core.Usage("--at needs --instance, the one that the moment is of")
	case o.backup != "" && o.instance != "":
		return core.Usage("name a backup, or an instance and a moment of it, not both")
	}
	at, err := o.time("--at", o.at)
	if err != nil {
		return err
	}
	in := map[string]any{"name": o.name, "agent": o.agent, "volume_gb": o.volume, "backup": o.backup}
	if at != "" {
		in["at"] = at
	}
	if o.instance != "" {
		if in["instance"], err = c.findInstance(ctx, o.instance, o.project); err != nil {
			return err
		}
	}
	var out madeInstanceJSON
	if err := c.call(ctx, http.MethodPost, inProject("instances", o.project), in, &out); err != nil {
		return err
	}
	o.env.Done("job %s has begun", out.Job)
	var made oneInstanceJSON
	if err := json.Unmarshal(out.Instance, &made); err != nil {
		return err
	}
	fault := ""
	if !o.noWait {
		fault, err = c.await(ctx, o.env, s, inProject("jobs/"+url.PathEscape(out.Job), o.project), "restoring")
		if err != nil {
			return core.WhenStopped(ctx, err, "job "+out.Job+" goes on; \"slipcover jobs\" shows it")
		}
		var now struct{ Instances []json.RawMessage }
		if err := c.call(ctx, http.MethodGet, inProject("instances", o.project), nil, &now); err != nil {
			return err
		}
		for _, text := range now.Instances {
			var i oneInstanceJSON
			if err := json.Unmarshal(text, &i); err == nil && i.ID == made.ID {
				made, out.Instance = i, text
			}
		}
	}
	switch {
	case fault != "":
		return core.Say(core.ErrProblem, "the instance %s could not be made: %s", core.Clean(o.name), core.Clean(fault))
	case o.env.JSON:
		return core.PrintJSON(o.env.Stdout, out)
	case o.noWait:
		return o.tell("job %s has begun; \"slipcover jobs\" shows it", out.Job)
	}
	l := instanceListJSON{Instances: []oneInstanceJSON{made}}
	return l.print(o.env)
}

type instanceListJSON struct {
	Instances []oneInstanceJSON `json:"instances"`
}

type oneInstanceJSON struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Project   string   `json:"project"`
	Status    string   `json:"status"`
	Up        bool     `json:"up"`
	URL       string   `json:"url"`
	Address   string   `json:"address"`
	Version   string   `json:"version"`
	UsedBytes int64    `json:"used_bytes"`
	Fault     string   `json:"fault"`
	Notes     []string `json:"notes"`
}

func (l *instanceListJSON) print(env *core.Env) error {
	var rows [][]string
	for _, i := range l.Instances {
		state := i.Status
		if i.Status == "ACTIVE" && !i.Up {
			state += ", not answering"
		}
		rows = append(rows, []string{i.ID, i.Name, i.Project, state, cmp.Or(i.URL, i.Address), i.Version,
			core.Size(i.UsedBytes), i.Fault})
	}
	if err := core.Table(env.Stdout, []string{"ID", "NAME", "PROJECT", "STATE", "AT", "COUCHDB", "SIZE", "FAULT"}, rows); err != nil {
		return err
	}
	for _, i := range l.Instances {
		for _, n := range i.Notes {
			fmt.Fprintf(env.Stdout, "note: %s: %s\n", core.Clean(i.Name), core.Clean(n))
		}
	}
	return nil
}
