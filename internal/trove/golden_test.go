package trove_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

var update = flag.Bool("update", false, "write golden files anew")

// transcript is requests and answers as text, with numbers in the place of ids and
// without times.
type transcript struct {
	w    *world
	text strings.Builder
	seen []string // ids
}

var (
	uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"`)
)

func (tr *transcript) plain(text string) string {
	text = times.ReplaceAllString(text, `"(time)"`)
	return uuids.ReplaceAllStringFunc(text, func(id string) string {
		n := slices.Index(tr.seen, id)
		if n < 0 {
			n = len(tr.seen)
			tr.seen = append(tr.seen, id)
		}
		return fmt.Sprintf("(id %d)", n+1)
	})
}

func (tr *transcript) do(method, path, token, body string) servertest.Answer {
	a := tr.w.do(method, path, token, body)
	fmt.Fprintf(&tr.text, "%s %s %s\n%d", method, tr.plain(path), tr.plain(body), a.Status)
	for _, name := range []string{"Content-Type", "Www-Authenticate", "Allow"} {
		if v := a.Header.Get(name); v != "" {
			fmt.Fprintf(&tr.text, "  %s: %s", name, v)
		}
	}
	if a.Body != "" {
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(strings.TrimSpace(a.Body)), "", "  "); err != nil {
			tr.w.t.Fatalf("%s %s: %v in %q", method, path, err, a.Body)
		}
		tr.text.WriteString("\n" + tr.plain(out.String()))
	}
	tr.text.WriteString("\n\n")
	return a
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range g {
			if i >= len(w) || g[i] != w[i] {
				t.Fatalf("%s differs from line %d on: got\n%s\nwant\n%s", path, i+1, strings.Join(g[i:min(i+8, len(g))], "\n"), strings.Join(w[min(i, len(w)):min(i+8, len(w))], "\n"))
			}
		}
		t.Fatalf("%s: got %d lines, want %d", path, len(g), len(w))
	}
}

// TestAnswers is one life of an instance and its backups, answer for answer.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	p := w.join("db1", project)
	operator, admin := w.Token(project, access.Operator), w.Token("ops", access.Admin)
	const root = "/v1.0/" + project
	tr := &transcript{w: w}

	tr.do("GET", "/", "", "")
	tr.do("GET", "/v1.0/", "", "")
	tr.do("GET", root+"/instances", operator, "")
	tr.do("GET", root+"/instances/"+p.instance, operator, "")
	tr.do("GET", root+"/instances/db1", operator, "")
	tr.do("GET", root+"/instances/detail?limit=1", operator, "")
	tr.do("GET", root+"/instances/"+p.instance+"/databases", operator, "")
	tr.do("PUT", root+"/instances/"+p.instance, operator, `{"instance": {"name": "orders"}}`)

	var b struct{ ID, Status string }
	w.into(tr.do("POST", root+"/backups", operator, `{"backup": {"name": "nightly", "instance": "`+p.instance+`", "incremental": 0}}`), 202, "backup", &b)
	servertest.Eventually(w.t, "the agent has begun", func() bool {
		w.into(w.do("GET", root+"/backups/"+b.ID, operator, ""), 200, "backup", &b)
		return b.Status == "BUILDING"
	})
	tr.do("GET", root+"/backups/"+b.ID, operator, "")
	tr.do("GET", root+"/instances/"+p.instance, operator, "")
	tr.do("POST", root+"/backups", operator, `{"backup": {"name": "again", "instance": "`+p.instance+`"}}`)
	tr.do("DELETE", root+"/backups/"+b.ID, operator, "")
	close(p.free)
	servertest.Eventually(w.t, "the backup is done", func() bool {
		w.into(w.do("GET", root+"/backups/"+b.ID, operator, ""), 200, "backup", &b)
		return b.Status == "COMPLETED"
	})
	w.idle(p.instance, operator)
	tr.do("GET", root+"/backups", operator, "")
	tr.do("GET", root+"/instances/"+p.instance+"/backups?limit=1", operator, "")

	var child struct{ ID, Status string }
	w.into(tr.do("POST", root+"/backups", operator, `{"backup": {"name": "noon", "description": "before the move", "instance": "`+p.instance+`", "parent_id": "`+b.ID+`"}}`), 202, "backup", &child)
	servertest.Eventually(w.t, "the second backup is done", func() bool {
		w.into(w.do("GET", root+"/backups/"+child.ID, operator, ""), 200, "backup", &child)
		return child.Status == "COMPLETED"
	})

	w.idle(p.instance, operator)
	var i struct{ ID, Status string }
	w.into(tr.do("POST", root+"/instances", operator, `{"instance": {"name": "copy", "flavorRef": 1, "volume": {"size": 2, "type": null},
		"restorePoint": {"backupRef": "`+b.ID+`"}, "datastore": {"type": "couchdb", "version": "3.5"}, "access": {"is_public": false}}}`), 200, "instance", &i)
	servertest.Eventually(w.t, "the instance is made", func() bool {
		w.into(w.do("GET", root+"/instances/"+i.ID, operator, ""), 200, "instance", &i)
		return i.Status == "ACTIVE"
	})
	p.greet(t.Context())
	tr.do("GET", root+"/instances/"+i.ID, operator, "")
	tr.do("POST", root+"/instances/"+p.instance+"/action", operator, `{"restart": {}}`)
	w.idle(p.instance, operator)

	tr.do("GET", "/v1.0/ops/mgmt/instances?deleted=True&include_clustered=False", admin, "")
	tr.do("GET", "/v1.0/ops/mgmt/instances/"+p.instance, admin, "")
	tr.do("POST", "/v1.0/ops/mgmt/instances/"+p.instance+"/action", admin, `{"reset-task-status": {}}`)
	tr.do("GET", "/v1.0/ops/backups?all_projects=True&limit=1", admin, "")
	tr.do("GET", "/v1.0/ops/mgmt/quotas/"+project, admin, "")
	tr.do("PUT", "/v1.0/ops/mgmt/quotas/"+project, admin, `{"quotas": {"backups": 60}}`)

	tr.do("DELETE", root+"/backups/"+b.ID, operator, "") // and its child
	tr.do("GET", root+"/backups", operator, "")
	tr.do("DELETE", root+"/instances/"+p.instance, operator, "")
	tr.do("GET", root+"/instances/"+p.instance, operator, "")

	tr.do("GET", root+"/datastores", operator, "")
	tr.do("GET", root+"/datastores/couchdb/versions/3.5", operator, "")
	tr.do("GET", root+"/flavors", operator, "")
	tr.do("GET", root+"/limits", operator, "")
	golden(t, "answers.txt", tr.text.String())
}
