package backup_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// fixedTime is long enough ago that no file seems to be in the making.
var fixedTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Each single write of a backup fails once before and once after taking effect.
// Then every listed backup reads whole, and the next run succeeds and sends no
// stored segment again.
func TestEveryWriteFails(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 3
	}
	for name, action := range map[string]faulty.Action{"before": faulty.Fail(faulty.Err), "after": faulty.FailAfter(faulty.Err)} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n += step {
				e := newEnv(t)
				s := faulty.New(e.store, faulty.At(n, action))
				_, err := backup.Run(t.Context(), e.options(s))
				if !s.Reached() {
					if err != nil || n < 4 {
						t.Errorf("run without a fault, after %d with: %v", n-1, err)
					}
					return
				}
				e.recovers(n)
			}
		})
	}
}

// recovers checks what is promised after a crash at write n.
func (e *env) recovers(n int) {
	e.t.Helper()
	ctx := context.Background()
	r := e.repo(e.store)
	recs, bad, err := r.List(ctx, "")
	if err != nil || len(bad) > 0 {
		e.t.Fatalf("write %d: %v %v", n, err, bad)
	}
	for _, rec := range recs {
		e.check(rec)
	}
	before, err := r.Segments(ctx, "node1")
	if err != nil {
		e.t.Fatal(err)
	}
	res := e.run()
	e.check(res.Record)
	report, err := r.Check(ctx, repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 {
		e.t.Fatalf("write %d: check: %v %+v", n, err, report)
	}
	if report.Unreferenced > 0 {
		e.t.Errorf("write %d: %d of %d stored segments were not taken up", n, report.Unreferenced, len(before))
	}
}

// TestMain lets a test run this binary as a backup that is killed at a write.
func TestMain(m *testing.M) {
	if os.Getenv("BACKUP_TEST_KILL") == "" {
		os.Exit(m.Run())
	}
	n, err := strconv.Atoi(os.Getenv("BACKUP_TEST_KILL"))
	if err != nil {
		os.Exit(3)
	}
	killed := func() error { os.Exit(9); return nil }
	action := faulty.Action{Before: killed}
	if os.Getenv("BACKUP_TEST_AFTER") != "" {
		action = faulty.Action{After: killed}
	}
	s, err := file.Open(os.Getenv("BACKUP_TEST_REPO"))
	if err != nil {
		os.Exit(4)
	}
	e := &env{t: mainTB{}, data: os.Getenv("BACKUP_TEST_DATA"), state: os.Getenv("BACKUP_TEST_STATE")}
	opts := e.options(faulty.New(s, faulty.At(n, action)))
	if os.Getenv("BACKUP_TEST_REPLAY") != "" {
		replayingAll(&opts)
	}
	if _, err := backup.Run(context.Background(), opts); err != nil {
		os.Exit(5)
	}
	os.Exit(0)
}

// mainTB is what env needs of a test where there is none.
type mainTB struct{ testing.TB }

func (mainTB) Helper()      {}
func (mainTB) Fatal(...any) { os.Exit(6) }

// The process is killed at each write, before and after it.
func TestKilledAtEveryWrite(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts some twenty processes")
	}
	for _, after := range []string{"", "1"} {
		for n := 1; ; n++ {
			e := newFileEnv(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "BACKUP_TEST_KILL="+strconv.Itoa(n), "BACKUP_TEST_AFTER="+after,
				"BACKUP_TEST_REPO="+e.store.URL()[len("file://"):], "BACKUP_TEST_DATA="+e.data, "BACKUP_TEST_STATE="+e.state)
			out, err := cmd.CombinedOutput()
			if err == nil {
				if n < 4 {
					t.Errorf("only %d writes", n)
				}
				break
			}
			if code := cmd.ProcessState.ExitCode(); code != 9 {
				t.Fatalf("exit code %d: %s", code, out)
			}
			e.recovers(n)
		}
	}
}

// newFileEnv is newEnv with a repository in a folder.
func newFileEnv(t testing.TB) *env {
	t.Helper()
	e := newEnv(t)
	s, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), s, repo.InitOptions{Recipients: []string{e.identity.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	e.store = storage.Store(s)
	return e
}
