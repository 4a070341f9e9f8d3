package web_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

func TestSpacePage(t *testing.T) {
	w := newWorld(t)
	b := w.as(access.Viewer)
	b.get("/space").has(200, "Nothing is stored yet", "no backup yet")
	p := w.play(`db1"><b>`)
	if _, err := w.Server.CreateSchedule(t.Context(), caller(), &job.Schedule{Name: "nightly", Instance: p.Instance, Enabled: true, Cron: "@daily", Keep: job.Keep{Daily: 3}}); err != nil {
		t.Fatal(err)
	}
	p.history(4, 1)
	a := b.get("/space?i=" + p.Instance)
	a.has(200, `db1"><b>`, "168 MB stored for 2.15 GB as restored", "Backups 4 in 1 repository", "file:///backups", "nightly: daily 3; the newest", "Made by hand", "0 of 4 go", "Where the bytes are", "Contents can't be shown")
	a.hasNot(`db1"><b>`, "style=", "ZgotmplZ", "<no value>", "NaN")
	if n := strings.Count(a.body, `class="spine"`); n != 4 {
		t.Errorf("the strip has %d backups, want 4", n)
	}
	b.get("/space?i=nobody&rp=99").has(200, "What retention deletes next")
}
