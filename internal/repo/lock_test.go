package repo_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/file"
)

// lockElsewhere runs a process that takes the lock of a new repository. With hold it
// lives until the test ends; without, it has ended without releasing the lock, and
// nobody has asked for its exit code.
func lockElsewhere(t *testing.T, hold bool) (*repo.Repo, string) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs /proc, which tells that a process has ended")
	}
	dir := t.TempDir()
	s, err := file.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), s, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), s, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), "REPO_TEST_LOCK="+dir)
	if hold {
		cmd.Env = append(cmd.Env, "REPO_TEST_HOLD=1")
	}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process with the lock: %v", err)
		}
	})
	rd := bufio.NewReader(out)
	if line, err := rd.ReadString('\n'); err != nil || line != "locked\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if !hold {
		if _, err := io.Copy(io.Discard, rd); err != nil { // it closes its output when it ends
			t.Fatal(err)
		}
	}
	return r, dir
}

// A killed process that nobody reaps, as in a container without an init, is dead.
func TestLockOfADeadProcess(t *testing.T) {
	r, _ := lockElsewhere(t, false)
	var lock *repo.Lock
	var err error
	for end := time.Now().Add(time.Minute); ; { // between the end of its output and that of the process
		if lock, err = r.Lock(t.Context(), instance, "backup", ""); !errors.Is(err, repo.ErrLocked) || time.Now().After(end) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// A process that lives and has not renewed its lock for hours, since it is stopped or
// hangs, is watched like one elsewhere.
func TestLockOfAProcessThatHangs(t *testing.T) {
	_, dir := lockElsewhere(t, true)
	b, err := os.ReadFile(filepath.Join(dir, "locks", instance, "0000000001.json"))
	if err != nil {
		t.Fatal(err)
	}
	var info repo.LockInfo
	if err := json.Unmarshal(b, &info); err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]error{59 * time.Minute: repo.ErrLocked, 61 * time.Minute: nil, -61 * time.Minute: nil} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			r := f.open(t, f.store)
			info.Renewed = time.Now().Add(-age)
			b, err := json.Marshal(info)
			if err != nil {
				t.Fatal(err)
			}
			put(t, f.store, "locks/"+instance+"/0000000001.json", b)
			began := time.Now()
			lock, err := r.Lock(t.Context(), instance, "backup", "")
			if !errors.Is(err, want) {
				t.Fatalf("renewed %v ago: got %v, want %v", age, err, want)
			}
			if err != nil {
				return
			}
			if took := time.Since(began); took < 5*time.Minute || took > 6*time.Minute {
				t.Errorf("it was watched for %v", took)
			}
			if err := lock.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFreeLock(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	if l, err := r.FreeLock(t.Context(), instance, false); l != nil || err != nil {
		t.Errorf("without any lock: %v, %v", l, err)
	}
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := json.Marshal(repo.LockInfo{Host: "elsewhere", PID: 7, Purpose: "backup", Backup: id, Since: time.Now(), Renewed: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	put(t, f.store, "locks/"+instance+"/0000000001.json", elsewhere)

	held, err := r.Locks(t.Context(), "")
	if err != nil || len(held) != 1 || held[0].Instance != instance || held[0].Host != "elsewhere" || held[0].Silent {
		t.Fatalf("locks: %+v, %v", held, err)
	}
	if _, err := r.FreeLock(t.Context(), instance, false); !errors.Is(err, repo.ErrLocked) || !strings.Contains(err.Error(), "elsewhere, process 7") {
		t.Errorf("freed one that was renewed just now: %v", err)
	}
	l, err := r.FreeLock(t.Context(), instance, true)
	if err != nil || l == nil || l.Number != 1 {
		t.Fatalf("forced: %+v, %v", l, err)
	}
	// Its backup is given up for good, and the lock is there to be taken.
	if got, err := f.store.Stat(t.Context(), "backups/"+instance+"/"+storage.Key(id)+"/record.jsonl"); err != nil || got.Size != 0 {
		t.Errorf("the record of the backup that was being made: %+v, %v", got, err)
	}
	if held, err := r.Locks(t.Context(), instance); err != nil || len(held) > 0 {
		t.Errorf("after that: %+v, %v", held, err)
	}
	lock, err := r.Lock(t.Context(), instance, "backup", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// Silent ones are freed without force, and a lock that says nothing is nobody's.
func TestFreeSilentLock(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	old := time.Now().Add(-time.Hour)
	b, err := json.Marshal(repo.LockInfo{Host: "elsewhere", PID: 7, Purpose: "prune", Since: old, Renewed: old})
	if err != nil {
		t.Fatal(err)
	}
	put(t, f.store, "locks/"+instance+"/0000000001.json", b)
	put(t, f.store, "locks/other/0000000001.json", bytes.Repeat([]byte("x"), 9))
	if held, err := r.Locks(t.Context(), ""); err != nil || len(held) != 1 || !held[0].Silent {
		t.Errorf("locks: %+v, %v", held, err)
	}
	if l, err := r.FreeLock(t.Context(), instance, false); err != nil || l == nil {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := r.FreeLock(t.Context(), "other", false); err != nil || l != nil {
		t.Errorf("one that doesn't parse: %+v, %v", l, err)
	}
}
