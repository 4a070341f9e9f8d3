package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
)

const restorePlan = `cluster: prod
backups:
- node: couchdb@a
  instance: db1
  backup: 01890000-0000-7000-8000-000000000001
- node: couchdb@b
  instance: db2
  backup: 01890000-0000-7000-8000-000000000002
nodes:
- name: couchdb@c
- name: couchdb@d
`

// The steps of a restore by two agents: whatever a node says of one decides what all get next, and a map that may have been written is never
// taken back.
func TestRestoreTogether(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	one, two := join(t, s, "db1", "p"), join(t, s, "db2", "p")
	q := server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db2"}, DB: "orders", As: "again"}
	step := func(p *player, want job.Step, r job.Report) *job.Part {
		t.Helper()
		part := p.do(job.KindRestore, r).Spec.Part
		if part == nil || part.Step != want {
			t.Fatalf("the job is %+v, want the step %s", part, want)
		}
		return part
	}
	done, failed := job.Report{State: job.Done}, job.Report{State: job.Failed, Fault: "why"}
	begin := func() *job.Restore {
		t.Helper()
		r, err := s.StartRestore(t.Context(), who("p"), q)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	is := func(id string, state job.State, at job.Step) *job.Restore {
		t.Helper()
		r, err := s.Restore(t.Context(), who("p"), id)
		if err != nil || r.State != state || r.Step != at {
			t.Fatalf("the restore is %+v, %v; want %s in step %s", r, err, state, at)
		}
		return r
	}

	// A check that fails ends it, and nothing else was asked of anybody.
	r := begin()
	first := step(one, job.StepCheck, done)
	if is(r.ID, job.Running, job.StepCheck); first.Suffix == "" {
		t.Error("no suffix")
	}
	step(two, job.StepCheck, failed)
	is(r.ID, job.Failed, job.StepCheck)

	// Files that fail on one go again on all; the suffix is another one each time.
	if again := begin(); again.ID != r.ID || again.Attempt != 2 {
		t.Errorf("the second time it is %+v", again)
	}
	if second := step(one, job.StepCheck, done); second.Suffix <= first.Suffix {
		t.Errorf("the suffix %s after %s", second.Suffix, first.Suffix)
	}
	step(two, job.StepCheck, done)
	step(one, job.StepFiles, done)
	step(two, job.StepFiles, failed)
	step(one, job.StepUndo, done)
	is(r.ID, job.Running, job.StepUndo)
	step(two, job.StepUndo, done)
	is(r.ID, job.Failed, job.StepUndo)

	// A map of which it isn't known whether it was written: nothing is taken back, and the same request goes on with it.
	begin()
	var stamp string
	for _, p := range []*player{one, two} {
		step(p, job.StepCheck, done)
	}
	for _, p := range []*player{one, two} {
		stamp = step(p, job.StepFiles, done).Suffix
	}
	step(one, job.StepMap, failed)
	if is(r.ID, job.Failed, job.StepMap); len(two.jobs) > 0 {
		t.Error("the other got a job")
	}
	other := q
	other.Plan += "n: 1\n"
	if _, err := s.StartRestore(t.Context(), who("p"), other); kindOf(err) != server.Conflict {
		t.Errorf("another state meanwhile: %v, want Conflict", err)
	}
	begin()
	if p := step(one, job.StepMap, done); !p.Again || p.Suffix != stamp {
		t.Errorf("it goes on with %+v, want the suffix %s", p, stamp)
	}
	step(one, job.StepAnswer, done)
	step(two, job.StepAnswer, done)
	is(r.ID, job.Done, job.StepAnswer)

	if _, err := s.Restore(t.Context(), who("q"), r.ID); kindOf(err) != server.NotFound {
		t.Errorf("another project sees it: %v", err)
	}
}

// A map that is known not to be written lets the files go again.
func TestRestoreUnwritten(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	one, two := join(t, s, "db1", "p"), join(t, s, "db2", "p")
	q := server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db2"}, DB: "orders"}
	r, err := s.StartRestore(t.Context(), who("p"), q)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		one.do(job.KindRestore, job.Report{State: job.Done})
		two.do(job.KindRestore, job.Report{State: job.Done})
	}
	one.do(job.KindRestore, job.Report{State: job.Failed, Fault: "taken", Unwritten: true})
	for _, p := range []*player{one, two} {
		if j := p.do(job.KindRestore, job.Report{State: job.Done}); j.Spec.Part.Step != job.StepUndo {
			t.Errorf("the step is %s, want undo", j.Spec.Part.Step)
		}
	}
	if r, err = s.Restore(t.Context(), who("p"), r.ID); err != nil || r.State != job.Failed {
		t.Errorf("the restore is %+v, %v", r, err)
	}
}

const onePlan = `cluster: one
backups:
- node: couchdb@a
  instance: db1
  backup: 01890000-0000-7000-8000-000000000001
nodes:
- name: couchdb@c
`

// A database in the place of another one is a restore of its own, and one that isn't answered leaves the one from before.
func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	one := join(t, s, "db1", "p")
	q := server.RestoreRequest{Plan: onePlan, Agents: map[string]string{"couchdb@c": "db1"}, DB: "orders"}
	beside, err := s.StartRestore(t.Context(), who("p"), q)
	if err != nil {
		t.Fatal(err)
	}
	one.do(job.KindRestore, job.Report{State: job.Failed, Fault: "it is there"})
	q.Replace = true
	r, err := s.StartRestore(t.Context(), who("p"), q)
	if err != nil || r.ID == beside.ID {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, step := range []job.Step{job.StepCheck, job.StepFiles, job.StepMap, job.StepUndo} {
		report := job.Report{State: job.Done}
		if step == job.StepMap {
			report = job.Report{State: job.Failed, Fault: "it does not answer", Unwritten: true}
		}
		if p := one.do(job.KindRestore, report).Spec.Part; p.Step != step || !p.Replace {
			t.Errorf("it is told %+v, want %s in place", p, step)
		}
	}
	if r, err = s.Restore(t.Context(), who("p"), r.ID); err != nil || r.State != job.Failed || !strings.HasSuffix(r.Fault, "it does not answer. The database is the one that it was before") {
		t.Errorf("%+v, %v", r, err)
	}
}

// What isn't a project's is never restored by it, nor what can't be meant.
func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	join(t, s, "db1", "p")
	join(t, s, "db2", "q")
	join(t, s, "db3", "p")
	agents := map[string]string{"couchdb@c": "db1", "couchdb@d": "db3"}
	for what, c := range map[string]struct {
		q    server.RestoreRequest
		want server.Kind
	}{
		"another's instance": {server.RestoreRequest{Plan: restorePlan, Agents: agents}, server.Forbidden},
		"another's agent":    {server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db2"}}, server.NotFound},
		"one agent twice":    {server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db1"}}, server.Invalid},
		"a node too few":     {server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1"}}, server.Invalid},
		"a system database":  {server.RestoreRequest{Plan: restorePlan, Agents: agents, DB: "orders", As: "_users"}, server.Invalid},
		"a cluster's":        {server.RestoreRequest{Plan: restorePlan, Agents: agents, DB: "orders", Replace: true}, server.Invalid},
		"no plan":            {server.RestoreRequest{Plan: "x: 1", Agents: agents}, server.Invalid},
	} {
		if _, err := s.StartRestore(t.Context(), who("p"), c.q); kindOf(err) != c.want {
			t.Errorf("%s: %v, want kind %d", what, err, c.want)
		}
	}
}

// restorers are two agents that restore a database.
type restorers struct {
	*service
	t        *testing.T
	one, two *player
	q        server.RestoreRequest
}

func newRestorers(t *testing.T, b *bus.Bus) *restorers {
	t.Helper()
	s := start(t, b, server.Config{})
	return &restorers{s, t, join(t, s, "db1", "p"), join(t, s, "db2", "p"),
		server.RestoreRequest{Plan: restorePlan, Agents: map[string]string{"couchdb@c": "db1", "couchdb@d": "db2"}, DB: "orders", As: "again"}}
}

func (s *restorers) begin() *job.Restore {
	s.t.Helper()
	r, err := s.StartRestore(s.t.Context(), who("p"), s.q)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// step lets a player do a step, which must be the one that is wanted.
func (s *restorers) step(p *player, want job.Step, r job.Report) *job.Part {
	s.t.Helper()
	part := p.do(job.KindRestore, r).Spec.Part
	if part == nil || part.Step != want {
		s.t.Fatalf("the job is %+v, want the step %s", part, want)
	}
	return part
}

func (s *restorers) is(id string, state job.State, at job.Step) *job.Restore {
	s.t.Helper()
	r, err := s.Restore(s.t.Context(), who("p"), id)
	if err != nil || r.State != state || r.Step != at {
		s.t.Fatalf("the restore is %+v, %v; want %s in step %s", r, err, state, at)
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// said is the log of something, in one text.
func said(l job.Log) string {
	var out []string
	for _, line := range l.Lines {
		out = append(out, line.Text)
	}
	return strings.Join(out, "\n")
}

// A restore can be cancelled until a map may be written: what was written goes again on all nodes. Later it says why not.
func TestRestoreCancelled(t *testing.T) {
	t.Parallel()
	s := newRestorers(t, openBus(t))
	done := job.Report{State: job.Done}
	cancel := func(id string) error {
		_, err := s.CancelRestore(t.Context(), who("p"), id)
		return err
	}

	// While it looks: nothing else is asked of anybody, nor is what one has begun taken from it.
	r := s.begin()
	d, _ := s.one.next()
	if err := cancel("p"); kindOf(err) != server.NotFound {
		t.Errorf("what there isn't: %v", err)
	}
	if _, err := s.CancelRestore(t.Context(), who("q"), r.ID); kindOf(err) != server.NotFound {
		t.Errorf("another's: %v", err)
	}
	must(t, cancel(r.ID))
	if v := s.one.report(job.Report{Job: d.Job, State: job.Running}); v != job.Stop {
		t.Errorf("who works on it is told %s", v)
	}
	must(t, d.Done(t.Context()))
	if two, reply := s.two.next(); reply.Verdict != job.Drop {
		t.Errorf("who has not begun gets %s", reply.Verdict)
	} else {
		must(t, two.Done(t.Context()))
	}
	if r = s.is(r.ID, job.Failed, job.StepCheck); !r.WasCancelled() || r.Fault != "cancelled by u. Nothing was written" {
		t.Errorf("it is %+v", r)
	}
	if err := cancel(r.ID); kindOf(err) != server.Conflict {
		t.Errorf("once more: %v", err)
	}

	// While files are made: one is ready, and both take them away.
	s.begin()
	s.step(s.one, job.StepCheck, done)
	s.step(s.two, job.StepCheck, done)
	stamp := s.step(s.one, job.StepFiles, done).Suffix
	d, _ = s.two.next()
	if err := s.CancelJob(t.Context(), who("p"), d.Job); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), r.ID) {
		t.Errorf("a step alone: %v", err)
	}
	must(t, cancel(r.ID))
	if v := s.two.report(job.Report{Job: d.Job, State: job.Done}); v != job.Stop {
		t.Errorf("who is ready after all is told %s", v)
	}
	must(t, d.Done(t.Context()))
	if err := cancel(r.ID); kindOf(err) != server.Conflict {
		t.Errorf("while it is undone: %v", err)
	}
	for _, p := range []*player{s.one, s.two} {
		if part := s.step(p, job.StepUndo, done); part.Suffix != stamp {
			t.Errorf("taken away is %s, not %s", part.Suffix, stamp)
		}
	}
	r = s.is(r.ID, job.Failed, job.StepUndo)
	if !r.WasCancelled() || r.Fault != "cancelled by u. Nothing of the database is left in the cluster" {
		t.Errorf("it is %+v", r)
	}
	for _, want := range []string{"Asked for by u.", "Asked for again by u: attempt 2.", "Restoring files: couchdb@c by the agent db1, couchdb@d by the agent db2.", "couchdb@c: done.", "Cancelled by u.", "couchdb@d failed: cancelled by u.",
		"Taking the files away again", "Ended: cancelled by u. Nothing of the database is left"} {
		if !strings.Contains(said(r.Log), want) {
			t.Errorf("the log lacks %q:\n%s", want, said(r.Log))
		}
	}

	// Once a map may be written it can't be.
	s.begin()
	for _, step := range []job.Step{job.StepCheck, job.StepFiles} {
		s.step(s.one, step, done)
		s.step(s.two, step, done)
	}
	if err := cancel(r.ID); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "shard map is being written") {
		t.Errorf("at the map: %v", err)
	}
	s.step(s.one, job.StepMap, done)
	if err := cancel(r.ID); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "database is there") {
		t.Errorf("after it: %v", err)
	}
	s.step(s.one, job.StepAnswer, done)
	s.step(s.two, job.StepAnswer, done)
	if r = s.is(r.ID, job.Done, job.StepAnswer); r.Cancelled != "" {
		t.Errorf("it is %+v", r)
	}

	// Of a cluster what was restored stays, and says so.
	s.q.DB, s.q.As = "", ""
	r = s.begin()
	s.step(s.one, job.StepCheck, done)
	s.step(s.two, job.StepCheck, done)
	must(t, cancel(r.ID))
	if r = s.is(r.ID, job.Failed, job.StepFiles); !strings.Contains(r.Fault, "is in the nodes' data directories") {
		t.Errorf("it is %+v", r)
	}
	for _, p := range []*player{s.one, s.two} {
		if d, reply := p.next(); reply.Verdict != job.Drop {
			t.Errorf("%s is told %s", d.Job, reply.Verdict)
		}
	}
}

// What a silent agent is to take away goes when it is back, however long that takes; and then nothing is left.
func TestRestoreUndoneLate(t *testing.T) {
	t.Parallel()
	s := newRestorers(t, openBus(t))
	done := job.Report{State: job.Done}
	r := s.begin()
	s.step(s.one, job.StepCheck, done)
	s.step(s.two, job.StepCheck, done)
	s.step(s.one, job.StepFiles, done)
	s.step(s.two, job.StepFiles, job.Report{State: job.Failed, Fault: "why"})
	s.step(s.one, job.StepUndo, done)
	for range 30 {
		s.pass(time.Hour)
		s.one.hello()
		must(t, s.Sweep(t.Context()))
	}
	if r = s.is(r.ID, job.Failed, job.StepUndo); !strings.Contains(r.Fault, "files are still on couchdb@d") {
		t.Errorf("it is %+v", r)
	}
	s.two.hello()
	s.step(s.two, job.StepUndo, done)
	if r = s.is(r.ID, job.Failed, job.StepUndo); r.Nodes[1].State != job.Done || r.Nodes[1].Fault != "" || !strings.HasSuffix(r.Fault, "why. Nothing of the database is left in the cluster") {
		t.Errorf("in the end it is %+v", r)
	}
	// An agent that is gone for good is waited for by nobody.
	s.begin()
	s.step(s.one, job.StepCheck, done)
	s.step(s.two, job.StepCheck, done)
	s.step(s.one, job.StepFiles, done)
	s.step(s.two, job.StepFiles, job.Report{State: job.Failed, Fault: "why"})
	s.step(s.one, job.StepUndo, done)
	must(t, s.RemoveAgent(t.Context(), s.two.id))
	for range 3 {
		s.pass(time.Hour)
		must(t, s.Sweep(t.Context()))
	}
	for _, j := range s.JobsSince(who("p"), false, time.Hour*1000) {
		if !j.State.Ended() {
			t.Errorf("left: %+v", j)
		}
	}
}

// diligent does all that an agent is asked for, again and again where no server takes it, as agents do.
type diligent struct {
	*player
	open []*bus.Delivery
}

func (d *diligent) work(ctx context.Context, stop func(*job.Part) bool) {
	d.t.Helper()
	for len(d.jobs) > 0 {
		d.open = append(d.open, <-d.jobs)
	}
	slices.Reverse(d.open) // as after a start, an older one may come last
	d.open = slices.DeleteFunc(d.open, func(at *bus.Delivery) bool {
		var claim job.ClaimReply
		if err := servertest.Ask(ctx, d.link, job.VerbClaim, job.Claim{Session: d.session, Job: at.Job}, &claim); err != nil {
			return false
		}
		if claim.Verdict == job.Go {
			if stop(claim.Job.Spec.Part) {
				return false
			}
			var reply job.ReportReply
			if err := servertest.Ask(ctx, d.link, job.VerbReport, job.Report{Session: d.session, Job: at.Job, State: job.Done}, &reply); err != nil {
				return false
			}
		}
		must(d.t, at.Done(ctx))
		return true
	})
}

// A server that dies at any write of a restore, from its beginning to its end, leaves one that another server ends as it would have; and so it is with
// one that is cancelled while files are made: then all that made some take them away.
func TestRestoreOfADeadServer(t *testing.T) {
	t.Parallel()
	for _, cancelled := range []bool{false, true} {
		for table, writes := range map[string][2]int{"restores": {12, 11}, "jobs": {21, 19}} {
			n := writes[0]
			if cancelled {
				n = writes[1]
			}
			for nth := range n {
				for _, stored := range []bool{false, true} {
					if !testenv.Soak() && stored == (nth%2 == 0) {
						continue
					}
					t.Run(fmt.Sprintf("%v %s %d %v", cancelled, table, nth, stored), func(t *testing.T) {
						t.Parallel()
						restoreOfADeadServer(t, cancelled, table, nth, stored)
					})
				}
			}
		}
	}
}

func restoreOfADeadServer(t *testing.T, cancelled bool, table string, nth int, stored bool) {
	errDead := errors.New("dead")
	b := openBus(t)
	first := newRestorers(t, b)
	first.stop()
	var dead, armed atomic.Bool
	var writes atomic.Int64
	s := startOver(t, b, server.Config{}, func(name string, t server.Table) server.Table {
		return &mortal{Table: t, dead: &dead, write: func(store func() error) error {
			switch {
			case !armed.Load():
				return store()
			case dead.Load():
				return errDead
			case name != table || int(writes.Add(1))-1 < nth:
				return store()
			}
			dead.Store(true)
			if stored {
				return errors.Join(store(), errDead)
			}
			return errDead
		}}
	})
	agents := []*diligent{{player: first.one}, {player: first.two}}
	for _, a := range agents {
		a.hello()
	}
	armed.Store(true)
	begun, err := s.StartRestore(t.Context(), who("p"), first.q)
	asked := err == nil
	buried, steps, was := false, map[string]bool{}, job.Step("")
	for round, end := 0, time.Now().Add(servertest.Patience); time.Now().Before(end); round++ {
		if dead.Load() && !buried {
			buried = true
			s.stop()
			s = start(t, b, server.Config{})
		}
		if buried {
			s.pass(2 * time.Minute)
			for _, a := range agents {
				a.hello()
			}
			must(t, s.Sweep(t.Context()))
			if !asked { // who asked was told that it failed, and asks again
				begun, err = s.StartRestore(t.Context(), who("p"), first.q)
				must(t, err)
				asked = true
			}
		}
		for n, a := range agents {
			a.work(t.Context(), func(p *job.Part) bool {
				if p.Step == job.StepFiles && steps[fmt.Sprint(n, job.StepUndo)] {
					t.Errorf("%s makes files after they were taken away", p.Node)
				}
				steps[fmt.Sprint(n, p.Step)] = true
				if was = p.Step; cancelled && n == 1 && p.Step == job.StepFiles {
					if asked {
						r, err := s.CancelRestore(t.Context(), who("p"), begun.ID)
						if r == nil {
							r, _ = s.Restore(t.Context(), who("p"), begun.ID)
						}
						return err != nil && (r == nil || r.Cancelled == "") // it is asked for again
					}
					return true
				}
				return false
			})
		}
		if asked && !dead.Load() || buried {
			r, err := s.Restore(t.Context(), who("p"), begun.ID)
			if err == nil && r.State.Ended() && len(agents[0].open)+len(agents[1].open) == 0 {
				break
			}
		}
		time.Sleep(time.Duration(min(1+round/2, 100)) * time.Millisecond) // for the next jobs to come
	}
	if !dead.Load() {
		t.Fatalf("there were only %d writes", writes.Load())
	}
	r, err := s.Restore(t.Context(), who("p"), begun.ID)
	must(t, err)
	switch {
	case !cancelled && (r.State != job.Done || !steps["0map"] || !steps["0answer"] || !steps["1answer"]):
		t.Errorf("it is %+v, after %v", r, steps)
	case cancelled && (r.State != job.Failed || !strings.HasPrefix(r.Fault, "cancelled by u. Nothing of the database") || steps["0map"] || !steps["0undo"] || !steps["1undo"]):
		t.Errorf("cancelled, and it is %+v, after %v and then %s", r, steps, was)
	}
	for _, j := range s.JobsSince(who("p"), false, time.Hour*1000) {
		if !j.State.Ended() {
			t.Errorf("left: %+v", j)
		}
	}
}

// What was there goes aside under the second of its round, so two rounds never have the same; and where a round is cancelled, it says where that is.
func TestRoundsInPlace(t *testing.T) {
	t.Parallel()
	s := newRestorers(t, openBus(t))
	s.q.DB, s.q.As, s.q.Replace = "", "", true
	done, rounds := job.Report{State: job.Done}, map[string]bool{}
	var r *job.Restore
	for range 3 {
		r = s.begin()
		for _, step := range []job.Step{job.StepCheck, job.StepFiles} {
			s.step(s.one, step, done)
			rounds[s.step(s.two, step, done).Round.Format(time.DateTime)] = true
		}
		s.is(r.ID, job.Done, job.StepFiles)
	}
	if len(rounds) != 3 {
		t.Errorf("the rounds are %v", rounds)
	}
	s.begin()
	s.step(s.one, job.StepCheck, done)
	s.step(s.two, job.StepCheck, done)
	_, err := s.CancelRestore(t.Context(), who("p"), r.ID)
	must(t, err)
	if r = s.is(r.ID, job.Failed, job.StepFiles); !strings.Contains(r.Fault, "with .before- and a time behind its name") {
		t.Errorf("it is %+v", r)
	}
}
