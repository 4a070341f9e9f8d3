package service_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/couchgen"
	wire "github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestServiceKilled kills servers, agents and members of the NATS cluster, and cuts
// members off, at random moments while backups are asked for. In the end each backup that was accepted is
// complete, once, in the catalog and in the repository alike, and no job ran twice.
// SLIPCOVER_ROUNDS is for more of it.
func TestServiceKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("kills processes for a while")
	}
	rounds := testenv.Rounds(5)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, rounds)
	f := startFleet(t, 3, rand.New(rand.NewPCG(seed, 0)))
	for n := range rounds {
		f.round(n)
	}
	f.settle()
	f.compare()
}

// fleet is two servers and some agents on a NATS cluster of three.
type fleet struct {
	t        *testing.T
	rng      *rand.Rand
	repo     string
	cluster  *bustest.Cluster
	servers  []*process
	agents   []*node
	accepted []string // ids of backups
	busy     int      // refused, since the backup before was under way
	kills    map[string]int
}

// node is an agent with the CouchDB data that it backs up.
type node struct {
	*process
	name, data, instance string
}

func startFleet(t *testing.T, agents int, rng *rand.Rand) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{t: t, rng: rng, repo: filepath.Join(dir, "repo"), kills: map[string]int{}}
	f.cluster = bustest.Start(t, 3, func(_ int, o *nats.Options) { o.Username, o.Password = "slipcover", "secret" })
	f.current()
	env := []string{"SLIPCOVER_NATS_URL=" + f.cluster.URL(), "SLIPCOVER_NATS_REPLICAS=3", "SLIPCOVER_RECIPIENTS=" + aRecipient}
	for n := range 2 {
		s := serverOf(filepath.Join(dir, fmt.Sprintf("server%d", n)))
		s.Env = slices.Clone(env)
		f.servers = append(f.servers, startServer(t, s, "--state-dir", s.state))
	}
	api := f.servers[0].client(t)
	for n := range agents {
		name := fmt.Sprintf("node%d", n)
		d := &node{name: name, data: filepath.Join(dir, name)}
		if _, err := couchgen.DataDir(d.data, couchgen.OneShard(12<<20)); err != nil {
			t.Fatal(err)
		}
		var token struct{ Secret string }
		if _, err := api.do(http.MethodPost, "/slipcover/v1/join-tokens", map[string]any{"name": name}, &token); err != nil {
			t.Fatal(err)
		}
		d.process = startAgent(t, append(slices.Clone(env), "SLIPCOVER_REPOSITORY="+f.repo, "SLIPCOVER_DATA_DIR="+d.data, "SLIPCOVER_INSTANCE="+name, "SLIPCOVER_OWNER="),
			"--state-dir", filepath.Join(dir, "agent"+name), "--server-url", f.servers[0].url, "--join", token.Secret)
		file := filepath.Join(dir, "agent"+name, "agent", "membership.json")
		var m struct{ Instance string }
		eventually(t, clitest.Patience, name+" joins", func() bool {
			b, err := os.ReadFile(file)
			return err == nil && json.Unmarshal(b, &m) == nil && m.Instance != ""
		})
		d.instance = m.Instance
		d.Args = slices.DeleteFunc(d.Args, func(a string) bool { return a == "--join" || a == token.Secret })
		f.agents = append(f.agents, d)
	}
	return f
}

// round asks for backups and kills something meanwhile.
func (f *fleet) round(n int) {
	victim := f.agents[f.rng.IntN(len(f.agents))]
	for _, d := range f.agents {
		if d == victim || f.rng.IntN(2) > 0 {
			f.grow(d, n)
			f.ask(d, n)
		}
	}
	time.Sleep(time.Duration(f.rng.IntN(250)) * time.Millisecond) // to kill at any moment
	k := f.rng.IntN(9)
	if n < 5 { // each at least once
		k = []int{0, 4, 0, 8, 4}[n]
	}
	switch {
	case n%5 == 2: // as often as that, since it takes longest
		i, way := f.rng.IntN(3), []bustest.State{bustest.Cut, bustest.Held}[f.rng.IntN(2)]
		f.kills["NATS member "+way.String()]++
		f.cluster.Routes(i, way)
		f.without(n, time.Minute) // until after servers and agents have left it, or not
		f.cluster.Routes(i, bustest.Open)
		f.current()
	case k < 4:
		f.kills["server"]++
		s := f.servers[f.rng.IntN(len(f.servers))]
		s.Kill()
		s.Start()
	case k < 8:
		f.kills["agent"]++
		victim.Kill()
		victim.Start()
	default:
		f.kills["NATS member"]++
		i := f.rng.IntN(3)
		f.cluster.Stop(i)
		f.without(n, time.Second)
		f.cluster.Start(i)
		f.current()
	}
}

// without asks for backups while a NATS member is away, for so long at most.
func (f *fleet) without(n int, long time.Duration) {
	f.t.Helper()
	time.Sleep(time.Duration(f.rng.Int64N(int64(long)))) // to come back at any moment
	for _, d := range f.agents {
		f.ask(d, n)
	}
}

// current waits until all NATS members have what was written.
func (f *fleet) current() {
	f.t.Helper()
	eventually(f.t, clitest.Patience, "the NATS cluster is whole", func() bool {
		leader := false
		for _, s := range f.cluster.Servers {
			leader = leader || s.JetStreamIsLeader()
			if !s.JetStreamIsCurrent() {
				return false
			}
		}
		return leader
	})
}

// grow gives a node something new to back up.
func (f *fleet) grow(d *node, n int) {
	f.t.Helper()
	shards, err := filepath.Glob(filepath.Join(d.data, "shards", "*", "*.couch"))
	if err != nil || len(shards) == 0 {
		f.t.Fatalf("no shards: %v", err)
	}
	b, err := os.ReadFile(shards[0])
	if err != nil {
		f.t.Fatal(err)
	}
	name := filepath.Join(filepath.Dir(shards[0]), fmt.Sprintf("more%d.1700000000.couch", n))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// ask asks for a backup, one server or the other until one of them answers.
func (f *fleet) ask(d *node, n int) {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.servers[0].state, "admin-token"))
	if err != nil {
		f.t.Fatal(err)
	}
	body := map[string]any{"backup": map[string]any{"name": fmt.Sprintf("round %d", n), "instance": d.instance, "incremental": 0}}
	first := f.rng.IntN(2)
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); first++ {
		api := &client{t: f.t, url: f.servers[first%2].url, token: strings.TrimSpace(string(b))}
		var got struct{ Backup struct{ ID string } }
		status, err := api.do(http.MethodPost, "/v1.0/default/backups", body, &got)
		switch {
		case err == nil && status == http.StatusAccepted:
			f.accepted = append(f.accepted, got.Backup.ID)
			return
		case status == http.StatusUnprocessableEntity: // the one before is under way
			f.busy++
			return
		case status == 0, status >= 500: // dead, or without its bus
			time.Sleep(50 * time.Millisecond)
		default:
			f.t.Errorf("POST /backups: %d, %v", status, err)
			return
		}
	}
	f.t.Error("no server answered for 3 minutes")
}

type shownBackup struct {
	ID, Status string
	InstanceID string `json:"instance_id"`
}

// settle waits until nothing is under way.
func (f *fleet) settle() {
	f.t.Helper()
	for _, s := range f.servers {
		s.waitReady()
	}
	eventually(f.t, 5*time.Minute, "all backups have ended", func() bool {
		return !slices.ContainsFunc(f.list(), func(b shownBackup) bool { return b.Status == "NEW" || b.Status == "BUILDING" })
	})
}

func (f *fleet) list() []shownBackup {
	f.t.Helper()
	var all []shownBackup
	api := f.servers[0].client(f.t)
	for {
		var page struct{ Backups []shownBackup }
		api.get(fmt.Sprintf("/v1.0/default/backups?limit=100&marker=%d", len(all)), &page)
		all = append(all, page.Backups...)
		if len(page.Backups) < 100 {
			return all
		}
	}
}

// compare holds the catalog, the repository and what the agents did against each other.
func (f *fleet) compare() {
	f.t.Helper()
	status := map[string]string{}
	for _, b := range f.list() {
		if status[b.ID] != "" {
			f.t.Errorf("backup %s is listed twice", b.ID)
		}
		status[b.ID] = b.Status
	}
	for _, id := range f.accepted {
		if status[id] != "COMPLETED" {
			f.t.Errorf("backup %s was accepted and is %q", id, status[id])
		}
	}
	store, err := drivers.Open(f.t.Context(), f.repo, drivers.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer store.Close()
	r, err := repo.Open(f.t.Context(), store, repo.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	recs, bad, err := r.List(f.t.Context(), "")
	if err != nil || len(bad) > 0 {
		f.t.Fatalf("list: %v, %v", err, bad)
	}
	stored := map[string]*manifest.Record{}
	for _, rec := range recs {
		id := rec.Labels[wire.LabelBackup]
		if other := stored[id]; other != nil {
			f.t.Errorf("backup %s is stored twice: %s and %s", id, other.ID, rec.ID)
		}
		stored[id] = rec
		if status[id] != "COMPLETED" {
			f.t.Errorf("backup %s is stored as %s and in the catalog %q", id, rec.ID, status[id])
		}
	}
	completed := 0
	for id, s := range status {
		if s == "COMPLETED" {
			completed++
			if stored[id] == nil {
				f.t.Errorf("backup %s is COMPLETED and not stored", id)
			}
		}
	}
	report, err := r.Check(f.t.Context(), repo.CheckOptions{})
	if err != nil || len(report.Problems) > 0 {
		f.t.Errorf("check: %v, %+v", err, report.Problems)
	}
	begun := f.count(agentsOf(f), jobBegins)
	again, twice := 0, 0
	for _, n := range begun {
		again += n - 1
	}
	for id, n := range f.count(f.servers, jobEnded) {
		if n > 1 {
			twice++
			f.t.Errorf("job %s ended %d times", id, n)
		}
	}
	f.t.Logf("%d kills (%s); %d backups accepted, %d refused as busy, %d completed, %d failed, %d stored; %d jobs, which %d starts of agents took up again, %d ended twice",
		sum(f.kills), killsText(f.kills), len(f.accepted), f.busy, completed, len(status)-completed, len(recs), len(begun), again, twice)
}

var (
	jobBegins = regexp.MustCompile(`msg="job begins" job=(\S+)`)
	jobEnded  = regexp.MustCompile(`msg="job ended" job=(\S+)`)
)

func agentsOf(f *fleet) (out []*process) {
	for _, a := range f.agents {
		out = append(out, a.process)
	}
	return out
}

// count counts for each job how often the logs of processes say a thing of it.
func (f *fleet) count(of []*process, line *regexp.Regexp) map[string]int {
	counts := map[string]int{}
	for _, p := range of {
		b, err := os.ReadFile(p.Log)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(b), -1) {
			counts[m[1]]++
		}
	}
	return counts
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func killsText(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}
