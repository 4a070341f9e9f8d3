package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/testenv"
)

// stages makes a backup with replays of each stage of the shard's life.
func (e *env) stages(stages ...string) (recs []*manifest.Record, files [][]byte) {
	e.t.Helper()
	for _, stage := range stages {
		files = append(files, bytes.Clone(e.stage("3.5.0", stage)))
		recs = append(recs, e.run(replayingAll).Record)
	}
	return recs, files
}

// goesOn holds what is promised after a backup with replays that died: all that are listed
// read whole, and the next one, of the file as it is, restores it.
func (e *env) goesOn(what string) {
	e.t.Helper()
	recs, bad, err := e.repo(e.store).List(e.t.Context(), "")
	if err != nil || len(bad) > 0 {
		e.t.Fatalf("%s: %v %v", what, err, bad)
	}
	for _, rec := range recs {
		e.reads(what, rec)
	}
	res := e.run(replayingAll)
	e.check(res.Record)
	if notes := strings.Join(res.Notes, "\n"); strings.Contains(notes, "stored") {
		e.t.Errorf("%s: notes %q", what, notes)
	}
}

// reads holds the shard in a backup against its hash.
func (e *env) reads(what string, rec *manifest.Record) {
	e.t.Helper()
	r := e.repo(e.store)
	m, err := r.Manifest(e.t.Context(), rec)
	if err != nil {
		e.t.Fatal(err)
	}
	f := fileOf(e.t, m, grownShard)
	sum := sha256.New()
	err = r.NewReader(m, m.Files).Stream(e.t.Context(), f, func(b []byte) error { _, err := sum.Write(b); return err })
	if err != nil || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		e.t.Errorf("%s: backup %s: %v, or other bytes", what, rec.ID, err)
	}
}

// TestReplayWriteFails lets each write of a backup with replays fail, before and after it
// took effect.
func TestReplayWriteFails(t *testing.T) {
	t.Parallel()
	actions := map[string]faulty.Action{"after": faulty.FailAfter(faulty.Err)}
	if testenv.Soak() {
		actions["before"] = faulty.Fail(faulty.Err)
	}
	step := 1
	if testing.Short() {
		step = 4
	}
	for name, action := range actions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += step {
				e := newReplayEnv(t)
				e.stages("4-grown")
				e.stage("3.5.0", "5-compacted-under-writes")
				s := faulty.New(e.store, faulty.At(n, action))
				opts := e.options(s)
				replayingAll(&opts)
				_, err := backup.Run(t.Context(), opts)
				if !s.Reached() {
					if err != nil || n < 4 {
						t.Errorf("run without a fault, after %d with: %v", n-1, err)
					}
					return
				}
				e.goesOn(strconv.Itoa(n))
			}
		})
	}
}

// TestReplayKilled kills a backup with replays behind each write.
func TestReplayKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts some ten processes")
	}
	for n := 1; ; n++ {
		e := newReplayEnv(t)
		s, err := file.Open(t.TempDir())
		must(t, err)
		_, err = repo.Init(t.Context(), s, repo.InitOptions{Recipients: []string{e.identity.Recipient().String()}})
		must(t, err)
		e.store = s
		e.stages("4-grown")
		e.stage("3.5.0", "5-compacted-under-writes")
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "BACKUP_TEST_KILL="+strconv.Itoa(n), "BACKUP_TEST_AFTER=1", "BACKUP_TEST_REPLAY=1",
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
		e.goesOn("write " + strconv.Itoa(n))
	}
}

// TestSwappedWhileReplayed lets a compaction take the file's place while a backup stores
// what was appended to it.
func TestSwappedWhileReplayed(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	e.stage("3.5.0", "3-compacted")
	e.run(replayingAll)
	grown := bytes.Clone(e.stage("3.5.0", "4-grown"))
	swapped := false
	s := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if op.Kind != faulty.Put || swapped || !strings.HasPrefix(string(op.Key), "segments/") {
			return faulty.Action{}
		}
		swapped = true
		return faulty.Action{Before: func() error { e.stage("3.5.0", "5-compacted-under-writes"); return nil }}
	})
	opts := e.options(s)
	replayingAll(&opts)
	res, err := backup.Run(t.Context(), opts)
	must(t, err)
	if !swapped || !bytes.HasPrefix(grown, e.restored(e.store, res.Record)) {
		t.Errorf("swapped %v: the backup restores another file", swapped)
	}
	e.goesOn("afterwards")
}

// TestReplayRestores restores backups with replays over each other, as chosen databases,
// and after cancels at each read.
func TestReplayRestores(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	recs, want := e.stages("2-grown", "3-compacted", "4-grown")
	dir := filepath.Join(t.TempDir(), "data")
	for _, i := range []int{0, 2, 1, 1, 2} {
		_, err := restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: recs[i], To: dir, Delta: true, Parallel: 4})
		must(t, err)
		holds(t, filepath.Join(dir, grownShard), want[i])
	}
	dir = filepath.Join(t.TempDir(), "data")
	_, err := restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: recs[2], To: dir, Databases: []string{"gr*"}, As: "other", KeepSuffix: true})
	must(t, err)
	holds(t, filepath.Join(dir, strings.Replace(grownShard, "grow.", "other.", 1)), want[2])
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "data")
		ctx, cancel := context.WithCancel(t.Context())
		gets := 0
		s := faulty.New(e.store, func(op faulty.Op) faulty.Action {
			if op.Kind == faulty.Get && strings.HasPrefix(string(op.Key), "segments/") {
				if gets++; gets == n {
					cancel()
				}
			}
			return faulty.Action{}
		})
		_, err := restore.Files(ctx, restore.Options{Repo: e.repo(s), Record: recs[2], To: dir, Parallel: 4})
		cancel()
		if gets < n {
			must(t, err)
			if n < 3 {
				t.Errorf("only %d reads", n-1)
			}
			break
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at read %d: %v", n, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*", "*", ".tmp-*"))
		must(t, err)
		if more, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(left)+len(more) > 0 {
			t.Errorf("cancelled at read %d: it left %v %v", n, left, more)
		}
		_, err = restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: recs[2], To: dir})
		must(t, err)
		holds(t, filepath.Join(dir, grownShard), want[2])
	}
}

// holds holds a file against the beginning of what it was, up to its cut.
func holds(t *testing.T, path string, want []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) < len(want)*3/4 || !bytes.HasPrefix(want, b) {
		t.Errorf("%s: %d bytes of %d, or others: %v", path, len(b), len(want), err)
	}
}

// TestReplayFailsOnce holds that a replay that can't be made for damage isn't made again
// by the same reader: the second time there is no place for its scratch files.
func TestReplayFailsOnce(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	recs, _ := e.stages("2-grown", "3-compacted")
	r := e.repo(e.store)
	m, err := r.Manifest(t.Context(), recs[1])
	must(t, err)
	f := fileOf(t, m, grownShard)
	var keys []storage.Key
	must(t, e.store.List(t.Context(), "segments/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	for _, key := range keys {
		var b []byte
		must(t, e.store.Get(t.Context(), key, 0, -1, func(r io.Reader) (err error) { b, err = io.ReadAll(r); return err }))
		b[len(b)/2] ^= 1
		must(t, e.store.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{}))
	}
	rd := r.NewReader(m, []*manifest.File{f})
	defer rd.Close()
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		rd.Scratch = dir
		if _, err := rd.ReaderAt(t.Context(), f).ReadAt(make([]byte, 10), 5000); !repo.Damaged(err) {
			t.Errorf("read: %v, want damage", err)
		}
		if lost, err := rd.Salvage(t.Context(), f, true, func(int64, []byte) error { return nil }); err != nil || lost != f.Size {
			t.Errorf("salvage: %d of %d lost, %v", lost, f.Size, err)
		}
	}
}

// TestNoMemory takes the folder for what is remembered away from a backup: it stores all
// whole, and the next one remembers again.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	e.stage("3.5.0", "2-grown")
	e.run(replaying)
	folder := filepath.Dir(e.knownFiles()[0])
	must(t, os.RemoveAll(folder))
	must(t, os.WriteFile(folder, []byte("in the way"), 0o600))
	b := e.stage("3.5.0", "3-compacted")
	res := e.run(replaying)
	if notes := strings.Join(res.Notes, "\n"); res.Replayed != 0 || !strings.Contains(notes, "stored whole") {
		t.Errorf("%d bytes replayed, notes %q", res.Replayed, notes)
	}
	if !bytes.HasPrefix(b, e.restored(e.store, res.Record)) {
		t.Error("it restores another file")
	}
	must(t, os.Remove(folder))
	if e.run(replaying); len(e.knownFiles()) != 1 {
		t.Errorf("the node remembers %v", e.knownFiles())
	}
}
