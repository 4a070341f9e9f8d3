package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
)

// progressEvery is how often the progress of a job is reported.
const progressEvery = 2 * time.Second

// work is a job that the agent has.
type work struct {
	id       string
	job      *job.Job    // nil until it was claimed
	secrets  job.Secrets // of the job
	hidden   string      // password that the agent made up
	progress atomic.Pointer[func() job.Progress]

	mu       sync.Mutex
	delivery *bus.Delivery // the newest of it; guarded by mu
	unheard  []saying      // what no server has told to have heard; guarded by mu
	number   *atomic.Int64 // of what this process said last, of any job
}

// saying is a sentence for a job's log.
type saying struct {
	number int64
	at     time.Time
	text   string
}

// mostUnheard bounds what a job keeps of them, and longestSaying each of them, in bytes.
const (
	mostUnheard   = 50
	longestSaying = 300
)

// say puts a sentence into the job's log, which is there for people: with the next report. No document's name or content may be in it.
func (w *work) say(format string, args ...any) {
	text := clip(plain(fmt.Sprintf(format, args...), w.mine()...), longestSaying)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.unheard); n > 0 && w.unheard[n-1].text == text {
		return
	}
	w.unheard = append(w.unheard, saying{w.number.Add(1), time.Now(), text})
	w.unheard = w.unheard[max(len(w.unheard)-mostUnheard, 0):]
}

// said is what a report says.
func (w *work) said() (out []job.Said) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.unheard {
		out = append(out, job.Said{Number: s.number, Ago: time.Since(s.at).Seconds(), Text: s.text})
	}
	return out
}

// heard forgets what a server has heard.
func (w *work) heard(upTo int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unheard = slices.DeleteFunc(w.unheard, func(s saying) bool { return s.number <= upTo })
}

func (w *work) newest() *bus.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.delivery
}

// mine are what no text of the job may show.
func (w *work) mine() []string {
	return []string{w.secrets.Token, w.secrets.Password, w.secrets.CouchPassword, w.hidden}
}

// track makes f what reports of progress say.
func (w *work) track(f func() job.Progress) { w.progress.Store(&f) }

// at is how far the job is. Files may grow, turn up later, or be read twice, after the
// engine has said how much there is: then there is as much as is done.
func (w *work) at() job.Progress {
	f := w.progress.Load()
	if f == nil {
		return job.Progress{}
	}
	p := (*f)()
	p.Files, p.Bytes = max(p.Files, p.FilesDone), max(p.Bytes, p.BytesDone)
	return p
}

// take does the job of a delivery, and returns when it is acknowledged, or left for
// another delivery. A delivery of a job at work here only replaces the one before.
func (a *agent) take(ctx context.Context, d *bus.Delivery) {
	w := a.begin(d)
	if w == nil {
		return
	}
	defer a.end(w)
	var reply job.ClaimReply
	err := a.ask(ctx, job.VerbClaim, job.Claim{Session: a.session, Job: w.id}, &reply)
	switch {
	case err != nil && ctx.Err() == nil:
		a.log.WarnContext(ctx, "no server takes the claim of a job: it is tried again", "job", w.id, "err", err)
		a.told(ctx, w, w.newest().Later(ctx, noServerLater))
	case err != nil:
	case reply.Verdict == job.Go && reply.Job != nil && reply.Job.ID == w.id:
		w.job = reply.Job
		a.work(ctx, w)
	default:
		a.log.InfoContext(ctx, "job dropped", "job", w.id)
		a.told(ctx, w, w.newest().Done(ctx))
	}
}

// told logs that the queue could not be told something: it delivers the job again,
// which is then dropped or found done.
func (a *agent) told(ctx context.Context, w *work, err error) {
	if err != nil {
		a.log.WarnContext(ctx, "the queue could not be told about a job", "job", w.id, "err", err)
	}
}

func (a *agent) begin(d *bus.Delivery) *work {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.works[d.Job]; w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.delivery = d
		return nil
	}
	w := &work{id: d.Job, delivery: d, number: &a.sayings}
	a.works[d.Job] = w
	return w
}

func (a *agent) end(w *work) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.works, w.id)
}

// running returns the ids of the jobs that the agent has.
func (a *agent) running() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := []string{}
	for id := range a.works {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// work does a claimed job and tells how it ended.
func (a *agent) work(ctx context.Context, w *work) {
	log := a.log.With("job", w.id, "kind", w.job.Kind, "attempt", w.job.Attempt)
	began := time.Now()
	report, err := a.reported(ctx, w)
	switch {
	case errors.Is(err, errLater):
		a.tellSaid(ctx, w)
		log.DebugContext(ctx, "job given back until others have ended")
		a.told(ctx, w, w.newest().Later(ctx, busyLater))
		return
	case errors.Is(err, errStopped):
		log.InfoContext(ctx, "job stopped by a server", "took", time.Since(began))
		a.told(ctx, w, w.newest().Done(ctx))
		return
	case err != nil && ctx.Err() != nil:
		log.InfoContext(ctx, "job left to the next start", "took", time.Since(began))
		return
	case err != nil:
		log.ErrorContext(ctx, "job failed", "took", time.Since(began), "err", faultOf(err, w.mine()...))
	default:
		log.InfoContext(ctx, "job done", "took", time.Since(began))
	}
	if a.reportEnd(ctx, w, report, err) {
		a.told(ctx, w, w.newest().Done(ctx))
	}
}

// reported does a job while its progress is reported. The error is errStopped if a
// server wants that no more is said, and the job was not done by then: what is made is
// told all the same.
func (a *agent) reported(ctx context.Context, w *work) (*job.Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reports sync.WaitGroup
	reports.Go(func() { a.reportProgress(ctx, w, cancel) })
	report, err := a.do(ctx, w)
	stopped := errors.Is(context.Cause(ctx), errStopped)
	cancel(nil)
	reports.Wait() // so that none comes after the last one
	if stopped && err != nil {
		return nil, errStopped
	}
	return report, err
}

// tellSaid reports how far a job is and what it has to say; false says that a server wants no more of it.
func (a *agent) tellSaid(ctx context.Context, w *work) bool {
	var reply job.ReportReply
	err := a.ask(ctx, job.VerbReport, job.Report{Session: a.session, Job: w.id, State: job.Running, At: w.at(), Said: w.said()}, &reply)
	w.heard(reply.Heard)
	return err != nil || reply.Verdict != job.Stop
}

func (a *agent) reportProgress(ctx context.Context, w *work, cancel context.CancelCauseFunc) {
	for pause(ctx, progressEvery) {
		if !a.tellSaid(ctx, w) {
			cancel(errStopped)
			return
		}
	}
}

// reportEnd repeats the last report until a server has taken it. When the agent
// ends it goes on for a moment; false says that it wasn't taken.
func (a *agent) reportEnd(ctx context.Context, w *work, report *job.Report, fault error) bool {
	if report == nil {
		report = &job.Report{}
	}
	report.Session, report.Job, report.At, report.State, report.Said = a.session, w.id, w.at(), job.Done, w.said()
	if fault != nil {
		report.State, report.Fault = job.Failed, faultOf(fault, w.mine()...)
	}
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { pause(last, lastWords); cancel() })()
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		var reply job.ReportReply
		err := a.ask(last, job.VerbReport, report, &reply)
		if err == nil {
			return true
		}
		if wait > time.Second {
			a.log.WarnContext(ctx, "no server takes the last report of a job: it is repeated", "job", w.id, "err", err)
		}
		if !pause(last, wait) {
			return false
		}
	}
}

// reserve gets what a job needs. If it has to wait, and enough others do, it is errLater:
// not all that take jobs may wait, or none would be left for those that need not.
func (a *agent) reserve(ctx context.Context, w *work) (free func(), err error) {
	list := needs(w.job, a.o.Parallel)
	if free, _ := a.holds.try(list); free != nil {
		return free, nil
	}
	w.say("It waits: %s.", a.holds.why(list))
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
		return a.holds.take(ctx, list)
	default:
		return nil, errLater
	}
}

// do waits for what the job needs and does it. The report has what its kind tells.
func (a *agent) do(ctx context.Context, w *work) (*job.Report, error) {
	free, err := a.reserve(ctx, w)
	if err != nil {
		return nil, err
	}
	defer free()
	w.say("It begins.")
	a.log.InfoContext(ctx, "job begins", "job", w.id, "kind", w.job.Kind, "attempt", w.job.Attempt)
	if w.secrets, err = a.unseal(w.job.Spec.Sealed); err != nil {
		return nil, err
	}
	kinds := map[job.Kind]func(context.Context, *work) (*job.Report, error){
		job.KindBackup:         a.backup,
		job.KindCreate:         a.create,
		job.KindRestart:        a.restart,
		job.KindDeleteInstance: a.deleteInstance,
		job.KindDeleteBackup:   a.deleteBackup,
		job.KindProve:          a.prove,
		job.KindAdopt:          a.adopt,
		job.KindPin:            a.pin,
		job.KindUnpin:          a.pin,
		job.KindDocuments:      a.restoreDocuments,
		job.KindRestore:        a.carry,
	}
	run := kinds[w.job.Kind]
	if run == nil {
		return nil, fmt.Errorf("this agent (%s) does not know jobs of the kind %q: update it to the server's version", a.o.Version, w.job.Kind)
	}
	return run(ctx, w)
}

// ask sends a message to a server and reads the answer.
func (a *agent) ask(ctx context.Context, verb string, message, answer any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if data, err = a.link.Request(ctx, verb, data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the answer to %s: %w", verb, err)
	}
	return nil
}

// need is so many of the places of a thing.
type need struct {
	name    string
	n, most int
}

// everybody is more than the places that can be taken of anything.
const everybody = 1 << 30

// needs are what a job must have while it works, on an agent that does so many at once.
// Restores and their tests, which may take hours, have places of their own: they hold off
// nothing but the deletion of the very backup that they read. What else is deleted takes
// nothing from it, since each backup restores alone. Who writes in an instance's part of
// the repository is alone there, as its lock wants it.
func needs(j *job.Job, parallel int) []need {
	place, writes, reads := "job", false, false
	switch j.Kind {
	case job.KindBackup, job.KindDeleteBackup:
		writes = true
	case job.KindPin, job.KindUnpin: // which are in nobody's way who reads the backup
		return []need{{place, 1, parallel}, writesTo(j)}
	case job.KindCreate, job.KindProve, job.KindDocuments:
		place, reads = "restore", true
	case job.KindAdopt:
		reads = true
	case job.KindRestore: // its steps, one after the other
		return []need{{"restore", 1, parallel}, {"part", 1, 1}}
	}
	list := []need{{place, 1, parallel}}
	if writes {
		list = append(list, writesTo(j))
	}
	if stored := "backup " + j.Spec.RepoID; j.Spec.RepoID != "" && reads {
		list = append(list, need{stored, 1, everybody})
	} else if j.Spec.RepoID != "" && writes {
		list = append(list, need{stored, everybody, everybody})
	}
	if j.Instance != "" && j.Kind != job.KindDeleteBackup && j.Kind != job.KindProve && j.Kind != job.KindAdopt && j.Kind != job.KindDocuments {
		list = append(list, instanceNeed(j.Instance))
	}
	return list
}

func writesTo(j *job.Job) need { return need{"repository of " + j.Spec.RepoName, 1, 1} }

func instanceNeed(id string) need { return need{"instance " + id, 1, 1} }

// holds are the places that are taken. The zero value has none.
type holds struct {
	mu    sync.Mutex
	taken map[string]int // guarded by mu, like freed
	freed chan struct{}  // closed when some are free again
}

// try takes all that is needed and returns how to free it; or nothing, and what is closed
// when it may be tried again.
func (h *holds) try(list []need) (free func(), freed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken == nil {
		h.taken, h.freed = map[string]int{}, make(chan struct{})
	}
	for _, d := range list {
		if h.taken[d.name]+d.n > d.most {
			return nil, h.freed
		}
	}
	for _, d := range list {
		h.taken[d.name] += d.n
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, d := range list {
			if h.taken[d.name] -= d.n; h.taken[d.name] == 0 {
				delete(h.taken, d.name)
			}
		}
		close(h.freed)
		h.freed = make(chan struct{})
	}, nil
}

// why says what else has what is needed.
func (h *holds) why(list []need) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range list {
		what, name, _ := strings.Cut(d.name, " ")
		switch {
		case h.taken[d.name]+d.n <= d.most:
		case d.name == "job":
			return "as many jobs run on this node as may"
		case d.name == "restore":
			return "as many restores and tests run on this node as may"
		case d.name == "part":
			return "another step of a restore runs on this node"
		case what == "repository":
			return "another job writes into" + strings.TrimPrefix(name, "of") + "'s part of the repository"
		case what == "backup":
			return "another job reads or deletes that backup"
		case what == "instance":
			return "another job works on that instance"
		}
	}
	return "another job has what it needs"
}

// take waits until it has all that is needed, and returns how to free it. It takes nothing
// before, so who waits is in nobody's way.
func (h *holds) take(ctx context.Context, list []need) (free func(), err error) {
	for {
		free, freed := h.try(list)
		if free != nil {
			return free, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
