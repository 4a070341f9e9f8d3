package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// cluster is a NATS cluster as an operator has it: one account for Slipcover.
type cluster struct {
	*bustest.Cluster
	t       *testing.T
	account nkeys.KeyPair
	dir     string
}

func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	return startHurried(t, n, 1)
}

// startHurried starts a cluster whose members miss each other so many times sooner.
func startHurried(t *testing.T, n, hurry int) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), account: must[nkeys.KeyPair](t)(nkeys.CreateAccount())}
	operator := must[nkeys.KeyPair](t)(nkeys.CreateOperator())
	system := must[nkeys.KeyPair](t)(nkeys.CreateAccount())
	c.Cluster = bustest.Start(t, n, func(_ int, o *server.Options) {
		resolver := &server.MemAccResolver{}
		from := must[*server.Options](t)(bus.OperatorOptions(operator, system, resolver))
		claims := must[*jwt.AccountClaims](t)(bus.AccountClaims(c.account, nil))
		token := must[string](t)(claims.Encode(operator))
		if err := resolver.Store(claims.Subject, token); err != nil {
			t.Fatal(err)
		}
		o.TrustedOperators, o.SystemAccount, o.AccountResolver = from.TrustedOperators, from.SystemAccount, from.AccountResolver
		o.MaxPayload, o.SyncAlways = from.MaxPayload, n == 1
		o.PingInterval, o.Cluster.PingInterval = o.PingInterval/time.Duration(hurry), o.Cluster.PingInterval/time.Duration(hurry)
	})
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// seed writes the account's seed into a file.
func (c *cluster) seed() string {
	c.t.Helper()
	path := filepath.Join(c.dir, "account.nk")
	seed := must[[]byte](c.t)(c.account.Seed())
	if err := os.WriteFile(path, append(seed, '\n'), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// creds writes a user, signed by key, into a credentials file.
func (c *cluster) creds(key nkeys.KeyPair, account string, allow func(*jwt.UserClaims)) string {
	c.t.Helper()
	user := must[nkeys.KeyPair](c.t)(nkeys.CreateUser())
	claims := jwt.NewUserClaims(must[string](c.t)(user.PublicKey()))
	claims.IssuerAccount = account
	allow(claims)
	token := must[string](c.t)(claims.Encode(key))
	text := must[[]byte](c.t)(jwt.FormatUserConfig(token, must[[]byte](c.t)(user.Seed())))
	path := filepath.Join(c.dir, claims.Subject+".creds")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// retry does something until it succeeds: a cluster whose member is cut off elects
// leaders for a while.
func retry(t *testing.T, what string, fn func() error) {
	t.Helper()
	var last error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if last = fn(); last == nil {
			return
		}
	}
	t.Fatalf("%s: not in 2 minutes: %v", what, last)
}

func (c *cluster) open(o bus.Options) *bus.Bus {
	c.t.Helper()
	o.URL = c.URL()
	var b *bus.Bus
	retry(c.t, "open", func() (err error) {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		b, err = bus.Open(ctx, o)
		return err
	})
	c.t.Cleanup(func() { b.Close() })
	return b
}

// load is two servers that write into a table and enqueue jobs, and two agents that run
// them, on a cluster of three.
type load struct {
	t      *testing.T
	c      *cluster
	buses  [2]*bus.Bus
	tables [2]*bus.Table
	links  [2]*bus.Link

	written  [2]atomic.Int64 // writes that were acknowledged, of each server
	open     atomic.Int64    // writes without an answer
	enqueued atomic.Int64
	acked    sync.Map // key or job to value
	end      chan struct{}
	writers  sync.WaitGroup

	mu      sync.Mutex
	ran     map[string]int    // guarded by mu; jobs
	watched map[string]string // guarded by mu; what the second server sees
}

func startLoad(t *testing.T, c *cluster, hurry int) *load {
	t.Helper()
	w := &load{t: t, c: c, end: make(chan struct{}), ran: map[string]int{}, watched: map[string]string{}}
	o := bus.Options{AccountSeed: c.seed(), Replicas: 3, AckWait: 2 * time.Second}
	o.Hurry(hurry)
	for n := range w.buses {
		w.buses[n] = c.open(o)
		w.tables[n] = must[*bus.Table](t)(w.buses[n].Table(t.Context(), "things"))
	}
	for n := range w.links { // with credentials signed by the account's key
		lo := join(t, w.buses[0], fmt.Sprint("n", n))
		lo.AckWait = o.AckWait
		lo.Hurry(hurry)
		w.links[n] = dial(t, lo)
		run(t, func(ctx context.Context) error {
			return w.links[n].Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				w.mu.Lock()
				w.ran[d.Job]++
				w.mu.Unlock()
				if err := d.Done(ctx); err != nil && ctx.Err() == nil {
					t.Logf("done %s: %v", d.Job, err)
				}
			})
		})
	}
	run(t, func(ctx context.Context) error {
		return w.tables[1].Watch(ctx, func(ch bus.Change) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if ch.Deleted {
				delete(w.watched, ch.Key)
			} else if !ch.Ready {
				w.watched[ch.Key] = string(ch.Value)
			}
		})
	})
	for n := range w.buses {
		w.writers.Go(func() { w.write(n) })
	}
	return w
}

// write writes as one of the servers until the end.
func (w *load) write(server int) {
	b, table := w.buses[server], w.tables[server]
	pace := time.NewTicker(10 * time.Millisecond) // so that agents keep up
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-w.end:
			return
		case <-pace.C:
		}
		key := fmt.Sprintf("%d-%d", server, n)
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
		if rev, err := table.Create(ctx, key, []byte("v")); err != nil {
			w.open.Add(1)
		} else if w.acked.Store(key, "v"); n%3 == 0 {
			if _, err := table.Update(ctx, key, []byte("w"), rev); err != nil {
				w.acked.Delete(key) // open which of the two it is
				w.open.Add(1)
			} else {
				w.acked.Store(key, "w")
				w.written[server].Add(1)
			}
		} else {
			w.written[server].Add(1)
		}
		if n%5 == 0 {
			if err := b.Enqueue(ctx, fmt.Sprint("n", n%2), "job-"+key); err == nil {
				w.acked.Store("job-"+key, "")
				w.enqueued.Add(1)
			}
		}
		cancel()
	}
}

// more waits until each server has written so much more.
func (w *load) more(n int64) {
	w.t.Helper()
	for s := range w.written {
		before := w.written[s].Load()
		eventually(w.t, fmt.Sprintf("more writes of server %d", s), func() bool { return w.written[s].Load() >= before+n })
	}
}

// current waits until all members have what was written: then another one may go.
func (w *load) current() {
	w.t.Helper()
	account := must[string](w.t)(w.c.account.PublicKey())
	eventually(w.t, "the members to be current", func() bool {
		for _, s := range w.c.Servers {
			for _, stream := range []string{"KV_slipcover_things", "KV_slipcover_issued", "SLIPCOVER_JOBS"} {
				if !s.JetStreamIsCurrent() || !s.JetStreamIsStreamCurrent(account, stream) {
					return false
				}
			}
		}
		return true
	})
}

// finish ends the writing, and looks for what was acknowledged.
func (w *load) finish() {
	w.t.Helper()
	close(w.end)
	w.writers.Wait()
	ctx := w.t.Context()
	n := 0
	w.acked.Range(func(k, v any) bool {
		key := k.(string)
		n++
		if strings.HasPrefix(key, "job-") {
			eventually(w.t, key+" to run", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.ran[key] > 0 })
			return true
		}
		got, _, err := w.tables[0].Get(ctx, key)
		if err != nil || string(got) != v {
			w.t.Errorf("%s: got %q, %v; acknowledged was %q", key, got, err, v)
		}
		eventually(w.t, key+" to be watched", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.watched[key] == v })
		return true
	})
	// A key that was written is there for the watch, and nothing else is.
	eventually(w.t, "the watch to see just what is there", func() bool {
		js := must[jetstream.JetStream](w.t)(jetstream.New(w.buses[0].Conn()))
		s, err := js.Stream(ctx, "KV_slipcover_things")
		w.mu.Lock()
		defer w.mu.Unlock()
		return err == nil && len(w.watched) == int(s.CachedInfo().State.Msgs)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	again := 0
	for _, times := range w.ran {
		again += times - 1
	}
	w.t.Logf("%d writes acknowledged, %d without an answer; %d entries and jobs are there; of %d jobs %d were delivered again",
		w.written[0].Load()+w.written[1].Load(), w.open.Load(), n, w.enqueued.Load(), again)
}

// TestClusterMemberStopped writes and runs jobs on three servers while each in turn is
// shut down and comes back.
func TestClusterMemberStopped(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	w := startLoad(t, c, 1)
	w.more(25)
	for i := range 3 {
		c.Stop(i)
		w.more(50)
		c.Start(i)
		w.more(50)
		w.current()
	}
	w.finish()
}

// TestClusterMemberCutOff has a server and an agent on a member that is cut off from the
// other two, and goes on to listen to both: each moves to another member, and nothing is
// acknowledged that isn't there in the end. The third member is whole, and clients don't
// reach it.
func TestClusterMemberCutOff(t *testing.T) {
	t.Parallel()
	const hurry = 5 // than three minutes
	c := startHurried(t, 3, hurry)
	w := startLoad(t, c, hurry)
	w.more(25)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	members := random.Perm(3)
	ways := []bustest.State{bustest.Cut, bustest.Held}
	random.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
	if testing.Short() {
		ways = ways[:1]
	}
	for n, way := range ways {
		i := members[n]
		c.moveTo(i, w.buses[0].Conn(), w.links[0].Conn())
		begin := time.Now()
		c.Routes(i, way)
		stop := c.expectNothing(i)
		w.moved(i, begin, fmt.Sprintf("member %d was %s from the others", i, way))
		stop()
		c.Routes(i, bustest.Open)
		w.current()
	}
	i := members[2]
	c.moveTo(i, w.buses[0].Conn(), w.links[0].Conn())
	begin := time.Now()
	c.Clients(i, bustest.Held)
	w.moved(i, begin, fmt.Sprintf("clients of member %d were held", i))
	c.Clients(i, bustest.Open)
	w.current()
	w.finish()
}

// moveTo has clients connected to a member.
func (c *cluster) moveTo(i int, conns ...*nats.Conn) {
	c.t.Helper()
	for _, nc := range conns {
		eventually(c.t, "a client to be at another member", func() bool {
			if nc.IsConnected() && nc.ConnectedUrl() != c.URL(i) {
				if err := nc.ForceReconnect(); err != nil {
					c.t.Fatal(err)
				}
			}
			return nc.IsConnected() && nc.ConnectedUrl() == c.URL(i)
		})
	}
}

// connect connects to a member alone, with all rights.
func (c *cluster) connect(i int) *nats.Conn {
	c.t.Helper()
	user := must[nkeys.KeyPair](c.t)(nkeys.CreateUser())
	token := must[string](c.t)(jwt.NewUserClaims(must[string](c.t)(user.PublicKey())).Encode(c.account))
	var nc *nats.Conn
	retry(c.t, "connect", func() (err error) {
		nc, err = nats.Connect(c.URL(i), nats.UserJWTAndSeed(token, string(must[[]byte](c.t)(user.Seed()))), nats.IgnoreDiscoveredServers())
		return err
	})
	c.t.Cleanup(nc.Close)
	return nc
}

// expectNothing writes through a member that is alone, until it is told to stop: it
// acknowledges nothing.
func (c *cluster) expectNothing(i int) (stop func()) {
	c.t.Helper()
	nc := c.connect(i)
	js := must[jetstream.JetStream](c.t)(jetstream.New(nc))
	end := run(c.t, func(ctx context.Context) error {
		for n := 0; ctx.Err() == nil; n++ {
			short, cancel := context.WithTimeout(ctx, time.Second)
			_, err := js.Publish(short, fmt.Sprintf("$KV.slipcover_things.alone-%d-%d", i, n), nil)
			cancel()
			if err == nil {
				c.t.Errorf("member %d is alone and acknowledged a write", i)
			}
		}
		return nil
	})
	return func() { end(); nc.Close() }
}

// moved waits until the first server and the first agent work, on another member than
// they were on.
func (w *load) moved(from int, begin time.Time, what string) {
	w.t.Helper()
	took := [2]time.Duration{}
	for n, nc := range []*nats.Conn{w.buses[0].Conn(), w.links[0].Conn()} {
		eventually(w.t, what+": a client to leave it", func() bool { return nc.IsConnected() && nc.ConnectedUrl() != w.c.URL(from) })
		took[n] = time.Since(begin)
	}
	eventually(w.t, "the server to be ready", func() bool { return w.buses[0].Connected() == nil })
	ready := time.Since(begin)
	w.more(50)
	job := fmt.Sprint("after-", begin.UnixNano())
	retry(w.t, "enqueue", func() error { return w.buses[0].Enqueue(w.t.Context(), "n0", job) })
	eventually(w.t, "a job to run after it", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.ran[job] > 0 })
	w.t.Logf("%s: the server left it after %v and was ready after %v, the agent left after %v; a job ran by %v", what,
		took[0].Round(time.Second/10), ready.Round(time.Second/10), took[1].Round(time.Second/10), time.Since(begin).Round(time.Second/10))
}

// TestStolenAgentOnCluster is TestStolenAgent with the users of an operator.
func TestStolenAgentOnCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	a := c.open(bus.Options{AccountSeed: c.seed(), Replicas: 3})
	b := c.open(bus.Options{AccountSeed: c.seed(), Replicas: 3})
	attackAgent(t, a, b, join(t, a, "thief"), join(t, b, "victim"))
}

// TestServersShareRequests has two servers on one cluster, and an agent that asks.
func TestServersShareRequests(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ctx := t.Context()
	o := bus.Options{AccountSeed: c.seed()}
	var served [2]atomic.Int64
	var stops [2]func()
	var b *bus.Bus
	for i := range 2 {
		one := c.open(o)
		b = one
		stops[i] = run(t, func(ctx context.Context) error {
			return one.Serve(ctx, func(context.Context, string, string, []byte) ([]byte, error) {
				served[i].Add(1)
				return nil, nil
			})
		})
	}
	l := dial(t, join(t, b, "a"))
	eventually(t, "both to serve", func() bool {
		_, _ = l.Request(ctx, "x", nil)
		return served[0].Load() > 0 && served[1].Load() > 0
	})
	before := served[0].Load() + served[1].Load()
	for range 100 {
		if _, err := l.Request(ctx, "x", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := served[0].Load() + served[1].Load() - before; got != 100 {
		t.Errorf("100 requests were served %d times", got)
	}
	// One that stops leaves none unanswered.
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 100 {
				if _, err := l.Request(ctx, "x", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stops[0]()
	asking.Wait()
	stops[1]()
	if _, err := l.Request(ctx, "x", nil); !errors.Is(err, bus.ErrNoServer) {
		t.Errorf("nobody serves: got %v, want ErrNoServer", err)
	}
}

// TestCredentialsOnCluster has users that the operator made, a signing key in place
// of the account's own, and no key at all.
func TestCredentialsOnCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ctx := t.Context()
	service := func(u *jwt.UserClaims) {
		u.Pub.Allow.Add("slipcover.>", "$JS.API.>", "$JS.ACK.>", "$KV.>")
		u.Sub.Allow.Add("slipcover.>", "_INBOX.>")
	}
	creds := c.creds(c.account, "", service)
	b := c.open(bus.Options{Creds: creds})
	if _, err := b.Issue(ctx, "a", must[string](t)(must[nkeys.KeyPair](t)(nkeys.CreateUser()).PublicKey())); !errors.Is(err, bus.ErrNoIssuer) {
		t.Errorf("Issue without a key: got %v, want ErrNoIssuer", err)
	}
	if err := b.AddAgent(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.Enqueue(ctx, "a", "job"); err != nil {
		t.Fatal(err)
	}
	agent := c.creds(c.account, "", func(u *jwt.UserClaims) {
		u.Pub.Allow.Add("slipcover.from.a.>")
		u.Sub.Allow.Add("slipcover.to.a.>")
	})
	for name, o := range map[string]bus.LinkOptions{
		"by hand":        {URL: c.URL(), Agent: "a", Creds: agent},
		"in the process": {Agent: "a", InProcess: b},
		"issued":         join(t, c.open(bus.Options{Creds: creds, AccountSeed: c.seed()}), "a"),
	} {
		if err := b.Enqueue(ctx, "a", "job"); err != nil {
			t.Fatal(err)
		}
		done := make(chan string, 1)
		l := dial(t, o)
		stop := run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				if err := d.Done(ctx); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				done <- d.Job
			})
		})
		if got := <-done; got != "job" {
			t.Errorf("%s: got %q", name, got)
		}
		stop()
	}
	if err := b.RemoveAgent(ctx, "a"); err != nil {
		t.Error(err)
	}
}

// TestWatchThroughRestart changes a table while the watch's server is away.
func TestWatchThroughRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ctx := t.Context()
	b := c.open(bus.Options{AccountSeed: c.seed()})
	tab := must[*bus.Table](t)(b.Table(ctx, "things"))
	for _, k := range []string{"kept", "changed", "deleted"} {
		must[uint64](t)(tab.Put(ctx, k, []byte("1")))
	}
	must[uint64](t)(tab.Put(ctx, "gone", nil))
	if err := tab.Delete(ctx, "gone", 0); err != nil {
		t.Fatal(err)
	}
	changes := make(chan string, 100)
	gone := map[string]bool{}
	run(t, func(ctx context.Context) error {
		return tab.Watch(ctx, func(ch bus.Change) {
			switch {
			case ch.Ready:
				changes <- "ready"
			case ch.Deleted:
				// A deletion just when the table is read again can be told twice: as
				// found, and then for itself.
				if !gone[ch.Key] {
					changes <- "-" + ch.Key
				}
			default:
				changes <- ch.Key + "=" + string(ch.Value)
			}
			gone[ch.Key] = ch.Deleted
		})
	})
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case ch := <-changes:
				got = append(got, ch)
			case <-time.After(4 * time.Minute):
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		if want[len(want)-1] != "ready" {
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	expect("kept=1", "changed=1", "deleted=1", "ready")
	must[uint64](t)(tab.Put(ctx, "changed", []byte("2")))
	if err := tab.Delete(ctx, "deleted", 0); err != nil {
		t.Fatal(err)
	}
	expect("changed=2", "-deleted")
	if err := tab.Delete(ctx, "untold", 0); err != nil { // as if it had been made just before
		t.Fatal(err)
	}
	expect("-untold")
	for round := range 3 {
		c.Stop(0)
		eventually(t, "the loss to be seen", func() bool { return b.Connected() != nil })
		if _, err := tab.Put(ctx, "x", nil); err == nil {
			t.Error("a write without a server succeeded")
		}
		c.Start(0)
		retry(t, "write", func() error { _, err := tab.Put(ctx, "kept", []byte(fmt.Sprint("r", round))); return err })
		if round == 1 {
			if err := tab.Delete(ctx, "changed", 0); err != nil {
				t.Fatal(err)
			}
			expect("-changed", "kept=r1")
			continue
		}
		expect(fmt.Sprint("kept=r", round))
	}
}

// TestWatchThroughCut changes a table while the watch's connection is cut.
func TestWatchThroughCut(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ctx := t.Context()
	seed := c.seed()
	direct := c.open(bus.Options{AccountSeed: seed})
	p := bustest.Forward(t, strings.TrimPrefix(c.URL(), "nats://"))
	far := must[*bus.Bus](t)(bus.Open(ctx, bus.Options{URL: "nats://" + p.Addr, AccountSeed: seed}))
	t.Cleanup(func() { far.Close() })
	tab := must[*bus.Table](t)(direct.Table(ctx, "things"))
	watched := must[*bus.Table](t)(far.Table(ctx, "things"))

	var mu sync.Mutex
	got, want := map[string]string{}, map[string]string{}
	ready := 0
	last := map[string]uint64{}
	run(t, func(ctx context.Context) error {
		return watched.Watch(ctx, func(ch bus.Change) {
			mu.Lock()
			defer mu.Unlock()
			if ch.Ready {
				ready++
				return
			}
			if ch.Rev <= last[ch.Key] {
				t.Errorf("%s: revision %d came after %d", ch.Key, ch.Rev, last[ch.Key])
			}
			last[ch.Key] = ch.Rev
			if ch.Deleted {
				delete(got, ch.Key)
			} else {
				got[ch.Key] = string(ch.Value)
			}
		})
	})
	s := rand.Uint64()
	t.Logf("seed %d", s)
	random := rand.New(rand.NewPCG(s, 0))
	for round := range testenv.Rounds(4) {
		if round%2 == 1 {
			p.Set(bustest.Cut)
		}
		for n := range 50 {
			key := fmt.Sprint("k", random.IntN(30))
			if random.IntN(3) == 0 {
				if err := tab.Delete(ctx, key, 0); err != nil {
					t.Fatal(err)
				}
				delete(want, key)
			} else {
				value := fmt.Sprint(round, "-", n)
				must[uint64](t)(tab.Put(ctx, key, []byte(value)))
				want[key] = value
			}
			if round%2 == 0 && n == 25 {
				p.Set(bustest.Cut) // lost for a moment, among changes
				p.Set(bustest.Open)
			}
		}
		p.Set(bustest.Open)
		eventually(t, "the watch to see what is there", func() bool { mu.Lock(); defer mu.Unlock(); return maps.Equal(got, want) && ready == 1 })
	}
}
