package ship_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// Moments that are kept stay, byte for byte, though most backups go; those on which they rest can't.
func TestPruneKeepsMoments(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 9)
	start := e.clock
	first := e.backup()
	s := e.ship()
	var states []kept
	for day := range 8 {
		for step := range 4 {
			e.growBy(uint64(10*day+step), 0.05)
			e.clock = start.Add(time.Duration(day)*24*time.Hour + time.Duration(step)*5*time.Hour)
			s.Settle(t.Context(), t)
			states = append(states, kept{e.now(), e.files()})
		}
		e.clock = start.Add(time.Duration(day)*24*time.Hour + 20*time.Hour)
		e.backup()
		s.Settle(t.Context(), t)
	}
	newest := e.now()
	r := e.repo()
	keep := 72 * time.Hour
	prune := func(o repo.PruneOptions) (repo.Freed, error) {
		lock, err := r.Lock(t.Context(), "node1", "prune", "")
		must(t, err)
		defer func() { must(t, lock.End(t.Context())) }()
		o.KeepMoments, o.Now = keep, newest
		return r.Prune(t.Context(), lock, o)
	}
	bases, err := r.MomentBases(t.Context(), "node1", keep, newest)
	must(t, err)
	recs, _, err := r.List(t.Context(), "node1")
	must(t, err)
	var remove []manifest.BackupID
	var base manifest.BackupID
	for _, rec := range recs[:len(recs)-1] {
		if bases[rec.ID] {
			base = rec.ID
		} else {
			remove = append(remove, rec.ID)
		}
	}
	if len(bases) != 1 || slices.Contains(remove, base) || base == first.ID {
		t.Errorf("moments rest on %v", bases)
	}
	if _, err := prune(repo.PruneOptions{Remove: []manifest.BackupID{base}}); !errors.Is(err, repo.ErrMoments) {
		t.Errorf("the backup that moments rest on was removed: %v", err)
	}
	freed, err := prune(repo.PruneOptions{Remove: remove})
	must(t, err)
	if freed.Shipped == 0 || freed.Backups != len(remove) {
		t.Errorf("%+v", freed)
	}
	n := 0
	for i, k := range states {
		if k.at.Before(newest.Add(-keep)) {
			continue
		}
		n++
		got, m := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d on %s", i, m.Base.ID), got, k.files)
	}
	e.contiguous()
	left := 0
	must(t, e.store.List(t.Context(), "ship/", func(storage.Info) error { left++; return nil }))
	t.Logf("%d moments of %d, %d objects left of %d", n, len(states), left, left+freed.Shipped)
	e.grow(99)
	s.Settle(t.Context(), t)
	got, _ := e.moment(e.now())
	e.compare("afterwards", got, e.files())
}

// Backups that ticks went on from may go by the rules, also those that a roll-up's ticks name.
func TestPruneOfBackupsBetween(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 13)
	e.backup()
	s := e.ship()
	var states []kept
	var middle []manifest.BackupID
	for i := range 6 {
		e.growBy(uint64(i), 0.1)
		e.clock = e.clock.Add(time.Minute)
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
		middle = append(middle, e.backup().ID)
		e.clock = e.clock.Add(time.Minute)
		s.Settle(t.Context(), t)
	}
	e.clock = e.clock.Add(6 * time.Minute)
	s.Settle(t.Context(), t)
	r := e.repo()
	lock, err := r.Lock(t.Context(), "node1", "prune", "")
	must(t, err)
	_, err = r.Prune(t.Context(), lock, repo.PruneOptions{Remove: middle[:5], KeepMoments: time.Hour, Now: e.now()})
	must(t, err)
	must(t, lock.End(t.Context()))
	for i, k := range states {
		got, m := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d on %s", i, m.Base.ID), got, k.files)
	}
}

// When the backup is gone on which ticks rest, whoever asks for one is told which moment before them there is.
func TestBaseIsGone(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 14)
	first := e.backup()
	e.clock = e.clock.Add(time.Hour)
	base := e.backup(func(o *backup.Options) { o.Full = true })
	s := e.ship()
	e.grow(1)
	s.Settle(t.Context(), t)
	must(t, e.store.Delete(t.Context(), storage.Key(fmt.Sprintf("backups/node1/%s/record.jsonl", base.ID))))
	r := e.repo()
	_, _, err := r.At(t.Context(), "node1", e.now())
	want := first.Finished.UTC().Format(time.RFC3339Nano)
	if !errors.Is(err, repo.ErrNoMoment) || !strings.Contains(err.Error(), "the newest moment before it is "+want) {
		t.Fatalf("told %v, and the backup before was done %s", err, want)
	}
	m, _, err := r.At(t.Context(), "node1", first.Finished)
	must(t, err)
	if m.Started != first.Started {
		t.Errorf("that time gives a state of %s, not of %s", m.Started, first.Started)
	}
}

// Backups that were made while nobody shipped, and on which ticks rest since, are not among those that may go.
func TestBackupsWhileNobodyShips(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 15)
	var states []kept
	made := []manifest.BackupID{e.backup().ID}
	for i := range 3 {
		s := e.ship()
		e.growBy(uint64(10*i), 0.3)
		e.clock = e.clock.Add(time.Minute)
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
		e.clock = e.clock.Add(70 * time.Minute) // all is rolled up
		s.Settle(t.Context(), t)
		must(t, s.Close())
		for k := range 2 {
			e.growBy(uint64(10*i+k+1), 0.3)
			e.clock = e.clock.Add(time.Minute)
			made = append(made, e.backup().ID)
		}
	}
	s := e.ship()
	e.grow(99)
	s.Settle(t.Context(), t)
	states = append(states, kept{e.now(), e.files()})
	e.backup()
	r := e.repo()
	bases, err := r.MomentBases(t.Context(), "node1", 48*time.Hour, e.now())
	must(t, err)
	made = slices.DeleteFunc(made, func(id manifest.BackupID) bool { return bases[id] })
	if len(made) == 0 {
		t.Error("moments rest on all backups")
	}
	lock, err := r.Lock(t.Context(), "node1", "prune", "")
	must(t, err)
	_, err = r.Prune(t.Context(), lock, repo.PruneOptions{Remove: made, KeepMoments: 48 * time.Hour, Now: e.now()})
	must(t, err)
	must(t, lock.End(t.Context()))
	for i, k := range states {
		got, m := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d on %s", i, m.Base.ID.Short()), got, k.files)
	}
}
