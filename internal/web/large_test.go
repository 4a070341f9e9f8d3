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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
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
// some are wrong. The schedules fire in three hours and later: what one made in between would be one backup more.
func (w *world) fill(instances, backups int) {
	t := w.t
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
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
	ids, schedules := make([]string, instances), make([]string, instances)
	for n := range ids {
		a, s, name := id(), id(), fmt.Sprintf("node%04d", n)
		ids[n], schedules[n] = id(), s
		fires := now.Truncate(time.Hour).Add(time.Duration(3+n%20)*time.Hour + time.Duration(n%60)*time.Minute)
		clock := fires.In(berlin)
		agent(a, job.Agent{ID: a, Name: name, Project: project, Created: now.Add(-time.Hour), Seen: now, Hello: job.Hello{Version: "slipcover test", Host: name, CanRead: true,
			Instances: []job.Seen{{Instance: ids[n], Up: true, Version: "3.5.0", UsedBytes: 1 << 30, Ship: &job.Shipping{Shipped: now, Chain: now.Add(-time.Hour), Window: now.Add(-time.Hour)}}}}})
		instance(ids[n], job.Instance{ID: ids[n], Name: name, RepoName: name, Project: project, Agent: a, Status: job.InstanceActive, Ship: n%3 == 0, Created: now.Add(-1000 * time.Hour), Updated: now})
		schedule(s, job.Schedule{ID: s, Name: "nightly", Project: project, Instance: ids[n], Enabled: true, Cron: fmt.Sprintf("%d %d * * *", clock.Minute(), clock.Hour()), TimeZone: "Europe/Berlin", Keep: job.Keep{Daily: 14, Weekly: 8},
			Next: fires, Created: now, Updated: now})
	}
	for n := range backups { // the newest first
		end := now.Add(-time.Duration(n) * 2 * time.Minute)
		begun, b := end.Add(-20*time.Second), id()
		backup(b, job.Backup{ID: b, Name: fmt.Sprintf("nightly %d", n), Project: project, Instance: ids[n%instances], Schedule: schedules[n%instances], Status: job.BackupCompleted, CouchDBVersion: "3.5.0", RepoName: fmt.Sprintf("node%04d", n%instances),
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

// enrich adds what a service that has run for long has beside backups: jobs of the last days, clusters of three with a set for
// each backup, tokens, an audit log of that many records, and one instance with 3,000 backups, which is returned.
func (w *world) enrich(records int) (big string) {
	t := w.t
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	table := func(name string) *bus.Table {
		out, err := w.Bus.Table(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var g errgroup.Group
	g.SetLimit(64)
	put := func(to *bus.Table, id string, doc any) {
		g.Go(func() error {
			v, err := json.Marshal(doc)
			if err == nil {
				_, err = to.Put(t.Context(), id, v)
			}
			return err
		})
	}
	jobs, sets, backups, agents := table("jobs"), table("sets"), table("backups"), table("agents")
	id := func() string { return uuid.Must(uuid.NewV7()).String() }
	names := map[string]*job.Instance{}
	for _, i := range w.Server.Instances(caller(), false) {
		names[i.Name] = i
	}
	var all []*job.Backup
	w.Server.EachBackup(caller(), false, func(b *job.Backup) bool { all = append(all, b); return true })
	count := 0
	for _, b := range all {
		if count < 2000 { // as many as are kept
			j, end := id(), b.Updated
			count++
			put(jobs, j, job.Job{ID: j, Kind: job.KindBackup, Agent: names[b.RepoName].Agent, Project: project, Instance: b.Instance, Backup: b.ID, By: "ann", State: job.Done, Created: b.Created, Ended: &end})
		}
	}
	var later []func()  // sets, which go if no backup is of them
	for k := range 20 { // the nodes of cluster k are node 3k, 3k+1, 3k+2
		cluster := fmt.Sprintf("cluster%02d", k)
		var members []job.SetMember
		nodes := []string{"couchdb@a." + cluster, "couchdb@b." + cluster, "couchdb@c." + cluster}
		for n, node := range nodes {
			i := names[fmt.Sprintf("node%04d", 3*k+n)]
			members = append(members, job.SetMember{Node: node, Instance: i.ID, InstanceName: i.Name, Begun: true})
			put(agents, i.Agent, job.Agent{ID: i.Agent, Name: i.Name, Project: project, Created: now.Add(-time.Hour), Seen: now, Hello: job.Hello{Version: "slipcover test", Host: i.Name, CanRead: true,
				Instances: []job.Seen{{Instance: i.ID, Up: true, Version: "3.5.0", UsedBytes: 1 << 30, Member: &job.Member{Node: node, Nodes: nodes, Cluster: cluster, ServerUUID: i.ID}}}}})
		}
		of := map[string]string{} // by the names of backups, one of a day
		for _, b := range all {
			n := slices.IndexFunc(members, func(m job.SetMember) bool { return m.Instance == b.Instance })
			if n < 0 {
				continue
			}
			turn := b.Updated.Add(time.Duration(n) * 2 * time.Minute).String()
			if of[turn] == "" {
				of[turn] = id()
				t := job.Set{ID: of[turn], Name: cluster, Project: project, Cluster: cluster, Order: b.Created.UnixMilli(), Members: members, Created: b.Created, Updated: b.Updated}
				later = append(later, func() { put(sets, t.ID, t) })
			}
			c := *b
			c.Set = of[turn]
			put(backups, c.ID, c)
		}
	}
	schedules := table("schedules")
	for k := range 20 {
		s := id()
		put(schedules, s, job.Schedule{ID: s, Name: "all nodes", Project: project, Cluster: fmt.Sprintf("cluster%02d", k), Enabled: true, Cron: "0 3 * * *", Keep: job.Keep{Daily: 14}, Next: now.Add(time.Hour), Created: now, Updated: now})
	}
	one := names["node0500"]
	for n := range 3000 {
		end := now.Add(-time.Duration(n)*3*time.Hour - time.Minute)
		begun, b := end.Add(-20*time.Second), id()
		put(backups, b, job.Backup{ID: b, Name: "by the hour", Project: project, Instance: one.ID, Status: job.BackupCompleted, CouchDBVersion: "3.5.0", RepoName: one.RepoName,
			Repository: job.Repository{URL: "s3://backups/couchdb", ID: "0199aaaa-0000-7000-8000-00000000000f"}, Created: begun, Updated: end,
			Result: job.Result{RepoID: b, Type: "incremental", Size: 1 << 30, Stored: 1 << 20, Databases: 12, Started: &begun, Finished: &end}})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the backups are there", func() bool {
		list, _ := w.Server.Backups(caller(), server.BackupFilter{Instance: one.ID, Limit: 1 << 20})
		return len(list) > 3000
	})
	for _, fn := range later {
		fn()
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n := range 500 {
		if _, _, err := w.Tokens.Create(t.Context(), access.Token{Name: fmt.Sprintf("token %d", n), Role: access.Viewer, Project: project, CreatedBy: "ann"}); err != nil {
			t.Fatal(err)
		}
	}
	var audit bytes.Buffer
	for n := range records {
		line, _ := json.Marshal(httpd.AuditRecord{User: "ann", Action: "backup.create", Target: all[n%len(all)].ID, Outcome: "ok", Status: 202, Address: "10.0.0.7", Time: now.Add(-time.Duration(records-n) * time.Minute)})
		audit.Write(append(line, '\n'))
	}
	if err := os.WriteFile(w.Audit.Path(), audit.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the catalog is full", func() bool {
		return len(w.Server.JobsSince(caller(), false, 9*24*time.Hour)) == count && len(w.Server.Sets(caller(), server.SetFilter{})) == len(later) && len(w.Server.Clusters(caller(), false)) == 20
	})
	return one.ID
}

// changeEach changes the newest backup of each instance, so that nothing is known any more that was worked out of them.
func (w *world) changeEach(b *testing.B) {
	b.Helper()
	table, err := w.Bus.Table(b.Context(), "backups")
	if err != nil {
		b.Fatal(err)
	}
	changed, description := map[string]bool{}, time.Now().String()
	var list []job.Backup
	w.Server.EachBackup(caller(), false, func(x *job.Backup) bool {
		if !changed[x.Instance] {
			changed[x.Instance] = true
			list = append(list, *x)
		}
		return len(changed) < manyInstances
	})
	var g errgroup.Group
	g.SetLimit(64)
	for _, x := range list {
		x.Description = description
		g.Go(func() error {
			v, err := json.Marshal(x)
			if err == nil {
				_, err = table.Put(b.Context(), x.ID, v)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	servertest.Eventually(b, "the changes are known", func() bool {
		n := 0
		w.Server.EachBackup(caller(), false, func(x *job.Backup) bool {
			if x.Description == description {
				n++
			}
			return n < len(list)
		})
		return n == len(list)
	})
}

// BenchmarkPages measures the time of the server for pages with 1,000 instances and 100,000 backups: the median, and the time
// of the processor for one. Each is to be less than 100 ms.
func BenchmarkPages(b *testing.B) {
	w := newWorld(b)
	backups, records := manyBackups, 100_000
	if testing.Short() {
		backups, records = backups/10, records/10
	}
	w.fill(manyInstances, backups)
	big := w.enrich(records)
	cookie := w.as(access.Admin).jar.Cookies(mustURL(b, w.HTTP.URL))[0]
	var one string
	w.Server.EachBackup(caller(), false, func(x *job.Backup) bool { one = x.Instance; return one == big })
	clusters := w.Server.Clusters(caller(), false)
	set := w.Server.Sets(caller(), server.SetFilter{Cluster: clusters[0].Name})[0].ID
	agent := w.Server.Agents()[0]
	before := map[string]func(*testing.B){"SpaceChanged": w.changeEach}
	for _, page := range []struct{ name, path string }{
		{"Overview", "/"}, {"OverviewSearched", "/?q=node0999"}, {"Backups", "/backups"}, {"BackupsMiddle", "/backups?page=1000"}, {"BackupsLast", "/backups?page=99999"}, {"BackupsSearched", "/backups?q=node0999"},
		{"BackupsNone", "/backups?q=abcdef"}, {"Instance", "/instances/" + one}, {"InstanceBig", "/instances/" + big}, {"InstanceSearched", "/instances/" + big + "?q=whole"}, {"Schedules", "/schedules"}, {"Jobs", "/jobs"},
		{"JobsSearched", "/jobs?q=node0999"}, {"Set", "/sets/" + set}, {"Tokens", "/tokens"}, {"Agents", "/agents"}, {"AgentRemove", "/agents/" + agent.ID + "/remove"}, {"Join", "/agents/join"}, {"Repositories", "/repositories"},
		{"Space", "/space"}, {"SpaceChanged", "/space"}, {"SpaceBig", "/space?i=" + big}, {"Audit", "/audit"}, {"AuditSearched", "/audit?action=document"}, {"Find", "/find?q=node0999"}, {"FindNone", "/find?q=abcdef"},
		{"ScheduleNew", "/schedules/new"}, {"BackupNew", "/backups/new"}, {"Restore", "/restore"}, {"RestoreOf", "/restore?of=" + big}, {"RestoreWhat", "/restore?of=" + big + "&what=all"}, {"RestoreWhere", "/restore?of=" + big + "&what=all&s=latest"},
	} {
		b.Run(page.name, func(b *testing.B) {
			var each []time.Duration
			used := cpuTime()
			for b.Loop() {
				if fn := before[page.name]; fn != nil {
					began := cpuTime()
					fn(b)
					used += cpuTime() - began
				}
				begun := time.Now()
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
				each = append(each, time.Since(begun))
			}
			slices.Sort(each)
			b.ReportMetric(float64(each[len(each)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64((cpuTime()-used).Microseconds())/1000/float64(len(each)), "cpu-ms/op")
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
