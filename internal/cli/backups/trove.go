package backups

import (
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// The commands in this file are those of cli's others under the names that
// Trove's client gives them.

func newTroveCreate(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupCreateOptions{}
	c := &cobra.Command{
		Use:   "backup-create INSTANCE NAME",
		Short: "backup create --instance INSTANCE --name NAME",
		Args:  core.Arguments(2, 2, "INSTANCE and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("instance") && o.Instance != args[0] {
				return core.Usage("the instance is given twice: %q and --instance %q", args[0], o.Instance)
			}
			if err := cmd.Flags().Set("instance", args[0]); err != nil {
				return err
			}
			o.name = args[1]
			return o.run(cmd, env, g)
		},
	}
	o.flagsButName(c.Flags())
	c.Flags().Bool("incremental", false, "accepted and the default: only what is new is stored; --full is the other way")
	return c
}

func newTroveList(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupListOptions{}
	c := &cobra.Command{
		Use:   "backup-list",
		Short: "backup list",
		Args:  core.Arguments(0, 0, ""),
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd, env, g) },
	}
	o.Flags(c.Flags(), "whose backups to list (default: all)")
	return c
}

func newTroveShow(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupShowOptions{}
	c := &cobra.Command{
		Use:   "backup-show ID",
		Short: "backup show ID",
		Args:  core.Arguments(1, 1, "one backup's ID, name, or \"latest\""),
		RunE:  func(cmd *cobra.Command, args []string) error { return o.run(cmd, env, g, args[0]) },
	}
	o.bind(c)
	return c
}

func newTroveDelete(env *core.Env, g *core.Global) *cobra.Command {
	o := &backupDeleteOptions{}
	c := &cobra.Command{
		Use:   "backup-delete ID",
		Short: "backup delete ID",
		Args:  core.Arguments(1, 1, "one backup's ID"),
		RunE:  func(cmd *cobra.Command, args []string) error { return o.run(cmd, env, g, args) },
	}
	o.bind(c)
	return c
}
