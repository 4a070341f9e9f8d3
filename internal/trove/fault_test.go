package trove_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/trove"
)

// isFault checks that an answer is one fault in Trove's form, and returns its key and
// message.
func isFault(t testing.TB, a servertest.Answer) (key, message string) {
	t.Helper()
	var body map[string]map[string]any
	if err := json.Unmarshal([]byte(a.Body), &body); err != nil || len(body) != 1 {
		t.Fatalf("no fault: %d %q (%v)", a.Status, a.Body, err)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("a fault of type %q", got)
	}
	for k, fault := range body {
		key = k
		message, _ = fault["message"].(string)
		if code, ok := fault["code"].(float64); !ok || int(code) != a.Status {
			t.Errorf("code %v in a fault with status %d", fault["code"], a.Status)
		}
		if message == "" {
			t.Errorf("a fault without a message: %s", a.Body)
		}
	}
	return key, message
}

// fault is a row of the table: a request and how it must be refused.
type fault struct {
	name, method, path, body string
	token                    string // name in the test
	status                   int
	key, message             string // message: a part of it
}

func TestFaults(t *testing.T) {
	w := newWorld(t, func(c *server.Config, _ *trove.Options) { c.Quota = job.Quota{Instances: 3, Backups: 3, Volumes: 4} })
	p, other := w.join("db1", project), w.join("db9", "other")
	p.size = 3 << 30
	tokens := map[string]string{
		"operator": w.Token(project, access.Operator), "viewer": w.Token(project, access.Viewer),
		"admin": w.Token(project, access.Admin), "other": w.Token("other", access.Operator), "none": "", "bad": "slc_nonsense",
	}
	const root = "/v1.0/" + project

	// A backup that ended, one that failed, and one that runs.
	make := func(project, instance, token, name string) string {
		var b struct{ ID, Status string }
		w.into(w.do("POST", "/v1.0/"+project+"/backups", token, `{"backup": {"name": "`+name+`", "instance": "`+instance+`"}}`), 202, "backup", &b)
		return b.ID
	}
	backup := make(project, p.instance, tokens["operator"], "done")
	p.free <- struct{}{}
	w.idle(p.instance, tokens["operator"])
	p.mu.Lock()
	p.fault = "the disk is full"
	p.mu.Unlock()
	failed := make(project, p.instance, tokens["operator"], "failed")
	p.free <- struct{}{}
	w.idle(p.instance, tokens["operator"])
	running := make(project, p.instance, tokens["operator"], "running")
	foreign := make("other", other.instance, tokens["other"], "foreign")
	other.free <- struct{}{}
	servertest.Eventually(t, "the other instance is free", func() bool {
		i, err := w.Server.Instance(t.Context(), &access.Caller{Project: "other"}, other.instance)
		return err == nil && i.Task == ""
	})

	unknown := "01890000-0000-7000-8000-000000000000"
	instance := func(rest string) string {
		return `{"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}` + rest + `}}`
	}
	restore := func(id string) string { return instance(`, "restorePoint": {"backupRef": "` + id + `"}`) }
	rows := []fault{
		{"body fails its schema", "POST", root + "/backups", `{"backup": {"name": 5, "instance": "` + p.instance + `"}}`, "operator", 400, "badRequest", "Validation error: backup.name"},
		{"not JSON", "POST", root + "/backups", `{"backup":`, "operator", 400, "badRequest", "not JSON"},
		{"no body", "POST", root + "/backups", "", "operator", 400, "badRequest", "no body"},
		{"unknown flavor", "POST", root + "/instances", `{"instance": {"name": "n", "flavorRef": 77}}`, "operator", 400, "badRequest", "77"},
		{"unknown version", "POST", root + "/instances", instance(`, "datastore": {"type": "couchdb", "version": "9.9"}`), "operator", 400, "badRequest", "9.9"},
		{"unknown action", "POST", root + "/instances/" + p.instance + "/action", `{"fly": {}}`, "operator", 400, "badRequest", "Invalid action"},
		{"limit is text", "GET", root + "/backups?limit=x", "", "operator", 400, "badRequest", "limit"},
		{"marker is text", "GET", root + "/backups?marker=x", "", "operator", 400, "badRequest", "marker"},
		{"instance is no UUID", "POST", root + "/backups", `{"backup": {"name": "n", "instance": "db1"}}`, "operator", 400, "badRequest", "Validation error: backup.instance"},

		{"no token", "GET", root + "/backups", "", "none", 401, "error", "authentication"},
		{"bad token", "GET", root + "/backups", "", "bad", 401, "error", "authentication"},

		{"URL of another project", "GET", "/v1.0/other/backups", "", "operator", 403, "forbidden", "project"},
		{"backup larger than the volume", "POST", root + "/instances", restore(backup), "operator", 403, "forbidden", "larger"},
		{"role does not allow it", "DELETE", root + "/backups/" + backup, "", "viewer", 403, "forbidden", "role"},
		{"not an administrator", "GET", root + "/mgmt/instances", "", "operator", 403, "forbidden", "role"},
		{"backups of all projects", "GET", root + "/backups?all_projects=True", "", "operator", 403, "forbidden", "administrators"},

		{"unknown backup", "GET", root + "/backups/" + unknown, "", "operator", 404, "itemNotFound", "Resource " + unknown + " cannot be found."},
		{"a name for an id", "GET", root + "/backups/nightly", "", "operator", 404, "itemNotFound", "Resource nightly cannot be found."},
		{"another project's backup", "GET", root + "/backups/" + foreign, "", "operator", 404, "itemNotFound", foreign},
		{"another project's instance", "GET", root + "/instances/" + other.instance, "", "operator", 404, "itemNotFound", other.instance},
		{"restore of another project's backup", "POST", root + "/instances", restore(foreign), "operator", 404, "itemNotFound", foreign},
		{"unknown datastore", "GET", root + "/datastores/mysql", "", "operator", 404, "itemNotFound", "mysql"},
		{"backups of an unknown datastore", "GET", root + "/backups?datastore=mysql", "", "operator", 404, "itemNotFound", "mysql"},
		{"instance of an unknown datastore", "POST", root + "/instances", instance(`, "datastore": {"type": "mysql"}`), "operator", 404, "itemNotFound", "mysql"},
		{"unknown flavor by id", "GET", root + "/flavors/77", "", "operator", 404, "itemNotFound", "77"},
		{"unknown quota", "PUT", root + "/mgmt/quotas/other", `{"quotas": {"ships": 1}}`, "admin", 404, "itemNotFound", "ships"},
		{"unknown path", "GET", root + "/ships", "", "operator", 404, "itemNotFound", "could not be found"},
		{"unknown path of a stranger", "GET", "/v2.0/" + project, "", "none", 404, "itemNotFound", "could not be found"},

		{"method", "DELETE", root + "/backups", "", "operator", 405, "badMethod", "GET"},
		{"method of the versions", "POST", "/", "{}", "none", 405, "badMethod", "GET"},

		{"restore of a running backup", "POST", root + "/instances", restore(running), "operator", 409, "conflict", running},
		{"restore of a failed backup", "POST", root + "/instances", restore(failed), "operator", 409, "conflict", failed},

		{"quota of backups", "POST", root + "/backups", `{"backup": {"name": "n", "instance": "` + p.instance + `"}}`, "operator", 413, "overLimit", "'backups'"},
		{"quota of volumes", "POST", root + "/instances", strings.Replace(instance(""), `"size": 1`, `"size": 5`, 1), "operator", 413, "overLimit", "'volumes'"},
		{"quota before all else", "POST", root + "/backups", `{"backup": {"name": "n", "instance": "` + unknown + `"}}`, "operator", 413, "overLimit", "'backups'"},

		{"restart while a backup runs", "POST", root + "/instances/" + p.instance + "/action", `{"restart": {}}`, "operator", 422, "unprocessableEntity", "BACKUP"},
		{"delete of a running backup", "DELETE", root + "/backups/" + running, "", "operator", 422, "unprocessableEntity", running},

		{"resize while a backup runs", "POST", root + "/instances/" + p.instance + "/action", `{"resize": {"volume": {"size": 4}}}`, "operator", 422, "unprocessableEntity", "BACKUP"},
		{"user while a backup runs", "POST", root + "/instances/" + p.instance + "/users", `{"users": []}`, "operator", 422, "unprocessableEntity", "BACKUP"},
		{"database while a backup runs", "POST", root + "/instances/" + p.instance + "/databases", `{"databases": []}`, "operator", 422, "unprocessableEntity", "BACKUP"},
		{"configuration while a backup runs", "PUT", root + "/instances/" + p.instance, `{"instance": {"configuration": "x"}}`, "operator", 422, "unprocessableEntity", "BACKUP"},
		{"resize of nothing", "POST", root + "/instances/" + unknown + "/action", `{"resize": {"volume": {"size": 4}}}`, "operator", 404, "itemNotFound", unknown},
		{"resize of another project's", "POST", root + "/instances/" + other.instance + "/action", `{"resize": {"volume": {"size": 4}}}`, "operator", 404, "itemNotFound", other.instance},
		{"users of nothing", "GET", root + "/instances/" + unknown + "/users", "", "operator", 404, "itemNotFound", unknown},
		{"root of nothing", "POST", root + "/instances/" + unknown + "/root", "", "operator", 404, "itemNotFound", unknown},
		{"database in nothing", "DELETE", root + "/instances/" + unknown + "/databases/orders", "", "operator", 404, "itemNotFound", unknown},
		{"configuration of nothing", "PATCH", root + "/instances/" + unknown, `{"instance": {"configuration": "x"}}`, "operator", 404, "itemNotFound", unknown},

		{"resize", "POST", "/v1.0/other/instances/" + other.instance + "/action", `{"resize": {"volume": {"size": 4}}}`, "other", 501, "notImplemented", "resize"},
		{"users", "GET", root + "/instances/" + p.instance + "/users", "", "operator", 501, "notImplemented", "Users"},
		{"root", "POST", "/v1.0/other/instances/" + other.instance + "/root", "", "other", 501, "notImplemented", "Administrators"},
		{"create a database", "POST", "/v1.0/other/instances/" + other.instance + "/databases", `{"databases": []}`, "other", 501, "notImplemented", "Databases"},
		{"instance with databases", "POST", root + "/instances", instance(`, "databases": [{"name": "orders"}]`), "operator", 501, "notImplemented", "Databases"},
		{"instance with users", "POST", root + "/instances", instance(`, "users": [{"name": "joe"}]`), "operator", 501, "notImplemented", "Users"},
		{"replica", "POST", root + "/instances", instance(`, "replica_of": "` + p.instance + `"`), "operator", 501, "notImplemented", "Replicas"},
		{"clusters", "GET", root + "/clusters", "", "operator", 501, "notImplemented", "Clusters"},
		{"configurations", "GET", root + "/configurations/" + unknown, "", "operator", 501, "notImplemented", "Configuration"},
		{"change of the configuration", "PUT", "/v1.0/other/instances/" + other.instance, `{"instance": {"configuration": "x"}}`, "other", 501, "notImplemented", "name"},
		{"strategy without Swift", "POST", root + "/backup_strategies", `{"backup_strategy": {"swift_container": "c"}}`, "operator", 501, "notImplemented", "container"},
		{"reboot of the machine", "POST", root + "/mgmt/instances/" + p.instance + "/action", `{"reboot": {}}`, "admin", 501, "notImplemented", "reboot"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			a := w.do(row.method, row.path, tokens[row.token], row.body)
			if a.Status != row.status {
				t.Fatalf("got %d, want %d: %s", a.Status, row.status, a.Body)
			}
			key, message := isFault(t, a)
			if key != row.key || !strings.Contains(message, row.message) {
				t.Errorf("got %s: %q, want %s: %q", key, message, row.key, row.message)
			}
		})
	}

	t.Run("quota of instances", func(t *testing.T) {
		w.into(w.do("PUT", root+"/mgmt/quotas/"+project, tokens["admin"], `{"quotas": {"instances": 1}}`), 200, "", nil)
		a := w.do("POST", root+"/instances", tokens["operator"], instance(""))
		if key, message := isFault(t, a); a.Status != 413 || key != "overLimit" || !strings.Contains(message, "'instances'") {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
		w.into(w.do("PUT", root+"/mgmt/quotas/"+project, tokens["admin"], `{"quotas": {"instances": 5, "backups": 10}}`), 200, "", nil)
	})
	t.Run("backup of another project's instance", func(t *testing.T) {
		a := w.do("POST", root+"/backups", tokens["operator"], `{"backup": {"name": "n", "instance": "`+other.instance+`"}}`)
		if key, message := isFault(t, a); a.Status != 404 || key != "itemNotFound" || !strings.Contains(message, other.instance) {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
	t.Run("busy with a backup, and nothing else in the way", func(t *testing.T) {
		a := w.do("POST", root+"/backups", tokens["operator"], `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`)
		if key, _ := isFault(t, a); a.Status != 422 || key != "unprocessableEntity" {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
	t.Run("another project's parent", func(t *testing.T) {
		w.into(w.do("POST", root+"/instances/"+p.instance+"/action", tokens["operator"], `{"reset_status": {}}`), 202, "", nil)
		w.idle(p.instance, tokens["operator"])
		a := w.do("POST", root+"/backups", tokens["operator"], `{"backup": {"name": "n", "instance": "`+p.instance+`", "parent_id": "`+foreign+`"}}`)
		if key, message := isFault(t, a); a.Status != 404 || key != "itemNotFound" || !strings.Contains(message, foreign) {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		w.into(w.do("DELETE", root+"/backups/"+backup, tokens["operator"], ""), 202, "", nil)
		for _, method := range []string{"GET", "DELETE"} {
			if a := w.do(method, root+"/backups/"+backup, tokens["operator"], ""); a.Status != 404 {
				t.Errorf("%s: got %d %s", method, a.Status, a.Body)
			}
		}
	})
	t.Run("tokens can't be checked", func(t *testing.T) {
		w.gate.set(access.ErrUnavailable)
		defer w.gate.set(nil)
		a := w.do("GET", root+"/backups", tokens["operator"], "")
		if key, _ := isFault(t, a); a.Status != 503 || key != "serviceUnavailable" {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
	t.Run("anything else", func(t *testing.T) {
		w.gate.set(errors.New("the moon is made of cheese"))
		defer w.gate.set(nil)
		a := w.do("GET", root+"/backups", tokens["operator"], "")
		key, message := isFault(t, a)
		if a.Status != 500 || key != "instanceFault" || !strings.Contains(message, a.Header.Get(httpd.RequestIDHeader)) || strings.Contains(a.Body, "cheese") {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
		if log := w.Logged(); !strings.Contains(log, "cheese") || !strings.Contains(log, a.Header.Get(httpd.RequestIDHeader)) {
			t.Errorf("the log has no cause: %s", log)
		}
	})
	t.Run("content type", func(t *testing.T) {
		a := w.do("POST", root+"/backups", tokens["operator"], `{"backup": {}}`, "Content-Type", "text/plain")
		if key, _ := isFault(t, a); a.Status != 415 || key != "badMediaType" {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
	t.Run("large body", func(t *testing.T) {
		a := w.do("POST", root+"/backups", tokens["operator"], strings.Repeat(" ", 1<<20)+"{}")
		if key, _ := isFault(t, a); a.Status != 413 || key != "overLimit" {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	})
}

// TestNoSwift: where backups belong in the caller's account, a catalog without one is a
// 404.
func TestNoSwift(t *testing.T) {
	who := &access.Caller{UserID: "u", Project: project, Role: access.Operator, Token: "t"}
	w := newWorld(t, func(c *server.Config, _ *trove.Options) { c.OwnSwift = true })
	p := w.join("db1", project)
	w.gate.be(who)
	a := w.do("POST", "/v1.0/"+project+"/backups", "t", `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`)
	if key, message := isFault(t, a); a.Status != 404 || key != "itemNotFound" || !strings.Contains(message, "object store") {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
}

// TestUnauthorized: what Keystone's middleware says, and where to log in.
func TestUnauthorized(t *testing.T) {
	w := newWorld(t, func(_ *server.Config, o *trove.Options) { o.Keystone = "http://keystone.example:5000/v3" })
	a := w.do("GET", "/v1.0/"+project+"/instances", "", "")
	if want := `Keystone uri="http://keystone.example:5000/v3"`; a.Status != 401 || a.Header.Get("WWW-Authenticate") != want {
		t.Errorf("got %d with %q, want 401 with %q", a.Status, a.Header.Get("WWW-Authenticate"), want)
	}
	var body struct {
		Error struct {
			Code           int
			Title, Message string
		}
	}
	if err := json.Unmarshal([]byte(a.Body), &body); err != nil || body.Error.Title != "Unauthorized" || body.Error.Code != 401 {
		t.Errorf("got %s (%v)", a.Body, err)
	}
}

// TestRateLimit: over the limit of callers comes Trove's 413, and the limits say how
// many are left.
func TestRateLimit(t *testing.T) {
	w := newWorld(t, func(_ *server.Config, o *trove.Options) { o.Callers = httpd.NewLimiter(3) })
	token := w.Token(project, access.Viewer)
	var limits []struct {
		Verb             string
		Value, Remaining int
		Unit             string
	}
	w.into(w.do("GET", "/v1.0/"+project+"/limits", token, ""), 200, "limits", &limits)
	if len(limits) < 2 || limits[0].Verb != "ABSOLUTE" || limits[1].Value != 3 || limits[1].Remaining != 2 || limits[1].Unit != "MINUTE" {
		t.Errorf("got %+v", limits)
	}
	a := w.do("GET", "/v1.0/"+project+"/limits", token, "")
	for n := 0; a.Status == 200 && n < 100; n++ { // each 20 s that this takes allow one more
		a = w.do("GET", "/v1.0/"+project+"/limits", token, "")
	}
	if key, _ := isFault(t, a); a.Status != http.StatusRequestEntityTooLarge || key != "overLimit" || a.Header.Get("Retry-After") == "" ||
		!strings.Contains(a.Body, `"retryAfter":"`+a.Header.Get("Retry-After")+`"`) || !strings.Contains(a.Body, `"details":`) {
		t.Errorf("got %d %v %s", a.Status, a.Header, a.Body)
	}
	if a := w.do("GET", "/v1.0/"+project+"/limits", w.Token(project, access.Viewer), ""); a.Status != 200 {
		t.Errorf("another caller: got %d", a.Status)
	}
}

// Half of a catalog is no answer, and what is deleted by it may be needed.
func TestNothingIsAnsweredBeforeTheCatalogIsRead(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	token := w.Token(project, access.Operator)
	unread, err := server.New(t.Context(), server.Config{Bus: w.Bus, Log: w.Log})
	if err != nil {
		t.Fatal(err)
	}
	w.Serve(httpd.API{Name: "trove", Broken: trove.Broken, TooMany: trove.TooMany}, trove.New(trove.Options{Server: unread, Checker: w.Tokens, Log: w.Log}))
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/v1.0/" + project + "/instances", ""},
		{"GET", "/v1.0/" + project + "/backups", ""},
		{"POST", "/v1.0/" + project + "/backups", `{"backup": {"name": "n", "instance": "` + p.instance + `"}}`},
		{"DELETE", "/v1.0/" + project + "/instances/" + p.instance, ""},
		{"GET", "/auth/v1.0", ""},
	} {
		a := w.do(r.method, r.path, token, r.body)
		var fault struct{ Message string }
		w.into(a, 503, "serviceUnavailable", &fault)
		if a.Header.Get("Retry-After") != "1" || !strings.Contains(fault.Message, "reading its catalog") {
			t.Errorf("%s %s: %v %s", r.method, r.path, a.Header, a.Body)
		}
	}
	w.into(w.do("GET", "/", "", ""), 200, "", nil)

	servertest.Background(t, unread.Run)
	if err := unread.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	var list []any
	if w.into(w.do("GET", "/v1.0/"+project+"/instances", token, ""), 200, "instances", &list); len(list) != 1 {
		t.Errorf("then it lists %v", list)
	}
}

// TestWithoutNATS: what can't be looked up or stored now can be asked for later.
func TestWithoutNATS(t *testing.T) {
	cluster := bustest.Start(t, 1, func(int, *nats.Options) {})
	w := servertest.New(t, bus.Options{URL: cluster.URL()}, server.Config{})
	w.Serve(httpd.API{Name: "trove", Broken: trove.Broken, TooMany: trove.TooMany}, trove.New(trove.Options{Server: w.Server, Checker: access.None{}, Log: w.Log}))
	cluster.Stop(0)
	if a := servertest.Do(t, "PUT", w.HTTP.URL+"/v1.0/default/mgmt/quotas/acme", "", `{"quotas": {"backups": 1}}`); a.Status != 503 {
		t.Errorf("%d, %s", a.Status, a.Body)
	}
}
