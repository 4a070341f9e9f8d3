//go:build unix

package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// together is a cluster that was backed up, and agents for it and for the nodes that come after it.
type together struct {
	t       *testing.T
	dir     string
	cluster *testenv.CouchCluster
	server  *process
	agents  map[string]*process // by the nodes' names
	names   map[string]string   // of agents, by the same
	down    atomic.Bool         // a CouchDB is, or was
}

// startTogether starts a cluster of some nodes that were backed up, and a server that their agents joined: so it knows the
// instances. It returns the leaves of the database orders in the backups, too.
func startTogether(t *testing.T, net, nodes int) (w *together, orders map[string]string) {
	t.Helper()
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
	w = &together{t: t, dir: t.TempDir(), agents: map[string]*process{}, names: map[string]string{}}
	w.cluster = testenv.Cluster(t, nodes, testenv.ClusterOptions{NodeNames: nodeNames("old", net, 1)[:nodes]})
	w.fill(1500)
	w.backUp()
	orders = leaves(t, w.cluster.Nodes[0], "orders")
	w.serve()
	w.joinRunning()
	return w, orders
}

func nodeNames(what string, net, from int) (out []string) {
	for i := range 3 {
		out = append(out, fmt.Sprintf("%s%d@127.10.%d.%d", what, i, net, from+i))
	}
	return out
}

func (w *together) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *together) command(args ...string) *exec.Cmd {
	c := exec.Command("slipcover", args...)
	c.Env = append(testenv.Environ(), "SLIPCOVER_CONFIG="+os.DevNull, "SLIPCOVER_REPOSITORY="+w.repo(), "COUCHDB_PASSWORD="+w.cluster.Nodes[0].Password, "PATH="+os.Getenv("PATH"), "SLIPCOVER_PROGRESS=none")
	if w.server != nil {
		c.Env = append(c.Env, "SLIPCOVER_STATE_DIR="+w.server.state, "SLIPCOVER_SERVER_URL="+w.server.url)
	} else {
		c.Env = append(c.Env, "SLIPCOVER_STATE_DIR="+filepath.Join(w.dir, "state"))
	}
	return c
}

func (w *together) repo() string { return filepath.Join(w.dir, "repo") }

func (w *together) run(args ...string) string {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// refused runs a command that must fail with a text.
func (w *together) refused(text string, args ...string) {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), text) {
		w.t.Fatalf("%q: %v, without %q\n%s", args, err, text, out)
	}
}

// fill makes the database that is restored: conflicts, deletions, attachments, a view, and who may read it.
func (w *together) fill(docs int) {
	w.t.Helper()
	n := w.cluster.Nodes[0]
	w.must(n.Put("/orders?q=4", nil, nil))
	w.must(n.Put("/orders/_security", map[string]any{"members": map[string]any{"names": []string{"jan"}}, "admins": map[string]any{"names": []string{}}}, nil))
	w.must(n.Put("/orders/_design/by", map[string]any{"views": map[string]any{"n": map[string]any{"map": "function(doc) { emit(doc.n, doc.text) }", "reduce": "_count"}}}, nil))
	for from := 0; from < docs; from += 5000 {
		var list []any
		for i := from; i < min(docs, from+5000); i++ {
			list = append(list, map[string]any{"_id": fmt.Sprintf("o-%06d", i), "n": i, "text": strings.Repeat(fmt.Sprint(i%10), 600)})
		}
		w.must(n.Post("/orders/_bulk_docs", map[string]any{"docs": list}, nil))
	}
	for i := range 20 {
		id := fmt.Sprintf("o-%06d", i)
		w.must(n.Post("/orders/_bulk_docs", map[string]any{"new_edits": false, "docs": []any{
			map[string]any{"_id": id, "_rev": fmt.Sprintf("2-%032x", i), "conflict": true, "_revisions": map[string]any{"start": 2, "ids": []string{fmt.Sprintf("%032x", i), fmt.Sprintf("%032x", 999)}}},
			map[string]any{"_id": "gone-" + id, "_rev": "1-" + strings.Repeat("a", 32), "_deleted": true},
			map[string]any{"_id": "att-" + id, "_rev": "1-" + strings.Repeat("b", 32), "_attachments": map[string]any{"a.txt": map[string]any{"content_type": "text/plain", "data": "aGVsbG8="}}},
		}}, nil))
	}
	var rows json.RawMessage
	w.must(n.Get("/orders/_design/by/_view/n", &rows)) // builds the index
	w.cluster.InStep("orders")
}

func (w *together) backUp() {
	w.t.Helper()
	w.run("init", "--no-encryption")
	for i, n := range w.cluster.Nodes {
		c := w.command("backup", "create", "--instance", fmt.Sprint("db", i), "--couch-url", strings.Replace(n.URL, "://", "://"+n.Admin+"@", 1))
		c.Env = append(c.Env, "SLIPCOVER_CLUSTER=prod")
		if out, err := c.CombinedOutput(); err != nil {
			w.t.Fatalf("%v\n%s", err, out)
		}
	}
}

// serve starts the server.
func (w *together) serve() {
	w.t.Helper()
	p := serverOf(filepath.Join(w.dir, "server"))
	p.Env = append(p.Env, "SLIPCOVER_RECIPIENTS="+aRecipient)
	w.server = startServer(w.t, p, "--state-dir", p.state)
}

// join starts the agent of a node.
func (w *together) join(node, name, data string, env ...string) {
	w.t.Helper()
	var token struct{ Secret string }
	_, err := w.server.client(w.t).do(http.MethodPost, "/slipcover/v1/join-tokens", map[string]any{"name": name}, &token)
	w.must(err)
	state := filepath.Join(w.dir, "agent-"+name)
	p := startAgent(w.t, append([]string{"SLIPCOVER_REPOSITORY=" + w.repo(), "SLIPCOVER_DATA_DIR=" + data, "SLIPCOVER_INSTANCE=" + name, "SLIPCOVER_OWNER=", "SLIPCOVER_ACCEPT_RESTORES=true"}, env...),
		"--state-dir", state, "--server-url", w.server.url, "--join", token.Secret)
	w.agents[node], w.names[node] = p, name
	p.Args = slices.DeleteFunc(slices.Clone(p.Args), func(a string) bool { return a == "--join" || a == token.Secret })
	w.online(name)
}

// online waits until the server has heard an agent.
func (w *together) online(name string) {
	w.t.Helper()
	eventually(w.t, clitest.Patience, name+" is online", func() bool {
		var list struct {
			Agents []struct {
				Name   string
				Online bool
			}
		}
		_, err := w.server.client(w.t).do(http.MethodGet, "/slipcover/v1/agents", nil, &list)
		return err == nil && slices.ContainsFunc(list.Agents, func(a struct {
			Name   string
			Online bool
		}) bool {
			return a.Name == name && a.Online
		})
	})
}

func (w *together) joinRunning() {
	w.t.Helper()
	for i, n := range w.cluster.Nodes {
		w.join(n.NodeName, fmt.Sprint("db", i), n.DataDir, "COUCH_URL="+n.URL, "COUCHDB_USER="+n.Admin, "COUCHDB_PASSWORD="+n.Password)
	}
}

func (w *together) pairs() string {
	var out []string
	for _, node := range slices.Sorted(maps.Keys(w.names)) {
		out = append(out, node+"="+w.names[node])
	}
	return strings.Join(out, ",")
}

// toCluster is the command that restores orders under a name.
func (w *together) toCluster(as string) []string {
	return []string{"restore-db", "orders", "--as", as, "--to-cluster", w.pairs()}
}

// trace says what is left of a database in the cluster; "" if nothing is.
func (w *together) trace(db string) string {
	for _, n := range w.cluster.Nodes {
		if err := n.Get("/_node/_local/_dbs/"+url.PathEscape(db), nil); testenv.Status(err) != http.StatusNotFound {
			return fmt.Sprintf("%s has a map, or none is known: %v", n.NodeName, err)
		}
		left := ""
		_ = filepath.WalkDir(n.DataDir, func(path string, _ os.DirEntry, err error) error {
			if base := filepath.Base(path); err == nil && (strings.HasPrefix(base, db+".") || strings.HasPrefix(base, ".slipcover-restore-")) {
				left = path
			}
			return nil
		})
		if left != "" {
			return left
		}
	}
	return ""
}

// leaves are the leaf revisions of all documents of a database, as one node has them.
func leaves(t *testing.T, n *testenv.Couch, db string) map[string]string {
	t.Helper()
	var all struct {
		Results []struct {
			ID      string
			Changes []struct{ Rev string }
		}
	}
	if err := n.Get("/"+db+"/_changes?style=all_docs", &all); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range all.Results {
		var revs []string
		for _, c := range r.Changes {
			revs = append(revs, c.Rev)
		}
		slices.Sort(revs)
		out[r.ID] = strings.Join(revs, " ")
	}
	return out
}

// whole holds a restored database against another one: all leaves through each node, bodies, an attachment, who may read it, a view, and
// each copy by itself.
func (w *together) whole(want map[string]string, nodes []*testenv.Couch, db string) {
	w.t.Helper()
	var rows, security string
	for i, n := range nodes {
		if got := leaves(w.t, n, db); !maps.Equal(got, want) {
			w.t.Errorf("%s: %s has %d documents, and not the same leaves as the original with %d", n.NodeName, db, len(got), len(want))
		}
		var object, view, doc json.RawMessage
		w.must(n.Get("/"+db+"/_security", &object))
		w.must(n.Get("/"+db+"/_design/by/_view/n?reduce=false&limit=2000", &view))
		w.must(n.Get("/"+db+"/o-000003?conflicts=true", &doc))
		if !strings.Contains(string(doc), `"_conflicts"`) || !strings.Contains(string(object), `"jan"`) {
			w.t.Errorf("%s: %s: %s, %s", n.NodeName, db, doc, object)
		}
		var att struct {
			Attachments map[string]struct{ Data string } `json:"_attachments"`
		}
		w.must(n.Get("/"+db+"/att-o-000003?attachments=true", &att))
		if att.Attachments["a.txt"].Data != "aGVsbG8=" {
			w.t.Errorf("%s: %s: the attachment is %v", n.NodeName, db, att)
		}
		if i == 0 {
			rows, security = string(view), string(object)
		} else if string(view) != rows || string(object) != security {
			w.t.Errorf("%s: %s: views or security differ between nodes", n.NodeName, db)
		}
		shards, err := n.NodeShards(db)
		w.must(err)
		for _, s := range shards {
			var info struct {
				Docs    int `json:"doc_count"`
				Deleted int `json:"doc_del_count"`
			}
			w.must(n.Get("/_node/_local/"+url.PathEscape(s), &info))
			if info.Docs+info.Deleted == 0 {
				w.t.Errorf("%s: %s is empty", n.NodeName, s)
			}
		}
	}
}

// A database comes by files into the cluster that runs, while others write to it: refused where it is, taken back everywhere when one
// node can't read its backup, whole after agents and the server were killed, and then equal to the original.
func TestDatabaseToCluster(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	w, want := startTogether(t, 1, 3)
	stop := w.writers()

	w.refused("already", "restore-db", "orders", "--to-cluster", w.pairs())
	began := time.Now()
	w.run(w.toCluster("by-files")...)
	t.Logf("by files in %v", time.Since(began))
	w.whole(want, w.cluster.Nodes, "by-files")

	// One node fails when its shards have their names: nothing is left anywhere.
	clear := w.obstruct(w.cluster.Nodes[2].NodeName)
	w.refused("Nothing of the database is left", w.toCluster("twice")...)
	if left := w.trace("twice"); left != "" {
		t.Errorf("after a restore that failed: %s", left)
	}
	clear()
	w.run(w.toCluster("twice")...)
	w.whole(want, w.cluster.Nodes, "twice")

	w.cancelled(want)
	for i := range testenv.Rounds(2) {
		w.killed(i, want)
	}
	stop()
}

// A database takes the place of the one of its name on a CouchDB that is alone, while others write to it; agent, server and CouchDB
// are killed meanwhile. It is the old one or the restored one at each moment, and the old one's files stay.
func TestDatabaseInPlace(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a CouchDB")
	}
	w, want := startTogether(t, 3, 1)
	n := w.cluster.Nodes[0]
	inPlace := []string{"restore-db", "orders", "--to-cluster", w.pairs(), "--replace"}
	w.refused("set accept_writes: true", inPlace...)
	agent := w.agents[n.NodeName]
	agent.Kill()
	agent.Env = append(agent.Env, "SLIPCOVER_ACCEPT_WRITES=true")
	agent.Start()
	w.online(w.names[n.NodeName])
	w.refused("there is no database", "restore-db", "orders", "--as", "nosuch", "--to-cluster", w.pairs(), "--replace")
	w.refused("is for a CouchDB that is alone", "restore-db", "orders", "--to-cluster", w.pairs()+",couchdb@other=other", "--replace")
	for i := range 1 + testenv.Rounds(3) {
		before, err := n.NodeShards("orders")
		w.must(err)
		w.must(n.Put(fmt.Sprint("/orders/later-", i), map[string]any{}, nil))
		stop := w.readers()
		done := make(chan string, 1)
		go func() {
			out, err := w.command(inPlace...).CombinedOutput()
			done <- fmt.Sprintf("%v: %s", err, out)
		}()
		wait := time.Duration(rand.IntN(1500)) * time.Millisecond
		if i > 0 {
			time.Sleep(wait)
			switch i % 3 {
			case 0:
				w.agents[n.NodeName].Kill()
				w.agents[n.NodeName].Start()
			case 1:
				w.server.Kill()
				w.server.Start()
			case 2:
				w.down.Store(true)
				n.Kill()
				n.Start()
			}
		}
		first, again := <-done, ""
		if !strings.HasPrefix(first, "<nil>") {
			eventually(t, clitest.Patience, "the same command ends", func() bool {
				b, err := w.command(inPlace...).CombinedOutput()
				again = string(b)
				return err == nil
			})
		}
		stop()
		w.down.Store(false)
		t.Logf("round %d after %v: first %q, then %q", i, wait, first, again)
		w.whole(want, w.cluster.Nodes, "orders")
		after, err := n.NodeShards("orders")
		w.must(err)
		for _, s := range before {
			if _, err := os.Stat(filepath.Join(n.DataDir, s+".couch")); err != nil || slices.Contains(after, s) {
				t.Errorf("the old shard %s: %v; now it is %v", s, err, after)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(n.DataDir, ".slipcover-restore-*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if i == 0 && !strings.Contains(first, "the files that orders had before stay") {
			t.Errorf("it doesn't say where the old files are: %s", first)
		}
	}
	w.nodeInPlace(want)
}

// nodeInPlace has all of a node take the place of what is in its data directory, once CouchDB is stopped, twice.
func (w *together) nodeInPlace(want map[string]string) {
	n := w.cluster.Nodes[0]
	plan := filepath.Join(w.dir, "plan.yml")
	w.run("cluster", "plan", "prod", "--nodes", n.NodeName, "--out", plan)
	args := []string{"cluster", "restore", "--plan", plan, "--agents", w.pairs()}
	w.refused("in use", append(args, "--replace")...)
	for i := range 2 {
		w.must(n.Put(fmt.Sprint("/mistake-", i), nil, nil))
		n.Stop()
		w.refused("not empty", args...)
		w.run(append(args, "--replace", "--no-wait")...)
		p := w.agents[n.NodeName]
		time.Sleep(time.Duration(rand.IntN(800)) * time.Millisecond)
		p.Kill()
		p.Start()
		out := w.run(append(args, "--replace")...)
		if !strings.Contains(out, "what was in "+n.DataDir+" before is in ") {
			w.t.Errorf("it doesn't say where the old files are: %s", out)
		}
		old, _ := filepath.Glob(n.DataDir + ".before-*")
		n.Start()
		w.whole(want, w.cluster.Nodes, "orders")
		if err := n.Get(fmt.Sprint("/mistake-", i), nil); testenv.Status(err) != http.StatusNotFound || len(old) < i+1 {
			w.t.Errorf("the database made since: %v; old directories: %v", err, old)
		}
	}
}

// readers read a document of the database orders, which is in each of its states, until they are stopped.
func (w *together) readers() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			var doc struct{ N *int }
			if err := w.cluster.Nodes[0].Get("/orders/o-000100", &doc); !w.down.Load() && (err != nil || doc.N == nil || *doc.N != 100) {
				w.t.Errorf("a reader meanwhile: %v, %v", err, doc)
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// cancelled ends a restore while files are made: they go again on all nodes, one that stands still meanwhile too, and the same command makes it whole.
func (w *together) cancelled(want map[string]string) {
	t := w.t
	slow := w.agents[w.cluster.Nodes[1].NodeName].Cmd.Process
	for round := range 10 {
		db := fmt.Sprint("cancelled", round)
		done := make(chan string, 1)
		go func() {
			out, err := w.command(w.toCluster(db)...).CombinedOutput()
			done <- fmt.Sprintf("%v: %s", err, out)
		}()
		id := ""
		eventually(t, clitest.Patience, "files are made", func() bool {
			var list struct {
				Restores []struct{ ID, As, Step string }
			}
			_, err := w.server.client(t).do(http.MethodGet, "/slipcover/v1/restores", nil, &list)
			for _, r := range list.Restores {
				if r.As == db && r.Step != "check" {
					id = r.ID
				}
			}
			return err == nil && id != ""
		})
		w.must(slow.Signal(syscall.SIGSTOP))
		b, err := w.command("jobs", "cancel", id).CombinedOutput()
		w.must(slow.Signal(syscall.SIGCONT))
		if err != nil { // it came to the map
			if !strings.Contains(string(b), "can't be cancelled") {
				t.Fatalf("%v: %s", err, b)
			}
			<-done
			continue
		}
		if out := <-done; !strings.Contains(out, "the restore failed: cancelled by ") || !strings.Contains(out, "Nothing of the database is left in the cluster") {
			t.Errorf("who waits for it is told %s", out)
		}
		if left := w.trace(db); left != "" {
			t.Errorf("after a restore that was cancelled: %s", left)
		}
		shown := w.run("jobs", "show", id)
		for _, text := range []string{"Restoring files: ", "Cancelled by ", "Taking the files away again: ", "Ended: cancelled by "} {
			if !strings.Contains(shown, text) {
				t.Errorf("the log lacks %q:\n%s", text, shown)
			}
		}
		w.refused("It has ended already", "jobs", "cancel", id)
		w.run(w.toCluster(db)...)
		w.whole(want, w.cluster.Nodes, db)
		if shown := w.run("jobs", "show", id); !strings.Contains(shown, "attempt 2") || !strings.Contains(shown, "Done.") {
			t.Errorf("the log is\n%s", shown)
		}
		return
	}
	t.Error("no restore was cancelled while files were made")
}

// writers write to another database until they are stopped.
func (w *together) writers() (stop func()) {
	w.must(w.cluster.Nodes[0].Put("/busy", nil, nil))
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := w.cluster.Nodes[i%3].Put(fmt.Sprintf("/busy/%d", i), map[string]any{"n": i}, nil); err != nil && !w.down.Load() {
				w.t.Errorf("a writer of another database: %v", err)
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// obstruct has a node's agent believe in an index directory in which indexes can't get their names, which it notices when the shards have theirs,
// until clear is called.
func (w *together) obstruct(node string) (clear func()) {
	w.t.Helper()
	etc, index := filepath.Join(w.dir, "etc"), filepath.Join(w.dir, "index")
	w.must(errors.Join(os.Mkdir(etc, 0o700), os.Mkdir(index, 0o700)))
	w.must(os.WriteFile(filepath.Join(etc, "local.ini"), []byte("[couchdb]\nview_index_dir = "+index+"\n"), 0o600))
	w.must(os.WriteFile(filepath.Join(index, ".shards"), nil, 0o600))
	p := w.agents[node]
	was := slices.Clone(p.Env)
	p.Kill()
	p.Env = append(p.Env, "SLIPCOVER_CONFIG_DIR="+etc)
	p.Start()
	w.online(w.names[node])
	return func() {
		p.Kill()
		p.Env = was
		p.Start()
		w.online(w.names[node])
	}
}

// killed restores while an agent, the server or a CouchDB is killed at a random moment; then the same command brings it to
// its end.
func (w *together) killed(round int, want map[string]string) {
	t := w.t
	db := fmt.Sprint("killed", round)
	done := make(chan string, 1)
	go func() {
		out, err := w.command(w.toCluster(db)...).CombinedOutput()
		done <- fmt.Sprintf("%v: %s", err, out)
	}()
	node := w.cluster.Nodes[rand.IntN(3)]
	wait := time.Duration(rand.IntN(2000)) * time.Millisecond
	time.Sleep(wait)
	what := round % 3
	switch what {
	case 0:
		w.agents[node.NodeName].Kill()
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
		w.agents[node.NodeName].Start()
	case 1:
		w.server.Kill()
		w.server.Start()
	case 2:
		w.down.Store(true)
		node.Kill()
		node.Start()
		w.cluster.Joined()
	}
	first := <-done
	out := ""
	eventually(t, clitest.Patience, "the same command ends", func() bool {
		_, has := w.mapOf(db)
		b, err := w.command(w.toCluster(db)...).CombinedOutput()
		out = string(b)
		return err == nil || has && strings.Contains(out, "already")
	})
	t.Logf("round %d: %s killed after %v: first %.60q, then %.60q", round, []string{"agent", "server", "CouchDB"}[what], wait, first, out)
	w.whole(want, w.cluster.Nodes, db)
	for _, n := range w.cluster.Nodes {
		if left, _ := filepath.Glob(filepath.Join(n.DataDir, ".slipcover-restore-*")); len(left) > 0 {
			t.Errorf("left on %s: %v", n.NodeName, left)
		}
	}
}

func (w *together) mapOf(db string) (string, bool) {
	var m struct{ ID string }
	err := w.cluster.Nodes[0].Get("/_node/_local/_dbs/"+db, &m)
	return m.ID, err == nil
}

// A cluster comes back on three other nodes by their agents, whose CouchDBs have no data yet. One that refuses stops all before
// anything is written; one that is killed goes on; and a second time nothing is to be done.
func TestClusterTogether(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes two clusters")
	}
	w, want := startTogether(t, 2, 3)
	running := w.names
	w.names = map[string]string{}
	names := nodeNames("new", 2, 10)
	var nodes []testenv.NodeOptions
	for i, name := range names {
		data := filepath.Join(w.dir, "data", fmt.Sprint("new", i))
		var env []string
		if i == 2 {
			env = []string{"SLIPCOVER_ACCEPT_RESTORES=false", "SLIPCOVER_COUCHDB_BIN="}
			w.must(os.MkdirAll(data, 0o700))
			env = append(env, "SLIPCOVER_NODE_NAME="+name)
		}
		if i == 2 { // it joins by what it accepts then
			w.join(name, fmt.Sprint("new", i), data)
			p := w.agents[name]
			p.Kill()
			p.Env = append(p.Env, env...)
			p.Start()
			w.online(w.names[name])
		} else {
			w.join(name, fmt.Sprint("new", i), data)
		}
		nodes = append(nodes, testenv.NodeOptions{NodeName: name, DataDir: data})
	}
	plan := filepath.Join(w.dir, "plan.yml")
	w.run("cluster", "plan", "prod", "--nodes", strings.Join(names, ","), "--out", plan)
	args := []string{"cluster", "restore", "--plan", plan, "--agents", w.pairs()}
	w.refused("accept_restores", args...)
	for _, n := range nodes {
		if list, _ := os.ReadDir(n.DataDir); len(list) > 0 {
			t.Errorf("%s has %v after a refusal", n.DataDir, list)
		}
	}
	p := w.agents[names[2]]
	p.Kill()
	p.Env = append(p.Env, "SLIPCOVER_ACCEPT_RESTORES=true")
	p.Start()
	w.online(w.names[names[2]])

	// Files that aren't ours stop all, too.
	w.must(os.MkdirAll(nodes[1].DataDir, 0o700))
	alien := filepath.Join(nodes[1].DataDir, "alien.couch")
	w.must(os.WriteFile(alien, []byte("x"), 0o600))
	w.refused("not empty", args...)
	w.must(os.Remove(alien))

	w.run(append(args, "--no-wait")...)
	victim := w.agents[names[rand.IntN(3)]]
	time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
	victim.Kill()
	victim.Start()
	w.run(args...)
	if out := w.run(args...); !strings.Contains(out, "nothing was to be done") {
		t.Errorf("the second time: %s", out)
	}
	for node := range running {
		w.agents[node].Kill()
		w.agents[node].Start()
	}
	again := testenv.StartCluster(t, nodes)
	w.whole(want, again.Nodes, "orders")
	if out := w.run(args...); !strings.Contains(out, "nothing was to be done") {
		t.Errorf("with CouchDB running: %s", out)
	}
}
