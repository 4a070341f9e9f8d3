package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newAgents(env *Env, g *globalOptions) *cobra.Command {
	c := &cobra.Command{Use: "agents", Short: "List and remove the agents of a server"}
	asGroup(c)
	c.AddCommand(newAgentsList(env, g), newAgentsRemove(env, g))
	return c
}

func newAgentsList(env *Env, g *globalOptions) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List the agents by name, with their instances",
		Args:  arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *settings, _ []string) error {
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
	Instances []struct {
		Name string `json:"name"`
		Up   bool   `json:"up"`
	} `json:"instances"`
}

func (l *agentListJSON) print(env *Env) error {
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
		rows = append(rows, []string{a.ID, a.Name, a.Project, state, moment(a.Seen), strings.TrimPrefix(a.Version, "slipcover "), a.Address, strings.Join(names, ", ")})
	}
	return table(env.Stdout, []string{"ID", "NAME", "PROJECT", "STATE", "SEEN (UTC)", "VERSION", "ADDRESS", "INSTANCES"}, rows)
}

func newAgentsRemove(env *Env, g *globalOptions) *cobra.Command {
	yes := false
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Take an agent out of the service",
		Long: `Take an agent out of the service: its credentials are worth nothing from now on, and its instances and their
schedules are let go. CouchDB and its files stay as they are, and so do the backups. At a terminal it asks first;
otherwise --yes is needed.`,
		Args: arguments(1, 1, "one agent's ID"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *settings, args []string) error {
			return runAgentsRemove(ctx, env, c, args[0], yes)
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "remove it without asking")
	serviceFlags(c.Flags())
	return c
}

func runAgentsRemove(ctx context.Context, env *Env, c *serviceClient, id string, yes bool) error {
	if !yes {
		if !env.StdinTerminal {
			return usage("removing an agent needs --yes where nobody can be asked")
		}
		ok, err := confirm(env, fmt.Sprintf("Remove agent %s, with its instances and their schedules, from the service?", clean(id)))
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was removed")
		}
	}
	return c.remove(ctx, env, "agents/"+url.PathEscape(id), id, "removed", "agent "+clean(id)+" is removed")
}
