package restore_test

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/topology"
)

// The nodes of a plan, each restored alone, start with the configuration that was restored: they join each other by a cookie
// that the original never had, have one uuid and secret, wait in maintenance mode, and let the administrator in.
func TestClusterIdentity(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts two clusters")
	}
	c := testenv.Cluster(t, 2, testenv.ClusterOptions{NodeNames: names(2, 60), N: 2})
	must(t, c.Nodes[0].Put("/d", nil, nil))
	setting := func(n *testenv.Couch, path string) (value string) {
		t.Helper()
		must(t, n.Get("/_node/_local/_config/"+path, &value))
		return value
	}
	old := map[string]string{"couchdb/uuid": "", "chttpd_auth/secret": ""}
	for path := range old {
		old[path] = setting(c.Nodes[0], path)
	}
	r := encryptedRepo(t, mem.New())
	var backups []topology.Backup
	var recs []*manifest.Record
	for i, couch := range c.Nodes {
		// A seed of the original would keep the restored node from coming up.
		etc := filepath.Dir(couch.ConfigFile())
		mkfile(t, filepath.Join(etc, "local.d", "zz-slipcover.ini"), "[cluster]\nseedlist = "+c.Nodes[0].NodeName+","+c.Nodes[1].NodeName+"\n")
		n, err := node.Locate(t.Context(), node.Options{Usual: []string{t.TempDir()}, Getenv: func(k string) string {
			return map[string]string{"COUCHDB_INI_FILES": couch.ConfigFile() + " " + filepath.Join(etc, "local.d"), "COUCHDB_ARGS_FILE": filepath.Join(etc, "vm.args")}[k]
		}})
		must(t, err)
		instance := []string{"db1", "db2"}[i]
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: instance, StateDir: t.TempDir(), Parallel: 2})
		must(t, err)
		recs = append(recs, res.Record)
		backups = append(backups, topology.Backup{Node: couch.NodeName, Instance: instance, ID: res.Record.ID})
	}
	c.Stop()
	plan := topology.New("test", backups, names(2, 60), names(2, 62))
	text, err := plan.YAML()
	must(t, err)
	cookie := regexp.MustCompile(`(?m)^-setcookie (\S+)$`)
	cookieIn := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		must(t, err)
		found := cookie.FindAllSubmatch(b, -1)
		if len(found) != 1 {
			t.Fatalf("%s has %d cookies:\n%s", path, len(found), b)
		}
		return string(found[0][1])
	}
	members := membersOf(t, r, recs)
	cookies := map[string]bool{cookieIn(filepath.Join(filepath.Dir(c.Nodes[0].ConfigFile()), "vm.args")): true}
	restored := func(plan *topology.Plan) (nodes []testenv.NodeOptions) {
		t.Helper()
		first := ""
		for _, n := range plan.Nodes {
			all, err := cluster.Open(t.Context(), r, members)
			must(t, err)
			part, err := restore.PartOf(all, plan, n.Name)
			must(t, err)
			dir := t.TempDir()
			o := testenv.NodeOptions{NodeName: n.Name, DataDir: filepath.Join(dir, "data"), ConfigDir: filepath.Join(dir, "etc"), Config: map[string]map[string]string{"couchdb": {"maintenance_mode": "true"}}}
			res := files(t, restore.Options{Repo: r, Part: part, To: o.DataDir, ConfigTo: o.ConfigDir})
			notes := strings.Join(res.Notes, "\n")
			got := cookieIn(filepath.Join(o.ConfigDir, "vm.args"))
			if !strings.Contains(notes, filepath.Join("local.d", "zzz-slipcover.ini")+" has couchdb/uuid") || strings.Contains(notes, got) {
				t.Errorf("notes:\n%s", notes)
			}
			if cookies[got] || first != "" && got != first {
				t.Errorf("%s has the cookie %s; others have %v, the node before it %s", n.Name, got, cookies, first)
			}
			first = got
			nodes = append(nodes, o)
		}
		cookies[first] = true
		return nodes
	}
	nodes := restored(plan)
	again := testenv.StartCluster(t, nodes)
	for path, was := range old {
		a, b := setting(again.Nodes[0], path), setting(again.Nodes[1], path)
		if a != b || a == was || len(a) < len(was) {
			t.Errorf("%s: got %q and %q, was %q", path, a, b, was)
		}
	}
	if m, s := setting(again.Nodes[1], "couchdb/maintenance_mode"), setting(again.Nodes[0], "cluster/seedlist"); m != "true" || s != strings.Join(names(2, 62), ",") {
		t.Errorf("maintenance mode %q, seeds %q", m, s)
	}
	for _, n := range again.Nodes { // as restore-check does; it goes into the file that is read last
		must(t, n.Put("/_node/_local/_config/couchdb/maintenance_mode", "false", nil))
	}
	resp, err := http.PostForm(again.Nodes[0].URL+"/_session", url.Values{"name": {"admin"}, "password": {again.Nodes[0].Password}})
	must(t, err)
	resp.Body.Close()
	if len(resp.Cookies()) != 1 {
		t.Fatalf("log in: %s", resp.Status)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, again.Nodes[1].URL+"/_node/_local/_config/couchdb/uuid", nil)
	must(t, err)
	req.AddCookie(resp.Cookies()[0])
	if resp, err = http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a session of one node at the other: %v, %v", resp, err)
	}
	resp.Body.Close()
	again.Stop()
	again.Start()
	if m := setting(again.Nodes[0], "couchdb/maintenance_mode"); m != "false" {
		t.Errorf("opened and started again, it is in maintenance mode %q", m)
	}
	again.Stop()

	// The plan has no secret in it, and another plan of the same backups makes another cluster.
	for _, n := range nodes {
		b, err := os.ReadFile(filepath.Join(n.ConfigDir, "local.d", "zzz-slipcover.ini"))
		must(t, err)
		info, err := os.Stat(filepath.Join(n.ConfigDir, "vm.args"))
		must(t, err)
		if info.Mode().Perm() != 0o600 || bytes.Contains(text, []byte(cookieIn(filepath.Join(n.ConfigDir, "vm.args")))) {
			t.Errorf("vm.args has mode %v; the plan is\n%s\nthe ini file\n%s", info.Mode(), text, b)
		}
	}
	restored(topology.New("test", backups, names(2, 60), names(2, 62)))
}
