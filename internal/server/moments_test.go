package server_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// madeAt is made of a backup of a size that was begun at a time.
func madeAt(id string, at time.Time, size int64) job.Report {
	r := made(id)
	r.Result.Started, r.Result.Finished, r.Result.Size = &at, &at, size
	return r
}

// A moment rests on the newest backup up to then, whichever older one is named: that tells its size, and isn't deleted meanwhile.
func TestMomentTakesItsSize(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	me, now := who("p"), began
	var ids []string
	for n, size := range []int64{1 << 20, 7 << 30} {
		b, err := s.CreateBackup(t.Context(), me, server.NewBackup{Name: "n", Instance: p.node})
		if err != nil {
			t.Fatal(err)
		}
		p.do(job.KindBackup, madeAt("r"+b.ID, now.Add(time.Duration(n-3)*time.Hour), size))
		ids = append(ids, b.ID)
	}
	if _, err := s.CreateInstance(t.Context(), me, server.NewInstance{Name: "x", Flavor: "1", VolumeGB: 1, Backup: ids[0], At: now}); kindOf(err) != server.Forbidden {
		t.Errorf("7 GB in a volume of 1 GB: %v, want Forbidden", err)
	}
	ahead := now.Add(30 * time.Second) // as who says now may have it
	for at, want := range map[time.Time]int{now: 7, ahead: 7, now.Add(-150 * time.Minute): 1, {}: 1} {
		i, err := s.CreateInstance(t.Context(), me, server.NewInstance{Name: "x", Flavor: "1", Backup: ids[0], At: at})
		if err != nil || i.VolumeGB != want || i.RestoredAt.After(now.Add(time.Second)) {
			t.Errorf("at %s: %+v, %v, want %d GB", at, i, err, want)
		}
		if from := ids[want/7]; err == nil && i.RestoredFrom != from {
			t.Errorf("at %s it is made of %s, want %s", at, i.RestoredFrom, from)
		}
	}
	for _, id := range ids {
		if err := s.DeleteBackup(t.Context(), me, id); kindOf(err) != server.Conflict && kindOf(err) != server.Busy {
			t.Errorf("deleting %s while instances are made of it: %v", id, err)
		}
	}
}

// A backup that an agent took in from another node is shown with the agent's own one, but no moment of this one is behind it.
func TestMomentOfWhatWasTakenIn(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	me, now := who("p"), began
	own, err := s.CreateBackup(t.Context(), me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, madeAt("r1", now.Add(-3*time.Hour), 1))
	taken, err := s.AdoptBackup(t.Context(), me, server.Adoption{Name: "a", Location: "file:///backups/backups/db7/" + uuid.Must(uuid.NewV7()).String() + "/manifest.json.zst.age"})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindAdopt, madeAt(taken.RepoID, now.Add(-2*time.Hour), 1))
	if b, err := s.Backup(t.Context(), me, taken.ID); err != nil || b.Instance != p.node || b.Status != job.BackupRestored {
		t.Fatalf("taken in: %+v, %v", b, err)
	}
	i, err := s.Instance(t.Context(), me, p.node)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Before(me, i, now); err != nil || b.ID != own.ID {
		t.Errorf("before now: %+v, %v, want %s", b, err, own.ID)
	}
	if _, err := s.CreateInstance(t.Context(), me, server.NewInstance{Name: "x", Flavor: "1", Backup: taken.ID, At: now}); kindOf(err) != server.Conflict {
		t.Errorf("a moment behind what was taken in: %v, want Conflict", err)
	}
	if _, err := s.CreateInstance(t.Context(), me, server.NewInstance{Name: "x", Flavor: "1", Backup: taken.ID}); err != nil {
		t.Errorf("what was taken in itself: %v", err)
	}
}
