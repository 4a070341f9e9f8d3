package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/schedule"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// How often a line fires is the same whether it was asked before or not, as the clock goes on and back.
func TestEveryIsKept(t *testing.T) {
	t.Parallel()
	rnd, every := rand.New(rand.NewPCG(testenv.Seed(t), 0)), server.Every()
	lines := []string{"30 2 * * *", "*/15 * * * *", "0 0 * * sun", "0 3 1 * *", "0,30 2,3 * * *"}
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for range 3000 {
		if at = at.Add(time.Duration(rnd.IntN(7200)) * time.Second); rnd.IntN(50) == 0 {
			at = at.Add(-time.Duration(rnd.IntN(72)) * time.Hour)
		}
		line, zone := lines[rnd.IntN(len(lines))], []string{"", "Europe/Berlin"}[rnd.IntN(2)]
		spec, err := schedule.Parse(line, zone)
		if err != nil {
			t.Fatal(err)
		}
		first := spec.Next(at)
		if got, err := every(line, zone, at); err != nil || got != spec.Next(first).Sub(first) {
			t.Fatalf("%s in %q at %v: %v, %v, want %v", line, zone, at, got, err, spec.Next(first).Sub(first))
		}
	}
	if _, err := every("never", "", at); err == nil {
		t.Error("a line that is none")
	}
}

// Pages of backups are parts of the whole list, and what is counted for the space page is what each backup says, whatever comes,
// changes and goes.
func TestBackupPagesAndSpace(t *testing.T) {
	t.Parallel()
	w := servertest.New(t, bus.Options{}, server.Config{Sweep: 24 * time.Hour}) // so that nothing is sampled
	table, err := w.Bus.Table(t.Context(), "backups")
	if err != nil {
		t.Fatal(err)
	}
	rnd, now := rand.New(rand.NewPCG(testenv.Seed(t), 0)), time.Now().UTC().Truncate(time.Second)
	statuses := []job.BackupStatus{job.BackupCompleted, job.BackupCompleted, job.BackupCompleted, job.BackupFailed, job.BackupDeleting, job.BackupNew}
	docs := map[string]job.Backup{}
	for range 500 {
		n := rnd.IntN(90) // what it is of, and when it was made, stays
		id := fmt.Sprintf("0189aaaa-0000-7000-8000-%012d", n)
		if rnd.IntN(5) == 0 {
			_ = table.Delete(t.Context(), id, 0) // which may be gone
			delete(docs, id)
			continue
		}
		b := job.Backup{ID: id, Project: []string{"p", "q"}[n%2], RepoName: "r", Status: statuses[rnd.IntN(len(statuses))], Updated: now.Add(time.Duration(rnd.IntN(50)) * time.Second),
			Created: now.Add(-time.Duration(n*37%600) * time.Hour), Repository: job.Repository{URL: []string{"file:///a", "file:///b"}[rnd.IntN(2)]}, Result: job.Result{Stored: int64(rnd.IntN(1000)), Size: int64(rnd.IntN(5000))}}
		if b.Instance = b.Project + fmt.Sprint(n%5); n%7 == 0 && b.Status == job.BackupCompleted {
			b.Status = job.BackupRestored
		}
		v, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Put(t.Context(), id, v); err != nil {
			t.Fatal(err)
		}
		docs[id] = b
	}
	last := job.Backup{ID: "0189aaaa-0000-7000-8000-999999999999", Project: "p", Instance: "p0", Status: job.BackupCompleted, RepoName: "r", Created: now, Updated: now.Add(time.Hour)}
	v, _ := json.Marshal(last)
	if _, err := table.Put(t.Context(), last.ID, v); err != nil {
		t.Fatal(err)
	}
	docs[last.ID] = last
	servertest.Eventually(t, "the last one is there", func() bool {
		list, _ := w.Server.Backups(who("p"), server.BackupFilter{Limit: 1})
		return len(list) == 1 && list[0].ID == last.ID
	})
	for _, all := range []bool{false, true} {
		list, _ := w.Server.Backups(who("p"), server.BackupFilter{Limit: 1000, All: all})
		for _, limit := range []int{1, 7, 1000} {
			for offset := 0; offset < len(list)+2*limit; offset += limit {
				from := min(offset, (len(list)-1)/limit*limit)
				page, total := w.Server.BackupPage(who("p"), all, offset, limit)
				if want := list[from:min(from+limit, len(list))]; total != len(list) || !slices.Equal(page, want) {
					t.Fatalf("%d from %d on: %d of %d, want %d of %d", limit, offset, len(page), total, len(want), len(list))
				}
			}
		}
		checkSpace(t, w.Server, docs, all)
	}
	if page, total := w.Server.BackupPage(who("none"), false, 10, 5); len(page) != 0 || total != 0 {
		t.Errorf("of a project without backups: %d of %d", len(page), total)
	}
}

// checkSpace adds up what documents say, one by one.
func checkSpace(t *testing.T, s *server.Server, docs map[string]job.Backup, all bool) {
	t.Helper()
	got, times := s.Space(who("p"), all)
	stored, points, size, counts := map[string]int64{}, map[string][]int64{}, map[string]int64{}, map[string]int{}
	repositories := map[string]int64{}
	best := map[string]newest.Backup{}
	for _, b := range docs {
		if !all && b.Project != "p" || b.Status == job.BackupDeleting || !b.Status.Usable() && b.Stored == 0 {
			continue
		}
		counts[b.Instance]++
		stored[b.Instance] += b.Stored
		repositories[b.Repository.URL] += b.Stored
		if points[b.Instance] == nil {
			points[b.Instance] = make([]int64, len(times))
		}
		for n, at := range times {
			if !b.Created.After(at) {
				points[b.Instance][n] += b.Stored
			}
		}
		o := newest.Backup{ID: b.ID, Time: b.Created}
		if was, ok := best[b.Instance]; b.Status.Usable() && (!ok || newest.After(o, was)) {
			best[b.Instance], size[b.Instance] = o, b.Size
		}
	}
	if len(got.Instances) != len(counts) || len(got.Repositories) != len(repositories) {
		t.Errorf("%d instances, want %d; %d repositories, want %d", len(got.Instances), len(counts), len(got.Repositories), len(repositories))
	}
	for _, i := range got.Instances {
		if i.Stored != stored[i.ID] || i.Backups != counts[i.ID] || i.Size != size[i.ID] || !i.Gone || i.Name != "r" || !slices.Equal(i.Points, points[i.ID]) {
			t.Errorf("all %v: %+v, want %d of %d, size %d, %v", all, i, stored[i.ID], counts[i.ID], size[i.ID], points[i.ID])
		}
	}
	for _, r := range got.Repositories {
		if r.Stored != repositories[r.Repository.URL] {
			t.Errorf("%s has %d, want %d", r.Repository.URL, r.Stored, repositories[r.Repository.URL])
		}
	}
}
