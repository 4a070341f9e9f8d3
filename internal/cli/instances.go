package cli

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"
)

func newInstances(env *Env, g *globalOptions) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "instances",
		Short: "List the CouchDB nodes of a server, and where those are that it made",
		Args:  arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *settings, _ []string) error {
			return show(ctx, env, c, inProject("instances", project), func(l *instanceListJSON) error { return l.print(env) })
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
		Created   time.Time `json:"created"`
	} `json:"instances"`
}

func (l *instanceListJSON) print(env *Env) error {
	var rows [][]string
	for _, i := range l.Instances {
		state := i.Status
		if i.Status == "ACTIVE" && !i.Up {
			state += ", not answering"
		}
		rows = append(rows, []string{i.ID, i.Name, i.Project, state, cmp.Or(i.URL, i.Address), i.Version, size(i.UsedBytes), i.Fault})
	}
	return table(env.Stdout, []string{"ID", "NAME", "PROJECT", "STATE", "AT", "COUCHDB", "SIZE", "FAULT"}, rows)
}
