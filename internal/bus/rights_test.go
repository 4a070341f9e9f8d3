package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/bus"
)

// thief is a plain connection to NATS with an agent's stolen credentials.
type thief struct {
	t    *testing.T
	nc   *nats.Conn
	errs chan error
}

func steal(t *testing.T, o bus.LinkOptions) *thief {
	t.Helper()
	th := &thief{t: t, errs: make(chan error, 100)}
	nc, err := nats.Connect(o.URL, nats.UserJWTAndSeed(o.JWT, o.Seed), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.CustomInboxPrefix("slipcover.to."+o.Agent+".inbox"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { th.errs <- err }))
	if err != nil {
		t.Fatal(err)
	}
	th.nc = nc
	t.Cleanup(nc.Close)
	return th
}

// refused fails unless NATS refused what was just sent.
func (th *thief) refused(what string) {
	th.t.Helper()
	if err := th.nc.FlushTimeout(time.Minute); err != nil {
		th.t.Fatal(err)
	}
	select {
	case err := <-th.errs:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			th.t.Errorf("%s: got %v, want a permission violation", what, err)
		}
	case <-time.After(time.Minute):
		th.t.Errorf("%s was allowed", what)
	}
}

func TestStolenAgent(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	attackAgent(t, b, b, join(t, b, "thief"), join(t, b, "victim"))

	// Removed, the thief is cut off and stays out; the victim works on.
	th := steal(t, join(t, b, "thief"))
	cut := make(chan struct{})
	th.nc.SetDisconnectErrHandler(func(*nats.Conn, error) { close(cut); th.nc.SetDisconnectErrHandler(nil) })
	o := join(t, b, "thief")
	if err := b.RemoveAgent(ctx, "thief"); err != nil {
		t.Fatal(err)
	}
	<-cut
	short, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := bus.Dial(short, o); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("dial with revoked credentials: got %v, want ErrRefused", err)
	}
	if th.nc.IsConnected() {
		t.Error("the revoked connection came back")
	}
	// The agent may come back, as another user.
	dial(t, join(t, b, "thief"))
}

// attackAgent tries with one agent's credentials all that they don't allow.
// serving answers requests, raw has all rights.
func attackAgent(t *testing.T, serving, raw *bus.Bus, thiefs, victims bus.LinkOptions) {
	t.Helper()
	ctx := t.Context()
	tab, err := raw.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	rev, err := tab.Put(ctx, "k", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for agent, job := range map[string]string{"victim": "job-of-victim", "thief": "job-of-thief"} {
		if err := raw.Enqueue(ctx, agent, job); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan string, 10)
	served := make(chan string, 100)
	stop := run(t, func(ctx context.Context) error {
		return serving.Serve(ctx, func(_ context.Context, agent, verb string, _ []byte) ([]byte, error) {
			served <- agent
			return []byte(agent + "'s secret"), nil
		})
	})
	defer stop()
	victim := dial(t, victims)
	defer run(t, func(ctx context.Context) error {
		return victim.Answer(ctx, func(_ context.Context, data []byte) ([]byte, error) {
			asked <- string(data)
			return nil, nil
		})
	})()
	eventually(t, "the victim to listen", func() bool { _, err := raw.Ask(ctx, "victim", []byte("first")); return err == nil })
	<-asked

	th := steal(t, thiefs)
	for _, subject := range []string{
		">", "*", "slipcover.>", "slipcover.to.>", "slipcover.to.*.ask", "slipcover.to.victim.>", "slipcover.to.victim.inbox.x", "slipcover.from.>",
		"slipcover.from.victim.>", "slipcover.from.thief.>", "slipcover.jobs.>", "slipcover.jobs.thief.*", "$KV.>", "$JS.>", "$JS.API.>", "$JS.EVENT.>", "_INBOX.>", "$SYS.>", "$SYS.REQ.USER.INFO",
	} {
		for _, queue := range []string{"", "slipcover"} {
			sub, err := th.nc.QueueSubscribeSync(subject, "q"+queue)
			if err != nil {
				t.Fatal(err)
			}
			th.refused("subscribe to " + subject)
			_ = sub.Unsubscribe()
		}
	}
	ack := "$JS.ACK.SLIPCOVER_JOBS.victim.1.1.1.1600000000000000000.0"
	for _, subject := range []string{
		"slipcover.from.victim.request.x", "slipcover.from.victim.queue.next", "slipcover.from.victim.answer.x", "slipcover.to.victim.ask", "slipcover.to.victim.inbox.x",
		"slipcover.to.thief.ask", "slipcover.jobs.victim.j", "slipcover.jobs.thief.j", "$KV.slipcover_things.k", ack,
		"$JS.ACK.SLIPCOVER_JOBS.thief.1.1.1.1600000000000000000.0",
		"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.SLIPCOVER_JOBS", "$JS.API.STREAM.MSG.GET.KV_slipcover_things",
		"$JS.API.DIRECT.GET.KV_slipcover_things", "$JS.API.STREAM.DELETE.KV_slipcover_things", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.PURGE.SLIPCOVER_JOBS",
		"$JS.API.CONSUMER.LIST.SLIPCOVER_JOBS", "$JS.API.CONSUMER.INFO.SLIPCOVER_JOBS.victim", "$JS.API.CONSUMER.CREATE.SLIPCOVER_JOBS",
		"$JS.API.CONSUMER.MSG.NEXT.SLIPCOVER_JOBS.victim", "$JS.API.CONSUMER.MSG.NEXT.SLIPCOVER_JOBS.thief", "$JS.API.CONSUMER.RESET.SLIPCOVER_JOBS.victim",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING",
	} {
		if err := th.nc.PublishRequest(subject, "slipcover.to.thief.inbox.x", nil); err != nil {
			t.Fatal(err)
		}
		th.refused("publish to " + subject)
	}

	// What it may send, with replies to where it may not. NATS doesn't look at them.
	say := func(to, what string) []byte {
		b, err := json.Marshal(map[string]string{"to": to, "say": what})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m, err := th.nc.Request("slipcover.from.thief.queue.next", nil, time.Minute)
	if err != nil || !strings.HasSuffix(m.Subject, ".thief.job-of-thief") {
		t.Fatalf("the thief's own job: %v, %v", m, err)
	}
	own := m.Reply
	sent := 0
	for _, reply := range []string{
		"slipcover.to.victim.ask", "slipcover.to.victim.inbox.x", "slipcover.jobs.victim.j", "slipcover.jobs.thief.j", "$KV.slipcover_things.k", "slipcover.from.victim.request.x",
		"slipcover.from.victim.queue.next", "$JS.API.STREAM.DELETE.KV_slipcover_things", "$JS.API.STREAM.PURGE.SLIPCOVER_JOBS", "slipcover.to.thief.inbox", "slipcover.to.thief.inbox.>", "slipcover.to.thief.inbox.*",
		"slipcover.to.thief.inboxx.a", "", ack,
	} {
		for subject, data := range map[string][]byte{
			"slipcover.from.thief.request.x":   []byte("x"),
			"slipcover.from.thief.queue.next":  nil,
			"slipcover.from.thief.queue.begin": nil,
			"slipcover.from.thief.queue.say":   say(own, "+ACK"),
			"slipcover.from.thief.answer.x":    []byte("x"),
		} {
			m := nats.NewMsg(subject)
			m.Reply, m.Data = reply, data
			m.Header.Set("Nats-Trace-Dest", "slipcover.jobs.victim.trace")
			m.Header.Set("Nats-Msg-Id", "x")
			if err := th.nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	// Words about another's job, and words that aren't any.
	for _, data := range [][]byte{say(ack, "+ACK"), say(ack, "-NAK"), say(ack, "+TERM"), say(own, "+TERM"), say(own, "+NXT"), say("$JS.API.STREAM.DELETE.SLIPCOVER_JOBS", "+ACK"), say("slipcover.to.victim.ask", "+ACK"), []byte("{"), nil} {
		if _, err := th.nc.Request("slipcover.from.thief.queue.say", data, 50*time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
			t.Errorf("say %s: got %v, want no answer", data, err)
		}
	}
	// One that is in order comes after all of them, and is answered.
	if m, err := th.nc.Request("slipcover.from.thief.request.x", nil, time.Minute); err != nil || string(m.Data) != "thief's secret" {
		t.Errorf("a request of its own: %v, %v", m, err)
	}
	if _, err := th.nc.Request("slipcover.from.thief.queue.say", say(own, "+WPI"), time.Minute); err != nil {
		t.Errorf("a word about its own job: %v", err)
	}
	for len(th.errs) > 0 {
		if err := <-th.errs; !errors.Is(err, nats.ErrPermissionViolation) { // of the traces
			t.Error(err)
		}
	}
	if v, r, err := tab.Get(ctx, "k"); string(v) != "secret" || r != rev || err != nil {
		t.Errorf("the table has %q, %d, %v; want what was there", v, r, err)
	}
	if n := len(served); n != 1 {
		t.Errorf("%d of %d requests were served; want that with its own inbox for the reply", n, sent+1)
	}
	if _, err := raw.Ask(ctx, "victim", []byte("last")); err != nil {
		t.Error(err)
	}
	if got := <-asked; got != "last" {
		t.Errorf("the victim was asked %q", got)
	}
	jobs := make(chan string, 10)
	defer run(t, func(ctx context.Context) error {
		return victim.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			jobs <- d.Job
			if err := d.Done(ctx); err != nil {
				t.Error(err)
			}
		})
	})()
	if err := raw.Enqueue(ctx, "victim", "last"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 2 {
		got = append(got, <-jobs)
	}
	if fmt.Sprint(got) != "[job-of-victim last]" {
		t.Errorf("the victim's jobs: %v", got)
	}
}

// TestReplySubjects shows why agents have no right on JetStream: with that of asking
// for the next message of its own consumer alone, a user can write into any table.
// If this fails one day because NATS refuses, servers need not pass requests on.
func TestReplySubjects(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddAgent(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	seed, public, err := bus.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := b.AccountSeedOf()
	if err != nil {
		t.Fatal(err)
	}
	account, err := nkeys.FromSeed(accountSeed)
	if err != nil {
		t.Fatal(err)
	}
	c := jwt.NewUserClaims(public)
	c.Pub.Allow.Add("$JS.API.CONSUMER.MSG.NEXT.SLIPCOVER_JOBS.a")
	c.Sub.Allow.Add("mine")
	token, err := c.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(b.ClientURL(), nats.UserJWTAndSeed(token, seed))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.SLIPCOVER_JOBS.a", "$KV.slipcover_things.k", []byte(`{"no_wait":true}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the answer of JetStream in the table", func() bool {
		_, _, err := tab.Get(ctx, "k")
		return err == nil
	})
}
