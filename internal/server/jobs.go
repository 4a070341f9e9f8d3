package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

const (
	// acceptFor is how long a server has from holding an instance to storing the job; an
	// instance that is held by no job for longer was left by one that died.
	acceptFor = time.Minute
	// keepEnded is how long an ended job stays, for people to look at, and mostEnded how many
	// do; listEnded is how long it is among those that are listed.
	keepEnded = 7 * 24 * time.Hour
	mostEnded = 2000
	listEnded = time.Hour
	// saveProgress is how often the progress of a running job is stored, for other
	// servers and as its sign of life.
	saveProgress = 15 * time.Second
	// saveLines is the same for what an agent has to say.
	saveLines = time.Second
)

// by is who asked for a job, if no schedule did.
func by(who *access.Caller, schedule string) string {
	if schedule != "" {
		return ""
	}
	return who.User
}

// begin starts a job that occupies its instance.
func (s *Server) begin(ctx context.Context, j *job.Job, also func(*job.Instance)) error {
	if err := s.hold(ctx, j, also); err != nil {
		return err
	}
	if err := s.enqueue(ctx, j); err != nil {
		if !errors.Is(err, errOpen) {
			s.letGo(ctx, j, nil)
		}
		return err
	}
	return nil
}

// whole is a context that goes on when whoever asked hangs up: several writes that
// belong together are all made. Each has its own limit of time.
func whole(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// hold makes a job the one that occupies its instance. It refuses if another one does.
func (s *Server) hold(ctx context.Context, j *job.Job, also func(*job.Instance)) error {
	_, err := s.instances.update(ctx, j.Instance, func(i *job.Instance) error {
		if i.Task != "" && i.Job != j.ID {
			return s.busy(i)
		}
		i.Task, i.Job, i.Updated = j.Kind, j.ID, s.now()
		if also != nil {
			also(i)
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return notFound(j.Instance)
	}
	return err
}

// letGo ends a hold. It is tried even if ctx has ended; what it can't do, the sweep does.
func (s *Server) letGo(ctx context.Context, j *job.Job, also func(*job.Instance)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.free(ctx, j, also); err != nil {
		s.log.WarnContext(ctx, "an instance could not be let go; the sweep will", "instance", j.Instance, "job", j.ID, "err", err)
	}
}

// free clears the hold of a job, if it still has it.
func (s *Server) free(ctx context.Context, j *job.Job, also func(*job.Instance)) error {
	if j.Instance == "" {
		return nil
	}
	_, err := s.instances.update(ctx, j.Instance, func(i *job.Instance) error {
		if i.Job != j.ID {
			return errSame
		}
		i.Task, i.Job, i.Updated = "", "", s.now()
		if also != nil {
			also(i)
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

// enqueue stores a job, which from then on will be done, and puts it into the queue of
// its agent. After errOpen it isn't known whether it will: what was written for it is
// left to the sweep then, which looks again.
func (s *Server) enqueue(ctx context.Context, j *job.Job) error {
	if err := s.storeJob(ctx, j); err != nil {
		return err
	}
	s.queue(ctx, j)
	return nil
}

// storeJob is the first half of enqueue, and queue the second.
func (s *Server) storeJob(ctx context.Context, j *job.Job) error {
	j.State, j.Created, j.Updated = job.Queued, s.now(), s.now()
	s.logJob(nil, j, nil)
	if err := s.jobs.create(ctx, j.ID, j); err != nil {
		if err = s.settle(ctx, j, err); err != nil {
			return &Error{Kind: Unavailable, Message: "The job can't be stored now; try again later.", Cause: err}
		}
	}
	return nil
}

func (s *Server) queue(ctx context.Context, j *job.Job) {
	if err := s.cfg.Bus.Enqueue(ctx, j.Agent, j.ID); err != nil {
		s.log.WarnContext(ctx, "a job could not be put into the queue; the sweep will", "job", j.ID, "err", err)
	}
}

// errOpen says that a job may have been stored, or not.
var errOpen = errors.New("it is not known whether the job was stored")

// settle finds out whether a job was stored whose storing ended in an error: nil if it
// was. Otherwise it takes its place as a job that has failed, so that the write can't
// succeed later.
func (s *Server) settle(ctx context.Context, j *job.Job, cause error) error {
	now := s.now()
	dead := *j
	dead.State, dead.Fault, dead.Ended, dead.Spec.Sealed = job.Failed, "it could not be stored", &now, nil
	s.logJob(j, &dead, nil)
	err := s.jobs.create(ctx, j.ID, &dead)
	switch {
	case errors.Is(err, bus.ErrExists):
		return nil
	case err != nil:
		return errors.Join(errOpen, cause, err)
	}
	return cause
}

// seal encrypts secrets to an agent; nil if there are none.
func seal(a *job.Agent, secrets job.Secrets) ([]byte, error) {
	if secrets == (job.Secrets{}) {
		return nil, nil
	}
	r, err := age.ParseX25519Recipient(a.Recipient)
	if err != nil {
		return nil, fmt.Errorf("agent %s has no key to send secrets to: %w", a.ID, err)
	}
	b, err := json.Marshal(secrets)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // which writes the end
		return nil, err
	}
	return out.Bytes(), nil
}

// Jobs returns the jobs of a project that have not ended, and those that ended within
// the last hour, the newest first.
func (s *Server) Jobs(who *access.Caller) []*job.Job { return s.JobsSince(who, false, listEnded) }

// JobsSince is Jobs of the caller's project, or of all, with those that ended within some
// time: the last 2,000 of all projects are there for a week.
func (s *Server) JobsSince(who *access.Caller, all bool, ended time.Duration) []*job.Job {
	var out []*job.Job
	s.jobs.each(func(_ string, j *job.Job, ago time.Duration) bool {
		if (all || mine(who, j.Project)) && (!j.State.Ended() || ago <= ended) {
			shown := *j
			shown.At = s.live.progressOf(j)
			out = append(out, &shown)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Job) int { return strings.Compare(b.ID, a.ID) })
	return out
}

// claim decides whether an agent's process does a job.
func (s *Server) claim(ctx context.Context, agent string, c job.Claim) (job.ClaimReply, error) {
	tidy(maxName, &c.Session) // as that of the hello
	a, err := s.agents.get(ctx, agent)
	if err != nil {
		return job.ClaimReply{}, err
	}
	if a.Session != c.Session { // another server may have heard its hello just now
		k, err := s.agents.read(ctx, agent)
		if err != nil {
			return job.ClaimReply{}, err
		}
		if k.doc.Session != c.Session {
			return job.ClaimReply{Verdict: job.Drop}, nil
		}
	}
	if over, err := s.outrun(ctx, c.Job); err != nil || over {
		return job.ClaimReply{Verdict: job.Drop}, err
	}
	j, err := s.changeJob(ctx, c.Job, nil, func(j *job.Job) error {
		switch {
		case j.Agent != agent, j.State.Ended():
			return errDrop
		case j.State == job.Running && j.Session == c.Session:
			return errSame
		}
		j.State, j.Session, j.Updated, j.Heard = job.Running, c.Session, s.now(), 0
		j.Attempt++
		return nil
	})
	switch {
	case errors.Is(err, errDrop), errors.Is(err, bus.ErrNotFound):
		return job.ClaimReply{Verdict: job.Drop}, nil
	case err != nil:
		return job.ClaimReply{}, err
	}
	if j.Attempt > job.MaxAttempts {
		err := s.end(ctx, j, job.Report{State: job.Failed, Fault: fmt.Sprintf("the agent died %d times while it did this", job.MaxAttempts)})
		return job.ClaimReply{Verdict: job.Drop}, err
	}
	if j.Kind == job.KindBackup {
		_, err := s.backups.update(ctx, j.Backup, func(b *job.Backup) error {
			if b.Status != job.BackupNew {
				return errSame
			}
			b.Status, b.Updated = job.BackupBuilding, s.now()
			return nil
		})
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return job.ClaimReply{}, err
		}
	}
	s.log.InfoContext(ctx, "job begun", "job", j.ID, "kind", j.Kind, "agent", agent, "attempt", j.Attempt)
	return job.ClaimReply{Verdict: job.Go, Job: j}, nil
}

var errDrop = errors.New("drop")

// report takes in what an agent says of a job.
func (s *Server) report(ctx context.Context, agent string, r job.Report) (job.ReportReply, error) {
	tidy(maxName, &r.Session) // as that of the hello
	tidyReport(&r)
	stop := job.ReportReply{Verdict: job.Stop}
	j, err := s.jobs.get(ctx, r.Job)
	its := func() bool { return j.Agent == agent && !j.State.Ended() && j.Session == r.Session }
	if err == nil && !its() { // another server may have changed it just now
		var k kept[job.Job]
		k, err = s.jobs.read(ctx, r.Job)
		j = k.doc
	}
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return stop, nil
	case err != nil:
		return job.ReportReply{}, err
	case its():
		return s.take(ctx, j, r)
	case j.Agent == agent && j.State.Ended() && j.Kind == job.KindBackup && r.State == job.Done:
		return stop, s.late(ctx, j, r)
	case j.Agent == agent && j.State == job.Failed && j.Kind == job.KindPin && r.State == job.Done: // given up, and it is pinned
		return stop, s.endPin(ctx, j, r)
	}
	return stop, nil
}

// late takes in a backup that was made although its job had been given up: it is stored,
// so it counts.
func (s *Server) late(ctx context.Context, j *job.Job, r job.Report) error {
	was := s.backups.have(j.Backup)
	if err := s.endBackup(ctx, j, r); err != nil {
		return err
	}
	if b := s.backups.have(j.Backup); b != nil && b.Status == job.BackupCompleted && was != nil && was.Status != b.Status {
		s.log.InfoContext(ctx, "a backup was made though its job had been given up", "backup", b.ID, "job", j.ID)
		if err := s.clearFault(ctx, j); err != nil {
			return err
		}
		s.afterwards(ctx, j)
	}
	return nil
}

// clearFault takes away the fault of an instance of which a job has made a good backup, if
// the fault isn't of what began later.
func (s *Server) clearFault(ctx context.Context, j *job.Job) error {
	_, err := s.instances.update(ctx, j.Instance, func(i *job.Instance) error {
		if i.Fault == nil || i.Task != "" || i.Status != job.InstanceActive {
			return errSame
		}
		i.Fault = nil
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

func (s *Server) take(ctx context.Context, j *job.Job, r job.Report) (job.ReportReply, error) {
	if r.State.Ended() {
		return job.ReportReply{Verdict: job.Go}, s.end(ctx, j, r)
	}
	s.live.set(j.ID, r.At)
	if ago := s.jobs.ago(j.ID); ago < saveProgress && (ago < saveLines || !news(j, &r)) {
		return job.ReportReply{Verdict: job.Go, Heard: j.Heard}, nil
	}
	var verdict job.Verdict
	now, err := s.changeJob(ctx, j.ID, &r, func(j *job.Job) error {
		if verdict = job.Go; j.State.Ended() || j.Session != r.Session {
			verdict = job.Stop
			return errSame
		}
		j.At, j.Updated = r.At, s.now()
		return nil
	})
	if err != nil {
		return job.ReportReply{}, err
	}
	return job.ReportReply{Verdict: verdict, Heard: now.Heard}, nil
}

// end does what the end of a job brings; each step may be repeated, and the job is
// marked last.
func (s *Server) end(ctx context.Context, j *job.Job, r job.Report) error {
	ok := r.State == job.Done
	var err error
	switch j.Kind {
	case job.KindBackup, job.KindAdopt:
		err = s.endBackup(ctx, j, r)
	case job.KindDeleteBackup:
		err = s.endDelete(ctx, j, r)
	case job.KindProve:
		err = s.endProve(ctx, j, r)
	case job.KindPin, job.KindUnpin:
		err = s.endPin(ctx, j, r)
	case job.KindRestore:
		err = s.endStep(ctx, j, r)
	case job.KindDeleteInstance:
		if ok {
			err = s.instances.remove(ctx, j.Instance)
		}
	}
	if err != nil {
		return err
	}
	err = s.free(ctx, j, func(i *job.Instance) {
		switch {
		case ok && j.Kind == job.KindCreate:
			i.Status, i.URL, i.CouchDBVersion = job.InstanceActive, r.URL, cmp.Or(r.CouchDBVersion, i.CouchDBVersion)
		case !ok && j.Kind == job.KindCreate:
			i.Status = job.InstanceFailed
		case !ok && j.Kind == job.KindDeleteInstance:
			i.Status = job.InstanceError
		}
		switch {
		case !ok && job.IsCancelled(r.Fault): // nothing is wrong
		case !ok:
			i.Fault = &job.Fault{Message: r.Fault, Created: s.now()}
		case j.Kind == job.KindBackup && r.Result != nil: // all is well again
			i.Fault = nil
		}
		if j.Kind == job.KindCreate && r.Result != nil {
			i.Notes = r.Result.Notes
		}
	})
	if err != nil {
		return err
	}
	var ended *job.Job
	_, err = s.changeJob(ctx, j.ID, &r, func(j *job.Job) error {
		if ended = nil; j.State.Ended() {
			return errSame
		}
		now := s.now()
		j.State, j.Fault, j.At, j.Updated, j.Ended = r.State, r.Fault, r.At, now, &now
		j.Spec.Sealed, j.Documents = nil, r.Documents
		ended = j
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err == nil && ended != nil {
		s.met.ended(ended)
		s.log.InfoContext(ctx, "job ended", "job", j.ID, "kind", j.Kind, "state", r.State, "fault", r.Fault, "took", ended.Ended.Sub(ended.Created))
		s.afterwards(ctx, ended)
		s.afterStep(ctx, ended)
	}
	return err
}

// endBackup records what a backup turned out to be. One that was made counts, even if it
// had been given up.
func (s *Server) endBackup(ctx context.Context, j *job.Job, r job.Report) error {
	made := r.State == job.Done && r.Result != nil
	_, err := s.backups.update(ctx, j.Backup, func(b *job.Backup) error {
		late := made && j.Kind == job.KindBackup && b.Status == job.BackupFailed
		if !b.Status.Running() && !late {
			return errSame // it was told before, or given up
		}
		b.Updated, b.Job = s.now(), ""
		if !made {
			b.Status, b.Fault = job.BackupFailed, cmp.Or(r.Fault, "the agent did not say what it made")
			b.RepoID = ""
			b.MayBeStored = j.Kind == job.KindBackup && j.Attempt > 0 && r.Session == "" // no agent says so
			return nil
		}
		b.Status, b.Fault, b.MayBeStored, b.Result = job.BackupCompleted, "", false, *r.Result
		b.CouchDBVersion = cmp.Or(r.CouchDBVersion, b.CouchDBVersion)
		if j.Kind == job.KindAdopt {
			b.Status, b.Pin = job.BackupRestored, r.Pin
		}
		if r.Repository != nil {
			b.Repository.URL, b.Repository.ID = cmp.Or(b.Repository.URL, r.Repository.URL), r.Repository.ID
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		if made && j.Kind == job.KindBackup {
			return s.discard(ctx, j, r.Result.RepoID)
		}
		return nil
	}
	if err == nil && made && j.Kind == job.KindBackup {
		return s.notePins(ctx, j, r)
	}
	return err
}

// discard begins to remove what a job made of a backup that was deleted meanwhile. It
// can be repeated: the id of the job is made of the first one's.
func (s *Server) discard(ctx context.Context, of *job.Job, repoID string) error {
	if of.Spec.Repository.Storage != "" { // the token for it is gone
		s.log.WarnContext(ctx, "a backup was made after it had been deleted, and stays where it is stored", "backup", of.Backup,
			"repository", of.Spec.Repository.Storage, "in_repository", of.Spec.RepoName+"/"+repoID)
		return nil
	}
	j := &job.Job{ID: uuid.NewSHA1(namespace, []byte("discard/"+of.ID)).String(), Kind: job.KindDeleteBackup, Agent: of.Agent, Project: of.Project,
		Backup: of.Backup, Spec: job.Spec{RepoName: of.Spec.RepoName, RepoID: repoID, Repository: of.Spec.Repository}}
	return s.enqueue(ctx, j)
}

// endDelete removes a backup from the catalog, or says why its objects remain. One of
// which nothing was removed is as good as before.
func (s *Server) endDelete(ctx context.Context, j *job.Job, r job.Report) error {
	if r.State == job.Done {
		return s.backups.remove(ctx, j.Backup)
	}
	_, err := s.backups.update(ctx, j.Backup, func(b *job.Backup) error {
		if b.Job != j.ID {
			return errSame // it was told before
		}
		b.Status, b.Fault, b.Job, b.Updated = job.BackupDeleteFailed, r.Fault, "", s.now()
		if r.Kept && b.RepoID != "" {
			b.Status, b.Was = cmp.Or(b.Was, job.BackupCompleted), ""
			if r.Pin != nil {
				b.Pin = r.Pin
			}
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

// endProve records the outcome of a restore test. One that could not be done, for want of
// room or because its agent went away, says nothing of the backup.
func (s *Server) endProve(ctx context.Context, j *job.Job, r job.Report) error {
	p := r.Proof
	if p == nil {
		return nil
	}
	_, err := s.backups.update(ctx, j.Backup, func(b *job.Backup) error {
		b.Proof = p
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

// giveUp ends a job without its agent, which is told at its next report.
func (s *Server) giveUp(ctx context.Context, id, why string) error {
	k, err := s.jobs.read(ctx, id)
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil || k.doc.State.Ended() {
		return err
	}
	return s.end(ctx, k.doc, job.Report{State: job.Failed, Fault: why, At: k.doc.At})
}

// Prove begins a restore test of a backup and returns the id of its job.
func (s *Server) Prove(ctx context.Context, who *access.Caller, id string) (string, error) {
	return s.prove(ctx, who, id, "")
}

// prove is Prove, for the schedule with that id if it has one.
func (s *Server) prove(ctx context.Context, who *access.Caller, id, schedule string) (string, error) {
	ctx = whole(ctx)
	b, err := s.usable(ctx, who, id)
	if err != nil {
		return "", err
	}
	if !b.Status.Usable() {
		return "", refuse(Conflict, "Backup %s is %s: only a completed one can be tested.", b.ID, b.Status)
	}
	var secrets job.Secrets
	if err := s.reach(ctx, who, &b.Repository, &secrets); err != nil {
		return "", err
	}
	if s.proving(func(j *job.Job) bool { return j.Backup == b.ID }) {
		return "", refuse(Busy, "Backup %s is being tested already.", b.ID)
	}
	agent := s.removerOf(b)
	if agent == nil {
		return "", refuse(Busy, "Backup %s can't be tested now: no agent has its repository.", b.ID)
	}
	if hello, online := s.hello(agent); !online || !hello.CanRead {
		return "", refuse(Busy, "Backup %s can't be tested by agent %s: it must be online and have the setting identity_file.", b.ID, agent.Name)
	}
	j := &job.Job{ID: newID(), Kind: job.KindProve, Agent: agent.ID, Project: b.Project, Backup: b.ID, Schedule: schedule, By: by(who, schedule),
		Spec: job.Spec{RepoName: b.RepoName, RepoID: b.RepoID, Repository: b.Repository, Name: b.Name, Moment: s.rests(who, b)}}
	if j.Spec.Sealed, err = seal(agent, secrets); err != nil {
		return "", err
	}
	return j.ID, s.enqueue(ctx, j)
}

// rests reports whether a backup is the newest of an instance that is shipped, so that what is
// shipped rests on it.
func (s *Server) rests(who *access.Caller, b *job.Backup) bool {
	i := s.instances.have(b.Instance)
	if i == nil || s.Shipping(i) == nil {
		return false
	}
	newest := s.newest(who, b.Instance)
	return newest != nil && newest.ID == b.ID
}

// proving reports whether a restore test of some kind has not ended: a second one at once
// would tell nothing new, and tests that take longer than what asks for them would pile up.
func (s *Server) proving(which func(*job.Job) bool) (yes bool) {
	s.jobs.all(func(_ string, j *job.Job) bool {
		yes = j.Kind == job.KindProve && !j.State.Ended() && which(j)
		return !yes
	})
	return yes
}
