//go:build unix

// Package stories_test uses the dashboard in a browser as people do, story by story: testdata has one for each, and what
// they have in common in lib.js.
package stories_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestMain(m *testing.M) { clitest.Main(m, cli.Run, nil) }

// The versions of what tells browsers what to do, and of what looks for what keeps people out of a page.
const (
	playwrightVersion = "1.61.0" // the newest that drives Debian's Firefox
	axeVersion        = "4.14.1"
)

// beside is how many stories run beside one another, each with its server and browser.
const beside = 2

// longest is for how long a story may go on.
const longest = 4 * time.Minute

var pictures = flag.Bool("pictures", false, "write the pictures of docs/dashboard anew")

// source is what there is to look at in a story.
type source int

const (
	couch source = iota // what newHistory makes, with its CouchDB
	files               // what newFiles makes: it is told where no CouchDB is, too
	many                // the same with 10,000 databases
)

// needs are what a story has beside a server.
type needs struct {
	from source
	// agent is the agent of shop as a process of its own, which can be stopped; without it the server is its agent.
	agent bool
	// empty is a server of which nothing is known yet: no repository, no instance, no agent.
	empty bool
	// keyless is a server without the repository and its key, which its agent has.
	keyless bool
	// firefox tells it in Firefox too.
	firefox bool
	env     []string // more settings of the server
}

// stories are all of them, by the names of their files.
var stories = []told{
	{"agent-silent", needs{agent: true}}, // the longest
	{"bring-back", needs{firefox: true}},
	{"overview", needs{firefox: true}},
	{"window", needs{firefox: true}},
	{"moment", needs{}},
	{"no-key", needs{agent: true, keyless: true}},
	{"changes", needs{}},
	{"jobs", needs{from: files, env: []string{"SLIPCOVER_SHIP=false"}}}, // so that no moment rests on the backup that it deletes
	{"restore", needs{env: []string{"SLIPCOVER_ACCEPT_RESTORES=true"}}},
	{"damage", needs{from: files}},
	{"space", needs{}},
	{"pins", needs{}},
	{"set-up", needs{}},
	{"empty", needs{from: files, empty: true}},
	{"join", needs{from: files}},
	{"many", needs{from: many}},
	{"cluster", needs{from: files}},
	{"audit", needs{from: files}},
	{"zones", needs{from: files}},
	{"sign-in", needs{from: files, firefox: true}},
	{"sessions", needs{from: files}},
	{"server-restart", needs{from: files}},
	{"scripts", needs{}},
	{"without-script", needs{}},
	{"keyboard", needs{from: files}},
}

// told is a story and what it needs.
type told struct {
	name string
	needs
}

func TestStories(t *testing.T) {
	if testing.Short() {
		t.Skip("browsers")
	}
	node, playwright := testenv.NodeModule(t, "playwright-core", playwrightVersion)
	_, axe := testenv.NodeModule(t, "axe-core", axeVersion)
	if !*pictures {
		t.Setenv("TZ", zone().String()) // of all that is started
	}
	browsers := map[string]string{"chromium": testenv.Tool(t, "chromium"), "firefox": testenv.Tool(t, "firefox-esr")}
	sources := sourcesOf(t)
	turn := make(chan struct{}, beside)
	told := newCovered(t)
	for _, s := range stories {
		for _, browser := range []string{"chromium", "firefox"} {
			if browser == "firefox" && !s.firefox {
				continue
			}
			t.Run(s.name+"/"+browser, func(t *testing.T) {
				t.Parallel()
				turn <- struct{}{}
				defer func() { <-turn }()
				began := time.Now()
				w := newWorld(t, sources[s.from](t), s.needs)
				w.covered = told
				started := time.Since(began)
				w.tell(s.name, node, []string{"NODE_PATH=" + playwright + string(filepath.ListSeparator) + axe, "BROWSER=" + browser, "BROWSER_PATH=" + browsers[browser]})
				t.Logf("the server took %.1f s to start, the story %.1f s", started.Seconds(), (time.Since(began) - started).Seconds())
			})
		}
	}
}

// sourcesOf are the histories of stories, each made when the first of its stories begins. The CouchDB, if there is one, is made now, as it
// lasts as long as all of them.
func sourcesOf(t *testing.T) map[source]func(testing.TB) *history {
	dir := t.TempDir()
	once := func(make func(testing.TB) *history) func(testing.TB) *history {
		var mu sync.Mutex
		var h *history
		return func(t testing.TB) *history {
			mu.Lock()
			defer mu.Unlock()
			if h == nil {
				h = make(t)
			}
			return h
		}
	}
	live := newHistory // which skips the story
	if _, missing := testenv.CouchDBBinary(); missing == "" {
		h := newHistory(t)
		live = func(testing.TB) *history { return h }
	}
	return map[source]func(testing.TB) *history{
		couch: live,
		files: once(func(t testing.TB) *history { return newFiles(t, filepath.Join(dir, "files"), 0) }),
		many:  once(func(t testing.TB) *history { return newFiles(t, filepath.Join(dir, "many"), 10_000) }),
	}
}

// TestAllAreTold: no story lies in testdata that isn't told.
func TestAllAreTold(t *testing.T) {
	files, err := filepath.Glob("testdata/*.js")
	must(t, err)
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".js")
		if name != "lib" && !slices.ContainsFunc(stories, func(s told) bool { return s.name == name }) {
			t.Errorf("nobody tells %s", f)
		}
	}
}

// world is what a story has for itself.
type world struct {
	t             testing.TB
	h             *history
	url           string
	state         string // of the server
	repo          string
	spare         string   // data directory of the machine that a story has join
	server, agent *process // no agent if the server is it
	node          *process // that joined in the story
	covered       *covered
}

// newWorld starts a server with a fresh state, whose catalog is made from a copy of the history's repository.
func newWorld(t testing.TB, h *history, n needs) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, h: h, state: filepath.Join(dir, "state"), repo: filepath.Join(dir, "repo")}
	at := fmt.Sprintf("127.0.0.1:%d", clitest.FreePort(t))
	w.url = "http://" + at
	env := []string{"SLIPCOVER_STATE_DIR=" + w.state, "SLIPCOVER_RATE_LIMIT=0", fmt.Sprintf("SLIPCOVER_NATS_LISTEN=127.0.0.1:%d", clitest.FreePort(t)),
		"SLIPCOVER_PUBLIC_URL=" + w.url, "SLIPCOVER_OWNER="}
	args := []string{"server", "--listen", at}
	node := []string{"SLIPCOVER_REPOSITORY=" + w.repo, "SLIPCOVER_IDENTITY_FILE=" + h.identity, "SLIPCOVER_RECIPIENTS=" + h.public}
	couch := []string{"SLIPCOVER_INSTANCE=shop", "SLIPCOVER_DATA_DIR=" + h.data, "SLIPCOVER_SHIP=true"}
	if h.couch != nil {
		couch = append(couch, "SLIPCOVER_COUCH_URL="+h.couch.URL, "SLIPCOVER_COUCH_USER="+h.couch.Admin, "SLIPCOVER_COUCH_PASSWORD="+h.couch.Password, "SLIPCOVER_ACCEPT_WRITES=true")
	}
	nodeState := w.state
	if n.agent {
		nodeState = filepath.Join(dir, "agent")
	}
	if !n.empty {
		must(t, os.CopyFS(w.repo, os.DirFS(h.repo)))
		if _, err := os.Stat(h.state); err == nil {
			must(t, os.CopyFS(nodeState, os.DirFS(h.state)))
		}
		slipcover(t, slices.Concat(env, node), "server", "rebuild")
		if !n.keyless {
			env = append(env, node...)
		}
		if !n.agent {
			env = append(env, couch...)
			args = append(args, "--with-agent")
		}
	}
	env = append(env, n.env...)
	w.server = &process{clitest.NewProcess(t, env, args...)}
	w.server.Start()
	t.Cleanup(func() { w.end(w.server); w.removeInstances() })
	must(t, w.server.ready(w.url))
	if n.agent {
		token := strings.Fields(slipcover(t, append(env, "SLIPCOVER_SERVER_URL="+w.url), "token", "join", "--name", "shop"))
		w.agent = &process{clitest.NewProcess(t, slices.Concat([]string{"SLIPCOVER_STATE_DIR=" + nodeState}, node, couch), token[1:]...)}
		w.agent.Start()
		t.Cleanup(func() { w.end(w.agent) })
	}
	return w
}

func (w *world) end(p *process) {
	p.stop()
	if w.t.Failed() {
		p.Show()
	}
}

// slowly is a setting of a node that is far from its storage.
const slowly = "SLIPCOVER_LIMIT_UPLOAD=1MB/s"

// removeInstances ends and removes what a story had made.
func (w *world) removeInstances() {
	made, err := filepath.Glob(filepath.Join(w.state+"-instances", "*"))
	if w.spare != "" {
		more, gerr := filepath.Glob(filepath.Join(filepath.Dir(w.spare), "node-instances", "*"))
		made, err = append(made, more...), errors.Join(err, gerr)
	}
	for _, dir := range made {
		err = errors.Join(err, restore.Remove(context.Background(), dir))
	}
	if err != nil {
		w.t.Error(err)
	}
}

// tell runs a story, does what it asks for, and fails if it does.
func (w *world) tell(name, node string, env []string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	token, err := os.ReadFile(filepath.Join(w.state, "admin-token"))
	must(w.t, err)
	shots := w.t.TempDir()
	cmd := exec.CommandContext(ctx, node, filepath.Join("testdata", name+".js"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends its browser
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(testenv.Environ(), env...)
	if *pictures {
		cmd.Env = append(cmd.Env, "PICTURES=1")
	}
	if c := w.h.couch; c != nil {
		cmd.Env = append(cmd.Env, "COUCH="+c.URL, "COUCH_USER="+c.Admin, "COUCH_PASSWORD="+c.Password)
	}
	cmd.Env = append(cmd.Env, "URL="+w.url, "TOKEN="+strings.TrimSpace(string(token)), "HOSTILE="+hostile, "SHOTS="+shots, "HOME="+w.t.TempDir())
	var said strings.Builder
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	must(w.t, err)
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	w.serve(out, in)
	if err := cmd.Wait(); err != nil {
		w.t.Errorf("%s: %v\n%s", name, err, said.String())
		return
	}
	if *pictures {
		w.keep(shots)
	}
}

// serve answers what a story asks for, a line of JSON each; its other lines go into the log of the test.
func (w *world) serve(from io.Reader, to io.Writer) {
	for s := bufio.NewScanner(from); s.Scan(); {
		if at, ok := strings.CutPrefix(s.Text(), "looked "); ok {
			w.covered.add(at)
			continue
		}
		ask, ok := strings.CutPrefix(s.Text(), "ask ")
		if !ok {
			w.t.Log(s.Text())
			continue
		}
		answer := map[string]any{}
		if v, err := w.do(ask); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["value"] = v
		}
		b, err := json.Marshal(answer)
		if err == nil {
			_, err = to.Write(append(b, '\n'))
		}
		if err != nil {
			w.t.Errorf("%s: %v", ask, err)
			return
		}
	}
}

// do does one thing that a story can't do in a browser.
func (w *world) do(what string) (any, error) {
	what, rest, _ := strings.Cut(what, " ")
	p := w.agent
	if what == "restart" || what == "stop" || what == "start" {
		p = w.server
	}
	switch what {
	case "stop", "end-agent":
		p.stop()
	case "start":
		p.Start()
		return nil, p.ready(w.url)
	case "restart":
		p.stop()
		p.Start()
		return nil, p.ready(w.url)
	case "start-agent":
		p.Start()
	case "halt-agent":
		return nil, p.Cmd.Process.Signal(syscall.SIGSTOP)
	case "allow-reads": // in the settings of the agent's node
		p.stop()
		p.Env = append(p.Env, "SLIPCOVER_ACCEPT_READS=true")
		if n := slices.Index(p.Args, "--join"); n >= 0 {
			p.Args = slices.Delete(p.Args, n, n+2)
		}
		p.Start()
	case "resume-agent":
		return nil, p.Cmd.Process.Signal(syscall.SIGCONT)
	case "slipcover": // as on the server's machine
		return slipcover(w.t, append(slices.Clone(w.server.Env), "SLIPCOVER_SERVER_URL="+w.url), strings.Fields(rest)...), nil
	case "join-node": // the command of the dashboard, pasted on a machine with some large attachments and a slow way to the storage
		data := filepath.Join(w.t.TempDir(), "data")
		if _, err := couchgen.DataDir(data, couchgen.DirOptions{DocsPerDB: 40, AttachmentEvery: 1, AttachmentBytes: 1 << 20}); err != nil {
			return nil, err
		}
		env := []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(w.t.TempDir(), "node"), "SLIPCOVER_REPOSITORY=" + w.repo, "SLIPCOVER_IDENTITY_FILE=" + w.h.identity,
			"SLIPCOVER_RECIPIENTS=" + w.h.public, "SLIPCOVER_DATA_DIR=" + data, slowly}
		args := strings.Fields(rest)
		if len(args) < 2 || args[0] != "sudo" || args[1] != "slipcover" {
			return nil, fmt.Errorf("%q is no command of slipcover", rest)
		}
		w.node = &process{clitest.NewProcess(w.t, env, args[2:]...)}
		w.node.Start()
		w.t.Cleanup(func() { w.end(w.node) })
	case "join-cluster": // agents of the nodes of a cluster, whose copies disagree
		for i, data := range servetest.Cluster(w.t) {
			token := strings.Fields(slipcover(w.t, append(slices.Clone(w.server.Env), "SLIPCOVER_SERVER_URL="+w.url), "token", "join", "--name", fmt.Sprintf("db%d", i+1)))
			p := &process{clitest.NewProcess(w.t, []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(w.t.TempDir(), "node"), "SLIPCOVER_REPOSITORY=" + w.repo, "SLIPCOVER_IDENTITY_FILE=" + w.h.identity,
				"SLIPCOVER_RECIPIENTS=" + w.h.public, "SLIPCOVER_DATA_DIR=" + data, "SLIPCOVER_NODE_NAME=" + servetest.ClusterNodes[i], "SLIPCOVER_CLUSTER=prod"}, token[1:]...)}
			p.Start()
			w.t.Cleanup(func() { w.end(p) })
		}
	case "spare": // a machine on which a node can come back
		dir := w.t.TempDir()
		w.spare = filepath.Join(dir, "data")
		token := strings.Fields(slipcover(w.t, append(slices.Clone(w.server.Env), "SLIPCOVER_SERVER_URL="+w.url), "token", "join", "--name", "spare"))
		p := &process{clitest.NewProcess(w.t, []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "node"), "SLIPCOVER_REPOSITORY=" + w.repo, "SLIPCOVER_IDENTITY_FILE=" + w.h.identity,
			"SLIPCOVER_RECIPIENTS=" + w.h.public, "SLIPCOVER_DATA_DIR=" + w.spare, "SLIPCOVER_OWNER=", "SLIPCOVER_ACCEPT_RESTORES=true"}, token[1:]...)}
		p.Start()
		w.t.Cleanup(func() { w.end(p) })
	case "start-spare": // CouchDB on it
		c := testenv.CouchDB(w.t, testenv.Options{DataDir: w.spare, NodeName: w.h.couch.NodeName})
		return map[string]string{"url": c.URL, "user": c.Admin, "password": c.Password}, nil
	case "kill-node":
		w.node.Kill()
	case "start-node": // as a service does: the token of the command holds once; and the way is fast again
		w.node.Env = slices.DeleteFunc(w.node.Env, func(v string) bool { return v == slowly })
		if n := slices.Index(w.node.Args, "--join"); n >= 0 {
			w.node.Args = slices.Delete(w.node.Args, n, n+2)
		}
		w.node.Start()
	case "password": // of an instance that was made, as on its machine
		b, err := os.ReadFile(filepath.Join(w.state+"-instances", rest, "admin-password"))
		return strings.TrimSpace(string(b)), err
	case "audit":
		b, err := os.ReadFile(filepath.Join(w.state, "audit.jsonl"))
		return string(b), err
	default:
		return nil, fmt.Errorf("a story asks for %q", what)
	}
	return nil, nil
}
