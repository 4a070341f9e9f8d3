package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// Instances returns the instances of the caller's project, or of all, by id.
func (s *Server) Instances(who *access.Caller, all bool) []*job.Instance {
	var out []*job.Instance
	s.instances.all(func(_ string, i *job.Instance) bool {
		if all || mine(who, i.Project) {
			out = append(out, i)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Instance) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// IsMade reports whether there is an instance of that id, of any project, which an agent made.
func (s *Server) IsMade(id string) bool {
	i := s.instances.have(id)
	return i != nil && i.Made
}

// Instance returns an instance of the caller's project.
func (s *Server) Instance(ctx context.Context, who *access.Caller, id string) (*job.Instance, error) {
	i, err := s.instances.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && !mine(who, i.Project) {
		return nil, notFound(id)
	}
	return i, err
}

// NewInstance is an instance to be made.
type NewInstance struct {
	Name     string
	Flavor   string // id
	VolumeGB int    // 0 is what the backup needs, and at least 1
	Backup   string // id of the one to make it from; "" makes an empty CouchDB
	// At is a moment of the backup's instance, after the backup was begun: it is made from the newest state up to then. Zero is the
	// backup itself.
	At    time.Time
	Agent string // name or id of the agent to make it on; "" leaves it to the server
	// Datastore and Version are the type and the version asked for; "" is the default.
	Datastore, Version string
}

// CreateInstance begins to make an instance.
func (s *Server) CreateInstance(ctx context.Context, who *access.Caller, n NewInstance) (*job.Instance, error) {
	ctx = whole(ctx)
	if err := s.checkDatastore(n.Datastore, n.Version); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.Flavors(), func(f Flavor) bool { return f.Text() == n.Flavor }) {
		return nil, refuse(Invalid, "Flavor %s cannot be found.", n.Flavor)
	}
	defer s.making(who.Project)()
	if err := s.room(who.Project, "instances", 1); err != nil {
		return nil, err
	}
	if err := s.room(who.Project, "volumes", max(n.VolumeGB, 1)); err != nil {
		return nil, err
	}
	if ahead := n.At.Sub(s.now()); ahead > 0 && ahead <= time.Minute { // it is now, by another clock
		n.At = s.now()
	}
	spec := job.Spec{Name: n.Name}
	var secrets job.Secrets
	if n.Backup != "" {
		b, err := s.usable(ctx, who, n.Backup)
		if err != nil {
			return nil, err
		}
		if !b.Status.Usable() {
			return nil, refuse(Conflict, "Backup %s is %s: only a completed one can be restored.", b.ID, b.Status)
		}
		if err := s.checkMoment(b, n.At); err != nil {
			return nil, err
		}
		if !n.At.IsZero() {
			b = s.under(who, b, n.At)
			n.Backup = b.ID // is not deleted meanwhile
		}
		if n.VolumeGB == 0 { // as large as it must be
			n.VolumeGB = int((max(b.Size, 1)-1)>>30) + 1
			if err := s.room(who.Project, "volumes", n.VolumeGB); err != nil {
				return nil, err
			}
		}
		if b.Size > int64(n.VolumeGB)<<30 {
			return nil, refuse(Forbidden, "Backup %s is larger than the volume of %d GB.", b.ID, n.VolumeGB)
		}
		if err := s.reach(ctx, who, &b.Repository, &secrets); err != nil {
			return nil, err
		}
		spec.Repository, spec.RepoID, spec.RepoName, spec.At = b.Repository, b.RepoID, b.RepoName, n.At
	} else if !n.At.IsZero() {
		return nil, refuse(Invalid, "Name the backup that the moment is behind.")
	}
	n.VolumeGB = max(n.VolumeGB, 1)
	agent, err := s.placeFor(n.Agent, who.Project, spec)
	if err != nil {
		return nil, err
	}
	if spec.Sealed, err = seal(agent, secrets); err != nil {
		return nil, err
	}
	now := s.now()
	id := newID()
	i := &job.Instance{ID: id, Name: n.Name, Project: who.Project, Agent: agent.ID, RepoName: repoName(n.Name, id), Made: true,
		Status: job.InstanceBuild, Flavor: n.Flavor, VolumeGB: n.VolumeGB, CouchDBVersion: s.cfg.Version, RestoredFrom: n.Backup, RestoredAt: n.At,
		Address: agent.Hello.Address, Created: now, Updated: now}
	j := &job.Job{ID: newID(), Kind: job.KindCreate, Agent: agent.ID, Project: who.Project, Instance: id, Backup: n.Backup, By: who.User, Spec: spec}
	i.Task, i.Job = j.Kind, j.ID
	if err := s.instances.create(ctx, id, i); err != nil {
		return nil, err
	}
	if err := s.enqueue(ctx, j); errors.Is(err, errOpen) {
		return nil, err
	} else if err != nil {
		s.letGo(ctx, j, func(i *job.Instance) { i.Status = job.InstanceFailed })
		return nil, err
	}
	return i, nil
}

// checkMoment says why no moment behind a backup can be had.
func (s *Server) checkMoment(b *job.Backup, at time.Time) error {
	switch {
	case at.IsZero():
		return nil
	case at.After(s.now()):
		return refuse(Invalid, "That moment is still to come.")
	case at.Before(b.MadeAt()):
		return refuse(Invalid, "That moment is before backup %s: name an older one.", b.ID)
	case b.Repository.Storage != "":
		return refuse(Conflict, "Backup %s is in a caller's own Swift account, and moments are in the agents' own repositories alone.", b.ID)
	}
	if i := s.instances.have(b.Instance); i != nil && i.RepoName != b.RepoName { // its moments are of the other one
		return refuse(Conflict, "Backup %s was taken in from another instance, %s, than the one that it is shown with: it has no moments here.", b.ID, b.RepoName)
	}
	return nil
}

// under returns the backup that the state at a moment behind b rests on: the newest one beside b that was done by then, or b.
func (s *Server) under(who *access.Caller, b *job.Backup, at time.Time) *job.Backup {
	return cmp.Or(s.newestOf(who, b.Instance, b.RepoName, func(o *job.Backup) bool {
		done := o.MadeAt()
		if o.Finished != nil {
			done = *o.Finished
		}
		return keyOf(&o.Repository) == keyOf(&b.Repository) && !done.After(at)
	}), b)
}

// Before returns the newest backup of an instance that can be restored and was begun by a time, and not one that was taken in from
// another: what is behind that is the other's. err is of kind Conflict if there is none.
func (s *Server) Before(who *access.Caller, i *job.Instance, at time.Time) (*job.Backup, error) {
	b := s.newestOf(who, i.ID, i.RepoName, func(b *job.Backup) bool { return !b.MadeAt().After(at) })
	if b == nil {
		return nil, refuse(Conflict, "Nothing of %s is stored of that moment: its first backup is younger.", i.Name)
	}
	return b, nil
}

// newestOf returns the backup of an instance, under its name in repositories, that was begun last of those that can be restored and fit;
// nil if there is none.
func (s *Server) newestOf(who *access.Caller, instance, repoName string, fits func(*job.Backup) bool) (best *job.Backup) {
	list, _ := s.Backups(who, BackupFilter{Instance: instance, Limit: math.MaxInt32})
	for _, b := range list {
		if b.RepoName == repoName && b.Status.Usable() && fits(b) && (best == nil || b.MadeAt().After(best.MadeAt())) {
			best = b
		}
	}
	return best
}

// placeFor chooses the agent to make an instance on: the one that was named, else of
// those that can the one with the most room. For a backup those with a key come first;
// the others can restore what isn't encrypted.
func (s *Server) placeFor(named, project string, spec job.Spec) (*job.Agent, error) {
	var best *job.Agent
	var most job.Hello
	better := func(h job.Hello) bool {
		if spec.RepoID != "" && h.CanRead != most.CanRead {
			return h.CanRead
		}
		return h.FreeBytes > most.FreeBytes
	}
	why := "no agent that is online makes instances: give one the setting instances_dir"
	s.agents.all(func(_ string, a *job.Agent) bool {
		hello, online := s.hello(a)
		switch {
		case named != "" && a.ID != named && a.Name != named, a.Project != project && a.Project != "":
		case !online:
			if named != "" {
				why = "the agent " + named + " is not online"
			}
		case !hello.CanCreate:
			if named != "" {
				why = "the agent " + named + " makes no instances: give it the setting instances_dir"
			}
		case spec.RepoID != "" && spec.Repository.Storage == "" && hello.Repository.ID != spec.Repository.ID:
			why = "no agent that makes instances has the repository of that backup"
		case !spec.At.IsZero() && !hello.Moments:
			why = "the agent " + a.Name + " is of a version that makes no instances of moments: renew it"
		case best == nil || better(hello):
			best, most = a, hello
		}
		return true
	})
	if best == nil {
		if named != "" && !strings.Contains(why, named) {
			return nil, refuse(Invalid, "There is no agent %s for this: %s.", named, why)
		}
		return nil, refuse(Busy, "The instance can't be made now: %s.", why)
	}
	return best, nil
}

// RenameInstance changes an instance's name.
func (s *Server) RenameInstance(ctx context.Context, who *access.Caller, id, name string) error {
	if _, err := s.Instance(ctx, who, id); err != nil {
		return err
	}
	_, err := s.instances.update(ctx, id, func(i *job.Instance) error {
		i.Name, i.Updated = name, s.now()
		return nil
	})
	return err
}

// Restart begins to restart an instance's CouchDB.
func (s *Server) Restart(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	i, err := s.actable(ctx, who, id)
	if err != nil {
		return err
	}
	if l := s.Live(i); !l.CanRestart {
		return refuse(Busy, "Instance %s can't be restarted: its agent has no setting restart_command.", id)
	}
	return s.begin(ctx, &job.Job{ID: newID(), Kind: job.KindRestart, Agent: i.Agent, Project: i.Project, Instance: id, By: who.User, Spec: job.Spec{Name: i.Name}}, nil)
}

// DeleteInstance lets an instance go: one that Slipcover made is removed, one that was
// there before only isn't looked after any more. Its backups stay.
func (s *Server) DeleteInstance(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	i, err := s.Instance(ctx, who, id)
	if err != nil {
		return err
	}
	if i.Task != "" && i.Task != job.KindBackup && i.Task != job.KindDeleteInstance {
		return refuse(Busy, "Instance %s is not ready for deletion: %s is under way.", id, i.Task)
	}
	if i.Task == job.KindDeleteInstance {
		return nil
	}
	if i.Job != "" { // a backup of it: it ends here
		if err := s.giveUp(ctx, i.Job, "the instance was deleted"); err != nil {
			return err
		}
	}
	agent := s.agents.have(i.Agent)
	if !i.Made || agent == nil {
		return errors.Join(s.instances.remove(ctx, id), s.dropSchedules(ctx, who, id))
	}
	j := &job.Job{ID: newID(), Kind: job.KindDeleteInstance, Agent: i.Agent, Project: i.Project, Instance: id, By: who.User, Spec: job.Spec{Name: i.Name}}
	if err := s.begin(ctx, j, func(i *job.Instance) { i.Status = job.InstanceShutdown }); err != nil {
		return err
	}
	return s.dropSchedules(ctx, who, id) // or else sweepSchedules does
}

// ResetStatus frees an instance of what occupies it: a running backup fails, unless it
// turns out to have been made.
func (s *Server) ResetStatus(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	if _, err := s.Instance(ctx, who, id); err != nil {
		return err
	}
	k, err := s.instances.read(ctx, id) // what occupies it by now
	if errors.Is(err, bus.ErrNotFound) {
		return notFound(id)
	}
	if err != nil {
		return err
	}
	if k.doc.Job != "" {
		if err := s.giveUp(ctx, k.doc.Job, "its status was reset"); err != nil {
			return err
		}
	}
	_, err = s.instances.update(ctx, id, func(i *job.Instance) error {
		if i.Job != "" && i.Job != k.doc.Job || i.Task == "" && i.Status == job.InstanceActive {
			return errSame // another one may have begun something
		}
		i.Task, i.Job, i.Updated = "", "", s.now()
		if i.Status == job.InstanceBuild {
			i.Status = job.InstanceFailed
		}
		return nil
	})
	return err
}

// databasesWait is for how long an agent may be silent: less than the APIs have to answer.
const databasesWait = 20 * time.Second

// Databases asks the agent which databases an instance has.
func (s *Server) Databases(ctx context.Context, who *access.Caller, id string) ([]string, error) {
	i, err := s.Instance(ctx, who, id)
	if err != nil {
		return nil, err
	}
	q, err := json.Marshal(job.Question{Databases: id})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, databasesWait)
	defer cancel()
	b, err := askAgent(ctx, s, s.agents.have(i.Agent), func() ([]byte, error) { return s.cfg.Bus.Ask(ctx, i.Agent, q) })
	if err != nil {
		return nil, &Error{Kind: Unavailable, Message: "The agent of the instance does not answer; try again later.", Cause: err}
	}
	var a job.Answer
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, &Error{Kind: Unavailable, Message: "The agent of the instance does not answer as it should.", Cause: err}
	}
	if a.Fault != "" {
		tidy(maxSentence, &a.Fault)
		return nil, refuse(Unavailable, "The databases can't be listed: %s.", a.Fault)
	}
	return a.Databases, nil
}

// Live is how an instance is, as far as its agent says.
type Live struct {
	Online     bool // its agent was heard of lately
	Up         bool // its CouchDB answers
	CanRestart bool
	UsedBytes  int64
	Databases  int
	Version    string
}

// Live returns how an instance is.
func (s *Server) Live(i *job.Instance) Live {
	a := s.agents.have(i.Agent)
	if a == nil {
		return Live{}
	}
	hello, online := s.hello(a)
	l := Live{Online: online}
	for _, seen := range hello.Instances {
		if seen.Instance == i.ID || seen.Instance == "" && !i.Made {
			l.Up, l.CanRestart, l.UsedBytes, l.Databases, l.Version = online && seen.Up, seen.CanRestart, seen.UsedBytes, seen.Databases, seen.Version
		}
	}
	return l
}

// letGoIn is how long an instance is waited for whose backup is told to have ended: it is let go right behind that.
const letGoIn = 5 * time.Second

// Idle returns an instance on which nothing is under way; it refuses one that is busy, or
// in no state for an action. Who has seen a backup end is not refused for that one.
func (s *Server) Idle(ctx context.Context, who *access.Caller, id string) (*job.Instance, error) {
	i, err := s.Instance(ctx, who, id)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); i.Task != "" || i.Status != job.InstanceActive; { // or was a moment ago
		k, err := s.instances.read(ctx, id)
		if errors.Is(err, bus.ErrNotFound) {
			return nil, notFound(id)
		}
		if err != nil {
			return nil, err
		}
		if i = k.doc; !s.beingLetGo(i) || time.Since(began) > letGoIn {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if i.Task != "" || i.Status != job.InstanceActive {
		return nil, s.busy(i)
	}
	return i, nil
}

// beingLetGo reports whether the backup that holds an instance has ended, as everybody sees.
func (s *Server) beingLetGo(i *job.Instance) bool {
	if i.Task != job.KindBackup {
		return false
	}
	j := s.jobs.have(i.Job)
	if j == nil {
		return false
	}
	b := s.backups.have(j.Backup)
	return b != nil && !b.Status.Running()
}

// actable returns an instance on which something can be begun.
func (s *Server) actable(ctx context.Context, who *access.Caller, id string) (*job.Instance, error) {
	i, err := s.Idle(ctx, who, id)
	if err != nil {
		return nil, err
	}
	if !s.Live(i).Online {
		return nil, &Error{Kind: Busy, Message: "Instance " + id + " is not currently available for an action: its agent is not online.", Cause: errOffline}
	}
	return i, nil
}

// errOffline is the cause of a refusal that the agent's next hello puts an end to.
var errOffline = errors.New("the agent is not online")

func (s *Server) busy(i *job.Instance) error {
	return refuse(Busy, "Instance %s is not currently available for an action to be performed (status was %s).", i.ID, i.Shown())
}

// repoName makes the name of an instance in repositories: the name, if it can be one,
// and enough of the id that no two are the same.
func repoName(name, id string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
		if b.Len() == 40 {
			break
		}
	}
	return cmp.Or(strings.TrimLeft(b.String(), "._-"), "couchdb") + "-" + id[len(id)-12:]
}
