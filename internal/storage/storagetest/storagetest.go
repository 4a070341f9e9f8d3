// Package storagetest runs the contract of storage.Store, the checks of
// storage/probe, as tests. What they can't see, because it needs a power cut or a
// full disk, is for the tests of each driver.
package storagetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/probe"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Run runs all checks as tests, each over a Store of its own, which open must
// return empty and which Run closes. With -short, as for the race detector, it runs
// those that have many at work.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	t.Helper()
	if testing.Short() {
		run(t, open, named(concurrent))
		return
	}
	run(t, open, all())
}

func all() []probe.Contract { return append(probe.Checks(), probe.OfEmpty()...) }

// named returns the checks of these names.
func named(names []string) []probe.Contract {
	return slices.DeleteFunc(all(), func(c probe.Contract) bool { return !slices.Contains(names, c.Name) })
}

// concurrent are the checks that have many at work.
var concurrent = []string{"put and get", "replace is atomic to readers", "put if absent, concurrently", "list beside changes",
	"cancel in the middle", "large object", "put and delete, concurrently", "mixed load"}

// few are the checks of RunFew.
var few = []string{"put and get", "range reads", "objects that are not there", "replace", "put if absent", "list order and prefix", "delete", "stat", "large object", "list of everything"}

// RunFew runs those checks that tell whether another way to reach a storage reaches
// it as well, where Run has held the storage against all of them, and the checks named
// also, for which that way matters. In a soak it is Run.
func RunFew(t *testing.T, open func(t *testing.T) storage.Store, also ...string) {
	t.Helper()
	if testenv.Soak() {
		Run(t, open)
		return
	}
	for _, name := range also {
		if !slices.ContainsFunc(all(), func(c probe.Contract) bool { return c.Name == name }) {
			t.Errorf("there is no check %q", name)
		}
	}
	names := append(slices.Clone(few), also...)
	if testing.Short() {
		names = []string{"put and get", "large object"}
	}
	run(t, open, named(names))
}

func run(t *testing.T, open func(t *testing.T) storage.Store, checks []probe.Contract) {
	t.Helper()
	for _, c := range checks {
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			store := open(t)
			if err := c.Do(t.Context(), store, probe.Options{Prefix: "test", RetainFor: 3 * time.Second}); err != nil {
				t.Error(err)
			}
			if err := probe.Empty(t.Context(), store, ""); err != nil {
				t.Errorf("remove what is left: %v", err)
			}
			if err := store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}
