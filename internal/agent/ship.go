package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
)

const (
	baseEvery = 10 * time.Second // that it is looked whether there is a backup to ship from
	// otherEvery is how often it is tried again to ship what another machine ships.
	otherEvery = 5 * time.Minute
)

// shipping is what the agent ships beside its jobs. What the servers want last is kept in a
// file, so that it is shipped too when the agent starts and none of them answers.
type shipping struct {
	path string

	mu      sync.Mutex
	wanted  []job.Ship // as in the file; guarded by mu, like what follows
	changed chan struct{}
	at      map[string]*shipped // by instance
}

// shipped is how one instance is doing.
type shipped struct {
	shipper *ship.Shipper // nil while there is none
	fault   string
	since   time.Time // of the fault
}

// shipFile is the file of what is wanted.
type shipFile struct {
	Format int        `json:"format"`
	Ship   []job.Ship `json:"ship"`
}

const shipFormat = 1

func loadShipping(path string) (*shipping, error) {
	s := &shipping{path: path, changed: make(chan struct{}), at: map[string]*shipped{}}
	var f shipFile
	_, err := durable.ReadJSON(path, &f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("what this agent is to ship: remove the file, and its server says it again: %w", err)
	case f.Format == shipFormat:
		s.wanted = f.Ship
	}
	return s, nil
}

// want notes what is to be shipped.
func (s *shipping) want(list []job.Ship) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(list, s.wanted) {
		return nil
	}
	s.wanted = list
	close(s.changed)
	s.changed = make(chan struct{})
	return durable.WriteJSON(s.path, 0o600, shipFile{shipFormat, list})
}

// now returns what is to be shipped, and what is closed when that changes.
func (s *shipping) now() ([]job.Ship, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted, s.changed
}

// set notes who ships an instance, nil if nobody does and nobody is to.
func (s *shipping) set(id string, to *shipped) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, id)
	if to != nil {
		s.at[id] = to
	}
}

// failed notes why an instance isn't shipped, and reports whether that is news.
func (s *shipping) failed(id, fault string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.at[id]
	if was != nil && was.shipper == nil && was.fault == fault {
		return false
	}
	now := &shipped{fault: fault, since: time.Now().UTC()}
	if was != nil && !was.since.IsZero() {
		now.since = was.since
	}
	s.at[id] = now
	return true
}

// seen is what a hello says of an instance; nil if it isn't shipped.
func (s *shipping) seen(id string) *job.Shipping {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.at[id]
	if at == nil {
		return nil
	}
	if at.shipper == nil {
		return &job.Shipping{Error: at.fault, ErrorSince: at.since}
	}
	st := at.shipper.Status()
	if st.Shipped.IsZero() { // it has just begun, and is where the last one was
		st.Shipped = st.Behind
	}
	return &job.Shipping{Shipped: st.Shipped, LagSeconds: st.LagSeconds, LagBytes: st.LagBytes, Error: clip(oneLine(st.Error), maxFault), ErrorSince: st.ErrorSince,
		Chain: st.Chain.Time(), Window: st.Window}
}

// wantsShipped is what is to be shipped, by the settings and the answer to a hello.
func (a *agent) wantsShipped(reply *job.HelloReply) []job.Ship {
	list := slices.DeleteFunc(slices.Clone(reply.Ship), func(w job.Ship) bool { return !manifest.ValidInstance(w.RepoName) || w.Instance == "" })
	if a.o.Ship && reply.Node != "" && !slices.ContainsFunc(list, func(w job.Ship) bool { return w.Instance == reply.Node }) {
		list = append(list, job.Ship{Instance: reply.Node, RepoName: reply.NodeName})
	}
	return list
}

// ships ships what is wanted, until ctx ends.
func (a *agent) ships(ctx context.Context) {
	type at struct {
		want job.Ship
		stop context.CancelFunc
		done chan struct{}
	}
	running := map[string]at{}
	for {
		wanted, changed := a.shipping.now()
		if ctx.Err() != nil {
			wanted = nil
		}
		for id, r := range running {
			if !slices.Contains(wanted, r.want) {
				r.stop()
				<-r.done
				delete(running, id)
			}
		}
		if ctx.Err() != nil {
			return
		}
		for _, w := range wanted {
			if _, ok := running[w.Instance]; ok {
				continue
			}
			one, stop := context.WithCancel(ctx)
			r := at{w, stop, make(chan struct{})}
			running[w.Instance] = r
			go func() {
				defer close(r.done)
				a.shipOne(one, w)
			}()
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// shipOne ships an instance until ctx ends, whatever happens.
func (a *agent) shipOne(ctx context.Context, w job.Ship) {
	defer a.shipping.set(w.Instance, nil)
	for wait := firstWait; ; {
		began := time.Now()
		err := a.shipNow(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxWait {
			wait = firstWait
		}
		wait = min(2*wait, maxWait)
		log := a.log.WarnContext
		switch {
		case errors.Is(err, ship.ErrNoBase), errors.Is(err, repo.ErrKeyGone), errors.Is(err, repo.ErrNoRepository):
			wait, log = baseEvery, a.log.InfoContext
		case errors.Is(err, ship.ErrOther):
			wait = otherEvery
		}
		if fault := faultOf(err); a.shipping.failed(w.Instance, fault) {
			log(ctx, "not shipped; it is tried again", "instance", w.RepoName, "err", fault)
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// errNoPlace says that an agent can't ship.
var errNoPlace = errors.New("what is shipped goes to the agent's own repository, since there is a token for an account of the server's callers only while one of their jobs is at work, " +
	"and this agent has none: give it the setting repository")

// shipNow ships an instance until ctx ends, or something is wrong that trying again a moment
// later doesn't mend.
func (a *agent) shipNow(ctx context.Context, w job.Ship) (err error) {
	if a.o.RepositoryURL == "" {
		return errNoPlace
	}
	r, done, err := a.o.OpenRepo(ctx, Open{})
	if err != nil {
		return err
	}
	defer done()
	n, err := a.shippedNode(ctx, w.Instance)
	if err != nil {
		return err
	}
	o := ship.Options{Repo: r, Node: n, Instance: w.RepoName, StateDir: a.o.StateDir, Tool: a.o.Version, Interval: a.o.ShipInterval, KeepMoments: w.KeepMoments, Protect: a.o.ImmutableFor,
		Log: a.log.With("instance", w.RepoName)}
	if o.KeepMoments == 0 {
		o.KeepMoments = a.o.KeepMoments
	}
	s, err := ship.Open(ctx, o)
	if err != nil {
		return err
	}
	a.log.InfoContext(ctx, "shipping", "instance", w.RepoName, "repository", r.URL())
	a.shipping.set(w.Instance, &shipped{shipper: s})
	told := s.Tell()
	err = s.Run(ctx)
	a.shipping.set(w.Instance, &shipped{fault: "it is being begun anew", since: time.Now().UTC()})
	told()
	return errors.Join(err, s.Close())
}

// shippedNode is the CouchDB of an instance: the one that was there before, unless the agent
// made it. A server said so, now or before the agent's start.
func (a *agent) shippedNode(ctx context.Context, id string) (*node.Node, error) {
	locate := a.o.Locate
	if i, ok := a.made.get(id); ok {
		locate = i.locate
	}
	n, err := locate(ctx)
	if err == nil && n.Version == "" {
		n.Version = a.versionOf(ctx, id, n)
	}
	return n, err
}

func shippingPath(dir string) string { return filepath.Join(dir, "ship.json") }
