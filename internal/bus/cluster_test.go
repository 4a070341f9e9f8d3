package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
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
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/bus"
)

// cluster is a NATS cluster as an operator has it: one account for Slipcover.
type cluster struct {
	t       *testing.T
	opts    []*server.Options
	servers []*server.Server // nil: shut down
	account nkeys.KeyPair
	dir     string
}

func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, servers: make([]*server.Server, n), dir: t.TempDir()}
	operator := must[nkeys.KeyPair](t)(nkeys.CreateOperator())
	system := must[nkeys.KeyPair](t)(nkeys.CreateAccount())
	c.account = must[nkeys.KeyPair](t)(nkeys.CreateAccount())
	ports := freePorts(t, 2*n)
	for i := range n {
		resolver := &server.MemAccResolver{}
		o := must[*server.Options](t)(bus.OperatorOptions(operator, system, resolver))
		claims := must[*jwt.AccountClaims](t)(bus.AccountClaims(c.account, nil))
		token := must[string](t)(claims.Encode(operator))
		if err := resolver.Store(claims.Subject, token); err != nil {
			t.Fatal(err)
		}
		o.ServerName = fmt.Sprint("n", i)
		o.Host, o.Port = "127.0.0.1", ports[i]
		o.StoreDir = filepath.Join(c.dir, o.ServerName)
		o.SyncAlways = n == 1
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[n+i]}
			for j := range n {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", ports[n+j])})
			}
		}
		c.opts = append(c.opts, o)
	}
	for i := range n {
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range n {
			c.stop(i)
		}
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

// freePorts returns ports that nobody listens on now, below those that outgoing
// connections take.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for len(ports) < n {
		p := 15000 + rand.IntN(15000)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", p))
		if err == nil && !slices.Contains(ports, p) {
			ports = append(ports, p)
			defer l.Close()
		}
	}
	return ports
}

func (c *cluster) start(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.opts[i].Clone())
	if err != nil {
		c.t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		c.t.Fatal("a NATS server doesn't start")
	}
	c.servers[i] = s
}

func (c *cluster) stop(i int) {
	if s := c.servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
		c.servers[i] = nil
	}
}

func (c *cluster) url() string {
	var urls []string
	for _, o := range c.opts {
		urls = append(urls, fmt.Sprint("nats://127.0.0.1:", o.Port))
	}
	return strings.Join(urls, ",")
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
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if last = fn(); last == nil {
			return
		}
	}
	t.Fatalf("%s: not in 40 s: %v", what, last)
}

func (c *cluster) open(o bus.Options) *bus.Bus {
	c.t.Helper()
	o.URL = c.url()
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

// TestClusterMemberCutOff writes and runs jobs on three servers while each in turn
// is shut down and comes back.
func TestClusterMemberCutOff(t *testing.T) {
	c := startCluster(t, 3)
	ctx := t.Context()
	o := bus.Options{AccountSeed: c.seed(), Replicas: 3, AckWait: 2 * time.Second}
	a, b := c.open(o), c.open(o)
	tab := must[*bus.Table](t)(a.Table(ctx, "things"))
	other := must[*bus.Table](t)(b.Table(ctx, "things"))

	// Two agents, with credentials signed by the account's key.
	var mu sync.Mutex
	ran := map[string]int{}
	for _, agent := range []string{"n1", "n2"} {
		lo := join(t, a, agent)
		lo.AckWait = o.AckWait
		l := dial(t, lo)
		run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				mu.Lock()
				ran[d.Job]++
				mu.Unlock()
				if err := d.Done(ctx); err != nil && ctx.Err() == nil {
					t.Logf("done %s: %v", d.Job, err)
				}
			})
		})
	}
	// A watch in the other server.
	watched := map[string]string{}
	run(t, func(ctx context.Context) error {
		return other.Watch(ctx, func(ch bus.Change) {
			mu.Lock()
			defer mu.Unlock()
			if ch.Deleted {
				delete(watched, ch.Key)
			} else if !ch.Ready {
				watched[ch.Key] = string(ch.Value)
			}
		})
	})

	var acked sync.Map // key or job to value
	var writes, failures atomic.Int64
	var jobs atomic.Int64
	stopWriting := make(chan struct{})
	var writers sync.WaitGroup
	for w, t1 := range []*bus.Table{tab, other} {
		from := []*bus.Bus{a, b}[w]
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stopWriting:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", w, n)
				short, cancel := context.WithTimeout(ctx, 2*time.Second)
				if rev, err := t1.Create(short, key, []byte("v")); err != nil {
					failures.Add(1)
				} else if acked.Store(key, "v"); n%3 == 0 {
					if _, err := t1.Update(short, key, []byte("w"), rev); err != nil {
						acked.Delete(key) // open which of the two it is
						failures.Add(1)
					} else {
						acked.Store(key, "w")
					}
				}
				writes.Add(1)
				if n%5 == 0 {
					if err := from.Enqueue(short, fmt.Sprint("n", 1+n%2), "job-"+key); err == nil {
						acked.Store("job-"+key, "")
						jobs.Add(1)
					}
				}
				cancel()
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		before := writes.Load() - failures.Load()
		eventually(t, "more writes", func() bool { return writes.Load()-failures.Load() >= before+n })
	}
	more(50)
	for i := range 3 {
		c.stop(i)
		more(100)
		c.start(i)
		more(100)
		// The next one may only go when this one is up to date.
		eventually(t, "the member to be current", func() bool {
			for _, s := range c.servers {
				if z := s.JetStreamIsStreamCurrent(must[string](t)(c.account.PublicKey()), "KV_slipcover_things"); !z {
					return false
				}
			}
			return true
		})
	}
	close(stopWriting)
	writers.Wait()

	n := 0
	acked.Range(func(k, v any) bool {
		key := k.(string)
		n++
		if strings.HasPrefix(key, "job-") {
			eventually(t, key+" to run", func() bool { mu.Lock(); defer mu.Unlock(); return ran[key] > 0 })
			return true
		}
		got, _, err := tab.Get(ctx, key)
		if err != nil || string(got) != v {
			t.Errorf("%s: got %q, %v; acknowledged was %q", key, got, err, v)
		}
		eventually(t, key+" to be watched", func() bool { mu.Lock(); defer mu.Unlock(); return watched[key] == v })
		return true
	})
	// A key that was written is there for the watch, and nothing else is.
	eventually(t, "the watch to see just what is there", func() bool {
		js := must[jetstream.JetStream](t)(jetstream.New(a.Conn()))
		s, err := js.Stream(ctx, "KV_slipcover_things")
		mu.Lock()
		defer mu.Unlock()
		return err == nil && len(watched) == int(s.CachedInfo().State.Msgs)
	})
	mu.Lock()
	defer mu.Unlock()
	again := 0
	for _, times := range ran {
		again += times - 1
	}
	t.Logf("%d writes, %d without an answer; %d acknowledged entries and jobs are there; of %d jobs %d were delivered again", writes.Load(), failures.Load(), n, jobs.Load(), again)
}

// TestStolenAgentOnCluster is TestStolenAgent with the users of an operator.
func TestStolenAgentOnCluster(t *testing.T) {
	c := startCluster(t, 3)
	a := c.open(bus.Options{AccountSeed: c.seed(), Replicas: 3})
	b := c.open(bus.Options{AccountSeed: c.seed(), Replicas: 3})
	attackAgent(t, a, b, join(t, a, "thief"), join(t, b, "victim"))
}

// TestServersShareRequests has two servers on one cluster, and an agent that asks.
func TestServersShareRequests(t *testing.T) {
	c := startCluster(t, 1)
	ctx := t.Context()
	o := bus.Options{AccountSeed: c.seed()}
	var served [2]atomic.Int64
	var stops [2]func()
	var b *bus.Bus
	for i := range 2 {
		b = c.open(o)
		stops[i] = run(t, func(ctx context.Context) error {
			return b.Serve(ctx, func(context.Context, string, string, []byte) ([]byte, error) {
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
		"by hand":        {URL: c.url(), Agent: "a", Creds: agent},
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

// proxy stands between a client and a NATS server, and can be cut.
type proxy struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	off      bool        // guarded by mu
	conns    []io.Closer // guarded by mu
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{listener: must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), to: to}
	t.Cleanup(func() { p.listener.Close(); p.cut(true) })
	go func() {
		for {
			in, err := p.listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.to)
			p.mu.Lock()
			if p.off || err != nil {
				in.Close()
				if out != nil {
					out.Close()
				}
			} else {
				p.conns = append(p.conns, in, out)
				for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
					go func() {
						_, _ = io.Copy(c[0], c[1])
						c[0].Close()
					}()
				}
			}
			p.mu.Unlock()
		}
	}()
	return p
}

// cut closes all connections, and all to come until it is called with false.
func (p *proxy) cut(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// TestWatchThroughRestart changes a table while the watch's server is away.
func TestWatchThroughRestart(t *testing.T) {
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
	run(t, func(ctx context.Context) error {
		return tab.Watch(ctx, func(ch bus.Change) {
			switch {
			case ch.Ready:
				changes <- "ready"
			case ch.Deleted:
				changes <- "-" + ch.Key
			default:
				changes <- ch.Key + "=" + string(ch.Value)
			}
		})
	})
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case ch := <-changes:
				got = append(got, ch)
			case <-time.After(40 * time.Second):
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
	for round := range 3 {
		c.stop(0)
		eventually(t, "the loss to be seen", func() bool { return b.Connected() != nil })
		if _, err := tab.Put(ctx, "x", nil); err == nil {
			t.Error("a write without a server succeeded")
		}
		c.start(0)
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
	c := startCluster(t, 1)
	ctx := t.Context()
	seed := c.seed()
	direct := c.open(bus.Options{AccountSeed: seed})
	p := startProxy(t, strings.TrimPrefix(c.url(), "nats://"))
	far := must[*bus.Bus](t)(bus.Open(ctx, bus.Options{URL: "nats://" + p.listener.Addr().String(), AccountSeed: seed}))
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
	for round := range 10 {
		if round%2 == 1 {
			p.cut(true)
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
				p.cut(false) // lost for a moment, among changes
			}
		}
		p.cut(false)
		eventually(t, "the watch to see what is there", func() bool { mu.Lock(); defer mu.Unlock(); return maps.Equal(got, want) && ready == 1 })
	}
}
