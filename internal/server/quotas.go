package server

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// QuotaUse is how much of one resource a project has; Limit -1 is no limit.
type QuotaUse struct {
	Resource               string // instances, backups, volumes (GB)
	Limit, InUse, Reserved int
}

// Quotas returns what a project may have and has.
func (s *Server) Quotas(project string) []QuotaUse {
	q := s.quotaOf(project)
	out := []QuotaUse{{Resource: "instances", Limit: q.Instances}, {Resource: "backups", Limit: q.Backups}, {Resource: "volumes", Limit: q.Volumes}}
	s.instances.all(func(_ string, i *job.Instance) bool {
		if i.Project == project {
			out[0].InUse++
			out[2].InUse += i.VolumeGB
		}
		return true
	})
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	for _, b := range s.index.order {
		if b.Project == project && b.Status != job.BackupDeleting {
			out[1].InUse++
		}
	}
	return out
}

// room refuses what would go over a quota. Requests at one moment at several servers may
// take the same room; at one server making keeps them from it.
func (s *Server) room(project, resource string, more int) error {
	for _, q := range s.Quotas(project) {
		if q.Resource == resource && q.Limit >= 0 && more > 0 && q.InUse+more > q.Limit {
			return refuse(OverQuota, "Quota exceeded for resources: ['%s'].", resource)
		}
	}
	return nil
}

// making is called before room, and what it returns once that for which room was asked
// is stored: one at a time of a project that has a limit. Projects share locks.
func (s *Server) making(project string) (done func()) {
	if q := s.quotaOf(project); q.Instances < 0 && q.Backups < 0 && q.Volumes < 0 {
		return func() {}
	}
	return s.alone(project)
}

// alone makes others wait that say the same, or share its lock, until done is called.
func (s *Server) alone(what string) (done func()) {
	lock := &s.makings[maphash.String(s.seed, what)%uint64(len(s.makings))]
	lock.Lock()
	return lock.Unlock
}

func (s *Server) quotaOf(project string) *job.Quota {
	if q := s.quotas.have(quotaKey(project)); q != nil {
		return q
	}
	return &s.cfg.Quota
}

// SetQuota changes what a project may have of a resource.
func (s *Server) SetQuota(ctx context.Context, _ *access.Caller, project, resource string, limit int) error {
	set := func(q *job.Quota) error {
		field := map[string]*int{"instances": &q.Instances, "backups": &q.Backups, "volumes": &q.Volumes}[resource]
		if field == nil {
			return refuse(Invalid, "There is no quota for %q: it can be instances, backups or volumes.", resource)
		}
		if limit < -1 {
			return refuse(Invalid, "A quota is a number from 0 on, or -1 for no limit.")
		}
		*field = limit
		return nil
	}
	for {
		q := s.cfg.Quota
		q.Project = project
		if err := set(&q); err != nil {
			return err
		}
		err := s.quotas.create(ctx, quotaKey(project), &q)
		if !errors.Is(err, bus.ErrExists) {
			return err
		}
		if _, err = s.quotas.update(ctx, quotaKey(project), set); !errors.Is(err, bus.ErrNotFound) {
			return err
		}
	}
}

// quotaKey is a key for a project, whose id may have characters that keys can't.
func quotaKey(project string) string {
	return uuid.NewSHA1(namespace, []byte("project/"+project)).String()
}

// namespace is that of ids that are made of names.
var namespace = uuid.MustParse("6b7d9d3e-58c4-5a6d-9c9e-2f2f0c2f4c11")

// Strategies returns where backups go, of the caller's project.
func (s *Server) Strategies(who *access.Caller, project, instance string) []*job.Strategy {
	var out []*job.Strategy
	project = cmp.Or(project, who.Project)
	s.strategies.all(func(_ string, t *job.Strategy) bool {
		if t.Project == project && (project == who.Project || who.May(access.Admin)) && (instance == "" || t.Instance == instance) {
			out = append(out, t)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Strategy) int { return strings.Compare(a.Instance, b.Instance) })
	return out
}

// SetStrategy says which container backups go to, of one instance or of all.
func (s *Server) SetStrategy(ctx context.Context, who *access.Caller, instance, container string) (*job.Strategy, error) {
	if instance != "" {
		if _, err := s.Instance(ctx, who, instance); err != nil {
			return nil, err
		}
	}
	if !s.cfg.OwnSwift {
		return nil, refuse(Unsupported, "Backups are stored where the agents' configuration says: there is no container to choose.")
	}
	if !validContainer(container) {
		return nil, refuse(Invalid, "%q can't name a Swift container.", container)
	}
	t := &job.Strategy{Project: who.Project, Instance: instance, Container: container, Created: s.now()}
	key := strategyKey(who.Project, instance)
	for {
		err := s.strategies.create(ctx, key, t)
		if !errors.Is(err, bus.ErrExists) {
			return t, err
		}
		t, err := s.strategies.update(ctx, key, func(old *job.Strategy) error { old.Container = container; return nil })
		if !errors.Is(err, bus.ErrNotFound) {
			return t, err
		}
	}
}

// DeleteStrategy removes what SetStrategy said.
func (s *Server) DeleteStrategy(ctx context.Context, who *access.Caller, project, instance string) error {
	project = cmp.Or(project, who.Project)
	if project != who.Project && !who.May(access.Admin) {
		return refuse(Forbidden, "The backup strategies of another project are its own.")
	}
	for _, t := range s.Strategies(who, project, instance) {
		if t.Instance != instance {
			continue
		}
		return s.strategies.remove(ctx, strategyKey(project, instance))
	}
	return nil
}

func strategyKey(project, instance string) string {
	return uuid.NewSHA1(namespace, []byte("strategy/"+project+"/"+instance)).String()
}

// containerFor is where an instance's backups go: by its own strategy, that of its
// project, or the usual one.
func (s *Server) containerFor(i *job.Instance) string {
	for _, instance := range []string{i.ID, ""} {
		if t := s.strategies.have(strategyKey(i.Project, instance)); t != nil {
			return t.Container
		}
	}
	return s.cfg.Container
}

// Datastore is what Trove calls a kind of database.
type Datastore struct {
	ID, Name string
	Default  string // id of a version; "" without any
	Versions []Version
}

// Version is one of its versions, such as 3.5.
type Version struct{ ID, Name, Number string }

const datastoreName = "couchdb"

// Datastores returns CouchDB, with the versions of the nodes, and behind it those of
// Config.Datastores, of which there is nothing.
func (s *Server) Datastores() []Datastore {
	names := []string{s.cfg.Version}
	s.instances.all(func(_ string, i *job.Instance) bool {
		if v := majorMinor(i.CouchDBVersion); v != "" && !slices.Contains(names, v) {
			names = append(names, v)
		}
		return true
	})
	slices.Sort(names)
	d := Datastore{ID: datastoreID(datastoreName), Name: datastoreName, Default: s.VersionID(s.cfg.Version)}
	for _, n := range names {
		d.Versions = append(d.Versions, Version{ID: s.VersionID(n), Name: n, Number: n})
	}
	list := []Datastore{d}
	for _, name := range s.cfg.Datastores {
		list = append(list, Datastore{ID: datastoreID(name), Name: name})
	}
	return list
}

func datastoreID(name string) string { return uuid.NewSHA1(namespace, []byte(name)).String() }

// VersionID is the id of the datastore version of a CouchDB version.
func (s *Server) VersionID(version string) string {
	return uuid.NewSHA1(namespace, []byte(datastoreName+"/"+majorMinor(version))).String()
}

// checkDatastore refuses a datastore or a version that there isn't, and one of which no
// instance can be made; either may be given by name or id.
func (s *Server) checkDatastore(name, version string) error {
	all := s.Datastores()
	n := 0
	if name != "" {
		n = slices.IndexFunc(all, func(d Datastore) bool { return name == d.Name || name == d.ID })
	}
	switch {
	case n < 0:
		return refuse(NotFound, "Datastore '%s' cannot be found.", name)
	case n > 0:
		return refuse(Invalid, "Datastore '%s' has no versions: only instances of %s can be made.", all[n].Name, datastoreName)
	case version == "" || slices.ContainsFunc(all[0].Versions, func(v Version) bool { return v.Name == version || v.ID == version }):
		return nil
	}
	return refuse(Invalid, "Datastore version '%s' cannot be found.", version)
}

// Flavor is what Trove calls the size of a machine. Our nodes are as large as they are,
// so there is one.
type Flavor struct {
	ID               int
	Name             string
	RAM, VCPUs, Disk int
}

// Text is the id as text.
func (f Flavor) Text() string { return strconv.Itoa(f.ID) }

const defaultFlavor = "1"

// Flavors returns all flavors.
func (s *Server) Flavors() []Flavor { return []Flavor{{ID: 1, Name: "node"}} }
