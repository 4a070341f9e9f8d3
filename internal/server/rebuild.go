package server

import (
	"cmp"
	"context"
	"errors"

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
}

// Rebuilt counts what Rebuild did.
type Rebuilt struct {
	Backups   int `json:"backups"`   // that were added
	Known     int `json:"known"`     // that were there
	Instances int `json:"instances"` // that were added, without an agent until it joins
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
	for _, ready := range []chan struct{}{s.backups.ready, s.instances.ready} {
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
		switch err := s.backups.create(ctx, doc.ID, doc); {
		case errors.Is(err, bus.ErrExists):
			r.Known++
		case err != nil:
			return r, err
		default:
			r.Backups++
		}
	}
	return r, nil
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
		Parent: l[job.LabelParent], Schedule: l[job.LabelSchedule], Status: job.BackupCompleted, CouchDBVersion: rec.CouchDBVersion,
		Repository: f.Repository, RepoName: rec.Instance, Proof: f.Verified, Created: rec.Started, Updated: rec.Finished,
		Result: job.Result{RepoID: string(rec.ID), Type: string(rec.Type), Size: rec.SizeBytes, Stored: rec.StoredBytes, Databases: rec.DatabaseCount,
			Order: rec.Order, Node: rec.Node(), Damage: rec.DamageCount, Checksum: rec.ManifestSHA256, LocationRef: f.LocationRef, Started: &rec.Started, Finished: &rec.Finished}}
	return b, i
}
