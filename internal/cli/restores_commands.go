package cli

import "github.com/spf13/cobra"

// restoresCommands are the commands of the group "Getting back", in the order of its help.
func restoresCommands(env *Env, g *globalOptions) []*cobra.Command {
	return []*cobra.Command{newRestore(env, g), newCreate(env, g)}
}
