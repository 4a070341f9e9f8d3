package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// jobOf is a job as it is shown.
func jobOf(t *testing.T, s *service, id string) *job.Job {
	t.Helper()
	for _, j := range s.JobsSince(who("p"), false, 1000*time.Hour) {
		if j.ID == id {
			return j
		}
	}
	t.Fatalf("there is no job %s", id)
	return nil
}

// A job's log says in words what became of it, with what its agent said of it, each once.
func TestLogOfAJob(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	first, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	must(t, err)
	d, _ := p.next()
	began := s.now()
	s.pass(20 * time.Second)
	said := []job.Said{{Number: 3, Ago: 10, Text: "It waits for the lock."}, {Number: 4, Ago: 2, Text: "It reads\x1b 3 databases."}}
	report := func(at job.Progress, said ...job.Said) int64 {
		t.Helper()
		reply := ask[job.ReportReply](p, job.VerbReport, job.Report{Session: p.session, Job: d.Job, State: job.Running, At: at, Said: said})
		if reply.Verdict != job.Go {
			t.Fatalf("the verdict is %s", reply.Verdict)
		}
		return reply.Heard
	}
	if heard := report(job.Progress{Bytes: 4000, BytesDone: 400}, said...); heard != 4 {
		t.Errorf("heard up to %d", heard)
	}
	if report(job.Progress{Bytes: 4000, BytesDone: 500}, said...); len(jobOf(t, s, d.Job).Log.Lines) != 5 {
		t.Errorf("what was said twice is there twice: %s", saidOf(t, s, d.Job))
	}
	s.pass(20 * time.Second)
	report(job.Progress{Bytes: 4000, BytesDone: 2400})

	// The agent is started anew: it counts anew.
	p.link.Close()
	p.start(b, "s2")
	d, _ = p.next()
	s.pass(2 * time.Second)
	report(job.Progress{}, job.Said{Number: 1, Ago: 1e9, Text: "It looks what was made."})
	r := made("r1")
	r.Job, r.Result.Notes, r.Said = d.Job, []string{"3 views are built anew."}, []job.Said{{Number: 1, Text: "again"}, {Number: 2, Text: "It copies it on."}}
	if v := p.report(r); v != job.Go {
		t.Fatal(v)
	}
	must(t, d.Done(t.Context()))
	want := []string{"Asked for by u.", "It waits for the agent db1.", "The agent db1 took it.", "It waits for the lock.", "It reads  3 databases.", "50 %: 2.4 kB of 4.0 kB.",
		"The agent db1 was started anew and goes on with it: attempt 2.", "It looks what was made.", "It copies it on.", "Note: 3 views are built anew.", "Done after 42s: 1.0 kB as restored, 300 bytes of them new; 0 databases."}
	if got := saidOf(t, s, d.Job); got != strings.Join(want, "\n") {
		t.Errorf("the log is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	lines := jobOf(t, s, d.Job).Log.Lines
	if ago := lines[3].At.Sub(began); ago < 9*time.Second || ago > 11*time.Second {
		t.Errorf("what was said 10 s before is of %s after the beginning", ago)
	}
	for n := 1; n < len(lines); n++ {
		if lines[n].At.Before(lines[n-1].At) {
			t.Errorf("%q is earlier than %q", lines[n].Text, lines[n-1].Text)
		}
	}

	// One that is cancelled.
	bk, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	must(t, err)
	must(t, s.CancelJob(t.Context(), who("p"), bk.Job))
	if got := saidOf(t, s, bk.Job); got != "Asked for by u.\nIt waits for the agent db1.\nCancelled by u." {
		t.Errorf("the log is\n%s", got)
	}

	// One whose agent is silent.
	s.pass(time.Hour)
	must(t, s.DeleteBackup(t.Context(), who("p"), first.ID))
	for _, j := range s.Jobs(who("p")) {
		if got := saidOf(t, s, j.ID); j.Kind == job.KindDeleteBackup && !strings.HasPrefix(got, "Asked for by u.\nIt waits for the agent db1, which has been silent since ") {
			t.Errorf("the log is\n%s", got)
		}
	}
}

func saidOf(t *testing.T, s *service, id string) string {
	t.Helper()
	return said(jobOf(t, s, id).Log)
}

// An agent that talks without end fills no catalog.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	_, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node})
	must(t, err)
	d, _ := p.next()
	for n := range 40 {
		s.pass(time.Second)
		var said []job.Said
		for k := range 200 {
			said = append(said, job.Said{Number: int64(1000*n + k + 1), Ago: -5, Text: fmt.Sprint(n, " ", k, strings.Repeat(" and so on", 100))})
		}
		ask[job.ReportReply](p, job.VerbReport, job.Report{Session: p.session, Job: d.Job, State: job.Running, Said: said})
		ask[job.ReportReply](p, job.VerbReport, job.Report{Session: p.session, Job: d.Job, State: job.Running, Said: []job.Said{{Number: int64(1000*n + 999), Text: "more"}}})
	}
	var j job.Job
	servertest.Eventually(t, "it is stored", func() bool { get(t, b, "jobs", d.Job, &j); return j.Heard > 0 })
	all := 0
	for _, l := range j.Log.Lines {
		all += len(l.Text)
	}
	if len(j.Log.Lines) != job.MostLines || j.Log.Left < 1000 || all > job.MostLines*300 || !strings.HasPrefix(j.Log.Lines[0].Text, "Asked for") || !strings.HasPrefix(j.Log.Lines[job.MostLines-1].Text, "39 199") {
		t.Errorf("%d lines of %d bytes, %d left out, the last is %.50s", len(j.Log.Lines), all, j.Log.Left, j.Log.Lines[len(j.Log.Lines)-1].Text)
	}
}
