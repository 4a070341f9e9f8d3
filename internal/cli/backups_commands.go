package cli

import "github.com/spf13/cobra"

// backupsCommands are the commands of the group "Backing up", in the order of its help.
func backupsCommands(env *Env, g *globalOptions) []*cobra.Command {
	return []*cobra.Command{newInit(env, g), newKey(env, g), newBackup(env, g), newCopy(env, g), newPrune(env, g), newLock(env, g)}
}

// troveCommands are those that have the names of Trove's client.
func troveCommands(env *Env, g *globalOptions) []*cobra.Command {
	return []*cobra.Command{newTroveCreate(env, g), newTroveList(env, g), newTroveShow(env, g), newTroveDelete(env, g)}
}
