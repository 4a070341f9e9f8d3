// Command slipcover backs up a running Apache CouchDB by its files and brings
// back anything from it.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
)

func main() {
	limitMemory()
	os.Exit(cli.Run(context.Background(), core.SystemEnv(), os.Args[1:]))
}

// limitMemory makes the collector run at half again of what is in use, which
// keeps a backup below 128 MiB in all, and work harder near 200 MiB, which only
// some 100,000 files reach. A lower limit would have it run all the time then.
// GOGC and GOMEMLIMIT win.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(200 << 20)
	}
}
