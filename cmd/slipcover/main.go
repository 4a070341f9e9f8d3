// Command slipcover backs up a running Apache CouchDB by its files and brings
// back anything from it.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/slipcover/slipcover/internal/cli"
)

func main() {
	limitMemory()
	os.Exit(cli.Run(context.Background(), cli.SystemEnv(), os.Args[1:]))
}

// limitMemory makes the collector work harder as the heap nears 80 MiB, which
// keeps a backup below 128 MiB in all; what needs more gets it. GOGC and
// GOMEMLIMIT win.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(80 << 20)
	}
}
