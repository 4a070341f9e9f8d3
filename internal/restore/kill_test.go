package restore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

const killEnv = "SLIPCOVER_TEST_RESTORE"

// TestMain runs a restore instead of the tests when a test asks for it.
func TestMain(m *testing.M) {
	if spec := os.Getenv(killEnv); spec != "" {
		if err := child(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type childSpec struct {
	Repo string
	ID   string
	To   string
	Do   string // "" is Files
}

const childPassword = "child"

func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func removeNow(dir string) error {
	ctx, cancel := background()
	defer cancel()
	return restore.Remove(ctx, dir)
}

func child(spec string) error {
	var s childSpec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	ctx := context.Background()
	switch s.Do {
	case "create":
		r, rec, err := openSpec(s)
		if err != nil {
			return err
		}
		_, err = restore.Create(ctx, restore.CreateOptions{Repo: r, Record: rec, Name: "killed", Dir: s.To, AdminPassword: childPassword, Start: true})
		return err
	case "trial":
		r, rec, err := openSpec(s)
		if err != nil {
			return err
		}
		_, err = restore.Trial(ctx, restore.TrialOptions{Repo: r, Record: rec, Parent: s.To})
		return err
	case "remove":
		return restore.Remove(ctx, s.To)
	}
	store, err := file.Open(s.Repo)
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, store, repo.Options{})
	if err != nil {
		return err
	}
	rec, err := r.Find(ctx, "", s.ID)
	if err != nil {
		return err
	}
	fmt.Println("go")
	_, err = restore.Files(ctx, restore.Options{Repo: r, Record: rec, To: s.To, Parallel: 2})
	return err
}

func openSpec(s childSpec) (*repo.Repo, *manifest.Record, error) {
	if s.ID == "" {
		return nil, nil, nil
	}
	store, err := file.Open(s.Repo)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := background()
	defer cancel()
	r, err := repo.Open(ctx, store, repo.Options{})
	if err != nil {
		return nil, nil, err
	}
	rec, err := r.Find(ctx, "", s.ID)
	return r, rec, err
}

// A restore is killed at random moments and run again: at no moment does the
// directory look whole when it isn't, and at the end it is.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	dir := t.TempDir()
	store, err := file.Create(filepath.Join(dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, store)
	rec := take(t, r, copyFixture(t), t.TempDir())
	want := wanted(t, r, rec)
	to := filepath.Join(dir, "data")
	spec, err := json.Marshal(childSpec{Repo: filepath.Join(dir, "repo"), ID: string(rec.ID), To: to})
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	begin := time.Now()
	files(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(dir, "timed")})
	span := int64(time.Since(begin)) * 3 / 4
	kills, finished := 0, 0
	for kills < 25 && finished < 10 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killEnv+"="+string(spec))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.Int64N(span)))
		cmd.Process.Kill()
		if cmd.Wait() == nil {
			finished++
			checkWhole(t, to, want)
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
			continue
		}
		kills++
		if whole := checkKilled(t, to, want); whole { // killed behind its last step
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if kills%10 == 0 { // what two or more runs began is finished by another
			files(t, restore.Options{Repo: r, Record: rec, To: to})
			checkWhole(t, to, want)
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d kills, %d runs were quicker", kills, finished)
}

func checkWhole(t *testing.T, to string, want map[string]string) {
	t.Helper()
	sameFiles(t, hashes(t, to), want)
}

// Several runs were killed before the marker had its name: what each left is no
// reason to refuse the directory, and goes.
func TestKilledBeforeTheMarker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openRepo(t, mem.New())
	rec := take(t, r, copyFixture(t), t.TempDir())
	to := filepath.Join(dir, "data")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if checkKilled(t, to, wanted(t, r, rec)) { // killed when there was the folder alone
		t.Error("an empty folder looks whole")
	}
	for _, says := range []string{"", "{", "{}\n"} {
		if err := os.WriteFile(durable.TempPath(filepath.Join(to, restore.MarkerName)), []byte(says), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if checkKilled(t, to, wanted(t, r, rec)) {
		t.Error("it looks whole")
	}
	files(t, restore.Options{Repo: r, Record: rec, To: to})
	checkWhole(t, to, wanted(t, r, rec))
}

// checkKilled holds what a killed run left against what it may leave. It reports
// whether that is a whole restore.
func checkKilled(t *testing.T, to string, want map[string]string) bool {
	t.Helper()
	if _, err := os.Stat(to); err != nil {
		return false // killed before it began
	}
	got := hashes(t, to)
	_, marked := got[restore.MarkerName]
	whole := true
	for p, h := range want {
		if got[p] == "" {
			whole = false
		} else if got[p] != h {
			t.Errorf("%s has other bytes under its name", p)
		}
	}
	if got["_dbs.couch"] != "" && !whole {
		t.Errorf("the shard map is there, and files are missing")
	}
	// Before the marker there is nothing in the folder but its temporary files, one of
	// each run that was killed so early.
	for p := range got {
		if p != "." && !marked && !whole && (filepath.Dir(p) != "." || !durable.IsTemp(p)) {
			t.Errorf("no marker, and files are missing: %v", got)
			break
		}
	}
	return whole && !marked
}
