package web_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/web"
)

// An administrator sees who did what, finds it again by who, what and when, and is seen himself.
func TestAuditPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.play("db1")
	id := p.backup()
	b := w.as(access.Admin)
	b.follow(b.post("/backups/" + id + "/prove")).has(200)
	w.as(access.Viewer).get("/audit").has(http.StatusForbidden, "needs admin")
	w.open().post("/login", "token", "slc_abc_def").has(http.StatusUnauthorized)
	w.Audit.Write(t.Context(), httpd.AuditRecord{User: evil, Action: "document.read", Target: p.Instance + "/shop/" + evil, Outcome: "ok", Status: 200, Address: "10.0.0.7"})
	w.Audit.Write(t.Context(), httpd.AuditRecord{User: "bob", Action: "backup.delete", Target: "0189aaaa-0000-7000-8000-000000000000", Outcome: "failed", Status: 404, Time: time.Now().Add(-100 * time.Hour)})
	a := b.get("/audit")
	a.has(200, "backup.prove", "Done", "document.read", "db1", "shop/"+evil, "Refused", "HTTP 401", "token abc", "Of several servers", w.Audit.Path())
	a.hasNot("<script>alert", "<img")
	for _, want := range []string{`href="/backups/` + id + `"`, `href="/instances/` + p.Instance + `"`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("it lacks %s", want)
		}
	}
	b.get("/audit").has(200, "audit.read")
	rows := func(query string) int { return strings.Count(b.get("/audit?"+query).body, `<tr role="row"><td`) }
	for query, want := range map[string]int{
		"action=document%2Cdocuments": 1, "who=10.0.0.7": 1, "who=BOB": 1, "who=nobody": 0, "target=SHOP": 1, "action=backup": 2, "action=backup.prove": 1,
		"action=backup&since=" + url.QueryEscape("1h ago"): 1, "action=backup&until=" + url.QueryEscape("1h ago"): 1,
	} {
		if got := rows(query); got != want {
			t.Errorf("%s: %d rows, want %d", query, got, want)
		}
	}
	b.get("/audit?since=soon").has(http.StatusUnprocessableEntity, "From: write")
	b.get("/audit?before=x").has(http.StatusBadRequest, "begin with the newest records")
	for range 120 {
		w.Audit.Write(t.Context(), httpd.AuditRecord{User: "many", Action: "x.y", Outcome: "ok"})
	}
	seen, path := 0, "/audit?who=many"
	for path != "" {
		a := b.get(path)
		seen += strings.Count(a.body, "x.y")
		path = ""
		if older := regexp.MustCompile(`href="(/audit\?[^"]*)">Older`).FindStringSubmatch(a.body); older != nil {
			path = strings.ReplaceAll(older[1], "&amp;", "&")
		}
	}
	if seen != 120 {
		t.Errorf("%d of 120 are on the pages", seen)
	}
}

// Without a log that can be read back the page says what to set.
func TestAuditPageWithout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *web.Options) { o.Audit = nil })
	w.as(access.Admin).get("/audit").has(http.StatusNotImplemented, "keeps no audit log")
}
