package restore_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

type rows struct {
	Rows []struct {
		ID    string
		Value json.RawMessage
		Doc   json.RawMessage
	}
}

// sameDatabases compares what a server answers with what the original did.
func sameDatabases(t *testing.T, c *testenv.Client, except ...string) {
	t.Helper()
	dirs, err := os.ReadDir(fixture + "/expected")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		db, err := url.PathUnescape(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(except, db) {
			continue
		}
		sameDatabase(t, c, db, d.Name())
		n++
	}
	if n < 20 {
		t.Errorf("only %d databases compared", n)
	}
}

func sameDatabase(t *testing.T, c *testenv.Client, db, expected string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixture, "expected", expected, "all_docs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got, want rows
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "GET", "/"+url.QueryEscape(db)+"/_all_docs?include_docs=true&conflicts=true", nil, &got); err != nil {
		t.Errorf("%s: %v", db, err)
		return
	}
	for _, r := range []*rows{&got, &want} {
		slices.SortFunc(r.Rows, func(a, b struct {
			ID    string
			Value json.RawMessage
			Doc   json.RawMessage
		}) int {
			return strings.Compare(a.ID, b.ID)
		})
	}
	if len(got.Rows) != len(want.Rows) {
		t.Errorf("%s: got %d documents, want %d", db, len(got.Rows), len(want.Rows))
		return
	}
	for i := range got.Rows {
		g, w := got.Rows[i], want.Rows[i]
		if g.ID != w.ID || !sameJSON(t, g.Value, w.Value) || len(w.Doc) > 0 && !sameJSON(t, g.Doc, w.Doc) {
			t.Errorf("%s: got %s %s, want %s %s", db, g.ID, g.Value, w.ID, w.Value)
		}
	}
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

func needCouchDB(t *testing.T) {
	t.Helper()
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
}

func TestRestoredNodeServesAll(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "data")
	o := restore.Options{Repo: r, Record: rec, To: dir}
	files(t, o)
	c := testenv.CouchDB(t, testenv.Options{DataDir: dir, NodeName: nodeName})
	sameDatabases(t, &c.Client)
	if runtime.GOOS == "linux" {
		o.Delta = true
		if _, err := restore.Files(t.Context(), o); err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "beam") {
			t.Errorf("restore over a running server: %v", err)
		}
	}
}

// A CouchDB of another name opens what is restored for it, whole or one database.
func TestRestoredForAnotherNodeName(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	const other = "elsewhere@127.0.0.1"
	r, rec := fixtureBackup(t)
	dir, one := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "one")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, NodeName: other})
	if res.NodeName != other || !res.OK() {
		t.Errorf("the node is %q, problems %q", res.NodeName, res.Problems)
	}
	contains(t, res.Notes, "-name "+other)
	files(t, restore.Options{Repo: r, Record: rec, To: one, Databases: []string{"viewed"}, As: "again", NodeName: other})
	c := testenv.CouchDB(t, testenv.Options{DataDir: dir, NodeName: other})
	sameDatabases(t, &c.Client)
	if err := copyInto(filepath.Join(one, "shards"), filepath.Join(dir, "shards")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(one, "shard-maps", "again.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "PUT", "/_node/_local/_dbs/again", b, nil); err != nil {
		t.Fatal(err)
	}
	known(t, &c.Client, "again")
	sameDatabase(t, &c.Client, "again", "viewed")
	var members struct {
		Nodes []string `json:"cluster_nodes"`
	}
	if err := c.Get("/_membership", &members); err != nil || len(members.Nodes) != 1 || members.Nodes[0] != other {
		t.Errorf("nodes of the cluster: %q, %v, want %s alone", members.Nodes, err, other)
	}
}

func TestChosenDatabasesIntoARunningServer(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	r, rec := fixtureBackup(t)
	c := testenv.CouchDB(t, testenv.Options{NodeName: nodeName})
	out := filepath.Join(t.TempDir(), "out")
	dbs := []string{"viewed", "parted", "team/*", "conflicted", "eight"}
	res := files(t, restore.Options{Repo: r, Record: rec, To: out, Databases: dbs})
	for _, folder := range []string{"shards", ".shards"} {
		if err := copyInto(filepath.Join(out, folder), filepath.Join(c.DataDir, folder)); err != nil {
			t.Fatal(err)
		}
	}
	for _, db := range res.Databases {
		name := url.QueryEscape(db)
		b, err := os.ReadFile(filepath.Join(out, "shard-maps", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(t.Context(), "PUT", "/_node/_local/_dbs/"+name, b, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, db := range res.Databases {
		known(t, &c.Client, db)
		sameDatabase(t, &c.Client, db, url.QueryEscape(db))
	}
	// Beside the original, under a new name.
	again := filepath.Join(t.TempDir(), "again")
	files(t, restore.Options{Repo: r, Record: rec, To: again, Databases: []string{"viewed"}, As: "viewed/before"})
	for _, folder := range []string{"shards", ".shards"} {
		if err := copyInto(filepath.Join(again, folder), filepath.Join(c.DataDir, folder)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(again, "shard-maps", "viewed%2Fbefore"+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "PUT", "/_node/_local/_dbs/"+"viewed%2Fbefore", b, nil); err != nil {
		t.Fatal(err)
	}
	known(t, &c.Client, "viewed/before")
	sameDatabase(t, &c.Client, "viewed/before", "viewed")
}

// known waits until a server knows a database: its shard cache follows a feed.
func known(t *testing.T, c *testenv.Client, db string) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = c.Get(testenv.DBPath(db), nil); err == nil {
			return
		}
	}
	t.Fatalf("%s is not known: %v", db, err)
}

func copyInto(from, to string) error {
	return filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}

// A shard without a header must not be served as an empty database.
func TestDamagedShardAnswersWithErrors(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	data := copyFixture(t)
	headerless, err := filepath.Glob(filepath.Join(data, "shards/*/conflicted.*.couch"))
	if err != nil || len(headerless) < 2 {
		t.Fatal(headerless, err)
	}
	if err := os.WriteFile(headerless[0], make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	gone, err := filepath.Glob(filepath.Join(data, "shards/*/deletions.*.couch"))
	if err != nil || len(gone) < 2 {
		t.Fatal(gone, err)
	}
	if err := os.Remove(gone[0]); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir})
	if res.OK() || len(res.Damaged) != 1 || len(res.Problems) != 1 {
		t.Errorf("damaged %q, problems %q", res.Damaged, res.Problems)
	}
	rep, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: r, Record: rec})
	if err != nil || !rep.OK() || rep.Known != 2 {
		t.Errorf("verify: %v %+v", err, rep)
	}
	c := testenv.CouchDB(t, testenv.Options{DataDir: dir, NodeName: nodeName})
	for _, db := range []string{"conflicted", "deletions"} {
		var v map[string]any
		err := c.Do(t.Context(), "GET", "/"+db+"/_all_docs", nil, &v)
		t.Logf("%s: %v %v", db, err, v["total_rows"])
		if err == nil {
			t.Errorf("%s answers as if nothing were missing: %v", db, v)
		}
	}
	sameDatabases(t, &c.Client, "conflicted", "deletions")
	for _, p := range []string{headerless[0], gone[0]} {
		rel, _ := filepath.Rel(data, p)
		if info, err := os.Stat(filepath.Join(dir, rel)); err != nil || !info.IsDir() {
			t.Errorf("%s: the guard is gone: %v %v", rel, info, err)
		}
	}
}

func TestCreate(t *testing.T) {
	needCouchDB(t)
	t.Parallel()
	data := copyFixture(t)
	// The original runs, with the same name.
	original := testenv.CouchDB(t, testenv.Options{DataDir: data, NodeName: nodeName})
	etc := filepath.Join(t.TempDir(), "etc")
	if err := os.MkdirAll(filepath.Join(etc, "local.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	ini, err := os.ReadFile(fixture + "/etc/local.d/admin.ini")
	if err != nil {
		t.Fatal(err)
	}
	ini = append(ini, "\n[couchdb]\ndatabase_dir = "+data+"\nview_index_dir = "+data+"\n[chttpd_auth]\nsecret = 0123456789abcdef\n"...)
	if err := os.WriteFile(filepath.Join(etc, "local.d", "admin.ini"), ini, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := node.Locate(t.Context(), node.Options{ConfigDir: etc})
	if err != nil {
		t.Fatal(err)
	}
	n.NodeName = nodeName
	r := encryptedRepo(t, mem.New()) // an open one would not take the secret
	rec := takeNode(t, r, n, t.TempDir())
	config := filepath.Join(t.TempDir(), "etc")
	files(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "data"), ConfigTo: config})
	if b, err := os.ReadFile(filepath.Join(config, "local.d", "admin.ini")); err != nil || string(b) != string(ini) {
		t.Errorf("restored configuration: %v\n%s", err, b)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	made, err := restore.Create(t.Context(), restore.CreateOptions{Repo: r, Record: rec, Name: "copy", Dir: dir, Start: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(made.Log)
			t.Logf("%+v\n%s", made, b)
		}
		if err := removeNow(dir); err != nil {
			t.Error(err)
		}
	})
	c := &testenv.Client{URL: made.URL, Admin: made.User, Password: made.Password}
	sameDatabases(t, c)
	var who struct{ UUID string }
	if err := c.Do(t.Context(), "GET", "/", nil, &who); err != nil || who.UUID != "f1c0f1c0f1c0f1c0f1c0f1c0f1c0f1c0" {
		t.Errorf("uuid: %q, %v", who.UUID, err)
	}
	// A write here is not one there.
	if err := c.Do(t.Context(), "PUT", "/viewed/only-here", map[string]any{}, nil); err != nil {
		t.Error(err)
	}
	if err := original.Do(t.Context(), "GET", "/viewed/only-here", nil, nil); testenv.Status(err) != 404 {
		t.Errorf("the original has what was written to the copy: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "etc", "local.ini"))
	if err != nil || strings.Contains(string(b), made.Password) || !strings.Contains(string(b), "0123456789abcdef") {
		t.Errorf("local.ini: %v\n%s", err, b)
	}
	if !made.Running || made.PID == 0 {
		t.Errorf("%+v", made)
	}
}
