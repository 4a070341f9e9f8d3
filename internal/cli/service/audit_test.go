package service_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
)

// What was done at a server is told by its own audit log, over as many pages as it takes.
func TestAuditCommand(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, serverOf(dir), "--state-dir", dir)
	api := s.client(t)
	const made = 503 // more than one answer has
	for range made {
		if err := api.post("/slipcover/v1/tokens", map[string]any{"name": "ci", "role": "viewer"}, http.StatusCreated); err != nil {
			t.Fatal(err)
		}
	}
	run := func(code int, args ...string) (out, errs string) {
		t.Helper()
		env, o, e := clitest.Env(t)
		env.Environ = []string{"HOME=" + t.TempDir(), "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=" + s.url, "SLIPCOVER_STATE_DIR=" + dir}
		if is := cli.Run(context.Background(), env, append([]string{"audit"}, args...)); is != code {
			t.Fatalf("%v: exit code %d, want %d: %s%s", args, is, code, o, e)
		}
		return o.String(), e.String()
	}
	out, _ := run(0)
	if strings.Count(out, "token.create") != 50 || !strings.Contains(out, "there may be older ones: raise --limit") || !strings.Contains(out, "50 records of ") {
		t.Errorf("by default: %s", out)
	}
	out, _ = run(0, "--action", "token", "--since", "1h ago", "--limit", "9999", "--json")
	var all struct {
		Audit []struct{ Action, Outcome string }
		Next  string
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Audit) != made || all.Next != "" || all.Audit[0].Action != "token.create" || all.Audit[0].Outcome != "ok" {
		t.Errorf("%d records, %v", len(all.Audit), err)
	}
	if out, _ = run(0, "--until", "1h ago"); !strings.Contains(out, "0 records of ") {
		t.Errorf("before it began: %s", out)
	}
	if out, _ = run(0, "--action", "audit.read", "--limit", "1"); !strings.Contains(out, "audit.read  audit   ok\n") {
		t.Errorf("who reads it isn't in it: %s", out)
	}
	for _, args := range [][]string{{"--since", "soon"}, {"--limit", "0"}} {
		if _, errs := run(2, args...); !strings.Contains(errs, args[0]) {
			t.Errorf("%v: %s", args, errs)
		}
	}
}
