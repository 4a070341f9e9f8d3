package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// All that a browser loads of the dashboard, once and for good, is less than 150 KB.
func TestStaticIsSmall(t *testing.T) {
	total := 0
	files, err := filepath.Glob("static/*")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = z.Write(text) // into memory
		_ = z.Close()
		total += b.Len()
	}
	t.Logf("%d bytes", total)
	if total > 150_000 {
		t.Errorf("the static files have %d bytes, compressed", total)
	}
}

const manyInstances, manyBackups = 1000, 100_000

// fill makes the catalog of a service that has run for long: instances with an agent, a schedule, and their backups, of which
// some are wrong.
func (w *world) fill(instances, backups int) {
	t := w.t
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	put := func(g *errgroup.Group, name string) func(id string, doc any) {
		table, err := w.Bus.Table(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return func(id string, doc any) {
			g.Go(func() error {
				v, err := json.Marshal(doc)
				if err == nil {
					_, err = table.Put(t.Context(), id, v)
				}
				return err
			})
		}
	}
	var g errgroup.Group
	g.SetLimit(64)
	agent, instance, schedule, backup := put(&g, "agents"), put(&g, "instances"), put(&g, "schedules"), put(&g, "backups")
	id := func() string { return uuid.Must(uuid.NewV7()).String() }
	ids := make([]string, instances)
	for n := range ids {
		a, s, name := id(), id(), fmt.Sprintf("node%04d", n)
		ids[n] = id()
		agent(a, job.Agent{ID: a, Name: name, Project: project, Created: now.Add(-time.Hour), Seen: now, Hello: job.Hello{Version: "slipcover test", Host: name, CanRead: true,
			Instances: []job.Seen{{Instance: ids[n], Up: true, Version: "3.5.0", UsedBytes: 1 << 30, Ship: &job.Shipping{Shipped: now, Chain: now.Add(-time.Hour), Window: now.Add(-time.Hour)}}}}})
		instance(ids[n], job.Instance{ID: ids[n], Name: name, RepoName: name, Project: project, Agent: a, Status: job.InstanceActive, Ship: n%3 == 0, Created: now.Add(-1000 * time.Hour), Updated: now})
		schedule(s, job.Schedule{ID: s, Name: "nightly", Project: project, Instance: ids[n], Enabled: true, Cron: fmt.Sprintf("%d %d * * *", n%60, n%24), TimeZone: "Europe/Berlin", Keep: job.Keep{Daily: 14, Weekly: 8},
			Next: now.Add(24*time.Hour + time.Duration(n)*time.Minute), Created: now, Updated: now})
	}
	for n := range backups { // the newest first
		end := now.Add(-time.Duration(n) * 2 * time.Minute)
		begun, b := end.Add(-20*time.Second), id()
		backup(b, job.Backup{ID: b, Name: fmt.Sprintf("nightly %d", n), Project: project, Instance: ids[n%instances], Status: job.BackupCompleted, CouchDBVersion: "3.5.0", RepoName: fmt.Sprintf("node%04d", n%instances),
			Repository: job.Repository{URL: "s3://backups/couchdb", ID: "0199aaaa-0000-7000-8000-00000000000f"}, Created: begun, Updated: end,
			Result: job.Result{RepoID: b, Type: "incremental", Size: 1 << 30, Stored: 1 << 20, Databases: 12, Damage: n % 7 / 6, Started: &begun, Finished: &end}})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the catalog is full", func() bool {
		n := 0
		w.Server.EachBackup(caller(), false, func(*job.Backup) bool { n++; return true })
		return n == backups && len(w.Server.Standings(caller(), false)) == instances && len(w.Server.SchedulesOf(caller(), false)) == instances && len(w.Server.Agents()) == instances
	})
}

// BenchmarkPages measures the time of the server for pages with 1,000 instances and 100,000 backups.
// It is to be less than 100 ms for each.
func BenchmarkPages(b *testing.B) {
	w := newWorld(b)
	backups := manyBackups
	if testing.Short() {
		backups /= 10
	}
	w.fill(manyInstances, backups)
	cookie := w.as(access.Operator).jar.Cookies(mustURL(b, w.HTTP.URL))[0]
	var one string
	w.Server.EachBackup(caller(), false, func(x *job.Backup) bool { one = x.Instance; return false })
	for _, page := range []struct{ name, path string }{
		{"Overview", "/"}, {"OverviewSearched", "/?q=node0999"}, {"Backups", "/backups"}, {"BackupsLast", "/backups?page=99999"}, {"BackupsSearched", "/backups?q=node0999"},
		{"Instance", "/instances/" + one}, {"Schedules", "/schedules"}, {"Jobs", "/jobs"}, {"Agents", "/agents"}, {"Repositories", "/repositories"}, {"Space", "/space"}, {"Find", "/find?q=node0999"},
	} {
		b.Run(page.name, func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, w.HTTP.URL+page.path, http.NoBody)
				r.Header.Set("Accept", "text/html")
				r.Header.Set("Accept-Encoding", "gzip")
				r.AddCookie(cookie)
				out := httptest.NewRecorder()
				w.HTTP.Config.Handler.ServeHTTP(out, r)
				if out.Code != http.StatusOK {
					text, _ := io.ReadAll(out.Body)
					b.Fatalf("%s: %d %s", page.path, out.Code, text)
				}
			}
		})
	}
}

// A page has no more rows than it shows, however many there are, and says how many.
func TestManyOfAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(120, 600)
	b := w.as(access.Operator)
	for path, words := range map[string][]string{"/": {"120 instances", "1 to 50 of 120"}, "/backups": {"1 to 50 of 600"}, "/backups?page=12": {"551 to 600 of 600"}, "/schedules": {"1 to 50 of 120"}} {
		a := b.get(path)
		a.has(200, words...)
		if n := strings.Count(a.body, `<th scope="row"`); n != 50 {
			t.Errorf("%s has %d rows", path, n)
		}
	}
}
