package service_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	wire "github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// TestServiceScale holds one server process against many agents and backups, and prints
// what it measures. The agents are simulated, over TLS as real ones; the server is the
// real program. SLIPCOVER_SCALE=full is 1,000 agents and 100,000 backups.
func TestServiceScale(t *testing.T) {
	if testing.Short() || clitest.Race {
		t.Skip("measures")
	}
	agents, backups := 50, 2_000
	if os.Getenv("SLIPCOVER_SCALE") == "full" {
		agents, backups = 1000, 100_000
	}
	dir := t.TempDir()
	members := fillCatalog(t, dir, agents, backups)
	s := startServer(t, serverOf(dir), "--state-dir", dir)
	api := s.client(t)

	swarm := joinAll(t, dir, s.natsPort, members)
	eventually(t, clitest.Patience, "all agents are online", func() bool { return swarm.hellos.Load() >= int64(agents) })

	for _, page := range []string{"?limit=20", "?limit=100", fmt.Sprintf("?limit=100&marker=%d", backups-100)} {
		var times []time.Duration
		for range 100 {
			began := time.Now()
			var got struct{ Backups []json.RawMessage }
			api.get("/v1.0/default/backups"+page, &got)
			times = append(times, time.Since(began))
			if len(got.Backups) < 20 {
				t.Fatalf("%s: %d backups", page, len(got.Backups))
			}
		}
		slices.Sort(times)
		t.Logf("GET /backups%s: median %v, 99 of 100 within %v", page, times[50].Round(10*time.Microsecond), times[98].Round(10*time.Microsecond))
	}

	began := time.Now()
	g, _ := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for _, m := range members {
		g.Go(func() error {
			return api.post("/v1.0/default/backups", map[string]any{"backup": map[string]any{"name": "scale", "instance": m.instance, "incremental": 0}}, http.StatusAccepted)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	accepted := time.Since(began)
	t.Logf("%d backups accepted in %v: %.0f a second", agents, accepted.Round(time.Millisecond), float64(agents)/accepted.Seconds())
	eventually(t, clitest.Patience, "all backups are done", func() bool { return swarm.done.Load() >= int64(agents) })
	t.Logf("%d backups begun, reported and completed in %v: %.0f a second", agents, time.Since(began).Round(time.Millisecond), float64(agents)/time.Since(began).Seconds())
	if n := swarm.twice.Load(); n > 0 {
		t.Errorf("%d jobs ran twice", n)
	}

	rss, peak := memoryOf(t, s.Cmd.Process.Pid)
	t.Logf("memory of the server: %d MB right after that, at most %d MB", rss/1e6, peak/1e6)
	const limit = 300_000_000
	end := time.Now().Add(90 * time.Second) // it gives back each minute what bursts left
	for rss > limit && time.Now().Before(end) {
		time.Sleep(time.Second)
		rss, _ = memoryOf(t, s.Cmd.Process.Pid)
	}
	t.Logf("and then: %d MB", rss/1e6)
	if rss > limit {
		t.Errorf("the server has %d bytes in memory, more than %d", rss, limit)
	}
}

// member is a simulated agent.
type member struct {
	id, instance, jwt, seed string
}

// fillCatalog makes the catalog of a service that has run for long, as servers would.
func fillCatalog(t *testing.T, dir string, agents, backups int) []member {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Options{Dir: filepath.Join(dir, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := server.New(t.Context(), server.Config{Bus: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	members := make([]member, agents)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for n := range members {
		g.Go(func() error {
			seed, public, err := bus.NewKey()
			if err != nil {
				return err
			}
			j, err := s.Join(ctx, server.Joining{Name: fmt.Sprintf("node%04d", n), Project: "default", PublicKey: public})
			if err == nil {
				members[n] = member{j.AgentID, j.Instance, j.JWT, seed}
			}
			return err
		})
	}
	table, err := b.Table(t.Context(), "backups")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	g, ctx = errgroup.WithContext(t.Context())
	g.SetLimit(64)
	start := time.Now().UTC().Add(-time.Duration(backups) * time.Minute)
	for n := range backups {
		g.Go(func() error {
			at := start.Add(time.Duration(n) * time.Minute)
			d := oldBackup(members[n%agents].instance, fmt.Sprintf("node%04d", n%agents), n, at)
			v, err := json.Marshal(d)
			if err != nil {
				return err
			}
			_, err = table.Put(ctx, d.ID, v)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return members
}

func oldBackup(instance, name string, n int, at time.Time) *wire.Backup {
	end := at.Add(20 * time.Second)
	repoID := uuid.Must(uuid.NewV7()).String() // the id of the first attempt is the backup's
	return &wire.Backup{ID: repoID, Name: fmt.Sprintf("nightly %d", n), Description: "of the schedule", Project: "default", Instance: instance,
		Status: wire.BackupCompleted, CouchDBVersion: "3.5.0", RepoName: name, Repository: wire.Repository{URL: "s3://backups/couchdb", ID: "0199aaaa-0000-7000-8000-00000000000f"},
		Result: wire.Result{RepoID: repoID, Type: "incremental", Size: 1 << 30, Stored: 1 << 20, Databases: 12, Checksum: strings.Repeat("c0ffee00", 8),
			LocationRef: "s3://backups/couchdb/backups/" + name + "/" + repoID + "/manifest.json.zst.age", Started: &at, Finished: &end},
		Created: at, Updated: end}
}

// swarm is all simulated agents.
type swarm struct {
	hellos, done, twice atomic.Int64
	seen                sync.Map // jobs that were begun
}

// joinAll connects simulated agents, which do every job at once.
func joinAll(t *testing.T, dir string, natsPort int, members []member) *swarm {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s := &swarm{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, m := range members {
		g.Go(func() error {
			l, err := bus.Dial(ctx, bus.LinkOptions{URL: fmt.Sprintf("tls://127.0.0.1:%d", natsPort), Agent: m.id, JWT: m.jwt, Seed: m.seed, CA: pool})
			if err != nil {
				return err
			}
			running.Go(func() { <-ctx.Done(); l.Close() })
			running.Go(func() { s.greet(ctx, l, m) })
			running.Go(func() {
				_ = l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) { s.work(ctx, t, l, m, d) })
			})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return s
}

func request[T any](ctx context.Context, l *bus.Link, verb string, what any) (out T, err error) {
	b, err := json.Marshal(what)
	if err != nil {
		return out, err
	}
	answer, err := l.Request(ctx, verb, b)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(answer, &out)
}

func (s *swarm) greet(ctx context.Context, l *bus.Link, m member) {
	for first := true; ; first = false {
		r, err := request[wire.HelloReply](ctx, l, wire.VerbHello, wire.Hello{Session: m.id, Version: "slipcover test", Host: m.instance, CanRead: true,
			Instances: []wire.Seen{{Instance: m.instance, Up: true, Version: "3.5.0"}}})
		if err == nil && first {
			s.hellos.Add(1)
		}
		wait := time.Second
		if err == nil {
			wait = r.Every
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (s *swarm) work(ctx context.Context, t *testing.T, l *bus.Link, m member, d *bus.Delivery) {
	c, err := request[wire.ClaimReply](ctx, l, wire.VerbClaim, wire.Claim{Session: m.id, Job: d.Job})
	if err != nil {
		_ = d.Later(ctx, 100*time.Millisecond)
		return
	}
	if c.Verdict == wire.Go {
		if _, again := s.seen.LoadOrStore(d.Job, true); again {
			s.twice.Add(1)
		}
		b := oldBackup(m.instance, "n", 1, time.Now().UTC())
		if _, err := request[wire.ReportReply](ctx, l, wire.VerbReport, wire.Report{Session: m.id, Job: d.Job, State: wire.Done, Result: &b.Result}); err != nil {
			t.Errorf("report: %v", err)
			return
		}
		s.done.Add(1)
	}
	_ = d.Done(ctx)
}

// memoryOf returns the resident memory of a process, now and at most, in bytes.
func memoryOf(t *testing.T, pid int) (now, most int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("memory can't be read here: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			most = n << 10
		}
	}
	return now, most
}

// client speaks to a server's APIs as its administrator.
type client struct {
	t     *testing.T
	url   string
	token string
}

func (c *client) do(method, path string, body, out any) (int, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, r)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Auth-Token", c.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, math.MaxInt32))
	if err != nil {
		return resp.StatusCode, err
	}
	if out != nil && resp.StatusCode < 300 {
		return resp.StatusCode, json.Unmarshal(b, out)
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return resp.StatusCode, nil
}

func (c *client) get(path string, out any) {
	c.t.Helper()
	if _, err := c.do(http.MethodGet, path, nil, out); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) post(path string, body any, want int) error {
	status, err := c.do(http.MethodPost, path, body, nil)
	if err == nil && status != want {
		err = fmt.Errorf("POST %s: %d, want %d", path, status, want)
	}
	return err
}
