package chttpd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/testenv"
)

// The versions of the clients that are run.
const (
	pouchVersion       = "9.0.0"
	nanoVersion        = "11.0.7"
	couchbackupVersion = "2.11.12"
	fauxtonVersion     = "1.2.6"
	browserVersion     = "0.34.0" // of what tells the browser what to do
)

// withUser is a server's URL that says who asks.
func (p *pair) withUser(base string) string {
	u, err := url.Parse(base)
	must(p.t, err)
	u.User = url.UserPassword(p.live.Admin, p.live.Password)
	return u.String()
}

// run runs a client that must end well, and returns what it printed.
func (p *pair) run(env []string, name string, args ...string) []byte {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(testenv.Environ(), env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s%s", name, args, err, clip(string(out), ""), said.Bytes())
	}
	return out
}

// alike has a client print what it reads of the server and of the backup, a line for each thing, and compares both.
func (p *pair) alike(read func(base string) []byte) {
	p.t.Helper()
	lines := func(base string) []string {
		return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(read(p.withUser(base))), base, "BASE")), "\n")
	}
	want, got := lines(p.live.URL), lines(p.url)
	if len(want) < 10 {
		p.t.Errorf("it read too little for a comparison: %q", want)
	}
	unlike := 0
	for i := range max(len(want), len(got)) {
		var w, g string
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w == g {
			continue
		}
		if unlike++; unlike <= 5 {
			p.t.Errorf("line %d\nserver: %s\nbackup: %s", i, clip(w, g), clip(g, w))
		}
	}
	p.t.Logf("%d lines, %d unlike", len(want), unlike)
}

// databases are those that clients read.
var databases = []string{"plain", "sharded", "parted"}

// PouchDB replicates databases, once and live, and asks them over HTTP.
func pouchDB(t *testing.T, p *pair) {
	node, pouch := testenv.NodeModule(t, "pouchdb", pouchVersion)
	_, find := testenv.NodeModule(t, "pouchdb-find", pouchVersion)
	n := 0
	p.alike(func(base string) []byte {
		n++
		dir := filepath.Join(t.TempDir(), fmt.Sprint(n))
		must(t, os.Mkdir(dir, 0o755))
		return p.run([]string{"NODE_PATH=" + pouch + string(filepath.ListSeparator) + find}, node, append([]string{"testdata/pouchdb.js", base, dir}, databases...)...)
	})
}

// Nano lists and reads databases.
func nano(t *testing.T, p *pair) {
	node, modules := testenv.NodeModule(t, "nano", nanoVersion)
	p.alike(func(base string) []byte {
		return p.run([]string{"NODE_PATH=" + modules}, node, append([]string{"testdata/nano.js", base}, databases...)...)
	})
}

// Kivik, a client for Go, lists, reads and follows databases.
func kivik(t *testing.T, p *pair) {
	program := testenv.Kivik(t)
	p.alike(func(base string) []byte { return p.run(nil, program, append([]string{base}, databases...)...) })
}

// Couchbackup writes the documents of databases into lines of text.
func couchbackup(t *testing.T, p *pair) {
	node, modules := testenv.NodeModule(t, "@cloudant/couchbackup", couchbackupVersion)
	program := filepath.Join(modules, "@cloudant", "couchbackup", "bin", "couchbackup.bin.js")
	backup := func(base, db string, more ...string) []string {
		log := filepath.Join(t.TempDir(), "log")
		out := p.run(nil, node, append([]string{program, "--url", p.withUser(base), "--db", db, "--log", log, "--parallelism", "2", "--buffer-size", "20"}, more...)...)
		var docs []string
		for line := range strings.Lines(string(out)) {
			var list []json.RawMessage
			if json.Unmarshal([]byte(line), &list) != nil {
				continue // it begins with a line about itself
			}
			for _, d := range list {
				docs = append(docs, string(d))
			}
		}
		slices.Sort(docs)
		return docs
	}
	for _, db := range databases {
		for _, mode := range [][]string{{"--mode", "full"}, {"--mode", "shallow"}} {
			if mode[1] == "shallow" && db != "sharded" && !testenv.Soak() {
				continue
			}
			want, got := backup(p.live.URL, db, mode...), backup(p.url, db, mode...)
			if !slices.Equal(want, got) {
				t.Errorf("%s %v: %d documents, and not the server's %d", db, mode, len(got), len(want))
			}
			all := p.content(db)
			if len(got) == 0 || len(got) > len(all) || mode[1] == "full" && len(got) < len(all) {
				t.Errorf("%s %v: %d of %d leaves", db, mode, len(got), len(all))
			}
		}
	}
}

// Fauxton, CouchDB's web interface, is used in a browser: it asks for a log-in, lists databases and documents, and shows a
// document, a view and a query of Mango.
func fauxton(t *testing.T, p *pair) {
	node, modules := testenv.NodeModule(t, "chrome-remote-interface", browserVersion)
	chromium := testenv.Tool(t, "chromium")
	utils := filepath.Join(testenv.NodeFiles(t, "fauxton", fauxtonVersion), "dist", "release")
	s := httptest.NewServer(chttpd.New(context.Background(), p.node, chttpd.Options{Auth: chttpd.OneUser{Name: "slipcover", Password: "pass word"}, Utils: utils}))
	t.Cleanup(s.Close)
	var all struct {
		Rows []struct {
			ID  string `json:"id"`
			Doc struct {
				Conflicts []string `json:"_conflicts"`
			} `json:"doc"`
		} `json:"rows"`
	}
	must(t, p.live.Get("/plain/_all_docs?include_docs=true&conflicts=true&limit=20", &all))
	var ids []string
	doc := "" // of the first page, which has 20
	for _, r := range all.Rows {
		if !strings.HasPrefix(r.ID, "doc00") {
			continue
		}
		if ids = append(ids, r.ID); doc == "" && r.Doc.Conflicts == nil {
			doc = r.ID
		}
	}
	out := p.run([]string{"NODE_PATH=" + modules}, node, "testdata/fauxton.js", chromium, t.TempDir(), s.URL, "slipcover", "pass word", doc)
	want := []string{
		`["asks to log in","#login"]`, `["databases",["parted","plain","sharded"]]`, `["documents",` + js(ids) + `]`, `["document",` + js(`"_id": "`+doc+`"`) + `]`, `["view","rows"]`, `["query","documents"]`, `["wrong",[]]`,
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Errorf("in a browser:\n%s\nand not\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			break
		}
	}
}
