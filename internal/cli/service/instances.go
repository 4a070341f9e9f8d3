package service

import (
	"cmp"
	"context"
	"fmt"
	"time"

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
	return c
}

type instanceListJSON struct {
	Instances []struct {
		ID        string    `json:"id"`
		Name      string    `json:"name"`
		Project   string    `json:"project"`
		Status    string    `json:"status"`
		Up        bool      `json:"up"`
		URL       string    `json:"url"`
		Address   string    `json:"address"`
		Version   string    `json:"version"`
		UsedBytes int64     `json:"used_bytes"`
		Fault     string    `json:"fault"`
		Notes     []string  `json:"notes"`
		Created   time.Time `json:"created"`
	} `json:"instances"`
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
