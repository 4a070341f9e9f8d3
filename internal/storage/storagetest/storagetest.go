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
)

// Run runs all checks as tests, each over a Store of its own, which open must
// return empty and which Run closes.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	t.Helper()
	run(t, open, append(probe.Checks(), probe.OfEmpty()...))
}

// few are the checks of RunFew.
var few = []string{"put and get", "range reads", "objects that are not there", "replace", "put if absent", "list order and prefix", "delete", "stat", "large object"}

// RunFew runs those checks that tell whether another way to reach a storage reaches
// it as well, where Run has held the storage against all of them.
func RunFew(t *testing.T, open func(t *testing.T) storage.Store) {
	t.Helper()
	run(t, open, slices.DeleteFunc(probe.Checks(), func(c probe.Contract) bool { return !slices.Contains(few, c.Name) }))
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
