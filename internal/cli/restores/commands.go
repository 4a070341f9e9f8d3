// Package restores has the commands that get something back: files, an instance made of them,
// or documents and databases in a living server.
package restores

import (
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// Commands are the commands of the group "Getting back", in the order of its help; ask is how one asks a server.
func Commands(env *core.Env, g *core.Global, ask core.AskTogether) []*cobra.Command {
	return []*cobra.Command{newRestore(env, g), newCreate(env, g), newRestoreDoc(env, g), newRestoreDB(env, g, ask), newRestoreIndex(env, g), newRestoreUnion(env, g), newRestoreCheck(env, g)}
}
