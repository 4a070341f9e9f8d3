package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

// tryMoment restores a moment and starts a CouchDB on it, or where the test of the backup had none, opens it to be read.
func (a *agent) tryMoment(ctx context.Context, w *work, o restore.TrialOptions, base *manifest.Record, m *manifest.Manifest, p *job.Proof) (*job.Proof, error) {
	began := time.Now()
	if !p.Server {
		q := &job.Proof{OK: true}
		err := tryOut(ctx, o.Repo, m, q)
		q.Took, p.Sampled = time.Since(began).Seconds(), p.Sampled+q.Sampled
		return q, err
	}
	o.Record, o.Moment, o.Progress = base, m, &restore.Progress{}
	w.trackRestore(o.Progress)
	rep, err := restore.Trial(ctx, o)
	if err != nil {
		return nil, err
	}
	return proofOf(rep), nil
}

// proveMoment restores the newest moment of a backup's instance as well, if something was shipped, and holds it
// against the running CouchDB, if that is this agent's. What is wrong goes into the proof.
func (a *agent) proveMoment(ctx context.Context, w *work, o restore.TrialOptions, p *job.Proof) error {
	name := w.job.Spec.RepoName
	m, moment, err := o.Repo.At(ctx, name, time.Now())
	switch {
	case errors.Is(err, repo.ErrNoMoment), errors.Is(err, repo.ErrGap):
		p.OK, p.Problem = false, "the newest moment that was shipped can't be put together: "+faultOf(err)
		return nil
	case err != nil:
		return err
	case moment.Chain == "": // nothing is shipped yet
		return nil
	}
	q, err := a.tryMoment(ctx, w, o, moment.Base, m, p)
	if err != nil {
		return err
	}
	p.Moment, p.Took = moment.At.UTC(), p.Took+q.Took
	what := fmt.Sprintf("the moment of %s, which was shipped: ", p.Moment.Format(time.RFC3339))
	if !q.OK {
		p.OK, p.Problem = false, clip(what+q.Problem, maxFault)
		return nil
	}
	wanted, _ := a.shipping.now()
	i := slices.IndexFunc(wanted, func(s job.Ship) bool { return s.RepoName == name })
	if i < 0 { // another agent's
		return nil
	}
	n, err := a.shippedNode(ctx, wanted[i].Instance)
	if err != nil {
		return err
	}
	live, err := restore.CompareLive(ctx, m, n.DataDir)
	if err != nil {
		return err
	}
	p.Compared = live.Same
	if len(live.Differences) > 0 {
		p.OK, p.Problem = false, clip(oneLine(what+live.Differences[0].What), maxFault)
	}
	return nil
}
