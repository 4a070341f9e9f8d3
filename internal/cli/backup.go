package cli

import (
	"github.com/spf13/cobra"
)

func newBackup(env *Env, g *globalOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "Make, list, show, verify, pin and delete backups",
	}
	asGroup(c)
	c.AddCommand(newBackupCreate(env, g), newBackupList(env, g), newBackupShow(env, g), newBackupVerify(env, g),
		newBackupPin(env, g), newBackupUnpin(env, g), newBackupDelete(env, g))
	return c
}
