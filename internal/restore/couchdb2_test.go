//go:build linux

package restore_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestTrialOfOtherVersions starts a CouchDB on what the oldest and the newest version wrote,
// with its own conversions of them. With the COUCHDB_BIN of a 2.3 those of 2 pass as well.
func TestTrialOfOtherVersions(t *testing.T) {
	needInstances(t)
	// A newer server writes its own design document into _users, and is given the time to note that in _global_changes.
	defer restore.SetTrialAltered(func(step, _ string) {
		if step == "started" {
			time.Sleep(2 * time.Second)
		}
	})()
	versions := []string{"2.1", "2.3", "main"}
	if testing.Short() {
		versions = versions[:1]
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			r := openRepo(t, mem.New())
			rec := take(t, r, testenv.VersionDir(t, version), t.TempDir())
			rep := trial(t, restore.TrialOptions{Repo: r, Record: rec})
			if !rep.OK() || !rep.Server || rep.Databases < 15 || rep.Docs < 1000 || rep.Deleted < 50 {
				t.Errorf("%+v", rep)
			}
		})
	}
}

// oldLayout lays the CouchDB 3.5 of this machine out as a CouchDB 2.3 is: its start script
// knows no COUCHDB_INI_FILES, so that by itself it starts with the installation's own
// configuration, whose data directory is returned. A real CouchDB 2 needs an Erlang and a
// JavaScript engine that no Debian has any more; docs/versions.md says how one was tried.
func oldLayout(t *testing.T) (bin, trap string) {
	t.Helper()
	real, missing := testenv.CouchDBBinary()
	if missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
	from, root := filepath.Dir(filepath.Dir(real)), t.TempDir()
	trap = filepath.Join(root, "data")
	erts, err := filepath.Glob(filepath.Join(from, "erts-*"))
	if err != nil || len(erts) != 1 {
		t.Fatalf("%q, %v", erts, err)
	}
	for path, target := range map[string]string{
		filepath.Base(erts[0]): erts[0], "lib": filepath.Join(from, "lib"), "share": filepath.Join(from, "share"),
		"etc/default.ini":             filepath.Join(from, "etc", "default.ini"),
		"releases/2.3.1/couchdb.boot": filepath.Join(from, "releases", "couchdb.boot"),
		"releases/2.3.1/sys.config":   filepath.Join(from, "releases", "sys.config"),
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		must(t, os.Symlink(target, filepath.Join(root, path)))
	}
	must(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	must(t, os.Mkdir(trap, 0o755))
	version := strings.TrimPrefix(filepath.Base(erts[0]), "erts-")
	for path, text := range map[string]string{
		"releases/start_erl.data": version + " 2.3.1\n",
		"etc/local.ini":           "[couchdb]\ndatabase_dir = " + trap + "\nview_index_dir = " + trap + "\n[admins]\nadmin = other\n",
		"etc/vm.args":             "-name couchdb@127.0.0.1\n-setcookie monster\n-start_epmd false\n-dist_listen false\n+Bd -noinput\n",
		"bin/couchdb": `#!/bin/sh
cd "` + root + `" || exit 1
export ROOTDIR="` + root + `" BINDIR="` + root + "/" + filepath.Base(erts[0]) + `/bin" EMU=beam PROGNAME=couchdb
exec "$BINDIR/erlexec" -boot "$ROOTDIR/releases/2.3.1/couchdb" -args_file "$ROOTDIR/etc/vm.args" \
	-config "$ROOTDIR/releases/2.3.1/sys.config" "$@"
`,
	} {
		must(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o755))
	}
	return filepath.Join(root, "bin", "couchdb"), trap
}

// TestCreateWithOldStartScript starts an instance with a release whose own start script would
// take the original's configuration, and with it the original's data.
func TestCreateWithOldStartScript(t *testing.T) {
	needInstances(t)
	t.Parallel()
	bin, trap := oldLayout(t)
	r := openRepo(t, mem.New())
	rec := take(t, r, testenv.VersionDir(t, "2.3"), t.TempDir())
	dir := newDir(t)
	made, c := create(t, restore.CreateOptions{Repo: r, Record: rec, Name: "old", Dir: dir, CouchDBBin: bin, AdminPassword: "pw"})
	var info struct {
		Docs int `json:"doc_count"`
	}
	if err := c.Get(testenv.DBPath("two"), &info); err != nil || info.Docs < 100 {
		t.Errorf("%d documents, %v", info.Docs, err)
	}
	if entries, err := os.ReadDir(trap); err != nil || len(entries) > 0 {
		t.Errorf("the installation's own data directory was used: %v, %v", entries, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "etc", "local.ini"))
	must(t, err)
	ini := node.ParseIni(b)
	local, _ := ini.Get("httpd", "port")
	public, _ := ini.Get("chttpd", "port")
	if bind, _ := ini.Get("httpd", "bind_address"); local == "" || local == "5986" || local == public || bind != "127.0.0.1" {
		t.Errorf("the node-local port is %q of %q, beside %q", local, bind, public)
	}
	if !strings.HasSuffix(made.URL, ":"+public) {
		t.Errorf("%+v", made)
	}
}

// TestOldErlang makes an instance for a release whose Erlang would meet the original, and
// doesn't start it; a trial with it reads the backup alone.
func TestOldErlang(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	bin := filepath.Join(root, "bin", "couchdb")
	must(t, os.MkdirAll(filepath.Dir(bin), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, "releases"), 0o755))
	must(t, os.WriteFile(bin, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "releases", "start_erl.data"), []byte("9.3.3.15 2.3.1\n"), 0o644))
	made, err := restore.Create(t.Context(), restore.CreateOptions{Name: "old", Dir: filepath.Join(t.TempDir(), "old"), CouchDBBin: bin, Start: true})
	if err != nil || made.Running {
		t.Fatalf("%+v, %v", made, err)
	}
	contains(t, made.Notes, "older than 23")
	if _, err := restore.Start(t.Context(), made.Dir, restore.StartOptions{CouchDBBin: bin}); !errors.Is(err, restore.ErrStart) || !strings.Contains(err.Error(), "older than 23") {
		t.Errorf("Start: %v", err)
	}
	r, rec := fixtureBackup(t)
	if rep := trial(t, restore.TrialOptions{Repo: r, Record: rec, CouchDBBin: bin}); rep.Server || rep.Verify == nil || !rep.OK() {
		t.Errorf("%+v", rep)
	}
}

// TestCreatedAnswersAsCouchDB2 asks a server that says to /_node/_local what real ones of 2.1
// and 2.3 do. It is a 3.5 with that put before it: see oldLayout.
func TestCreatedAnswersAsCouchDB2(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"couchdb": {"single_node": "false"}}})
	front := testenv.NewFront(t, c.URL)
	front.Set(testenv.AsCouchDB2("2.3.1"))
	made := &restore.Created{URL: front.URL, User: c.Admin, Password: c.Password}
	if err := made.Answers(t.Context()); err != nil {
		t.Errorf("a new instance: %v", err)
	}
	for _, db := range []string{"_users", "_replicator"} { // which a CouchDB 2 doesn't make by itself
		if err := c.Do(t.Context(), http.MethodGet, "/"+db, nil, nil); err != nil {
			t.Errorf("%s: %v", db, err)
		}
	}
	made.Restored = &restore.Result{Databases: []string{"orders"}}
	if err := made.Answers(t.Context()); err == nil || !strings.Contains(err.Error(), `"orders" is not there yet`) {
		t.Errorf("a database that is missing: %v", err)
	}
	must(t, c.Put("/orders", nil, nil))
	if err := made.Answers(t.Context()); err != nil {
		t.Errorf("all is there: %v", err)
	}
}
