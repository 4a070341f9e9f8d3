package testenv_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

// fakeTB records how a helper ends a test.
type fakeTB struct {
	*testing.T
	skipped, failed string
}

func (f *fakeTB) Skipf(format string, args ...any) {
	f.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// end runs what may end a test.
func end(t *testing.T, f func(testenv.TB)) *fakeTB {
	tb := &fakeTB{T: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(tb)
	}()
	<-done
	return tb
}

func TestMissing(t *testing.T) {
	log := filepath.Join(t.TempDir(), "skips")
	t.Setenv("SLIPCOVER_SKIP_LOG", log)
	t.Setenv("SLIPCOVER_MUST_RUN", "nosuchtool, other")
	t.Setenv("COUCHDB_BIN", filepath.Join(t.TempDir(), "couchdb"))

	got := end(t, func(t testenv.TB) { testenv.Tool(t, "nosuchtool") })
	if got.failed == "" || got.skipped != "" {
		t.Errorf("a tool that must run: got %+v, want a failure", got)
	}
	for range 2 {
		got = end(t, func(t testenv.TB) { testenv.CouchDB(t, testenv.Options{}) })
		if !strings.Contains(got.skipped, "couchdb: COUCHDB_BIN") {
			t.Errorf("no CouchDB: got %+v, want a skip that names COUCHDB_BIN", got)
		}
	}
	got = end(t, func(t testenv.TB) { testenv.Tool(t, "go", "no-such-tool") })
	if !strings.Contains(got.skipped, "no-such-tool: not in PATH") {
		t.Errorf("no tool: got %+v, want a skip", got)
	}
	summary, err := testenv.SkipSummary(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(summary, "\n")
	if lines[0] != "3 tests skipped" || !strings.HasPrefix(lines[1], "   2 needs couchdb: ") ||
		lines[2] != "   1 needs no-such-tool: not in PATH" {
		t.Errorf("summary:\n%s", summary)
	}
	if s, err := testenv.SkipSummary(log + ".none"); s != "no tests skipped\n" || err != nil {
		t.Errorf("summary without a log: %q, %v", s, err)
	}
}

func TestTool(t *testing.T) {
	if path := testenv.Tool(t, "go"); !filepath.IsAbs(path) {
		t.Errorf("got %q, want an absolute path", path)
	}
}
