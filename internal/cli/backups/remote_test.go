package backups_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/testenv"
)

// kind is a kind of remote storage.
type kind struct {
	name   string
	server string // its URL
	secret string // must not be shown
	swift  *testenv.SwiftServer
	// url returns the URL of a repository, by way of a server that passes requests on.
	url func(server, repository, params string) string
}

// startSwift starts the Swift of all tests here, and makes its log-in the environment's.
func startSwift(t *testing.T) *kind {
	t.Helper()
	s := testenv.Swift(t)
	for _, name := range []string{"OS_STORAGE_URL", "OS_AUTH_TOKEN", "OS_AUTH_URL", "SWIFT_STORAGE_URL", "ST_AUTH"} {
		t.Setenv(name, "")
	}
	t.Setenv("ST_USER", s.Vars["ST_USER"])
	t.Setenv("ST_KEY", s.Vars["ST_KEY"])
	return &kind{"swift", s.URL, s.Vars["ST_KEY"], s, func(server, repository, params string) string {
		return "swift://" + repository + "?auth_url=" + server + "/auth/v1.0&timeout=1s" + params
	}}
}

// startS3 starts versitygw, and makes its keys the environment's.
func startS3(t *testing.T) *kind {
	t.Helper()
	s := testenv.Versitygw(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return &kind{"s3", s.Endpoint, s.SecretKey, nil, func(server, repository, params string) string {
		return "s3://" + repository + "?endpoint=" + server + "&region=" + s.Region + "&timeout=1s" + params
	}}
}

// source is a node with a repository in a folder, from which tests begin: three
// backups, and then more documents.
type source struct {
	data, identity string
	repository     string            // folder
	empty          string            // folder of another repository, for the same key
	state          string            // folder of the node's state
	newest         map[string]string // hashes of the files in the newest backup
}

func newSource(t *testing.T, bytes int64) *source {
	t.Helper()
	dir := t.TempDir()
	s := &source{data: dir + "/data", identity: dir + "/identity.txt", repository: dir + "/repo", empty: dir + "/empty", state: dir + "/state"}
	if _, err := couchgen.DataDir(s.data, couchgen.DirOptions{Seed: 1, Databases: 2, Q: 2, BytesPerDB: bytes / 2}); err != nil {
		t.Fatal(err)
	}
	c := command{repo: s.repository, source: s, state: s.state, retryFor: "0s"}
	var made struct {
		Repository struct{ Recipients []string }
	}
	if err := json.Unmarshal([]byte(c.must(t, "init", "--identity-out", s.identity, "--json")), &made); err != nil {
		t.Fatal(err)
	}
	c.must(t, "init", "--repo", s.empty, "--recipient", made.Repository.Recipients[0])
	for n := range 3 {
		c.must(t, "backup", "create")
		s.newest = hashes(t, s.data, true)
		if _, _, err := couchgen.Grow(s.data, 0.05, couchgen.GrowOptions{Seed: uint64(n)}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// command runs slipcover for a node and a repository.
type command struct {
	*source
	repo     string
	state    string
	retryFor string
	process  bool     // in a process of its own
	extra    []string // variables
}

type output struct {
	code           int
	stdout, stderr string
}

func (c *command) environ() []string {
	return append(append(testenv.Environ(), c.extra...), "SLIPCOVER_CONFIG="+os.DevNull, "SLIPCOVER_REPOSITORY="+c.repo, "SLIPCOVER_DATA_DIR="+c.data, "SLIPCOVER_STATE_DIR="+c.state,
		"SLIPCOVER_INSTANCE=node1", "SLIPCOVER_RETRY_FOR="+c.retryFor, "SLIPCOVER_PARALLEL=2", "SLIPCOVER_PROGRESS=none", "SLIPCOVER_OWNER=")
}

// run runs a command. Those that read get the identity.
func (c *command) run(ctx context.Context, args ...string) output {
	switch args[0] + " " + args[min(1, len(args)-1)] {
	case "restore latest", "backup verify", "check --read-data":
		args = append(args, "--identity", c.identity)
	}
	var stdout, stderr bytes.Buffer
	if !c.process {
		env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Environ: c.environ(), Now: time.Now}
		code := cli.Run(ctx, env, args)
		return output{code, stdout.String(), stderr.String()}
	}
	cmd := exec.CommandContext(ctx, "slipcover", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.environ(), &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return output{-1, "", err.Error()}
	}
	return output{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a command that must go well, however busy the machine is, and returns what it printed.
func (c *command) must(t *testing.T, args ...string) string {
	t.Helper()
	defer func(was string) { c.retryFor = was }(c.retryFor)
	c.retryFor = "5m"
	out := c.run(t.Context(), args...)
	if out.code != 0 {
		t.Fatalf("%q: code %d: %s", args, out.code, out.stderr)
	}
	return out.stdout
}

// restored compares what a restore of the newest backup gives, byte by byte.
func (c *command) restored(t *testing.T, want map[string]string) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "restored")
	c.must(t, "restore", "latest", "--to", to)
	compareTrees(t, want, to)
}

// clean checks that each stored byte is right and that nothing is left over, and
// returns how many segments there are.
func (c *command) clean(t *testing.T, backups int) int {
	t.Helper()
	var report struct {
		OK           bool
		Backups      int
		Segments     int
		Unreferenced int
	}
	text := c.must(t, "check", "--read-data", "--json")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	if !report.OK || report.Backups != backups || report.Unreferenced > 0 {
		t.Errorf("check: want %d backups and nothing left over: %s", backups, text)
	}
	return report.Segments
}

// compareTrees holds a restored folder against the hashes of the node's: each file is
// there up to its newest header, and no other.
func compareTrees(t *testing.T, want map[string]string, restored string) {
	t.Helper()
	got := hashes(t, restored, false)
	for name, sum := range want {
		if got[name] != sum {
			t.Errorf("%s is not what the node has", name)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s is not in the node", name)
		}
	}
}

func hashes(t *testing.T, dir string, cut bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && cut {
			var h couchfile.RawHeader
			if h, err = couchfile.FindHeader(bytes.NewReader(b), int64(len(b))); err == nil {
				b = b[:h.End]
			}
		}
		out[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// trial is a repository in a storage behind a front.
type trial struct {
	*command
	front     *testenv.Front
	kind      *kind
	container string
}

var trials atomic.Int64

// newTrial puts a copy of the repository in a folder into the storage, and a front
// before it.
func newTrial(t *testing.T, k *kind, s *source, folder string) *trial {
	t.Helper()
	name := fmt.Sprintf("%s-%d", k.name, trials.Add(1))
	seed(t, k.url(k.server, name, ""), folder)
	f := testenv.NewFront(t, k.server)
	tr := &trial{front: f, kind: k, container: name, command: &command{source: s, repo: k.url(f.URL, name, ""), state: t.TempDir() + "/state", retryFor: "1s"}}
	if err := os.CopyFS(tr.state, os.DirFS(s.state)); err != nil {
		t.Fatal(err)
	}
	return tr
}

// seed copies a repository in a folder to a storage, which has no faults yet and all the
// time that it wants.
func seed(t *testing.T, url, dir string) {
	t.Helper()
	url = strings.Replace(url, "timeout=1s", "timeout=2m", 1)
	store, err := drivers.Open(t.Context(), url, drivers.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key := storage.Key(strings.TrimPrefix(filepath.ToSlash(path), filepath.ToSlash(dir)+"/"))
		return store.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// job is what is done while there are faults.
type job struct {
	name         string
	args         []string
	sends, reads bool // segments
	backups      int  // there are in the end
}

var jobs = []job{
	{name: "full", args: []string{"backup", "create", "--full"}, sends: true, backups: 4},
	{name: "incremental", args: []string{"backup", "create"}, sends: true, backups: 4},
	{name: "restore", args: []string{"restore", "latest"}, reads: true, backups: 3},
	{name: "verify", args: []string{"backup", "verify", "latest"}, reads: true, backups: 3},
	{name: "prune", args: []string{"prune", "--keep-last", "1"}, backups: 1},
	{name: "copy", args: []string{"copy"}, sends: true, backups: 3},
}

// fault is what happens, and how a job ends then.
type fault struct {
	name     string
	retryFor string // if empty as tries says
	// harm is what the front does.
	harm func() testenv.Harm
	code int
	// only says for which jobs it is one; nil is all.
	only func(job) bool
	says string // the error has this text
}

func writesAll(j job) bool { return !j.reads }
func sends(j job) bool     { return j.sends }
func reads(j job) bool     { return j.reads }

// from does harm to the requests from number n on, at most count of them that fit.
func from(n, count int, fits func(*http.Request) bool, do testenv.Fault) func() testenv.Harm {
	return func() testenv.Harm {
		left := count
		return func(i int, r *http.Request) testenv.Fault {
			if i < n || left == 0 || !fits(r) {
				return nil
			}
			left--
			return do
		}
	}
}

const forever = -1

func anything(*http.Request) bool { return true }

func isSegment(r *http.Request) bool { return strings.Contains(r.URL.Path, "/segments/") }

func segmentUpload(r *http.Request) bool   { return r.Method == http.MethodPut && isSegment(r) }
func segmentDownload(r *http.Request) bool { return r.Method == http.MethodGet && isSegment(r) }
func writes(r *http.Request) bool {
	return r.Method == http.MethodPut || r.Method == http.MethodPost || r.Method == http.MethodDelete
}

const far = 40 << 10 // into a segment, in bytes

var faults = []fault{
	{name: "burst", retryFor: "5m", harm: from(1, 4, anything, testenv.Answer(503))},
	{name: "burst in the middle", retryFor: "5m", harm: from(6, 4, anything, testenv.Answer(500))},
	{name: "503 from the start", retryFor: "5s", harm: from(1, forever, anything, testenv.Answer(503)), code: 10, says: "503"},
	{name: "503 from the middle", retryFor: "5s", harm: from(6, forever, anything, testenv.Answer(503)), code: 10, says: "503"},
	{name: "429 with Retry-After", retryFor: "5m", harm: from(5, 2, anything, testenv.RetryAfter(429, time.Second))},
	{name: "503 for an hour", retryFor: "5m", harm: from(5, forever, anything, testenv.RetryAfter(503, time.Hour)), code: 10, says: "503"},
	{name: "hangs up", retryFor: "5m", harm: from(5, 3, anything, testenv.HangUp)},
	{name: "answers get lost", retryFor: "5m", harm: every(4, testenv.LoseAnswer)},
	{name: "upload is cut", retryFor: "5m", harm: from(1, 2, segmentUpload, testenv.CutUpload(far)), only: sends},
	{name: "uploads are cut", harm: from(1, forever, segmentUpload, testenv.CutUpload(far)), code: 10, only: sends},
	{name: "upload stalls", retryFor: "5m", harm: from(1, 1, segmentUpload, testenv.StallUpload(far)), only: sends},
	{name: "uploads stall", harm: from(1, forever, segmentUpload, testenv.StallUpload(far)), code: 10, only: sends},
	{name: "download is cut", retryFor: "5m", harm: from(1, 2, segmentDownload, testenv.CutDownload(far)), only: reads},
	{name: "downloads are cut", harm: from(1, forever, segmentDownload, testenv.CutDownload(far)), code: 10, only: reads},
	{name: "download stalls", retryFor: "5m", harm: from(1, 1, segmentDownload, testenv.StallDownload(far)), only: reads},
	{name: "downloads stall", harm: from(1, forever, segmentDownload, testenv.StallDownload(far)), code: 10, only: reads},
	{name: "wrong bit once", retryFor: "5m", harm: from(1, 1, segmentDownload, testenv.FlipBit(far)), only: reads},
	{name: "wrong bits", harm: from(1, forever, segmentDownload, testenv.FlipBit(far)), code: 10, only: reads},
	{name: "full", harm: from(1, forever, writes, testenv.Answer(507)), code: 9, only: writesAll, says: "full"},
	{name: "denied", harm: from(5, forever, anything, testenv.Answer(403)), code: 8},
}

// every does harm to each nth request.
func every(n int, do testenv.Fault) func() testenv.Harm {
	return func() testenv.Harm {
		return func(i int, _ *http.Request) testenv.Fault {
			if i%n != 0 {
				return nil
			}
			return do
		}
	}
}

// Whatever a storage does: a command finishes right, or it ends with the exit code
// and one sentence; nothing stored is lost, and the same command goes well once the
// storage does.
func TestFaults(t *testing.T) {
	starts := map[string]func(*testing.T) *kind{"swift": startSwift, "s3": startS3}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			k, s := start(t), newSource(t, 4<<20)
			var cases, requests atomic.Int64
			t.Run("all", func(t *testing.T) {
				for _, j := range jobs {
					for _, f := range faults {
						if !worth(k, j, f) {
							continue
						}
						t.Run(j.name+"/"+f.name, func(t *testing.T) {
							t.Parallel()
							cases.Add(1)
							requests.Add(int64(tryFault(t, k, s, j, f)))
						})
					}
				}
			})
			t.Logf("%d cases, %d requests under faults", cases.Load(), requests.Load())
			if k.swift != nil {
				t.Run("own", func(t *testing.T) { swiftFaults(t, k, s) })
			}
		})
	}
}

// worth chooses the jobs that are tried with a fault, in a soak all that are possible.
func worth(k *kind, j job, f fault) bool {
	if !possible(k, j, f) {
		return false
	}
	if testenv.Soak() {
		return true
	}
	// Each fault for a part of the jobs, another part for the next one, so that each job
	// has faults of all kinds.
	at := slices.IndexFunc(faults, func(o fault) bool { return o.name == f.name })
	var fit []string
	for _, o := range jobs {
		if possible(k, o, f) {
			fit = append(fit, o.name)
		}
	}
	return slices.Index(fit, j.name)%3 == at%min(3, len(fit))
}

// possible leaves out what can't happen, and of the slower storage what is much the
// same for another job, or takes minutes: a small object whose put had no answer
// stands in the way of its key for two minutes there, and a copy has the keys of the
// run before.
func possible(k *kind, j job, f fault) bool {
	if k.swift != nil && j.name == "copy" && f.code == 10 {
		return false
	}
	if f.only != nil {
		return f.only(j) && (k.swift == nil || j.name != "incremental")
	}
	return k.swift == nil || !testing.Short() && (j.name == "full" || j.name == "restore" || j.name == "prune")
}

// swiftFaults are those that a real Swift makes itself, or that end a connection.
func swiftFaults(t *testing.T, k *kind, s *source) {
	at := func(n int, do func(tr *trial)) func(*trial) {
		return func(tr *trial) {
			tr.front.Set(from(n, 1, anything, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				do(tr)
				next.ServeHTTP(w, r)
			})())
		}
	}
	tests := []struct {
		name     string
		begin    func(*trial)
		end      func(*trial)
		retryFor string
		code     int
		says     string
		stayAway bool // it can't be made good
	}{
		{name: "quota", code: 9, says: "quota",
			begin: func(tr *trial) { tr.swift(t, "post", "-m", "quota-bytes: 1", tr.container) },
			end:   func(tr *trial) { tr.swift(t, "post", "-m", "quota-bytes:", tr.container) }},
		{name: "tokens end", begin: at(8, func(*trial) { k.swift.ForgetTokens(t) })},
		{name: "wrong password", code: 8, says: "log in",
			begin: func(tr *trial) { tr.extra, tr.process = []string{"ST_KEY=not-this-one"}, true },
			end:   func(tr *trial) { tr.extra = nil }},
		{name: "container removed", code: 10, says: "there is no container", retryFor: "5m", stayAway: true,
			begin: func(tr *trial) { // nothing is written yet, and nothing is until it is gone: Swift answers a put into a container that goes at that moment with success
				var gone sync.Once
				tr.front.Set(from(3, forever, anything, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					gone.Do(func() { tr.swift(t, "delete", tr.container) })
					next.ServeHTTP(w, r)
				})())
			}},
		{name: "no such host", code: 10, says: "nosuch.invalid", retryFor: "5m",
			begin: func(tr *trial) { tr.repo = k.url("http://nosuch.invalid", tr.container, "") },
			end:   func(tr *trial) { tr.repo = k.url(tr.front.URL, tr.container, "") }},
		{name: "refused", code: 10, says: "refused",
			begin: func(tr *trial) { tr.front.Down() }, end: func(tr *trial) { tr.front.Up() }},
		{name: "restarted", retryFor: "5m", begin: func(tr *trial) {
			tr.front.Set(from(8, 1, anything, func(http.ResponseWriter, *http.Request, http.Handler) {
				time.AfterFunc(300*time.Millisecond, tr.front.Up)
				tr.front.Down()
				panic(http.ErrAbortHandler)
			})())
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTrial(t, k, s, s.repository)
			tr.tries(fault{retryFor: tt.retryFor, code: tt.code})
			tt.begin(tr)
			tr.ended(t, tr.run(t.Context(), "backup", "create", "--full"), fault{code: tt.code, says: tt.says})
			if tt.stayAway {
				return
			}
			tr.front.Set(nil)
			if tt.end != nil {
				tt.end(tr)
			}
			if tt.code != 0 {
				tr.must(t, "backup", "create", "--full")
			}
			tr.restored(t, hashes(t, s.data, true))
			tr.clean(t, 4)
		})
	}
}

// swift runs the stock client.
func (tr *trial) swift(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "swift"), args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, tr.kind.swift.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("swift %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// tryFault does a job under a fault, and again without it if it has failed. It
// returns the number of requests under the fault.
func tryFault(t *testing.T, k *kind, s *source, j job, f fault) int {
	from := s.repository
	if j.name == "copy" {
		from = s.empty
	}
	tr := newTrial(t, k, s, from)
	tr.tries(f)
	args := slices.Clone(j.args)
	to := filepath.Join(t.TempDir(), "to")
	switch j.name {
	case "restore":
		args = append(args, "--to", to)
	case "copy":
		args = append(args, "--from", s.repository, "--to", tr.repo)
	}
	tr.front.Set(f.harm())
	out := tr.run(t.Context(), args...)
	requests := len(tr.front.Seen())
	tr.front.Set(nil)
	tr.ended(t, out, f)
	if out.code != 0 {
		tr.must(t, args...)
	}
	switch {
	case j.name == "restore":
		compareTrees(t, s.newest, to)
	case j.name == "copy":
		tr.restored(t, s.newest)
	case j.sends:
		tr.restored(t, hashes(t, s.data, true))
	}
	tr.clean(t, j.backups)
	return requests
}

// tries sets for how long a command tries under a fault. Only what ends since the storage is away is waited for: on a busy machine
// a request may take longer than its timeout before anything else is found.
func (tr *trial) tries(f fault) {
	if f.code != 10 {
		tr.retryFor = "5m"
	}
	tr.retryFor = cmp.Or(f.retryFor, tr.retryFor)
}

// ended checks how a command ended.
func (tr *trial) ended(t *testing.T, out output, f fault) {
	t.Helper()
	if out.code != f.code {
		t.Errorf("ended with code %d, want %d: %s", out.code, f.code, out.stderr)
	}
	if strings.Contains(out.stderr+out.stdout, tr.kind.secret) {
		t.Errorf("it shows the secret")
	}
	lines := strings.Split(strings.TrimSuffix(out.stderr, "\n"), "\n")
	if out.code == 0 && out.stderr != "" {
		lines = append(lines, "")
	}
	last := lines[len(lines)-1]
	if out.code != 0 && (!strings.HasPrefix(last, "slipcover: ") || !strings.Contains(last, f.says)) {
		t.Errorf("the error %q doesn't say %q", last, f.says)
	}
	for _, line := range lines[:len(lines)-1] {
		if line != "" && !strings.HasPrefix(line, "slipcover: the storage ") {
			t.Errorf("it says also %q", line)
		}
	}
}
