package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

const fixtures = "../../testdata/couchdb-3.5.0"

// env is a copy of the fixtures' data directory, a repository and a state
// directory.
type env struct {
	t        testing.TB
	data     string
	state    string
	store    storage.Store
	identity *age.X25519Identity // nil without encryption
}

func newEnv(t testing.TB) *env {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, data: t.TempDir(), state: t.TempDir(), store: mem.New(), identity: id}
	if err := os.CopyFS(e.data, os.DirFS(fixtures+"/data")); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Init(t.Context(), e.store, repo.InitOptions{Recipients: []string{id.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *env) repo(store storage.Store) *repo.Repo {
	e.t.Helper()
	opts := repo.Options{}
	if e.identity != nil {
		opts.Identities = []age.Identity{e.identity}
	}
	r, err := repo.Open(context.Background(), store, opts)
	if err != nil {
		e.t.Fatal(err)
	}
	return r
}

func (e *env) options(store storage.Store) backup.Options {
	e.t.Helper()
	n, err := node.Locate(context.Background(), node.Options{DataDir: e.data})
	if err != nil {
		e.t.Fatal(err)
	}
	return backup.Options{Repo: e.repo(store), Node: n, Instance: "node1", StateDir: e.state, Name: "test", Tool: "test", Indexes: true, Parallel: 2}
}

func (e *env) run(edit ...func(*backup.Options)) *backup.Result {
	e.t.Helper()
	opts := e.options(e.store)
	for _, f := range edit {
		f(&opts)
	}
	res, err := backup.Run(context.Background(), opts)
	if err != nil {
		e.t.Fatal(err)
	}
	return res
}

// check streams every file of a backup and compares it with its hash and, for
// those that exist in the data directory, with their bytes there.
func (e *env) check(rec *manifest.Record) *manifest.Manifest {
	e.t.Helper()
	r := e.repo(e.store)
	m, err := r.Manifest(context.Background(), rec)
	if err != nil {
		e.t.Fatal(err)
	}
	rd := r.NewReader(m, m.Files)
	for _, f := range m.Files {
		var got bytes.Buffer
		if err := rd.Stream(context.Background(), f, func(b []byte) error { got.Write(b); return nil }); err != nil {
			e.t.Fatalf("%s: %v", f.Path, err)
		}
		sum := sha256.Sum256(got.Bytes())
		if hex.EncodeToString(sum[:]) != f.SHA256 {
			e.t.Errorf("%s: its bytes don't have its hash", f.Path)
		}
		if want, err := os.ReadFile(filepath.Join(e.data, f.Path)); err == nil && !bytes.HasPrefix(want, got.Bytes()) {
			e.t.Errorf("%s: differs from the source", f.Path)
		}
	}
	return m
}

func (e *env) couchFiles() []string {
	e.t.Helper()
	var out []string
	err := filepath.WalkDir(e.data, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(e.data, p)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func TestFullThenNothingNew(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	res := e.run()
	rec := res.Record
	if rec.Type != manifest.Full || rec.Status != manifest.Completed || len(res.Damage) > 0 || len(res.LeftOut) > 0 {
		t.Fatalf("got %s %s, damage %v, left out %v", rec.Type, rec.Status, res.Damage, res.LeftOut)
	}
	m := e.check(rec)
	if want := e.couchFiles(); len(m.Files) != len(want) {
		t.Errorf("%d files in the backup, %d in the directory", len(m.Files), len(want))
	}
	if rec.DatabaseCount != 25 || rec.NodeName != "couchdbfix@127.0.0.1" {
		t.Errorf("%d databases of node %q", rec.DatabaseCount, rec.NodeName)
	}
	for _, f := range m.Files {
		if f.Kind == manifest.Shard && f.Header == nil {
			t.Errorf("%s: no header", f.Path)
		}
	}

	again := e.run()
	if r := again.Record; r.Type != manifest.Incremental || r.Parent != rec.ID || r.ReadBytes != 0 || r.AddedBytes != 0 {
		t.Errorf("second: %s of %s, read %d, added %d", r.Type, r.Parent, r.ReadBytes, r.AddedBytes)
	}
	if again.Record.NodeName != rec.NodeName || again.Record.DatabaseCount != rec.DatabaseCount {
		t.Errorf("second: node %q, %d databases", again.Record.NodeName, again.Record.DatabaseCount)
	}
	e.check(again.Record)
}

// points returns the ends of the headers of a file of the data directory.
func (e *env) points(path string) []int64 {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.data, path))
	if err != nil {
		e.t.Fatal(err)
	}
	var ends []int64
	err = couchfile.EachHeader(bytes.NewReader(b), int64(len(b)), func(h couchfile.RawHeader) error {
		ends = append(ends, h.End)
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return ends
}

const batches = "shards/00000000-7fffffff/batches.1795334390.couch"

// cutBack cuts a file back to an earlier commit and returns the rest.
func (e *env) cutBack(path string, commits int) (size int64, rest []byte) {
	e.t.Helper()
	ends := e.points(path)
	size = ends[len(ends)-1-commits]
	full := filepath.Join(e.data, path)
	b, err := os.ReadFile(full)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.Truncate(full, size); err != nil {
		e.t.Fatal(err)
	}
	return size, b[size:]
}

func (e *env) grow(path string, b []byte) {
	e.t.Helper()
	f, err := os.OpenFile(filepath.Join(e.data, path), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		e.t.Fatal(err)
	}
}

func TestIncrementalStoresOnlyTheGrowth(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, rest := e.cutBack(batches, 3)
	full := e.run()
	e.grow(batches, rest)
	res := e.run()
	if res.Record.AddedBytes != int64(len(rest)) {
		t.Errorf("added %d bytes, grew by %d", res.Record.AddedBytes, len(rest))
	}
	e.check(full.Record)
	m := e.check(res.Record)
	for _, f := range m.Files {
		if f.Path == batches && len(f.Extents) != 2 {
			t.Errorf("extents %v, want two", f.Extents)
		}
	}
}

// What isn't the same file grown must be copied whole, however alike it looks.
func TestAnotherFileIsCopiedWhole(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(t *testing.T, path string, whole, cut []byte){
		"old header's bytes changed": func(t *testing.T, path string, whole, cut []byte) {
			b := bytes.Clone(whole)
			b[len(cut)-3] ^= 1
			writeInPlace(t, path, b)
		},
		"shorter": func(t *testing.T, path string, _, cut []byte) {
			writeInPlace(t, path, cut[:len(cut)-1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			path := filepath.Join(e.data, batches)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			size, _ := e.cutBack(batches, 3)
			e.run()
			edit(t, path, whole, whole[:size])
			res := e.run()
			for _, f := range e.check(res.Record).Files {
				if f.Path == batches && res.Record.AddedBytes != f.Size {
					t.Errorf("added %d bytes, want all %d", res.Record.AddedBytes, f.Size)
				}
			}
		})
	}
}

func writeInPlace(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, 0)
	if err := errors.Join(err, f.Truncate(int64(len(b))), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestLostStateIsBuiltAnewWithTheKey(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.run()
	e.state = t.TempDir()
	res := e.run()
	if r := res.Record; r.Type != manifest.Incremental || r.Parent != first.Record.ID || r.AddedBytes != 0 || r.ReadBytes < r.SizeBytes {
		t.Errorf("%s of %s: added %d, read %d of %d", r.Type, r.Parent, r.AddedBytes, r.ReadBytes, r.SizeBytes)
	}
	e.check(res.Record)
	e.state = t.TempDir()
	e.identity = nil
	if r := e.run().Record; r.Type != manifest.Full || r.AddedBytes != r.SizeBytes {
		t.Errorf("without the key: %s, added %d of %d", r.Type, r.AddedBytes, r.SizeBytes)
	}
}

func TestParent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, rest := e.cutBack(batches, 3)
	first := e.run()
	e.grow(batches, rest)
	e.run()
	res := e.run(func(o *backup.Options) { o.Parent = string(first.Record.ID) })
	if res.Record.Parent != first.Record.ID || res.Record.AddedBytes != int64(len(rest)) {
		t.Errorf("parent %s, added %d", res.Record.Parent, res.Record.AddedBytes)
	}
	e.check(res.Record)
	opts := e.options(e.store)
	opts.Parent = "nosuch"
	if _, err := backup.Run(t.Context(), opts); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("got %v", err)
	}
}

func TestDeletedParent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.run()
	r := e.repo(e.store)
	lock, err := r.Lock(t.Context(), "node1", "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{first.Record.ID}, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	res := e.run()
	if res.Record.Type != manifest.Full || res.Record.AddedBytes != res.Record.SizeBytes {
		t.Errorf("%s, added %d", res.Record.Type, res.Record.AddedBytes)
	}
	e.check(res.Record)
}

func TestDamagedSource(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	target := filepath.Join(e.data, "shards/00000000-7fffffff/deletions.1795334388.couch")
	for file, want := range map[string]struct {
		offset int64
		doc    string
	}{
		"bitflip-doc-body.couch": {12255, "d034"},
		"block-zeroed.couch":     {0, "d004"},
		"no-headers.couch":       {0, ""},
		"zero-length.couch":      {0, ""},
	} {
		b, err := os.ReadFile(fixtures + "/damaged/" + file)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(os.WriteFile(target+".new", b, 0o644), os.Chtimes(target+".new", fixedTime, fixedTime), os.Rename(target+".new", target))
		if err != nil {
			t.Fatal(err)
		}
		res := e.run()
		if res.Record.Status != manifest.CompletedDamaged {
			t.Errorf("%s: status %s", file, res.Record.Status)
		}
		found := false
		for _, d := range res.Damage {
			found = found || d.Doc == want.doc && (want.offset == 0 || d.Offset == want.offset)
		}
		if !found {
			t.Errorf("%s: found %+v, want document %q at %d", file, res.Damage, want.doc, want.offset)
		}
		e.check(res.Record)
		// The next one, with nothing changed, still knows.
		if again := e.run(); again.Record.Status != manifest.CompletedDamaged || again.Record.DamageCount != res.Record.DamageCount {
			t.Errorf("%s: the next backup is %s with %d findings", file, again.Record.Status, again.Record.DamageCount)
		}
		opts := e.options(e.store)
		opts.Strict = true
		if _, err := backup.Run(t.Context(), opts); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: strict: %v", file, err)
		}
	}
}

func TestMissingShardIsDamage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if err := os.Remove(filepath.Join(e.data, batches)); err != nil {
		t.Fatal(err)
	}
	res := e.run()
	if res.Record.Status != manifest.CompletedDamaged || len(res.Damage) != 1 || res.Damage[0].Path != batches {
		t.Errorf("%s: %+v", res.Record.Status, res.Damage)
	}
}

// The shard map is not read again when it is unchanged; a shard that vanished
// since the parent must be noticed all the same, then and in the next backup.
func TestShardGoneSinceTheParent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.run()
	if err := os.Remove(filepath.Join(e.data, batches)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res := e.run()
		if res.Record.Status != manifest.CompletedDamaged || len(res.Damage) != 1 || res.Damage[0].Path != batches {
			t.Errorf("%s: %+v", res.Record.Status, res.Damage)
		}
		if res.Record.DatabaseCount != first.Record.DatabaseCount {
			t.Errorf("%d databases, then %d", first.Record.DatabaseCount, res.Record.DatabaseCount)
		}
	}
}

func TestOrphanIsNoted(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b, err := os.ReadFile(filepath.Join(e.data, batches))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.data, "shards/00000000-7fffffff/gone.1795334399.couch"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	res := e.run()
	if !strings.Contains(strings.Join(res.Notes, "\n"), "gone.1795334399") || res.Record.Status != manifest.Completed {
		t.Errorf("%s: notes %q", res.Record.Status, res.Notes)
	}
}

// Ini files are read each time, stored when they changed, and lose their secrets
// where nothing is encrypted.
func TestConfig(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		e := newEnv(t)
		if !encrypted {
			e.store, e.identity = mem.New(), nil
			if _, err := repo.Init(t.Context(), e.store, repo.InitOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		etc := t.TempDir()
		ini := filepath.Join(etc, "local.ini")
		text := "[couchdb]\ndatabase_dir = " + e.data + "\n[admins]\nadmin = hunter2\n"
		if err := os.WriteFile(ini, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func() *backup.Result {
			return e.run(func(o *backup.Options) {
				var err error
				if o.Node, err = node.Locate(context.Background(), node.Options{ConfigDir: etc}); err != nil {
					t.Fatal(err)
				}
			})
		}
		res := run()
		stored := e.configText(res.Record)
		if strings.Contains(stored, "hunter2") != encrypted || !strings.Contains(stored, "database_dir") {
			t.Errorf("encrypted %v: stored %q", encrypted, stored)
		}
		if noted := strings.Contains(strings.Join(res.Notes, "\n"), "not encrypted"); noted == encrypted {
			t.Errorf("encrypted %v: notes %q", encrypted, res.Notes)
		}
		if again := run(); again.Record.AddedBytes != 0 || e.configText(again.Record) != stored {
			t.Errorf("encrypted %v: unchanged, but %d bytes were added", encrypted, again.Record.AddedBytes)
		}
		if err := os.WriteFile(ini, []byte(text+"[log]\nlevel = debug\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed := run(); !strings.Contains(e.configText(changed.Record), "debug") {
			t.Errorf("encrypted %v: the change is not in the backup", encrypted)
		}
	}
}

// configText returns the ini files of a backup, one after the other.
func (e *env) configText(rec *manifest.Record) string {
	e.t.Helper()
	r := e.repo(e.store)
	m, err := r.Manifest(context.Background(), rec)
	if err != nil {
		e.t.Fatal(err)
	}
	var text strings.Builder
	rd := r.NewReader(m, nil)
	for _, f := range m.Files {
		if f.Kind != manifest.Config {
			continue
		}
		if err := rd.Stream(context.Background(), f, func(b []byte) error { text.Write(b); return nil }); err != nil {
			e.t.Fatal(err)
		}
	}
	return text.String()
}

func TestNoIndexes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, f := range e.check(e.run(func(o *backup.Options) { o.Indexes = false }).Record).Files {
		if f.Kind == manifest.View {
			t.Errorf("%s is in the backup", f.Path)
		}
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	lock, err := e.repo(e.store).Lock(t.Context(), "node1", "backup", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), e.options(e.store)); !errors.Is(err, repo.ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.run()
}

// A backup whose lock another process takes while it runs says what becomes of what it
// stored.
func TestLockTaken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var once sync.Once
	taken := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if op.Kind == faulty.Put && strings.HasPrefix(string(op.Key), "segments/") {
			once.Do(func() { e.leaveLock(newID(t)) })
		}
		return faulty.Action{}
	})
	_, err := backup.Run(t.Context(), e.options(taken))
	if !errors.Is(err, repo.ErrLockLost) || !strings.Contains(err.Error(), "the next backup uses what this one stored") {
		t.Errorf("got %v", err)
	}
	e.check(e.run().Record)
}

// Nodes back up into one repository at the same time, each under its own name.
func TestInstancesSideBySide(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var g errgroup.Group
	recs := make([]*manifest.Record, 4)
	for i := range recs {
		opts := e.options(e.store)
		opts.Instance, opts.StateDir = fmt.Sprintf("node%d", i), t.TempDir()
		g.Go(func() error {
			for range 2 {
				res, err := backup.Run(context.Background(), opts)
				if err != nil {
					return err
				}
				recs[i] = res.Record
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		e.check(rec)
	}
	report, err := e.repo(e.store).Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || report.Backups != 8 || len(report.Problems)+report.Unreferenced > 0 {
		t.Errorf("check: %v %+v", err, report)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backup.Run(ctx, e.options(e.store)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	e.run()
}

func TestLabels(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	labels := map[string]string{"trove.backup": "5c0f", "schedule": "nightly"}
	res := e.run(func(o *backup.Options) { o.Labels = labels })
	recs, bad, err := e.repo(e.store).List(t.Context(), "node1")
	if err != nil || len(bad) > 0 || len(recs) != 1 || !maps.Equal(recs[0].Labels, labels) {
		t.Errorf("got %+v, %v, %v", recs, bad, err)
	}
	if m := e.check(res.Record); !maps.Equal(m.Labels, labels) {
		t.Errorf("manifest: %v", m.Labels)
	}
	if again := e.run(); again.Record.Labels != nil {
		t.Errorf("the next backup took the labels over: %v", again.Record.Labels)
	}
	o := e.options(e.store)
	o.Labels = map[string]string{"Upper": ""}
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, backup.ErrOptions) {
		t.Errorf("got %v, want ErrOptions", err)
	}
}

// An id is for one attempt: one that is taken, given up, or has left something is
// refused before a file is read.
func TestGivenID(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id := newID(t)
	refused := func(id manifest.BackupID) {
		t.Helper()
		o := e.options(e.store)
		o.ID, o.Progress = id, &backup.Progress{}
		_, err := backup.Run(t.Context(), o)
		if !errors.Is(err, repo.ErrIDUsed) || o.Progress.Files.Load() != 0 {
			t.Errorf("got %v after a look at %d files, want ErrIDUsed and none", err, o.Progress.Files.Load())
		}
	}
	if res := e.run(func(o *backup.Options) { o.ID = id }); res.Record.ID != id {
		t.Errorf("got %s, want %s", res.Record.ID, id)
	}
	refused(id)
	// A run that dies leaves its lock; who comes next, be it the same job, gives it up.
	gone := newID(t)
	e.leaveLock(gone)
	refused(gone)
	refused(gone)
	// A run that failed and released its lock left segments under its id.
	failed := newID(t)
	full := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if op.Kind == faulty.Put && strings.HasPrefix(string(op.Key), "backups/") {
			return faulty.Action{Before: func() error { return storage.ErrFull }}
		}
		return faulty.Action{}
	})
	o := e.options(full)
	o.ID, o.Full = failed, true
	if _, err := backup.Run(t.Context(), o); err == nil {
		t.Error("the manifest was stored all the same")
	}
	refused(failed)
	o = e.options(e.store)
	o.ID = "0193516E-0000-7000-8000-000000000000"
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, backup.ErrOptions) {
		t.Errorf("got %v, want ErrOptions", err)
	}
	e.check(e.run().Record)
}

// leaveLock puts the lock of a process that died while it made a backup.
func (e *env) leaveLock(id manifest.BackupID) {
	e.t.Helper()
	n := 1
	err := e.store.List(e.t.Context(), "locks/node1/", func(storage.Info) error { n++; return nil })
	if err != nil {
		e.t.Fatal(err)
	}
	text := fmt.Sprintf(`{"pid":0,"settled":true,"backup":%q}`, id)
	key := storage.Key(fmt.Sprintf("locks/node1/%010d.json", n))
	if err := e.store.Put(e.t.Context(), key, strings.NewReader(text), storage.PutOptions{IfAbsent: true}); err != nil {
		e.t.Fatal(err)
	}
}

func newID(t *testing.T) manifest.BackupID {
	t.Helper()
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}
