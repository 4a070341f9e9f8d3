package service

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newShipEnable(env *core.Env, g *core.Global) *cobra.Command {
	project, keep := "", ""
	c := &cobra.Command{
		Use:   "enable INSTANCE",
		Short: "Have a server's agent ship an instance",
		Long: `Have the agent of an instance ship it from now on, as "slipcover ship" does, and at each of its starts, whether or not the
server runs. An instance is named by its id, or by its name if no other of the project has it. It is shipped to the repository
of its agent, beside the backups, and from the next backup on if there is none.`,
		Args: core.Arguments(1, 1, "one INSTANCE"),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			in := map[string]any{"enabled": true}
			if cmd.Flags().Changed("keep-moments") {
				in["keep_moments"] = keep
			}
			return c.setShipping(ctx, env, args[0], project, in, "is shipped by its agent from now on")
		})(cmd, args)
	}
	c.Flags().StringVar(&keep, "keep-moments", "", "keep what is shipped of it for a `SPAN`: 36h, 14d, 2w, 3m (months) or 1y (default: as the setting keep_moments of its agent)")
	projectFlag(c.Flags(), &project, "whose instance it is")
	serviceFlags(c.Flags())
	return c
}

func newShipDisable(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "disable INSTANCE",
		Short: "Have a server's agent ship an instance no more; what was shipped stays",
		Long: `Have the agent of an instance ship it no more. What was shipped stays for as long as moments are kept. An agent with the
setting ship goes on.`,
		Args: core.Arguments(1, 1, "one INSTANCE"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return c.setShipping(ctx, env, args[0], project, map[string]any{"enabled": false}, "is shipped no more, unless its agent has the setting ship")
		}),
	}
	projectFlag(c.Flags(), &project, "whose instance it is")
	serviceFlags(c.Flags())
	return c
}

func newShipList(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List how far behind the shipping of a server's instances is, and why",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("instances", project), func(l *shipListJSON) error { return l.print(env) })
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose instances to list (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

// setShipping changes the shipping of an instance and says what that means.
func (c *serviceClient) setShipping(ctx context.Context, env *core.Env, ref, project string, in map[string]any, what string) error {
	id, err := c.findInstance(ctx, ref, project)
	if err != nil {
		return err
	}
	text := "instance " + core.Clean(ref) + " " + what
	type answer struct{ Ship shipJSON }
	return request(ctx, env, c, http.MethodPut, inProject("instances/"+id+"/ship", project), in,
		func(*answer) string { return text },
		func(*answer) error {
			_, err := fmt.Fprintln(env.Stdout, text)
			return err
		})
}

// findInstance returns the id of an instance by its id or its name.
func (c *serviceClient) findInstance(ctx context.Context, ref, project string) (string, error) {
	if _, err := uuid.Parse(ref); err == nil {
		return url.PathEscape(ref), nil
	}
	var l shipListJSON
	if err := c.call(ctx, http.MethodGet, inProject("instances", project), nil, &l); err != nil {
		return "", err
	}
	var found []string
	for _, i := range l.Instances {
		if i.Name == ref {
			found = append(found, i.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", core.Say(core.ErrMissing, "there is no instance %q; \"slipcover instances\" lists them", ref)
	case 1:
		return url.PathEscape(found[0]), nil
	}
	return "", core.Usage("%d instances are called %q: name one by its id, such as %s", len(found), ref, found[0])
}

type shipListJSON struct {
	Instances []struct {
		ID      string    `json:"id"`
		Name    string    `json:"name"`
		Project string    `json:"project"`
		Ship    *shipJSON `json:"ship"`
	} `json:"instances"`
}

type shipJSON struct {
	Enabled     bool      `json:"enabled"`
	KeepMoments string    `json:"keep_moments"`
	Reported    bool      `json:"reported"`
	LagSeconds  float64   `json:"lag_seconds"`
	LagBytes    int64     `json:"lag_bytes"`
	Shipped     time.Time `json:"shipped"`
	WindowFrom  time.Time `json:"window_from"`
	Error       string    `json:"error"`
}

func (l *shipListJSON) print(env *core.Env) error {
	var rows [][]string
	for _, i := range l.Instances {
		s := i.Ship
		if s == nil {
			rows = append(rows, []string{i.Name, i.Project, "not shipped", "", "", "", ""})
			continue
		}
		keeps := cmp.Or(s.KeepMoments, "as its agent says")
		rows = append(rows, []string{i.Name, i.Project, s.state(), moment(s.WindowFrom), moment(s.Shipped), keeps, s.Error})
	}
	return core.Table(env.Stdout, []string{"INSTANCE", "PROJECT", "STATE", "ANY MOMENT FROM (UTC)", "TO", "KEEPS", "ERROR"}, rows)
}

// state says how far behind it is.
func (s *shipJSON) state() string {
	switch {
	case !s.Reported:
		return "not said by its agent"
	case s.Shipped.IsZero():
		return "not yet"
	case s.LagSeconds == 0:
		return "up to date"
	}
	return fmt.Sprintf("%s behind, %s", lag(s.LagSeconds), core.Size(s.LagBytes))
}
