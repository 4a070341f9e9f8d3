package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// pace says how soon it is seen that NATS doesn't do its work.
type pace struct {
	// check is how often a server looks, and linkCheck an agent, of which there can be a thousand.
	check, linkCheck time.Duration
	timeout          time.Duration // of a look
	// unwell is how long a check may fail before Connected says so. A cluster that has lost
	// a member chooses who leads within some 10 seconds.
	unwell time.Duration
	// leave is how long before another member is tried, or a new start; each further time in a
	// row it takes twice as long, up to leaveAtMost, since then it isn't the member.
	leave, leaveAtMost time.Duration
	ping               time.Duration // how often the connection is looked at
}

// paceOf is the usual pace, so many times faster.
func paceOf(hurry int) pace {
	d := func(t time.Duration) time.Duration { return t / time.Duration(max(hurry, 1)) }
	return pace{
		check: d(3 * time.Second), linkCheck: d(10 * time.Second), timeout: d(5 * time.Second), unwell: d(10 * time.Second),
		leave: d(15 * time.Second), leaveAtMost: d(4 * time.Minute), ping: d(20 * time.Second),
	}
}

// errLost is of a NATS that was started over an empty folder: what it says is true, and
// nothing can be stored there.
var errLost = errors.New("NATS has lost what was stored: bring its state back, or start this server anew to begin with nothing")

// health looks whether NATS does its work. That a connection stands doesn't say so: a
// member of a cluster that is cut off from the others keeps its connections, and
// answers their pings.
type health struct {
	nc   *nats.Conn
	log  *slog.Logger
	pace pace
	// every is how often is asked.
	every time.Duration
	// ask sends a request which only a part of the cluster answers that has a leader.
	ask func(context.Context) (*nats.Msg, error)
	// embed is asked too; nil on an existing cluster.
	embed *embedded

	mu   sync.Mutex
	well time.Time // guarded by mu; the last good answer, or the start
	err  error     // guarded by mu; of the last check
}

// start watches until stop is called, which waits for the end of that: JetStream must not
// be started anew in a folder that is another's.
func (h *health) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() { h.watch(ctx) })
	return func() {
		cancel()
		watching.Wait()
	}
}

// watch looks until ctx ends. It moves to another member from one that doesn't answer,
// and starts the JetStream of an embedded server anew that can't write.
func (h *health) watch(ctx context.Context) {
	var bad time.Time // the first bad check in a row; zero: the last was good
	patience := h.pace.leave
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if h.nc.Status() != nats.CONNECTED { // the connection sees to itself
			bad = time.Time{}
			continue
		}
		begin := time.Now()
		err := h.check(ctx)
		if err == nil || errors.Is(err, errLost) { // no other member has it
			bad, patience = time.Time{}, h.pace.leave
			continue
		}
		member := h.nc.ConnectedUrlRedacted()
		h.log.DebugContext(ctx, "NATS doesn't answer", "member", member, "err", err)
		if bad.IsZero() {
			bad = begin
		}
		if time.Since(bad) < patience || h.nc.Status() != nats.CONNECTED {
			continue
		}
		switch {
		case h.embed != nil && h.embed.healthy() != nil:
			h.log.WarnContext(ctx, "NATS can't write any more; starting its JetStream anew", "err", err)
			if err := h.embed.renew(); err != nil {
				h.log.WarnContext(ctx, "JetStream doesn't start; it is tried again", "err", err)
			}
		case len(h.nc.Servers()) > 1:
			h.log.WarnContext(ctx, "this member of the NATS cluster doesn't answer; trying another", "member", member, "err", err)
			if err := h.nc.ForceReconnect(); err != nil {
				h.log.DebugContext(ctx, "try another member", "err", err)
			}
		default:
			continue
		}
		bad, patience = time.Time{}, min(2*patience, h.pace.leaveAtMost)
	}
}

func (h *health) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.pace.timeout)
	defer cancel()
	m, err := h.ask(ctx)
	if err == nil {
		var answer struct {
			Error struct {
				Code    int
				ErrCode jetstream.ErrorCode `json:"err_code"`
				Text    string              `json:"description"`
			}
		}
		// Any answer but "not now" comes from who can tell.
		if err = json.Unmarshal(m.Data, &answer); err == nil && answer.Error.ErrCode == jetstream.JSErrCodeStreamNotFound {
			err = errLost
		} else if err == nil && answer.Error.Code >= 500 {
			err = errors.New(answer.Error.Text)
		}
	}
	if err == nil && h.embed != nil {
		err = h.embed.healthy()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err = err; err == nil {
		h.well = time.Now()
	}
	return err
}

// connected returns why NATS can't be used now; nil if it can.
func (h *health) connected() error {
	if s := h.nc.Status(); s != nats.CONNECTED {
		return fmt.Errorf("the connection to NATS is %s", strings.ToLower(s.String()))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(h.err, errLost) {
		return h.err
	}
	if quiet := time.Since(h.well); h.err != nil && quiet >= h.pace.unwell {
		return fmt.Errorf("NATS has not answered for %v: %w", quiet.Round(time.Second), h.err)
	}
	return nil
}
