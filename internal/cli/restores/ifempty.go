package restores

import (
	"fmt"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/restore"
)

// latest is the newest backup, where one's name is asked for.
const latest = "latest"

// checkEmpty looks into the target for --if-empty, before the repository is opened. done
// says that a CouchDB's data is there, and nothing is to be restored. Of an unfinished
// restore of "latest" it returns the backup that this was then.
func (o *restoreOptions) checkEmpty(env *core.Env, ref string) (which string, done bool, err error) {
	if !o.ifEmpty {
		return ref, false, nil
	}
	if o.delta || len(o.databases) > 0 {
		return "", false, core.Usage("--if-empty is for a whole node: leave --delta and --db out")
	}
	to := o.to
	if to == "" && o.plan != "" {
		plan, err := open.Plan(o.plan)
		if err != nil {
			return "", false, err
		}
		for _, n := range plan.Nodes {
			if n.Name == o.asNode {
				to = n.DataDir
			}
		}
	}
	if to == "" {
		return "", false, needsTo()
	}
	found, err := restore.Find(to)
	switch {
	case err != nil:
		return "", false, err
	case found.Complete && env.JSON:
		return "", true, core.PrintJSON(env.Stdout, struct {
			To      string `json:"to"`
			Present bool   `json:"present"`
		}{to, true})
	case found.Complete:
		_, err := fmt.Fprintf(env.Stdout, "%s holds a CouchDB's data already: nothing was restored\n", to)
		return "", true, err
	case ref == latest && found.Backup != "" && (o.Instance == "" || o.Instance == found.Instance):
		o.Instance = found.Instance
		return string(found.Backup), false, nil
	}
	return ref, false, nil
}
