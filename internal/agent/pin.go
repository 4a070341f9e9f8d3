package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

const (
	maxReason = 800 // bytes of a pin's reason that are told
	maxPins   = 500 // pins that are told; of more none are
)

// pin pins the backup of a job in its repository, or takes its pin away. Both may be done again: an agent that died before it
// could say so does the same once more.
func (a *agent) pin(ctx context.Context, w *work) (*job.Report, error) {
	id := manifest.BackupID(w.job.Spec.RepoID)
	switch {
	case !id.Valid():
		return nil, fmt.Errorf("the job names no backup in the repository (%q)", id)
	case w.job.Kind == job.KindPin && w.job.Spec.Pin == nil:
		return nil, fmt.Errorf("the job doesn't say why %s is pinned", id)
	}
	r, done, err := a.open(ctx, w, false)
	if err != nil {
		return nil, err
	}
	defer done()
	return nil, a.locked(ctx, w, r, func(lock *repo.Lock) error {
		if w.job.Kind == job.KindUnpin {
			w.say("It takes the pin of %s away in %s.", id, r.URL())
			return r.Unpin(ctx, lock, id)
		}
		w.say("It marks %s as pinned in %s: %s.", id, r.URL(), w.job.Spec.Pin.Reason)
		return r.Pin(ctx, lock, id, repo.Pin{Reason: w.job.Spec.Pin.Reason, Since: w.job.Spec.Pin.Since})
	})
}

// pinOf is how the backup of a job is pinned; nil if it isn't, or that can't be read.
func (a *agent) pinOf(ctx context.Context, r *repo.Repo, j *job.Job) *job.Pin {
	p, err := r.Pinned(ctx, j.Spec.RepoName, manifest.BackupID(j.Spec.RepoID))
	if err != nil {
		a.log.WarnContext(ctx, "it can't be read whether a backup is pinned", "job", j.ID, "err", faultOf(err))
	}
	if p == nil {
		return nil
	}
	return toldPin(p)
}

// pins are those of an instance's backups, by their ids, so that a server knows of those that were made by others; nil if they
// can't be read, or are too many to be told.
func (a *agent) pins(ctx context.Context, r *repo.Repo, instance string) map[string]job.Pin {
	found, err := r.Pins(ctx, instance)
	if err != nil {
		a.log.WarnContext(ctx, "it can't be read which backups are pinned", "instance", instance, "err", faultOf(err))
		return nil
	}
	if len(found) > maxPins {
		a.log.WarnContext(ctx, "too many backups are pinned to tell the server which", "instance", instance, "pins", len(found))
		return nil
	}
	told := map[string]job.Pin{}
	for id, p := range found {
		told[string(id)] = *toldPin(p)
	}
	return told
}

func toldPin(p *repo.Pin) *job.Pin {
	return &job.Pin{Reason: clip(strings.Join(strings.Fields(p.Reason), " "), maxReason), Since: p.Since}
}
