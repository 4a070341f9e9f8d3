package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// A version is put back after a preview and the typed name of the document, on top of what was looked at; what it writes itself is
// the agent's to test.
func TestPuttingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.play("db1")
	backup := p.backup()
	b := w.as(access.Operator)
	page := "/instances/" + p.Instance + "/restore-doc"
	ask := []string{"db", "orders", "doc", "o-17", "rev", "2-b", "s", backup}
	b.post(page, ask...).has(409, "accept_writes")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(servertest.Ask(t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, Writes: true, Instances: []job.Seen{{Up: true}}}, nil))
	b.post(page, ask...).has(400, "no user of CouchDB")
	w.as(access.Viewer).post(page, ask...).has(403)
	job1 := b.post(page, append(ask, "user", "adm", "password", "geheim")...)
	b.follow(job1).has(200, "looks what would change")
	done := func(d job.DocumentDone, dry bool) {
		p.free <- job.Report{State: job.Done, Documents: &job.DocumentsDone{State: "backup nightly of 2025-01-02T03:04:05Z", DryRun: dry, Counts: map[string]int{d.Outcome: 1}, Documents: []job.DocumentDone{d}}}
	}
	done(job.DocumentDone{ID: "o-17", Outcome: "written", From: "2-b", Was: "5-e", Paths: []string{"/total<script>"}}, true)
	to := job1.header.Get("Location")
	servertest.Eventually(t, "the preview is there", func() bool { return strings.Contains(b.get(to).body, "What is live now is replaced") })
	a := b.get(to)
	a.has(200, "The live document is at 5-e", "of backup nightly of "+time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC).Local().Format("2 Jan 2006, 15:04")+" would be written", "1 place differs", "Type o-17 to confirm", "stored nowhere")
	a.hasNot("<script>", "geheim")
	id := strings.TrimPrefix(to[strings.Index(to, "job="):], "job=")
	b.post(page+"/confirm", "job", id, "word", "o-18", "user", "adm", "password", "geheim").has(422, "Nothing was written")
	job2 := b.post(page+"/confirm", "job", id, "word", "o-17", "user", "adm", "password", "geheim")
	to = job2.header.Get("Location")
	var spec *job.Documents
	for _, j := range w.Server.Jobs(caller()) {
		if j.Kind == job.KindDocuments && !j.Spec.Documents.DryRun {
			spec = j.Spec.Documents
		}
	}
	if spec == nil || spec.On == nil || *spec.On != "5-e" || spec.Doc != "o-17" || spec.Rev != "2-b" || spec.From.RepoID == "" {
		t.Fatalf("the agent is told %+v", spec)
	}
	if id := to[strings.Index(to, "job=")+4:]; !strings.Contains(b.get("/jobs/"+id).body, `href="`+to+`"`) {
		t.Error("the job doesn't lead to what it did")
	}
	done(job.DocumentDone{ID: "o-17", Outcome: "written", From: "2-b", Was: "5-e", Rev: "6-f"}, false)
	servertest.Eventually(t, "it is written", func() bool { return strings.Contains(b.get(to).body, "The document is back") })
	b.get(to).has(200, "as 6-f")
	if !strings.Contains(w.Audited(), `"action":"document.restore","target":"`+p.Instance+`/orders/o-17"`) {
		t.Errorf("audit log: %s", w.Audited())
	}
}
