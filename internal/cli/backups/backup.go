package backups

import (
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newBackup(env *core.Env, g *core.Global, of ClusterBackup) *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "Make, list, show, verify, pin and delete backups",
	}
	core.AsGroup(c)
	c.AddCommand(newBackupCreate(env, g, of), newBackupList(env, g), newBackupShow(env, g), newBackupVerify(env, g),
		newBackupPin(env, g), newBackupUnpin(env, g), newBackupDelete(env, g))
	return c
}
