package chttpd_test

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha1"
	enchex "encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// hashSHA1 is a password as CouchDBs before 3.4 hashed it, with ten rounds.
func hashSHA1(password string) string {
	key, err := pbkdf2.Key(sha1.New, password, []byte("salt"), 10, 20)
	if err != nil {
		panic(err) // the arguments are constants
	}
	return enchex.EncodeToString(key)
}

// adminOfOld is a line of an ini file that such a one wrote.
func adminOfOld(password string) string { return "-pbkdf2-" + hashSHA1(password) + ",salt,10" }

// user is a name with a password, right or wrong.
type user struct{ name, password string }

// users are who asks. The databases have the role staff as a member and bob as an administrator.
var users = []user{
	{"", ""}, {"admin", "secret"}, {"older", "old password"}, {"alice", "pw-alice"}, {"bob", "pw-bob"}, {"carol", "pw-carol"}, {"dave", "pw-dave"}, {"erin", "pw-erin"},
	{"admin", "wrong"}, {"older", "wrong"}, {"alice", "wrong"}, {"dave", "wrong"}, {"erin", "wrong"}, {"zoe", "pw-zoe"}, {"nosuch", "x"}, {"alice", ""}, {"ü:x", "y"},
}

// addUsers writes users as servers of all times have hashed them.
func addUsers(t testing.TB, live *testenv.Couch) {
	t.Helper()
	put := func(name string, fields map[string]any) string {
		doc := map[string]any{"type": "user", "name": name, "roles": []string{}}
		for k, v := range fields {
			doc[k] = v
		}
		var res struct {
			Rev string `json:"rev"`
		}
		must(t, live.Put(testenv.DBPath("_users", "org.couchdb.user:"+name), doc, &res))
		return res.Rev
	}
	put("alice", map[string]any{"password": "pw-alice", "roles": []string{"staff", "other"}})
	put("bob", map[string]any{"password": "pw-bob"})
	put("carol", map[string]any{"password": "pw-carol", "roles": []string{"other"}})
	sum := sha1.Sum([]byte("pw-dave" + "salt"))
	put("dave", map[string]any{"password_scheme": "simple", "password_sha": enchex.EncodeToString(sum[:]), "salt": "salt", "roles": []string{"staff"}})
	put("erin", map[string]any{"password_scheme": "pbkdf2", "derived_key": hashSHA1("pw-erin"), "salt": "salt", "iterations": 10})
	rev := put("zoe", map[string]any{"password": "pw-zoe", "roles": []string{"staff"}})
	must(t, live.Delete("/_users/org.couchdb.user:zoe?rev="+rev))
}

// askAs asks as a user, and returns the status and what went wrong.
func (p *pair) askAs(base string, u user, cookie *http.Cookie, a ask) string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), a.method, base+a.path, strings.NewReader(a.body))
	must(p.t, err)
	if a.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if u.name != "" {
		req.SetBasicAuth(u.name, u.password)
	}
	if cookie != nil {
		req.AddCookie(cookie)
	}
	resp, err := p.client.Do(req)
	must(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(p.t, err)
	if resp.StatusCode >= 400 || strings.HasPrefix(a.path, "/_session") {
		return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(b)))
	}
	return fmt.Sprint(resp.StatusCode)
}

// logIn logs in by a form or JSON. The cookie is nil for who can't.
func (p *pair) logIn(base string, u user, form bool) (*http.Cookie, string) {
	p.t.Helper()
	kind, body := "application/json", js(map[string]string{"name": u.name, "password": u.password})
	if form {
		kind, body = "application/x-www-form-urlencoded", url.Values{"name": {u.name}, "password": {u.password}}.Encode()
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, base+"/_session", strings.NewReader(body))
	must(p.t, err)
	req.Header.Set("Content-Type", kind)
	resp, err := p.client.Do(req)
	must(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(p.t, err)
	said := fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(b)))
	for _, c := range resp.Cookies() {
		if c.Name == "AuthSession" && c.Value != "" && resp.StatusCode == http.StatusOK {
			return c, said
		}
	}
	return nil, said
}

// Users of a backup may ask it for what they may ask the server for, by password and by cookie; the others may not.
func backupUsers(t *testing.T, p *pair) {
	auth, err := chttpd.BackupAuth(context.Background(), p.node)
	must(t, err)
	served := p.serve(auth)
	var paths []ask
	for _, path := range []string{
		"/", "/_up", "/_session", "/_uuids", "/_all_dbs", "/_dbs_info", "/_active_tasks", "/_membership", "/_node/_local/_config", "/_scheduler/jobs", "/_scheduler/docs", "/_dbs", "/_dbs/_all_docs", "/nosuch", "/nosuch/doc",
		"/_users", "/_users/_all_docs", "/_users/_changes", "/_users/_security", "/_users/_design/_auth", "/_users/_local_docs", "/_users/_design_docs", "/_users/org.couchdb.user:alice", "/_users/org.couchdb.user:carol",
		"/_users/org.couchdb.user:nosuch", "/_users/org.couchdb.user:zoe", "/_users/org.couchdb.user:dave?rev=1-x", "/_users/org.couchdb.user:alice/att",
		"/_replicator", "/_replicator/_all_docs", "/_replicator/_changes", "/_replicator/nosuch", "/_replicator/_security",
	} {
		paths = append(paths, ask{method: "GET", path: path})
	}
	for _, db := range []string{"/plain", "/sharded", "/parted", "/empty"} {
		for _, path := range []string{
			"", "/_all_docs", "/_design_docs", "/_local_docs", "/_changes", "/_security", "/_revs_limit", "/_purged_infos", "/_purged_infos_limit", "/_shards", "/p1:doc1", "/nosuch:x", "/_local/loc1", "/_design/views", "/_index",
			"/_design/views/_view/by_n", "/_design/views/_info", "/p1:doc1/nosuch",
		} {
			paths = append(paths, ask{method: "GET", path: db + path}, ask{method: "HEAD", path: db + path})
		}
		paths = append(paths, ask{method: "POST", path: db + "/_find", body: `{"selector":{}}`}, ask{method: "POST", path: db + "/_bulk_get", body: `{"docs":[]}`},
			ask{method: "POST", path: db + "/_revs_diff", body: `{}`}, ask{method: "POST", path: db + "/_all_docs", body: `{"keys":[]}`})
	}
	same := func(u user, live, backup *http.Cookie, a ask) {
		t.Helper()
		if want, got := p.askAs(p.live.URL, u, live, a), p.askAs(served, u, backup, a); want != got {
			t.Errorf("%s %s as %v, cookie %v:\nserver: %s\nbackup: %s", a.method, a.path, u, live != nil, want, got)
		}
	}
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 19))
	for i, u := range users {
		right := i < 8
		live, liveSaid := p.logIn(p.live.URL, u, i%2 == 0)
		backup, backupSaid := p.logIn(served, u, i%2 == 0)
		if liveSaid != backupSaid || (live == nil) != (backup == nil) || (backup != nil) != (right && u.name != "") {
			t.Errorf("log-in as %v: server %s, backup %s", u, liveSaid, backupSaid)
		}
		for _, a := range paths {
			if right || rnd.IntN(40) == 0 { // a wrong password takes both long
				same(u, nil, nil, a)
			}
			if live != nil && backup != nil && rnd.IntN(3) == 0 {
				same(user{}, live, backup, a)
			}
		}
	}
	p.openUsers()
	// A member can pull, who isn't one can't.
	for name, member := range map[string]bool{"alice": true, "dave": true, "carol": false, "erin": false} {
		to := "auth-" + name
		must(t, p.live.Put("/"+to+"?q=1", nil, nil))
		var res pulled
		err := p.live.Post("/_replicate", map[string]any{"source": end(served, "plain", name, "pw-"+name), "target": end(p.live.URL, to, p.live.Admin, p.live.Password)}, &res)
		if (err == nil) != member {
			t.Errorf("a pull as %s: %v", name, err)
		}
		want := map[string]string{}
		if member {
			want = p.content("plain")
		}
		p.equal(want, p.content(to))
	}
}

// openUsers lets members of staff into _users, of which each then sees their own document alone.
func (p *pair) openUsers() {
	p.t.Helper()
	must(p.t, p.live.Put("/_users/_security", map[string]any{"members": map[string]any{"roles": []string{"staff"}}, "admins": map[string]any{"names": []string{"bob"}}}, nil))
	p.backUp()
	auth, err := chttpd.BackupAuth(context.Background(), p.node)
	must(p.t, err)
	served := p.serve(auth)
	for _, u := range []user{{"", ""}, {"alice", "pw-alice"}, {"bob", "pw-bob"}, {"carol", "pw-carol"}, {"dave", "pw-dave"}} {
		for _, path := range []string{
			"", "/_security", "/_all_docs", "/_changes", "/org.couchdb.user:alice", "/org.couchdb.user:bob", "/org.couchdb.user:carol", "/org.couchdb.user:dave", "/org.couchdb.user:zoe", "/org.couchdb.user:nosuch",
		} {
			a := ask{method: "GET", path: "/_users" + path}
			if want, got := p.askAs(p.live.URL, u, nil, a), p.askAs(served, u, nil, a); want != got {
				p.t.Errorf("%s of an open _users as %v:\nserver: %s\nbackup: %s", path, u, want, got)
			}
		}
		if u.name == "bob" {
			continue
		}
		for _, a := range []ask{
			{method: "GET", path: "/_design/_auth"}, {method: "GET", path: "/_local_docs"}, {method: "GET", path: "/_design_docs?include_docs=true"}, {method: "POST", path: "/_find", body: `{"selector":{}}`},
			{method: "POST", path: "/_bulk_get", body: `{"docs":[{"id":"org.couchdb.user:carol"}]}`}, {method: "POST", path: "/_all_docs", body: `{"keys":["org.couchdb.user:carol"]}`},
			{method: "GET", path: "/org.couchdb.user:carol/x"}, {method: "POST", path: "/_changes?filter=_doc_ids&include_docs=true", body: `{"doc_ids":["org.couchdb.user:carol"]}`}, {method: "POST", path: "/_explain", body: `{"selector":{}}`},
		} {
			a.path = "/_users" + a.path
			if got := p.askAs(served, u, nil, a); !strings.HasPrefix(got, "401 ") && !strings.HasPrefix(got, "403 ") {
				p.t.Errorf("%s %s as %v: %s", a.method, a.path, u, got)
			}
		}
	}
}

// After many wrong passwords none is checked for a while, but who was let in before stays in.
func TestWrongPasswords(t *testing.T) {
	p := newPair(t, &testenv.Couch{})
	h := httptest.NewServer(chttpd.New(context.Background(), servetest.Node(t, fixtures+"/data"), chttpd.Options{Auth: chttpd.OneUser{Name: "slipcover", Password: "right"}}))
	defer h.Close()
	known := user{"slipcover", "right"}
	list := ask{method: "GET", path: "/_all_dbs"}
	if got := p.askAs(h.URL, known, nil, list); got != "200" {
		t.Fatal(got)
	}
	for i := range 70 {
		want := "401 "
		if i >= 60 {
			want = "429 "
		}
		if got := p.askAs(h.URL, user{"slipcover", fmt.Sprint("wrong", i)}, nil, list); !strings.HasPrefix(got, want) {
			t.Fatalf("wrong password %d: %s", i, got)
		}
	}
	if got := p.askAs(h.URL, known, nil, list); got != "200" {
		t.Errorf("who was let in before: %s", got)
	}
	if got := p.askAs(h.URL, user{}, nil, list); !strings.HasPrefix(got, "401 ") {
		t.Errorf("nobody: %s", got)
	}
}
