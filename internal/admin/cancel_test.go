package admin_test

import (
	"net/http"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// A job that leaves nothing half done can be ended; who did is its fault, and not the
// instance's.
func TestCancellingJobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin, other := w.Token(project, access.Admin), w.Token("other", access.Operator)
	p := w.play(admin, "db1")
	who := &access.Caller{Project: project, Role: access.Operator}
	b, err := w.Server.CreateBackup(t.Context(), who, server.NewBackup{Name: "b", Instance: p.Instance})
	if err != nil {
		t.Fatal(err)
	}
	w.refused(w.do("DELETE", "/jobs/"+b.Job, other, ""), http.StatusNotFound, "not_found", "cannot be found")
	w.refused(w.do("DELETE", "/jobs/"+b.Job, w.Token(project, access.Viewer), ""), http.StatusForbidden, "forbidden", "operator")
	w.into(w.do("DELETE", "/jobs/"+b.Job, admin, ""), http.StatusNoContent, "", nil)
	w.refused(w.do("DELETE", "/jobs/"+b.Job, admin, ""), http.StatusConflict, "conflict", "has ended already")
	var j struct{ State, Fault string }
	w.into(w.do("GET", "/jobs/"+b.Job, admin, ""), 200, "job", &j)
	if j.State != "failed" || j.Fault != "cancelled by test" {
		t.Errorf("the job: %+v", j)
	}
	now, err := w.Server.Backup(t.Context(), who, b.ID)
	if err != nil || now.Status != job.BackupFailed {
		t.Errorf("the backup: %+v, %v", now, err)
	}
	i, err := w.Server.Instance(t.Context(), who, p.Instance)
	if err != nil || i.Fault != nil || i.Task != "" {
		t.Errorf("the instance: %+v, %v", i, err)
	}
	var list []struct{ ID string }
	w.into(w.do("GET", "/jobs?since=7d", admin, ""), 200, "jobs", &list)
	if len(list) != 1 {
		t.Errorf("jobs of a week: %v", list)
	}
	w.refused(w.do("GET", "/jobs?since=soon", admin, ""), 400, "invalid", "length of time")
	var token access.Token
	w.into(w.do("POST", "/tokens", admin, `{"name":"r","role":"viewer","contents":true}`), 201, "token", &token)
	if !token.Contents {
		t.Errorf("the token: %+v", token)
	}
}
