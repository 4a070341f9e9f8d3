package service

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newSpace(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "space",
		Short: "Show how much room the backups of a server's instances take, and what retention frees next",
		Long: `Show how much room the backups of a server's instances take, what was added within a week, and what retention frees next. The
server's catalog says so: nothing is read of the backups. Copies in further repositories, and what is shipped between
backups, are not in it.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("space", project), func(s *spaceJSON) error { return s.print(env) })
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose backups to count (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

type spaceJSON struct {
	Space struct {
		StoredBytes int64 `json:"stored_bytes"`
		SizeBytes   int64 `json:"size_bytes"`
		AddedBytes  int64 `json:"added_7d_bytes"`
		Backups     int   `json:"backups"`
		Goes        int   `json:"goes"`
		FreesBytes  int64 `json:"frees_bytes"`
		Instances   []struct {
			Name        string `json:"name"`
			StoredBytes int64  `json:"stored_bytes"`
			SizeBytes   int64  `json:"size_bytes"`
			AddedBytes  int64  `json:"added_7d_bytes"`
			Backups     int    `json:"backups"`
		} `json:"instances"`
	} `json:"space"`
}

func (s *spaceJSON) print(env *core.Env) error {
	var rows [][]string
	for _, i := range s.Space.Instances {
		rows = append(rows, []string{i.Name, fmt.Sprint(i.Backups), core.Size(i.StoredBytes), core.Size(i.SizeBytes), core.Size(i.AddedBytes)})
	}
	if err := core.Table(env.Stdout, []string{"INSTANCE", "BACKUPS", "STORED", "AS RESTORED", "ADDED IN 7 DAYS"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.Stdout, "%s stored by %s; retention deletes %s next, about %s\n", core.Size(s.Space.StoredBytes), core.Count(s.Space.Backups, "backup"),
		core.Count(s.Space.Goes, "backup"), core.Size(s.Space.FreesBytes))
	return err
}
