package restores

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/restore"
)

// history are the options that say whether clients go on where they were.
type history struct{ begin, keep bool }

func (h *history) flags(f *pflag.FlagSet, byDefault string) {
	f.BoolVar(&h.begin, "new-history", false,
		"let replications, _changes followers and mobile clients start over with the databases, so that none misses a change (default: "+byDefault+")")
	f.BoolVar(&h.keep, "keep-history", false,
		"let them go on where they were: right only if nothing was written after the backup")
}

func (h *history) chosen() (restore.History, error) {
	switch {
	case h.begin && h.keep:
		return 0, core.Usage("--new-history and --keep-history contradict each other: name one of them")
	case h.begin:
		return restore.HistoryNew, nil
	case h.keep:
		return restore.HistoryKept, nil
	}
	return restore.HistoryByMoment, nil
}

// tellComesBack says which purged documents come back before the restore writes, when
// there is time to stop it.
func tellComesBack(env *core.Env) func(*restore.ComesBack) {
	return func(c *restore.ComesBack) {
		if !env.JSON {
			fmt.Fprintf(env.Stderr, "slipcover: warning: %s\n", core.Clean(c.String()))
		}
	}
}
