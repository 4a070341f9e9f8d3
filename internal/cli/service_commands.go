package cli

import "github.com/spf13/cobra"

// serviceCommands are the commands of the group "The service", in the order of its help.
func serviceCommands(env *Env, g *globalOptions) []*cobra.Command {
	return []*cobra.Command{
		newServer(env, g), newAgent(env, g), newAgents(env, g), newInstances(env, g), newTokens(env, g), newSchedule(env, g), newJobs(env, g), newProve(env, g),
	}
}
