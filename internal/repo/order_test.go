package repo_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// clockOf returns what a clock shows that shows noon of a day.
func clockOf(t *testing.T, day string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15", day+" 12")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// idAt returns the id that a backup gets by a clock.
func idAt(at time.Time) manifest.BackupID {
	u := uuid.Must(uuid.NewV7())
	for i := range 6 {
		u[i] = byte(at.UnixMilli() >> (8 * (5 - i)))
	}
	return manifest.BackupID(u.String())
}

// madeAt makes a backup of a host whose clock shows a day.
func (f *fixture) madeAt(t *testing.T, day string, base *manifest.Manifest) *manifest.Manifest {
	t.Helper()
	at := clockOf(t, day)
	m, err := backupAt(t.Context(), f.open(t, f.store), f.writer, idAt(at), at, base, text(uint64(at.Unix()), 100))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantOrder holds the order of the list, and what is the latest, against the backups in
// the order that they were made in.
func wantOrder(t *testing.T, r *repo.Repo, want ...*manifest.Manifest) []*manifest.Record {
	t.Helper()
	recs, bad, err := r.List(t.Context(), instance)
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	got, wanted := "", ""
	for _, rec := range recs {
		got += " " + rec.Started.Format("2006-01-02")
	}
	for _, m := range want {
		wanted += " " + m.Started.Format("2006-01-02")
	}
	if got != wanted {
		t.Errorf("the order is%s, want%s", got, wanted)
	}
	latest, err := r.Find(t.Context(), instance, repo.Latest)
	if last := want[len(want)-1]; err != nil || latest.ID != last.ID {
		t.Errorf("the latest is %v (%v), want that stamped %s", latest, err, last.Started)
	}
	return recs
}

// The newest backup is the one that was made last: not one whose host was ahead for
// good, nor does one whose host is in 1970 become the oldest.
func TestNewestIsMadeLast(t *testing.T) {
	f := newFixture(t)
	a := f.madeAt(t, "2026-11-01", nil)
	b := f.madeAt(t, "2099-01-01", a)
	c := f.madeAt(t, "2026-11-03", b)
	d := f.madeAt(t, "1970-01-02", nil)
	wantOrder(t, f.open(t, f.store), a, b, c, d)
	e := f.madeAt(t, "2026-11-04", nil)
	recs := wantOrder(t, f.open(t, f.store), a, b, c, d, e)
	f.prune(t, time.Now(), e.ID, b.ID)
	g := f.madeAt(t, "2026-11-05", a)
	after := wantOrder(t, f.open(t, f.store), a, c, d, g)
	if last := after[3].Order; last <= recs[4].Order {
		t.Errorf("after the newest was deleted, the next has the order %d, and it had %d", last, recs[4].Order)
	}
}

func (f *fixture) prune(t *testing.T, now time.Time, remove ...manifest.BackupID) repo.Freed {
	t.Helper()
	r := f.open(t, f.store)
	lock, err := r.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: remove, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return freed
}

// A holder that stored its backup, and died before its lock could tell, is asked for the
// backup's own order.
func TestOrderAfterACrash(t *testing.T) {
	f := newFixture(t)
	a := f.madeAt(t, "2026-11-01", nil)
	b := f.madeAt(t, "2099-01-01", nil)
	key := storage.Key("locks/" + instance + "/0000000002.json")
	var info map[string]any
	if err := json.Unmarshal(get(t, f.store, key), &info); err != nil {
		t.Fatal(err)
	}
	info["released"], info["pid"], info["order"] = false, 0, clockOf(t, "2026-11-01").UnixMilli()
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	put(t, f.store, key, text)
	c := f.madeAt(t, "2026-11-02", nil)
	wantOrder(t, f.open(t, f.store), a, b, c)
}

// asBefore makes the record and the locks those of a version without orders.
func (f *fixture) asBefore(t *testing.T, m *manifest.Manifest) {
	t.Helper()
	line, _, _ := bytes.Cut(get(t, f.store, recordKey(m.ID)), []byte("\n"))
	var rec manifest.Record
	if err := json.Unmarshal(line, &rec); err != nil {
		t.Fatal(err)
	}
	rec.Order = 0
	var err error
	if line, err = json.Marshal(rec); err != nil || bytes.Contains(line, []byte(`"order"`)) {
		t.Fatalf("%s %v", line, err)
	}
	b64 := base64.StdEncoding.EncodeToString
	put(t, f.store, recordKey(m.ID), fmt.Appendf(line, "\n{\"writer\":%q,\"signature\":%q}\n",
		b64(f.writer.Public().(ed25519.PublicKey)), b64(ed25519.Sign(f.writer, line))))
	for key, text := range objects(t, f.store) {
		var info map[string]any
		if strings.HasPrefix(string(key), "locks/") && json.Unmarshal([]byte(text), &info) == nil {
			delete(info, "order")
			b, err := json.Marshal(info)
			if err != nil {
				t.Fatal(err)
			}
			put(t, f.store, key, b)
		}
	}
}

// Backups of earlier versions, and such as they add later, keep their chains; what is
// made with an order is newer than all that was there.
func TestOrderOfOldBackups(t *testing.T) {
	f := newFixture(t)
	a := f.madeAt(t, "2026-11-01", nil)
	b := f.madeAt(t, "2099-01-01", a)
	c := f.madeAt(t, "2026-11-03", b)
	for _, m := range []*manifest.Manifest{a, b, c} {
		f.asBefore(t, m)
	}
	wantOrder(t, f.open(t, f.store), a, b, c)
	d := f.madeAt(t, "2026-11-04", nil)
	wantOrder(t, f.open(t, f.store), a, b, c, d)
	e := f.madeAt(t, "2026-11-05", d)
	f.asBefore(t, e)
	g := f.madeAt(t, "2026-11-06", nil)
	wantOrder(t, f.open(t, f.store), a, b, c, d, e, g)
}

// A copy keeps its order, and the backups made beside it come after it.
func TestOrderOfCopies(t *testing.T) {
	f := newFixture(t)
	other := f.sibling(t)
	a := f.madeAt(t, "2026-11-01", nil)
	b := f.madeAt(t, "2099-01-01", nil)
	c := f.madeAt(t, "2026-11-02", nil)
	x := other.madeAt(t, "2026-10-31", nil)
	for _, m := range []*manifest.Manifest{a, b, c} {
		mustCopy(t, other.open(t, other.store), f.open(t, f.store), m.ID, repo.CopyOptions{})
	}
	y := other.madeAt(t, "2026-11-03", nil)
	wantOrder(t, other.open(t, other.store), x, a, b, c, y)
}

// What a run left that never ended stays for the next one to take up, and goes once that
// one has made its backup, or after a week: whatever time its id and the clocks tell.
func TestLeftoversNeedNoClock(t *testing.T) {
	for _, day := range []string{"1970-01-02", "2026-11-02", "2099-01-01"} {
		f := newFixture(t)
		full := f.madeAt(t, "2026-11-01", nil)
		r := f.open(t, f.store)
		id := idAt(clockOf(t, day))
		lock, err := r.Lock(t.Context(), instance, "backup", id)
		if err != nil {
			t.Fatal(err)
		}
		put(t, f.store, storage.Key(fmt.Sprintf("segments/%s/%s/000000.zst.age", instance, id)), []byte("left"))
		if err := lock.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if freed := f.prune(t, time.Now()); freed.Unreferenced != 0 {
			t.Errorf("%s: what the last run left is gone at once: %+v", day, freed)
		}
		if freed := f.wouldPrune(t, time.Now().AddDate(0, 0, 8)); freed.Unreferenced != 1 {
			t.Errorf("%s: a week later it stays: %+v", day, freed)
		}
		f.madeAt(t, "2026-11-03", full)
		if freed := f.prune(t, time.Now()); freed.Unreferenced != 1 {
			t.Errorf("%s: it stays though a backup was made since: %+v", day, freed)
		}
	}
}

func (f *fixture) wouldPrune(t *testing.T, now time.Time) repo.Freed {
	t.Helper()
	freed, err := f.open(t, f.store).WouldPrune(t.Context(), instance, repo.PruneOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return freed
}
