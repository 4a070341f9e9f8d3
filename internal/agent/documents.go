package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/takeout"
)

const (
	toldDocuments = 50  // that a report names
	toldPaths     = 100 // of one
)

// restoreDocuments puts documents of a state back into this node's CouchDB, each as a new revision, or says what that would do.
// Whoever has taken over a server can do nothing by it unless the node's own setting lets servers write.
func (a *agent) restoreDocuments(ctx context.Context, w *work) (*job.Report, error) {
	d := w.job.Spec.Documents
	switch {
	case !a.o.AcceptWrites:
		return nil, fmt.Errorf("this node (%s) lets no server write documents: its setting accept_writes would allow it", a.o.Host)
	case d == nil:
		return nil, errors.New("the job doesn't say which documents")
	case w.job.Instance != a.lastReply().Node || w.job.Spec.RepoName != a.lastReply().NodeName:
		return nil, errors.New("the job is not for the CouchDB that was here before this agent")
	}
	srv, err := a.writable(ctx, w)
	if err != nil {
		return nil, err
	}
	r, done, err := a.open(ctx, w, false)
	if err != nil {
		return nil, err
	}
	defer done()
	from, state, closeFrom, err := documentsOf(ctx, r, w.job.Spec.RepoName, d.From, d.DB)
	if err != nil {
		return nil, err
	}
	defer closeFrom()
	out := &job.DocumentsDone{State: state, DryRun: d.DryRun, Counts: map[string]int{}, Documents: []job.DocumentDone{}}
	ids := func(yield func(string) error) error { return yield(d.Doc) }
	if d.Until != nil {
		until, _, closeUntil, err := documentsOf(ctx, r, w.job.Spec.RepoName, *d.Until, d.DB)
		if err != nil {
			return nil, err
		}
		defer closeUntil()
		ids = func(yield func(string) error) (err error) {
			out.Purged, err = takeout.DeletedBetween(ctx, from, until, yield)
			return err
		}
	}
	p := &takeout.Progress{}
	w.track(func() job.Progress { return job.Progress{FilesDone: p.Docs.Load(), BytesDone: p.Bytes.Load()} })
	counts, err := takeout.Documents(ctx, takeout.DocOptions{Server: srv, Target: cmp.Or(d.Target, d.DB), From: from, Rev: d.Rev, On: d.On,
		Replace: d.Replace || d.Until == nil, DryRun: d.DryRun, Diff: d.Until == nil, Progress: p, Tell: func(x *takeout.DocResult) error {
			if x.Outcome == takeout.Same && d.Until != nil {
				return nil
			}
			if len(out.Documents) == toldDocuments {
				out.More++
				return nil
			}
			out.Documents = append(out.Documents, documentDone(x))
			return nil
		}}, ids)
	for outcome, n := range counts {
		out.Counts[string(outcome)] = n
	}
	if err != nil {
		if n := counts[takeout.Written]; n > 0 && !d.DryRun {
			err = fmt.Errorf("%w; documents written before: %d, and the same request goes on", err, n)
		}
		return nil, err
	}
	return &job.Report{Documents: out}, nil
}

func documentDone(x *takeout.DocResult) job.DocumentDone {
	d := job.DocumentDone{ID: x.ID, Outcome: string(x.Outcome), From: x.From, Was: x.Was, WasDeleted: x.WasDeleted, Rev: x.Rev, Reason: x.Reason}
	for _, c := range x.Changes[:min(len(x.Changes), toldPaths)] {
		d.Paths = append(d.Paths, c.Path)
	}
	return d
}

// writable is this node's CouchDB for the user whom the caller named, or the one of the settings. Where it is says the node alone.
func (a *agent) writable(ctx context.Context, w *work) (*takeout.Server, error) {
	n, err := a.o.Locate(ctx)
	if err != nil {
		return nil, err
	}
	at := cmp.Or(a.o.CouchURL, urlOf(n))
	if at == "" {
		return nil, errors.New("it isn't known where this node's CouchDB answers: its setting couch_url says so")
	}
	user, password := w.secrets.CouchUser, w.secrets.CouchPassword
	if user == "" {
		user, password = a.o.CouchUser, a.o.CouchPassword
	}
	if user == "" {
		return nil, errors.New("this node has no couch_user and couch_password: name a user of CouchDB with the request")
	}
	srv, db, err := takeout.Open(ctx, at, user, password)
	if err == nil && db != "" {
		err = fmt.Errorf("couch_url of this node names a database, %s", db)
	}
	return srv, err
}

// documentsOf opens a database of a state.
func documentsOf(ctx context.Context, r *repo.Repo, instance string, ref job.StateRef, db string) (_ *serve.Database, state string, done func(), err error) {
	var m *manifest.Manifest
	if ref.RepoID != "" {
		rec, err := r.Record(ctx, instance, manifest.BackupID(ref.RepoID))
		if err != nil {
			return nil, "", nil, err
		}
		if m, err = r.Manifest(ctx, rec); err != nil {
			return nil, "", nil, err
		}
		state = "backup " + rec.Name + " of " + rec.Started.UTC().Format(time.RFC3339)
	} else {
		var moment *repo.Moment
		if m, moment, err = r.At(ctx, instance, ref.At); err != nil {
			return nil, "", nil, err
		}
		state = "the moment of " + moment.At.UTC().Format(time.RFC3339)
	}
	n, err := serve.OpenNode(ctx, r, m)
	if err != nil {
		return nil, "", nil, err
	}
	d, err := n.Database(db)
	if err != nil {
		n.Close()
		return nil, "", nil, fmt.Errorf("%w in %s", err, state)
	}
	return d, strings.TrimSpace(state), n.Close, nil
}
