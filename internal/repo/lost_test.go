package repo_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

func prune(t *testing.T, s storage.Store, opts repo.PruneOptions) repo.Freed {
	t.Helper()
	r := as(t, s)
	lock, err := r.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	opts.Now = time.Now().Add(1000 * time.Hour)
	freed, err := r.Prune(t.Context(), lock, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return freed
}

// tells reports whether a check names a problem with a backup.
func tells(t *testing.T, r *repo.Repo, id manifest.BackupID) bool {
	t.Helper()
	report, err := r.Check(t.Context(), repo.CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(report.Problems, func(p repo.Problem) bool { return p.Backup == id })
}

// The record of a backup vanishes or is emptied: a check tells, with a key and without,
// and no prune removes what is stored of it, until it is told to.
func TestVanishedRecord(t *testing.T) {
	for _, emptied := range []bool{false, true} {
		for _, which := range []string{"the newest", "an older one", "with locks of an earlier version", "with its manifest", "with all of its own"} {
			if emptied && (which == "with locks of an earlier version" || which == "with all of its own") {
				continue // it looks like one that was given up
			}
			t.Run(fmt.Sprintf("%s, emptied %v", which, emptied), func(t *testing.T) {
				f := newFixture(t)
				r := f.open(t, f.store)
				m := mustBackup(t, r, f.writer, nil, text(1, 1000))
				if which != "the newest" {
					mustBackup(t, r, f.writer, nil, text(2, 1000))
				}
				vanish(t, f.store, m.ID, "record.jsonl", emptied)
				if which == "with its manifest" || which == "with all of its own" {
					vanish(t, f.store, m.ID, "manifest.json.zst.age", false)
				}
				own := 1
				if which == "with all of its own" {
					own = 0
					for _, k := range list(t, f.store, "segments/") {
						if strings.Contains(string(k), string(m.ID)) {
							if err := f.store.Delete(t.Context(), k); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				if which == "with locks of an earlier version" {
					for _, k := range list(t, f.store, "locks/") {
						put(t, f.store, k, bytes.ReplaceAll(get(t, f.store, k), []byte(`,"ended":"made"`), nil))
					}
				}
				if !tells(t, as(t, f.store), m.ID) || !tells(t, r, m.ID) {
					t.Error("a check tells nothing")
				}
				if report, err := r.Check(t.Context(), repo.CheckOptions{}); err != nil || report.Unreferenced > 0 {
					t.Errorf("a check takes what is stored of it for leftovers: %+v, %v", report, err)
				}
				before := len(list(t, f.store, "segments/"))
				for range 2 {
					if freed := prune(t, f.store, repo.PruneOptions{}); !slices.Equal(freed.Lost, []manifest.BackupID{m.ID}) || freed.Segments > 0 {
						t.Errorf("prune: %+v", freed)
					}
				}
				if freed := prune(t, f.store, repo.PruneOptions{Forget: []manifest.BackupID{m.ID}}); !slices.Equal(freed.Forgotten, []manifest.BackupID{m.ID}) || freed.Segments != own {
					t.Errorf("prune that shall forget it: %+v", freed)
				}
				if n := len(list(t, f.store, "segments/")); n != before-own {
					t.Errorf("%d segments are left", n)
				}
				if tells(t, as(t, f.store), m.ID) {
					t.Error("a check still tells")
				}
			})
		}
	}
}

func vanish(t *testing.T, s storage.Store, id manifest.BackupID, name string, emptied bool) {
	t.Helper()
	key := storage.Key(fmt.Sprintf("backups/%s/%s/%s", instance, id, name))
	if emptied {
		put(t, s, key, nil)
	} else if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// A backup that was deleted, and what a run left that failed or died, is no backup whose
// record vanished.
func TestNotVanished(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	deleted := mustBackup(t, r, f.writer, nil, text(1, 1000))
	failed := mustBackup(t, r, f.writer, nil, text(2, 1000))
	died := mustBackup(t, r, f.writer, nil, text(3, 1000))
	mustBackup(t, r, f.writer, nil, text(4, 1000))
	prune(t, f.store, repo.PruneOptions{Remove: []manifest.BackupID{deleted.ID}})
	for id, edit := range map[manifest.BackupID][2]string{
		failed.ID: {`"ended":"made"`, `"ended":"failed"`},
		died.ID:   {`"released":true`, `"released":false`},
	} {
		vanish(t, f.store, id, "record.jsonl", false)
		for _, k := range list(t, f.store, "locks/") {
			if b := get(t, f.store, k); strings.Contains(string(b), string(id)) {
				b = bytes.Replace(b, []byte(edit[0]), []byte(edit[1]), 1)
				if id == died.ID {
					b = bytes.Replace(b, []byte(`,"ended":"made"`), nil, 1)
				}
				put(t, f.store, k, b)
			}
		}
	}
	if tells(t, r, deleted.ID) || tells(t, r, failed.ID) || tells(t, r, died.ID) {
		t.Error("a check tells of a backup that never was, or was deleted")
	}
	if freed := prune(t, f.store, repo.PruneOptions{}); len(freed.Lost) > 0 || freed.Unreferenced != 2 {
		t.Errorf("prune: %+v", freed)
	}
}
