package server

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/words"
)

// BackupFilter says which backups to list. The zero value is the first page of the
// caller's project.
type BackupFilter struct {
	Instance string // id
	Version  string // datastore version
	All      bool   // of all projects, or of Project
	Project  string
	Schedule string // id
	None     bool   // of a datastore that has none
	Offset   int
	Limit    int
}

// Backups returns a page of backups, the newest Updated first, and whether there are
// more.
func (s *Server) Backups(who *access.Caller, f BackupFilter) ([]*job.Backup, bool) {
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	return s.index.page(f.Instance, func(b *job.Backup) bool {
		return (f.All && (f.Project == "" || f.Project == b.Project) || !f.All && mine(who, b.Project)) &&
			b.Status != job.BackupDeleting && !f.None &&
			(f.Schedule == "" || f.Schedule == b.Schedule) &&
			(f.Version == "" || f.Version == majorMinor(b.CouchDBVersion))
	}, f.Offset, f.Limit)
}

// Backup returns a backup of the caller's project.
func (s *Server) Backup(ctx context.Context, who *access.Caller, id string) (*job.Backup, error) {
	b, err := s.backups.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && (!mine(who, b.Project) || b.Status == job.BackupDeleting) {
		return nil, notFound(id)
	}
	return b, err
}

// Progress returns how far a running backup is.
func (s *Server) Progress(b *job.Backup) (job.Progress, bool) {
	if !b.Status.Running() {
		return job.Progress{}, false
	}
	j := s.jobs.have(b.Job)
	if j == nil {
		return job.Progress{}, false
	}
	return s.live.progressOf(j), true
}

// NewBackup is a backup to be made.
type NewBackup struct {
	Name        string
	Description string
	Instance    string // id
	// Parent is the id of the backup to record as its parent; Incremental takes the
	// newest completed one of the instance, if there is one. Without either it is
	// nobody's child. How much is read and stored does not depend on it: that is always
	// what is new.
	Parent      string
	Incremental bool
	Container   string // of the caller's Swift account; "" is the strategy's or the usual one

	id, schedule string // of a schedule's firing
	set          *job.Set
}

// prepared is a backup that may begin: nothing of it is stored.
type prepared struct {
	backup   *job.Backup
	job      *job.Job
	instance *job.Instance
}

// CreateBackup begins a backup. The checks come in the order of Trove's.
func (s *Server) CreateBackup(ctx context.Context, who *access.Caller, n NewBackup) (*job.Backup, error) {
	ctx = whole(ctx)
	defer s.making(who.Project)()
	if err := s.room(who.Project, "backups", 1); err != nil {
		return nil, err
	}
	p, err := s.prepare(ctx, who, n)
	if err != nil {
		return nil, err
	}
	b, j := p.backup, p.job
	if err := s.hold(ctx, j, nil); err != nil {
		return nil, err
	}
	if err := s.backups.create(ctx, b.ID, b); err != nil {
		s.letGo(ctx, j, nil)
		return nil, err
	}
	if err := s.enqueue(ctx, j); errors.Is(err, errOpen) {
		return nil, err
	} else if err != nil {
		s.letGo(ctx, j, nil)
		return nil, errors.Join(err, s.backups.remove(ctx, b.ID))
	}
	s.log.InfoContext(ctx, "backup accepted", "backup", b.ID, "instance", p.instance.Name, "job", j.ID)
	return b, nil
}

// prepare looks whether a backup may begin, and makes what is to be stored of it.
func (s *Server) prepare(ctx context.Context, who *access.Caller, n NewBackup) (*prepared, error) {
	i, err := s.actable(ctx, who, n.Instance)
	if err != nil {
		return nil, err
	}
	parent, err := s.parentOf(ctx, who, i, n)
	if err != nil {
		return nil, err
	}
	now := s.now()
	b := &job.Backup{ID: n.id, Name: n.Name, Description: n.Description, Project: i.Project, Instance: i.ID, Schedule: n.schedule,
		Status: job.BackupNew, CouchDBVersion: i.CouchDBVersion, RepoName: i.RepoName, Created: now, Updated: now}
	if b.ID == "" {
		b.ID = newID()
	}
	spec := job.Spec{RepoName: i.RepoName, Name: n.Name, Description: n.Description}
	if parent != nil {
		b.Parent = parent.ID
	}
	var secrets job.Secrets
	if b.Repository, err = s.repositoryFor(ctx, who, i, n.Container, &secrets); err != nil {
		return nil, err
	}
	spec.Repository, spec.Labels = b.Repository, labels(b, i)
	if n.set != nil {
		b.Set = n.set.ID
		spec.Labels[job.LabelSet], spec.Labels[job.LabelCluster] = n.set.ID, n.set.Cluster
		spec.Labels[job.LabelSetNodes] = strconv.Itoa(len(n.set.Members))
	}
	agent, err := s.agents.get(ctx, i.Agent)
	if errors.Is(err, bus.ErrNotFound) { // it was removed just now
		return nil, s.busy(i)
	}
	if err != nil {
		return nil, err
	}
	if spec.Sealed, err = seal(agent, secrets); err != nil {
		return nil, err
	}
	j := &job.Job{ID: newID(), Kind: job.KindBackup, Agent: i.Agent, Project: i.Project, Instance: i.ID, Backup: b.ID, Schedule: n.schedule, By: by(who, n.schedule), Spec: spec}
	b.Job = j.ID
	return &prepared{b, j, i}, nil
}

// labels are what the backup's record says of the catalog.
func labels(b *job.Backup, i *job.Instance) map[string]string {
	l := map[string]string{job.LabelBackup: b.ID, job.LabelProject: b.Project, job.LabelInstance: i.ID, job.LabelInstanceName: i.Name}
	if b.Parent != "" {
		l[job.LabelParent] = b.Parent
	}
	if b.Schedule != "" {
		l[job.LabelSchedule] = b.Schedule
	}
	return l
}

// parentOf finds the backup to record as parent; nil if there is none.
func (s *Server) parentOf(ctx context.Context, who *access.Caller, i *job.Instance, n NewBackup) (*job.Backup, error) {
	if n.Parent != "" {
		p, err := s.usable(ctx, who, n.Parent)
		switch {
		case err != nil:
			return nil, err
		case p.Instance != i.ID:
			return nil, refuse(Invalid, "Backup %s is of another instance and can't be the parent.", p.ID)
		case !p.Status.Usable():
			return nil, refuse(Invalid, "Backup %s is %s and can't be the parent.", p.ID, p.Status)
		}
		return p, nil
	}
	if !n.Incremental {
		return nil, nil
	}
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	return s.index.last[i.ID], nil
}

// repositoryFor says where an instance's backup goes, and puts what the agent needs for
// it into secrets.
func (s *Server) repositoryFor(ctx context.Context, who *access.Caller, i *job.Instance, container string, secrets *job.Secrets) (job.Repository, error) {
	if !s.cfg.OwnSwift || who.Token == "" {
		if container != "" {
			return job.Repository{}, refuse(Invalid, "Backups are stored where the agent's configuration says: leave the container out.")
		}
		return job.Repository{}, nil
	}
	if who.SwiftURL == "" {
		return job.Repository{}, noStore(who)
	}
	if container == "" {
		container = s.containerFor(i)
	}
	if !validContainer(container) {
		return job.Repository{}, refuse(Invalid, "%q can't name a Swift container.", container)
	}
	if err := s.lend(ctx, who, secrets); err != nil {
		return job.Repository{}, err
	}
	return job.Repository{URL: "swift://" + container, Storage: who.SwiftURL, Recipients: s.cfg.Recipients}, nil
}

func noStore(who *access.Caller) error {
	return refuse(NotFound, "The service catalog of project %s has no object store to keep backups in.", who.Project)
}

// validContainer refuses what can't be a container, or becomes something else in a URL.
func validContainer(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 256 && !strings.ContainsAny(name, "/?#%\\") &&
		words.IsLine(name)
}

// reach puts what an agent needs to reach a repository into secrets: a token, if it is in a
// Swift account, which must be the caller's.
func (s *Server) reach(ctx context.Context, who *access.Caller, r *job.Repository, secrets *job.Secrets) error {
	if !reaches(who, r) {
		return refuse(Invalid, "The backup is in the Swift account of project %s: ask with a token of that project.", who.Project)
	}
	if r.Storage != "" {
		return s.lend(ctx, who, secrets)
	}
	return nil
}

// reaches reports whether a caller can reach a repository.
func reaches(who *access.Caller, r *job.Repository) bool { return r.Storage == "" || who.Token != "" }

// DeleteBackup deletes a backup and those that were made on it. They are gone for users
// at once; their objects are removed by an agent.
func (s *Server) DeleteBackup(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	family, err := s.goingWith(ctx, who, id)
	if err != nil {
		return err
	}
	return s.deleteAll(ctx, who, family)
}

// MayDelete says in an error why DeleteBackup would refuse a backup now, as far as that is known without asking anybody.
func (s *Server) MayDelete(ctx context.Context, who *access.Caller, id string) error {
	_, err := s.goingWith(ctx, who, id)
	return err
}

// goingWith returns a backup with those that were made on it, if all of them may be deleted.
func (s *Server) goingWith(ctx context.Context, who *access.Caller, id string) ([]*job.Backup, error) {
	b, err := s.Backup(ctx, who, id)
	if err != nil {
		return nil, err
	}
	if err := s.mayGoAlone(b); err != nil {
		return nil, err
	}
	return s.deletable(ctx, s.family(b))
}

// deletable returns backups as they are lately. It refuses if one of them is at work, is being restored, or is pinned.
func (s *Server) deletable(ctx context.Context, list []*job.Backup) ([]*job.Backup, error) {
	out := make([]*job.Backup, len(list))
	for n, b := range list {
		m, err := s.lately(ctx, b, b.Status.Running())
		switch {
		case isKind(err, NotFound):
			m = b
		case err != nil:
			return nil, err
		case m.Status.Running():
			return nil, refuse(Busy, "Backup %s is running and can't be deleted.", m.ID)
		}
		if s.restoring(m) {
			return nil, refuse(Busy, "Backup %s is being restored and can't be deleted.", m.ID)
		}
		if err := unheld(m); err != nil {
			return nil, err
		}
		out[n] = m
	}
	return out, nil
}

// deleteAll begins to delete backups that deletable let through.
func (s *Server) deleteAll(ctx context.Context, who *access.Caller, list []*job.Backup) error {
	for _, m := range list {
		var secrets job.Secrets
		if err := s.reach(ctx, who, &m.Repository, &secrets); err != nil {
			return err
		}
		if err := s.deleteOne(ctx, who, m, secrets); err != nil {
			return err
		}
	}
	return nil
}

// restoring reports whether an instance is being made from a backup, or several agents restore it, or will when they are
// asked again: one of which it isn't known whether it is done needs the backup to find out.
func (s *Server) restoring(b *job.Backup) (yes bool) {
	s.jobs.all(func(_ string, j *job.Job) bool {
		yes = j.Kind == job.KindCreate && j.Backup == b.ID && !j.State.Ended()
		return !yes
	})
	if yes || b.RepoID == "" {
		return yes
	}
	s.restores.each(func(_ string, r *job.Restore, ago time.Duration) bool {
		yes = (r.State == job.Running || r.Undecided && ago < keepRestored) && strings.Contains(r.Plan, b.RepoID)
		return !yes
	})
	return yes
}

// lately returns a backup as the table has it, if there is doubt: another server may have
// changed it just now.
func (s *Server) lately(ctx context.Context, b *job.Backup, doubt bool) (*job.Backup, error) {
	if !doubt {
		return b, nil
	}
	k, err := s.backups.read(ctx, b.ID)
	if errors.Is(err, bus.ErrNotFound) {
		return nil, notFound(b.ID)
	}
	return k.doc, err
}

// usable returns a backup that can be restored, or else as it is.
func (s *Server) usable(ctx context.Context, who *access.Caller, id string) (*job.Backup, error) {
	b, err := s.Backup(ctx, who, id)
	if err != nil {
		return nil, err
	}
	return s.lately(ctx, b, !b.Status.Usable())
}

// family returns a backup's children, their children and so on, and last the backup
// itself.
func (s *Server) family(b *job.Backup) []*job.Backup {
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	children := map[string][]*job.Backup{}
	for _, c := range s.index.order {
		if c.Parent != "" && c.Project == b.Project {
			children[c.Parent] = append(children[c.Parent], c)
		}
	}
	var out []*job.Backup
	seen := map[string]bool{}
	var walk func(*job.Backup)
	walk = func(b *job.Backup) {
		if seen[b.ID] {
			return
		}
		seen[b.ID] = true
		for _, c := range children[b.ID] {
			walk(c)
		}
		out = append(out, b)
	}
	walk(b)
	return out
}

// deleteOne marks a backup as deleted and gives an agent the job to remove its objects.
func (s *Server) deleteOne(ctx context.Context, who *access.Caller, b *job.Backup, secrets job.Secrets) error {
	b, err := s.lately(ctx, b, b.RepoID == "")
	if isKind(err, NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if b.RepoID == "" && !b.MayBeStored || b.RepoID != "" && s.shared(b) { // nothing was made, or it is needed
		return s.backups.remove(ctx, b.ID)
	}
	agent := s.removerOf(b)
	if agent == nil && b.RepoID == "" {
		s.log.WarnContext(ctx, "a backup was given up and nobody can look whether it was made: if so, it stays where it is stored", "backup", b.ID, "in_repository", b.RepoName)
		return s.backups.remove(ctx, b.ID)
	}
	if agent == nil {
		return refuse(Busy, "Backup %s can't be deleted now: no agent has its repository.", b.ID)
	}
	j := &job.Job{ID: newID(), Kind: job.KindDeleteBackup, Agent: agent.ID, Project: b.Project, Backup: b.ID, By: who.User,
		Spec: job.Spec{RepoName: b.RepoName, RepoID: b.RepoID, Repository: b.Repository}}
	if b.RepoID == "" {
		j.Spec.Keep = s.takenIn(b.RepoName)
	}
	if i := s.instances.have(b.Instance); i != nil {
		j.Spec.KeepMoments = toShip(i).KeepMoments
	}
	if j.Spec.Sealed, err = seal(agent, secrets); err != nil {
		return err
	}
	_, err = s.backups.update(ctx, b.ID, func(b *job.Backup) error {
		if b.Status == job.BackupDeleting {
			return errOther
		}
		if err := unheld(b); err != nil { // it was asked for just now
			return err
		}
		if b.Status.Usable() {
			b.Was = b.Status
		}
		b.Status, b.Job, b.Updated = job.BackupDeleting, j.ID, s.now()
		return nil
	})
	if errors.Is(err, errOther) || errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.enqueue(ctx, j)
}

// removerOf returns an agent that can remove a backup: that of its instance, or one that
// has the same repository.
func (s *Server) removerOf(b *job.Backup) *job.Agent {
	if i := s.instances.have(b.Instance); i != nil {
		if a := s.agents.have(i.Agent); a != nil {
			return a
		}
	}
	var offline *job.Agent
	var best *job.Agent
	s.agents.all(func(_ string, a *job.Agent) bool {
		hello, online := s.hello(a)
		if b.Repository.Storage == "" && (b.Repository.ID == "" || hello.Repository.ID != b.Repository.ID) || a.Project != b.Project && a.Project != "" {
			return true
		}
		if online {
			best = a
			return false
		}
		offline = a
		return true
	})
	if best == nil {
		return offline
	}
	return best
}

// Adoption is a stored backup to be taken into the catalog.
type Adoption struct {
	Name, Description string
	Location          string // as a backup's LocationRef
}

// AdoptBackup begins to take a stored backup into the catalog.
func (s *Server) AdoptBackup(ctx context.Context, who *access.Caller, a Adoption) (*job.Backup, error) {
	ctx = whole(ctx)
	defer s.making(who.Project)()
	if err := s.room(who.Project, "backups", 1); err != nil {
		return nil, err
	}
	place, repoName, repoID, ok := splitLocation(a.Location)
	if !ok {
		return nil, refuse(Invalid, "The location must be the one that a backup of Slipcover shows, …/backups/INSTANCE/ID/manifest.json.zst.age.")
	}
	own := s.cfg.OwnSwift && who.SwiftURL != "" && strings.HasPrefix(place, who.SwiftURL+"/")
	if own && strings.Contains(place, "?") {
		return nil, refuse(Invalid, "The location of a backup in Swift has no parameters.")
	}
	if !own && s.anothers(who, repoName) {
		return nil, refuse(NotFound, "Project %s has no backup at that location.", who.Project)
	}
	now := s.now()
	b := &job.Backup{ID: newID(), Name: a.Name, Description: a.Description, Project: who.Project, Status: job.BackupNew, RepoName: repoName, Created: now, Updated: now}
	b.RepoID = repoID
	var secrets job.Secrets
	if own {
		b.Repository = job.Repository{URL: "swift://" + strings.TrimPrefix(place, who.SwiftURL+"/"), Storage: who.SwiftURL}
		if err := s.lend(ctx, who, &secrets); err != nil {
			return nil, err
		}
	} else if who.Token != "" && s.cfg.OwnSwift {
		return nil, refuse(NotFound, "The backup isn't in the Swift account of project %s.", who.Project)
	}
	agent := s.adopterOf(who, b, place)
	if agent == nil {
		return nil, refuse(NotFound, "No agent of project %s that is online has that repository.", who.Project)
	}
	b.Instance = s.ownNode(agent)
	j := &job.Job{ID: newID(), Kind: job.KindAdopt, Agent: agent.ID, Project: who.Project, Backup: b.ID, By: who.User,
		Spec: job.Spec{RepoName: repoName, RepoID: repoID, Repository: b.Repository}}
	b.Job = j.ID
	var err error
	if j.Spec.Sealed, err = seal(agent, secrets); err != nil {
		return nil, err
	}
	if err := s.backups.create(ctx, b.ID, b); err != nil {
		return nil, err
	}
	return b, s.enqueue(ctx, j)
}

// anothers reports whether a name in repositories is of another project's node, or has
// been: agents of several projects may share a repository.
func (s *Server) anothers(who *access.Caller, repoName string) (yes bool) {
	s.instances.all(func(_ string, i *job.Instance) bool {
		yes = i.RepoName == repoName && i.Project != who.Project
		return !yes
	})
	if yes {
		return true
	}
	s.backups.all(func(_ string, b *job.Backup) bool {
		yes = b.RepoName == repoName && b.Project != who.Project
		return !yes
	})
	return yes
}

// shared reports whether what is stored of a backup is that of another one too, which was
// taken in from there.
func (s *Server) shared(b *job.Backup) bool { return len(s.sameStored(b)) > 0 }

// sameStored are the other backups of which the same is stored, if anything is.
func (s *Server) sameStored(b *job.Backup) (list []*job.Backup) {
	s.backups.all(func(_ string, o *job.Backup) bool {
		if o.ID != b.ID && o.RepoID == b.RepoID && o.RepoName == b.RepoName && o.Repository.Storage == b.Repository.Storage &&
			(o.Repository.ID == b.Repository.ID || o.Repository.ID == "") && o.Status != job.BackupDeleting {
			list = append(list, o)
		}
		return true
	})
	return list
}

// takenIn returns the ids in repositories of backups of a node that were taken in from
// there, and of those that were not made at the first attempt.
func (s *Server) takenIn(repoName string) (ids []string) {
	s.backups.all(func(_ string, b *job.Backup) bool {
		if b.RepoName == repoName && b.RepoID != "" && b.RepoID != b.ID {
			ids = append(ids, b.RepoID)
		}
		return true
	})
	return ids
}

// adopterOf returns the agent of the project that has a stored backup: of those that are
// online and reach its place, that of its node, else one whose repository is known to have
// others of that node, else the first by name. A folder is a place of its own on each
// machine, so there it is nobody but the agent of the node, if the node is known.
func (s *Server) adopterOf(who *access.Caller, b *job.Backup, place string) *job.Agent {
	of, repository := "", ""
	s.instances.all(func(_ string, i *job.Instance) bool {
		if i.RepoName == b.RepoName && i.Project == who.Project {
			of = i.Agent
		}
		return of == ""
	})
	s.backups.all(func(_ string, o *job.Backup) bool {
		if o.RepoName == b.RepoName && o.Project == who.Project && o.Repository.Storage == "" && o.Repository.ID != "" {
			repository = o.Repository.ID
		}
		return repository == ""
	})
	var best *job.Agent
	most := -1
	s.agents.all(func(_ string, a *job.Agent) bool {
		hello, online := s.hello(a)
		if a.Project != who.Project || b.Repository.Storage == "" && strings.TrimRight(hello.Repository.URL, "/") != strings.TrimRight(place, "/") {
			return true
		}
		rank := 0
		switch {
		case a.ID == of:
			rank = 2
		case b.Repository.Storage == "" && of != "" && strings.HasPrefix(place, "file:"):
			return true
		case b.Repository.Storage == "" && hello.Repository.ID == repository && repository != "":
			rank = 1
		}
		if online && (rank > most || rank == most && a.Name < best.Name) {
			best, most = a, rank
		}
		return true
	})
	return best
}

// splitLocation splits a LocationRef into the place of the repository, and the backup's
// instance and id in it.
func splitLocation(location string) (place, repoName, repoID string, ok bool) {
	location, query, parameters := strings.Cut(location, "?")
	parts := strings.Split(location, "/")
	n := len(parts)
	if n < 6 || parts[n-4] != "backups" || !strings.HasPrefix(parts[n-1], "manifest.json") {
		return "", "", "", false
	}
	place = strings.Join(parts[:n-4], "/")
	if parameters {
		place += "?" + query
	}
	repoName, repoID = parts[n-3], parts[n-2]
	return place, repoName, repoID, manifest.ValidInstance(repoName) && manifest.BackupID(repoID).Valid()
}

// majorMinor is the datastore version of a CouchDB version: 3.5 of 3.5.0.
func majorMinor(version string) string {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return version[:min(len(major)+len(".")+len(minor), len(version))]
}
