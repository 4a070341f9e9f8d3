package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// liveAgents is what this server heard of agents and jobs that isn't worth storing each
// time.
type liveAgents struct {
	watch func() time.Duration // see Config.Watch
	ring  func()               // is called after each change

	mu       sync.Mutex
	hellos   map[string]heard        // by agent
	progress map[string]job.Progress // by job
}

type heard struct {
	hello job.Hello
	at    time.Duration // by the watch
}

func newLiveAgents(watch func() time.Duration) *liveAgents {
	return &liveAgents{watch: watch, ring: func() {}, hellos: map[string]heard{}, progress: map[string]job.Progress{}}
}

// hear takes in a hello, unless a newer one of its session was heard.
func (l *liveAgents) hear(agent string, h job.Hello) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !saidBefore(&h, l.hellos[agent].hello) {
		l.hellos[agent] = heard{h, l.watch()}
	}
	l.ring()
}

// saidBefore reports whether a hello is an older one than another of the same session.
func saidBefore(h *job.Hello, other job.Hello) bool {
	return h.Session == other.Session && h.Number < other.Number
}

// startedBefore reports whether a hello is of a process that was started before the one whose hello another is, as far as
// agents say it.
func startedBefore(h *job.Hello, other job.Hello) bool {
	return h.Session != other.Session && h.Start != 0 && h.Start < other.Start
}

// errOutlived answers the hello of a process that another one followed. Only one that lives reads it: the agent runs twice, or
// both its clock and its state are of before. It tries again.
var errOutlived = errors.New("another process of this agent that was started later was heard of just now: as long as that one is online, this one is taken for dead")

func (l *liveAgents) set(id string, p job.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.progress[id] = p
	l.ring()
}

// jobChanged forgets a job that has ended, whichever server ended it.
func (l *liveAgents) jobChanged(id string, _, now *job.Job) {
	if now == nil || now.State.Ended() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.progress, id)
	}
}

// agentChanged forgets an agent that is gone, and takes for a sign of life what another
// server stored of one that it heard. What was stored when this server started is none.
func (l *liveAgents) agentChanged(id string, old, now *job.Agent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case now == nil:
		delete(l.hellos, id)
	case old != nil && (!old.Seen.Equal(now.Seen) || old.Session != now.Session):
		h := heard{now.Hello, l.watch()}
		if last := l.hellos[id].hello; saidBefore(&h.hello, last) {
			h.hello = last
		}
		l.hellos[id] = h
	}
}

// silent returns for how long nothing was heard of an agent, since this server started.
func (l *liveAgents) silent(id string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watch() - l.hellos[id].at
}

func (l *liveAgents) progressOf(j *job.Job) job.Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.progress[j.ID]; ok {
		return p
	}
	return j.At
}

// hello returns what an agent said last, and whether that is so lately that it counts as
// online: by this server's watch, since it heard the agent, or learnt that another server
// did. A server that has just started goes by what is stored, if that can be believed,
// for no longer than it takes to hear from all.
func (s *Server) hello(a *job.Agent) (job.Hello, bool) {
	hello, _, online := s.lastHeard(a)
	return hello, online
}

// lastHeard is hello with when that was, by the clock as it is now; zero for never.
func (s *Server) lastHeard(a *job.Agent) (hello job.Hello, seen time.Time, online bool) {
	s.live.mu.Lock()
	h, ok := s.live.hellos[a.ID]
	s.live.mu.Unlock()
	now, watch := s.now(), s.cfg.Watch()
	if ok {
		if h.hello.Session != a.Session || saidBefore(&h.hello, a.Hello) { // the newest session is always stored
			h.hello = a.Hello
		}
		return h.hello, now.Add(h.at - watch), watch-h.at < s.cfg.Offline
	}
	if a.Seen.IsZero() {
		return a.Hello, a.Seen, false
	}
	age, believed := newest.Since(a.Seen, now)
	online = believed && age < s.cfg.Offline && watch < s.cfg.Offline
	seen = a.Seen
	if started := now.Add(-watch); seen.After(started) { // it was before
		seen = started
	}
	return a.Hello, seen, online
}

// freshly is how long ago an agent was heard of that may not listen yet.
const freshly = 5 * time.Second

// askAgent asks an agent, by ask, again for 1.5 s if nobody listens though it was heard of just now: it says hello before it listens, and other
// servers of a bus learn a moment later that it does. The agent may be nil.
func askAgent[T any](ctx context.Context, s *Server, a *job.Agent, ask func() (T, error)) (T, error) {
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		out, err := ask()
		if a == nil || !errors.Is(err, bus.ErrNoAgent) || wait > time.Second {
			return out, err
		}
		if _, seen, online := s.lastHeard(a); !online || s.now().Sub(seen) > freshly {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(wait):
		}
	}
}

// AgentInfo is an agent as it is now.
type AgentInfo struct {
	job.Agent
	Online bool      `json:"online"`
	Seen   time.Time `json:"seen"`
}

// Agents returns all agents by name.
func (s *Server) Agents() []AgentInfo {
	var out []AgentInfo
	s.agents.all(func(_ string, a *job.Agent) bool {
		info := AgentInfo{Agent: *a}
		info.Hello, info.Seen, info.Online = s.lastHeard(a)
		out = append(out, info)
		return true
	})
	slices.SortFunc(out, func(a, b AgentInfo) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return out
}

// Joining is an agent that asks to belong to the service, let in by a join token.
type Joining struct {
	Name      string // of the agent and its node; it names the node in repositories
	Project   string // whose node it is
	PublicKey string // for the bus
	Recipient string // age, for secrets
	// Admin says that an administrator lets it in, see MayJoin.
	Admin bool
	Hello job.Hello
}

// Joined is what it gets.
type Joined struct {
	AgentID  string `json:"agent_id"`
	Instance string `json:"instance"` // id of its node
	JWT      string `json:"jwt"`      // credentials for the bus; "" where the bus gives none
}

// Join lets an agent in: its node becomes an instance. An agent of the same name and
// project that is there already is replaced, if it may be, with its instance and backups
// kept: its old credentials are worth nothing any more. It gets the jobs of that instance
// from then on, and with them what callers let it use.
func (s *Server) Join(ctx context.Context, n Joining) (*Joined, error) {
	there, err := s.nodeOf(n)
	if err != nil {
		return nil, err
	}
	if err := s.MayJoin(n.Name, n.Project, n.Admin); err != nil {
		return nil, err
	}
	tidyHello(&n.Hello)
	id := newID()
	jwt, err := s.cfg.Bus.Issue(ctx, id, n.PublicKey)
	if err != nil && !errors.Is(err, bus.ErrNoIssuer) {
		return nil, err
	}
	a := &job.Agent{ID: id, Name: n.Name, Project: n.Project, PublicKey: n.PublicKey, Recipient: n.Recipient, Hello: n.Hello, Created: s.now()}
	if err := s.cfg.Bus.AddAgent(ctx, id); err != nil {
		return nil, fmt.Errorf("make the agent's queue: %w", err)
	}
	if err := s.agents.create(ctx, id, a); err != nil {
		return nil, err
	}
	var older []string
	for _, o := range s.namesakes(n.Name, n.Project) {
		if o != id {
			older = append(older, o)
		}
	}
	instance, err := s.giveNode(ctx, a, there, n.Admin)
	if isKind(err, Conflict) { // it is nobody's
		return nil, errors.Join(err, s.removeAgent(ctx, id, ""))
	}
	if err != nil {
		return nil, err
	}
	if !n.Admin { // they came just now, at another server, with no better right
		older = nil
	}
	for _, o := range older {
		if err := s.removeAgent(ctx, o, id); err != nil {
			return nil, err
		}
		s.log.WarnContext(ctx, "an agent was replaced", "agent", o, "name", n.Name, "project", n.Project, "by", id)
	}
	s.log.InfoContext(ctx, "agent joined", "agent", id, "name", n.Name, "project", n.Project, "instance", instance)
	return &Joined{AgentID: id, Instance: instance, JWT: jwt}, nil
}

// MayJoin says in an error why an agent may not be let in as the node of that name by who
// is no administrator. An agent gets what callers let it use, so to take the place of one,
// online or not, needs what removing it needs; and where agents are let into the Swift
// accounts of callers, each of them is of an administrator's choice.
func (s *Server) MayJoin(name, project string, admin bool) error {
	switch {
	case admin:
		return nil
	case s.cfg.OwnSwift:
		return refuse(Forbidden, "Agents are let into the Swift accounts of callers here, so only an administrator may let one join: ask for a join token of his.")
	case len(s.namesakes(name, project)) > 0:
		return agentThere(name)
	}
	return nil
}

// namesakes are the ids of the agents of a name in a project.
func (s *Server) namesakes(name, project string) (ids []string) {
	s.agents.all(func(id string, a *job.Agent) bool {
		if a.Name == name && a.Project == project {
			ids = append(ids, id)
		}
		return true
	})
	return ids
}

func agentThere(name string) error {
	return refuse(Conflict, "There is an agent %q already, and only an administrator may have it replaced: ask for a join token of his, or that he removes it first.", name)
}

// nodeOf returns the id of the instance that was there for the node of an agent that
// joins, or "". Its name in repositories must not be another project's, nor have been
// as long as that has backups: who has a name can take in and remove what is stored
// under it.
func (s *Server) nodeOf(n Joining) (id string, err error) {
	s.instances.all(func(_ string, i *job.Instance) bool {
		switch {
		case i.RepoName != n.Name:
		case i.Project == n.Project && !i.Made:
			id = i.ID
		default:
			err = nameTaken(n.Name)
		}
		return err == nil
	})
	s.backups.all(func(_ string, b *job.Backup) bool {
		if b.RepoName == n.Name && b.Project != n.Project {
			err = nameTaken(n.Name)
		}
		return err == nil
	})
	return id, err
}

func nameTaken(name string) error {
	return refuse(Conflict, "There is a node %q already, or there are backups of one: give this one another name by its setting instance.", name)
}

// giveNode makes an agent's node an instance, or gives it the one that was there, unless
// that is another agent's which it may not replace. The id is made of the name, so that of
// two joins at once, of one project or two, one makes it.
func (s *Server) giveNode(ctx context.Context, a *job.Agent, id string, replace bool) (string, error) {
	if id == "" {
		id = uuid.NewSHA1(namespace, []byte("node/"+a.Name)).String()
		now := s.now()
		i := &job.Instance{ID: id, Name: a.Name, Project: a.Project, Agent: a.ID, RepoName: a.Name, Status: job.InstanceActive,
			Flavor: defaultFlavor, Address: a.Hello.Address, CouchDBVersion: s.cfg.Version, Created: now, Updated: now}
		for _, seen := range a.Hello.Instances {
			i.CouchDBVersion = cmp.Or(seen.Version, i.CouchDBVersion)
		}
		err := s.instances.create(ctx, id, i)
		if !errors.Is(err, bus.ErrExists) {
			return id, err
		}
	}
	_, err := s.instances.update(ctx, id, func(i *job.Instance) error {
		if i.Project != a.Project {
			return nameTaken(a.Name)
		}
		if !replace && i.Agent != a.ID {
			if _, err := s.agents.get(ctx, i.Agent); err == nil {
				return agentThere(a.Name)
			} else if !errors.Is(err, bus.ErrNotFound) {
				return err
			}
		}
		i.Agent, i.Updated = a.ID, s.now()
		return nil
	})
	return id, err
}

// RemoveAgent takes an agent out of the service: its credentials are worth nothing from
// now on, and its instances are let go, with their backups kept.
func (s *Server) RemoveAgent(ctx context.Context, id string) error {
	ctx = whole(ctx)
	if _, err := s.agents.get(ctx, id); errors.Is(err, bus.ErrNotFound) {
		return notFound(id)
	} else if err != nil {
		return err
	}
	return s.removeAgent(ctx, id, "")
}

// removeAgent removes an agent and gives its instances to its heir, or, without one,
// lets them go. It can be repeated.
func (s *Server) removeAgent(ctx context.Context, id, heir string) error {
	var jobs []string
	s.jobs.all(func(_ string, j *job.Job) bool {
		if j.Agent == id && !j.State.Ended() {
			jobs = append(jobs, j.ID)
		}
		return true
	})
	for _, j := range jobs {
		if err := s.giveUp(ctx, j, "its agent was removed"); err != nil {
			return err
		}
	}
	var instances []*job.Instance
	s.instances.all(func(_ string, i *job.Instance) bool {
		if i.Agent == id {
			instances = append(instances, i)
		}
		return true
	})
	for _, i := range instances {
		if heir == "" {
			if err := s.dropSchedules(ctx, &access.Caller{}, i.ID); err != nil {
				return err
			}
			if err := s.instances.remove(ctx, i.ID); err != nil {
				return err
			}
			continue
		}
		if _, err := s.instances.update(ctx, i.ID, func(i *job.Instance) error {
			i.Agent, i.Updated = heir, s.now()
			return nil
		}); err != nil {
			return err
		}
	}
	if err := s.cfg.Bus.RemoveAgent(ctx, id); err != nil {
		return err
	}
	return s.agents.remove(ctx, id)
}

// answer answers the requests of agents.
func (s *Server) answer(ctx context.Context, agent, verb string, data []byte) ([]byte, error) {
	if _, err := s.agents.get(ctx, agent); errors.Is(err, bus.ErrNotFound) { // NATS may go on to let it in
		return nil, &bus.Error{Code: bus.CodeUnknown, Text: "the server knows no such agent: it was removed"}
	}
	switch verb {
	case job.VerbHello:
		return answerTo(ctx, agent, data, s.greet)
	case job.VerbClaim:
		return answerTo(ctx, agent, data, s.claim)
	case job.VerbReport:
		return answerTo(ctx, agent, data, s.report)
	}
	return nil, fmt.Errorf("unknown request %q: server and agent are of different versions", verb)
}

func answerTo[In, Out any](ctx context.Context, agent string, data []byte, fn func(context.Context, string, In) (Out, error)) ([]byte, error) {
	var in In
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("the request can't be read: %w", err)
	}
	out, err := fn(ctx, agent, in)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// greet takes in a hello. A new session is stored at once, since it decides whose claims
// count; for the rest it is enough to store now and then that the agent lives. A session
// that was started before the stored one is of a dead process, and late: errOutlived. Once
// the stored one is offline any counts, since an old copy of the agent's state may be in use.
func (s *Server) greet(ctx context.Context, agent string, h job.Hello) (job.HelloReply, error) {
	a, err := s.agents.get(ctx, agent)
	if err != nil {
		return job.HelloReply{}, err
	}
	tidyHello(&h)
	now := s.now()
	_, alive := s.hello(a)
	if !alive || !startedBefore(&h, a.Hello) {
		s.live.hear(agent, h)
	}
	if a.Session != h.Session { // its queue may be gone, if the state of the bus is
		if err := s.cfg.Bus.AddAgent(ctx, agent); err != nil {
			return job.HelloReply{}, err
		}
	}
	if a.Session != h.Session || a.Seen.IsZero() || s.agents.ago(agent) > s.cfg.Offline/2 || !sameInstances(a.Hello.Instances, h.Instances) || a.Hello.Repository.ID != h.Repository.ID {
		if _, err = s.agents.update(ctx, agent, func(a *job.Agent) error {
			if saidBefore(&h, a.Hello) { // it was long under way, and another server heard the next one
				return errSame
			}
			if alive && startedBefore(&h, a.Hello) {
				return errOutlived
			}
			a.Session, a.Hello, a.Seen = h.Session, h, now
			a.Recipient = cmp.Or(h.Recipient, a.Recipient)
			return nil
		}); err != nil {
			return job.HelloReply{}, err
		}
	}
	reply := job.HelloReply{Every: s.cfg.Every}
	var own *job.Instance
	s.instances.all(func(_ string, i *job.Instance) bool {
		if i.Agent == agent && i.Made {
			reply.Instances = append(reply.Instances, i.ID)
		} else if i.Agent == agent {
			reply.Node, reply.NodeName, own = i.ID, i.RepoName, i
		}
		if i.Agent == agent && i.Ship {
			reply.Ship = append(reply.Ship, toShip(i))
		}
		return true
	})
	slices.SortFunc(reply.Ship, func(a, b job.Ship) int { return strings.Compare(a.Instance, b.Instance) })
	return reply, s.noteVersion(ctx, own, h)
}

// noteVersion keeps the CouchDB version and address of the agent's own node.
func (s *Server) noteVersion(ctx context.Context, own *job.Instance, h job.Hello) error {
	if own == nil {
		return nil
	}
	version := ""
	for _, seen := range h.Instances {
		if seen.Instance == own.ID || seen.Instance == "" {
			version = cmp.Or(seen.Version, version)
		}
	}
	if (version == "" || version == own.CouchDBVersion) && (h.Address == "" || h.Address == own.Address) {
		return nil
	}
	_, err := s.instances.update(ctx, own.ID, func(i *job.Instance) error {
		i.CouchDBVersion, i.Address = cmp.Or(version, i.CouchDBVersion), cmp.Or(h.Address, i.Address)
		return nil
	})
	return err
}

// sameInstances compares what is worth storing at once: whether CouchDBs are up, and shipped, and of which cluster they are.
func sameInstances(a, b []job.Seen) bool {
	return slices.EqualFunc(a, b, func(a, b job.Seen) bool {
		return a.Instance == b.Instance && a.Up == b.Up && a.Version == b.Version && a.CanRestart == b.CanRestart && sameShipping(a.Ship, b.Ship) && sameMember(a.Member, b.Member)
	})
}

// ownNode is the id of the instance that an agent's own node is; "" if it was let go.
func (s *Server) ownNode(a *job.Agent) (id string) {
	s.instances.all(func(_ string, i *job.Instance) bool {
		if i.Agent == a.ID && !i.Made {
			id = i.ID
		}
		return id == ""
	})
	return id
}
