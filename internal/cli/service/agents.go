package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newAgents(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{Use: "agents", Short: "List and remove the agents of a server"}
	core.AsGroup(c)
	c.AddCommand(newAgentsList(env, g), newAgentsRemove(env, g))
	return c
}

func newAgentsList(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List the agents by name, with their instances",
		Long: `List the agents by name, with their instances. ACCEPTS says what the node's own settings let a server write there: restores
(accept_restores), documents that are put back (accept_writes), or neither; "unknown" is of an agent of a version that doesn't say.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("agents", project), func(l *agentListJSON) error { return l.print(env) })
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose agents to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

type agentListJSON struct {
	Agents []agentJSON `json:"agents"`
}

type agentJSON struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Project   string    `json:"project"`
	Online    bool      `json:"online"`
	Seen      time.Time `json:"seen"`
	Version   string    `json:"version"`
	Address   string    `json:"address"`
	Restores  *bool     `json:"accepts_restores"`
	Writes    *bool     `json:"accepts_writes"`
	Instances []struct {
		Name string `json:"name"`
		Up   bool   `json:"up"`
	} `json:"instances"`
}

func (l *agentListJSON) print(env *core.Env) error {
	var rows [][]string
	for _, a := range l.Agents {
		state := "offline"
		if a.Online {
			state = "online"
		}
		var names []string
		for _, i := range a.Instances {
			name := i.Name
			if !i.Up {
				name += " (down)"
			}
			names = append(names, name)
		}
		rows = append(rows, []string{a.ID, a.Name, a.Project, state, moment(a.Seen),
			strings.TrimPrefix(a.Version, "slipcover "), a.Address, a.accepts(), strings.Join(names, ", ")})
	}
	return core.Table(env.Stdout, []string{"ID", "NAME", "PROJECT", "STATE", "SEEN (UTC)", "VERSION", "ADDRESS", "ACCEPTS",
		"INSTANCES"}, rows)
}

// accepts names what the node's settings let a server write there.
func (a *agentJSON) accepts() string {
	if a.Restores == nil && a.Writes == nil {
		return "unknown"
	}
	var what []string
	if a.Restores != nil && *a.Restores {
		what = append(what, "restores")
	}
	if a.Writes != nil && *a.Writes {
		what = append(what, "writes")
	}
	return cmp.Or(strings.Join(what, ", "), "neither")
}

func newAgentsRemove(env *core.Env, g *core.Global) *cobra.Command {
	yes := false
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Take an agent out of the service",
		Long: `Take an agent out of the service. Its credentials stop working at once, and the service forgets its instances and their
schedules. CouchDB, its files and the backups stay as they are. At a terminal it asks first; otherwise --yes is needed.`,
		Args: core.Arguments(1, 1, "one agent's ID"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return runAgentsRemove(ctx, env, c, args[0], yes)
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "remove it without asking")
	serviceFlags(c.Flags())
	return c
}

func runAgentsRemove(ctx context.Context, env *core.Env, c *serviceClient, id string, yes bool) error {
	if !yes {
		if !env.StdinTerminal {
			return core.Usage("removing an agent needs --yes, since there is nobody to ask")
		}
		ok, err := core.Confirm(env, fmt.Sprintf("Remove agent %s, with its instances and their schedules, from the service?", core.Clean(id)))
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was removed")
		}
	}
	return c.remove(ctx, env, "agents/"+url.PathEscape(id), id, "removed", "agent "+core.Clean(id)+" is removed")
}
