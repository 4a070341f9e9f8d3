package node_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/node"
)

const fixture = "../../testdata/couchdb-3.5.0"

// tree writes files below a new directory, whose links are resolved, and returns
// it. A name that ends in "/" is a directory. The files look old, so that
// reading them does not wait.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		p := filepath.Join(root, filepath.FromSlash(name))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(p, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte(content), 0o600))
		old := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(p, old, old))
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func env(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1]
			}
		}
		return ""
	}
}

// release is an installed CouchDB: relative directories, a chain that
// contradicts itself, and old libraries beside the new one.
var release = map[string]string{
	"etc/default.ini":         "[couchdb]\ndatabase_dir = ./data\nview_index_dir = ./data\nuuid = one\n",
	"etc/default.d/10.ini":    "[couchdb]\nuuid = two\n",
	"etc/default.d/README":    "[couchdb]\nuuid = wrong\n",
	"etc/local.ini":           "[couchdb]\nuuid = three\n",
	"etc/local.d/b.ini":       "[couchdb]\nuuid = five\n",
	"etc/local.d/a.ini":       "[couchdb]\nuuid = four\n",
	"etc/vm.args":             "# -name no@one\n-name couchdb@db1.example\n",
	"releases/start_erl.data": "13.1.5 \n",
	"lib/couch-3.4.10/":       "",
	"lib/couch-3.5.0/":        "",
	"lib/couch_log-9/":        "",
	"data/":                   "",
}

func locate(t *testing.T, o node.Options) *node.Node {
	t.Helper()
	if o.Getenv == nil {
		o.Getenv = env()
	}
	if o.Usual == nil {
		o.Usual = []string{}
	}
	n, err := node.Locate(t.Context(), o)
	if err != nil {
		t.Fatalf("Locate: %v", err)
	}
	return n
}

func TestLocateConfigDir(t *testing.T) {
	root := tree(t, release)
	in := func(p string) string { return filepath.Join(root, filepath.FromSlash(p)) }
	got := locate(t, node.Options{ConfigDir: in("etc")})
	want := &node.Node{
		DataDir: in("data"), IndexDir: in("data"), EtcDir: in("etc"), ReleaseDir: root,
		IniFiles: []string{in("etc/default.ini"), in("etc/default.d/10.ini"), in("etc/local.ini"), in("etc/local.d/a.ini"), in("etc/local.d/b.ini")},
		VMArgs:   in("etc/vm.args"), NodeName: "couchdb@db1.example", NameSource: "vm.args", UUID: "five", Version: "3.5.0", Source: "--config-dir",
		Settings: node.Ini{"couchdb": {"database_dir": "./data", "view_index_dir": "./data", "uuid": "five"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLocateNodeName(t *testing.T) {
	root := tree(t, release)
	n := locate(t, node.Options{ConfigDir: root + "/etc", NodeName: "other@db2"})
	if n.NodeName != "other@db2" || n.NameSource != "node_name" || !n.NameTold {
		t.Errorf("told: %q of %q, %v", n.NodeName, n.NameSource, n.NameTold)
	}
	n = locate(t, node.Options{DataDir: root + "/data", Getenv: env("ERL_FLAGS", "-name c@d")})
	if n.NodeName != "c@d" || n.NameSource != "ERL_FLAGS" || n.NameTold {
		t.Errorf("by a variable: %q of %q, %v", n.NodeName, n.NameSource, n.NameTold)
	}
	n = locate(t, node.Options{DataDir: root + "/data", Getenv: env("ERL_FLAGS", "+K true")})
	if n.NodeName != "" || n.NameSource != "" {
		t.Errorf("by nothing: %q of %q", n.NodeName, n.NameSource)
	}
	if _, err := node.Locate(t.Context(), node.Options{ConfigDir: root + "/etc", NodeName: "db2"}); err == nil || !strings.Contains(err.Error(), "such as couchdb@127.0.0.1") {
		t.Errorf("a name without a host: %v", err)
	}
}

func TestLocateOrder(t *testing.T) {
	a, b := tree(t, release), tree(t, release)
	other := tree(t, map[string]string{"data/": ""})
	chain := env("COUCHDB_INI_FILES", " "+b+"/etc/default.ini\t"+b+"/etc/default.d\n")
	tests := []struct {
		name   string
		opts   node.Options
		data   string
		uuid   string
		source string
	}{
		{"data dir alone", node.Options{DataDir: other + "/data", Getenv: chain, Usual: []string{a + "/etc"}}, other + "/data", "", "--data-dir"},
		{"data dir with configuration", node.Options{DataDir: other + "/data", ConfigDir: a + "/etc", Getenv: chain}, other + "/data", "five", "--data-dir"},
		{"config dir before environment", node.Options{ConfigDir: a + "/etc", Getenv: chain, URL: "http://127.0.0.1:1"}, a + "/data", "five", "--config-dir"},
		{"environment before URL", node.Options{Getenv: chain, URL: "http://127.0.0.1:1", Usual: []string{a + "/etc"}}, b + "/data", "two", "COUCHDB_INI_FILES"},
		{"usual", node.Options{Usual: []string{a + "/none", a + "/etc"}}, a + "/data", "five", a + "/etc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := locate(t, tt.opts)
			if n.DataDir != tt.data || n.IndexDir != tt.data || n.UUID != tt.uuid || n.Source != tt.source {
				t.Errorf("data %q, index %q, uuid %q, source %q; want data %q, uuid %q, source %q", n.DataDir, n.IndexDir, n.UUID, n.Source, tt.data, tt.uuid, tt.source)
			}
		})
	}
}

func TestLocateSeparateIndexes(t *testing.T) {
	files := map[string]string{
		"etc/default.ini":      "[couchdb]\ndatabase_dir = ./data\nview_index_dir = ./data\n",
		"etc/local.d/dirs.ini": "[couchdb]\nview_index_dir = ./index\n",
		"data/":                "", "moved/": "",
	}
	root := tree(t, files)
	if n := locate(t, node.Options{ConfigDir: root + "/etc"}); n.IndexDir != root+"/index" {
		t.Errorf("index directory that is not there yet = %q, want %q", n.IndexDir, root+"/index")
	}
	if n := locate(t, node.Options{ConfigDir: root + "/etc", DataDir: root + "/moved"}); n.DataDir != root+"/moved" || n.IndexDir != root+"/index" {
		t.Errorf("with --data-dir: data %q, index %q", n.DataDir, n.IndexDir)
	}
}

func TestLocateFollowsLinks(t *testing.T) {
	root := tree(t, map[string]string{"etc/default.ini": "[couchdb]\ndatabase_dir = ./data\n", "disk/couch/": "", "conf/vm.args": "-sname n\n"})
	must(t, os.Symlink("disk/couch", root+"/data"))
	n := locate(t, node.Options{ConfigDir: root + "/etc"})
	if n.DataDir != root+"/disk/couch" || n.IndexDir != n.DataDir {
		t.Errorf("data %q, index %q; want both %q", n.DataDir, n.IndexDir, root+"/disk/couch")
	}
	if n.VMArgs != "" || n.NodeName != "" {
		t.Errorf("no vm.args is there, got %q and node name %q", n.VMArgs, n.NodeName)
	}
	n = locate(t, node.Options{Usual: []string{root + "/etc"}, Getenv: env("COUCHDB_ARGS_FILE", root+"/conf/vm.args")})
	if n.VMArgs != root+"/conf/vm.args" || !strings.HasPrefix(n.NodeName, "n@") {
		t.Errorf("COUCHDB_ARGS_FILE: vm.args %q, node name %q", n.VMArgs, n.NodeName)
	}
}

func TestLocateSaysWhatToDo(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/default.ini":  "[couchdb]\ndatabase_dir = ./gone\n",
		"bare/default.ini": "[log]\nlevel = info\n",
		"empty/":           "",
	})
	tests := []struct {
		name string
		opts node.Options
		want string
	}{
		{"nothing", node.Options{}, "pass --config-dir"},
		{"no data dir", node.Options{DataDir: root + "/nope"}, "data directory: "},
		{"data dir is a file", node.Options{DataDir: root + "/etc/default.ini"}, "is not a directory"},
		{"no config dir", node.Options{ConfigDir: root + "/nope"}, "configuration directory: "},
		{"one too high", node.Options{ConfigDir: root}, filepath.Join(root, "etc") + " does: pass that"},
		{"no ini files", node.Options{ConfigDir: root + "/empty"}, "has no default.ini"},
		{"no database_dir", node.Options{ConfigDir: root + "/bare"}, "sets couchdb/database_dir: pass --data-dir"},
		{"database_dir is gone", node.Options{ConfigDir: root + "/etc"}, `couchdb/database_dir is "./gone"`},
		{"chain names a missing file", node.Options{Getenv: env("COUCHDB_INI_FILES", root+"/x.ini")}, "COUCHDB_INI_FILES: "},
		{"chain is relative", node.Options{Getenv: env("COUCHDB_INI_FILES", "etc/x.ini")}, "pass --config-dir"},
		{"chain is an empty folder", node.Options{Getenv: env("COUCHDB_INI_FILES", root+"/empty")}, "names no ini file"},
		{"URL", node.Options{URL: "localhost:5984:secret"}, "http://127.0.0.1:5984"},
		{"far away", node.Options{URL: "http://192.0.2.7:5984"}, "not on this machine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.opts.Getenv == nil {
				tt.opts.Getenv = env()
			}
			tt.opts.Usual = []string{}
			n, err := node.Locate(t.Context(), tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("Locate = %+v, %v; want an error with %q", n, err, tt.want)
			}
		})
	}
	if _, err := node.Locate(t.Context(), node.Options{Getenv: env(), Usual: []string{}}); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("Locate without a hint = %v, want ErrNotFound", err)
	}
}

// couch answers like a CouchDB 3.5.0 that wants user admin, password hunter2; without a
// mapUUID like one before 3, which doesn't tell of its own databases.
func couch(t *testing.T, dataDir, uuid, mapUUID string) string {
	t.Helper()
	admin := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "admin" || password != "hunter2" {
				http.Error(w, `{"error":"unauthorized"}`, http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"couchdb":"Welcome","version":"3.5.0","uuid":%q,"features":[]}`, uuid)
	})
	mux.HandleFunc("GET /_node/_local/_config/couchdb", admin(fmt.Sprintf(`{"database_dir":%q,"view_index_dir":%q,"uuid":%q}`, dataDir, dataDir, uuid)))
	mux.HandleFunc("GET /_node/_local", admin(`{"name":"couchdb@127.0.0.1"}`))
	if mapUUID != "" {
		mux.HandleFunc("GET /_node/_local/_dbs", admin(fmt.Sprintf(`{"db_name":"_dbs","uuid":%q}`, mapUUID)))
	}
	mux.HandleFunc("GET /_all_dbs", admin(`["_users","orders"]`))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestLocateServer(t *testing.T) {
	root := tree(t, release)
	u := couch(t, root+"/data", "abc", "def")
	n := locate(t, node.Options{URL: u, User: "admin", Password: "hunter2"})
	if n.DataDir != root+"/data" || n.IndexDir != root+"/data" || n.NodeName != "couchdb@127.0.0.1" || !n.NameTold || n.NameSource != "the server at "+u || n.Version != "3.5.0" || n.UUID != "abc" || n.Source != u || n.IniFiles != nil || n.Served == nil || n.Served.MapUUID != "def" {
		t.Errorf("got %+v", n)
	}
	n = locate(t, node.Options{URL: strings.Replace(u, "//", "//admin:hunter2@", 1) + "/"})
	if n.DataDir != root+"/data" || n.Source != u {
		t.Errorf("with the password in the URL: %+v", n)
	}
	n = locate(t, node.Options{URL: couch(t, root+"/data", "abc", ""), User: "admin", Password: "hunter2"})
	if s := n.Served; s == nil || s.MapUUID != "" || !slices.Equal(s.Databases, []string{"_users", "orders"}) {
		t.Errorf("a server before CouchDB 3 is said to serve %+v", s)
	}
	_, err := node.Locate(t.Context(), node.Options{URL: strings.Replace(u, "//", "//admin:wrongpw@", 1), Getenv: env()})
	if err == nil || strings.Contains(err.Error(), "wrongpw") || !strings.Contains(err.Error(), "couch_password_file") {
		t.Errorf("wrong password: %v", err)
	}
}

// TestLocateOldServers asks servers that say who is connected, and not which of them they are.
func TestLocateOldServers(t *testing.T) {
	root := tree(t, release)
	for _, tc := range []struct{ name, nodes, config, want string }{
		{"2.3 alone", `"couchdb@10.0.0.1"`, "_local", "couchdb@10.0.0.1"},
		{"2.3 of three", `"couchdb@10.0.0.1","couchdb@10.0.0.2","couchdb@10.0.0.3"`, "_local", ""},
		{"2.0, which knows no _local", `"couchdb@10.0.0.1"`, "couchdb@10.0.0.1", "couchdb@10.0.0.1"},
	} {
		mux := http.NewServeMux()
		answer := func(path, text string) {
			mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
		}
		answer("/{$}", `{"couchdb":"Welcome","version":"2.3.1"}`)
		answer("/_membership", `{"all_nodes":[`+tc.nodes+`],"cluster_nodes":[`+tc.nodes+`]}`)
		answer("/_node/"+tc.config+"/_config/couchdb", fmt.Sprintf(`{"database_dir":%q,"uuid":"abc"}`, root+"/data"))
		answer("/_all_dbs", `["orders"]`)
		mux.HandleFunc("GET /_node/_local", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"bad_request","reason":"Incomplete path to _node request"}`, http.StatusBadRequest)
		})
		s := httptest.NewServer(mux)
		defer s.Close()
		n := locate(t, node.Options{URL: s.URL})
		if n.DataDir != root+"/data" || n.NodeName != tc.want || n.NameTold != (tc.want != "") || n.UUID != "abc" {
			t.Errorf("%s: got %+v, want node name %q", tc.name, n, tc.want)
		}
	}
}

func TestLocateServerWithRelativeDirectories(t *testing.T) {
	root := tree(t, release)
	o := node.Options{User: "admin", Password: "hunter2", Getenv: env(), Usual: []string{root + "/etc"}}
	o.URL = couch(t, "./data", "five", "def") // the uuid that etc says
	n, err := node.Locate(t.Context(), o)
	if err != nil || n.DataDir != root+"/data" || len(n.IniFiles) != 5 {
		t.Errorf("same uuid: %+v, %v", n, err)
	}
	o.URL = couch(t, "./data", "somebody else's", "def")
	if n, err = node.Locate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "pass --config-dir or --data-dir") {
		t.Errorf("other uuid: %+v, %v", n, err)
	}
}

func TestLocateFixture(t *testing.T) {
	n := locate(t, node.Options{ConfigDir: fixture + "/etc", DataDir: fixture + "/data"})
	if n.UUID != "f1c0f1c0f1c0f1c0f1c0f1c0f1c0f1c0" || !filepath.IsAbs(n.DataDir) || len(n.IniFiles) != 1 {
		t.Errorf("got %+v", n)
	}
}

// TestLocateInstalled looks at a real installation, if there is one.
func TestLocateInstalled(t *testing.T) {
	if _, err := os.Stat("/opt/couchdb/bin/couchdb"); err != nil {
		t.Skip("no CouchDB at /opt/couchdb/bin/couchdb")
	}
	n, err := node.Locate(t.Context(), node.Options{Getenv: env()})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) { // or never started
		t.Skip(err)
	}
	must(t, err)
	data, _ := n.Settings.Get("couchdb", "database_dir")
	if n.Source != "/opt/couchdb/etc" || n.Version == "" || n.NodeName == "" || data == "" {
		t.Errorf("got %+v", n)
	}
	t.Logf("data %s, index %s, node %s, version %s", n.DataDir, n.IndexDir, n.NodeName, n.Version)
}

func TestReadConfigWaitsForAFileInTheMaking(t *testing.T) {
	p := filepath.Join(t.TempDir(), "local.ini")
	must(t, os.WriteFile(p, nil, 0o600)) // as CouchDB leaves it for a moment
	synctest.Test(t, func(t *testing.T) {
		go func() {
			time.Sleep(5 * time.Millisecond)
			_ = os.WriteFile(p, []byte("[couchdb]\nuuid = x\n"), 0o600)
		}()
		data, err := node.ReadConfig(t.Context(), p)
		if err != nil || len(data) == 0 {
			t.Errorf("ReadConfig = %q, %v; want the whole file", data, err)
		}
	})
}
