package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

// passwordName is the file with the admin's password in the directory of an instance,
// if the agent made it up.
const passwordName = "admin-password"

const (
	restartTime = 5 * time.Minute // for the command that restarts a node
	answerTime  = 2 * time.Minute // for a CouchDB to answer that was started
	startTime   = 2 * time.Minute // for a new CouchDB to answer
)

// create makes an instance, of a backup or empty. Killed at any moment it goes on
// where it was: the instance is in the agent's file before anything is made, and a
// password that is made up is stored before it is used.
func (a *agent) create(ctx context.Context, w *work) (*job.Report, error) {
	id := w.job.Instance
	if a.o.InstancesDir == "" {
		return nil, errors.New("this agent makes no instances: its setting instances_dir is empty")
	}
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return nil, fmt.Errorf("%q is not the id of an instance", id) // it becomes a path
	}
	i, ok := a.made.get(id)
	if !ok {
		i = instance{ID: id, Dir: filepath.Join(a.o.InstancesDir, id)}
		if _, err := os.Lstat(i.Dir); err == nil {
			return nil, fmt.Errorf("there is something in %s already that this agent did not make: move it away", i.Dir)
		}
		if err := a.made.put(i); err != nil {
			return nil, err
		}
	}
	o := restore.CreateOptions{Name: id, Dir: i.Dir, BindAddress: a.o.BindAddress, CouchDBBin: a.o.CouchDBBin, Start: true, Owner: a.o.Owner, Timeout: startTime,
		History: restore.HistoryByMoment, Parallel: a.o.Backup.Parallel, Progress: &restore.Progress{}}
	w.trackRestore(o.Progress)
	if w.job.Spec.RepoID != "" {
		r, done, err := a.open(ctx, w, false)
		if err != nil {
			return nil, err
		}
		defer done()
		o.Repo = r
		what, at, err := sourceOf(ctx, r, w.job, &o)
		if err != nil {
			return nil, err
		}
		if i.At.IsZero() && !at.IsZero() { // an attempt after a kill may find more: then it is at least that
			i.At = at
			if err := a.made.put(i); err != nil {
				return nil, err
			}
		}
		w.say("It restores %s out of %s, %s, into %s, which has %s free.", what, r.URL(), job.Amount(o.Record.SizeBytes), i.Dir, job.Amount(freeBytes(a.o.InstancesDir)))
	}
	made, err := a.makeInstance(ctx, w, o)
	if made != nil && made.URL != "" && made.Running {
		w.say("CouchDB was started at %s.", made.URL)
	}
	if made != nil && len(made.Notes) > 0 {
		a.log.WarnContext(ctx, "an instance was made", "instance", id, "notes", made.Notes)
	}
	report := &job.Report{}
	if made != nil && made.URL != "" {
		i.URL, i.Run = made.URL, err == nil
		report.URL, report.Result = made.URL, &job.Result{Notes: made.Notes}
		if r := made.Restored; r != nil && r.History != nil {
			report.Result.Notes = append(report.Result.Notes, r.History.String())
			if r.ComesBack != nil {
				report.Result.Notes = append(report.Result.Notes, r.ComesBack.String())
			}
		}
		if !i.At.IsZero() {
			report.Result.Notes = append(report.Result.Notes, fmt.Sprintf("it has the state of %s, the newest that was stored up to %s", second(i.At), second(w.job.Spec.At)))
		}
		if perr := a.made.put(i); err == nil {
			err = perr
		}
	}
	if err != nil {
		return report, err
	}
	a.measure(ctx, id, i.locate)
	up, err := a.answers(ctx, i.URL)
	if err != nil {
		return report, err
	}
	report.CouchDBVersion = up.CouchDBVersion
	a.tellNews(ctx)
	return report, nil
}

// minute is a time as agents write one to the minute, and second one to the second.
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
func second(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// sourceOf finds the backup of a job, or the newest state up to its moment, and says in words which it is, and of a moment when that
// state was. A moment is whatever is stored under the name, so all of that must be the job's project's.
func sourceOf(ctx context.Context, r *repo.Repo, j *job.Job, o *restore.CreateOptions) (what string, at time.Time, err error) {
	spec := &j.Spec
	if spec.At.IsZero() {
		if o.Record, err = r.Record(ctx, spec.RepoName, manifest.BackupID(spec.RepoID)); err != nil {
			return "", at, err
		}
		return "the backup of " + minute(o.Record.Finished), at, nil
	}
	list, _, err := r.List(ctx, spec.RepoName)
	if err != nil {
		return "", at, err
	}
	for _, rec := range list {
		if job.OfOtherProject(rec.Labels, j.Project) {
			return "", at, errors.New("what is stored there is another project's")
		}
	}
	m, moment, err := r.At(ctx, spec.RepoName, spec.At)
	if err != nil {
		return "", at, err
	}
	o.Record, o.Moment = moment.Base, m
	return fmt.Sprintf("the moment of %s, the newest state up to %s,", second(moment.At), second(spec.At)), moment.At, nil
}

// makeInstance makes and starts it, and sees to its admin's password.
func (a *agent) makeInstance(ctx context.Context, w *work, o restore.CreateOptions) (*restore.Created, error) {
	secret := filepath.Join(a.dir, "secrets", o.Name)
	o.AdminPassword = w.secrets.Password
	if o.AdminPassword == "" {
		var err error
		if o.AdminPassword, err = keptPassword(secret, filepath.Join(o.Dir, passwordName)); err != nil {
			return nil, err
		}
		w.hidden = o.AdminPassword
	}
	made, err := restore.Create(ctx, o)
	if err != nil {
		return made, err
	}
	if made.Restored != nil && !made.Restored.OK() {
		what := made.Restored.Wrong()
		does := "runs"
		if !made.Running {
			does = "is made and does not run"
		}
		return made, fmt.Errorf("the instance %s, but the backup did not restore whole: %s (%d problems in all)", does, what[0], len(what))
	}
	if !made.Running {
		return made, errors.New("the instance is made and does not run: there is no CouchDB program on this machine; install CouchDB or set couchdb_bin")
	}
	if w.secrets.Password == "" {
		path := filepath.Join(o.Dir, passwordName)
		if err := writeSecret(path, o.AdminPassword); err != nil {
			return made, fmt.Errorf("store the admin's password: %w", err)
		}
		if err := os.Remove(secret); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return made, err
		}
		made.Notes = append(made.Notes, fmt.Sprintf("the password of its user %s is in %s on %s", made.User, path, a.o.Host))
	}
	return made, nil
}

// keptPassword returns the password that an attempt before made up, or makes one up.
func keptPassword(path, done string) (string, error) {
	for _, p := range []string{done, path} {
		text, err := os.ReadFile(p)
		if err == nil && len(text) > 1 {
			return strings.TrimSpace(string(text)), nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the admin's password: %w", err)
		}
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	password := rand.Text()
	return password, writeSecret(path, password)
}

// trackRestore makes reports of progress say what a restore does.
func (w *work) trackRestore(p *restore.Progress) {
	w.track(func() job.Progress {
		return job.Progress{Files: p.Files.Load(), FilesDone: p.FilesDone.Load(), Bytes: p.Bytes.Load(), BytesDone: p.BytesDone.Load()}
	})
}

// restart restarts the CouchDB of an instance.
func (a *agent) restart(ctx context.Context, w *work) (*job.Report, error) {
	id := w.job.Instance
	if i, ok := a.made.get(id); ok {
		if err := restore.Stop(ctx, i.Dir, 0); err != nil {
			return nil, err
		}
		if _, err := restore.Start(ctx, i.Dir, restore.StartOptions{CouchDBBin: a.o.CouchDBBin, Timeout: startTime}); err != nil {
			return nil, err
		}
		return a.answers(ctx, i.URL)
	}
	if err := a.isOwn(ctx, id); err != nil {
		return nil, err
	}
	if a.o.RestartCommand == "" {
		return nil, errors.New("this agent can't restart the CouchDB of its node: its setting restart_command is empty")
	}
	limited, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	out := &tail{max: maxHookOutput}
	cmd := shell(limited, a.o.RestartCommand)
	cmd.Stdout, cmd.Stderr = out, out
	err := runShell(cmd)
	a.log.DebugContext(ctx, "restart command ended", "err", err, "output", out.String())
	if err != nil {
		return nil, fmt.Errorf("the command that restarts CouchDB failed: %w: %s", err, out.lastLine())
	}
	url := a.o.CouchURL
	if m := a.facts.measured(""); m != nil {
		url = cmp.Or(url, m.url)
	}
	if url == "" {
		return nil, nil
	}
	return a.answers(ctx, url)
}

// answers waits until a CouchDB answers and reports its version.
func (a *agent) answers(ctx context.Context, url string) (*job.Report, error) {
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for {
		version, err := askNode(limited, url)
		if err == nil {
			return &job.Report{CouchDBVersion: version}, nil
		}
		if !pause(limited, firstWait) {
			return nil, fmt.Errorf("CouchDB was started and does not answer: %w", err)
		}
	}
}

// deleteInstance stops and removes an instance that this agent made. One that is gone
// is no error, and neither is one that was never begun; nothing else is removed.
func (a *agent) deleteInstance(ctx context.Context, w *work) (*job.Report, error) {
	id := w.job.Instance
	i, ok := a.made.get(id)
	if !ok {
		return nil, a.notMade(id)
	}
	i.Run = false // so that the next start of the agent doesn't start it
	if err := a.made.put(i); err != nil {
		return nil, err
	}
	if err := restore.Remove(ctx, i.Dir); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(a.dir, "secrets", id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a.facts.forget(id)
	return nil, a.made.remove(id)
}

// notMade refuses to remove what the agent didn't make; nil if there is nothing.
func (a *agent) notMade(id string) error {
	if id == "" || id == a.lastReply().Node {
		return errors.New("this agent did not make the instance, so it won't remove it")
	}
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("%w %q", errNoInstance, id)
	}
	if a.o.InstancesDir == "" {
		return nil
	}
	dir := filepath.Join(a.o.InstancesDir, id)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there, but this agent has no record of making it, so it won't remove it", dir)
	}
	return nil
}
