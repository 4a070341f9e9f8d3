package servertest

import (
	"context"
	"encoding/json"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Keys are an agent's own: one for the bus, and one for what is sealed to it.
type Keys struct {
	Seed, Public string
	Identity     *age.X25519Identity
}

// NewKeys makes the keys of an agent.
func NewKeys(t TB) Keys {
	t.Helper()
	var k Keys
	var err error
	if k.Seed, k.Public, err = bus.NewKey(); err != nil {
		t.Fatalf("key: %v", err)
	}
	if k.Identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatalf("key: %v", err)
	}
	return k
}

// Recipient is whom things are sealed to.
func (k Keys) Recipient() string { return k.Identity.Recipient().String() }

// Dial connects an agent until the test's end.
func Dial(t TB, o bus.LinkOptions) *bus.Link {
	t.Helper()
	link, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatalf("link: %v", err)
	}
	t.Cleanup(link.Close)
	return link
}

// Ask sends a server a message, and reads the answer into what out points to, if not nil.
func Ask(ctx context.Context, link *bus.Link, verb string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	reply, err := link.Request(ctx, verb, text)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(reply, out)
}

// Work claims an agent's jobs, one after the other until the test's end, and sends what
// do returns as the last report of each. Without ok, a job stays as it is.
func Work(t TB, link *bus.Link, session string, do func(context.Context, *job.Job) (r job.Report, ok bool)) {
	work := func(ctx context.Context, d *bus.Delivery) {
		var claim job.ClaimReply
		if err := Ask(ctx, link, job.VerbClaim, job.Claim{Session: session, Job: d.Job}, &claim); err != nil {
			_ = d.Later(ctx, 50*time.Millisecond)
			return
		}
		if claim.Verdict == job.Go {
			r, ok := do(ctx, claim.Job)
			if !ok {
				return
			}
			r.Session, r.Job = session, d.Job
			if err := Ask(ctx, link, job.VerbReport, r, nil); err != nil && ctx.Err() == nil {
				t.Errorf("report: %v", err)
			}
		}
		_ = d.Done(ctx)
	}
	Background(t, func(ctx context.Context) error { return link.Jobs(ctx, work) })
}
