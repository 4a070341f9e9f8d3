package backup_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// byClock makes the run one of a node whose clock shows noon of a day.
func byClock(t *testing.T, day string) func(*backup.Options) {
	t.Helper()
	at, err := time.Parse("2006-01-02 15", day+" 12")
	if err != nil {
		t.Fatal(err)
	}
	u := uuid.Must(uuid.NewV7())
	for i := range 6 {
		u[i] = byte(at.UnixMilli() >> (8 * (5 - i)))
	}
	return func(o *backup.Options) { o.ID, o.Now = manifest.BackupID(u.String()), func() time.Time { return at } }
}

// Copies catch up with what was made after the newest that is there, though that one's
// clock was ahead, or later ones' behind: as the locks tell, and without them as the
// records do.
func TestCopiesCatchUp(t *testing.T) {
	t.Parallel()
	for _, locks := range []bool{true, false} {
		a := newEnv(t)
		b := a.second()
		c := &backup.Copier{From: open(t, a.store), To: open(t, b.store), StateDir: a.state}
		backUp := func(day string) manifest.BackupID {
			return a.run(onNode(t, a.store), byClock(t, day)).Record.ID
		}
		catchUp := func(must manifest.BackupID) {
			t.Helper()
			if err := c.Newer(t.Context(), "node1", must); err != nil {
				t.Fatal(err)
			}
		}
		backUp("2026-11-01") // B is still empty, and does not get it
		want := []manifest.BackupID{backUp("2099-01-01")}
		catchUp(want[0])
		want = append(want, backUp("2026-11-03"), backUp("1970-01-02"))
		if !locks {
			removeLocks(t, a.store)
		}
		want = append(want, backUp("2026-11-04"))
		catchUp(want[3])
		got, _, err := c.To.List(t.Context(), "node1")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(rec *manifest.Record, id manifest.BackupID) bool { return rec.ID == id }) {
			t.Errorf("with locks %v: %d backups were copied, want %d: %v", locks, len(got), len(want), got)
		}
		want = append(want, backUp("2026-11-05"))
		catchUp("")
		if got, _, err := c.To.List(t.Context(), "node1"); err != nil || len(got) != len(want) || len(c.Done) != len(want) {
			t.Errorf("with locks %v: after another one %d backups are there and %d were sent, want %d (%v)", locks, len(got), len(c.Done), len(want), err)
		}
	}
}

func removeLocks(t *testing.T, s storage.Store) {
	t.Helper()
	var keys []storage.Key
	if err := s.List(t.Context(), "locks/", func(i storage.Info) error {
		keys = append(keys, i.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := storage.DeleteAll(t.Context(), s, keys); err != nil {
		t.Fatal(err)
	}
}

// A later state is later by the order of the backups, and not by their ids.
func TestAdoptNeedsNoClock(t *testing.T) {
	t.Parallel()
	a := newEnv(t)
	b := a.second()
	first := a.run(onNode(t, a.store, b.store), byClock(t, "2099-01-01"))
	handOver(t, a, b, first.Record)
	later := b.run(onNode(t, b.store), byClock(t, "1970-01-02"))
	handOver(t, a, b, first.Record)
	if third := b.run(onNode(t, b.store), byClock(t, "2026-11-01")); third.Record.Parent != later.Record.ID {
		t.Errorf("built on %q", third.Record.Parent)
	}
}

// Without a state the newest backup in the repository is the one that was made last.
func TestNoStateBuildsOnTheLast(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run(byClock(t, "2099-01-01"))
	last := e.run(byClock(t, "1970-01-02"))
	e.state = t.TempDir()
	rec := e.run(byClock(t, "2026-11-01")).Record
	if rec.Parent != last.Record.ID {
		t.Errorf("built on %q, want %q", rec.Parent, last.Record.ID)
	}
	if found, err := e.repo(e.store).Find(t.Context(), "node1", repo.Latest); err != nil || found.ID != rec.ID {
		t.Errorf("the latest is %v (%v)", found, err)
	}
}
