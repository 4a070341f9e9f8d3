package server

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Config configures a Server. Bus and Log must be there.
type Config struct {
	Bus *bus.Bus
	Log *slog.Logger

	// Quota is what a project may have that has no quota of its own; -1 is no limit.
	Quota job.Quota
	// OwnSwift puts backups into the Swift account of whoever asks for them, into
	// Container, if his token names one. Otherwise they go where the agent's
	// configuration says.
	OwnSwift  bool
	Container string // database_backups if empty
	// Keystone makes the trusts by which schedules act for whoever made them, with
	// OwnSwift. Its service user must have a password. Without it, scheduled backups go
	// where the agent's configuration says.
	Keystone *access.Keystone
	// Recipients (age) encrypt repositories that are made in such accounts. Without any,
	// they are not encrypted.
	Recipients []string
	// Version is the datastore version that new instances have by default: 3.5 if empty.
	Version string
	// Datastores are the names of further ones that are shown, and have nothing.
	Datastores []string

	// Metrics, if not nil, gets the metrics of the catalog.
	Metrics prometheus.Registerer
	// LocalHeartbeats lets schedules ask URLs of this machine: where whoever makes them is
	// who runs it.
	LocalHeartbeats bool
	// Client asks heartbeat URLs; nil is one with a timeout of 10 s that asks nothing of
	// the link.
	Client *http.Client

	// Census is a file in which it is kept how much the catalog has, to notice at the next
	// start if some of it is lost; empty where the catalog is a cluster's.
	Census string

	// LookUp finds the addresses of a heartbeat's host; nil asks the system's resolver.
	LookUp func(ctx context.Context, network, host string) ([]netip.Addr, error)

	// For tests: the clock, a watch that nobody sets (how long the server has been running;
	// that of the clock's monotonic readings if nil), and the lengths of time below.
	Now     func() time.Time
	Watch   func() time.Duration
	Every   time.Duration // between an agent's hellos: 10 s
	Offline time.Duration // an agent not heard of for so long is offline: 90 s
	Lost    time.Duration // a running job whose agent is offline for so long has failed: 6 h
	Sweep   time.Duration // between two sweeps: 10 s
	Tick    time.Duration // between two looks at the schedules: 1 s
}

const defaultVersion = "3.5"

// Server is one of the servers of a service.
type Server struct {
	cfg Config
	log *slog.Logger

	instances  *shelf[job.Instance]
	backups    *shelf[job.Backup]
	jobs       *shelf[job.Job]
	agents     *shelf[job.Agent]
	schedules  *shelf[job.Schedule]
	sets       *shelf[job.Set]
	strategies *shelf[job.Strategy]
	quotas     *shelf[job.Quota]
	restores   *shelf[job.Restore]
	samples    *shelf[job.Samples]

	index    *backupIndex
	setIndex *setIndex
	live     *liveAgents
	met      *metrics
	// changes rings whenever what this server knows does.
	changes signal

	worked     worked // what was worked out of the catalog
	specs      specs
	seed       maphash.Seed
	makings    [64]sync.Mutex // see alone
	census     keeper
	sweeping   sync.Mutex     // one sweep at a time
	requeued   time.Duration  // by the watch, when jobs were last put into the queue again; guarded by sweeping
	sampled    time.Duration  // by the watch, when samples were last looked at; guarded by sweeping
	background sync.WaitGroup // heartbeats that are being sent, trusts that are being ended
}

// New opens the catalog. Run must be called for it to be filled.
func New(ctx context.Context, cfg Config) (*Server, error) {
	cfg.Container = cmp.Or(cfg.Container, "database_backups")
	cfg.Version = cmp.Or(cfg.Version, defaultVersion)
	cfg.Every = cmp.Or(cfg.Every, 10*time.Second)
	cfg.Offline = cmp.Or(cfg.Offline, 90*time.Second)
	cfg.Lost = cmp.Or(cfg.Lost, 6*time.Hour)
	cfg.Sweep = cmp.Or(cfg.Sweep, 10*time.Second)
	cfg.Tick = cmp.Or(cfg.Tick, time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Watch == nil {
		began := cfg.Now()
		cfg.Watch = func() time.Duration { return cfg.Now().Sub(began) }
	}
	if cfg.Client == nil {
		cfg.Client = heartbeatClient(cfg.LocalHeartbeats)
	}
	if cfg.LookUp == nil {
		cfg.LookUp = net.DefaultResolver.LookupNetIP
	}
	s := &Server{cfg: cfg, log: cfg.Log, index: newBackupIndex(), setIndex: newSetIndex(), live: newLiveAgents(cfg.Watch), seed: maphash.MakeSeed()}
	s.met = newMetrics(s)
	var errs [10]error
	s.instances, errs[0] = openShelf[job.Instance](ctx, cfg.Bus, "instances", cfg.Log, cfg.Watch, nil)
	s.backups, errs[1] = openShelf(ctx, cfg.Bus, "backups", cfg.Log, cfg.Watch, s.index.changed)
	s.jobs, errs[2] = openShelf(ctx, cfg.Bus, "jobs", cfg.Log, cfg.Watch, s.live.jobChanged)
	s.agents, errs[3] = openShelf(ctx, cfg.Bus, "agents", cfg.Log, cfg.Watch, s.live.agentChanged)
	s.schedules, errs[4] = openShelf[job.Schedule](ctx, cfg.Bus, "schedules", cfg.Log, cfg.Watch, nil)
	s.strategies, errs[5] = openShelf[job.Strategy](ctx, cfg.Bus, "strategies", cfg.Log, cfg.Watch, nil)
	s.quotas, errs[6] = openShelf[job.Quota](ctx, cfg.Bus, "quotas", cfg.Log, cfg.Watch, nil)
	s.restores, errs[7] = openShelf[job.Restore](ctx, cfg.Bus, "restores", cfg.Log, cfg.Watch, nil)
	s.sets, errs[8] = openShelf(ctx, cfg.Bus, "sets", cfg.Log, cfg.Watch, s.setIndex.changed)
	s.samples, errs[9] = openShelf[job.Samples](ctx, cfg.Bus, "samples", cfg.Log, cfg.Watch, nil)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	s.backups.share = shareStrings
	s.index.kept = func(id string) *job.Backup { return s.backups.docs[id].doc } // index.changed has the lock
	for _, t := range s.tables() {
		t.tell(s.changes.ring)
	}
	s.live.ring = s.changes.ring
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.met); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run follows the catalog, answers agents, and does what is due, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range s.tables() {
		g.Go(func() error { return t.follow(ctx) })
	}
	g.Go(func() error {
		if err := s.WaitReady(ctx); err != nil {
			return err
		}
		s.compare(ctx)
		return s.cfg.Bus.Serve(ctx, s.answer)
	})
	g.Go(func() error {
		if err := s.WaitReady(ctx); err != nil {
			return err
		}
		s.keepBusy(ctx)
		return nil
	})
	g.Go(func() error {
		if err := s.WaitReady(ctx); err != nil {
			return err
		}
		s.workAhead(ctx)
		return nil
	})
	err := g.Wait()
	s.background.Wait()
	s.noteCensus(context.WithoutCancel(ctx), true)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// OwnSwift reports whether backups go into the Swift accounts of whoever asks for them.
func (s *Server) OwnSwift() bool { return s.cfg.OwnSwift }

// keepBusy sweeps and fires schedules.
func (s *Server) keepBusy(ctx context.Context) {
	sweep, tick := time.NewTicker(s.cfg.Sweep), time.NewTicker(s.cfg.Tick)
	defer sweep.Stop()
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			err = s.Sweep(ctx)
			s.noteCensus(ctx, false)
		case <-tick.C:
			err = s.Tick(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what was due could not be done, and is tried again", "err", err)
		}
	}
}

// Ready says in an error what the server waits for before it can serve, or what of its
// catalog is lost. It is for who runs the server.
func (s *Server) Ready() error {
	if name := s.unread(); name != "" {
		return refuse(Unavailable, "the catalog is being read (%s)", name)
	}
	if err := s.damaged(); err != nil {
		return err
	}
	return s.cfg.Bus.Connected()
}

// Loaded refuses as Unavailable until the catalog is in memory. Until then no request may
// be answered: of half of the catalog, lists are short, quotas free, and the children of
// a backup that is deleted unknown.
func (s *Server) Loaded() error {
	if s.unread() != "" {
		return refuse(Unavailable, "The server has just started and is reading its catalog: try again in a moment.")
	}
	return nil
}

// unread names a table that is not in memory yet; "" if all are.
func (s *Server) unread() string {
	for _, t := range s.tables() {
		select {
		case <-t.isReady():
		default:
			return t.title()
		}
	}
	return ""
}

// WaitReady returns when the catalog is in memory.
func (s *Server) WaitReady(ctx context.Context) error {
	for _, t := range s.tables() {
		select {
		case <-t.isReady():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// anyShelf is what shelves of all types can do.
type anyShelf interface {
	title() string
	isReady() <-chan struct{}
	follow(context.Context) error
	tell(ring func()) // of each change; before follow
	count() (counted, bool)
	lost() int
}

func (s *Server) tables() []anyShelf {
	return []anyShelf{s.instances, s.backups, s.jobs, s.agents, s.schedules, s.sets, s.strategies, s.quotas, s.restores, s.samples}
}

// now is without the reading of the monotonic clock, which the table doesn't keep: with
// it times would be in one order here and in another one read back, once the clock was
// set.
func (s *Server) now() time.Time { return s.cfg.Now().UTC().Round(0) }

// newID returns a UUID of version 7: ids sort by the time of their making.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// mine reports whether a document of a project may be seen.
func mine(who *access.Caller, project string) bool { return project == who.Project }

// discard is a log that nobody reads.
var discard = slog.New(slog.DiscardHandler)
