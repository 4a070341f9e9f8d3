package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/web"
)

const fixtures = "../../testdata/couchdb-3.5.0"

// shelf is a dashboard that reads backups of an instance.
type shelf struct {
	*world
	repo     *repo.Repo
	instance string
	backups  []string
}

// newShelf backs up data directories, one after the other, as backups of one instance.
func newShelf(t *testing.T, dirs ...string) *shelf {
	t.Helper()
	return shelfOf(t, nil, dirs...)
}

// shelfOf is newShelf of a server that can't open the repository, as an error says.
func shelfOf(t *testing.T, fail error, dirs ...string) *shelf {
	t.Helper()
	s := &shelf{repo: servetest.Init(t, mem.New())(), instance: uuid.Must(uuid.NewV7()).String()}
	s.world = newWorld(t, func(o *web.Options) {
		set, err := opened.New(opened.Options{Server: o.Server, Checker: o.Checker, Most: 4, Version: "test", Log: o.Log,
			Repo: func(context.Context, *access.Caller, *job.Backup) (*repo.Repo, func(), error) {
				return s.repo, func() {}, fail
			}})
		if err != nil {
			t.Fatal(err)
		}
		o.Serves = set
	})
	var found []server.Found
	state := t.TempDir()
	for _, dir := range dirs {
		n, err := node.Locate(t.Context(), node.Options{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		id := uuid.Must(uuid.NewV7()).String()
		res, err := backup.Run(t.Context(), backup.Options{Repo: s.repo, Node: n, Instance: "db1", StateDir: state, Name: "nightly", Tool: "test",
			Labels: map[string]string{job.LabelBackup: id, job.LabelProject: project, job.LabelInstance: s.instance, job.LabelInstanceName: "db1"}})
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, server.Found{Record: res.Record, Repository: job.Repository{URL: s.repo.URL(), ID: s.repo.Config().ID}})
		s.backups = append(s.backups, id)
	}
	if _, err := server.Rebuild(t.Context(), s.Bus, "default", found); err != nil {
		t.Fatal(err)
	}
	b := s.as(access.Viewer)
	servertest.Eventually(t, "the catalog has the backups", func() bool {
		return b.get(s.path("moment", "s", s.backups[len(s.backups)-1])).status == 200
	})
	return s
}

func (s *shelf) path(page string, params ...string) string {
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return "/instances/" + s.instance + "/" + page + "?" + q.Encode()
}

// earlier is a copy of the fixture in which the database timeline is at an earlier point.
func earlier(t *testing.T) string {
	t.Helper()
	data := t.TempDir()
	b, err := os.ReadFile(fixtures + "/expected/timeline/points/01.json")
	if err == nil {
		err = os.CopyFS(data, os.DirFS(fixtures+"/data"))
	}
	var p struct {
		Shards map[string]struct{ Sizes struct{ File int64 } } `json:"shard_info"`
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	for name, s := range p.Shards {
		if err == nil {
			err = os.Truncate(filepath.Join(data, filepath.FromSlash(name)+".couch"), s.Sizes.File)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sees is has.
func (a *shown) sees(status int, words ...string) *shown {
	a.t.Helper()
	a.has(status, words...)
	return a
}

// source holds a page against what its source must have.
func (a *shown) source(text string) {
	a.t.Helper()
	if !strings.Contains(a.body, text) {
		a.t.Errorf("it lacks %q: %s", text, a.body)
	}
}

// link finds the first link of a page whose address has all of what is named.
func (a *shown) link(parts ...string) string {
	a.t.Helper()
	for _, m := range hrefs.FindAllStringSubmatch(a.body, -1) {
		href, ok := strings.ReplaceAll(m[1], "&amp;", "&"), true
		for _, p := range parts {
			ok = ok && strings.Contains(href, p)
		}
		if ok {
			return href
		}
	}
	a.t.Fatalf("no link with %q", parts)
	return ""
}

var hrefs = regexp.MustCompile(`href="([^"]*)"`)

// Databases whose names begin alike are one row that opens, and what was dropped is named with where it still is.
func TestMomentGroupsDatabases(t *testing.T) {
	t.Parallel()
	dirs := []string{filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "data")}
	for i, dir := range dirs {
		if _, err := couchgen.DataDir(dir, couchgen.DirOptions{Databases: 12 - i, Q: 1, DocsPerDB: 2, DocBytes: 100, Name: func(n int) string {
			if n == 11 {
				return "lost"
			}
			return fmt.Sprintf("userdb-%02x", n)
		}}); err != nil {
			t.Fatal(err)
		}
	}
	s := newShelf(t, dirs...)
	b := s.as(access.Operator)
	a := b.get(s.path("moment", "s", "latest")).sees(200, "userdb-…", "11 databases", "dropped since the backup of", "lost")
	a.hasNot("userdb-05")
	b.get(a.link("db=lost")).sees(200, "lost", "2 documents")
	a = b.get(a.link("p=userdb-")).sees(200, "userdb-05", "1 to 11 of 11", "All databases")
	b.get(a.link("db=userdb-05")).sees(200, "userdb-05", "2 documents")
	a = b.get(s.path("moment", "s", "latest", "db", "userdb-05"))
	a.source(`aria-current="true"`)
}

// From a moment to a database, a document, its versions and what differs in them, by links alone.
func TestLooking(t *testing.T) {
	t.Parallel()
	s := newShelf(t, earlier(t), fixtures+"/data")
	b := s.as(access.Operator)
	a := b.get(s.path("moment")).sees(200, "db1", "Databases", "timeline", "conflicted", "Choose a database", "backup before")
	a = b.get(a.link("db=timeline")).sees(200, "documents", "Security object", "Search by a Mango selector")
	doc := a.link("/document?", "db=timeline")
	b.get(doc).sees(200, "Versions", "newest first", "Your look at it is in the audit log", "can't be put back from here", "slipcover restore-doc")
	if !strings.Contains(s.Audited(), `"document.read"`) {
		t.Error("the audit log doesn't have it")
	}
	a = b.get(s.path("changes", "db", "timeline", "from", s.backups[0], "to", s.backups[1])).sees(200, "What changed in timeline", "Documents", "Diff")
	a = b.get(a.link("/document?", "a=1-", "b=2-")).sees(200, "What changed from A to B", "differ", "only in A", "only in B")
	a.source("<mark>")
	b.get(a.link("view=json")).sees(200, "The document")
	b.get(s.path("changes")).sees(200, "What changed in db1", "In which database?", "timeline", "grew since the backup of") // since the backup before, unless it is said
	b.get(s.path("changes", "p", "time")).sees(200, "1 to 1 of 1", "timeline")
	b.get(s.path("changes", "db", "timeline")).sees(200, "What changed in timeline", "Documents 26 from", "Diff")
	b.get(s.path("moment", "s", time.Now().Add(time.Second).UTC().Format(time.RFC3339))).sees(200, "Nothing newer is stored up to", "the time that was asked for")
	if p := b.get(s.path("moment", "s", "latest")); strings.Contains(p.body, "Nothing newer") {
		t.Error("a backup that was asked for is taken for an older state than that")
	}
	b.get(s.path("changes", "db", "timeline", "from", "yesterday 25:00")).sees(200, "neither a backup nor a time")
	b.get(s.path("moment", "s", "2001-01-01")).sees(200, "There is no such moment")
	b.get(s.path("moment", "s", "latest", "db", "timeline", "by", "selector", "selector", `{"_id":{"$gt":""}}`)).sees(200, "shown")
	b.get(s.path("moment", "s", "latest", "db", "timeline", "by", "selector", "selector", `{"a":`)).sees(200, "no JSON")
	b.get(s.path("moment", "s", "latest", "db", "localdocs", "kind", "local")).sees(200, "_local/")
	b.get(s.path("moment", "s", "latest", "db", "nothing")).sees(404)
	b.get(s.path("document", "db", "timeline", "doc", "nothing")).sees(404)
	conflict := b.get(s.path("moment", "s", "latest", "db", "conflicted", "conflicts", "1")).sees(200, "conflict")
	b.get(conflict.link("/document?", "db=conflicted")).sees(200, "in conflict")
	s.as(access.Viewer).get(doc).sees(403, "may not read documents")
	s.as(access.Viewer).get(s.path("moment", "db", "timeline")).sees(200, "may not read documents", "conflicted").hasNot("/document?")
	other := s.open()
	other.signIn(s.Token("shop", access.Operator))
	other.get(s.path("moment")).sees(404)
}

// A server without the key says so and how to allow it, and the form is there.
func TestContentsWithoutKey(t *testing.T) {
	t.Parallel()
	s := shelfOf(t, repo.ErrNoKey, fixtures+"/data")
	b := s.as(access.Operator)
	for _, page := range []string{s.path("moment"), s.path("document", "db", "eight", "doc", "x"), s.path("changes", "db", "eight", "from", "latest")} {
		b.get(page).sees(200, "Contents can't be shown: this server has no key", "identity_file", "all else works")
	}
}

// What somebody stored as ids, values, names and types of attachments is text on all pages, and never runs.
func TestStrangers(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	const evil = `<script>alert("x")</script>`
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Put("/strange?q=1", nil, nil))
	doc := "/strange/" + url.PathEscape(evil)
	page := []byte(evil + `<svg onload="alert(1)">`)
	must(c.Put(doc, map[string]any{"note": evil, evil: 1, "_attachments": map[string]any{
		evil + ".html": map[string]any{"content_type": "text/html", "data": page},
		"a.svg":        map[string]any{"content_type": "image/svg+xml", "data": page},
		"a.png":        map[string]any{"content_type": `image/png"><script>`, "data": page}}}, nil))
	must(c.Put("/strange/_security", map[string]any{"admins": map[string]any{"names": []string{evil}}}, nil))
	s := newShelf(t, c.DataDir)
	b := s.as(access.Operator)
	check := func(a *shown) *shown {
		t.Helper()
		if a.status != 200 || strings.Contains(a.body, "<script>alert") || strings.Contains(a.body, "<svg onload") || strings.Contains(a.body, `png"><script>`) {
			t.Errorf("%d, and it may run:\n%s", a.status, a.body)
		}
		return a
	}
	a := check(b.get(s.path("moment", "db", "strange")))
	a.source("&lt;script&gt;alert")
	a = check(b.get(a.link("/document?")))
	check(b.get(s.path("moment", "db", "strange", "q", evil, "by", "selector", "selector", `{"_id":"`+evil[:8]+`"}`)))
	check(b.get(a.link("as=text", "svg"))).source("&lt;svg onload")
	sent := 0
	for _, m := range hrefs.FindAllStringSubmatch(a.body, -1) {
		href := strings.ReplaceAll(m[1], "&amp;", "&")
		if !strings.Contains(href, "/attachment?") || strings.Contains(href, "as=text") {
			continue
		}
		sent++
		x := b.get(href)
		h := x.header
		if x.status != 200 || x.body != string(page) || h.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") ||
			!strings.Contains(h.Get("Content-Security-Policy"), "sandbox") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %q", href, x.status, h, x.body)
		}
	}
	if sent != 3 {
		t.Errorf("%d attachments", sent)
	}
	b.get(s.path("attachment", "db", "strange", "doc", evil, "name", "a.png", "as", "text")).sees(400, "not text")
}
