package trove_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/trove"
)

// TestRoles: each route is closed to the roles below the one that it needs, and to
// those that have none, whatever the request is.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	roles := []access.Role{access.Viewer, access.Operator, access.Admin}
	tokens := map[access.Role]string{}
	for _, r := range roles {
		tokens[r] = w.Token(project, r)
	}
	for pattern, needs := range trove.Needs() {
		method, path, _ := strings.Cut(pattern, " ")
		path = "/v1.0/" + project + strings.NewReplacer("{id}", "01890000-0000-7000-8000-000000000000", "{project}", "p", "{datastore}", "d",
			"{version}", "v", "{a}", "a", "{b}", "b", "{name}", "n").Replace(path)
		changes := method != "GET"
		if changes && needs < access.Operator {
			t.Errorf("%s changes something and needs only %s", pattern, needs)
		}
		if strings.Contains(pattern, " /mgmt/") != (needs == access.Admin) {
			t.Errorf("%s needs %s", pattern, needs)
		}
		for _, r := range roles {
			a := w.do(method, path, tokens[r], "")
			if refused := a.Status == 403; refused != (r < needs) {
				t.Errorf("%s as %s: got %d, needs %s", pattern, r, a.Status, needs)
			}
		}
		if a := w.do(method, path, "", ""); a.Status != 401 {
			t.Errorf("%s without a token: got %d", pattern, a.Status)
		}
		if a := w.do(method, strings.Replace(path, project, "other", 1), tokens[access.Admin], ""); a.Status != 403 {
			t.Errorf("%s in another project: got %d", pattern, a.Status)
		}
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} { // what isn't ours
		if a := w.do(method, "/v1.0/"+project+"/clusters", tokens[access.Viewer], ""); a.Status != 403 {
			t.Errorf("%s by a viewer: got %d", method, a.Status)
		}
	}
}

// TestLogIn is Swift's log-in with tokens of our own.
func TestLogIn(t *testing.T) {
	w := newWorld(t)
	token := w.Token(project, access.Operator)
	a := w.do("GET", "/auth/v1.0", "", "", "X-Auth-User", "joe", "X-Auth-Key", token, "X-Auth-Project-Id", project)
	if a.Status != 204 || a.Header.Get("X-Auth-Token") != token || a.Header.Get("X-Server-Management-Url") != "https://db.example.org:8779/v1.0/"+project {
		t.Errorf("got %d with %v", a.Status, a.Header)
	}
	for name, header := range map[string][]string{"no key": {"X-Auth-User", "joe"}, "wrong key": {"X-Auth-User", "joe", "X-Auth-Key", "secret"}} {
		a := w.do("GET", "/auth/v1.0", "", "", header...)
		if key, _ := isFault(t, a); a.Status != 401 || key != "error" {
			t.Errorf("%s: got %d %s", name, a.Status, a.Body)
		}
	}
	if a := w.do("POST", "/auth/v1.0", "", "{}"); a.Status != 405 {
		t.Errorf("POST: got %d", a.Status)
	}
}

// TestNobodyAsked: without any check of tokens the project is the URL's.
func TestNobodyAsked(t *testing.T) {
	w := newWorld(t, func(_ *server.Config, o *trove.Options) { o.Checker, o.URL = access.None{}, "" })
	a := w.do("GET", "/auth/v1.0", "", "", "X-Auth-User", "joe", "X-Auth-Key", "any", "X-Auth-Project-Id", "mine")
	if a.Status != 204 || a.Header.Get("X-Server-Management-Url") != w.HTTP.URL+"/v1.0/mine" {
		t.Errorf("got %d with %v, want links to the host that was asked", a.Status, a.Header)
	}
	p := w.join("db1", "mine")
	for project, want := range map[string]int{"mine": 1, "yours": 0} {
		var list []struct{ ID string }
		w.into(w.do("GET", "/v1.0/"+project+"/instances", "notused", ""), 200, "instances", &list)
		if len(list) != want {
			t.Errorf("project %s has %v", project, list)
		}
	}
	if a := w.do("GET", "/v1.0/yours/instances/"+p.instance, "", ""); a.Status != 404 {
		t.Errorf("another project's instance: got %d", a.Status)
	}
	if a := w.do("GET", "/v1.0/b%20d/instances", "", ""); a.Status != 403 {
		t.Errorf("a project that can't be: got %d", a.Status)
	}
}

// follow reads all pages of a list, by the links.
func (w *world) follow(path, key, token string) (ids []string, sizes []int) {
	w.t.Helper()
	for {
		a := w.do("GET", path, token, "")
		var list []struct{ ID string }
		w.into(a, 200, key, &list)
		for _, i := range list {
			ids = append(ids, i.ID)
		}
		sizes = append(sizes, len(list))
		var body struct{ Links []struct{ Rel, Href string } }
		if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
			w.t.Fatal(err)
		}
		if len(body.Links) == 0 {
			return ids, sizes
		}
		next, err := url.Parse(body.Links[0].Href)
		if err != nil || body.Links[0].Rel != "next" || len(sizes) > 50 {
			w.t.Fatalf("links %+v (%v)", body.Links, err)
		}
		path = next.RequestURI()
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	close(p.free)
	token := w.Token(project, access.Operator)
	const root = "/v1.0/" + project
	var made []string
	for n := range 21 {
		var b struct{ ID string }
		w.into(w.do("POST", root+"/backups", token, fmt.Sprintf(`{"backup": {"name": "b%d", "instance": %q}}`, n, p.instance)), 202, "backup", &b)
		made = append(made, b.ID)
		w.idle(p.instance, token)
	}
	slices.Reverse(made) // the newest first
	for query, want := range map[string][]int{"": {20, 1}, "?limit=7": {7, 7, 7, 0}, "?limit=8&datastore=couchdb": {8, 8, 5}, "?limit=1000": {21}, "?marker=20": {1}, "?marker=400": {0},
		"?limit=9223372036854775807": {21}, "?limit=9223372036854775807&marker=9223372036854775807": {0}} {
		ids, sizes := w.follow(root+"/backups"+query, "backups", token)
		if !slices.Equal(sizes, want) {
			t.Errorf("%s: got pages of %v, want %v", query, sizes, want)
		}
		if !strings.Contains(query, "marker") && !slices.Equal(ids, made) {
			t.Errorf("%s: got %v, want %v", query, ids, made)
		}
	}
	for n := range 22 {
		name := fmt.Sprintf("n%d", n)
		_, public, err := bus.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Server.Join(t.Context(), server.Joining{Name: name, Project: project, Admin: true, PublicKey: public, Hello: job.Hello{Session: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if list := w.do("GET", "/v1.0/ops/mgmt/instances?limit=2&deleted=False", w.Token("ops", access.Admin), ""); !strings.Contains(list.Body, `"tenant_id":"`+project+`"`) ||
		!strings.Contains(list.Body, `/v1.0/ops/mgmt/instances?deleted=False&limit=2&marker=`) {
		t.Errorf("an administrator's list: %s", list.Body)
	}
	for query, want := range map[string][]int{"": {20, 3}, "?limit=100": {20, 3}, "?limit=10": {10, 10, 3}, "?limit=23&include_clustered=False": {20, 3}, "/detail?limit=20": {20, 3}} {
		ids, sizes := w.follow(root+"/instances"+query, "instances", token)
		if !slices.Equal(sizes, want) || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 23 {
			t.Errorf("%s: got pages of %v, want %v", query, sizes, want)
		}
	}
	for _, query := range []string{"/backups?limit=0", "/backups?limit=-1", "/backups?marker=-1", "/backups?limit=1e3", "/backups?limit=99999999999999999999", "/backups?marker=1.5", "/instances?limit=many"} {
		if a := w.do("GET", root+query, token, ""); a.Status != 400 {
			t.Errorf("%s: got %d", query, a.Status)
		}
	}
}

// TestBodies: wrong types are refused with the field's name, and what isn't known is let
// through.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	close(p.free)
	token := w.Token(project, access.Operator)
	const root = "/v1.0/" + project
	id := p.instance
	long := strings.Repeat("é", 255)
	for _, c := range []struct{ path, body, message string }{
		{"/backups", `[]`, "Validation error: the body must be a JSON object, not a list"},
		{"/backups", `null`, "Validation error: the body must be a JSON object, not null"},
		{"/backups", `{}`, "Validation error: backup is required"},
		{"/backups", `{"backup": null}`, "Validation error: backup is required"},
		{"/backups", `{"Backup": {"name": "n"}}`, "Validation error: backup is required"},
		{"/backups", `{"backup": []}`, "Validation error: backup must be an object, not a list"},
		{"/backups", `{"backup": {"instance": "` + id + `"}}`, "Validation error: backup.name is required"},
		{"/backups", `{"backup": {"name": "", "instance": "` + id + `"}}`, "Validation error: backup.name must be 1 to 255 characters with a letter or a digit among them"},
		{"/backups", `{"backup": {"name": " -- ", "instance": "` + id + `"}}`, "Validation error: backup.name must be 1 to 255 characters with a letter or a digit among them"},
		{"/backups", `{"backup": {"name": "` + long + `x", "instance": "` + id + `"}}`, "Validation error: backup.name must have at most 255 characters"},
		{"/backups", `{"backup": {"name": "n", "description": {}, "instance": "` + id + `"}}`, "Validation error: backup.description must be a string, not an object"},
		{"/backups", `{"backup": {"name": "n"}}`, "Validation error: backup.instance is required"},
		{"/backups", `{"backup": {"name": "n", "instance": 5}}`, "Validation error: backup.instance must be a string, not a number"},
		{"/backups", `{"backup": {"name": "n", "instance": "{` + id + `}"}}`, "Validation error: backup.instance must be a UUID"},
		{"/backups", `{"backup": {"name": "n", "instance": "` + id + `", "parent_id": "p"}}`, "Validation error: backup.parent_id must be a UUID"},
		{"/backups", `{"backup": {"name": "n", "instance": "` + id + `", "incremental": 2}}`, "Validation error: backup.incremental must be 0 or 1, or true or false"},
		{"/backups", `{"backup": {"name": "n", "instance": "` + id + `", "incremental": "yes"}}`, "Validation error: backup.incremental must be 0 or 1, or true or false"},
		{"/backups", `{"backup": {"name": "n", "instance": "` + id + `", "swift_container": "a/b"}}`, "Validation error: backup.swift_container must be the name of a container, of 1 to 256 bytes without a slash"},
		{"/backups", `{"backup": {"name": "n", "restore_from": {}}}`, "Validation error: backup.restore_from.remote_location must be the URL of a backup, of at most 4096 bytes"},
		{"/backups", `{"backup": {"name": "n", "restore_from": {"remote_location": "x", "size": -1.5}}}`, "Validation error: backup.restore_from.size must be a number from 0 on"},
		{"/backups", `{"backup": {"name": "n", "instance": "` + id + `"}} {}`, "The body is more than one JSON value."},
		{"/backups", `{"backup": {"name": "n` + "\xff" + `", "instance": "` + id + `"}}`, "The body is not UTF-8."},
		{"/backups", `{"backup": {"name": "n\u001b[2J", "instance": "` + id + `"}}`, "Validation error: backup.name must have no control characters"},
		{"/backups", `{"backup": {"name": "two\nlines", "instance": "` + id + `"}}`, "Validation error: backup.name must be one line"},
		{"/backups", `{"backup": {"name": "turned \u202e", "instance": "` + id + `"}}`, "Validation error: backup.name must have no control characters"},
		{"/backups", `{"backup": {"name": "n", "description": "bell\u0007", "instance": "` + id + `"}}`, "Validation error: backup.description must have no control characters"},
		{"/backups", `{"backup": {"name": "n", "swift_container": "c\u0000", "instance": "` + id + `"}}`, "Validation error: backup.swift_container must have no control characters"},
		{"/backups", `{"backup": {"name": "n\r", "restore_from": {"remote_location": "x"}}}`, "Validation error: backup.name must have no control characters"},
		{"/instances", `{"instance": {"name": "n\u0085", "flavorRef": 1}}`, "Validation error: instance.name must have no control characters"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "availability_zone": "a\tb"}}`, "Validation error: instance.availability_zone must be one line"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "datastore": {"type": "couch\u001bdb"}}}`, "Validation error: instance.datastore.type must have no control characters"},
		{"/instances", `{"instance": {"name": "n"}}`, "Validation error: instance.flavorRef is required"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": []}}`, "Validation error: instance.flavorRef must be a string, not a list"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "volume": 5}}`, "Validation error: instance.volume must be an object, not a number"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "volume": {"size": 0}}}`, "Validation error: instance.volume.size must be a whole number from 1 to 1048576"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "volume": {"size": 1e400}}}`, "Validation error: instance.volume.size must be a whole number from 1 to 1048576"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "restorePoint": {"backupRef": "b"}}}`, "Validation error: instance.restorePoint.backupRef must be a backup's UUID, or a URL that ends in it"},
		{"/instances", `{"instance": {"name": "n", "flavorRef": 1, "datastore": "couchdb"}}`, "Validation error: instance.datastore must be an object, not a string"},
		{"/instances/" + id + "/action", `{"restart": 5}`, "Validation error: restart must be an object, not a number"},
		{"/instances/" + id + "/action", `{"restart": {}, "reset_status": {}}`, "The body asks for several actions: reset_status, restart."},
		{"/backup_strategies", `{"backup_strategy": {}}`, "Validation error: backup_strategy.swift_container is required"},
	} {
		a := w.do("POST", root+c.path, token, c.body)
		if _, message := isFault(t, a); a.Status != 400 || message != c.message {
			t.Errorf("%s %s: got %d %q, want %q", c.path, c.body, a.Status, message, c.message)
		}
	}
	if a := w.do("POST", root+"/backups", token, strings.Repeat(`{"backup":`, 100000)); a.Status != 400 {
		t.Errorf("deep nesting: got %d", a.Status)
	}
	for _, body := range []string{
		`{"ships": [], "backup": {"name": "` + long + `", "instance": "` + strings.ToUpper(id) + `", "incremental": true, "storage_driver": 5, "description": "two\n\tlines"}}`,
		`{"backup": 5, "backup": {"name": 5, "name": "日本", "description": null, "parent_id": null, "instance": "` + id + `", "incremental": 0}}`,
	} {
		w.into(w.do("POST", root+"/backups", token, body, "Content-Type", "application/json; charset=utf-8"), 202, "", nil)
		w.idle(id, token)
	}
	for _, body := range []string{
		`{"instance": {"name": "a", "flavorRef": "1", "volume": {"size": "2", "type": null}, "databases": [], "users": [], "nics": [{"net-id": "x"}], "access": {"is_public": false}}}`,
		`{"instance": {"name": "b", "flavorRef": "http://h/v1.0/t/flavors/1", "volume": null, "availability_zone": "db1", "datastore": {"version_number": "3.5"}}}`,
	} {
		w.into(w.do("POST", root+"/instances", token, body), 200, "", nil)
	}
	if a := w.do("POST", root+"/instances", token, `{"instance": {"name": "c", "flavorRef": 1, "availability_zone": "nowhere"}}`); a.Status != 400 || !strings.Contains(a.Body, "nowhere") {
		t.Errorf("an agent that isn't there: got %d %s", a.Status, a.Body)
	}
	if a := w.do("PUT", root+"/instances/"+id, token, `{"instance": {"name": "n\u0000"}}`); a.Status != 400 {
		t.Errorf("a name that controls: got %d", a.Status)
	}
	for _, method := range []string{"PUT", "PATCH"} {
		w.into(w.do(method, root+"/instances/"+id, token, `{"instance": {"name": "by `+method+`"}}`), 202, "", nil)
		var i struct{ Name string }
		if w.into(w.do("GET", root+"/instances/"+id, token, ""), 200, "instance", &i); i.Name != "by "+method {
			t.Errorf("%s: the name is %q", method, i.Name)
		}
	}
}

// TestAudit: who did what is in the log, refused or not.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	close(p.free)
	operator, viewer := w.Token(project, access.Operator), w.Token(project, access.Viewer)
	const root = "/v1.0/" + project
	w.do("GET", root+"/instances", operator, "")
	var b struct{ ID string }
	w.into(w.do("POST", root+"/backups", operator, `{"backup": {"name": "n", "instance": "`+p.instance+`"}}`), 202, "backup", &b)
	w.do("POST", root+"/instances/"+p.instance+"/action", viewer, `{"restart": {}}`)
	w.do("POST", root+"/instances/"+p.instance+"/action", operator, `{"reset_status": {}}`)
	text := w.Audited()
	var got []string
	for line := range strings.Lines(text) {
		var r struct {
			Project, Role, Action, Target, Outcome string
			Status                                 int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %d", r.Project, r.Role, r.Action, r.Target, r.Status))
	}
	want := []string{"acme operator backup.create " + b.ID + " 202", "acme viewer instance.action " + p.instance + " 403", "acme operator instance.reset_status " + p.instance + " 202"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, secret := range []string{operator, viewer} {
		if strings.Contains(text, secret) {
			t.Error("a token is in the audit log")
		}
	}
}
