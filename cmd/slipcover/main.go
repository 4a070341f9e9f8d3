// Command slipcover backs up a running Apache CouchDB by its files and brings
// back anything from it.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
)

func main() {
	limitMemory()
	os.Exit(cli.Run(context.Background(), core.SystemEnv(), os.Args[1:]))
}

// leastLimit is the memory of Go's that a backup, a restore or a verification needs, which
// keeps each of them below 128 MiB in all.
const leastLimit = 92 << 20

// limitMemory makes the collector run at half again of what is in use, and work harder
// near the limit. GOGC and GOMEMLIMIT win.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(leastLimit)
		follow(leastLimit)
	}
}

// follow raises the limit after a collection if more is in use than fits below it, as
// with 100,000 files: else the collector would run all the time then.
func follow(limit int64) {
	runtime.AddCleanup(new([64]byte), func(limit int64) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		n := int64(live[0].Value.Uint64())
		if n += max(n/8, n-64<<20); n > limit {
			limit = n
			debug.SetMemoryLimit(limit)
		}
		follow(limit)
	}, limit)
}
