package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/nats-io/nuid"
)

// LinkOptions say how an agent reaches the servers, and as whom: by JWT and Seed, by
// Creds, by a user and password in the URL, or as a part of a server's process.
type LinkOptions struct {
	URL   string // of NATS: the embedded server's ClientURL or the cluster
	Agent string // its id, which the user must be for
	JWT   string // from Issue
	Seed  string // from NewKey
	Creds string // credentials file of a user that the operator made
	// InProcess is the bus of this process. Nothing else but Agent is needed then.
	InProcess *Bus
	CA        *x509.CertPool // nil: the system's
	AckWait   time.Duration  // as Options.AckWait
	Log       *slog.Logger   // nil: nothing is logged

	hurry int // as in Options
}

// Link is an agent's side. Its methods may be called at the same time.
type Link struct {
	nc    *nats.Conn
	agent string
	wait  time.Duration // AckWait
	log   *slog.Logger

	stop context.CancelFunc // ends what watches the connection

	begin   sync.Once
	refused chan struct{} // closed once NATS has refused the credentials for good

	mu       sync.Mutex
	wake     map[chan struct{}]bool // guarded by mu; told of each reconnection
	refusals int                    // in a row; guarded by mu
}

// maxRefusals is how often in a row NATS may refuse credentials that it took before, as one
// that has just started may, some seconds long.
const maxRefusals = 6

// Dial connects an agent. It tries until ctx ends; credentials that are refused end
// it with ErrRefused, and a certificate that isn't trusted with ErrCertificate. The link
// then comes back by itself whenever it is lost, see Refused.
func Dial(ctx context.Context, o LinkOptions) (*Link, error) {
	if err := checkName("agent", o.Agent); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.AckWait == 0 {
		o.AckWait = defaultAckWait
	}
	l := &Link{agent: o.Agent, wait: o.AckWait, log: o.Log, refused: make(chan struct{}), wake: map[chan struct{}]bool{}}
	pace := paceOf(o.hurry)
	opts := []nats.Option{
		nats.Name("slipcover agent " + o.Agent),
		nats.PingInterval(pace.ping),
		nats.CustomInboxPrefix(inboxOf(o.Agent)),
		nats.ReconnectHandler(func(*nats.Conn) {
			o.Log.InfoContext(ctx, "connected to NATS again")
			l.mu.Lock()
			defer l.mu.Unlock()
			l.refusals = 0
			for c := range l.wake {
				select {
				case c <- struct{}{}:
				default:
				}
			}
		}),
	}
	opts = append(opts, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		o.Log.DebugContext(ctx, "NATS", "err", err)
		l.wasRefused(err)
	}))
	if o.CA != nil {
		opts = append(opts, nats.Secure(&tls.Config{RootCAs: o.CA, MinVersion: tls.VersionTLS12}))
	}
	switch {
	case o.InProcess != nil:
		o.URL = o.InProcess.opts.URL
		opts = append(opts, o.InProcess.dial...)
	case o.JWT != "":
		user, err := nkeys.FromSeed([]byte(o.Seed))
		if err != nil {
			return nil, fmt.Errorf("the seed of agent %s is not one of NATS: %w", o.Agent, err)
		}
		opts = append(opts, nats.UserJWT(func() (string, error) { return o.JWT, nil }, user.Sign))
	case o.Creds != "":
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	var err error
	if l.nc, err = connect(ctx, o.URL, o.Log, opts...); err != nil {
		return nil, err
	}
	h := &health{nc: l.nc, log: l.log, pace: pace, every: pace.linkCheck, ask: func(ctx context.Context) (*nats.Msg, error) {
		if len(l.nc.Servers()) < 2 { // there is nowhere to go
			return &nats.Msg{Data: []byte("{}")}, nil
		}
		return l.nc.RequestWithContext(ctx, l.from("queue", "check"), nil)
	}}
	l.stop = h.start(ctx)
	return l, nil
}

// wasRefused notes an error of the connection.
func (l *Link) wasRefused(err error) {
	if !refuses(err) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals++
	if errors.Is(err, nats.ErrAuthRevoked) { // said of credentials that are in use
		l.refusals = maxRefusals
	}
	if l.refusals >= maxRefusals {
		select {
		case <-l.refused:
		default:
			close(l.refused)
		}
	}
}

// Refused is closed once NATS takes the credentials no more: RemoveAgent was called.
func (l *Link) Refused() <-chan struct{} { return l.refused }

// Close ends the link. Jobs and Answer must be ended before, by their contexts.
func (l *Link) Close() {
	l.stop()
	l.nc.Close()
}

// Request asks the servers. If none listens, or the connection is down, the error is
// ErrNoServer, at once, and says why; what the server's function returned as an error is an
// *Error.
// Without a deadline it waits for a minute. After any other error the request may
// have been carried out.
func (l *Link) Request(ctx context.Context, verb string, data []byte) ([]byte, error) {
	if err := checkName("request", verb); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	m, err := l.nc.RequestWithContext(ctx, l.from("request", verb), data)
	if err != nil {
		if down(err) {
			err = l.noServer()
		}
		return nil, fmt.Errorf("request %s: %w", verb, err)
	}
	return answered(m)
}

// noServer is ErrNoServer, with why NATS isn't reached if that is known.
func (l *Link) noServer() error {
	why := l.nc.LastError()
	switch {
	case l.nc.IsConnected() || why == nil:
		return ErrNoServer
	case refuses(why):
		return fmt.Errorf("%w: %w", ErrNoServer, ErrRefused)
	case untrusted(why):
		return fmt.Errorf("%w: %w: %w", ErrNoServer, ErrCertificate, why)
	}
	return fmt.Errorf("%w: NATS can't be reached: %w", ErrNoServer, why)
}

func (l *Link) from(kind, what string) string {
	return "slipcover.from." + l.agent + "." + kind + "." + what
}

// Answer answers what servers ask until ctx ends, and returns when the last answer
// was sent. Each call has a minute. Up to 64 run at a time.
func (l *Link) Answer(ctx context.Context, fn func(ctx context.Context, data []byte) ([]byte, error)) error {
	return serve(ctx, l.nc, "slipcover.to."+l.agent+".ask", "", func(m *nats.Msg) func(context.Context) {
		if !strings.HasPrefix(m.Reply, l.from("answer", "")) {
			return nil
		}
		return func(ctx context.Context) {
			data, err := fn(ctx, m.Data)
			if err := l.nc.PublishMsg(answer(m.Reply, data, err)); err != nil {
				l.log.DebugContext(ctx, "answer", "err", err)
			}
		}
	})
}

// Delivery is a job that was given to this agent.
type Delivery struct {
	Job string
	// Times is how often it was given to this process, this time included. That
	// another process of the agent had it before isn't seen here.
	Times int

	link  *Link
	to    string      // subject that acknowledges
	ended atomic.Bool // Done or Later was called
}

// Jobs calls fn with one job after the other until ctx ends, and then waits for fn.
// To run several jobs at a time, call Jobs several times. As long as fn runs, the job
// is not given to anybody else, unless no server is reached for AckWait.
//
// fn ends with Done or Later. If it returns without, the job is given again after
// AckWait.
func (l *Link) Jobs(ctx context.Context, fn func(context.Context, *Delivery)) error {
	l.begin.Do(func() { l.takeBack(ctx) })
	inbox := inboxOf(l.agent) + "." + nuid.Next()
	msgs := make(chan *nats.Msg, 64)
	sub, err := l.nc.ChanSubscribe(inbox, msgs)
	if err != nil {
		return fmt.Errorf("listen for jobs: %w", err)
	}
	defer func() {
		_ = sub.Unsubscribe()
		for len(msgs) > 0 {
			l.giveBack(<-msgs)
		}
	}()
	wake := make(chan struct{}, 1)
	l.mu.Lock()
	l.wake[wake] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wake, wake)
	}()
	for ctx.Err() == nil {
		// What fails here, since the connection is down, is tried again below.
		_ = l.nc.PublishRequest(l.from("queue", "next"), inbox, nil)
		pause := time.After(pullWait + 2*time.Second)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-pause:
		case m := <-msgs:
			if d := l.delivery(m); d != nil {
				l.run(ctx, d, msgs, fn)
			} else if m.Header.Get("Status") != "408" { // 408: nothing came in time
				select {
				case <-ctx.Done():
				case <-wake:
				case <-time.After(time.Second):
				}
			}
		}
	}
	return nil
}

// takeBack asks that jobs which another process of this agent had are given to this
// one. It tries until somebody answers; if that is a refusal, they come after AckWait. Who
// gets no answer for so long, though somebody listens, needs none any more.
func (l *Link) takeBack(ctx context.Context) {
	for end := time.Now().Add(l.wait); ctx.Err() == nil; {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		m, err := l.nc.RequestWithContext(short, l.from("queue", "begin"), nil)
		cancel()
		if err == nil {
			l.log.DebugContext(ctx, "took jobs back", "answer", string(m.Data))
			return
		}
		if !down(err) && (!errors.Is(err, context.DeadlineExceeded) || time.Now().After(end)) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// delivery reads a message that brings a job; nil if it doesn't.
func (l *Link) delivery(m *nats.Msg) *Delivery {
	job, ok := strings.CutPrefix(m.Subject, jobsSubject+l.agent+".")
	if !ok || !ackOf(m.Reply, l.agent) {
		return nil
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil
	}
	return &Delivery{Job: job, Times: int(min(meta.NumDelivered, 1<<30)), link: l, to: m.Reply}
}

// run runs a job and keeps it for this agent meanwhile. A job that a late answer
// brings is given back.
func (l *Link) run(ctx context.Context, d *Delivery, msgs <-chan *nats.Msg, fn func(context.Context, *Delivery)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx, d)
	}()
	beat := time.NewTicker(l.wait / 3)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return
		case <-beat.C:
			if !d.ended.Load() {
				l.say(word{To: d.to, Say: "+WPI"})
			}
		case m := <-msgs:
			l.giveBack(m)
		}
	}
}

func (l *Link) giveBack(m *nats.Msg) {
	if d := l.delivery(m); d != nil {
		l.say(word{To: d.to, Say: "-NAK"})
	}
}

// say tells JetStream about a job; whether it arrives isn't known.
func (l *Link) say(w word) {
	b, err := json.Marshal(w)
	if err == nil {
		err = l.nc.PublishRequest(l.from("queue", "say"), inboxOf(l.agent)+".none", b)
	}
	if err != nil {
		l.log.Debug("tell NATS about a job", "say", w.Say, "err", err)
	}
}

// ask is say which returns when JetStream has confirmed it. It tries again until ctx
// ends, without a deadline for a minute; and once, for 5 seconds, if ctx has ended:
// the job is over, whatever ended the agent.
func (l *Link) ask(ctx context.Context, w word) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	for {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		_, err := l.nc.RequestWithContext(short, l.from("queue", "say"), b)
		cancel()
		if err == nil {
			return nil
		}
		if l.nc.IsClosed() { // ErrConnectionClosed is also said when another member is tried
			return err
		}
		select {
		case <-ctx.Done():
			if down(err) {
				err = ErrNoServer
			}
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Done takes the job out of the queue, and returns when it is out. It tries until
// ctx ends, without a deadline for a minute, and if ctx has ended once, for up to 5
// seconds. After an error the job may be given again.
func (d *Delivery) Done(ctx context.Context) error {
	d.ended.Store(true)
	if err := d.link.ask(ctx, word{To: d.to, Say: "+ACK"}); err != nil {
		return fmt.Errorf("take job %s out of the queue: %w", d.Job, err)
	}
	return nil
}

// Later gives the job back, to be given again after a time. It tries as Done does.
func (d *Delivery) Later(ctx context.Context, after time.Duration) error {
	d.ended.Store(true)
	if err := d.link.ask(ctx, word{To: d.to, Say: "-NAK", Delay: after}); err != nil {
		return fmt.Errorf("give job %s back: %w", d.Job, err)
	}
	return nil
}
