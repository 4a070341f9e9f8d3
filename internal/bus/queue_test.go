package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/bus/bustest"
)

// TestDeadAgentsJob has an agent's process die with a job: the next one has it at
// once, long before AckWait.
func TestDeadAgentsJob(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", AckWait: time.Hour})
	o := join(t, b, "a")
	o.AckWait = time.Hour
	for _, job := range []string{"j1", "j2"} {
		if err := b.Enqueue(ctx, "a", job); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		dead := dial(t, o)
		got := make(chan string)
		hang := make(chan struct{})
		stop := run(t, func(ctx context.Context) error {
			return dead.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) { got <- d.Job; <-hang })
		})
		if job := <-got; job != "j1" {
			t.Errorf("got %s", job)
		}
		dead.Conn().Close() // as if killed: nothing more is sent
		close(hang)
		stop()
	}
	l := dial(t, o)
	jobs := make(chan string, 10)
	run(t, func(ctx context.Context) error {
		return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			if err := d.Done(ctx); err != nil {
				t.Error(err)
			}
			jobs <- d.Job
		})
	})
	if j1, j2 := <-jobs, <-jobs; j1 != "j1" || j2 != "j2" {
		t.Errorf("got %s and %s", j1, j2)
	}
	expectEmpty(t, b)
}

// TestDeadAgentsJobUnanswered has the next process's first word go to a server that dies before it answers.
func TestDeadAgentsJobUnanswered(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startCluster(t, 1)
	opts := bus.Options{AccountSeed: c.seed(), AckWait: time.Hour}
	b := c.open(opts)
	o := join(t, b, "a")
	o.AckWait = time.Hour
	if err := b.Enqueue(ctx, "a", "j1"); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 10)
	take := func(l *bus.Link) (stop func()) {
		return run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) { got <- d.Job; <-ctx.Done() })
		})
	}
	dead := dial(t, o)
	stop := take(dead)
	<-got
	dead.Conn().Close() // as if killed
	stop()
	asked := make(chan *nats.Msg, 10)
	sub := must[*nats.Subscription](t)(c.connect(0).ChanSubscribe("slipcover.from.a.queue.begin", asked))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	take(dial(t, o))
	<-asked
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	c.open(opts)
	if job := <-got; job != "j1" {
		t.Errorf("got %s", job)
	}
}

// expectEmpty waits until no job is in any queue.
func expectEmpty(t *testing.T, b *bus.Bus) {
	t.Helper()
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the queue to be empty", func() bool {
		s, err := js.Stream(t.Context(), "SLIPCOVER_JOBS")
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

// TestRedelivery has jobs that last longer than AckWait, are put again while they
// run, end without a word, are given back, and are put again when done.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const wait = 600 * time.Millisecond
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", AckWait: wait})
	o := join(t, b, "a")
	o.AckWait = wait
	l := dial(t, o)
	type run1 struct {
		job   string
		times int
	}
	jobs := make(chan run1, 100)
	run(t, func(ctx context.Context) error {
		return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			var err error
			switch {
			case strings.HasPrefix(d.Job, "long"):
				if err = b.Enqueue(ctx, "a", d.Job); err == nil {
					time.Sleep(3 * wait) // the job is this long
					err = d.Done(ctx)
				}
			case d.Job == "silent" && d.Times == 1:
			case d.Job == "later" && d.Times < 3:
				err = d.Later(ctx, 10*time.Millisecond)
			default:
				err = d.Done(ctx)
			}
			if err != nil {
				t.Errorf("%s: %v", d.Job, err)
			}
			jobs <- run1{d.Job, d.Times}
		})
	})
	for _, c := range []struct {
		job  string
		want int
	}{{"long-1", 1}, {"silent", 2}, {"later", 3}, {"long-1", 1}, {"quick", 1}, {"quick", 1}} {
		if err := b.Enqueue(ctx, "a", c.job); err != nil {
			t.Fatal(err)
		}
		for times := 1; times <= c.want; times++ {
			if got := <-jobs; got != (run1{c.job, times}) {
				t.Errorf("got %v, want %v", got, run1{c.job, times})
			}
		}
	}
	expectEmpty(t, b)
	if len(jobs) > 0 {
		t.Errorf("and then %v", <-jobs)
	}
}

func TestManyJobsAtATime(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	l := dial(t, join(t, b, "a"))
	var mu sync.Mutex
	ran := map[string]int{}
	var all sync.WaitGroup
	all.Add(3)
	for range 3 {
		run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				mu.Lock()
				ran[d.Job]++
				first := ran[d.Job] == 1 && strings.HasPrefix(d.Job, "wait")
				mu.Unlock()
				if first { // three of these can only end if they run at a time
					all.Done()
					all.Wait()
				}
				if err := d.Done(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
	for _, job := range strings.Fields("wait1 wait2 wait3 a b c d e f g h i j k") {
		if err := b.Enqueue(ctx, "a", job); err != nil {
			t.Fatal(err)
		}
	}
	expectEmpty(t, b)
	for job, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", job, n)
		}
	}
	if len(ran) != 14 {
		t.Errorf("%d jobs ran", len(ran))
	}
}

func TestRemoveAgentEmptiesItsQueue(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir()})
	for _, agent := range []string{"a", "b"} {
		if err := b.AddAgent(ctx, agent); err != nil {
			t.Fatal(err)
		}
		if err := b.Enqueue(ctx, agent, "j"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.RemoveAgent(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	for _, agent := range []string{"a", "b"} {
		if err := b.AddAgent(ctx, agent); err != nil {
			t.Fatal(err)
		}
	}
	jobs := make(chan string, 10)
	for _, agent := range []string{"a", "b"} {
		l := dial(t, bus.LinkOptions{Agent: agent, InProcess: b})
		run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				if err := d.Done(ctx); err != nil {
					t.Error(err)
				}
				jobs <- agent
			})
		})
	}
	if got := <-jobs; got != "b" {
		t.Errorf("a job of %s was left", got)
	}
	expectEmpty(t, b)
	if len(jobs) > 0 {
		t.Error("and another one")
	}
}

// An agent learns that it was removed, and why NATS isn't reached.
func TestLinkSaysWhyItIsDown(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	removed, stays := dial(t, join(t, b, "removed")), dial(t, join(t, b, "stays"))
	if err := b.RemoveAgent(t.Context(), "removed"); err != nil {
		t.Fatal(err)
	}
	<-removed.Refused()
	eventually(t, "it says so", func() bool {
		_, err := removed.Request(t.Context(), "hello", nil)
		return errors.Is(err, bus.ErrNoServer) && errors.Is(err, bus.ErrRefused)
	})
	select {
	case <-stays.Refused():
		t.Error("another agent is refused too")
	default:
	}

	cert, pool := selfSigned(t)
	secure := func(listen string, cert tls.Certificate) *bus.Bus {
		return open(t, bus.Options{Dir: t.TempDir(), Listen: listen, TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}})
	}
	listen := fmt.Sprint("127.0.0.1:", bustest.FreePorts(t, 1)[0]) // where nobody else listens between the two
	b = secure(listen, cert)
	o := join(t, b, "a")
	o.CA = pool
	l := dial(t, o)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	another, _ := selfSigned(t)
	secure(listen, another)
	eventually(t, "the certificate is told", func() bool {
		_, err := l.Request(t.Context(), "hello", nil)
		return errors.Is(err, bus.ErrNoServer) && errors.Is(err, bus.ErrCertificate)
	})
	select {
	case <-l.Refused():
		t.Error("a certificate that changed was taken for a removal")
	default:
	}
	if _, err := bus.Dial(t.Context(), o); !errors.Is(err, bus.ErrCertificate) {
		t.Errorf("dial: got %v, want ErrCertificate", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, pool := selfSigned(t)
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}})
	if !strings.HasPrefix(b.ClientURL(), "tls://") {
		t.Errorf("the URL is %s", b.ClientURL())
	}
	o := join(t, b, "a")
	if _, err := bus.Dial(t.Context(), o); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("a certificate of an unknown authority: got %v", err)
	}
	o.CA = pool
	l := dial(t, o)
	if _, err := l.Conn().TLSConnectionState(); err != nil {
		t.Error(err)
	}
	// Nor does the server talk in the clear.
	c, err := net.Dial("tcp", strings.TrimPrefix(b.ClientURL(), "tls://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "CONNECT {\"verbose\":true}\r\nPING\r\n")
	text, _ := io.ReadAll(c)
	if strings.Contains(string(text), "PONG") {
		t.Errorf("got %q", text)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// FuzzNames checks that what passes for a name is one token of a subject, and that
// a subject which acknowledges an agent's job is of that agent's consumer.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "node-1_B", "", ".", "a.b", "*", ">", "a b", "ü", "$JS", strings.Repeat("x", 128), strings.Repeat("x", 129)} {
		f.Add(s, "$JS.ACK.SLIPCOVER_JOBS."+s+".1.2.3.4.5")
		f.Add(s, "$JS.ACK.d.h.SLIPCOVER_JOBS."+s+".1.2.3.4.5")
		f.Add(s, "$JS.ACK.SLIPCOVER_JOBS.b.SLIPCOVER_JOBS."+s+".1.2.3.4.5")
	}
	f.Fuzz(func(t *testing.T, name, subject string) {
		ok := bus.ValidName(name)
		if ok != (name != "" && len(name) <= 128 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "") {
			t.Errorf("%q: %v", name, ok)
		}
		if ok && strings.ContainsAny(name, ".*> \t\r\n$") {
			t.Errorf("%q is more than one token", name)
		}
		if !ok || !bus.AckOf(subject, name) {
			return
		}
		p := strings.Split(subject, ".")
		v1 := len(p) == 9 && strings.HasPrefix(subject, "$JS.ACK.SLIPCOVER_JOBS."+name+".")
		v2 := len(p) >= 11 && p[4] == "SLIPCOVER_JOBS" && p[5] == name && p[2] != "SLIPCOVER_JOBS"
		if v1 == v2 || strings.ContainsAny(subject, "*> \r\n") {
			t.Errorf("%q acknowledges for %q", subject, name)
		}
	})
}

func TestNamesAreChecked(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir()})
	_, public, err := bus.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	l := dial(t, bus.LinkOptions{Agent: "a", InProcess: b})
	for _, bad := range []string{"", "*", ">", "a.b", "a b", "ä", strings.Repeat("x", 129)} {
		for what, fn := range map[string]func() error{
			"AddAgent":      func() error { return b.AddAgent(ctx, bad) },
			"RemoveAgent":   func() error { return b.RemoveAgent(ctx, bad) },
			"Issue":         func() error { _, err := b.Issue(ctx, bad, public); return err },
			"Ask":           func() error { _, err := b.Ask(ctx, bad, nil); return err },
			"Enqueue":       func() error { return b.Enqueue(ctx, bad, "j") },
			"Enqueue's job": func() error { return b.Enqueue(ctx, "a", bad) },
			"Table":         func() error { _, err := b.Table(ctx, bad); return err },
			"Dial":          func() error { _, err := bus.Dial(ctx, bus.LinkOptions{Agent: bad, InProcess: b}); return err },
			"Request":       func() error { _, err := l.Request(ctx, bad, nil); return err },
		} {
			if err := fn(); err == nil || !strings.Contains(err.Error(), "use 1 to 128 letters") {
				t.Errorf("%s %.10q: got %v", what, bad, err)
			}
		}
	}
	if _, err := b.Issue(ctx, "a", "UX"); err == nil {
		t.Error("a bad public key was accepted")
	}
}
