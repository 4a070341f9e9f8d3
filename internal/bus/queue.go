package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	jobsStream  = "SLIPCOVER_JOBS"
	jobsSubject = "slipcover.jobs."
	// pullWait is how long JetStream keeps an agent's request for a job.
	pullWait = 20 * time.Second
	// group is the queue group of servers: one of them gets each request.
	group = "slipcover"
)

// openQueue makes the stream of jobs if missing, and begins to pass on what agents
// say about theirs.
func (b *Bus) openQueue(ctx context.Context) error {
	err := b.makeStream(ctx, jetstream.StreamConfig{
		Name:        jobsStream,
		Description: "jobs of Slipcover's agents",
		Subjects:    []string{jobsSubject + "*.*"},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
	})
	if err != nil {
		return fmt.Errorf("make the queue of jobs: %w", err)
	}
	if _, err := b.nc.QueueSubscribe("slipcover.from.*.queue.*", group, b.passOn); err != nil {
		return fmt.Errorf("listen to agents: %w", err)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return b.nc.FlushWithContext(ctx)
}

// Enqueue puts a job into an agent's queue. While the job is in there, waiting or
// running, putting it again changes nothing. The agent need not be connected, and
// need not have been added yet.
func (b *Bus) Enqueue(ctx context.Context, agent, job string) error {
	if err := checkJob(agent, job); err != nil {
		return err
	}
	_, err := write(ctx, func() (uint64, error) {
		_, err := b.js.Publish(ctx, jobsSubject+agent+"."+job, nil, jetstream.WithExpectLastSequencePerSubject(0))
		return 0, err
	})
	if err != nil && !wrongRevision(err) {
		return fmt.Errorf("put job %s into the queue of agent %s: %w", job, agent, err)
	}
	return nil
}

func checkJob(agent, job string) error {
	if err := checkName("agent", agent); err != nil {
		return err
	}
	return checkName("job", job)
}

// AddAgent makes the queue of an agent deliverable to it. It can be repeated, and
// servers do for all their agents when they start: then an agent works again whose
// part in NATS was lost.
func (b *Bus) AddAgent(ctx context.Context, agent string) error {
	if err := checkName("agent", agent); err != nil {
		return err
	}
	err := again(ctx, leaderWait, unanswered, func() error {
		_, err := b.js.CreateOrUpdateConsumer(ctx, jobsStream, jetstream.ConsumerConfig{
			Durable:       agent,
			FilterSubject: jobsSubject + agent + ".*",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       b.opts.AckWait,
			MaxDeliver:    -1,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("add agent %s: %w", agent, err)
	}
	return nil
}

// RemoveAgent takes an agent's rights and empties its queue. The embedded server
// refuses its users from now on and closes their connections. On an existing
// cluster that can't be done from here: the users stay until the account's operator
// revokes them (their public keys are logged), and functions given to Serve must
// refuse agents that they don't know. It can be repeated if it fails.
func (b *Bus) RemoveAgent(ctx context.Context, agent string) error {
	if err := checkName("agent", agent); err != nil {
		return err
	}
	if err := b.revoke(ctx, agent); err != nil {
		return fmt.Errorf("remove agent %s: %w", agent, err)
	}
	err := b.js.DeleteConsumer(ctx, jobsStream, agent)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("remove agent %s: %w", agent, err)
	}
	stream, err := b.js.Stream(ctx, jobsStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(jobsSubject+agent+".*"))
	}
	if err != nil {
		return fmt.Errorf("empty the queue of agent %s: %w", agent, err)
	}
	return nil
}

// word is what an agent says of a job it was given.
type word struct {
	To  string `json:"to"`  // reply subject of the job's message
	Say string `json:"say"` // what JetStream understands: +ACK, +WPI or -NAK
	// Delay, in nanoseconds, is for -NAK.
	Delay time.Duration `json:"delay,omitempty"`
}

// passOn sends a request of an agent on to JetStream, which answers the agent
// itself. What and where it sends is decided here, not by the agent.
func (b *Bus) passOn(m *nats.Msg) {
	agent, what, ok := sender(m, "queue")
	if !ok {
		return
	}
	subject, data := "", []byte(nil)
	switch what {
	case "next":
		subject = "$JS.API.CONSUMER.MSG.NEXT." + jobsStream + "." + agent
		data = fmt.Appendf(nil, `{"batch":1,"expires":%d}`, pullWait)
	case "check":
		subject = "$JS.API.CONSUMER.INFO." + jobsStream + "." + agent
	case "begin":
		subject = "$JS.API.CONSUMER.RESET." + jobsStream + "." + agent
	case "say":
		var w word
		if json.Unmarshal(m.Data, &w) != nil || !ackOf(w.To, agent) {
			return
		}
		subject = w.To
		switch w.Say {
		case "+ACK", "+WPI":
			data = []byte(w.Say)
		case "-NAK":
			data = fmt.Appendf(nil, `-NAK {"delay":%d}`, max(w.Delay, 0))
		default:
			return
		}
	default:
		return
	}
	if err := b.nc.PublishRequest(subject, m.Reply, data); err != nil {
		b.log.Debug("pass on to NATS", "agent", agent, "err", err)
	}
}

// sender returns the agent that sent a message to slipcover.from.<agent>.<kind>.<what>.
// NATS made sure of the agent, but not of the reply subject, which must be in the
// agent's own inbox: an answer is sent with all rights of the service.
func sender(m *nats.Msg, kind string) (agent, what string, ok bool) {
	p := strings.Split(m.Subject, ".")
	if len(p) != 5 || p[0] != "slipcover" || p[1] != "from" || p[3] != kind || !validName(p[2]) || !validName(p[4]) {
		return "", "", false
	}
	inbox, ok := strings.CutPrefix(m.Reply, inboxOf(p[2])+".")
	for _, token := range strings.Split(inbox, ".") {
		ok = ok && validName(token)
	}
	return p[2], p[4], ok
}

func inboxOf(agent string) string { return "slipcover.to." + agent + ".inbox" }

// ackOf says whether a subject acknowledges a job of the agent. There are two forms:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<sequence>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.… (NATS 2.14, ADR-15)
//
// A subject that could be read as both is neither.
func ackOf(subject, agent string) bool {
	p := strings.Split(subject, ".")
	if len(p) < 9 || p[0] != "$JS" || p[1] != "ACK" {
		return false
	}
	for _, token := range p[2:] {
		if !validName(token) {
			return false
		}
	}
	if len(p) == 9 {
		return p[2] == jobsStream && p[3] == agent
	}
	return len(p) >= 11 && p[2] != jobsStream && p[4] == jobsStream && p[5] == agent
}
