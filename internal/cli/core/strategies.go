package core

import (
	"fmt"
	"strings"
)

// A strategy is chosen by a namespace and a name, as in Trove. An operator's old
// [couchdb] section names Trove's own, and means our physical strategy.
const (
	StrategyName = "CouchDBBackup"
	Namespace    = "slipcover.physical"

	troveBackup  = "trove.guestagent.strategies.backup.experimental.couchdb_impl"
	troveRestore = "trove.guestagent.strategies.restore.experimental.couchdb_impl"
)

type strategyKey struct{ namespace, name string }

// strategies is the registry: what there is for each job.
func strategies(job string) []strategyKey {
	own := strategyKey{Namespace, StrategyName}
	if job == "restore" {
		return []strategyKey{own, {troveRestore, StrategyName}}
	}
	return []strategyKey{own, {troveBackup, StrategyName}}
}

// CheckStrategy reports a strategy that isn't in the registry for a job, "backup"
// or "restore". All that are in it are the physical one: copying files.
func CheckStrategy(job, namespace, name string) error {
	var have []string
	for _, k := range strategies(job) {
		if k.namespace == namespace && k.name == name {
			return nil
		}
		have = append(have, fmt.Sprintf("%s in %s", k.name, k.namespace))
	}
	return Usage("there is no %s strategy %q in namespace %q; there is %s", job, name, namespace,
		strings.Join(have, ", and "))
}
