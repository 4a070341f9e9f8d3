package server

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
)

// Found is a backup that a repository has, for Rebuild.
type Found struct {
	Record      *manifest.Record
	Repository  job.Repository
	LocationRef string
	Verified    *job.Proof // of the mark that it was verified; nil if there is none
	Pin         *job.Pin   // nil if it isn't pinned
}

// Rebuilt counts what Rebuild did.
type Rebuilt struct {
	Backups   int `json:"backups"`   // that were added
	Known     int `json:"known"`     // that were there
	Instances int `json:"instances"` // that were added, without an agent until it joins
	Sets      int `json:"sets"`      // that were added
}

// Rebuild puts backups that repositories have into the catalog, under the ids that they
// had, and the instances that they are of. What is there stays as it is. Backups that
// the service didn't make go to the project given. An instance gets its agent when one
// of its name joins.
func Rebuild(ctx context.Context, b *bus.Bus, project string, found []Found) (r Rebuilt, err error) {
	s, err := New(ctx, Config{Bus: b, Log: discard})
	if err != nil {
		return r, err
	}
	known := map[string]bool{} // ids in repositories
	inner, cancel := context.WithCancel(ctx)
	g, inner := errgroup.WithContext(inner)
	defer func() {
		cancel()
		if werr := g.Wait(); err == nil && !errors.Is(werr, context.Canceled) {
			err = werr
		}
	}()
	g.Go(func() error { return s.backups.follow(inner) })
	g.Go(func() error { return s.instances.follow(inner) })
	g.Go(func() error { return s.sets.follow(inner) })
	for _, ready := range []chan struct{}{s.backups.ready, s.instances.ready, s.sets.ready} {
		select {
		case <-ready:
		case <-inner.Done():
			return r, inner.Err()
		}
	}
	s.backups.all(func(_ string, b *job.Backup) bool {
		known[b.RepoID] = true
		return true
	})
	sets := map[string]*job.Set{}
	for _, f := range found {
		if known[string(f.Record.ID)] {
			r.Known++
			continue
		}
		doc, instance := f.documents(project)
		if err := s.rebuildInstance(ctx, instance, &r); err != nil {
			return r, err
		}
		doc.Instance = instance.ID
		if doc.Set != "" {
			sets[doc.Set] = f.addTo(sets[doc.Set], doc, instance)
		}
		switch err := s.backups.create(ctx, doc.ID, doc); {
		case errors.Is(err, bus.ErrExists):
			r.Known++
		case err != nil:
			return r, err
		default:
			r.Backups++
		}
	}
	for _, f := range found { // once all members are there that have names
		if t := sets[f.Record.Labels[job.LabelSet]]; t != nil {
			f.addUnnamed(t)
		}
	}
	for id, t := range sets {
		if err := s.rebuildSet(ctx, id, t, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// addTo adds a stored backup to its set, which is nil if it is the first of it that was found, with what it knows of the
// cluster's other nodes.
func (f *Found) addTo(t *job.Set, b *job.Backup, i *job.Instance) *job.Set {
	if t == nil {
		t = &job.Set{ID: b.Set, Name: strings.TrimSuffix(b.Name, " "+i.Name), Project: b.Project, Cluster: cmp.Or(f.Record.Labels[job.LabelCluster], f.Record.Cluster),
			Schedule: b.Schedule, Created: b.Created, Updated: b.Updated, Order: b.Order}
	}
	if b.Created.Before(t.Created) {
		t.Created = b.Created
	}
	if b.Project != t.Project { // and so of no set of that project
		return t
	}
	t.Order = min(t.Order, b.Order)
	member := func(node string) *job.SetMember {
		n := slices.IndexFunc(t.Members, func(m job.SetMember) bool { return m.Node == node })
		if n < 0 {
			n = len(t.Members)
			t.Members = append(t.Members, job.SetMember{Node: node, Begun: true, Why: notStored})
		}
		return &t.Members[n]
	}
	for _, node := range f.Record.Nodes {
		member(node)
	}
	own := cmp.Or(f.Record.NodeName, i.Name)
	*member(own) = job.SetMember{Node: own, Instance: i.ID, InstanceName: i.Name, Begun: true}
	return t
}

// unnamed is the node of members of which is known only that there are as many.
const unnamed = "?"

// addUnnamed adds the members of which no backup was found that tells their names: else a set that lost them was whole.
func (f *Found) addUnnamed(t *job.Set) {
	nodes, _ := strconv.Atoi(f.Record.Labels[job.LabelSetNodes]) // 0 of earlier versions
	for len(t.Members) < min(nodes, maxSetNodes) {
		t.Members = append(t.Members, job.SetMember{Node: unnamed, Begun: true, Why: notStored})
	}
}

const (
	notStored   = "it is not in the repository"
	maxSetNodes = 1024 // that a label of a backup is believed, as many as a cluster may have
)

// rebuildSet stores a set, or adds the members to it of which a backup is in another repository.
func (s *Server) rebuildSet(ctx context.Context, id string, t *job.Set, r *Rebuilt) error {
	byNode := func(a, b job.SetMember) int { return strings.Compare(a.Node, b.Node) }
	slices.SortFunc(t.Members, byNode)
	err := s.sets.create(ctx, id, t)
	if !errors.Is(err, bus.ErrExists) {
		r.Sets++
		return err
	}
	_, err = s.sets.update(ctx, id, func(old *job.Set) error {
		members := slices.Clone(old.Members)
		for _, m := range t.Members {
			at := func(node string) int {
				return slices.IndexFunc(members, func(o job.SetMember) bool { return o.Node == node })
			}
			n := at(m.Node)
			if n < 0 {
				n = at(unnamed)
			}
			switch {
			case m.Node == unnamed: // there were as many before
			case n < 0:
				members = append(members, m)
			case members[n].Instance == "":
				members[n] = m
			}
		}
		if slices.SortFunc(members, byNode); slices.Equal(members, old.Members) {
			return errSame
		}
		old.Members = members
		return nil
	})
	return err
}

// rebuildInstance stores an instance unless there is one of that id or of that name in
// repositories, whose id it then takes.
func (s *Server) rebuildInstance(ctx context.Context, i *job.Instance, r *Rebuilt) error {
	s.instances.all(func(id string, o *job.Instance) bool {
		if o.RepoName == i.RepoName && o.Project == i.Project {
			i.ID = id
			return false
		}
		return true
	})
	err := s.instances.create(ctx, i.ID, i)
	if errors.Is(err, bus.ErrExists) {
		return nil
	}
	r.Instances++
	return err
}

// documents are what the catalog has of a stored backup and of its instance.
func (f *Found) documents(project string) (*job.Backup, *job.Instance) {
	rec, l := f.Record, f.Record.Labels
	project = cmp.Or(l[job.LabelProject], project)
	i := &job.Instance{ID: cmp.Or(l[job.LabelInstance], newID()), Name: cmp.Or(l[job.LabelInstanceName], rec.Instance), Project: project,
		RepoName: rec.Instance, Status: job.InstanceActive, Flavor: defaultFlavor, CouchDBVersion: rec.CouchDBVersion, Created: rec.Started, Updated: rec.Finished}
	b := &job.Backup{ID: cmp.Or(l[job.LabelBackup], string(rec.ID)), Name: rec.Name, Description: rec.Description, Project: project,
		Parent: l[job.LabelParent], Schedule: l[job.LabelSchedule], Set: l[job.LabelSet], Status: job.BackupCompleted, CouchDBVersion: rec.CouchDBVersion,
		Repository: f.Repository, RepoName: rec.Instance, Proof: f.Verified, Pin: f.Pin, Created: rec.Started, Updated: rec.Finished,
		Result: job.Result{RepoID: string(rec.ID), Type: string(rec.Type), Size: rec.SizeBytes, Stored: rec.StoredBytes, Databases: rec.DatabaseCount,
			Order: rec.Order, Node: rec.Node(), Damage: rec.DamageCount, Checksum: rec.ManifestSHA256, LocationRef: f.LocationRef, Started: &rec.Started, Finished: &rec.Finished}}
	if b.Pin != nil {
		tidy(maxSentence, &b.Pin.Reason)
	}
	return b, i
}
