package repo_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// unlisted is a storage whose listings show no object with part in its key.
type unlisted struct {
	storage.Store
	part string
}

func (s unlisted) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.Store.List(ctx, prefix, func(i storage.Info) error {
		if strings.Contains(string(i.Key), s.part) {
			return nil
		}
		return fn(i)
	})
}

// Of each backup it is told whether what restoring it needs is stored: also of those
// that need the segments of others, and not of those that a listing doesn't show yet.
func TestIncomplete(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	a := mustBackup(t, r, f.writer, nil, text(1, 1000))
	b := mustBackup(t, r, f.writer, a, text(2, 1000))
	c := mustBackup(t, r, f.writer, nil, text(3, 1000))
	recs, _, err := r.List(t.Context(), instance)
	if err != nil {
		t.Fatal(err)
	}
	tells := func(s storage.Store, want map[manifest.BackupID]string) {
		t.Helper()
		got, err := as(t, s).Incomplete(t.Context(), instance, recs)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			if what := got[rec.ID]; (what == "") != (want[rec.ID] == "") || !strings.Contains(what, want[rec.ID]) {
				t.Errorf("%s: %q, want %q", rec.ID, what, want[rec.ID])
			}
		}
	}
	tells(f.store, nil)
	tells(unlisted{f.store, "segments/"}, nil)
	tells(unlisted{f.store, "manifest."}, nil)

	key := list(t, f.store, fmt.Sprintf("segments/%s/%s/", instance, a.ID))[0]
	whole := get(t, f.store, key)
	for n, what := range map[int]string{len(whole) - 1: "bytes together, not", 0: "less than any"} {
		put(t, f.store, key, whole[:n])
		tells(f.store, map[manifest.BackupID]string{a.ID: what, b.ID: what})
		tells(unlisted{f.store, "segments/"}, map[manifest.BackupID]string{a.ID: what, b.ID: what})
	}
	if err := f.store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	vanish(t, f.store, c.ID, "manifest.json.zst.age", false)
	tells(f.store, map[manifest.BackupID]string{a.ID: "are missing", b.ID: "are missing", c.ID: "its manifest is missing"})
	vanish(t, f.store, c.ID, "manifest.json.zst.age", true)
	tells(f.store, map[manifest.BackupID]string{a.ID: "are missing", b.ID: "are missing", c.ID: "its manifest has 0 bytes"})
}
