package admin_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/access"
)

func TestRetention(t *testing.T) {
	w := newWorld(t)
	root, viewer := w.Token(project, access.Admin), w.Token(project, access.Viewer)
	p := w.play(root, "db1")
	var s struct{ ID string }
	w.into(w.do("POST", "/schedules", root, `{"instance":"db1","name":"nightly","cron":"@daily","keep":{"daily":3}}`), 201, "schedule", &s)
	var r struct {
		Schedule string
		Keep     map[string]any
		At       string
		Goes     int
		Backups  []any
	}
	path := "/schedules/" + s.ID + "/retention"
	if w.into(w.do("GET", path, viewer, ""), 200, "retention", &r); r.Schedule != s.ID || r.Keep["daily"] != 3.0 || r.At == "" || r.Goes != 0 || r.Backups == nil {
		t.Errorf("the dry run: %+v", r)
	}
	r.Keep = nil
	if w.into(w.do("GET", path+"?keep_last=7&keep_daily=", viewer, ""), 200, "retention", &r); len(r.Keep) != 1 || r.Keep["last"] != 7.0 {
		t.Errorf("with proposed rules: %+v", r)
	}
	w.refused(w.do("GET", path+"?keep_last=seven", viewer, ""), 400, "invalid", "keep_last")
	w.refused(w.do("GET", path+"?keep_last=-7", viewer, ""), 400, "invalid", "negative")
	w.refused(w.do("GET", path+"?keep_within=soon", viewer, ""), 400, "invalid", "retention")
	w.refused(w.do("GET", path, w.Token("other", access.Viewer), ""), 404, "not_found", "")
	var list []struct{ Schedule string }
	if w.into(w.do("GET", "/instances/"+p.Instance+"/retention", viewer, ""), 200, "retentions", &list); len(list) != 1 || list[0].Schedule != s.ID {
		t.Errorf("of the instance: %+v", list)
	}
	w.refused(w.do("GET", "/instances/"+p.Instance+"/retention", w.Token("other", access.Viewer), ""), 404, "not_found", "")
}
