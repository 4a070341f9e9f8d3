package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// roundsEnv is how many rounds TestClusterKilled takes instead of one.
const roundsEnv = "SLIPCOVER_TEST_CLUSTER_ROUNDS"

// killedDBs are the databases of a round, with the arguments that make them.
var killedDBs = map[string]string{"d": "?q=4", "two": "?q=2&n=2", "odd/na+me": "?q=2", "parts": "?q=2&partitioned=true"}

// A cluster is backed up while it is written to, and restored on other nodes, each by a command that is killed at random
// moments, run with another plan, and run to its end. Everything is there that all copies had before the backups.
func TestClusterKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two clusters")
	}
	t.Parallel()
	rounds := 1
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		rounds = n
	}
	shapes := []struct{ from, to, n int }{{3, 3, 0}, {3, 1, 0}, {1, 3, 0}, {3, 5, 0}, {3, 2, 2}}
	first := rand.IntN(len(shapes))
	for i := range rounds {
		s := shapes[(first+i)%len(shapes)]
		t.Run(fmt.Sprintf("%d: %d to %d", i, s.from, s.to), func(t *testing.T) {
			k := &killed{t: t, dir: t.TempDir()}
			k.round(i, s.from, s.to, s.n)
		})
	}
}

type killed struct {
	t        *testing.T
	dir      string
	cluster  *testenv.CouchCluster
	mu       sync.Mutex
	seen     map[string]float64 // what was acknowledged, by database and id
	kills    int                // that came before the end
	refusals int                // of other plans
}

func (k *killed) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// command runs a command as a process of its own.
func (k *killed) command(args ...string) *exec.Cmd {
	c := exec.Command("slipcover", append(args, "--repo", filepath.Join(k.dir, "repo"))...)
	c.Env = append(testenv.Environ(), "COUCHDB_PASSWORD="+k.cluster.Nodes[0].Password, "SLIPCOVER_CONFIG=/dev/null", "SLIPCOVER_CLUSTER=prod",
		"SLIPCOVER_STATE_DIR="+filepath.Join(k.dir, "state"), "PATH="+os.Getenv("PATH"))
	return c
}

func (k *killed) run(args ...string) string {
	k.t.Helper()
	out, err := k.command(args...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// names returns names of nodes on addresses that no other test has.
func (k *killed) names(what string, n, round, from int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s%d@127.9.%d.%d", what, i, round%250, from+i))
	}
	return out
}

func (k *killed) round(round, from, to, n int) {
	t := k.t
	old := k.names("old", from, round, 1)
	k.cluster = testenv.Cluster(t, from, testenv.ClusterOptions{NodeNames: old, N: min(3, from)})
	for db, query := range killedDBs {
		if from == 1 {
			query = strings.ReplaceAll(query, "&n=2", "")
		}
		k.must(k.cluster.Nodes[0].Put(testenv.DBPath(db)+query, nil, nil))
		k.must(k.cluster.Nodes[0].Put(testenv.DBPath(db, "_security"), map[string]any{"members": map[string]any{"names": []string{"jan"}}}, nil))
	}
	k.run("init", "--no-encryption")
	stop := k.write()
	defer stop()
	for len(k.acknowledged()) < 300 {
		time.Sleep(10 * time.Millisecond)
	}
	want := k.acknowledged()
	k.wait(want)
	var all sync.WaitGroup
	for i, node := range k.cluster.Nodes {
		all.Go(func() {
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			out, err := k.command("backup", "create", "--instance", fmt.Sprint("db", i), "--couch-url", address(node)).CombinedOutput()
			if err != nil {
				t.Errorf("backup: %v\n%s", err, out)
			}
		})
	}
	all.Wait()
	stop()
	wrote := len(k.acknowledged())
	k.cluster.Stop()
	if t.Failed() {
		t.FailNow()
	}
	plan, other := filepath.Join(k.dir, "plan.yml"), filepath.Join(k.dir, "other.yml")
	names := k.names("new", to, round, 10)
	args := []string{"cluster", "plan", "prod", "--nodes", strings.Join(names, ",")}
	k.run(append(args, "--n", strconv.Itoa(n), "--out", plan)...)
	args[4] += ",else@127.9.0.200"
	k.run(append(args, "--out", other)...)
	nodes := make([]testenv.NodeOptions, 0, to)
	for _, name := range names {
		dir := filepath.Join(k.dir, name)
		k.restore(plan, other, name, dir)
		nodes = append(nodes, testenv.NodeOptions{NodeName: name, DataDir: dir})
	}
	again := testenv.StartCluster(t, nodes)
	for db := range killedDBs {
		again.InStep(db)
		for _, node := range again.Nodes {
			k.complete(node, testenv.DBPath(db), db, want)
			var security struct{ Members struct{ Names []string } }
			k.must(node.Get(testenv.DBPath(db, "_security"), &security))
			if len(security.Members.Names) != 1 {
				t.Errorf("%s: %s is open to everybody", node.NodeName, db)
			}
		}
	}
	if to == 1 { // what the others have comes too
		k.run("restore-union", "--plan", plan, "--to-server", address(again.Nodes[0]))
	}
	again.Stop()
	t.Logf("%d documents that all copies had, %d in all, %d kills, %d refusals", len(want), wrote, k.kills, k.refusals)
}

// write writes on all nodes until stop is called.
func (k *killed) write() (stop func()) {
	k.seen = map[string]float64{}
	done := make(chan struct{})
	var writers sync.WaitGroup
	for i, node := range k.cluster.Nodes {
		for db := range killedDBs {
			writers.Go(func() {
				revs := map[string]string{}
				for n := 0; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					id := fmt.Sprintf("p:%d-%d", i, rand.IntN(1+n))
					var got struct{ Rev string }
					doc := map[string]any{"n": n}
					if revs[id] != "" {
						doc["_rev"] = revs[id]
					}
					err := node.Put(testenv.DBPath(db, id), doc, &got)
					if testenv.Status(err) == 409 { // its copy is behind
						continue
					}
					if err != nil {
						k.t.Errorf("write: %v", err)
						return
					}
					revs[id] = got.Rev
					k.mu.Lock()
					k.seen[db+" "+id] = float64(n)
					k.mu.Unlock()
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
	}
	return sync.OnceFunc(func() { close(done); writers.Wait() })
}

func (k *killed) acknowledged() map[string]float64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]float64{}
	for key, n := range k.seen {
		out[key] = n
	}
	return out
}

type rows struct {
	Rows []struct {
		ID  string
		Doc struct{ N float64 }
	}
}

// wait waits until all copies have what is wanted.
func (k *killed) wait(want map[string]float64) {
	k.t.Helper()
	var err error
	for end := time.Now().Add(clitest.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = k.behind(want); err == nil {
			return
		}
	}
	k.must(err)
}

func (k *killed) behind(want map[string]float64) error {
	copies := map[string]int{}
	for _, node := range k.cluster.Nodes {
		for db := range killedDBs {
			shards, err := node.NodeShards(db)
			if err != nil {
				return err
			}
			for _, s := range shards {
				var all rows
				if err := node.Get("/_node/_local"+testenv.DBPath(s, "_all_docs")+"?include_docs=true", &all); err != nil {
					return err
				}
				for _, row := range all.Rows {
					if n, ok := want[db+" "+row.ID]; ok && row.Doc.N >= n {
						copies[db+" "+row.ID]++
					}
				}
			}
		}
	}
	for key := range want {
		n := min(3, len(k.cluster.Nodes))
		if strings.HasPrefix(key, "two ") {
			n = min(2, n)
		}
		if copies[key] < n {
			return fmt.Errorf("%s is in %d copies", key, copies[key])
		}
	}
	return nil
}

// restore restores a node's part through kills and other plans.
func (k *killed) restore(plan, other, name, dir string) {
	t := k.t
	args := func(plan string) []string { return []string{"restore", "--plan", plan, "--as-node", name, "--to", dir} }
	marker := filepath.Join(dir, "slipcover-restore-incomplete")
	delta := rand.IntN(3) == 0
	if delta { // onto what another plan left
		k.run(args(other)...)
	}
	more := func() (out []string) {
		if delta {
			return []string{"--delta"}
		}
		return nil
	}
	for range 2 + rand.IntN(3) {
		c := k.command(append(args(plan), more()...)...)
		k.must(c.Start())
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		k.must(errors.Join(c.Process.Kill()))
		if c.Wait() == nil {
			break
		}
		_, err := os.Stat(marker)
		_, maps := os.Stat(filepath.Join(dir, "_dbs.couch"))
		if err == nil {
			k.kills++
			if out, err := k.command(args(other)...).CombinedOutput(); err == nil {
				t.Errorf("another plan went on in %s:\n%s", dir, out)
			} else {
				k.refusals++
			}
		} else if maps == nil && !delta {
			break // it was killed behind its end
		}
	}
	out, err := k.command(append(args(plan), more()...)...).CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("not empty")) {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Errorf("%s has a marker behind the end:\n%s", dir, out)
	}
	if out, err := k.command(args(other)...).CombinedOutput(); err == nil {
		t.Errorf("another plan overwrote %s:\n%s", dir, out)
	}
}

// complete holds that a database has what is wanted of it.
func (k *killed) complete(node *testenv.Couch, path, db string, want map[string]float64) {
	k.t.Helper()
	var all rows
	var raw json.RawMessage
	k.must(node.Get(path+"/_all_docs?include_docs=true", &raw))
	k.must(json.Unmarshal(raw, &all))
	found := map[string]float64{}
	for _, row := range all.Rows {
		found[db+" "+row.ID] = row.Doc.N
	}
	missing := 0
	for key, n := range want {
		if got, ok := found[key]; strings.HasPrefix(key, db+" ") && (!ok || got < n) {
			missing++
		}
	}
	if missing > 0 {
		k.t.Errorf("%s: %d documents of %s are missing or old that all copies had", node.NodeName, missing, db)
	}
}
