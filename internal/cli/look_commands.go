package cli

import "github.com/spf13/cobra"

// lookCommands are the commands of the group "Looking", in the order of its help.
func lookCommands(env *Env, g *globalOptions) []*cobra.Command {
	return []*cobra.Command{newCheck(env, g), newInspect(env), newProbe(env, g), newDemo(env)}
}
