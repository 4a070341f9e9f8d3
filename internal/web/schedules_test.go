package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// While a schedule is edited it is said which of its backups would go by the rules as they stand in the form; nothing goes.
func TestScheduleFormKeeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.play("db1")
	s, err := w.Server.CreateSchedule(t.Context(), caller(), &job.Schedule{Name: "n", Instance: p.Instance, Enabled: true, Cron: "30 2 * * *", Keep: job.Keep{Last: 10}})
	if err != nil {
		t.Fatal(err)
	}
	table, err := w.Bus.Table(t.Context(), "backups")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 6 {
		at := time.Now().UTC().Add(time.Duration(n-10) * 24 * time.Hour)
		id := fmt.Sprintf("0189aaaa-0000-7000-8000-00000000000%d", n)
		v, err := json.Marshal(job.Backup{ID: id, Name: fmt.Sprintf("night %d", n), Project: project, Instance: p.Instance, Schedule: s.ID, Status: job.BackupCompleted, Created: at, Updated: at,
			Result: job.Result{RepoID: id, Type: "full", Stored: 1e9, Order: int64(n + 1)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Put(t.Context(), id, v); err != nil {
			t.Fatal(err)
		}
	}
	b := w.as(access.Operator)
	servertest.Eventually(t, "the backups are there", func() bool { return strings.Count(b.get("/backups").body, "night ") >= 6 })

	page := b.get("/schedules/" + s.ID)
	page.has(http.StatusOK, "Next five firings", "After its next backup none of 6 backups goes.")
	if !strings.Contains(page.body, `name="schedule" value="`+s.ID+`"`) || !strings.Contains(page.body, "from:#k7") {
		t.Error("the form doesn't ask while it is edited")
	}
	form := "/schedules/firings?cron=30+2+*+*+*&schedule=" + s.ID
	b.get(form+"&last=3").has(http.StatusOK, "After its next backup 4 backups go, about 4.00 GB", "and 2 stay. By the rules that are stored none goes.", "night 0", "night 3")
	b.get(form + "&last=3").hasNot("night 4")
	b.get(form).has(http.StatusOK, "Nothing goes: 6 backups of this schedule stay")
	b.get(form+"&last=x").has(http.StatusOK, "Keep last: a whole number")
	b.get(form+"&within=soon").has(http.StatusOK, "The retention can't be used")
	b.get("/schedules/new").hasNot("What it keeps")
	stranger := w.open()
	stranger.signIn(w.Token("other", access.Operator))
	stranger.get(form + "&last=3").hasNot("What it keeps")
	if now, err := w.Server.Schedule(t.Context(), caller(), s.ID); err != nil || now.Keep.Last != 10 {
		t.Errorf("the schedule has %+v, %v", now.Keep, err)
	}
	if list := strings.Count(b.get("/backups").body, "night "); list < 6 {
		t.Errorf("%d are left", list)
	}
}
