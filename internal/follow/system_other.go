//go:build !linux

package follow

import "time"

// isNetwork isn't asked for anything where nothing is told anyway.
func isNetwork(string) bool { return false }

// identOf is only asked for folders that are watched.
func identOf(string) ident { return ident{} }

// stopwatch returns a function that says the time since, twice: it stands for the
// processor time, too, which it is never less than.
func stopwatch() func() (cpu, took time.Duration) {
	start := time.Now()
	return func() (cpu, took time.Duration) {
		took = time.Since(start)
		return took, took
	}
}
