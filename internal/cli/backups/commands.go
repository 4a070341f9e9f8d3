// Package backups has the commands that make backups and keep them: repositories and their keys, the backups in them,
// copies, retention and locks, and those of them that have Trove's names too.
package backups

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// ClusterBackup asks a server to back up all nodes of a cluster.
type ClusterBackup interface {
	// Flags adds the flags that go with it, and returns their names.
	Flags(f *pflag.FlagSet) []string
	Run(cmd *cobra.Command, cluster, name, description string) error
}

// Commands are the commands of the group "Backing up", in the order of its help.
func Commands(env *core.Env, g *core.Global, c ClusterBackup) []*cobra.Command {
	return []*cobra.Command{newInit(env, g), newKey(env, g), newBackup(env, g, c), newCopy(env, g), newPrune(env, g),
		newLock(env, g)}
}

// TroveCommands are those that have the names of Trove's client.
func TroveCommands(env *core.Env, g *core.Global) []*cobra.Command {
	return []*cobra.Command{newTroveCreate(env, g), newTroveList(env, g), newTroveShow(env, g), newTroveDelete(env, g)}
}
