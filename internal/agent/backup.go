package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

const (
	lockPatience = time.Hour // that a job waits for another process's lock
	lockAgain    = 5 * time.Second
	// lookedBack bounds how many attempts before are asked for by their ids.
	lookedBack = 100
)

// backup makes the backup of a job, unless an attempt before has made it.
func (a *agent) backup(ctx context.Context, w *work) (*job.Report, error) {
	r, done, err := a.open(ctx, w, true)
	if err != nil {
		return nil, err
	}
	defer done()
	if in := &w.job.Spec.Repository; in.URL == "" && in.Storage == "" && a.facts.setRepository(r.Config().ID) {
		a.tellNews(ctx)
	}
	var copies []Place
	if w.job.Spec.Repository.Storage == "" && a.o.OpenCopies != nil {
		var closeCopies func()
		copies, closeCopies = a.o.OpenCopies(ctx, r)
		defer closeCopies()
	}
	var notes []string
	var rec *manifest.Record
	if w.job.Attempt > 1 {
		if rec, err = a.madeBefore(ctx, w, r); err != nil {
			return nil, err
		}
	}
	if rec == nil {
		if rec, notes, err = a.makeBackup(ctx, w, r, copies); err != nil {
			return nil, err
		}
		w.say("The backup is stored: %s, %s, of them %s new.", rec.Type, job.Amount(rec.SizeBytes), job.Amount(rec.StoredBytes))
	} else {
		w.say("An attempt before had stored it.")
	}
	missing, more, err := a.copyOn(ctx, w, r, rec, copies)
	if err != nil {
		return nil, err
	}
	result := resultOf(r, w.job.Spec.Repository, rec, append(notes, more...))
	result.Uncopied = missing
	return &job.Report{Result: result, Repository: whereIs(r, w.job.Spec.Repository), CouchDBVersion: rec.CouchDBVersion, Pins: a.pins(ctx, r, rec.Instance)}, nil
}

// madeBefore returns what an attempt before has committed, or nil. Taking the lock
// makes sure that none of them commits any more: its put may have been under way when
// its process died. The ids of the attempts are asked for one by one, since listings
// may be late.
func (a *agent) madeBefore(ctx context.Context, w *work, r *repo.Repo) (*manifest.Record, error) {
	name := w.job.Spec.RepoName
	err := a.whenFree(ctx, w, func() error {
		lock, err := r.Lock(ctx, name, "backup", "")
		if err != nil {
			return err
		}
		return lock.End(ctx)
	})
	if err != nil {
		return nil, err
	}
	for n := max(1, w.job.Attempt-lookedBack); n <= w.job.Attempt; n++ {
		id := attemptID(w.job.Backup, n)
		if id == "" {
			break
		}
		rec, err := r.Record(ctx, name, id)
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, repo.ErrNoBackup) {
			return nil, err
		}
	}
	recs, _, err := r.List(ctx, name)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(recs, func(rec *manifest.Record) bool { return rec.Labels[job.LabelBackup] == w.job.Backup }); i >= 0 {
		return recs[i], nil
	}
	return nil, nil
}

// attemptID is the id of a backup that an attempt makes: of the first one that of the
// service, of a later one its time, and bits that only the same attempt has, so that
// a next one can ask for it. It is "" if the service's id is none of a backup.
func attemptID(id string, attempt int) manifest.BackupID {
	u, err := uuid.Parse(id)
	switch {
	case err != nil || !manifest.BackupID(id).Valid():
		return ""
	case attempt <= 1:
		return manifest.BackupID(id)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s attempt %d", id, attempt))
	copy(u[6:], sum[:])
	u[6] = 0x70 | u[6]&0x0f
	u[8] = 0x80 | u[8]&0x3f
	return manifest.BackupID(u.String())
}

// makeBackup runs the engine between the hooks.
func (a *agent) makeBackup(ctx context.Context, w *work, r *repo.Repo, copies []Place) (rec *manifest.Record, notes []string, err error) {
	n, err := a.nodeOf(ctx, w.job.Instance)
	if err != nil {
		return nil, nil, err
	}
	if n.Version == "" { // where it is installed isn't known
		n.Version = a.versionOf(ctx, w.job.Instance, n)
	}
	w.say("It reads the files in %s and stores what is new in %s.", n.DataDir, r.URL())
	h := &hooks{o: &a.o, log: a.log.With("job", w.id), env: []string{"SLIPCOVER_BACKUP=" + w.job.Backup, "SLIPCOVER_INSTANCE=" + w.job.Spec.RepoName}}
	defer func() { notes = append(notes, h.after(ctx, err)...) }()
	if err := h.before(ctx); err != nil {
		return nil, nil, err
	}
	res, more, err := a.runEngine(ctx, w, r, n, copies, attemptID(w.job.Backup, w.job.Attempt))
	if errors.Is(err, repo.ErrIDUsed) { // this attempt was begun once before
		if rec, err = a.madeBefore(ctx, w, r); rec != nil || err != nil {
			return rec, nil, err
		}
		res, more, err = a.runEngine(ctx, w, r, n, copies, "")
	}
	if err != nil {
		return nil, nil, err
	}
	for _, p := range res.Problems {
		a.log.WarnContext(ctx, "keys in the repository were not as they should be", "job", w.id, "problem", p)
	}
	return res.Record, append(append(res.Problems, res.Notes...), more...), nil
}

// runEngine makes a backup under an id, "" for a new one, once no other process works on
// the instance. A parent that this node can't build on is not worth failing for: each
// backup restores alone.
func (a *agent) runEngine(ctx context.Context, w *work, r *repo.Repo, n *node.Node, copies []Place, id manifest.BackupID) (res *backup.Result, notes []string, err error) {
	o := a.o.Backup
	spec := &w.job.Spec
	o.Repo, o.Node, o.Instance, o.StateDir, o.Tool = r, n, spec.RepoName, a.o.StateDir, a.o.Version
	o.ID, o.Parent, o.Description = id, spec.Parent, spec.Description
	o.Name = cmp.Or(spec.Name, spec.RepoName+"-"+time.Now().UTC().Format("20060102-150405"))
	o.Labels, o.Cluster = maps.Clone(spec.Labels), a.clusterOf(w.job.Instance)
	o.Copies = nil
	for _, c := range copies {
		if c.Err == nil {
			o.Copies = append(o.Copies, c.Repo)
		}
	}
	o.Progress = &backup.Progress{}
	w.track(func() job.Progress {
		p := o.Progress
		of, done := p.Bytes()
		return job.Progress{Files: p.Files.Load(), FilesDone: p.FilesDone.Load(), Bytes: of, BytesDone: done, Stored: p.Stored.Load()}
	})
	if spec.Repository.Storage != "" {
		o.Recipients = a.o.readers(spec.Repository)
	}
	run := func() (err error) {
		res, err = backup.Run(ctx, o)
		return err
	}
	err = a.whenFree(ctx, w, run)
	if o.Parent != "" && (errors.Is(err, backup.ErrParent) || errors.Is(err, repo.ErrNoBackup)) {
		notes = append(notes, "built on the newest backup of this node and not on "+o.Parent+", of which the node knows too little")
		o.Parent = ""
		err = a.whenFree(ctx, w, run)
	}
	return res, notes, err
}

// copyOn copies a backup to the further repositories of the configuration, with what else
// they lack since their newest. One that fails is noted and counted: the backup is made,
// and the next one makes up for it. The error is that of an agent that ends: its next start
// goes on.
func (a *agent) copyOn(ctx context.Context, w *work, r *repo.Repo, rec *manifest.Record, copies []Place) (missing int, notes []string, err error) {
	for _, p := range copies {
		err := p.Err
		if err == nil {
			to := a.o.Backup.Recipients
			c := &backup.Copier{From: r, To: p.Repo, StateDir: a.o.StateDir, Recipients: to, Copy: repo.CopyOptions{Readers: to}}
			err = c.Newer(ctx, rec.Instance, rec.ID)
			notes = append(notes, c.Notes...)
			if err == nil {
				err = copyShipped(ctx, p.Repo, r, rec.Instance, to)
			}
		}
		switch {
		case err == nil:
			a.log.InfoContext(ctx, "backup copied", "job", w.id, "to", p.URL)
			w.say("It is copied to %s.", p.URL)
			continue
		case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errStopped):
			return 0, nil, context.Cause(ctx)
		}
		why := faultOf(err, w.mine()...)
		a.log.WarnContext(ctx, "the backup was made and could not be copied: the next one is copied with it", "job", w.id, "to", p.URL, "err", why)
		missing++
		notes = append(notes, fmt.Sprintf("it could not be copied to %s: %s; the next backup tries again", p.URL, why))
	}
	return missing, notes, nil
}

// copyShipped copies what was shipped before a backup, behind the newest that the repository has of it.
func copyShipped(ctx context.Context, to, from *repo.Repo, instance string, readers []string) error {
	if _, err := repo.CopyShipped(ctx, to, from, instance, repo.CopyShippedOptions{Readers: readers, Newer: true}); err != nil {
		return fmt.Errorf("what was shipped before it: %w", err)
	}
	return nil
}

// whenFree does something again while another process works on the instance's part
// of the repository, for at most lockPatience.
func (a *agent) whenFree(ctx context.Context, w *work, do func() error) error {
	began := time.Now()
	for tries := 0; ; tries++ {
		err := do()
		if !errors.Is(err, repo.ErrLocked) || time.Since(began) >= lockPatience {
			return err
		}
		if tries == 0 {
			a.log.InfoContext(ctx, "job waits for the lock of the instance in the repository", "job", w.id, "err", faultOf(err))
			w.say("It waits for %s's part of the repository: %v.", w.job.Spec.RepoName, err)
		}
		if !pause(ctx, lockAgain) {
			return context.Cause(ctx)
		}
	}
}

// open opens the repository of a job, if the node's settings allow its place, and refuses
// another one in its place.
func (a *agent) open(ctx context.Context, w *work, makeIt bool) (*repo.Repo, func(), error) {
	in := w.job.Spec.Repository
	if err := a.acceptsPlaceOf(ctx, w.job.Spec.RepoName, &in); err != nil {
		return nil, nil, err
	}
	if makeIt {
		if err := a.o.acceptsRecipients(in); err != nil {
			return nil, nil, err
		}
		if in.Storage != "" {
			in.Recipients = a.o.readers(in)
		}
	}
	o := Open{Repository: in, Make: makeIt}
	if in.Storage != "" {
		if w.secrets.Token == "" {
			return nil, nil, errors.New("the job is for the caller's own Swift account and brings no token for it: request it again")
		}
		o.Getenv = func(name string) string {
			switch name {
			case "OS_STORAGE_URL":
				return in.Storage
			case "OS_AUTH_TOKEN":
				return w.secrets.Token
			}
			return ""
		}
	}
	return a.openIn(ctx, o)
}

// acceptsPlaceOf refuses a place that the node's settings don't allow, and leaves the URL empty of the one of the configuration.
func (a *agent) acceptsPlaceOf(ctx context.Context, repoName string, in *job.Repository) error {
	if !manifest.ValidInstance(repoName) {
		return fmt.Errorf("the job names no instance in the repository (%q)", repoName)
	}
	if err := a.o.acceptsPlace(*in); err != nil {
		if !a.isOwnPlace(ctx, *in) {
			return err
		}
		in.URL = ""
	}
	if in.Storage == "" && a.o.isOwn(in.URL) {
		in.URL = "" // with the parameters of the configuration
	}
	return nil
}

// openIn opens a repository, and refuses another one in its place.
func (a *agent) openIn(ctx context.Context, o Open) (*repo.Repo, func(), error) {
	r, done, err := a.o.OpenRepo(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	if id := r.Config().ID; o.Repository.ID != "" && id != o.Repository.ID {
		done()
		return nil, nil, fmt.Errorf("%s holds the repository %s and not %s, which the job is for", r.URL(), id, o.Repository.ID)
	}
	return r, done, nil
}

// isOwnPlace reports whether a place is the repository of the configuration by another form
// of its URL, as the storage shows it: with the user who logs in, say.
func (a *agent) isOwnPlace(ctx context.Context, in job.Repository) bool {
	if in.Storage != "" || a.o.RepositoryURL == "" {
		return false
	}
	r, done, err := a.o.OpenRepo(ctx, Open{})
	if err != nil {
		return false
	}
	defer done()
	return r.URL() == in.URL
}

// whereIs says where the open repository is.
func whereIs(r *repo.Repo, asked job.Repository) *job.Repository {
	asked.URL, asked.ID = r.URL(), r.Config().ID
	return &asked
}

// resultOf is what a record says of its backup.
func resultOf(r *repo.Repo, in job.Repository, rec *manifest.Record, notes []string) *job.Result {
	return &job.Result{
		RepoID: string(rec.ID), Type: string(rec.Type), Size: rec.SizeBytes, Stored: rec.StoredBytes, Databases: rec.DatabaseCount, Order: rec.Order, Node: rec.Node(), Damage: rec.DamageCount,
		Checksum: rec.ManifestSHA256, LocationRef: LocationRef(r, in, rec), Started: &rec.Started, Finished: &rec.Finished, Notes: notes,
	}
}

// LocationRef is the URL of a backup's manifest, without secrets: of the object in
// Swift if the account is known, else what the storage goes by.
func LocationRef(r *repo.Repo, in job.Repository, rec *manifest.Record) string {
	key := fmt.Sprintf("backups/%s/%s/manifest.json.zst", rec.Instance, rec.ID)
	if r.Config().Encrypted() {
		key += ".age"
	}
	base, query, parameters := strings.Cut(r.URL(), "?")
	if place, ok := strings.CutPrefix(base, "swift://"); ok && in.Storage != "" {
		return strings.TrimRight(in.Storage, "/") + "/" + place + "/" + key
	}
	if parameters {
		return base + "/" + key + "?" + query
	}
	return base + "/" + key
}
