package admin_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

func TestPins(t *testing.T) {
	w := newWorld(t)
	root, operator, viewer := w.Token(project, access.Admin), w.Token(project, access.Operator), w.Token(project, access.Viewer)
	p := w.play(root, "db1")
	me := &access.Caller{Project: project, User: "u", Role: access.Operator}
	b, err := w.Server.CreateBackup(t.Context(), me, server.NewBackup{Name: "n", Instance: p.Instance})
	if err != nil {
		t.Fatal(err)
	}
	path := "/backups/" + b.ID
	w.refused(w.do("POST", path+"/pin", operator, `{"reason":"x"}`), 409, "conflict", "only a completed one")
	p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: b.ID, Type: "full"}, Repository: &job.Repository{URL: "file:///backups", ID: "r1"}}
	var now struct {
		Status, Pinning string
		Pin             *struct {
			Reason string
			Since  time.Time
		}
	}
	show := func() {
		t.Helper()
		now.Pin, now.Pinning = nil, ""
		w.into(w.do("GET", path, viewer, ""), 200, "backup", &now)
	}
	servertest.Eventually(t, "the backup ends", func() bool { show(); return now.Status == "COMPLETED" })

	w.refused(w.do("POST", path+"/pin", viewer, `{"reason":"x"}`), 403, "forbidden", "")
	w.refused(w.do("POST", path+"/pin", w.Token("other", access.Operator), `{"reason":"x"}`), 404, "not_found", "")
	w.refused(w.do("POST", path+"/pin", operator, `{}`), 400, "invalid", "Say why")
	w.refused(w.do("POST", path+"/pin", operator, `{"reason":"x","until":"2027"}`), 400, "invalid", "until")
	var id string
	w.into(w.do("POST", path+"/pin", operator, `{"reason":"legal hold"}`), 202, "job", &id)
	if show(); now.Pinning != id || now.Pin != nil {
		t.Errorf("being pinned: %+v", now)
	}
	w.refused(w.do("POST", path+"/unpin", operator, ""), 422, "busy", id)
	p.free <- job.Report{State: job.Done}
	servertest.Eventually(t, "the job ends", func() bool { show(); return now.Pinning == "" })
	if now.Pin == nil || now.Pin.Reason != "legal hold" || time.Since(now.Pin.Since).Abs() > time.Hour {
		t.Errorf("pinned: %+v", now.Pin)
	}
	var others []struct {
		Stays   bool
		Reasons []string
		Pin     *job.Pin
	}
	w.into(w.do("GET", "/instances/"+p.Instance+"/retention", viewer, ""), 200, "others", &others)
	if len(others) != 1 || !others[0].Stays || others[0].Reasons[0] != "pinned: legal hold" || others[0].Pin == nil {
		t.Errorf("what retention does: %+v", others)
	}
	w.into(w.do("POST", path+"/unpin", operator, ""), 202, "job", &id)
	p.free <- job.Report{State: job.Done}
	servertest.Eventually(t, "the job ends", func() bool { show(); return now.Pinning == "" })
	if now.Pin != nil {
		t.Errorf("unpinned: %+v", now.Pin)
	}
	for _, action := range []string{`"backup.pin"`, `"backup.unpin"`} {
		if !strings.Contains(w.Audited(), action) {
			t.Errorf("the audit log lacks %s", action)
		}
	}
}

// An agent says what its node accepts, and one that doesn't is unknown.
func TestWhatNodesAccept(t *testing.T) {
	w := newWorld(t)
	root := w.Token(project, access.Admin)
	says := func(p *player, h job.Hello) {
		t.Helper()
		h.Session, h.Number, h.Recipient = session, 1<<40, p.Recipient() // after all that it says by itself
		if err := p.ask(context.WithoutCancel(t.Context()), job.VerbHello, h, nil); err != nil {
			t.Fatal(err)
		}
	}
	old, never, both := w.play(root, "old"), w.play(root, "never"), w.play(root, "both")
	says(old, job.Hello{})
	says(never, job.Hello{Restores: new(false)})
	says(both, job.Hello{Restores: new(true), Writes: true})
	var list []map[string]any
	w.into(w.do("GET", "/agents", root, ""), 200, "agents", &list)
	for _, a := range list {
		want := map[string][2]any{"old": {nil, nil}, "never": {false, false}, "both": {true, true}}[a["name"].(string)]
		if got := [2]any{a["accepts_restores"], a["accepts_writes"]}; got != want {
			t.Errorf("%s accepts %v, want %v", a["name"], got, want)
		}
	}
}
