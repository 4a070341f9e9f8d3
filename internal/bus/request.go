package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// failed is the header of an answer that is an Error, as JSON.
const failed = "Slipcover-Error"

// lastAnswers is how long the answers may take that are under way when all ends.
const lastAnswers = 5 * time.Second

// Serve answers the requests of agents until ctx ends, and returns when the last
// answer was sent. Of the servers that serve, one gets each request. The agent is the one
// that NATS let in; whether it is still known here fn must check. Each call has a
// minute. Up to 64 run at a time, and 16 for one agent, so that none can keep the others
// waiting: what it asks beyond that is refused at once.
func (b *Bus) Serve(ctx context.Context, fn func(ctx context.Context, agent, verb string, data []byte) ([]byte, error)) error {
	s := shares{taken: map[string]int{}}
	return serve(ctx, b.nc, "slipcover.from.*.request.*", group, func(m *nats.Msg) func(context.Context) {
		agent, verb, ok := sender(m, "request")
		if !ok {
			return nil
		}
		reply := func(ctx context.Context, data []byte, err error) {
			if err := b.nc.PublishMsg(answer(m.Reply, data, err)); err != nil {
				b.log.DebugContext(ctx, "answer", "agent", agent, "verb", verb, "err", err)
			}
		}
		if !s.take(agent) {
			b.log.DebugContext(ctx, "refused a request of an agent that asks too much at once", "agent", agent, "verb", verb)
			reply(ctx, nil, errBusy)
			return nil
		}
		return func(ctx context.Context) {
			defer s.give(agent)
			data, err := fn(ctx, agent, verb, m.Data)
			reply(ctx, data, err)
		}
	})
}

var errBusy = &Error{Code: "busy", Text: fmt.Sprintf("%d requests of this agent are being worked on: try again later", handlersOfOne)}

// shares counts what is worked on for each agent.
type shares struct {
	mu    sync.Mutex
	taken map[string]int // guarded by mu; none is 0
}

func (s *shares) take(agent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[agent] >= handlersOfOne {
		return false
	}
	s.taken[agent]++
	return true
}

func (s *shares) give(agent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[agent]--; s.taken[agent] == 0 {
		delete(s.taken, agent)
	}
}

// serve calls fn with each message on a subject until ctx ends, then with those that
// have come already, and works on what it returns, if anything. What isn't done
// lastAnswers later is cut off: who asked asks again.
func serve(ctx context.Context, nc *nats.Conn, subject, queue string, fn func(*nats.Msg) func(context.Context)) error {
	var running sync.WaitGroup
	slots := make(chan struct{}, handlers)
	done := make(chan struct{})
	all, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	handle := func(m *nats.Msg) {
		work := fn(m)
		if work == nil {
			return
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(all, requestTimeout)
			defer cancel()
			work(ctx)
		})
	}
	subscribe := nc.Subscribe
	if queue != "" {
		subscribe = func(subject string, h nats.MsgHandler) (*nats.Subscription, error) {
			return nc.QueueSubscribe(subject, queue, h)
		}
	}
	sub, err := subscribe(subject, handle)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", subject, err)
	}
	sub.SetClosedHandler(func(string) { close(done) })
	<-ctx.Done()
	defer time.AfterFunc(lastAnswers, cut).Stop()
	if err := sub.Drain(); err == nil {
		select {
		case <-done:
		case <-all.Done():
			_ = sub.Unsubscribe() // it is being drained, so it may be gone
		}
	}
	running.Wait()
	return nil
}

// answer is the message that answers a request.
func answer(to string, data []byte, err error) *nats.Msg {
	m := nats.NewMsg(to)
	if err == nil && len(data) > MaxPayload {
		err = fmt.Errorf("the answer has %d bytes; at most %d can be sent", len(data), MaxPayload)
	}
	if err == nil {
		m.Data = data
		return m
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Text: err.Error()}
	}
	m.Header.Set(failed, "1")
	m.Data, _ = json.Marshal(Error{Code: e.Code, Text: fmt.Sprintf("%.10000s", e.Text)})
	return m
}

// answered returns what answer was given.
func answered(m *nats.Msg) ([]byte, error) {
	if m.Header.Get(failed) == "" {
		return m.Data, nil
	}
	var e Error
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return nil, &e
}

// down says that NATS has nobody for a message, or isn't reached.
func down(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrDisconnected)
}

// Ask asks an agent. If it isn't connected the error is ErrNoAgent, at once; what
// the agent's function returned as an error is an *Error. Without a deadline it
// waits for a minute.
func (b *Bus) Ask(ctx context.Context, agent string, data []byte) ([]byte, error) {
	if err := checkName("agent", agent); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	reply := "slipcover.from." + agent + ".answer." + nuid.Next()
	sub, err := b.nc.SubscribeSync(reply)
	if err != nil {
		return nil, fmt.Errorf("ask agent %s: %w", agent, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := b.nc.PublishRequest("slipcover.to."+agent+".ask", reply, data); err != nil {
		return nil, fmt.Errorf("ask agent %s: %w", agent, err)
	}
	m, err := sub.NextMsgWithContext(ctx)
	if errors.Is(err, nats.ErrNoResponders) {
		err = ErrNoAgent
	}
	if err != nil {
		return nil, fmt.Errorf("ask agent %s: %w", agent, err)
	}
	return answered(m)
}

// limited sets a deadline if there is none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}
