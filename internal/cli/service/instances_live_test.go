package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Through a server an agent makes a CouchDB of a backup, and one of a moment behind it: with what was written in between, and with
// what was deleted after it.
func TestInstancesOfBackupAndMoment(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM")
	}
	c := testenv.CouchDB(t, testenv.Options{})
	put := func(path string) {
		t.Helper()
		if err := c.Put(path, map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("/orders?q=2")
	put("/orders/before")
	dir := t.TempDir()
	made := filepath.Join(dir, "instances")
	s := serverOf(filepath.Join(dir, "state"))
	s.Env = []string{fmt.Sprintf("SLIPCOVER_OWNER=%d:%d", os.Getuid(), os.Getgid()), "SLIPCOVER_COUCH_URL=" + c.URL, "SLIPCOVER_COUCH_USER=" + c.Admin, "SLIPCOVER_COUCH_PASSWORD=" + c.Password}
	t.Cleanup(func() { // after the server has ended
		dirs, _ := filepath.Glob(filepath.Join(made, "*-*"))
		for _, dir := range dirs {
			if err := restore.Remove(context.WithoutCancel(t.Context()), dir); err != nil {
				t.Logf("remove %s: %v", dir, err)
			}
		}
	})
	startServer(t, s, "--with-agent", "--state-dir", s.state, "--repo", filepath.Join(dir, "repo"), "--instance", "db1", "--data-dir", c.DataDir, "--instances-dir", made)
	run := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := slipcover(t, []string{"SLIPCOVER_STATE_DIR=" + s.state, "SLIPCOVER_SERVER_URL=" + s.url, "SLIPCOVER_PROGRESS=none"}, args...)
		if code != want {
			t.Fatalf("%q ended with %d: %s%s", args, code, out, errs)
		}
		return out + errs
	}
	eventually(t, clitest.Patience, "the agent is there", func() bool { return strings.Contains(run(0, "agents", "list"), "online") })
	run(0, "ship", "enable", "db1")
	run(0, "schedule", "create", "--instance", "db1", "--name", "nightly", "--cron", "@yearly")
	var first struct{ Backup struct{ ID string } }
	if err := json.Unmarshal([]byte(run(0, "schedule", "run", "nightly", "--json")), &first); err != nil {
		t.Fatal(err)
	}
	eventually(t, clitest.Patience, "the backup is there", func() bool { return strings.Contains(run(0, "jobs"), "done") })
	// shippedSince waits until everything up to now is stored, and returns when that is.
	shippedSince := func() time.Time {
		t.Helper()
		now := time.Now().UTC()
		eventually(t, clitest.Patience, "what was written is shipped", func() bool {
			var list struct {
				Instances []struct {
					Ship struct {
						Shipped time.Time
						Lag     float64 `json:"lag_seconds"`
					}
				}
			}
			if err := json.Unmarshal([]byte(run(0, "ship", "list", "--json")), &list); err != nil {
				t.Fatal(err)
			}
			return list.Instances[0].Ship.Shipped.After(now) && list.Instances[0].Ship.Lag == 0
		})
		return time.Now().UTC()
	}
	put("/orders/between")
	moment := shippedSince()
	var doc struct {
		Rev string `json:"_rev"`
	}
	if err := c.Get("/orders/between", &doc); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete("/orders/between?rev=" + doc.Rev); err != nil {
		t.Fatal(err)
	}
	shippedSince()

	create := func(args ...string) (docs []string) {
		t.Helper()
		var out struct {
			Instance struct{ ID, URL, Status string }
		}
		if err := json.Unmarshal([]byte(run(0, append([]string{"instances", "create", "copy", "--json"}, args...)...)), &out); err != nil {
			t.Fatal(err)
		}
		password, err := os.ReadFile(filepath.Join(made, out.Instance.ID, "admin-password"))
		if err != nil {
			t.Fatal(err)
		}
		copied := &testenv.Client{URL: out.Instance.URL, Admin: "admin", Password: strings.TrimSpace(string(password))}
		var all struct{ Rows []struct{ ID string } }
		if err := copied.Get("/orders/_all_docs", &all); err != nil {
			t.Fatal(err)
		}
		for _, r := range all.Rows {
			docs = append(docs, r.ID)
		}
		return docs
	}
	if docs := create("--instance", "db1", "--at", moment.Format(time.RFC3339Nano)); strings.Join(docs, " ") != "before between" {
		t.Errorf("of the moment there are %q", docs)
	}
	if docs := create("--backup", first.Backup.ID); strings.Join(docs, " ") != "before" {
		t.Errorf("of the backup there are %q", docs)
	}
	if out := run(0, "instances"); strings.Count(out, "copy ") != 2 {
		t.Error(out)
	}
	for _, args := range [][]string{{}, {"--at", "now"}, {"--instance", "db1", "--backup", first.Backup.ID}, {"--backup", first.Backup.ID, "--at", "yesterdayish"}} {
		run(2, append([]string{"instances", "create", "x"}, args...)...)
	}
	if out := run(11, "instances", "create", "x", "--instance", "db1", "--at", "2001-01-01"); !strings.Contains(out, "nothing of db1 is stored of that moment") {
		t.Error(out)
	}
}
