package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/serve/tryout"
	"github.com/slipcover/slipcover/internal/storage"
)

// deleteBackup removes a backup from its repository. One that is gone is no error; of one
// that is pinned or protected the report says that all of it is still there. A job without
// RepoID is for a backup that was given up: it removes what its attempts have committed,
// which may be nothing.
func (a *agent) deleteBackup(ctx context.Context, w *work) (*job.Report, error) {
	id := manifest.BackupID(w.job.Spec.RepoID)
	if id != "" && !id.Valid() || id == "" && w.job.Backup == "" {
		return nil, fmt.Errorf("the job names no backup in the repository (%q)", id)
	}
	r, done, err := a.open(ctx, w, false)
	if id == "" && errors.Is(err, repo.ErrNoRepository) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer done()
	report := &job.Report{}
	err = a.locked(ctx, w, r, func(lock *repo.Lock) (err error) {
		ids := []manifest.BackupID{id}
		if id == "" { // with the lock, so that no attempt commits any more
			ids, err = madeOf(ctx, r, w.job)
		}
		if err != nil || len(ids) == 0 {
			return err
		}
		_, err = r.Prune(ctx, lock, repo.PruneOptions{Remove: ids, KeepMoments: cmp.Or(w.job.Spec.KeepMoments, a.o.KeepMoments), Now: time.Now()})
		report.Kept = errors.Is(err, repo.ErrPinned) || errors.Is(err, storage.ErrRetained)
		if id != "" && errors.Is(err, repo.ErrPinned) {
			report.Pin = a.pinOf(ctx, r, w.job)
		}
		return err
	})
	if errors.Is(err, repo.ErrNoBackup) {
		err = nil
	}
	return report, err
}

// locked does something in the part of a repository that is of the job's instance, alone.
func (a *agent) locked(ctx context.Context, w *work, r *repo.Repo, do func(*repo.Lock) error) error {
	return a.whenFree(ctx, w, func() error {
		lock, err := r.Lock(ctx, w.job.Spec.RepoName, "prune", "")
		if err != nil {
			return err
		}
		err = do(lock)
		if rerr := lock.End(ctx); rerr != nil { // it is free when this process ends
			a.log.WarnContext(ctx, "a lock could not be released", "job", w.id, "err", faultOf(rerr))
		}
		return err
	})
}

// madeOf returns the ids of all that attempts at the backup of a job have committed.
// Listings may be late, so the ids are asked for, too.
func madeOf(ctx context.Context, r *repo.Repo, j *job.Job) (ids []manifest.BackupID, err error) {
	recs, _, err := r.List(ctx, j.Spec.RepoName)
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		if rec.Labels[job.LabelBackup] == j.Backup && !slices.Contains(j.Spec.Keep, string(rec.ID)) {
			ids = append(ids, rec.ID)
		}
	}
	for n := 1; n <= job.MaxAttempts; n++ {
		id := attemptID(j.Backup, n)
		if id == "" || slices.Contains(ids, id) || slices.Contains(j.Spec.Keep, string(id)) {
			continue
		}
		switch _, err := r.Record(ctx, j.Spec.RepoName, id); {
		case err == nil:
			ids = append(ids, id)
		case !errors.Is(err, repo.ErrNoBackup):
			return nil, err
		}
	}
	return ids, nil
}

// adopt reads what a stored backup is.
func (a *agent) adopt(ctx context.Context, w *work) (*job.Report, error) {
	r, done, err := a.open(ctx, w, false)
	if err != nil {
		return nil, err
	}
	defer done()
	rec, err := r.Record(ctx, w.job.Spec.RepoName, manifest.BackupID(w.job.Spec.RepoID))
	if err != nil {
		return nil, err
	}
	// The agents of several projects may share a repository; who has a Swift account has
	// what is in it.
	if job.OfOtherProject(rec.Labels, w.job.Project) && w.job.Spec.Repository.Storage == "" {
		return nil, errors.New("the backup is another project's")
	}
	return &job.Report{Result: resultOf(r, w.job.Spec.Repository, rec, nil), Repository: whereIs(r, w.job.Spec.Repository), CouchDBVersion: rec.CouchDBVersion,
		Pin: a.pinOf(ctx, r, w.job)}, nil
}

// prove restores a backup for a test. What is wrong with the backup is the proof's to
// say: the job is done then, too.
func (a *agent) prove(ctx context.Context, w *work) (*job.Report, error) {
	r, done, err := a.open(ctx, w, false)
	if err != nil {
		return nil, err
	}
	defer done()
	began := time.Now()
	rec, err := r.Record(ctx, w.job.Spec.RepoName, manifest.BackupID(w.job.Spec.RepoID))
	if err != nil {
		return unproven(began, err)
	}
	o := restore.TrialOptions{Repo: r, Record: rec, Parent: a.trials(), CouchDBBin: a.o.CouchDBBin, Owner: a.o.Owner, Timeout: startTime,
		NoServer: a.noCouchDB(), Parallel: a.o.Backup.Parallel, Progress: &restore.Progress{}}
	w.trackRestore(o.Progress)
	w.say("It restores the backup of %s, %s, for the test.", minute(rec.Finished), job.Amount(rec.SizeBytes))
	rep, err := restore.Trial(ctx, o)
	if err != nil {
		return unproven(began, err)
	}
	switch {
	case rep.Server:
		w.say("A CouchDB was started on it and asked, and all of it is removed again.")
	default:
		w.say("No CouchDB is here to be started on it: it is opened by Slipcover itself.")
	}
	p := proofOf(rep)
	if !rep.Server && p.OK {
		m, err := r.Manifest(ctx, rec)
		if err == nil {
			err = tryOut(ctx, r, m, p)
		}
		if err != nil {
			return unproven(began, err)
		}
		p.Took = time.Since(began).Seconds()
	}
	if w.job.Spec.Moment && p.OK {
		w.say("It tests the newest moment that was shipped, too.")
		if err := a.proveMoment(ctx, w, o, p); err != nil {
			return unproven(began, err)
		}
	}
	if sound(rep) && p.OK {
		if err := r.MarkVerified(ctx, rec, repo.Verified{At: p.At, Tool: a.o.Version}); err != nil { // who may only read can't say it
			a.log.WarnContext(ctx, "the backup is sound, but that could not be noted beside it", "job", w.id, "err", faultOf(err, w.mine()...))
		}
	}
	return &job.Report{Proof: p, CouchDBVersion: rec.CouchDBVersion}, nil
}

// noCouchDB reports whether the settings name a program that isn't there, by which they say that none is to be started.
func (a *agent) noCouchDB() bool {
	return a.o.CouchDBBin != "" && restore.CouchDBBinary(a.o.CouchDBBin) == ""
}

// tryOut opens what is stored as a CouchDB, where there is none to start on it, and adds to a proof what that answers. Files
// of CouchDB 1 have no shards, and are not opened.
func tryOut(ctx context.Context, r *repo.Repo, m *manifest.Manifest, p *job.Proof) error {
	if manifest.CouchDB1(m.Files) {
		return nil
	}
	rep, err := tryout.Run(ctx, r, m)
	if err != nil {
		return err
	}
	p.Served, p.Sampled, p.Databases = true, p.Sampled+rep.Sampled, rep.Databases
	for _, d := range rep.Differences {
		if !d.Known && p.OK {
			p.OK, p.Problem = false, clip(oneLine(fmt.Sprintf("opened to be read, database %q: %s", d.Database, d.What)), maxFault)
		}
	}
	return nil
}

// unproven tells an error of a restore test. One that says that the backup can't be
// restored is a proof of that; after others nothing is known of it.
func unproven(began time.Time, err error) (*job.Report, error) {
	for _, bad := range []error{repo.ErrCorrupt, storage.ErrNotExist, repo.ErrSignature, repo.ErrKeyGone, restore.ErrMismatch} {
		if errors.Is(err, bad) {
			return &job.Report{Proof: &job.Proof{At: time.Now().UTC(), Took: time.Since(began).Seconds(), Problem: faultOf(err)}}, nil
		}
	}
	return nil, err
}

// trials is where restore tests are done. CouchDB's user must get there, so it is
// beside the instances, if the agent makes any.
func (a *agent) trials() string {
	if a.o.InstancesDir != "" {
		return filepath.Join(a.o.InstancesDir, "trials")
	}
	return filepath.Join(a.dir, "trials")
}

func proofOf(rep *restore.TrialReport) *job.Proof {
	p := &job.Proof{At: time.Now().UTC(), OK: rep.OK(), Server: rep.Server, Databases: rep.Databases, Documents: rep.Docs, Took: rep.Took.Seconds()}
	problems := slices.Clone(rep.Problems) // first what the others come from
	for _, d := range rep.Differences {
		if !d.Known {
			problems = append(problems, fmt.Sprintf("database %q: %s", d.Database, d.What))
		}
	}
	if v := rep.Verify; v != nil {
		p.Documents = v.Docs
		for _, f := range v.Findings {
			if !f.Known {
				problems = append(problems, fmt.Sprintf("%s at %d: %s", f.Path, f.Offset, f.What))
			}
		}
	}
	if len(problems) > 0 {
		p.Problem = clip(oneLine(problems[0]), maxFault)
	}
	return p
}

// sound says that nothing at all is wrong with a backup, not even what it says itself:
// retention may rely on it.
func sound(rep *restore.TrialReport) bool {
	return rep.OK() && len(rep.Differences)+len(rep.Problems) == 0 && (rep.Verify == nil || rep.Verify.Known == 0)
}
