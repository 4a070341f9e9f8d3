package admin_test

import (
	"encoding/json"
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
	var log struct {
		Log struct{ Lines []struct{ Text string } }
	}
	w.into(w.do("GET", "/jobs/"+b.Job, w.Token(project, access.Viewer), ""), 200, "job", &log)
	if n := len(log.Log.Lines); n < 2 || log.Log.Lines[n-1].Text != "Cancelled by test." {
		t.Errorf("the log: %+v", log)
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

// A restore by several agents is cancelled as a whole, by who may, until something is put in its place.
func TestCancellingRestores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.Token(project, access.Admin)
	w.play(admin, "db1")
	plan := "cluster: prod\nbackups:\n- node: couchdb@a\n  instance: db1\n  backup: 01890000-0000-7000-8000-000000000001\nnodes:\n- name: couchdb@c\n"
	body, err := json.Marshal(map[string]any{"plan": plan, "agents": map[string]string{"couchdb@c": "db1"}, "database": "orders", "as": "again"})
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		ID, State, Fault, Cancelled, By string
		Log                             struct{ Lines []struct{ Text string } }
	}
	w.into(w.do("POST", "/restores", admin, string(body)), 202, "restore", &r)
	w.refused(w.do("DELETE", "/restores/"+r.ID, w.Token("other", access.Operator), ""), http.StatusNotFound, "not_found", "cannot be found")
	w.refused(w.do("DELETE", "/restores/"+r.ID, w.Token(project, access.Viewer), ""), http.StatusForbidden, "forbidden", "operator")
	var jobs []struct{ ID, Restore, Step string }
	w.into(w.do("GET", "/jobs", admin, ""), 200, "jobs", &jobs)
	if len(jobs) != 1 || jobs[0].Restore != r.ID || jobs[0].Step != "check" {
		t.Fatalf("its steps: %+v", jobs)
	}
	w.refused(w.do("DELETE", "/jobs/"+jobs[0].ID, admin, ""), http.StatusConflict, "conflict", r.ID)
	w.into(w.do("DELETE", "/restores/"+r.ID, admin, ""), http.StatusAccepted, "restore", &r)
	if r.State != "failed" || r.Cancelled != "test" || r.By != "test" || r.Fault != "cancelled by test. Nothing was written" || len(r.Log.Lines) < 4 {
		t.Errorf("it is %+v", r)
	}
	w.refused(w.do("DELETE", "/restores/"+r.ID, admin, ""), http.StatusConflict, "conflict", "It has ended already.")
}
