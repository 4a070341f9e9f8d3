package server_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
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
