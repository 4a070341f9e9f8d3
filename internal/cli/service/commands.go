// Package service has the commands of the service: the server and the agents, and those that ask a server.
package service

import (
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// Commands are the commands of the group "The service", in the order of its help.
func Commands(env *core.Env, g *core.Global) []*cobra.Command {
	return []*cobra.Command{
		newServer(env, g), newAgent(env, g), newAgents(env, g), newStatus(env, g), newInstances(env, g), newTokens(env, g),
		newSchedule(env, g), newSets(env, g), newSpace(env, g), newDamage(env, g), newContents(env, g), newJobs(env, g), newAudit(env, g), newProve(env, g), newPin(env, g), newUnpin(env, g), newServes(env, g),
	}
}
