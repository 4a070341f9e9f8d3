package server

import (
	"context"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/job"
)

// Shipping is how the shipping of an instance is doing, as far as its agent says.
type Shipping struct {
	job.Shipping
	// Reported says that the agent ships it, or tries to, as it said lately; else the rest is
	// what it said last, if it did.
	Reported bool
	// Newest is up to when all is stored, by this server's clock; zero if that isn't known.
	Newest time.Time
}

// Shipping returns how the shipping of an instance is doing; nil if it isn't to be shipped and
// its agent doesn't.
func (s *Server) Shipping(i *job.Instance) *Shipping {
	out := &Shipping{}
	var said *job.Shipping
	if a := s.agents.have(i.Agent); a != nil {
		hello, at, online := s.lastHeard(a)
		for _, seen := range hello.Instances {
			if seen.Ship != nil && (seen.Instance == i.ID || seen.Instance == "" && !i.Made) {
				said, out.Reported = seen.Ship, online
			}
		}
		if said != nil {
			out.Shipping = *said
			if !online { // nobody knows what was committed since
				out.LagSeconds += max(0, s.now().Sub(at).Seconds())
			}
			if !said.Chain.IsZero() && !said.Shipped.IsZero() {
				out.Newest = at.Add(-time.Duration(said.LagSeconds * float64(time.Second)))
			}
		}
	}
	if said == nil && !i.Ship {
		return nil
	}
	return out
}

// SetShipping says whether an instance is to be shipped, and for how long what was shipped is
// kept: a calendar.Span, or "" for what its agent's settings say.
func (s *Server) SetShipping(ctx context.Context, who *access.Caller, id string, on bool, keep string) (*job.Instance, error) {
	ctx = whole(ctx)
	i, err := s.Instance(ctx, who, id)
	if err != nil {
		return nil, err
	}
	keep = strings.TrimSpace(keep)
	if span, err := calendar.ParseSpan(keep); keep != "" && (err != nil || span.IsZero()) {
		return nil, refuse(Invalid, "keep_moments must be a time such as 14d, 12h or 2w.")
	}
	if a := s.agents.have(i.Agent); on && a != nil {
		if hello, online := s.hello(a); online && hello.Repository.URL == "" {
			return nil, refuse(Conflict, "Instance %s can't be shipped: what is shipped goes to the repository of its agent, which has none. Give it the setting repository.", id)
		}
	}
	return s.instances.update(ctx, id, func(i *job.Instance) error {
		if i.Ship == on && i.KeepMoments == keep {
			return errSame
		}
		if on && !i.Ship {
			i.ShipSince = s.now()
		}
		i.Ship, i.KeepMoments, i.Updated = on, keep, s.now()
		return nil
	})
}

// toShip is what an agent is told of an instance that it is to ship.
func toShip(i *job.Instance) job.Ship {
	keep, _ := calendar.ParseSpan(i.KeepMoments)
	return job.Ship{Instance: i.ID, RepoName: i.RepoName, KeepMoments: keep.Longest()}
}

// sameShipping compares what is worth storing at once: whether it is shipped, and well.
func sameShipping(a, b *job.Shipping) bool {
	if a == nil || b == nil {
		return a == b
	}
	return (a.Error == "") == (b.Error == "") && a.Chain.Equal(b.Chain)
}

// tidyShipping brings what an agent says into bounds.
func tidyShipping(p *job.Shipping) {
	if p == nil {
		return
	}
	tidy(maxSentence, &p.Error)
	tidyNumbers(&p.LagBytes)
	p.LagSeconds = min(max(p.LagSeconds, 0), maxLag)
	for _, t := range []*time.Time{&p.Shipped, &p.ErrorSince, &p.Chain, &p.Window} {
		if y := t.Year(); y < 0 || y > 9999 { // which JSON doesn't have
			*t = time.Time{}
		}
	}
}

// maxLag bounds what an agent may say of its lag, in seconds: a hundred years.
const maxLag = 100 * 366 * 24 * 3600
