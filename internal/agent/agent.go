package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

// Link is what an agent needs of the bus; *bus.Link is one.
type Link interface {
	Request(ctx context.Context, verb string, data []byte) ([]byte, error)
	Jobs(ctx context.Context, fn func(context.Context, *bus.Delivery)) error
	Answer(ctx context.Context, fn func(context.Context, []byte) ([]byte, error)) error
	Streams(ctx context.Context, fn func(context.Context, []byte, io.Writer) error) error
	// Refused is closed once the credentials count no more.
	Refused() <-chan struct{}
	Close()
}

// ErrRemoved is of an agent that servers have removed, or don't know any more.
var ErrRemoved = errors.New("the server has removed this agent, or doesn't know it any more")

// Open says which repository a job needs.
type Open struct {
	// Repository is that of the job; zero is the one of the agent's configuration.
	Repository job.Repository
	// Getenv has the log-in of the job: OS_STORAGE_URL and OS_AUTH_TOKEN and nothing
	// else. It is nil where the agent's own is to be used.
	Getenv func(string) string
	// Make makes the repository, and the place for it, if there is none.
	Make bool
	// Look says that it is opened to be looked into: for long, and with little in memory.
	Look bool
}

// Place is a further repository of the configuration.
type Place struct {
	URL  string // without secrets
	Repo *repo.Repo
	Err  error // why it can't be used; Repo is nil then
}

// Options are the options of Run.
type Options struct {
	// Dial connects to the bus, for as long as that takes: the instances that the agent
	// made run meanwhile.
	Dial func(context.Context) (Link, error)
	// Ready is called when the agent can do its work but for the bus; nil calls nothing.
	Ready         func()
	Version       string // of the program: "slipcover 0.1.0"
	Host, Address string // of this machine, as users shall see them
	StateDir      string // the agent's own state is below StateDir/agent
	InstancesDir  string // where new CouchDBs are made, each in a folder named by its id; "" makes none
	BindAddress   string // of new CouchDBs; 127.0.0.1 if empty
	Owner         string // USER:GROUP of their files and processes; "" leaves both to who runs the agent
	CouchDBBin    string // CouchDB's program; "" is found as restore.Create does

	// Locate finds the node that was there before the agent; nil or node.ErrNotFound
	// if there is none.
	Locate func(context.Context) (*node.Node, error)
	// Target finds where the files of that node are to be, if it is made by a restore; nil if restores are never accepted.
	Target func(context.Context) (*node.Node, error)
	// AcceptRestores lets a server have clusters and databases restored onto this node.
	AcceptRestores bool
	// CouchURL is where that node answers; "" is what its ini files say. Nothing is asked
	// that needs the user, but for documents that are put back and databases that are restored into its cluster: CouchUser and CouchPassword.
	CouchURL                 string
	CouchUser, CouchPassword string
	// AcceptWrites lets a server have documents put back into that node.
	AcceptWrites bool
	// AcceptReads lets a server have backups of this agent's instances read, for whoever may do that there.
	AcceptReads bool
	// RestartCommand is a command line for sh that restarts that node; "" if it can't be.
	RestartCommand string

	// OpenRepo opens a repository, and returns how to close it.
	OpenRepo func(context.Context, Open) (*repo.Repo, func(), error)
	// RepositoryURL is where the repository of the configuration is, without secrets; ""
	// if it names none. CanRead says that the configuration has a key that reads.
	RepositoryURL string
	CanRead       bool
	// Accept are the beginnings of the places where jobs may have to do with backups, beside
	// RepositoryURL: URLs, of Swift accounts as https://HOST/v1/AUTH_ID, or paths. With neither,
	// a server names accounts of its callers' as it likes.
	Accept []string
	// JoinRecipients are whom the server wanted backups encrypted to when the agent joined,
	// which counts where Backup has no Recipients; nil if it named none.
	JoinRecipients []string
	// Rooms says how much room is left in the repositories of the configuration, as far as their storages say; nil says nothing.
	Rooms func(ctx context.Context) []job.Room
	// OpenCopies opens the further repositories of the configuration, to which each backup
	// in the first one is copied, and returns how to close them; nil if there are none.
	OpenCopies func(ctx context.Context, first *repo.Repo) ([]Place, func())
	// Backup has the settings of all backups: Indexes, Parallel, Strict, Recipients,
	// Cluster, Strategy, Namespace, ProveInterval, Compaction, Tails. What else it says is set for each job.
	Backup backup.Options
	// HookBefore and HookAfter are command lines for sh that run before and after each
	// backup; "" is none. HookTimeout is how long each may take, an hour if 0.
	HookBefore, HookAfter string
	HookTimeout           time.Duration

	// Ship has the node shipped whatever the servers say. ShipInterval, KeepMoments and ImmutableFor (Protect) are as
	// in ship.Options; servers may want moments of an instance kept for another time.
	Ship                                    bool
	ShipInterval, KeepMoments, ImmutableFor time.Duration

	Parallel int // jobs at once, and beside them as many restores and restore tests; 2 if 0
	Log      *slog.Logger
}

func (o *Options) fill() {
	if u, err := url.Parse(o.CouchURL); err == nil && u.User != nil {
		password, _ := u.User.Password()
		o.CouchUser, o.CouchPassword = cmp.Or(o.CouchUser, u.User.Username()), cmp.Or(o.CouchPassword, password)
		u.User = nil // checking a password takes CouchDB a while
		o.CouchURL = u.String()
	}
	o.BindAddress = cmp.Or(o.BindAddress, "127.0.0.1")
	o.HookTimeout = cmp.Or(o.HookTimeout, time.Hour)
	o.Parallel = cmp.Or(o.Parallel, 2)
	if o.Locate == nil {
		o.Locate = func(context.Context) (*node.Node, error) { return nil, node.ErrNotFound }
	}
}

// How long things may take, or how often they happen.
const (
	defaultEvery  = 10 * time.Second // between two hellos, if the server doesn't say
	minEvery      = time.Second
	maxEvery      = 5 * time.Minute
	tellNoServer  = time.Minute      // between two lines of the log about no server
	requestTime   = 10 * time.Second // for an answer of a server
	firstWait     = 200 * time.Millisecond
	maxWait       = 30 * time.Second
	lastWords     = 5 * time.Second // for the last report of a job, when the agent ends
	noServerLater = 10 * time.Second
	busyLater     = 5 * time.Second // until a job is taken again for which too many wait already
	// unknownTimes is how often in a row servers must say that they don't know the agent: one
	// that joined just now may be known to one of them a moment later.
	unknownTimes = 5
)

// agent is a running agent.
type agent struct {
	o        Options
	link     Link
	log      *slog.Logger
	session  string
	start    int64        // see nextStart
	sayings  atomic.Int64 // see work.number
	dir      string       // StateDir/agent
	lock     *os.File     // held as long as the agent runs
	identity *age.X25519Identity
	made     *instances
	shipping *shipping
	facts    facts
	holds    holds
	waiting  chan struct{} // jobs that wait for holds
	saying   sync.Mutex    // held while a hello is said
	said     int64         // hellos; guarded by saying
	unknown  int           // hellos in a row that were answered so; guarded by saying
	quit     context.CancelCauseFunc

	mu      sync.Mutex
	reply   job.HelloReply // the last one; guarded by mu, like what follows
	greeted bool           // there was one
	works   map[string]*work
	strange map[string]bool // instances of which the log says that servers don't know them
}

// Run does jobs until ctx ends. Then it stops those at work, which the next start
// takes up again, and closes the link. An error says that it can't begin: its state
// can't be read or written, or it is Dial's; or that it can't go on: ErrRemoved.
func Run(ctx context.Context, o Options) error {
	a, err := newAgent(o)
	if err != nil {
		return err
	}
	defer a.lock.Close()
	ctx, a.quit = context.WithCancelCause(ctx)
	defer a.quit(nil)
	if err := a.run(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, ErrRemoved) {
		return err
	}
	return nil
}

// run is Run, until ctx ends or the agent is removed.
func (a *agent) run(ctx context.Context) (err error) {
	o := a.o
	a.log.InfoContext(ctx, "agent starts", "session", a.session, "version", o.Version)
	if o.RepositoryURL == "" && len(o.Accept) == 0 {
		a.log.InfoContext(ctx, "backups go where the server says: accept_storages would bound that")
	}
	if o.Ready != nil {
		o.Ready()
	}
	var wait sync.WaitGroup
	starting, stop := context.WithCancel(ctx)
	defer stop()
	defer func() {
		wait.Wait()
		if a.link != nil {
			a.link.Close()
		}
	}()
	wait.Go(func() { a.startInstances(starting) })
	wait.Go(func() { a.ships(starting) })
	if a.link, err = o.Dial(ctx); err != nil {
		stop()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	wait.Go(func() {
		select {
		case <-a.link.Refused():
			a.quit(ErrRemoved)
		case <-ctx.Done():
		}
	})
	wait.Go(func() { a.findRepository(ctx) })
	measured := make(chan struct{})
	wait.Go(func() { a.measureRooms(ctx) })
	wait.Go(func() { a.measures(ctx, sync.OnceFunc(func() { close(measured) })) })
	select {
	case <-measured:
	case <-time.After(firstMeasure):
	}
	if !a.greet(ctx) {
		return nil
	}
	wait.Go(func() { a.hellos(ctx) })
	wait.Go(func() { a.keepOn(ctx, "answer questions", func() error { return a.link.Answer(ctx, a.answer) }) })
	wait.Go(func() { a.reads(ctx) })
	// As many jobs as are done at once and as may wait: so that there is one who takes the
	// next job as long as anything more can be done at once.
	for range 4 * a.o.Parallel {
		wait.Go(func() { a.keepOn(ctx, "take jobs", func() error { return a.link.Jobs(ctx, a.take) }) })
	}
	return nil
}

func newAgent(o Options) (*agent, error) {
	o.fill()
	a := &agent{o: o, log: o.Log, session: rand.Text(), dir: filepath.Join(o.StateDir, "agent"), waiting: make(chan struct{}, 2*o.Parallel), works: map[string]*work{}, strange: map[string]bool{}}
	if err := durable.MkdirAll(a.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's state directory: %w", err)
	}
	var err error
	if a.lock, err = lockFile(filepath.Join(a.dir, "lock")); err != nil {
		return nil, fmt.Errorf("another agent runs with the state in %s: %w", a.dir, err)
	}
	if a.identity, err = loadIdentity(filepath.Join(a.dir, identityName)); err != nil {
		return nil, err
	}
	if a.made, err = loadInstances(filepath.Join(a.dir, "instances.json")); err != nil {
		return nil, err
	}
	if a.shipping, err = loadShipping(shippingPath(a.dir)); err != nil {
		return nil, err
	}
	if a.start, err = nextStart(filepath.Join(a.dir, "start.json")); err != nil {
		a.log.Warn("the number of this start can't be noted: if the clock is set back, servers take the next process for dead until this one is offline", "err", err)
	}
	return a, nil
}

// nextStart returns a number that is higher than that of each start before, and notes it in a file: the time in milliseconds, or one
// more than the file has. So it takes both a clock that was set back and a file that is lost, damaged or an old copy to be lower. The
// number is good with an error too, which says that it can't be noted.
func nextStart(path string) (int64, error) {
	var f struct {
		Start int64 `json:"start"`
	}
	if _, err := durable.ReadJSON(path, &f); err != nil {
		f.Start = 0
	}
	f.Start = max(time.Now().UnixMilli(), f.Start+1)
	return f.Start, durable.WriteJSON(path, 0o600, f)
}

// keepOn does something that lasts until ctx ends, and again if it ends before.
func (a *agent) keepOn(ctx context.Context, what string, do func() error) {
	wait := firstWait
	for ctx.Err() == nil {
		began := time.Now()
		err := do()
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxWait {
			wait = firstWait
		}
		a.log.WarnContext(ctx, "the bus ended what was to last: it is tried again", "what", what, "err", err, "wait", wait)
		pause(ctx, wait)
		wait = min(2*wait, maxWait)
	}
}

// pause waits, and reports whether ctx allowed all of it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// errLater says that a job has to wait, and is to be given back for that.
var errLater = errors.New("other jobs have what this one needs")

// errStopped is the cause of a job's end that a server asked for.
var errStopped = errors.New("a server stopped the job")
