package admin_test

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// An instance is made of a backup or of a moment of an instance, for which the server finds the backup before it.
func TestCreateInstance(t *testing.T) {
	w := newWorld(t)
	root, operator, viewer := w.Token(project, access.Admin), w.Token(project, access.Operator), w.Token(project, access.Viewer)
	p := w.play(root, "db1")
	me := &access.Caller{Project: project, User: "u", Role: access.Operator}
	w.refused(w.do("POST", "/instances", operator, `{"name":"copy","instance":"`+p.Instance+`","at":"2026-11-01T00:00:00Z"}`), 409, "conflict", "Nothing of db1 is stored of that moment")
	var ids []string
	day := func(n int) time.Time { return time.Now().UTC().Truncate(time.Second).AddDate(0, 0, -n) }
	for _, n := range []int{3, 2, 1} {
		b, err := w.Server.CreateBackup(t.Context(), me, server.NewBackup{Name: "n", Instance: p.Instance})
		if err != nil {
			t.Fatal(err)
		}
		began, ended := day(n), day(n).Add(time.Second)
		p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: b.ID, Type: "full", Started: &began, Finished: &ended}, Repository: &job.Repository{URL: "file:///backups", ID: "r1"}}
		servertest.Eventually(t, "the backup ends", func() bool {
			b, err := w.Server.Backup(t.Context(), me, b.ID)
			i, ierr := w.Server.Instance(t.Context(), me, p.Instance)
			return err == nil && ierr == nil && b.Status == job.BackupCompleted && i.Task == ""
		})
		ids = append(ids, b.ID)
	}
	moment := day(2).Add(time.Hour).Format(time.RFC3339)
	ofMoment := `{"name":"copy","instance":"` + p.Instance + `","at":"` + moment + `"}`
	w.refused(w.do("POST", "/instances", viewer, ofMoment), 403, "forbidden", "")
	w.refused(w.do("POST", "/instances", w.Token("other", access.Operator), ofMoment), 404, "not_found", "")
	for body, why := range map[string]string{
		`{"name":"copy"}`:                                                                "Say what it is made of",
		`{"backup":"` + ids[0] + `"}`:                                                    "needs a name",
		`{"name":"copy","backup":"x"}`:                                                   "are ids",
		`{"name":"copy","instance":"` + p.Instance + `"}`:                                "by at which moment",
		`{"name":"copy","backup":"` + ids[2] + `","at":"` + moment + `"}`:                "is before backup",
		`{"name":"copy","backup":"` + ids[0] + `","at":"2999-01-01T00:00:00Z"}`:          "still to come",
		`{"name":"copy","backup":"` + ids[0] + `","instance":"` + p.Instance + `"}`:      "Say what it is made of",
		`{"name":"copy","backup":"` + ids[0] + `","volume_gb":-1}`:                       "whole number",
		`{"name":"copy","backup":"` + ids[0] + `","where":"x"}`:                          "where",
		`{"name":"copy","backup":"` + ids[0] + `","agent":"nobody"}`:                     "There is no agent nobody",
		`{"name":"copy","instance":"` + p.Instance + `","at":"2999-01-01T00:00:00Z"}`:    "still to come",
		`{"name":"copy\nb","instance":"` + p.Instance + `","at":"2999-01-01T00:00:00Z"}`: "needs a name",
	} {
		w.refused(w.do("POST", "/instances", operator, body), 400, "invalid", why)
	}
	var i struct {
		ID, Name, Status string
		RestoredFrom     string    `json:"restored_from"`
		RestoredAt       time.Time `json:"restored_at"`
	}
	w.into(w.do("POST", "/instances", operator, ofMoment), 202, "instance", &i)
	if i.Name != "copy" || i.Status != "BUILD" || i.RestoredFrom != ids[1] || i.RestoredAt.Format(time.RFC3339) != moment {
		t.Errorf("of a moment: %+v", i)
	}
	i.RestoredAt = time.Time{}
	w.into(w.do("POST", "/instances", operator, `{"name":"second","backup":"`+ids[0]+`","agent":"db1","volume_gb":2}`), 202, "instance", &i)
	if i.Name != "second" || i.RestoredFrom != ids[0] || !i.RestoredAt.IsZero() {
		t.Errorf("of a backup: %+v", i)
	}
}
