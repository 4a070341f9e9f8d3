package opened_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

const fixture = "../../testdata/couchdb-3.5.0/data"

// world is a server whose catalog has a backup of each of two projects, in one repository.
type world struct {
	*servertest.World
	t      *testing.T
	set    *opened.Set
	repo   *repo.Repo
	backup map[string]string // ids, by project
	open   map[string]string // operators' tokens, by project
	held   atomic.Int32      // repositories that are open
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, backup: map[string]string{}, open: map[string]string{}}
	w.World = servertest.New(t, bus.Options{}, server.Config{})
	r, _ := servetest.Backup(t, fixture)
	w.repo = r
	var found []server.Found
	for _, project := range []string{"acme", "shop"} {
		f := w.backUp("db-"+project, project)
		found = append(found, f)
		w.backup[project], w.open[project] = f.Record.Labels[job.LabelBackup], w.Token(project, access.Operator)
	}
	_, err := server.Rebuild(t.Context(), w.Bus, "default", found)
	must(t, err)
	w.set, err = opened.New(opened.Options{Server: w.Server, Checker: w.Tokens, Most: 4, Version: "test", Log: w.Log, Metrics: prometheus.NewRegistry(),
		Repo: func(context.Context, *access.Caller, *job.Backup) (*repo.Repo, func(), error) {
			w.held.Add(1)
			return r, func() { w.held.Add(-1) }, nil
		}})
	must(t, err)
	api := admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", Serves: w.set})
	serves := httpd.API{Name: "serve", Log: w.Log, Broken: admin.Broken, TooMany: admin.TooMany}.Handler(w.set)
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if opened.Owns(r.URL.EscapedPath()) {
			serves.ServeHTTP(rw, r)
			return
		}
		api.ServeHTTP(rw, r)
	}))
	for _, id := range w.backup {
		servertest.Eventually(t, "the catalog has the backups", func() bool {
			return w.do("GET", "/backups/"+id, w.open["acme"], "").Status == 200 || w.do("GET", "/backups/"+id, w.open["shop"], "").Status == 200
		})
	}
	return w
}

// backUp stores a backup as the agent of a project does.
func (w *world) backUp(instance, project string) server.Found {
	w.t.Helper()
	n, err := node.Locate(w.t.Context(), node.Options{DataDir: fixture})
	must(w.t, err)
	res, err := backup.Run(w.t.Context(), backup.Options{Repo: w.repo, Node: n, Instance: instance, StateDir: w.t.TempDir(), Name: "first", Tool: "test", Labels: labels(w.t, instance, project)})
	must(w.t, err)
	return server.Found{Record: res.Record, Repository: job.Repository{URL: w.repo.URL(), ID: w.repo.Config().ID}}
}

func labels(t *testing.T, instance, project string) map[string]string {
	t.Helper()
	return map[string]string{job.LabelBackup: newUUID(t), job.LabelProject: project, job.LabelInstance: newUUID(t), job.LabelInstanceName: instance}
}

func newUUID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	must(t, err)
	return id.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) do(method, path, token, body string) servertest.Answer {
	w.t.Helper()
	return servertest.Do(w.t, method, w.HTTP.URL+"/slipcover/v1"+path, token, body)
}

// one is a backup that is open.
type one struct {
	ID, URL, Backup, Password string
	Moment                    bool
	Databases                 int
	Ends                      time.Time
}

func (w *world) opens(project, body string) one {
	w.t.Helper()
	var a struct {
		Serve    one
		Password string
	}
	w.do("POST", "/backups/"+w.backup[project]+"/serve", w.open[project], body).Into(w.t, 201, "", &a)
	a.Serve.Password = a.Password
	return a.Serve
}

// get asks what is open for a path.
func (w *world) get(o one, path string) servertest.Answer {
	w.t.Helper()
	return servertest.Do(w.t, "GET", o.URL+path, "", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(opened.User+":"+o.Password)))
}

// reads holds whether something is open.
func (w *world) reads(o one, yes bool, why string) {
	w.t.Helper()
	a := w.get(o, "conflicted/c00")
	if ok := a.Status == 200 && strings.Contains(a.Body, `"_id":"c00"`); ok != yes || !yes && a.Status != 404 {
		w.t.Errorf("%s: %d %s", why, a.Status, a.Body)
	}
}

// What is open is read with its password alone, by nobody else's, and not by a token.
func TestWhoReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine, other := w.opens("acme", ""), w.opens("shop", "{}")
	w.reads(mine, true, "with its password")
	if mine.Databases < 5 || mine.ID == other.ID || mine.Password == other.Password || len(mine.Password) < 20 {
		t.Errorf("%+v, %+v", mine, other)
	}
	for what, o := range map[string]one{
		"another's password": {URL: mine.URL, Password: other.Password},
		"no password":        {URL: mine.URL},
	} {
		if a := w.get(o, "conflicted/c00"); a.Status != 401 || strings.Contains(a.Body, "c00") {
			t.Errorf("%s: %d %s", what, a.Status, a.Body)
		}
	}
	if a := servertest.Do(t, "GET", mine.URL+"_all_dbs", w.open["acme"], ""); a.Status != 401 {
		t.Errorf("with a token: %d %s", a.Status, a.Body)
	}
	if a := servertest.Do(t, "GET", w.HTTP.URL+"/slipcover/v1/serves/"+newUUID(t)+"/couchdb/_all_dbs", w.open["acme"], ""); a.Status != 404 {
		t.Errorf("of an id of nothing: %d %s", a.Status, a.Body)
	}

	// Another project sees nothing of it and can't close it; neither can who only looks.
	viewer := w.Token("acme", access.Viewer)
	for _, tt := range []struct {
		method, path, token string
		status              int
	}{
		{"POST", "/backups/" + w.backup["acme"] + "/serve", w.open["shop"], 404},
		{"POST", "/backups/" + w.backup["acme"] + "/serve", viewer, 403},
		{"POST", "/backups/" + w.backup["acme"] + "/serve", "", 401},
		{"DELETE", "/serves/" + mine.ID, w.open["shop"], 404},
		{"DELETE", "/serves/" + mine.ID, viewer, 403},
		{"GET", "/serves", "", 401},
	} {
		if a := w.do(tt.method, tt.path, tt.token, ""); a.Status != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, a.Status, a.Body)
		}
	}
	for token, n := range map[string]int{w.open["acme"]: 1, viewer: 1, w.open["shop"]: 1, w.Token("none", access.Admin): 2} {
		var list []one
		a := w.do("GET", "/serves", token, "")
		a.Into(t, 200, "serves", &list)
		if len(list) != n || strings.Contains(a.Body, mine.Password) {
			t.Errorf("got %s, want %d", a.Body, n)
		}
	}
	w.reads(mine, true, "after all that")
	w.do("DELETE", "/serves/"+mine.ID, w.open["acme"], "").Into(t, 204, "", nil)
	w.reads(mine, false, "once it is closed")
	w.reads(other, true, "another one")
	if log := w.Audited(); strings.Count(log, `"action":"serve.open"`) < 3 || !strings.Contains(log, `"action":"serve.close","target":"`+mine.ID+`","outcome":"ok"`) || strings.Contains(log, mine.Password) {
		t.Errorf("the audit log: %s", log)
	}
}

// What is open ends: idle, late, with its token, with its backup, with the server; and frees what it held.
func TestEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	look := func(in time.Duration) { w.set.Look(t.Context(), time.Now().Add(in)) }

	o := w.opens("acme", `{"idle":"10m"}`)
	look(9 * time.Minute)
	w.reads(o, true, "not idle for long")
	look(11 * time.Minute)
	w.reads(o, false, "idle")

	o = w.opens("acme", `{"idle":"24h"}`)
	look(23 * time.Hour)
	w.reads(o, true, "a day")
	look(opened.Longest + time.Second)
	w.reads(o, false, "its time is up")

	// Feeds that wait keep it open, and end with it.
	o = w.opens("acme", "")
	req, err := http.NewRequestWithContext(t.Context(), "GET", o.URL+"conflicted/_changes?feed=continuous&heartbeat=1000&since=now", nil)
	must(t, err)
	req.SetBasicAuth(opened.User, o.Password)
	feed, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	defer feed.Body.Close()
	look(2 * time.Hour)
	w.reads(o, true, "while something waits")
	w.do("DELETE", "/serves/"+o.ID, w.open["acme"], "").Into(t, 204, "", nil)
	_, _ = io.Copy(io.Discard, feed.Body) // until it ends

	token, secret, err := w.Tokens.Create(t.Context(), access.Token{Name: "short", Project: "acme", Role: access.Operator, Expires: time.Now().Add(time.Hour)})
	must(t, err)
	mine := w.open["acme"]
	w.open["acme"] = secret.Reveal()
	o = w.opens("acme", "")
	if o.Ends.After(token.Expires) {
		t.Errorf("it ends at %v, after its token at %v", o.Ends, token.Expires)
	}
	look(0)
	w.reads(o, true, "while its token counts")
	must(t, w.Tokens.Revoke(t.Context(), "acme", token.ID))
	look(0)
	w.reads(o, false, "its token was revoked")
	w.open["acme"] = mine

	o = w.opens("acme", "")
	table, err := w.Bus.Table(t.Context(), "backups")
	must(t, err)
	must(t, table.Delete(t.Context(), w.backup["acme"], 0)) // as another server does
	servertest.Eventually(t, "what was deleted isn't shown", func() bool { return w.get(o, "conflicted/c00").Status == 404 })

	o = w.opens("shop", "")
	stop := servertest.Background(t, w.set.Run)
	stop()
	w.reads(o, false, "the server ends")
	if a := w.do("POST", "/backups/"+w.backup["shop"]+"/serve", w.open["shop"], ""); a.Status != 503 {
		t.Errorf("of a server that ends: %d %s", a.Status, a.Body)
	}
	servertest.Eventually(t, "all repositories are closed", func() bool { return w.held.Load() == 0 })
}

// A project has half of the places.
func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	open := func(project string, status int, say string) {
		t.Helper()
		if a := w.do("POST", "/backups/"+w.backup[project]+"/serve", w.open[project], ""); a.Status != status || !strings.Contains(a.Body, say) {
			t.Errorf("%d %s, want %d: …%s…", a.Status, a.Body, status, say)
		}
	}
	for range 2 {
		open("acme", 201, "")
	}
	open("acme", 422, "half of the setting")
	for range 2 {
		open("shop", 201, "")
	}
	open("shop", 422, "as many backups open as it may (the setting serves)")
	for body, say := range map[string]string{`{"idle":"1s"}`: "idle must be", `{"idle":"25h"}`: "idle must be", `{"at":"soon"}`: "", fmt.Sprintf(`{"at":%q}`, time.Now().Add(time.Hour).Format(time.RFC3339)): "future", `{"nosuch":1}`: "nosuch"} {
		if a := w.do("POST", "/backups/"+w.backup["acme"]+"/serve", w.open["acme"], body); a.Status != 400 || !strings.Contains(a.Body, say) {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	// What was refused holds nothing.
	var list []one
	w.do("GET", "/serves", w.open["acme"], "").Into(t, 200, "serves", &list)
	for _, o := range list {
		w.do("DELETE", "/serves/"+o.ID, w.open["acme"], "").Into(t, 204, "", nil)
	}
	open("acme", 201, "")
}

// A backup whose record is another project's isn't shown, whatever the catalog says of it, and neither is a moment.
func TestNotAnothersRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.backUp("db-other", "shop")
	rec := *f.Record
	rec.Labels = labels(t, "db-other", "acme") // as a catalog that was told so has it
	f.Record = &rec
	_, err := server.Rebuild(t.Context(), w.Bus, "default", []server.Found{f})
	must(t, err)
	path := "/backups/" + rec.Labels[job.LabelBackup]
	servertest.Eventually(t, "the catalog has it", func() bool { return w.do("GET", path, w.open["acme"], "").Status == 200 })
	for _, body := range []string{"", fmt.Sprintf(`{"at":%q}`, time.Now().Format(time.RFC3339Nano))} {
		if a := w.do("POST", path+"/serve", w.open["acme"], body); a.Status != 403 || !strings.Contains(a.Body, "another project's") {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
}

// A moment is opened as it is stored.
func TestMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.opens("acme", fmt.Sprintf(`{"at":%q}`, time.Now().Format(time.RFC3339Nano)))
	if !o.Moment {
		t.Errorf("%+v", o)
	}
	w.reads(o, true, "a moment")
	if a := w.do("POST", "/backups/"+w.backup["acme"]+"/serve", w.open["acme"], `{"at":"2001-01-01T00:00:00Z"}`); a.Status != 409 || !strings.Contains(a.Body, "no such moment") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
