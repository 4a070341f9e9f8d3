package service_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/testenv"
)

// onehost is a CouchDB with writers, and a server with its agent in one process.
type onehost struct {
	t         *testing.T
	couch     *testenv.Couch
	load      *testenv.Running
	server    *process
	instances string // folder of those that are made
	node      string // id of the instance that the CouchDB is

	mu      sync.Mutex
	secrets map[string]string // by what they are; guarded by mu, as refusals is
	// refusals are the answers that said no, as the callers got them.
	refusals bytes.Buffer
}

var liveDatabases = []string{"orders", "team/notes"}

// startHost starts the CouchDB and its writers. Backups are stored at 0.5 MB/s, so that
// there is a middle in which to look at them, some ten seconds long.
func startHost(t *testing.T) *onehost {
	t.Helper()
	h := &onehost{t: t, secrets: map[string]string{}, instances: filepath.Join(t.TempDir(), "instances")}
	h.couch = testenv.CouchDB(t, testenv.Options{Password: "couch-" + randomText()})
	h.hide("CouchDB's password", h.couch.Password)
	for _, db := range liveDatabases {
		if err := h.couch.Put(testenv.DBPath(db)+"?q=2", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	h.load = h.couch.Load(testenv.LoadOptions{Databases: liveDatabases, Writers: 2, Duration: 10 * time.Minute, Pause: 250 * time.Millisecond, Seed: seed})
	t.Cleanup(func() {
		for _, err := range h.load.Stop().Errors() {
			t.Errorf("a writer met an error: %v", err)
		}
	})
	h.grow(6)
	eventually(t, clitest.Patience, "there is something to lose", func() bool { return len(h.load.Journal.Writes()) >= fewestWrites })
	return h
}

// fewestWrites were acknowledged before a backup.
const fewestWrites = 20

// grow writes so many MB of what can't be compressed.
func (h *onehost) grow(megabytes int) {
	h.t.Helper()
	for n := range megabytes {
		data := make([]byte, 1e6)
		_, _ = rand.Read(data)
		if err := h.couch.Put(testenv.DBPath(liveDatabases[n%2], "large-"+randomText(), "file"), data, nil); err != nil {
			h.t.Fatal(err)
		}
	}
}

// environ is the setting of the node, besides what is on the command line.
func (h *onehost) environ() []string {
	return []string{"SLIPCOVER_COUCH_URL=" + h.couch.URL, "SLIPCOVER_COUCH_USER=" + h.couch.Admin, "SLIPCOVER_COUCH_PASSWORD=" + h.couch.Password,
		fmt.Sprintf("SLIPCOVER_OWNER=%d:%d", os.Getuid(), os.Getgid()), "SLIPCOVER_LIMIT_UPLOAD=500KB/s", "SLIPCOVER_LOG_LEVEL=debug"}
}

// serve starts the server.
func (h *onehost) serve(env []string, args ...string) {
	h.t.Helper()
	h.server = serverOf(filepath.Join(h.t.TempDir(), "state"))
	h.server.Env = append(h.environ(), env...)
	h.t.Cleanup(h.freeInstances) // after the server has ended
	startServer(h.t, h.server, append([]string{"--with-agent", "--state-dir", h.server.state, "--instance", "node1", "--data-dir", h.couch.DataDir,
		"--instances-dir", h.instances}, args...)...)
}

// freeInstances ends what a test that failed left running.
func (h *onehost) freeInstances() {
	dirs, _ := filepath.Glob(filepath.Join(h.instances, "*-*"))
	for _, dir := range dirs {
		if err := restore.Remove(context.WithoutCancel(h.t.Context()), dir); err != nil {
			h.t.Logf("remove %s: %v", dir, err)
		}
	}
}

// end ends the server in order and checks how it does.
func (h *onehost) end() {
	h.t.Helper()
	began := time.Now()
	if err := h.server.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	select {
	case <-h.server.Gone:
	case <-time.After(clitest.Patience):
		h.t.Fatalf("the server doesn't end within %v of SIGTERM", clitest.Patience)
	}
	if code := h.server.Cmd.ProcessState.ExitCode(); code != 0 {
		h.t.Errorf("the server ended with code %d", code)
	}
	h.t.Logf("the server ended %v after SIGTERM", time.Since(began).Round(time.Millisecond))
}

// begin starts the server again and waits until its agent is heard of.
func (h *onehost) begin(c *caller) {
	h.t.Helper()
	h.server.Start()
	h.server.waitReady()
	c.findNode()
}

// unlimited starts the server again without the limit of what it uploads.
func (h *onehost) unlimited(c *caller) {
	h.t.Helper()
	h.end()
	h.server.Env = slices.DeleteFunc(h.server.Env, func(v string) bool { return strings.HasPrefix(v, "SLIPCOVER_LIMIT_UPLOAD") })
	h.begin(c)
}

// hide notes a secret that may be read nowhere.
func (h *onehost) hide(what, secret string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets[fmt.Sprintf("%s (%d)", what, len(h.secrets))] = secret
}

// hideKeys notes those that are in files of the state.
func (h *onehost) hideKeys() {
	h.t.Helper()
	for _, name := range []string{"identity.txt", "agent/identity.txt"} {
		b, err := os.ReadFile(filepath.Join(h.server.state, name))
		if err != nil && !os.IsNotExist(err) {
			h.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "AGE-SECRET-KEY-") {
				h.hide("the key in "+name, strings.TrimSpace(line))
			}
		}
	}
	var m struct{ Seed string }
	b, err := os.ReadFile(filepath.Join(h.server.state, "agent", "membership.json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.Seed == "" {
		h.t.Fatalf("membership: %q, %v", m.Seed, err)
	}
	h.hide("the agent's key", m.Seed)
}

// noSecrets looks for the secrets in all that may not have them. The name of the node,
// which is no secret, is looked for too, so that files in another form than expected
// aren't taken for clean.
func (h *onehost) noSecrets() {
	h.t.Helper()
	h.hideKeys()
	texts := map[string][]byte{"refusals": h.refusals.Bytes()}
	files := []string{h.server.Log, filepath.Join(h.server.state, "audit.jsonl")}
	if err := filepath.WalkDir(filepath.Join(h.server.state, "nats", "jetstream"), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // the running NATS removed it just now
			return nil
		}
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	found, size := 0, 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(file, "jetstream") {
			continue
		}
		if err != nil {
			h.t.Fatal(err)
		}
		if strings.Contains(file, "jetstream") && bytes.Contains(b, []byte(`"node1"`)) {
			found++
		}
		size += len(b)
		texts[file] = b
	}
	if found == 0 {
		h.t.Error("no file of JetStream has the name of the node: are they packed?")
	}
	for where, text := range texts {
		for what, secret := range h.secrets {
			for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
				if bytes.Contains(text, []byte(form)) {
					h.t.Errorf("%s has %s", where, what)
				}
			}
		}
	}
	h.t.Logf("%d secrets in none of %d files (%d bytes) and of %d bytes of refusals", len(h.secrets), len(files), size, h.refusals.Len())
}

// caller is somebody who asks, for a project.
type caller struct {
	client
	host    *onehost
	project string
}

func (h *onehost) caller(token, project string) *caller {
	h.hide("a token", token)
	return &caller{client{h.t, h.server.url, token}, h, project}
}

// ask sends a request to the project's part of Trove's API, or for a path of our own to
// that, and checks the status of the answer.
func (c *caller) ask(method, path string, body any, want int, out any) {
	c.t.Helper()
	if status, err := c.try(method, path, body, out); status != want {
		c.t.Fatalf("%s %s: %d, want %d: %v", method, path, status, want, err)
	}
}

func (c *caller) try(method, path string, body, out any) (int, error) {
	if !strings.HasPrefix(path, "/slipcover/") && !strings.HasPrefix(path, "/v1.0/") {
		path = "/v1.0/" + c.project + path
	}
	status, err := c.do(method, path, body, out)
	if err != nil {
		c.host.mu.Lock()
		defer c.host.mu.Unlock()
		fmt.Fprintln(&c.host.refusals, err)
	}
	return status, err
}

// stored is a backup as both APIs show it.
type stored struct {
	ID, Name, Status, Fault, Type, Location, Checksum, Project, Instance string

	Parent     string
	SizeBytes  int64  `json:"size_bytes"`
	Stored     int64  `json:"stored_bytes"`
	RepoID     string `json:"repo_id"`
	Repository struct{ Storage string }
	Progress   *struct {
		Bytes     int64
		BytesDone int64 `json:"bytes_done"`
		Stored    int64 `json:"stored_bytes"`
	}
	Started, Finished, Created, Updated time.Time

	LocationRef string   `json:"-"` // Trove's
	Size        *float64 `json:"-"`
	ParentID    string   `json:"-"`
}

// back begins a backup and returns its id, and the moment before.
func (c *caller) back(fields map[string]any) (id string, cut time.Time) {
	c.t.Helper()
	body := map[string]any{"name": "backup of " + c.project, "instance": c.host.node, "incremental": 0}
	for k, v := range fields {
		body[k] = v
	}
	cut = time.Now()
	var got struct{ Backup struct{ ID string } }
	c.ask(http.MethodPost, "/backups", map[string]any{"backup": body}, http.StatusAccepted, &got)
	return got.Backup.ID, cut
}

// backup returns a backup as it is now.
func (c *caller) backup(id string) stored {
	c.t.Helper()
	var own struct{ Backup stored }
	c.ask(http.MethodGet, "/slipcover/v1/backups/"+id, nil, http.StatusOK, &own)
	var trove struct {
		Backup struct {
			Status      string
			LocationRef string
			Size        *float64
			ParentID    string `json:"parent_id"`
		}
	}
	c.ask(http.MethodGet, "/backups/"+id, nil, http.StatusOK, &trove)
	b := own.Backup
	b.LocationRef, b.Size, b.ParentID = trove.Backup.LocationRef, trove.Backup.Size, trove.Backup.ParentID
	return b
}

// done waits until a backup has ended, and well.
func (c *caller) done(id, status string) (b stored) {
	c.t.Helper()
	eventually(c.t, clitest.Patience, "the backup ends", func() bool {
		b = c.backup(id)
		return b.Status != "NEW" && b.Status != "BUILDING"
	})
	if b.Status != status {
		c.t.Fatalf("backup %s is %s, want %s: %s", id, b.Status, status, b.Fault)
	}
	return b
}

// halfway waits until a backup is in its middle, and returns it as it is then.
func (c *caller) halfway(id string) (b stored) {
	c.t.Helper()
	eventually(c.t, clitest.Patience, "progress is seen", func() bool {
		if b = c.backup(id); b.Status != "NEW" && b.Status != "BUILDING" {
			c.t.Fatalf("backup %s is %s before it was seen at work: %s", id, b.Status, b.Fault)
		}
		return b.Status == "BUILDING" && b.Progress != nil && b.Progress.Bytes > 0
	})
	return b
}

// findNode waits until the agent is online, and notes the id of the CouchDB.
func (c *caller) findNode() {
	c.t.Helper()
	eventually(c.t, clitest.Patience, "the agent is online", func() bool {
		var got struct {
			Agents []struct {
				Online    bool
				Instances []struct {
					ID   string
					Made bool
					Up   bool
				}
			}
		}
		c.ask(http.MethodGet, "/slipcover/v1/agents", nil, http.StatusOK, &got)
		for _, a := range got.Agents {
			for _, i := range a.Instances {
				if a.Online && !i.Made && i.Up {
					c.host.node = i.ID
					return true
				}
			}
		}
		return false
	})
}

// made is a CouchDB that the service made.
type made struct {
	testenv.Client
	id, dir string
	pid     int
}

// create makes a CouchDB of a backup and waits until it is there.
func (c *caller) create(backup string) *made {
	c.t.Helper()
	var got struct{ Instance struct{ ID string } }
	c.ask(http.MethodPost, "/instances", map[string]any{"instance": map[string]any{"name": "copy", "flavorRef": "1", "volume": map[string]any{"size": 1},
		"restorePoint": map[string]any{"backupRef": backup}}}, http.StatusOK, &got)
	m := &made{id: got.Instance.ID, dir: filepath.Join(c.host.instances, got.Instance.ID)}
	var shown struct {
		Instance struct {
			Status string
			Health string `json:"operating_status"`
			Fault  struct{ Message string }
		}
	}
	eventually(c.t, clitest.Patience, "the instance is made", func() bool {
		c.ask(http.MethodGet, "/instances/"+m.id, nil, http.StatusOK, &shown)
		if shown.Instance.Status == "FAILED" || shown.Instance.Status == "ERROR" {
			c.t.Fatalf("instance %s: %s: %s", m.id, shown.Instance.Status, shown.Instance.Fault.Message)
		}
		return shown.Instance.Status == "ACTIVE" && shown.Instance.Health == "HEALTHY"
	})
	password, err := os.ReadFile(filepath.Join(m.dir, "admin-password"))
	if err != nil {
		c.t.Fatal(err)
	}
	m.Admin, m.Password, m.URL = "admin", strings.TrimSpace(string(password)), c.host.urlOf(m.id)
	c.host.hide("the password of an instance", m.Password)
	if m.pid, err = restore.Running(m.dir); err != nil || m.pid == 0 {
		c.t.Fatalf("process of the instance: %d, %v", m.pid, err)
	}
	return m
}

// urlOf is where a CouchDB that the agent made answers.
func (h *onehost) urlOf(id string) string {
	h.t.Helper()
	var list struct{ Instances []struct{ ID, URL string } }
	b, err := os.ReadFile(filepath.Join(h.server.state, "agent", "instances.json"))
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	for _, i := range list.Instances {
		if i.ID == id {
			return i.URL
		}
	}
	h.t.Fatalf("the agent has no instance %s", id)
	return ""
}

// has holds a CouchDB against what was acknowledged before a backup of it began.
func (h *onehost) has(m *made, cut time.Time) {
	h.t.Helper()
	wrong, err := h.load.Journal.Compare(cut, m.State)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range wrong[:min(10, len(wrong))] {
		h.t.Error(line)
	}
	before := 0
	for _, w := range h.load.Journal.Writes() {
		if w.Acked.Before(cut) {
			before++
		}
	}
	if before < fewestWrites {
		h.t.Errorf("only %d writes were acknowledged before the backup", before)
	}
	h.t.Logf("%d writes were acknowledged before the backup, %d documents are wrong", before, len(wrong))
}

// free deletes an instance and checks that nothing of it stays.
func (c *caller) free(m *made) {
	c.t.Helper()
	c.ask(http.MethodDelete, "/instances/"+m.id, nil, http.StatusAccepted, nil)
	eventually(c.t, clitest.Patience, "the instance is gone", func() bool {
		status, _ := c.try(http.MethodGet, "/instances/"+m.id, nil, nil)
		return status == http.StatusNotFound
	})
	if _, err := os.Stat(m.dir); !os.IsNotExist(err) {
		c.t.Errorf("its folder is there: %v", err)
	}
	if isAlive(m.pid) {
		c.t.Errorf("its process %d is there", m.pid)
	}
}

// isAlive reports whether there is a process. One that has ended and that nobody has
// waited for is none: a killed server's children are left to whoever is process 1. Only
// Linux is asked, as it is where these tests run.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// list returns the ids of the project's backups, sorted.
func (c *caller) list() (ids []string) {
	c.t.Helper()
	var got struct{ Backups []struct{ ID string } }
	c.ask(http.MethodGet, "/backups", nil, http.StatusOK, &got)
	for _, b := range got.Backups {
		ids = append(ids, b.ID)
	}
	slices.Sort(ids)
	return ids
}

// slipcover runs a command with the settings of the server.
func (h *onehost) slipcover(env []string, args ...string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "slipcover", args...)
	cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_STATE_DIR=" + h.server.state}, env...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("%v: %v: %s", args, err, &errs)
	}
	fmt.Fprintln(&h.refusals, errs.String())
	return out.String()
}

// fetch gets an object with a token.
func fetch(t *testing.T, url, token string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func randomText() string { return strings.ToLower(rand.Text()) }
