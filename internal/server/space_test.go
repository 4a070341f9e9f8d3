package server_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

func TestSpace(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p, q := join(t, s, "db1", "p"), join(t, s, "db2", "q")
	backUp(t, s, p, "p", "one", server.NewBackup{})
	backUp(t, s, p, "p", "two", server.NewBackup{})
	backUp(t, s, q, "q", "other", server.NewBackup{})
	got, times := s.Space(who("p"), false)
	if got.Stored != 600 || got.Size != 1000 || got.Added != 600 || got.Backups != 2 || len(got.Instances) != 1 || len(got.Repositories) != 1 {
		t.Errorf("of project p: %+v", got)
	}
	if i := got.Instances[0]; i.Name != "db1" || i.Gone || i.Points[0] > i.Points[len(times)-1] || i.Points[len(times)-1] != 600 {
		t.Errorf("db1: %+v", i)
	}
	if all, _ := s.Space(&access.Caller{Project: "p", Role: access.Admin}, true); all.Stored != 900 || len(all.Instances) != 2 {
		t.Errorf("of all: %+v", all)
	}
}

// What the space page says that retention deletes next is what the dry runs say, whatever comes, changes and goes: backups, those that
// were made of them, and sets.
func TestSpaceSaysWhatGoes(t *testing.T) {
	t.Parallel()
	w := servertest.New(t, bus.Options{}, server.Config{Sweep: 24 * time.Hour}) // which would remove the schedules of instances that there aren't
	put := func(table, id string, doc any) {
		t.Helper()
		to, err := w.Bus.Table(t.Context(), table)
		if err != nil {
			t.Fatal(err)
		}
		if doc == nil {
			_ = to.Delete(t.Context(), id, 0) // which may be gone
			return
		}
		v, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Put(t.Context(), id, v); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	id := func(kind string, n int) string { return fmt.Sprintf("0189aaaa-0000-7000-8000-%s%010d", kind, n) }
	schedules := []string{id("0a", 0), id("0a", 1), id("0a", 2)}
	for n, s := range schedules {
		c := job.Schedule{ID: s, Project: "p", Instance: fmt.Sprint("i", n), Enabled: true, Keep: job.Keep{Last: 1, Daily: 2}, Created: now, Updated: now,
			Cron: fmt.Sprintf("0 %d * * *", now.Add(12*time.Hour).Hour()), TimeZone: "UTC", Next: now.Truncate(time.Hour).Add(12 * time.Hour)}
		if n == 2 {
			c.Instance, c.Cluster = "", "shop"
		}
		put("schedules", s, c)
	}
	servertest.Eventually(t, "the schedules are there", func() bool { return len(w.Server.SchedulesOf(who("p"), false)) == len(schedules) })
	sets := map[string]bool{}
	rnd, went := rand.New(rand.NewPCG(5, 6)), map[int]bool{}
	for turn := range 500 {
		n := rnd.IntN(40)
		what := id("0b", n)
		if set := id("0c", n%5); n%10 >= 7 && rnd.IntN(3) == 0 { // one of a cluster of both
			sets[set] = !sets[set]
			var doc any
			if sets[set] {
				doc = job.Set{ID: set, Project: "p", Cluster: "shop", Schedule: schedules[2], Order: int64(n), Members: []job.SetMember{{Instance: "i0", Begun: true}, {Instance: "i1", Begun: true}}, Created: now.Add(time.Duration(n-50) * time.Hour)}
			}
			put("sets", set, doc)
			servertest.Eventually(t, "the set is there, or gone", func() bool {
				return sets[set] == slices.ContainsFunc(w.Server.Sets(who("p"), server.SetFilter{}), func(i *server.SetInfo) bool { return i.ID == set })
			})
		} else {
			var doc any
			name := fmt.Sprint(turn)
			if rnd.IntN(5) > 0 {
				b := job.Backup{ID: what, Name: name, Project: "p", Instance: fmt.Sprint("i", n%2), Schedule: schedules[n%2], Status: job.BackupCompleted, Created: now.Add(time.Duration(n-50) * 5 * time.Hour), Updated: now,
					Result: job.Result{Stored: int64(1 + n), Databases: 1}}
				switch rnd.IntN(6) {
				case 0:
					b.Status = job.BackupDeleteFailed
				case 1, 2: // made of another, also of one of another instance
					b.Parent = id("0b", rnd.IntN(40))
				case 3:
					b.Pin = &job.Pin{Reason: "for ever"}
				}
				if n%10 >= 7 {
					b.Schedule, b.Set = schedules[2], id("0c", n%5)
				}
				doc = b
			}
			put("backups", what, doc)
			servertest.Eventually(t, "the change is there", func() bool {
				have := ""
				w.Server.EachBackup(who("p"), false, func(b *job.Backup) bool {
					if b.ID == what {
						have = b.Name
					}
					return have == ""
				})
				return doc == nil && have == "" || doc != nil && have == name
			})
		}
		backups, bytes := 0, int64(0)
		for _, s := range schedules {
			r, err := w.Server.ScheduleRetention(t.Context(), who("p"), s, nil)
			if err != nil {
				t.Fatal(err)
			}
			k, freed := r.Frees()
			backups, bytes = backups+k, bytes+freed
		}
		if space, _ := w.Server.Space(who("p"), false); space.Goes != backups || space.Frees != bytes {
			t.Fatalf("turn %d: %d go and free %d bytes; the dry runs say %d, %d", turn, space.Goes, space.Frees, backups, bytes)
		}
		went[backups] = true
	}
	if len(went) < 8 {
		t.Errorf("all the while only %d numbers of backups went", len(went))
	}
}

// BenchmarkSpace measures what the space page asks of a server with 1,000 instances, of which 60 are clusters of three, and 100,000
// backups: when all is worked out, when nothing is, as at the first view after a start that nobody worked ahead for, and after a
// backup has ended that was made of another.
func BenchmarkSpace(b *testing.B) {
	s, err := server.New(b.Context(), server.Config{Bus: servertest.OpenBus(b, bus.Options{}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	const instances, backups, clusters = 1000, 100_000, 20
	id := func(kind string, n int) string { return fmt.Sprintf("0189aaaa-0000-7000-8000-%s%010d", kind, n) }
	for n := range instances {
		server.Take(s, 1, &job.Instance{ID: id("0a", n), Name: fmt.Sprintf("node%04d", n), Project: "p", Status: job.InstanceActive},
			&job.Schedule{ID: id("0b", n), Name: "nightly", Project: "p", Instance: id("0a", n), Enabled: true, Cron: fmt.Sprintf("%d %d * * *", n%60, n%24), TimeZone: "Europe/Berlin", Keep: job.Keep{Daily: 14, Weekly: 8}, Next: now.Add(12 * time.Hour)})
	}
	for n := range clusters {
		server.Take(s, 1, &job.Schedule{ID: id("0c", n), Project: "p", Cluster: fmt.Sprint("cluster", n), Enabled: true, Cron: "0 3 * * *", Keep: job.Keep{Daily: 14}, Next: now.Add(12 * time.Hour)})
	}
	list := make([]*job.Backup, 0, backups)
	for n := backups - 1; n >= 0; n-- { // the oldest first, as a catalog is read
		end := now.Add(-time.Duration(n) * 2 * time.Minute)
		begun, i := end.Add(-20*time.Second), n%instances
		x := &job.Backup{ID: id("0d", n), Name: "nightly", Project: "p", Instance: id("0a", i), Schedule: id("0b", i), Status: job.BackupCompleted, RepoName: fmt.Sprintf("node%04d", i), Created: begun, Updated: end,
			Repository: job.Repository{URL: "s3://backups/couchdb"}, Result: job.Result{Size: 1 << 30, Stored: 1 << 20, Databases: 12, Damage: n % 7 / 6, Started: &begun, Finished: &end}}
		if i < 3*clusters {
			k, turn := i/3, n/instances
			x.Schedule, x.Set = id("0c", k), id("0e", k*1000+turn)
			if i%3 == 0 {
				set := &job.Set{ID: x.Set, Project: "p", Cluster: fmt.Sprint("cluster", k), Schedule: x.Schedule, Order: end.UnixMilli(), Created: begun}
				for m := range 3 {
					set.Members = append(set.Members, job.SetMember{Node: fmt.Sprint(m), Instance: id("0a", i+m), Begun: true})
				}
				server.Take(s, 1, set)
			}
		}
		server.Take(s, 1, x)
		list = append(list, x)
	}
	caller := &access.Caller{Project: "p", Role: access.Admin}
	if space, _ := s.Space(caller, true); space.Goes < backups/2 {
		b.Fatalf("only %d go", space.Goes)
	}
	b.Run("Warm", func(b *testing.B) {
		for b.Loop() {
			s.Space(caller, true)
		}
	})
	b.Run("First", func(b *testing.B) {
		for b.Loop() {
			server.Forget(s)
			s.Space(caller, true)
		}
	})
	n := 0
	b.Run("BackupEnded", func(b *testing.B) {
		for b.Loop() {
			n++
			x := *list[n%len(list)]
			x.Parent = list[(n+instances)%len(list)].ID
			server.Take(s, uint64(1+n), &x) //nolint:gosec // never negative
			s.Space(caller, true)
		}
	})
}
