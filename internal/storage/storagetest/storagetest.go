// Package storagetest runs the contract of storage.Store, the checks of
// storage/probe, as tests. What they can't see, because it needs a power cut or a
// full disk, is for the tests of each driver.
package storagetest

import (
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
	for _, c := range append(probe.Checks(), probe.OfEmpty()...) {
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
