package agent_test

import (
	"slices"
	"testing"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/testenv"
)

// What is put back is what was backed up, on top of what there is, and only where the node lets servers write; what others wrote
// since somebody looked stays.
func TestRestoreDocuments(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	must(t, c.Put("/orders?q=2", nil, nil))
	type order struct {
		ID    string `json:"_id"`
		Rev   string `json:"_rev,omitempty"`
		Total int    `json:"total"`
	}
	for _, id := range []string{"a", "b", "c"} {
		must(t, c.Put("/orders/"+id, map[string]int{"total": 1}, nil))
	}
	s, w := newServer(t), newWorld(t)
	locked := s.start(w, c.DataDir, withCouch(c))
	b := s.do(backupJob(t))
	put := func(d job.Documents) job.Job {
		d.DB, d.From = "orders", job.StateRef{RepoID: b.Result.RepoID}
		return job.Job{Kind: job.KindDocuments, Instance: nodeID, Spec: job.Spec{RepoName: nodeName, Repository: *b.Repository, Documents: &d}}
	}
	s.fail(put(job.Documents{Doc: "a"}), "accept_writes")
	locked.stop()
	writes := func(o *agent.Options) { o.AcceptWrites, o.CouchUser, o.CouchPassword = true, c.Admin, c.Password }
	s.start(w, c.DataDir, withCouch(c), writes)

	var now order
	must(t, c.Get("/orders/a", &now))
	first := now.Rev
	must(t, c.Put("/orders/a", map[string]any{"_rev": first, "total": 2}, &struct{}{}))
	must(t, c.Get("/orders/a", &now))
	looked := now.Rev
	one := func(r job.Report) job.DocumentDone {
		t.Helper()
		if r.Documents == nil || len(r.Documents.Documents) != 1 {
			t.Fatalf("got %+v", r.Documents)
		}
		return r.Documents.Documents[0]
	}
	if d := one(s.do(put(job.Documents{Doc: "a", DryRun: true}))); d.Outcome != "written" || d.Was != looked || d.From != first || d.Rev != "" || !slices.Equal(d.Paths, []string{"/total"}) {
		t.Errorf("the preview: %+v", d)
	}
	if must(t, c.Get("/orders/a", &now)); now.Rev != looked {
		t.Errorf("a preview wrote %s", now.Rev)
	}
	if d := one(s.do(put(job.Documents{Doc: "a", On: &first}))); d.Outcome != "conflict" || d.Reason == "" {
		t.Errorf("somebody wrote since: %+v", d)
	}
	if must(t, c.Get("/orders/a", &now)); now.Rev != looked || now.Total != 2 {
		t.Errorf("what was written since is overwritten: %+v", now)
	}
	d := one(s.do(put(job.Documents{Doc: "a", On: &looked})))
	if must(t, c.Get("/orders/a", &now)); d.Outcome != "written" || now.Rev != d.Rev || now.Total != 1 {
		t.Errorf("put back: %+v, and it is %+v", d, now)
	}
	if d := one(s.do(put(job.Documents{Doc: "a"}))); d.Outcome != "same" {
		t.Errorf("put back again: %+v", d)
	}
	// All that were deleted come back together.
	for _, id := range []string{"b", "c"} {
		must(t, c.Get("/orders/"+id, &now))
		must(t, c.Delete("/orders/"+id+"?rev="+now.Rev))
	}
	later := s.do(backupJob(t))
	all := put(job.Documents{Until: &job.StateRef{RepoID: later.Result.RepoID}})
	if r := s.do(all); r.Documents.Counts["written"] != 2 || len(r.Documents.Documents) != 2 {
		t.Errorf("brought back: %+v", r.Documents)
	}
	for _, id := range []string{"b", "c"} {
		if must(t, c.Get("/orders/"+id, &now)); now.Total != 1 {
			t.Errorf("%s: %+v", id, now)
		}
	}
	// Nothing of another instance is written here.
	other := put(job.Documents{Doc: "a"})
	other.Spec.RepoName = "other"
	s.fail(other, "not for the CouchDB")
	other = put(job.Documents{Doc: "a"})
	other.Instance = newID(t)
	s.fail(other, "not for the CouchDB")
}
