package service_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/looks/lookstest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// Whoever has a token and no key looks through a server into backups of a node and a cluster, by names.
func TestContents(t *testing.T) {
	t.Parallel()
	w := servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, server.Config{Quota: job.Quota{Instances: -1, Backups: -1, Volumes: -1}})
	k := lookstest.NewCluster(t)
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany},
		admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", Serves: k.Set(w)}))
	k.Fill(w, "acme", 3)
	env := []string{"SLIPCOVER_SERVER_URL=" + w.HTTP.URL, "SLIPCOVER_TOKEN=" + w.Token("acme", access.Operator), "SLIPCOVER_STATE_DIR=" + t.TempDir()}
	runs := func(code int, want string, args ...string) {
		t.Helper()
		out, errs, got := slipcover(t, env, append([]string{"contents"}, args...)...)
		if got != code {
			t.Fatalf("%q: exit code %d, want %d\n%s%s", args, got, code, out, errs)
		}
		for line := range strings.SplitSeq(want, "\n") {
			if !strings.Contains(out+errs, line) {
				t.Errorf("%q lacks %q:\n%s%s", args, line, out, errs)
			}
		}
	}
	runs(0, "nightly\n1 backup alone", "points", "db1")
	runs(0, "orders    16         0\nteam      1          0", "databases", "db1")
	runs(0, "1 of 1 database", "databases", "db1", "--backup", "latest", "--prefix", "te")
	runs(0, "documents         16", "database", "db1", "orders")
	runs(0, "order-02  1-aaaa\ngo on with --after 'order-02'", "documents", "db1", "orders", "--limit", "2")
	runs(0, "order-11", "documents", "db1", "orders", "--selector", `{"n": 10}`)
	runs(0, `"n":1}`, "get", "db1", "orders", "order-02", "--at", "now")
	runs(6, "", "get", "db1", "orders", "order-99")
	runs(6, "", "get", "db1", "orders", "order-02", "--attachment", "photo.jpg")
	runs(0, "added\n1-aaaa\nwinner", "history", "db1", "orders", "order-02")
	runs(0, "nothing differs", "diff", "db1", "orders", "order-02", "latest")
	runs(0, "0 of 0 documents that changed", "changes", "db1", "orders", "--from", "latest", "--to", "now")
	runs(2, "", "changes", "db1", "orders")
	runs(6, "there is no instance", "databases", "db9")
	runs(0, "gone      1  1  0     0 of 1, none of 00000000-ffffffff\norders    2  3  16    6 of 6\nof 1 database a range is in no backup", "cluster", "prod")
	runs(0, "orders 80000000-ffffffff: 2 of 9 documents differ\ncouchdb@b  missing  order-10\ncouchdb@c  behind   order-14\nnot compared: couchdb@d\ncompared 17 documents in 4 ranges of 3 databases: 2 differ", "compare", "prod")
	runs(0, "there is more: --after 'gone 00000000-ffffffff'", "compare", "prod", "--limit", "1")
	runs(0, "all copies agree", "compare", "prod", "--db", "t*", "--at", "now")
	runs(2, "", "restore-doc", "db1", "orders")
	runs(11, "accept_writes", "restore-doc", "db1", "orders", "order-02", "--dry-run")

	out, errs, code := slipcover(t, env, "status")
	if code != 0 || !strings.Contains(out, "3 of 3 instances are safe") || !strings.Contains(out, "db2       acme     safe") {
		t.Errorf("status: %d, %s%s", code, out, errs)
	}
	if out, errs, code = slipcover(t, env, "schedule", "firings", "30 12 * * *", "--time-zone", "Europe/Berlin"); code != 0 || strings.Count(out, ":30:00") != 5 {
		t.Errorf("firings: %d, %s%s", code, out, errs)
	}
	if _, errs, code = slipcover(t, env, "schedule", "firings", "30 25 * * *"); code != 2 {
		t.Errorf("no line of cron: %d, %s", code, errs)
	}
	out, _, code = slipcover(t, env, "contents", "compare", "prod", "--json")
	var answer struct {
		Ranges []struct{ Database string }
		Counts struct{ Different int }
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 0 || len(answer.Ranges) != 2 || answer.Counts.Different != 2 {
		t.Errorf("as JSON: %v, %d, %s", err, code, out)
	}
}
