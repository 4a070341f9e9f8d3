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

// Where the bytes of a database are is told kind by kind, with its indexes; an earlier question stays in the form.
func TestSpaceOfDatabase(t *testing.T) {
	t.Parallel()
	s := newShelf(t, fixtures+"/data")
	b := s.as(access.Operator)
	a := b.get("/space?i=" + s.instance + "&db=conflicted")
	a.has(200, "conflicted : 119 kB in its files", "Live documents 1.85 kB 2 %", "Conflicts 2.77 kB 2 %", "Tombstones 360 B < 1 %", "Superseded revisions 1.07 kB", "A compaction leaves 14.0 kB or somewhat less, and frees 105 kB", "The backup has no indexes")
	a.hasNot("style=", "ZgotmplZ", "<no value>", "NaN")
	if !strings.Contains(a.body, `name="db" value="conflicted"`) {
		t.Error("the form has forgotten what was asked")
	}
	b.get("/space?i="+s.instance+"&db="+`%3Cscript%3Ealert(1)%3C/script%3E`).has(200, "There is no such database in that state.")
	b.get("/space?i="+s.instance).has(200, "Look where the bytes are", "superseded")
}
