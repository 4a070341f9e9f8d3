package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// began is when all clocks of servers began.
var began = time.Now()

// service is a server over an embedded bus, with a clock that only tests set: it goes on
// by a microsecond with each look, however long a test takes.
type service struct {
	*server.Server
	t    *testing.T
	bus  *bus.Bus
	stop func() // ends Run; what is asked for then is done all the same

	mu  sync.Mutex
	off time.Duration // of the clock; guarded by mu
}

func (s *service) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off += time.Microsecond
	return began.Add(s.off)
}

// pass lets time pass.
func (s *service) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off += d
}

var unlimited = job.Quota{Instances: -1, Backups: -1, Volumes: -1}

func openBus(t *testing.T) *bus.Bus {
	t.Helper()
	return servertest.OpenBus(t, bus.Options{})
}

// start starts a server that does what is due only when the test says so.
func start(t *testing.T, b *bus.Bus, cfg server.Config) *service {
	t.Helper()
	return startOver(t, b, cfg, func(_ string, t server.Table) server.Table { return t })
}

// startOver is start with something around the tables.
func startOver(t *testing.T, b *bus.Bus, cfg server.Config, wrap func(name string, t server.Table) server.Table) *service {
	t.Helper()
	s := &service{t: t, bus: b}
	cfg.Bus, cfg.Log, cfg.Now = b, slog.New(slog.DiscardHandler), s.now
	if cfg.Quota == (job.Quota{}) {
		cfg.Quota = unlimited
	}
	if cfg.Sweep == 0 {
		cfg.Sweep, cfg.Tick = time.Hour, time.Hour
	}
	var err error
	if s.Server, err = server.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	server.WrapTables(s.Server, wrap)
	s.stop = servertest.Background(t, s.Run)
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// hears waits until a server knows what all servers have written.
func hears(t *testing.T, s *service) {
	t.Helper()
	if err := server.Hear(t.Context(), s.Server); err != nil {
		t.Fatal(err)
	}
}

// player speaks as an agent does, word by word, over the real bus.
type player struct {
	t       *testing.T
	link    *bus.Link
	id      string
	node    string // id of its instance
	session string
	said    int64 // hellos
	key     *age.X25519Identity
	jobs    chan *bus.Delivery
}

func join(t *testing.T, s *service, name, project string) *player {
	t.Helper()
	keys := servertest.NewKeys(t)
	j, err := s.Join(t.Context(), server.Joining{Name: name, Project: project, Admin: true, PublicKey: keys.Public, Recipient: keys.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	p := &player{t: t, id: j.AgentID, node: j.Instance, key: keys.Identity}
	p.start(s.bus, "s1")
	return p
}

// start is a start of the agent's process.
func (p *player) start(b *bus.Bus, session string) {
	p.t.Helper()
	p.session = session
	link := servertest.Dial(p.t, bus.LinkOptions{Agent: p.id, InProcess: b})
	p.link = link
	p.hello()
	if p.jobs == nil { // one for all starts: what comes by an earlier one's link is as good
		p.jobs = make(chan *bus.Delivery, 100)
	}
	for len(p.jobs) > 0 {
		<-p.jobs
	}
	jobs := p.jobs
	ctx, cancel := context.WithCancel(p.t.Context())
	var done sync.WaitGroup
	for range 10 { // each has one job at a time, here until the test ends
		done.Go(func() {
			_ = link.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) { jobs <- d; <-ctx.Done() })
		})
	}
	p.t.Cleanup(func() { cancel(); done.Wait() })
}

func (p *player) hello() job.HelloReply {
	p.said++
	return ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, CanRead: true, CanCreate: true, Moments: true, FreeBytes: 1 << 40,
		Repository: job.Repository{ID: "repo-1", URL: "file:///backups"},
		Instances:  []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0", CanRestart: true}}})
}

func ask[T any](p *player, verb string, what any) (out T) {
	p.t.Helper()
	var err error
	servertest.Eventually(p.t, "the server listens", func() bool {
		err = servertest.Ask(p.t.Context(), p.link, verb, what, &out)
		return !errors.Is(err, bus.ErrNoServer)
	})
	if err != nil {
		p.t.Fatalf("%s: %v", verb, err)
	}
	return out
}

// next waits for a job in the queue and claims it.
func (p *player) next() (*bus.Delivery, job.ClaimReply) {
	p.t.Helper()
	select {
	case d := <-p.jobs:
		return d, ask[job.ClaimReply](p, job.VerbClaim, job.Claim{Session: p.session, Job: d.Job})
	case <-time.After(servertest.Patience):
		p.t.Fatal("no job came")
		return nil, job.ClaimReply{}
	}
}

func (p *player) report(r job.Report) job.Verdict {
	p.t.Helper()
	r.Session = p.session
	return ask[job.ReportReply](p, job.VerbReport, r).Verdict
}

// do takes the next job, which must be of a kind, and ends it.
func (p *player) do(kind job.Kind, r job.Report) *job.Job {
	p.t.Helper()
	d, reply := p.next()
	if reply.Verdict != job.Go || reply.Job.Kind != kind {
		p.t.Fatalf("claim of %s: %s, %+v; want a job of kind %s", d.Job, reply.Verdict, reply.Job, kind)
	}
	r.Job = d.Job
	if v := p.report(r); v != job.Go {
		p.t.Fatalf("report: %s", v)
	}
	if err := d.Done(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return reply.Job
}

func made(repoID string) job.Report {
	return job.Report{State: job.Done, Result: &job.Result{RepoID: repoID, Type: "full", Size: 1000, Stored: 300, Checksum: "c0ffee", LocationRef: "file:///backups/backups/n/" + repoID + "/manifest.json.zst.age"},
		Repository: &job.Repository{ID: "repo-1", URL: "file:///backups"}, CouchDBVersion: "3.5.0"}
}

func who(project string) *access.Caller {
	return &access.Caller{Project: project, User: "u", Role: access.Operator}
}

func kindOf(err error) server.Kind {
	var e *server.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

func TestBackupFromRequestToDeletion(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "nightly", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	if b.Status != job.BackupNew || b.Parent != "" {
		t.Errorf("new backup: %+v", b)
	}
	if i, err := s.Instance(ctx, me, p.node); err != nil || i.Shown() != job.InstanceBackup {
		t.Errorf("instance while it is backed up: %+v, %v", i, err)
	}
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "second", Instance: p.node}); kindOf(err) != server.Busy {
		t.Errorf("second backup: %v, want Busy", err)
	}
	if err := s.Restart(ctx, me, p.node); kindOf(err) != server.Busy {
		t.Errorf("restart meanwhile: %v, want Busy", err)
	}
	if err := s.DeleteBackup(ctx, me, b.ID); kindOf(err) != server.Busy {
		t.Errorf("delete meanwhile: %v, want Busy", err)
	}
	d, reply := p.next()
	if reply.Verdict != job.Go || reply.Job.Attempt != 1 || reply.Job.Spec.Labels[job.LabelBackup] != b.ID {
		t.Fatalf("claim: %+v", reply)
	}
	if again := ask[job.ClaimReply](p, job.VerbClaim, job.Claim{Session: p.session, Job: d.Job}); again.Verdict != job.Go || again.Job.Attempt != 1 {
		t.Errorf("the same claim again: %+v", again)
	}
	p.report(job.Report{Job: d.Job, State: job.Running, At: job.Progress{Bytes: 100, BytesDone: 40}})
	if b, err = s.Backup(ctx, me, b.ID); err != nil || b.Status != job.BackupBuilding {
		t.Errorf("while it is made: %+v, %v", b, err)
	}
	if at, ok := s.Progress(b); !ok || at.BytesDone != 40 {
		t.Errorf("progress: %+v %v", at, ok)
	}
	r := made("r1")
	r.Job = d.Job
	if v := p.report(r); v != job.Go {
		t.Errorf("last report: %s", v)
	}
	if v := p.report(r); v != job.Stop {
		t.Errorf("last report again: %s, want stop", v)
	}
	if err := d.Done(ctx); err != nil {
		t.Fatal(err)
	}
	if b, err = s.Backup(ctx, me, b.ID); err != nil || b.Status != job.BackupCompleted || b.RepoID != "r1" || b.Size != 1000 {
		t.Errorf("completed: %+v, %v", b, err)
	}
	if i, _ := s.Instance(ctx, me, p.node); i.Shown() != job.InstanceActive {
		t.Errorf("instance afterwards: %+v", i)
	}
	if again := ask[job.ClaimReply](p, job.VerbClaim, job.Claim{Session: p.session, Job: d.Job}); again.Verdict != job.Drop {
		t.Errorf("claim of a job that ended: %+v, want drop", again)
	}
	if err := s.DeleteBackup(ctx, me, b.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(ctx, me, b.ID); kindOf(err) != server.NotFound {
		t.Errorf("deleted: %v, want NotFound", err)
	}
	if page, _ := s.Backups(me, server.BackupFilter{Limit: 10}); len(page) != 0 {
		t.Errorf("list with the deleted one: %+v", page)
	}
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); j.Spec.RepoID != "r1" || j.Spec.RepoName != "db1" {
		t.Errorf("job to delete: %+v", j)
	}
	if err := s.DeleteBackup(ctx, me, b.ID); kindOf(err) != server.NotFound {
		t.Errorf("delete again: %v, want NotFound", err)
	}
}

// backUp makes a completed backup.
func backUp(t *testing.T, s *service, p *player, project, repoID string, n server.NewBackup) *job.Backup {
	t.Helper()
	n.Instance = p.node
	if n.Name == "" {
		n.Name = repoID
	}
	b, err := s.CreateBackup(t.Context(), who(project), n)
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindBackup, made(repoID))
	b, err = s.Backup(t.Context(), who(project), b.ID)
	if err != nil || b.Status != job.BackupCompleted {
		t.Fatalf("backup: %+v, %v", b, err)
	}
	return b
}

func TestDeletingAParentDeletesItsChildren(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	first := backUp(t, s, p, "p", "r1", server.NewBackup{Incremental: true})
	second := backUp(t, s, p, "p", "r2", server.NewBackup{Incremental: true})
	third := backUp(t, s, p, "p", "r3", server.NewBackup{Parent: second.ID})
	alone := backUp(t, s, p, "p", "r4", server.NewBackup{})
	if first.Parent != "" || second.Parent != first.ID || third.Parent != second.ID || alone.Parent != "" {
		t.Fatalf("parents: %q %q %q %q", first.Parent, second.Parent, third.Parent, alone.Parent)
	}
	if err := s.DeleteBackup(t.Context(), who("p"), first.ID); err != nil {
		t.Fatal(err)
	}
	var gone []string
	for range 3 {
		gone = append(gone, p.do(job.KindDeleteBackup, job.Report{State: job.Done}).Spec.RepoID)
	}
	slices.Sort(gone)
	if want := []string{"r1", "r2", "r3"}; !slices.Equal(gone, want) {
		t.Errorf("deleted %v, want %v", gone, want)
	}
	page, more := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if len(page) != 1 || page[0].ID != alone.ID || more {
		t.Errorf("left: %+v", page)
	}
}

func TestFailedDeletionShowsTheBackupAgain(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	for range 2 { // it may be tried again
		if err := s.DeleteBackup(t.Context(), who("p"), b.ID); err != nil {
			t.Fatal(err)
		}
		p.do(job.KindDeleteBackup, job.Report{State: job.Failed, Fault: "the storage says no"})
		if b, err := s.Backup(t.Context(), who("p"), b.ID); err != nil || b.Status != job.BackupDeleteFailed || b.Fault == "" {
			t.Errorf("after a failed deletion: %+v, %v", b, err)
		}
	}
}

func TestProjectsSeeNothingOfEachOther(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	ctx, other := t.Context(), who("q")
	errs := map[string]error{}
	_, errs["instance"] = s.Instance(ctx, other, p.node)
	_, errs["backup"] = s.Backup(ctx, other, b.ID)
	_, errs["create backup"] = s.CreateBackup(ctx, other, server.NewBackup{Name: "x", Instance: p.node})
	_, errs["create instance"] = s.CreateInstance(ctx, other, server.NewInstance{Name: "x", Flavor: "1", Backup: b.ID})
	_, errs["databases"] = s.Databases(ctx, other, p.node)
	_, errs["prove"] = s.Prove(ctx, other, b.ID)
	_, errs["schedule"] = s.CreateSchedule(ctx, other, &job.Schedule{Name: "x", Instance: p.node, Cron: "@daily"})
	errs["delete backup"] = s.DeleteBackup(ctx, other, b.ID)
	errs["delete instance"] = s.DeleteInstance(ctx, other, p.node)
	errs["restart"] = s.Restart(ctx, other, p.node)
	errs["reset"] = s.ResetStatus(ctx, other, p.node)
	errs["rename"] = s.RenameInstance(ctx, other, p.node, "mine")
	for what, err := range errs {
		if kindOf(err) != server.NotFound {
			t.Errorf("%s: %v, want NotFound", what, err)
		}
	}
	if page, _ := s.Backups(other, server.BackupFilter{Limit: 10, Instance: p.node}); len(page) != 0 {
		t.Errorf("backups: %+v", page)
	}
	if len(s.Instances(other, false)) != 0 {
		t.Error("instances of another project")
	}
}

func TestAgentThatDiesGivesTheJobToItsNextStart(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	d, reply := p.next()
	if reply.Verdict != job.Go {
		t.Fatal(reply.Verdict)
	}
	p.link.Close() // the process dies
	next := &player{t: t, id: p.id, node: p.node, key: p.key}
	next.start(s.bus, "s2")
	d2, reply := next.next()
	if d2.Job != d.Job || reply.Verdict != job.Go || reply.Job.Attempt != 2 {
		t.Fatalf("claim of the next start: %+v", reply)
	}
	old := &player{t: t, id: p.id, session: "s1", link: next.link} // were it still there
	if v := old.report(job.Report{Job: d.Job, State: job.Done, Result: made("stale").Result}); v != job.Stop {
		t.Errorf("report of the dead process: %s, want stop", v)
	}
	if c := ask[job.ClaimReply](old, job.VerbClaim, job.Claim{Session: "s1", Job: d.Job}); c.Verdict != job.Drop {
		t.Errorf("claim of the dead process: %s, want drop", c.Verdict)
	}
	r := made("r2")
	r.Job = d.Job
	next.report(r)
	if b, err := s.Backup(t.Context(), who("p"), b.ID); err != nil || b.RepoID != "r2" {
		t.Errorf("backup: %+v, %v", b, err)
	}
}

func TestJobsThatKillTheirAgentEnd(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := p.next()
	for n := range 20 {
		p.session = "again" + string(rune('a'+n))
		p.hello()
		if c := ask[job.ClaimReply](p, job.VerbClaim, job.Claim{Session: p.session, Job: d.Job}); c.Verdict == job.Drop {
			break
		}
	}
	if b, err := s.Backup(t.Context(), who("p"), b.ID); err != nil || b.Status != job.BackupFailed {
		t.Errorf("backup: %+v, %v", b, err)
	}
}

func TestResetAndLostAgents(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{Lost: time.Hour})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := p.next()
	if err := s.ResetStatus(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	if b, _ := s.Backup(ctx, me, b.ID); b.Status != job.BackupFailed {
		t.Errorf("after the reset: %+v", b)
	}
	if v := p.report(job.Report{Job: d.Job, State: job.Running}); v != job.Stop {
		t.Errorf("report after the reset: %s, want stop", v)
	}
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Fatalf("backup after the reset: %v", err)
	}
	s.pass(50 * time.Minute) // the agent is silent
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if i, _ := s.Instance(ctx, me, p.node); i.Task != job.KindBackup {
		t.Errorf("too early: %+v", i)
	}
	s.pass(20 * time.Minute)
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if i, _ := s.Instance(ctx, me, p.node); i.Task != "" {
		t.Errorf("held for a lost agent: %+v", i)
	}
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); kindOf(err) != server.Busy {
		t.Errorf("backup while the agent is offline: %v, want Busy", err)
	}
}

// put writes a document as another server would.
func put(t *testing.T, table *bus.Table, id string, doc any) {
	t.Helper()
	v, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Put(t.Context(), id, v); err != nil {
		t.Fatal(err)
	}
}

// get reads what a table has.
func get(t *testing.T, b *bus.Bus, table, id string, doc any) {
	t.Helper()
	tab, err := b.Table(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := tab.Get(t.Context(), id)
	if err == nil {
		err = json.Unmarshal(v, doc)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweepEndsWhatADeadServerLeft(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	// What a server leaves that dies after holding the instance and storing the backup.
	table := func(name, id string, doc any) {
		tab, err := b.Table(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		put(t, tab, id, doc)
	}
	i, err := s.Instance(ctx, me, p.node)
	if err != nil {
		t.Fatal(err)
	}
	held := *i
	held.Task, held.Job, held.Updated = job.KindBackup, "0199aaaa-0000-7000-8000-000000000001", s.now()
	table("instances", held.ID, held)
	table("backups", "0199aaaa-0000-7000-8000-000000000002", job.Backup{ID: "0199aaaa-0000-7000-8000-000000000002", Name: "n", Project: "p", Instance: p.node, Status: job.BackupNew, Job: held.Job, Updated: s.now()})
	servertest.Eventually(t, "the server sees it", func() bool {
		i, err := s.Instance(ctx, me, p.node)
		page, _ := s.Backups(me, server.BackupFilter{Limit: 10})
		return err == nil && i.Task != "" && len(page) == 1
	})
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if i, _ := s.Instance(ctx, me, p.node); i.Task == "" {
		t.Error("let go while the other server may still be at it")
	}
	s.pass(2 * time.Minute)
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	p.hello()
	if i, _ := s.Instance(ctx, me, p.node); i.Task != "" {
		t.Errorf("still held: %+v", i)
	}
	if page, _ := s.Backups(me, server.BackupFilter{Limit: 10}); len(page) != 1 || page[0].Status != job.BackupFailed {
		t.Errorf("backup without a job: %+v", page)
	}
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Errorf("next backup: %v", err)
	}
}

func TestInstancesAreMadeAndFreed(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	i, err := s.CreateInstance(ctx, me, server.NewInstance{Name: "copy", Flavor: "1", VolumeGB: 2, Backup: b.ID, Agent: "db1"})
	if err != nil {
		t.Fatal(err)
	}
	if i.Shown() != job.InstanceBuild {
		t.Errorf("new instance: %s", i.Shown())
	}
	if err := s.DeleteInstance(ctx, me, i.ID); kindOf(err) != server.Busy {
		t.Errorf("delete while it is made: %v, want Busy", err)
	}
	j := p.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:5984", CouchDBVersion: "3.5.0"})
	if j.Spec.RepoID != "r1" || j.Instance != i.ID {
		t.Errorf("job: %+v", j)
	}
	if i, _ = s.Instance(ctx, me, i.ID); i.Shown() != job.InstanceActive || i.URL == "" {
		t.Errorf("made: %+v", i)
	}
	if reply := p.hello(); !slices.Contains(reply.Instances, i.ID) || reply.Node != p.node {
		t.Errorf("hello tells %+v", reply)
	}
	if err := s.DeleteInstance(ctx, me, i.ID); err != nil {
		t.Fatal(err)
	}
	if i, _ = s.Instance(ctx, me, i.ID); i.Shown() != job.InstanceShutdown {
		t.Errorf("being deleted: %s", i.Shown())
	}
	p.do(job.KindDeleteInstance, job.Report{State: job.Done})
	if _, err := s.Instance(ctx, me, i.ID); kindOf(err) != server.NotFound {
		t.Errorf("deleted: %v", err)
	}
	// Of a moment behind the backup, by an agent that knows them.
	at := b.MadeAt()
	if i, err = s.CreateInstance(ctx, me, server.NewInstance{Name: "copy", Flavor: "1", Backup: b.ID, At: at}); err != nil {
		t.Fatal(err)
	}
	if j := p.do(job.KindCreate, job.Report{State: job.Done, URL: "http://127.0.0.1:5984"}); j.Spec.RepoID != "r1" || !j.Spec.At.Equal(at) || !i.RestoredAt.Equal(at) || i.RestoredFrom != b.ID {
		t.Errorf("job of a moment: %+v", j)
	}
	for what, at := range map[string]time.Time{"before the backup": b.MadeAt().Add(-time.Minute), "to come": time.Now().Add(time.Hour)} {
		if _, err := s.CreateInstance(ctx, me, server.NewInstance{Name: "x", Flavor: "1", Backup: b.ID, At: at}); kindOf(err) != server.Invalid {
			t.Errorf("a moment %s: %v", what, err)
		}
	}
	if _, err := s.CreateInstance(ctx, me, server.NewInstance{Name: "x", Flavor: "1", At: at}); kindOf(err) != server.Invalid {
		t.Errorf("a moment of nothing: %v", err)
	}
	failing, err := s.CreateInstance(ctx, me, server.NewInstance{Name: "bad", Flavor: "1"})
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindCreate, job.Report{State: job.Failed, Fault: "no CouchDB here"})
	if i, _ := s.Instance(ctx, me, failing.ID); i.Shown() != job.InstanceFailed || i.Fault == nil {
		t.Errorf("failed: %+v", i)
	}
	for what, n := range map[string]server.NewInstance{
		"flavor":  {Name: "x", Flavor: "99"},
		"version": {Name: "x", Flavor: "1", Version: "1.0"},
		"agent":   {Name: "x", Flavor: "1", Agent: "nobody"},
	} {
		if _, err := s.CreateInstance(ctx, me, n); kindOf(err) != server.Invalid {
			t.Errorf("unknown %s: %v, want Invalid", what, err)
		}
	}
	// The agent's own node is let go, never removed.
	if err := s.DeleteInstance(ctx, me, p.node); err != nil {
		t.Fatal(err)
	}
	if reply := p.hello(); reply.Node != "" {
		t.Errorf("node that was let go: %+v", reply)
	}
	if page, _ := s.Backups(me, server.BackupFilter{Limit: 10}); len(page) != 1 {
		t.Errorf("backups of an instance that is gone: %+v", page)
	}
}

func TestJoiningAgainKeepsTheInstance(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	again := join(t, s, "db1", "p")
	if again.node != p.node || again.id == p.id {
		t.Errorf("instance %s and agent %s, were %s and %s", again.node, again.id, p.node, p.id)
	}
	if l := s.Agents(); len(l) != 1 || l[0].ID != again.id {
		t.Errorf("agents: %+v", l)
	}
	if _, err := p.link.Request(t.Context(), job.VerbHello, []byte(`{"session":"s1"}`)); err == nil {
		t.Error("the old agent is still heard")
	}
	if b, err := s.Backup(t.Context(), who("p"), b.ID); err != nil || b.Instance != again.node {
		t.Errorf("its backup: %+v, %v", b, err)
	}
	backUp(t, s, again, "p", "r2", server.NewBackup{})
	if _, err := s.Join(t.Context(), server.Joining{Name: "db1", Project: "q", PublicKey: "x"}); err == nil {
		t.Error("another project took the name")
	}
	if err := s.RemoveAgent(t.Context(), again.id); err != nil {
		t.Fatal(err)
	}
	if len(s.Instances(who("p"), true)) != 0 {
		t.Error("instances of a removed agent")
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{Quota: job.Quota{Instances: 2, Backups: 1, Volumes: 3}})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	b := backUp(t, s, p, "p", "r1", server.NewBackup{})
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); kindOf(err) != server.OverQuota {
		t.Errorf("second backup: %v, want OverQuota", err)
	}
	if err := s.DeleteBackup(ctx, me, b.ID); err != nil { // gives the place back at once
		t.Fatal(err)
	}
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Errorf("after a deletion: %v", err)
	}
	if _, err := s.CreateInstance(ctx, me, server.NewInstance{Name: "x", Flavor: "1", VolumeGB: 4}); kindOf(err) != server.OverQuota {
		t.Errorf("volume: %v, want OverQuota", err)
	}
	for _, limit := range []int{7, -1} {
		if err := s.SetQuota(ctx, me, "p", "volumes", limit); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range s.Quotas("p") {
		if q.Resource == "volumes" && q.Limit != -1 || q.Resource == "instances" && (q.Limit != 2 || q.InUse != 1) {
			t.Errorf("quota: %+v", q)
		}
	}
	if err := s.SetQuota(ctx, me, "p", "ram", 1); kindOf(err) != server.Invalid {
		t.Errorf("unknown resource: %v", err)
	}
}

// Requests at one moment don't take the same room.
func TestQuotaOfManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{Quota: job.Quota{Instances: 3, Backups: -1, Volumes: -1}})
	join(t, s, "db1", "p") // its node is one
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := s.CreateInstance(t.Context(), who("p"), server.NewInstance{Name: "x", Flavor: "1"}); err != nil && kindOf(err) != server.OverQuota {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(s.Instances(who("p"), false)); n != 3 {
		t.Errorf("%d instances, want 3", n)
	}
}
