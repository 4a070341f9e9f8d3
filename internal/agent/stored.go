package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// deleteBackup removes a backup from its repository. One that is gone is no error.
func (a *agent) deleteBackup(ctx context.Context, w *work) (*job.Report, error) {
	id := manifest.BackupID(w.job.Spec.RepoID)
	if !id.Valid() {
		return nil, fmt.Errorf("the job names no backup in the repository (%q)", w.job.Spec.RepoID)
	}
	r, done, err := a.open(ctx, w, false)
	if err != nil {
		return nil, err
	}
	defer done()
	err = a.whenFree(ctx, w, func() error {
		lock, err := r.Lock(ctx, w.job.Spec.RepoName, "prune", "")
		if err != nil {
			return err
		}
		_, err = r.Prune(ctx, lock, repo.PruneOptions{Remove: []manifest.BackupID{id}, Now: time.Now()})
		if rerr := lock.End(ctx); rerr != nil { // it is free when this process ends
			a.log.WarnContext(ctx, "a lock could not be released", "job", w.id, "err", faultOf(rerr))
		}
		return err
	})
	if errors.Is(err, repo.ErrNoBackup) {
		err = nil
	}
	return nil, err
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
	return &job.Report{Result: resultOf(r, w.job.Spec.Repository, rec, nil), Repository: whereIs(r, w.job.Spec.Repository), CouchDBVersion: rec.CouchDBVersion}, nil
}

// prove restores a backup for a test.
func (a *agent) prove(ctx context.Context, w *work) (*job.Report, error) {
	return nil, errors.New("this agent does not make restore tests")
}
