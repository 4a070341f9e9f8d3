package service

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

// NewClusterRestore is the command that has agents restore a plan, which stands below cluster.
func NewClusterRestore(env *core.Env, g *core.Global) *cobra.Command {
	var plan, project string
	var pairs []string
	noWait, replace := false, false
	c := &cobra.Command{
		Use:   "restore --plan FILE --agents NODE=AGENT,…",
		Short: "Have the agents of the new nodes restore a plan together",
		Long: `Have a server's agents restore a plan that "slipcover cluster plan" made, each the part of its node, into the data directory
that the node's own settings name:

  slipcover cluster restore --plan plan.yml --agents couchdb@db4.example=db4,couchdb@db5.example=db5,couchdb@db6.example=db6

First all nodes are asked whether they can: CouchDB isn't running, the directory is empty or has this plan's unfinished restore, there
is room, and a key reads the backups. If one can't, none writes anything, and it is told why. The same command goes on with what was stopped or
failed; a node that was finished stays as it is. Each agent must have accept_restores: true in its own settings, a key that reads
(identity_file), and the repository of the plan. With --replace, which needs accept_writes: true as well, a data directory with something in it gets
another name, DIR.before-TIME, and what is restored its own: there must be room for both. Then start CouchDB on the nodes and run "slipcover restore-check".`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *core.Settings, _ []string) error {
			if plan == "" || len(pairs) == 0 {
				return core.Usage("cluster restore needs --plan with the plan, and --agents with the agent of each of its nodes")
			}
			text, err := os.ReadFile(plan)
			if err != nil {
				return core.FileError("read the plan", err)
			}
			agents, err := core.Pairs("--agents", pairs)
			if err != nil {
				return err
			}
			return c.together(ctx, env, s, core.Together{Plan: string(text), Agents: agents, Project: project, Replace: replace, NoWait: noWait})
		}),
	}
	f := c.Flags()
	f.StringVar(&plan, "plan", "", "`FILE` with the plan")
	f.StringSliceVar(&pairs, "agents", nil, "the agent of each node of the plan: `NODE=AGENT`")
	f.BoolVar(&replace, "replace", false, "in the place of what is in the nodes' data directories, which is kept beside them")
	f.BoolVar(&noWait, "no-wait", false, "don't wait for the end")
	projectFlag(f, &project, "whose agents they are")
	core.ProgressFlag(f)
	serviceFlags(f)
	return c
}

// Together has a server's agents restore together, with the settings of any command.
func Together(ctx context.Context, env *core.Env, s *core.Settings, t core.Together) error {
	c, err := newServiceClient(s, "")
	if err != nil {
		return err
	}
	if c.token, err = callerToken(env, s); err != nil {
		return err
	}
	return c.together(ctx, env, s, t)
}

type togetherRequest struct {
	Plan     string            `json:"plan"`
	Agents   map[string]string `json:"agents"`
	Database string            `json:"database,omitempty"`
	As       string            `json:"as,omitempty"`
	Replace  bool              `json:"replace,omitempty"`
}

type togetherJSON struct {
	Restore struct {
		ID       string             `json:"id"`
		Cluster  string             `json:"cluster"`
		Database string             `json:"database,omitempty"`
		As       string             `json:"as,omitempty"`
		Replace  bool               `json:"replace,omitempty"`
		State    job.State          `json:"state"`
		Step     job.Step           `json:"step"`
		Attempt  int                `json:"attempt"`
		Fault    string             `json:"fault,omitempty"`
		Nodes    []togetherNodeJSON `json:"nodes"`
		Created  time.Time          `json:"created"`
		Updated  time.Time          `json:"updated"`
		Ended    *time.Time         `json:"ended,omitempty"`
	} `json:"restore"`
}

type togetherNodeJSON struct {
	Name     string       `json:"name"`
	Agent    string       `json:"agent"`
	State    job.State    `json:"state"`
	Fault    string       `json:"fault,omitempty"`
	Progress core.Reading `json:"progress"`
	Problems []string     `json:"problems"`
	Notes    []string     `json:"notes"`
}

func (c *serviceClient) together(ctx context.Context, env *core.Env, s *core.Settings, t core.Together) error {
	began := time.Now()
	out := &togetherJSON{}
	q := togetherRequest{Plan: t.Plan, Agents: t.Agents, Database: t.Database, As: t.As, Replace: t.Replace}
	if err := c.call(ctx, http.MethodPost, inProject("restores", t.Project), q, out); err != nil {
		return err
	}
	env.Done("the restore %s has begun", out.Restore.ID)
	if t.NoWait {
		if env.JSON {
			return core.PrintJSON(env.Stdout, out)
		}
		_, err := fmt.Fprintf(env.Stdout, "the restore %s has begun; the same command goes on to its end\n", out.Restore.ID)
		return err
	}
	if err := c.awaitTogether(ctx, env, s, inProject("restores/"+url.PathEscape(out.Restore.ID), t.Project), out); err != nil {
		return core.WhenStopped(ctx, err, "the agents go on, and the same command waits for them")
	}
	env.Done("the restore %s has ended: %s", out.Restore.ID, out.Restore.State)
	var err error
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = out.print(env.Stdout, time.Since(began))
	}
	if err != nil {
		return err
	}
	if out.Restore.State == job.Failed {
		return fmt.Errorf("the restore failed: %s", core.Clean(cmp.Or(out.Restore.Fault, "the server does not say why")))
	}
	for _, n := range out.Restore.Nodes {
		if len(n.Problems) > 0 {
			return core.Say(core.ErrProblem, "%s is not as it was backed up: %s", n.Name, core.Clean(n.Problems[0]))
		}
	}
	return nil
}

func (t *togetherJSON) print(w io.Writer, took time.Duration) error {
	r := &t.Restore
	var rows [][]string
	for _, n := range r.Nodes {
		rows = append(rows, []string{n.Name, n.Agent, string(n.State), core.Clean(n.Fault)})
	}
	if err := core.Table(w, []string{"NODE", "AGENT", "STATE", "FAULT"}, rows); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		for _, p := range n.Problems {
			fmt.Fprintf(w, "problem on %s: %s\n", n.Name, core.Clean(p))
		}
		for _, note := range n.Notes {
			fmt.Fprintf(w, "note of %s: %s\n", n.Name, core.Clean(note))
		}
	}
	if r.State != job.Done {
		return nil
	}
	what := "restored the cluster " + core.Clean(r.Cluster)
	if r.Database != "" {
		what = "restored " + core.Clean(r.As) + " by files; all nodes answer with their shards"
	}
	_, err := fmt.Fprintf(w, "%s, in %s\n", what, core.Took(took))
	return err
}

// awaitTogether reads a restore into out until it has ended.
func (c *serviceClient) awaitTogether(ctx context.Context, env *core.Env, s *core.Settings, path string, out *togetherJSON) error {
	return poll(ctx, env, s, "restoring", func() (sum core.Reading, ended bool, err error) {
		now := togetherJSON{}
		if err := c.call(ctx, http.MethodGet, path, nil, &now); err != nil {
			return sum, false, err
		}
		*out = now
		for _, n := range now.Restore.Nodes {
			sum = plus(sum, n.Progress)
		}
		return sum, now.Restore.State.Ended(), nil
	})
}
