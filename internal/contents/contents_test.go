package contents_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

const fixtures = "../../testdata/couchdb-3.5.0"

// world is a server that reads two backups of an instance of project acme: in the first the database timeline was at an earlier
// point.
type world struct {
	*servertest.World
	t                       *testing.T
	repo                    *repo.Repo
	instance, first, second string
	operator, viewer, other string
	fail                    error // of opening the repository
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	early := t.TempDir()
	must(t, os.CopyFS(early, os.DirFS(fixtures+"/data")))
	cut(t, early, "01")
	return worldOf(t, early, fixtures+"/data")
}

// worldOf is newWorld with backups of two data directories.
func worldOf(t *testing.T, dirs ...string) *world {
	t.Helper()
	w := &world{t: t, instance: newUUID(t)}
	w.World = servertest.New(t, bus.Options{}, server.Config{})
	w.repo = servetest.Init(t, mem.New())()
	state := t.TempDir()
	var found []server.Found
	for _, data := range dirs {
		found = append(found, w.backUp(data, state))
	}
	w.first, w.second = found[0].Record.Labels[job.LabelBackup], found[1].Record.Labels[job.LabelBackup]
	_, err := server.Rebuild(t.Context(), w.Bus, "default", found)
	must(t, err)
	w.operator, w.viewer, w.other = w.Token("acme", access.Operator), w.Token("acme", access.Viewer), w.Token("shop", access.Operator)
	set, err := opened.New(opened.Options{Server: w.Server, Checker: w.Tokens, Most: 4, Version: "test", Log: w.Log,
		Repo: func(context.Context, *access.Caller, *job.Backup) (*repo.Repo, func(), error) {
			return w.repo, func() {}, w.fail
		}})
	must(t, err)
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany},
		admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", Serves: set}))
	servertest.Eventually(t, "the catalog has the backups", func() bool {
		return servertest.Do(t, "GET", w.HTTP.URL+"/slipcover/v1/backups/"+w.second, w.operator, "").Status == 200
	})
	return w
}

// cut sets the database timeline of a data directory back to a point.
func cut(t *testing.T, data, point string) {
	t.Helper()
	b, err := os.ReadFile(fixtures + "/expected/timeline/points/" + point + ".json")
	must(t, err)
	var p struct {
		Shards map[string]struct{ Sizes struct{ File int64 } } `json:"shard_info"`
	}
	must(t, json.Unmarshal(b, &p))
	if len(p.Shards) == 0 {
		t.Fatal("the point has no shards")
	}
	for name, s := range p.Shards {
		must(t, os.Truncate(filepath.Join(data, filepath.FromSlash(name)+".couch"), s.Sizes.File))
	}
}

func newUUID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	must(t, err)
	return id.String()
}

func (w *world) backUp(data, state string) server.Found {
	w.t.Helper()
	n, err := node.Locate(w.t.Context(), node.Options{DataDir: data})
	must(w.t, err)
	res, err := backup.Run(w.t.Context(), backup.Options{Repo: w.repo, Node: n, Instance: "db1", StateDir: state, Name: "b", Tool: "test", Indexes: true,
		Labels: map[string]string{job.LabelBackup: newUUID(w.t), job.LabelProject: "acme", job.LabelInstance: w.instance, job.LabelInstanceName: "db1"}})
	must(w.t, err)
	return server.Found{Record: res.Record, Repository: job.Repository{URL: w.repo.URL(), ID: w.repo.Config().ID}}
}

// get asks for something of the instance, with parameters as name, value, …
func (w *world) get(token, what string, params ...string) servertest.Answer {
	w.t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return servertest.Do(w.t, "GET", w.HTTP.URL+"/slipcover/v1/instances/"+w.instance+"/"+what+"?"+q.Encode(), token, "")
}

// into reads an answer of 200.
func (w *world) into(to any, what string, params ...string) {
	w.t.Helper()
	a := w.get(w.operator, what, params...)
	if a.Status != 200 {
		w.t.Fatalf("%s %v: %d %s", what, params, a.Status, a.Body)
	}
	must(w.t, json.Unmarshal([]byte(a.Body), to))
}

type docRow struct {
	ID, Rev                string
	Deleted                bool
	Conflicts, Attachments int
}

func TestListsAsServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var m struct {
		Windows []struct{ Kind string }
		Backups []struct{ ID string }
		More    bool
	}
	w.into(&m, "moments", "limit", "1")
	if len(m.Windows) != 1 || m.Windows[0].Kind != "backups" || len(m.Backups) != 1 || m.Backups[0].ID != w.second || !m.More {
		t.Errorf("moments %+v", m)
	}
	type database struct {
		Name               string
		Documents, Deleted int
		GrewBytes          *int64 `json:"grew_bytes"`
	}
	var d struct {
		Backup    string
		Databases []database
		Total     int
		More      bool
	}
	w.into(&d, "databases", "backup", "latest", "limit", "500")
	if d.Backup != w.second || d.Total != len(d.Databases) || d.More || d.Total < 25 {
		t.Errorf("%d databases of %d in %s", len(d.Databases), d.Total, d.Backup)
	}
	of := map[string]database{}
	for _, x := range d.Databases {
		of[x.Name] = x
		var info struct {
			Docs    int `json:"doc_count"`
			Deleted int `json:"doc_del_count"`
		}
		b, err := os.ReadFile(fixtures + "/expected/" + url.PathEscape(x.Name) + "/info.json")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		must(t, json.Unmarshal(b, &info))
		if info.Docs != x.Documents || info.Deleted != x.Deleted {
			t.Errorf("%s has %d documents and %d deleted ones, the server %d and %d", x.Name, x.Documents, x.Deleted, info.Docs, info.Deleted)
		}
	}
	if g := of["timeline"].GrewBytes; g == nil || *g <= 0 {
		t.Errorf("timeline did not grow: %v", g)
	}
	for _, db := range []string{"eight", "_users"} { // the node has a file _users.couch of its own
		if g := of[db].GrewBytes; g == nil || *g != 0 {
			t.Errorf("%s grew: %v", db, g)
		}
	}
	var c struct {
		Conflicts, DesignDocuments int
		Counted                    bool `json:"conflicts_counted"`
		Security                   json.RawMessage
	}
	w.into(&c, "database", "db", "conflicted")
	if c.Conflicts == 0 || !c.Counted {
		t.Errorf("conflicted: %+v", c)
	}
	w.into(&c, "database", "db", "secured")
	if !strings.Contains(string(c.Security), "admins") {
		t.Errorf("secured: %s", c.Security)
	}
}

// Databases whose names begin alike are one row if that is asked for, and those that were dropped since the backup before are named.
func TestDatabasesGroupedAndDropped(t *testing.T) {
	t.Parallel()
	dirs := []string{filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "data")}
	for i, dir := range dirs {
		_, err := couchgen.DataDir(dir, couchgen.DirOptions{Databases: 14 - i, Q: 1, DocsPerDB: 2, DocBytes: 100, Name: func(n int) string {
			switch n {
			case 12:
				return "orders"
			case 13:
				return "lost"
			}
			return fmt.Sprintf("userdb-%02x", n)
		}})
		must(t, err)
	}
	w := worldOf(t, dirs...)
	var d contents.Databases
	w.into(&d, "databases", "backup", "latest", "group", "true")
	last := len(d.Databases) - 1
	if d.Rows != len(d.Databases) || d.Total != d.Rows+11 || last < 1 {
		t.Fatalf("%d rows of %d databases: %+v", d.Rows, d.Total, d.Databases)
	}
	if g := d.Databases[last]; g.Name != "userdb-" || g.Group != 12 || g.Documents != 24 || g.FileBytes == 0 || g.GrewBytes == nil || *g.GrewBytes != 0 {
		t.Errorf("the group: %+v", g)
	}
	if d.Databases[last-1].Name != "orders" || d.Databases[last-1].Group != 0 {
		t.Errorf("what is alone: %+v", d.Databases[last-1])
	}
	if len(d.Dropped) != 1 || d.Dropped[0] != "lost" || d.MoreDropped != 0 || d.BeforeBackup != w.first {
		t.Errorf("dropped %q since %s, want those of %s", d.Dropped, d.BeforeBackup, w.first)
	}
	d = contents.Databases{}
	if w.into(&d, "databases", "backup", "latest", "prefix", "userdb-"); d.Total != 12 || d.Rows != 12 || len(d.Dropped) != 0 {
		t.Errorf("in the group: %d of %d, dropped %q", d.Rows, d.Total, d.Dropped)
	}
	d = contents.Databases{}
	if w.into(&d, "databases", "backup", w.first); len(d.Dropped) != 0 || d.BeforeBackup != "" {
		t.Errorf("of the first: dropped %q", d.Dropped)
	}
}

// Pages of documents are together what one long page is, and a selector finds what is its.
func TestDocuments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type page struct {
		Documents []docRow
		Next      string
		Complete  bool
	}
	var all page
	w.into(&all, "documents", "db", "eight", "limit", "500")
	if len(all.Documents) == 0 || all.Next != "" || !all.Complete {
		t.Fatalf("%d documents, next %q", len(all.Documents), all.Next)
	}
	var got []docRow
	after := ""
	for range 1000 {
		var p page
		w.into(&p, "documents", "db", "eight", "limit", "7", "after", after)
		got = append(got, p.Documents...)
		if after = p.Next; after == "" {
			break
		}
	}
	if len(got) != len(all.Documents) || got[0] != all.Documents[0] || got[len(got)-1] != all.Documents[len(got)-1] {
		t.Errorf("%d of %d documents in pages", len(got), len(all.Documents))
	}
	var p page
	id := all.Documents[3].ID
	w.into(&p, "documents", "db", "eight", "selector", `{"_id":`+quote(id)+`}`)
	if len(p.Documents) != 1 || p.Documents[0].ID != id {
		t.Errorf("the selector finds %+v", p.Documents)
	}
	w.into(&p, "documents", "db", "deletions", "deleted", "true", "limit", "500")
	deleted := 0
	for _, d := range p.Documents {
		if d.Deleted {
			deleted++
		}
	}
	var without page
	w.into(&without, "documents", "db", "deletions", "limit", "500")
	if deleted == 0 || len(without.Documents) != len(p.Documents)-deleted {
		t.Errorf("%d documents, %d deleted, %d without them", len(p.Documents), deleted, len(without.Documents))
	}
	w.into(&p, "documents", "db", "conflicted", "conflicts", "true")
	for _, d := range p.Documents {
		if d.Conflicts == 0 {
			t.Errorf("%s has no conflicts", d.ID)
		}
	}
	w.into(&p, "documents", "db", "localdocs", "kind", "local")
	if len(p.Documents) == 0 || !strings.HasPrefix(p.Documents[0].ID, "_local/") {
		t.Errorf("local documents %+v", p.Documents)
	}
	w.into(&p, "documents", "db", "viewed", "kind", "design")
	if len(p.Documents) == 0 || !strings.HasPrefix(p.Documents[0].ID, "_design/") {
		t.Errorf("design documents %+v", p.Documents)
	}
	for _, bad := range [][]string{{"db", "eight", "selector", `{"a":{"$no":1}}`}, {"db", "eight", "selector", `{`}, {"db", "eight", "kind", "x"}, {}, {"db", "eight", "limit", "-1"}} {
		if a := w.get(w.operator, "documents", bad...); a.Status != 400 {
			t.Errorf("%v: %d %s", bad, a.Status, a.Body)
		}
	}
	if a := w.get(w.operator, "documents", "db", "no such"); a.Status != 404 {
		t.Errorf("no database: %d %s", a.Status, a.Body)
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var p struct{ Documents []docRow }
	w.into(&p, "documents", "db", "attach", "limit", "500")
	sent := 0
	for _, d := range p.Documents {
		if d.Attachments == 0 {
			continue
		}
		var doc struct {
			Document    map[string]any
			Attachments []struct{ Name, Digest string }
			Revisions   []struct{ Rev string }
			Winner      bool
		}
		w.into(&doc, "document", "db", "attach", "doc", d.ID)
		if doc.Document["_id"] != d.ID || doc.Document["_rev"] != d.Rev || !doc.Winner || len(doc.Attachments) != d.Attachments || len(doc.Revisions) == 0 {
			t.Errorf("%s: %+v", d.ID, doc)
		}
		for _, a := range doc.Attachments {
			req, err := http.NewRequestWithContext(t.Context(), "GET", w.HTTP.URL+"/slipcover/v1/instances/"+w.instance+"/attachment?"+
				url.Values{"db": {"attach"}, "doc": {d.ID}, "name": {a.Name}}.Encode(), nil)
			must(t, err)
			req.Header.Set("X-Auth-Token", w.operator)
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			resp.Body.Close()
			h := resp.Header
			if resp.StatusCode != 200 || h.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") ||
				!strings.Contains(h.Get("Content-Security-Policy"), "sandbox") || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s/%s: %d %v", d.ID, a.Name, resp.StatusCode, h)
			}
			sent++
		}
	}
	if sent == 0 {
		t.Error("no attachment was read")
	}
	if a := w.get(w.operator, "document", "db", "attach", "doc", "no such"); a.Status != 404 {
		t.Errorf("no document: %d %s", a.Status, a.Body)
	}
	if a := w.get(w.operator, "attachment", "db", "attach", "doc", p.Documents[0].ID, "name", "no such"); a.Status != 404 {
		t.Errorf("no attachment: %d %s", a.Status, a.Body)
	}
}

// What changed between the two backups is what the history of each document says, and what differs in it.
func TestBetweenBackups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type change struct{ ID, Kind, From, To string }
	var c struct {
		Counts   map[string]int
		Changes  []change
		Complete bool
		Total    int
	}
	w.into(&c, "changes", "db", "timeline", "from", w.first, "to", w.second, "limit", "500")
	if !c.Complete || c.Total == 0 || c.Total != len(c.Changes) {
		t.Fatalf("changes %+v", c)
	}
	sum := 0
	for _, n := range c.Counts {
		sum += n
	}
	if sum != c.Total {
		t.Errorf("counts %v of %d", c.Counts, c.Total)
	}
	for kind, n := range c.Counts {
		var part struct{ Total int }
		w.into(&part, "changes", "db", "timeline", "from", w.first, "to", w.second, "kind", kind, "limit", "1")
		if part.Total != n {
			t.Errorf("%d %s, of %d", part.Total, kind, n)
		}
	}
	for _, x := range c.Changes {
		if x.Kind != "changed" {
			continue
		}
		var h struct {
			Revisions []struct{ Rev, Backup, Now string }
		}
		w.into(&h, "history", "db", "timeline", "doc", x.ID)
		found := map[string]bool{}
		for _, r := range h.Revisions {
			found[r.Rev] = true
			var doc struct{ Rev string }
			w.into(&doc, "document", "db", "timeline", "doc", x.ID, "backup", r.Backup, "rev", r.Rev)
		}
		if !found[x.To] {
			t.Errorf("%s: the history has %+v, not %s", x.ID, h, x.To)
		}
		var d struct {
			From, To struct{ Rev string }
			Changes  []struct{ Path string }
		}
		w.into(&d, "diff", "db", "timeline", "doc", x.ID, "from", w.first, "to", w.second)
		if d.From.Rev != x.From || d.To.Rev != x.To || len(d.Changes) == 0 {
			t.Errorf("%s: %+v", x.ID, d)
		}
	}
	var same struct{ Total int }
	w.into(&same, "changes", "db", "eight", "from", w.first, "to", w.second)
	if same.Total != 0 {
		t.Errorf("%d documents of eight changed", same.Total)
	}
	w.into(&same, "changes", "db", "timeline", "from", w.second)
	if same.Total != 0 {
		t.Errorf("%d documents changed from the newest backup to now", same.Total)
	}
}

// Who may not read reads nothing, and what was read is in the audit log.
func TestWhoLooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, what := range []string{"document", "documents", "history", "diff", "changes", "attachment", "database"} {
		if a := w.get(w.viewer, what, "db", "eight", "doc", "x"); a.Status != 403 {
			t.Errorf("a viewer asks for %s: %d %s", what, a.Status, a.Body)
		}
		if a := w.get(w.other, what, "db", "eight", "doc", "x", "name", "x", "from", w.first); a.Status != 404 {
			t.Errorf("another project asks for %s: %d %s", what, a.Status, a.Body)
		}
	}
	for _, what := range []string{"moments", "databases"} {
		if a := w.get(w.viewer, what); a.Status != 200 {
			t.Errorf("a viewer asks for %s: %d %s", what, a.Status, a.Body)
		}
		if a := w.get(w.other, what); a.Status != 404 {
			t.Errorf("another project asks for %s: %d %s", what, a.Status, a.Body)
		}
	}
	var p struct{ Documents []docRow }
	w.into(&p, "documents", "db", "eight", "limit", "1")
	w.into(&struct{}{}, "document", "db", "eight", "doc", p.Documents[0].ID)
	log := w.Audited()
	if want := `"target":` + quote(w.instance+"/eight/"+p.Documents[0].ID); !strings.Contains(log, want) || !strings.Contains(log, `"document.read"`) {
		t.Errorf("%s is not in the audit log:\n%s", want, log)
	}
	if strings.Contains(log, "moments") {
		t.Errorf("who lists moments reads nothing:\n%s", log)
	}
}

// A server without the key says so, and how to allow it; one that got it reads without a restart.
func TestNoKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fail = repo.ErrNoKey
	a := w.get(w.operator, "databases")
	if a.Status != 409 || !strings.Contains(a.Body, "Contents can't be shown: this server has no key") || !strings.Contains(a.Body, "identity_file") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	w.fail = nil
	w.into(&struct{}{}, "databases")
	if a := w.get(w.operator, "databases", "at", time.Now().Add(time.Hour).Format(time.RFC3339)); a.Status != 400 {
		t.Errorf("the future: %d %s", a.Status, a.Body)
	}
	if a := w.get(w.operator, "databases", "at", "2001-01-01T00:00:00Z"); a.Status != 409 {
		t.Errorf("the past: %d %s", a.Status, a.Body)
	}
	if a := w.get(w.operator, "databases", "backup", newUUID(t)); a.Status != 404 {
		t.Errorf("no backup: %d %s", a.Status, a.Body)
	}
}
