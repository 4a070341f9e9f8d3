package trove_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/trove"
)

// play is the sequence in which Trove's own scenario tests try a database's backups: what
// is asked, and which answer its clients count on. What it does to the data itself is in
// TestStockClients, with real ones.
type play struct {
	*world
	p               *player
	owner, stranger string // tokens
	before          int    // how many backups there were
	full, inc1, inc2,
	copied string // ids
}

const scene = "/v1.0/" + project

// Each step of Trove's scenario must end as there, in that order.
func TestTrovesScenario(t *testing.T) {
	w := newWorld(t, func(c *server.Config, _ *trove.Options) {
		c.Quota = job.Quota{Instances: 10, Backups: 20, Volumes: 50}
		c.Datastores = []string{"mysql"}
	})
	s := &play{world: w, p: w.join("db1", project), owner: w.Token(project, access.Operator), stranger: w.Token("elsewhere", access.Operator)}
	s.p.size = 3 << 20
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"count backups", s.count},
		{"begin a backup", func(t *testing.T) { s.full = s.begin(t, "nightly", "") }},
		{"delete it while it runs", func(t *testing.T) { s.refused(t, 422, "DELETE", "/backups/"+s.full, "") }},
		{"restore it while it runs", func(t *testing.T) { s.refused(t, 409, "POST", "/instances", s.copyOf(s.full)) }},
		{"begin another while it runs", func(t *testing.T) { s.refused(t, 422, "POST", "/backups", s.backupOf(s.p.instance, "second", "")) }},
		{"an action while it runs", func(t *testing.T) {
			s.refused(t, 422, "POST", "/instances/"+s.p.instance+"/action", `{"resize": {"flavorRef": "1"}}`)
		}},
		{"delete what there is not", func(t *testing.T) { s.refused(t, 404, "DELETE", "/backups/no_such_backup", "") }},
		{"a backup of what can be no instance", func(t *testing.T) { s.refused(t, 400, "POST", "/backups", s.backupOf("no-such-id", "n", "")) }},
		{"a backup of an instance that there is not", func(t *testing.T) {
			s.refused(t, 404, "POST", "/backups", s.backupOf("01890000-0000-7000-8000-000000000000", "n", ""))
		}},
		{"it is completed", func(t *testing.T) { s.completes(t, s.full) }},
		{"the instance is active", func(*testing.T) { s.idle(s.p.instance, s.owner) }},
		{"list backups", func(t *testing.T) { s.lists(t, "/backups", 1) }},
		{"list those of a datastore", func(t *testing.T) { s.lists(t, "/backups?datastore=couchdb", 1) }},
		{"list those of another datastore", func(t *testing.T) { s.lists(t, "/backups?datastore=mysql", 0) }},
		{"list those of a datastore that there is not", func(t *testing.T) { s.refused(t, 404, "GET", "/backups?datastore=NOT_FOUND", "") }},
		{"list those of an instance", func(t *testing.T) { s.lists(t, "/instances/"+s.p.instance+"/backups", 1) }},
		{"show it", s.shows},
		{"show it to another project", func(t *testing.T) {
			isStatus(t, s.do("GET", "/v1.0/elsewhere/backups/"+s.full, s.stranger, ""), 404)
		}},
		{"a first incremental", func(t *testing.T) { s.inc1 = s.begin(t, "nightly_1", s.full); s.completes(t, s.inc1) }},
		{"a second incremental", func(t *testing.T) { s.inc2 = s.begin(t, "nightly_2", s.inc1); s.completes(t, s.inc2) }},
		{"restore it", func(t *testing.T) { s.restores(t, s.full) }},
		{"delete what was restored", func(t *testing.T) { s.removes(t, "/instances/"+s.copied) }},
		{"restore an incremental", func(t *testing.T) { s.restores(t, s.inc1) }},
		{"delete what was restored of it", func(t *testing.T) { s.removes(t, "/instances/"+s.copied) }},
		{"delete the last incremental", func(t *testing.T) { s.removes(t, "/backups/"+s.inc2) }},
		{"delete as another project", func(t *testing.T) {
			isStatus(t, s.do("DELETE", "/v1.0/elsewhere/backups/"+s.full, s.stranger, ""), 404)
		}},
		{"delete it", func(t *testing.T) { s.removes(t, "/backups/"+s.full) }},
		{"its incremental is gone", func(t *testing.T) { s.refused(t, 404, "GET", "/backups/"+s.inc1, "") }},
	} {
		if !t.Run(step.name, step.do) {
			return
		}
	}
}

func (s *play) backupOf(instance, name, parent string) string {
	if parent != "" {
		parent = fmt.Sprintf(`, "parent_id": %q`, parent)
	}
	return fmt.Sprintf(`{"backup": {"name": %q, "instance": %q, "description": "for the scenario"%s}}`, name, instance, parent)
}

func (s *play) copyOf(backup string) string {
	return fmt.Sprintf(`{"instance": {"name": "copy", "flavorRef": "1", "volume": {"size": 1}, "restorePoint": {"backupRef": %q},
		"datastore": {"type": "couchdb", "version": "3.5"}}}`, backup)
}

func isStatus(t *testing.T, a servertest.Answer, status int) {
	t.Helper()
	if a.Status != status {
		t.Errorf("got %d %s, want %d", a.Status, a.Body, status)
	}
}

func (s *play) refused(t *testing.T, status int, method, path, body string) {
	t.Helper()
	isStatus(t, s.do(method, scene+path, s.owner, body), status)
}

func (s *play) count(*testing.T) {
	var list []any
	s.into(s.do("GET", scene+"/backups", s.owner, ""), 200, "backups", &list)
	s.before = len(list)
}

// begin starts a backup, which runs until completes.
func (s *play) begin(t *testing.T, name, parent string) string {
	t.Helper()
	var version struct{ ID string }
	s.into(s.do("GET", scene+"/datastores/couchdb/versions/3.5", s.owner, ""), 200, "version", &version)
	var b struct {
		ID, Name, Description, Status string
		InstanceID                    string `json:"instance_id"`
		ParentID                      string `json:"parent_id"`
		Datastore                     struct {
			Type, Version string
			VersionID     string `json:"version_id"`
		}
	}
	s.into(s.do("POST", scene+"/backups", s.owner, s.backupOf(s.p.instance, name, parent)), 202, "backup", &b)
	if b.Name != name || b.Description != "for the scenario" || b.InstanceID != s.p.instance || b.Status != "NEW" || b.ParentID != parent ||
		b.Datastore.Type != "couchdb" || b.Datastore.Version != "3.5" || b.Datastore.VersionID != version.ID {
		t.Errorf("got %+v", b)
	}
	var i struct{ Status string }
	if s.into(s.do("GET", scene+"/instances/"+s.p.instance, s.owner, ""), 200, "instance", &i); i.Status != "BACKUP" {
		t.Errorf("the instance is %s meanwhile", i.Status)
	}
	return b.ID
}

func (s *play) completes(t *testing.T, id string) {
	t.Helper()
	s.p.free <- struct{}{}
	s.idle(s.p.instance, s.owner)
	var b struct{ Status string }
	if s.into(s.do("GET", scene+"/backups/"+id, s.owner, ""), 200, "backup", &b); b.Status != "COMPLETED" {
		t.Errorf("it is %s", b.Status)
	}
}

// lists reads a list of backups, of which the scenario has made so many.
func (s *play) lists(t *testing.T, path string, made int) {
	t.Helper()
	var list []struct {
		Name, Status string
		Size         float64
	}
	s.into(s.do("GET", scene+path, s.owner, ""), 200, "backups", &list)
	if want := (s.before + 1) * made; len(list) != want {
		t.Fatalf("got %d backups, want %d", len(list), want)
	}
	if made > 0 && (list[0].Name != "nightly" || list[0].Status != "COMPLETED" || list[0].Size <= 0) {
		t.Errorf("the first is %+v", list[0])
	}
}

func (s *play) shows(t *testing.T) {
	a := s.do("GET", scene+"/backups/"+s.full, s.owner, "")
	isStatus(t, a, 200)
	for _, part := range []string{`"status":"COMPLETED"`, `"type":"couchdb"`, `"version":"3.5"`, s.p.instance} {
		if !strings.Contains(a.Body, part) {
			t.Errorf("no %s in %s", part, a.Body)
		}
	}
}

func (s *play) restores(t *testing.T, id string) {
	t.Helper()
	var i struct{ ID, Status string }
	if s.into(s.do("POST", scene+"/instances", s.owner, s.copyOf(id)), 200, "instance", &i); i.Status != "BUILD" {
		t.Errorf("at first it is %s", i.Status)
	}
	s.p.free <- struct{}{}
	s.idle(i.ID, s.owner)
	s.copied = i.ID
}

// removes deletes something, and waits until it is gone.
func (s *play) removes(t *testing.T, path string) {
	t.Helper()
	isStatus(t, s.do("DELETE", scene+path, s.owner, ""), 202)
	for done := false; !done; { // of a family each is a job of its own
		select {
		case s.p.free <- struct{}{}:
		default:
			done = s.do("GET", scene+path, s.owner, "").Status == 404 && len(s.unended()) == 0
		}
	}
}

func (s *play) unended() (jobs []*job.Job) {
	for _, j := range s.Server.Jobs(&access.Caller{Project: project}) {
		if !j.State.Ended() {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// A client shows why a backup failed: Trove has no field for that, but what else there is
// is printed.
func TestFaultOfABackup(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	p.fault = "the disk is full"
	close(p.free)
	token := w.Token(project, access.Operator)
	var b struct{ ID, Status, Fault string }
	w.into(w.do("POST", scene+"/backups", token, `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`), 202, "backup", &b)
	w.idle(p.instance, token)
	if w.into(w.do("GET", scene+"/backups/"+b.ID, token, ""), 200, "backup", &b); b.Status != "FAILED" || b.Fault != "the disk is full" {
		t.Errorf("got %+v", b)
	}
}

// A further datastore is shown, has no versions, and no instances can be made of it.
func TestFurtherDatastores(t *testing.T) {
	w := newWorld(t, func(c *server.Config, _ *trove.Options) { c.Datastores = []string{"mysql"} })
	w.join("db1", project)
	token := w.Token(project, access.Operator)
	var all []struct{ ID, Name string }
	w.into(w.do("GET", scene+"/datastores", token, ""), 200, "datastores", &all)
	if len(all) != 2 || all[0].Name != "couchdb" || all[1].Name != "mysql" || all[0].ID == all[1].ID {
		t.Fatalf("got %+v", all)
	}
	for _, ref := range []string{"mysql", all[1].ID} {
		var d struct {
			Name     string
			Versions []any
		}
		if w.into(w.do("GET", scene+"/datastores/"+ref, token, ""), 200, "datastore", &d); d.Name != "mysql" || d.Versions == nil || len(d.Versions) > 0 {
			t.Errorf("got %+v", d)
		}
		var versions []any
		if w.into(w.do("GET", scene+"/datastores/"+ref+"/versions", token, ""), 200, "versions", &versions); len(versions) > 0 {
			t.Errorf("got versions %v", versions)
		}
		for _, path := range []string{"/versions/3.5", "/versions/3.5/flavors"} {
			isStatus(t, w.do("GET", scene+"/datastores/"+ref+path, token, ""), 404)
		}
		a := w.do("POST", scene+"/instances", token, `{"instance": {"name": "n", "flavorRef": 1, "datastore": {"type": "`+ref+`"}}}`)
		if _, message := isFault(t, a); a.Status != 400 || !strings.Contains(message, "mysql") {
			t.Errorf("an instance of it: %d %s", a.Status, a.Body)
		}
	}
}

// What people have shows it, unchanged.
func TestStockClientsShowFaults(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("runs clients that take seconds each")
	}
	openstackClient, troveClient := testenv.Preload(t, "openstack"), testenv.Preload(t, "trove")
	w := newWorld(t, func(_ *server.Config, o *trove.Options) { o.URL = "" })
	p := w.join("db1", project)
	p.fault = "the disk is full"
	close(p.free)
	token := w.Token(project, access.Operator)
	var b struct{ ID string }
	w.into(w.do("POST", scene+"/backups", token, `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`), 202, "backup", &b)
	w.idle(p.instance, token)
	for _, s := range []*strand{
		{t: t, program: openstackClient, options: []string{"database", "backup", "show"}, shown: "openstack", env: []string{"OS_AUTH_TYPE=admin_token", "OS_ENDPOINT=" + w.HTTP.URL + scene, "OS_TOKEN=" + token}},
		{t: t, program: troveClient, options: []string{"backup-show"}, shown: "trove", env: []string{"OS_AUTH_URL=" + w.HTTP.URL + "/auth/v1.0", "OS_USERNAME=joe", "OS_PASSWORD=" + token,
			"OS_PROJECT_NAME=" + project, "TROVE_BYPASS_URL=" + w.HTTP.URL + scene}},
	} {
		if out := s.ok(b.ID); !strings.Contains(out, "FAILED") || !strings.Contains(out, p.fault) {
			t.Errorf("%s shows no reason: %s", s.shown, out)
		}
	}
}
