// Package look has the commands that look and change nothing: at repositories, at CouchDB's files, at storages, and at the
// demo.
package look

import (
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// Commands are the commands of the group "Looking", in the order of its help; clusters are further ones below cluster.
func Commands(env *core.Env, g *core.Global, clusters ...*cobra.Command) []*cobra.Command {
	return []*cobra.Command{newPoints(env, g), newCluster(env, g, clusters...), newServe(env, g), newGet(env, g), newDiff(env, g), newChanges(env, g), newFind(env, g), newHistory(env, g), newCheck(env, g), newInspect(env), newProbe(env, g), newDemo(env)}
}
