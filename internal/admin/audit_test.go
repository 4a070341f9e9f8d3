package admin_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/httpd"
)

// Administrators alone read the audit log, by who, what and when, page by page, and are in it.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.Token(project, access.Admin)
	w.refused(w.do("GET", "/audit", w.Token(project, access.Operator), ""), http.StatusForbidden, "forbidden", "needs admin")
	begin := time.Now().Add(-time.Hour)
	for n, r := range []httpd.AuditRecord{
		{User: "ann", Action: "document.read", Target: "i/shop/order:1", Project: "acme"},
		{User: "bob", Action: "backup.delete", Target: "b", Project: "other"},
		{User: "ann", Action: "backup.create", Target: "b", Project: "acme"},
	} {
		r.Time, r.Outcome = begin.Add(time.Duration(n)*time.Minute), "ok"
		w.Audit.Write(t.Context(), r)
	}
	var got struct {
		Audit    []httpd.AuditRecord
		Next     string
		Complete bool
		File     string
	}
	ask := func(query string) string {
		t.Helper()
		got.Audit, got.Next = nil, ""
		w.into(w.do("GET", "/audit?"+query, admin, ""), 200, "", &got)
		var out []string
		for _, r := range got.Audit {
			out = append(out, r.User+" "+r.Action)
		}
		return strings.Join(out, ", ")
	}
	at := func(n int) string {
		return url.QueryEscape(begin.Add(time.Duration(n) * time.Minute).UTC().Format(time.RFC3339Nano))
	}
	for query, want := range map[string]string{
		"who=ann":                            "ann backup.create, ann document.read",
		"who=ann&action=backup":              "ann backup.create",
		"action=backup&project=other":        "bob backup.delete",
		"target=order":                       "ann document.read",
		"since=" + at(1) + "&until=" + at(2): "bob backup.delete",
		"who=eve":                            "",
	} {
		if is := ask(query); is != want || !got.Complete || got.File != w.Audit.Path() {
			t.Errorf("%s: %q, want %q: %+v", query, is, want, got)
		}
	}
	if is := ask("who=ann&limit=1"); is != "ann backup.create" || got.Next == "" {
		t.Errorf("%q, %+v", is, got)
	}
	if is := ask("who=ann&limit=1&before=" + got.Next); is != "ann document.read" {
		t.Errorf("%q, %+v", is, got)
	}
	w.refused(w.do("GET", "/audit?limit=501", admin, ""), 400, "invalid", "500 at most")
	w.refused(w.do("GET", "/audit?since=x", admin, ""), 400, "invalid", "RFC 3339")
	w.refused(w.do("GET", "/audit?before=x", admin, ""), 400, "invalid", "begin with the newest")
	if log := w.Audited(); !strings.Contains(log, `"action":"audit.read","target":"audit","outcome":"ok","status":200`) {
		t.Errorf("who reads it isn't in it: %s", log)
	}
}
