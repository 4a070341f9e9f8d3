package testenv

import (
	"cmp"
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ClusterOptions say what cluster to start.
type ClusterOptions struct {
	// NodeNames are names for the nodes: what stands after the @ is an address that
	// begins with 127. and that no other node has. If empty they are
	// couchdb@127.0.0.1, couchdb@127.0.0.2 and so on.
	NodeNames []string
	Q, N      int                          // of new databases, 2 and 3 if 0; copies are at most as many as nodes
	Config    map[string]map[string]string // more ini settings of all nodes: section, key, value
}

// NodeOptions say how a node of a cluster starts.
type NodeOptions struct {
	NodeName string // as in ClusterOptions
	DataDir  string // a prepared data directory, which the node changes; empty = a new one
	// ConfigDir is a prepared configuration, as a restore writes it: what its ini files and its vm.args say of
	// identities, administrators and the node's name and cookie counts, and addresses, ports and directories are the
	// test's. "" makes one with the uuid, secret, administrator and cookie of the cluster.
	ConfigDir string
	Config    map[string]map[string]string // more ini settings: section, key, value
}

// CouchCluster is a CouchDB cluster that belongs to the test. Its nodes have one
// uuid, secret, administrator and cookie.
type CouchCluster struct {
	Nodes []*Couch

	t TB
}

// Cluster starts n new nodes on addresses of their own (127.0.0.1, 127.0.0.2, ...) and
// joins them. When it returns, all know one another, and have _users and _replicator.
// Nothing of it outlives the test. Without a CouchDB, or where the system doesn't answer
// on these addresses, the test is skipped; see Missing.
func Cluster(t TB, n int, opts ClusterOptions) *CouchCluster {
	t.Helper()
	names := opts.NodeNames
	for i := len(names) + 1; len(opts.NodeNames) == 0 && i <= n; i++ {
		names = append(names, fmt.Sprintf("couchdb@127.0.0.%d", i))
	}
	if len(names) != n {
		t.Fatalf("cluster: got %d names for %d nodes", len(names), n)
	}
	config := merge(opts.Config, map[string]map[string]string{
		"cluster": {"q": strconv.Itoa(cmp.Or(opts.Q, 2)), "n": strconv.Itoa(cmp.Or(opts.N, 3))},
	})
	nodes := make([]NodeOptions, n)
	for i, name := range names {
		nodes[i] = NodeOptions{NodeName: name, Config: config}
	}
	c := newCluster(t, nodes)
	c.startAll()
	c.must("join", c.each(func(node *Couch) error {
		for _, name := range names {
			// The same document on all nodes has the same revision on all.
			path := "/_node/_local" + DBPath("_nodes", name)
			if err := node.Put(path, struct{}{}, nil); err != nil && Status(err) != http.StatusConflict {
				return err
			}
		}
		return nil
	}))
	c.Joined()
	for _, db := range []string{"_users", "_replicator"} {
		c.must("system database", c.Nodes[0].Put("/"+db, nil, nil))
	}
	c.must("system databases", c.each(func(node *Couch) error {
		return within(time.Minute, func() error {
			return errors.Join(node.Get("/_users", nil), node.Get("/_replicator", nil))
		})
	}))
	c.must("design document of _users", c.Nodes[0].settleUsers())
	return c
}

// StartCluster starts nodes on the data directories that they are given, such as
// restored ones, and returns when all that their _nodes databases name see one another.
// It writes nothing itself. A node with couchdb/maintenance_mode set need not be up.
// Otherwise it is as Cluster.
func StartCluster(t TB, nodes []NodeOptions) *CouchCluster {
	t.Helper()
	c := newCluster(t, nodes)
	c.startAll()
	c.Joined()
	return c
}

// newCluster makes nodes, and starts none.
func newCluster(t TB, nodes []NodeOptions) *CouchCluster {
	t.Helper()
	binary, missing := CouchDBBinary()
	if missing != "" {
		Missing(t, "couchdb", missing)
	}
	addresses := make([]string, len(nodes))
	for i, node := range nodes {
		_, addresses[i], _ = strings.Cut(node.NodeName, "@")
		if ip := net.ParseIP(addresses[i]).To4(); ip == nil || ip[0] != 127 || slices.Contains(addresses[:i], addresses[i]) {
			t.Fatalf("cluster: node %s: its address must be one of 127.0.0.0/8 that no other node has", node.NodeName)
		}
		l, err := net.Listen("tcp", net.JoinHostPort(addresses[i], "0"))
		if err != nil {
			Missing(t, "loopback", "the system doesn't answer on all of 127.0.0.0/8: "+err.Error())
		}
		l.Close()
	}
	const admin, password = "admin", "secret"
	config := map[string]map[string]string{
		"couchdb": {"single_node": "false", "uuid": randomHex(32)},
		"admins":  {admin: hashed(password)},
		// A node that is started again is seen after that many seconds by all that didn't notice.
		"cluster":     {"reconnect_interval_sec": "1"},
		"chttpd_auth": {"secret": randomHex(32)},
	}
	c := &CouchCluster{t: t}
	cookie := randomHex(16)
	for i, node := range nodes {
		couch := newCouch(t, binary, Options{
			DataDir: node.DataDir, NodeName: node.NodeName, Admin: admin, Password: password,
			Config: merge(config, node.Config),
		})
		couch.address, couch.cookie, couch.prepared = addresses[i], cookie, node.ConfigDir
		c.Nodes = append(c.Nodes, couch)
	}
	t.Cleanup(c.Stop) // at once, before each for itself
	return c
}

// hashed is a password as it stands in the ini file, in the words that all CouchDB 3.x know. A plain
// one would be hashed by each node with a salt of its own, and a cookie of one refused by the others.
func hashed(password string) string {
	salt := randomHex(32)
	const iterations = 10
	key, err := pbkdf2.Key(sha1.New, password, []byte(salt), iterations, sha1.Size)
	if err != nil {
		panic(err) // the hash is one that FIPS 140 allows
	}
	return fmt.Sprintf("-pbkdf2-%s,%s,%d", hex.EncodeToString(key), salt, iterations)
}

// merge returns ini settings of which later ones count.
func merge(list ...map[string]map[string]string) map[string]map[string]string {
	merged := map[string]map[string]string{}
	for _, ini := range list {
		for section, settings := range ini {
			if merged[section] == nil {
				merged[section] = map[string]string{}
			}
			maps.Copy(merged[section], settings)
		}
	}
	return merged
}

// startAll starts all nodes at once. All listen on one port, each on its address: with
// -erl_epmd_port, a node takes its own for that of the others, and asks no epmd. Another
// process may take a port before a node does.
func (c *CouchCluster) startAll() {
	c.t.Helper()
	var addresses []string
	for _, node := range c.Nodes {
		addresses = append(addresses, node.address)
	}
	var err error
	for range 3 {
		var ports int
		if ports, err = freePorts(2, addresses...); err != nil {
			break
		}
		err = c.each(func(node *Couch) error {
			node.listenAt(ports)
			node.epmd = ports + 1
			if err := node.start(); err != nil {
				return fmt.Errorf("%w\n%s", err, node.LogTail(8<<10))
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "eaddrinuse") {
			break
		}
		c.Stop()
	}
	c.must("start", err)
}

// Start starts those of the nodes that don't run, at once, and waits as Joined does.
func (c *CouchCluster) Start() {
	c.t.Helper()
	c.must("start", c.each(func(node *Couch) error {
		if node.process != nil {
			return nil
		}
		return node.start()
	}))
	c.Joined()
}

// Stop ends all nodes, at once.
func (c *CouchCluster) Stop() {
	c.each(func(node *Couch) error { node.Stop(); return nil })
}

// Joined waits until the nodes that run see one another and none else, and know all nodes of the
// cluster. A node that was started again is seen moments after it answers.
func (c *CouchCluster) Joined() {
	c.t.Helper()
	var all, running []string
	for _, node := range c.Nodes {
		all = append(all, node.NodeName)
		if node.process != nil {
			running = append(running, node.NodeName)
		}
	}
	slices.Sort(all)
	slices.Sort(running)
	c.must("nodes don't see one another", c.each(func(node *Couch) error {
		if node.process == nil {
			return nil
		}
		return within(time.Minute, func() error {
			var seen struct {
				Connected []string `json:"all_nodes"`
				Members   []string `json:"cluster_nodes"`
			}
			if err := node.Get("/_membership", &seen); err != nil {
				return err
			}
			slices.Sort(seen.Connected)
			slices.Sort(seen.Members)
			if !slices.Equal(seen.Connected, running) || !slices.Equal(seen.Members, all) {
				return fmt.Errorf("got members %v, connected %v; want %v, %v", seen.Members, seen.Connected, all, running)
			}
			return nil
		})
	}))
}

// InStep waits until the copies of each shard of databases that the nodes have hold the same revisions.
// A write is acknowledged before all have it, and lists are answered by one copy of each
// range.
func (c *CouchCluster) InStep(dbs ...string) {
	c.t.Helper()
	for _, db := range dbs {
		c.must("the copies of "+db+" differ", within(time.Minute, func() error {
			seen := map[string]string{}
			for _, node := range c.Nodes {
				if node.process == nil {
					continue
				}
				shards, err := node.NodeShards(db)
				if err != nil {
					return err
				}
				for _, shard := range shards {
					leaves, err := node.leaves(shard)
					if err != nil {
						return err
					}
					if before, ok := seen[shard]; ok && before != leaves {
						return fmt.Errorf("%s of %s: got %s, another node has %s", shard, node.NodeName, leaves, before)
					}
					seen[shard] = leaves
				}
			}
			return nil
		}))
	}
}

// leaves returns the leaves of all documents in a shard of the node, sorted.
func (c *Couch) leaves(shard string) (string, error) {
	var changes struct {
		Results []struct {
			ID      string
			Changes []struct{ Rev string }
		}
	}
	if err := c.Get("/_node/_local"+DBPath(shard, "_changes")+"?style=all_docs", &changes); err != nil {
		return "", err
	}
	var list []string
	for _, r := range changes.Results {
		for _, leaf := range r.Changes {
			list = append(list, r.ID+" "+leaf.Rev)
		}
	}
	slices.Sort(list)
	return strings.Join(list, "\n"), nil
}

// each does something with all nodes at once.
func (c *CouchCluster) each(do func(*Couch) error) error {
	errs := make([]error, len(c.Nodes))
	var all sync.WaitGroup
	for i, node := range c.Nodes {
		all.Go(func() {
			if err := do(node); err != nil {
				errs[i] = fmt.Errorf("%s: %w", node.NodeName, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *CouchCluster) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("cluster: %s: %v", what, err)
	}
}

// within tries until it succeeds or the time is over.
func within(limit time.Duration, try func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if err := try(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// Writing is what nodes acknowledge of documents that are written all the time.
type Writing struct {
	mu    sync.Mutex
	acked []string // ids; guarded by mu
	err   error    // of a write; guarded by mu

	t    TB
	stop func()
}

// Write makes documents in a database by all nodes at once, 0-0, 0-1 and so on by the first one, with a pause between two of
// a node, until Stop or the test ends. It returns when the nodes have acknowledged at least so many.
func (c *CouchCluster) Write(db string, pause time.Duration, atLeast int) *Writing {
	c.t.Helper()
	w := &Writing{t: c.t}
	done := make(chan struct{})
	var writers sync.WaitGroup
	for k, n := range c.Nodes {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
				id := fmt.Sprintf("%d-%d", k, i)
				err := n.Put(DBPath(db, id), map[string]any{"i": i}, nil)
				w.mu.Lock()
				if err == nil {
					w.acked = append(w.acked, id)
				} else {
					w.err = err
				}
				w.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	w.stop = sync.OnceFunc(func() { close(done); writers.Wait() })
	c.t.Cleanup(w.Stop)
	for end := time.Now().Add(writingPatience); len(w.Acknowledged()) < atLeast && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	return w
}

// writingPatience is for how long Write waits for the first documents.
const writingPatience = 5 * time.Minute

// Stop ends the writes, and the test if one of them failed.
func (w *Writing) Stop() {
	w.t.Helper()
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.t.Fatalf("write: %v", w.err)
	}
}

// Acknowledged are the ids of what was written until now, in the order in which that was heard.
func (w *Writing) Acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}
