package backup_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

const grownShard = "shards/00000000-ffffffff/grow.1767225600.couch"

func replaying(o *backup.Options) { o.Compaction = backup.Replay }

func replayingAll(o *backup.Options) { o.Compaction, o.Tails = backup.Replay, backup.Replay }

// stage puts the shard as it was at a stage of its life in its place: a compacted one as
// another file, as CouchDB does.
func (e *env) stage(version, stage string) []byte {
	e.t.Helper()
	b := testenv.GrownFile(e.t, version, stage, ".couch")
	e.put(b, strings.Contains(stage, "compacted"))
	return b
}

func (e *env) put(b []byte, other bool) {
	e.t.Helper()
	path := filepath.Join(e.data, grownShard)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	was, _ := os.ReadFile(path)
	switch {
	case err != nil:
	case other || len(was) == 0:
		if err = os.WriteFile(path+".new", b, 0o644); err == nil {
			err = os.Rename(path+".new", path)
		}
	case !bytes.HasPrefix(b, was):
		e.t.Fatal("it doesn't grow")
	default:
		e.grow(grownShard, b[len(was):])
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func fileOf(t testing.TB, m *manifest.Manifest, path string) *manifest.File {
	t.Helper()
	for _, f := range m.Files {
		if f.Path == path {
			return f
		}
	}
	t.Fatalf("the backup has no %s", path)
	return nil
}

// newReplayEnv is an env with nothing but the shard, once there is a stage of it.
func newReplayEnv(t testing.TB) *env {
	t.Helper()
	e := newEnv(t)
	e.data = t.TempDir()
	return e
}

// restored restores a backup and returns the shard.
func (e *env) restored(store storage.Store, rec *manifest.Record) []byte {
	e.t.Helper()
	dir := filepath.Join(e.t.TempDir(), "data")
	res, err := restore.Files(e.t.Context(), restore.Options{Repo: e.repo(store), Record: rec, To: dir})
	if err != nil {
		e.t.Fatal(err)
	}
	if len(res.Problems) != 1 || !strings.Contains(res.Problems[0], "no _dbs.couch") || len(res.Damaged) > 0 {
		e.t.Errorf("restore: problems %v, damaged %v", res.Problems, res.Damaged)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	if err != nil || len(left) > 0 {
		e.t.Errorf("the restore left %v, %v", left, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, grownShard))
	if err != nil {
		e.t.Fatal(err)
	}
	report, err := restore.Verify(e.t.Context(), restore.VerifyOptions{Repo: e.repo(store), Record: rec})
	if err != nil || !report.OK() {
		e.t.Errorf("verify: %v %+v", err, report)
	}
	return b
}

// TestReplays backs a database of each release up through its life, compactions included,
// and restores each backup, the last also after the others were removed, and out of a copy
// that was made without a key.
func TestReplays(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		if version != "3.5.0" && testing.Short() {
			continue // their files differ, not what is done with them
		}
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testReplays(t, version, false)
		})
		t.Run(version+" with tails", func(t *testing.T) {
			t.Parallel()
			testReplays(t, version, true)
		})
	}
}

func testReplays(t *testing.T, version string, tails bool) {
	t.Helper()
	e := newReplayEnv(t)
	opts := replaying
	if tails {
		opts = replayingAll
	}
	var recs []*manifest.Record
	var files [][]byte
	for i, stage := range []string{"2-grown", "3-compacted", "4-grown", "5-compacted-under-writes"} {
		files = append(files, e.stage(version, stage))
		res := e.run(opts)
		rec := res.Record
		if (res.Replayed > 0) != (i%2 == 1 || tails && i == 2) {
			t.Errorf("%s: %d bytes are told to be replayed", stage, res.Replayed)
		}
		recs = append(recs, rec)
		m := e.check(rec)
		f := fileOf(t, m, grownShard)
		if got, want := manifest.Depth(f.Replays), (i+1)/2; got != want {
			t.Errorf("%s: %d replays, want %d", stage, got, want)
		}
		if want := map[bool]int{false: 1, true: 2}[i >= 1]; m.Format != want {
			t.Errorf("%s: format %d, want %d", stage, m.Format, want)
		}
		if i == 1 && rec.AddedBytes > 2000 {
			t.Errorf("%s: %d bytes were stored for a compaction alone", stage, rec.AddedBytes)
		}
		if i == 3 && rec.AddedBytes > int64(len(files[3]))/2 {
			t.Errorf("%s: %d bytes were stored of %d", stage, rec.AddedBytes, len(files[3]))
		}
	}
	for i, rec := range recs {
		if !bytes.HasPrefix(files[i], e.restored(e.store, rec)) { // up to the cut
			t.Errorf("backup %d restores another file", i)
		}
	}
	for i, rec := range recs {
		merged := e.inPlace(rec, files[i])
		if want := i == 1 || i > 1 && tails; merged != want {
			t.Errorf("backup %d is merged: %v, want %v", i, merged, want)
		}
	}
	last, whole := recs[3], files[3]
	other := mem.New()
	if _, err := repo.Init(t.Context(), other, repo.InitOptions{Recipients: []string{e.identity.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	key := e.identity
	e.identity = nil
	if _, err := repo.Copy(t.Context(), e.repo(other), e.repo(e.store), last, repo.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	e.prune(recs[:3])
	e.identity = key
	for _, store := range []storage.Store{e.store, other} {
		if !bytes.HasPrefix(whole, e.restored(store, last)) {
			t.Errorf("without the backups before it the last one restores another file")
		}
	}
}

// inPlace holds the documents of a backup as they are read without a restore against those
// of the file. merged says that replays were merged for it, and that no file was made.
func (e *env) inPlace(rec *manifest.Record, b []byte) (merged bool) {
	e.t.Helper()
	must := func(err error) {
		e.t.Helper()
		if err != nil {
			e.t.Fatal(err)
		}
	}
	r := e.repo(e.store)
	m, err := r.Manifest(e.t.Context(), rec)
	must(err)
	f := fileOf(e.t, m, grownShard)
	rd := r.NewReader(m, m.Files)
	rd.Scratch = e.t.TempDir()
	defer rd.Close()
	read, err := rd.Database(e.t.Context(), f)
	must(err)
	defer read.Close()
	got, err := couchfile.OpenOffset(read, read.Size, read.Header)
	must(err)
	want, err := couchfile.OpenOffset(bytes.NewReader(b), f.Size, f.Header.Offset)
	must(err)
	docs := 0
	for w, err := range want.Docs(couchfile.DocsOptions{}) {
		must(err)
		g, err := got.DocInfo(w.ID)
		must(err)
		docs++
		for i, leaf := range w.Leaves() {
			all := couchfile.DocOptions{Revs: true, Attachments: true, LocalSeq: true, Conflicts: true}
			a, err := want.RevisionJSON(w, leaf, all)
			must(err)
			b, err := got.RevisionJSON(g, g.Leaves()[i], all)
			must(err)
			if !bytes.Equal(a, b) {
				e.t.Fatalf("%s in place:\n%s\nin the file:\n%s", w.ID, b, a)
			}
		}
	}
	if g, w := got.Header(), want.Header(); docs == 0 || g.UpdateSeq != w.UpdateSeq || g.UUID != w.UUID || g.CompactedSeq != w.CompactedSeq {
		e.t.Errorf("%d documents; in place %+v, in the file %+v", docs, g, w)
	}
	a, err := want.CountChanges(0)
	must(err)
	c, err := got.CountChanges(0)
	must(err)
	if a != c {
		e.t.Errorf("%d documents in place, %d in the file", c, a)
	}
	return read.Size != f.Size
}

// prune removes backups, which needs no key.
func (e *env) prune(recs []*manifest.Record) {
	e.t.Helper()
	var ids []manifest.BackupID
	for _, rec := range recs {
		ids = append(ids, rec.ID)
	}
	r := e.repo(e.store)
	lock, err := r.Lock(e.t.Context(), "node1", "prune", "")
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := r.Prune(e.t.Context(), lock, repo.PruneOptions{Remove: ids, Now: time.Now()}); err != nil {
		e.t.Fatal(err)
	}
	if err := lock.Release(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
}

// knownFiles are what the node remembers.
func (e *env) knownFiles() []string {
	e.t.Helper()
	list, err := filepath.Glob(filepath.Join(e.state, "*", "node1", "known", "*"))
	if err != nil {
		e.t.Fatal(err)
	}
	return list
}

// TestNothingToReplay holds when a compacted file is stored whole: nothing is remembered,
// or something wrong, or the setting says so, or the file is not what the compaction of
// the older one makes.
func TestNothingToReplay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(t *testing.T, e *env, b []byte)
		opts func(*backup.Options)
		note string
		want int // replays
	}{
		"known": {want: 1},
		"asked for whole": {
			opts: func(o *backup.Options) { o.Compaction = backup.Whole },
		},
		"forgotten": {
			edit: func(t *testing.T, e *env, _ []byte) {
				for _, p := range e.knownFiles() {
					if err := os.Remove(p); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
		"damaged": {
			edit: func(t *testing.T, e *env, _ []byte) {
				for _, p := range e.knownFiles() {
					b, err := os.ReadFile(p)
					if err != nil {
						t.Fatal(err)
					}
					b[len(b)/2] ^= 1
					if err := os.WriteFile(p, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			},
			note: "what this node remembered of its documents can't be read",
		},
		"a byte that nobody can predict": {
			edit: func(t *testing.T, e *env, b []byte) {
				h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
				if err != nil || b[h.Offset-1] != 0 {
					t.Fatalf("no padding before the header: %v", err)
				}
				b[h.Offset-1] = 1
				e.put(b, true)
			},
			want: 1,
		},
		"another file": {
			edit: func(_ *testing.T, e *env, b []byte) {
				for i := 8 << 10; i < 500<<10; i += 7 {
					if i%4096 != 0 {
						b[i] ^= 1
					}
				}
				e.put(b, true)
			},
			note: "was stored as it is, not as a replay",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newReplayEnv(t)
			e.stage("3.5.0", "2-grown")
			e.run(replaying)
			if len(e.knownFiles()) != 1 {
				t.Fatalf("the node remembers %v", e.knownFiles())
			}
			b := bytes.Clone(e.stage("3.5.0", "3-compacted"))
			if c.edit != nil {
				c.edit(t, e, b)
			}
			if c.opts == nil {
				c.opts = replaying
			}
			res := e.run(c.opts)
			f := fileOf(t, e.check(res.Record), grownShard)
			if n := manifest.Depth(f.Replays); n != c.want {
				t.Errorf("%d replays, want %d", n, c.want)
			}
			if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, c.note) || c.note == "" && strings.Contains(notes, "stored") {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
			want, err := os.ReadFile(filepath.Join(e.data, grownShard))
			if err != nil {
				t.Fatal(err)
			}
			if name == "another file" { // its bodies are damaged
				return
			}
			if !bytes.Equal(e.restored(e.store, res.Record), want) {
				t.Error("it restores another file")
			}
			if n := len(e.knownFiles()); n != map[bool]int{true: 0, false: 1}[name == "asked for whole"] {
				t.Errorf("the node remembers %d files", n)
			}
		})
	}
}

// TestReplaysEnd compacts again and again what nobody writes to: after some replays that
// rest on each other the file is stored whole.
func TestReplaysEnd(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	e.stage("3.5.0", "2-grown")
	e.run(replaying)
	deepest := 0
	for i := range 12 {
		// A file with the same bytes is its own compaction: it is stored as grown by
		// nothing, so the older one is put in its place in between.
		stage := "3-compacted"
		if i%2 == 1 {
			stage = "5-compacted-under-writes"
		}
		b := e.stage("3.5.0", stage)
		res := e.run(replaying)
		f := fileOf(t, e.check(res.Record), grownShard)
		deepest = max(deepest, manifest.Depth(f.Replays))
		if i == 11 && !bytes.Equal(e.restored(e.store, res.Record), b) {
			t.Error("the last one restores another file")
		}
	}
	if deepest != 8 { // without tails the files of all are made
		t.Errorf("%d replays rest on each other, want 8 at most", deepest)
	}
}

// TestDamagedReplay flips a byte of each segment that a replay needs: the shard can't be
// had, which a restore and verify tell, whole and by samples; nothing wrong gets its name.
func TestDamagedReplay(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	var rec *manifest.Record
	for _, stage := range []string{"2-grown", "3-compacted", "4-grown", "5-compacted-under-writes"} {
		e.stage("3.5.0", stage)
		rec = e.run(replaying).Record
	}
	var keys []storage.Key
	must(t, e.store.List(t.Context(), "segments/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	if len(keys) != 4 {
		t.Fatalf("%d segments, want 4", len(keys))
	}
	for _, key := range keys {
		var good []byte
		must(t, e.store.Get(t.Context(), key, 0, -1, func(r io.Reader) (err error) { good, err = io.ReadAll(r); return err }))
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		must(t, e.store.Put(t.Context(), key, bytes.NewReader(bad), storage.PutOptions{}))
		dir := filepath.Join(t.TempDir(), "data")
		res, err := restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: rec, To: dir})
		must(t, err)
		info, err := os.Stat(filepath.Join(dir, grownShard))
		if len(res.Lost) != 1 || err != nil || !info.IsDir() { // a folder, so that it isn't served empty
			t.Errorf("%s damaged: lost %v, and in its place %v, %v", key, res.Lost, info, err)
		}
		for _, sample := range []float64{0, 0.5} {
			report, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: e.repo(e.store), Record: rec, Sample: sample})
			if err != nil || report.OK() {
				t.Errorf("%s damaged, sample %v: verify says %v, %+v", key, sample, err, report)
			}
		}
		must(t, e.store.Put(t.Context(), key, bytes.NewReader(good), storage.PutOptions{}))
	}
	report, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: e.repo(e.store), Record: rec, Sample: 0.5})
	if err != nil || !report.OK() || report.Docs == 0 {
		t.Errorf("a sample: %v, %+v", err, report)
	}
}

// TestRememberedByAnotherRun lets a backup die after it copied a file that had grown, and
// the power cut take what it had grown by: CouchDB then wrote something else in its place.
// What the dead backup remembered is of bytes that no backup has.
func TestRememberedByAnotherRun(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	first := bytes.Clone(e.stage("3.5.0", "3-compacted"))
	e.run(replaying)
	other := bytes.Clone(e.stage("3.5.0", "4-grown"))
	e.interrupt(replaying)
	grown := append(bytes.Clone(first), headerAgain(t, first, (len(other)-len(first))/4096+2)...)
	must(t, os.Truncate(filepath.Join(e.data, grownShard), int64(len(first))))
	e.put(grown, false)
	second := e.run(replaying).Record
	if !bytes.Equal(e.restored(e.store, second), grown) {
		t.Error("the second backup restores another file")
	}
	e.put(first, true)
	third := e.run(replaying).Record
	if !bytes.Equal(e.restored(e.store, third), first) {
		t.Error("the third backup restores another file")
	}
}

// headerAgain is what to append to a file so that its newest header stands again, some
// blocks after its end.
func headerAgain(t *testing.T, b []byte, blocks int) []byte {
	h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	return append(make([]byte, (len(b)/4096+blocks)*4096-len(b)), b[h.Offset:h.End]...)
}

// TestRememberOfOtherBytes turns replays on for a file whose older bytes rotted on the disk
// after they were stored, where the proof of a grown file doesn't look.
func TestRememberOfOtherBytes(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	first := bytes.Clone(e.stage("3.5.0", "4-grown"))
	e.run()
	f, err := os.OpenFile(filepath.Join(e.data, grownShard), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{first[5000] ^ 1}, 5000)
	must(t, errors.Join(err, f.Close()))
	e.grow(grownShard, headerAgain(t, first, 1))
	res := e.run(replaying)
	if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, "the disk has other bytes") || len(e.knownFiles()) > 0 {
		t.Errorf("notes %q, and the node remembers %v", notes, e.knownFiles())
	}
}

// TestStrictRemembers holds that looking for damage and finding none is no reason to
// forget.
func TestStrictRemembers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	strict := func(o *backup.Options) { o.Strict = true }
	e.stage("3.5.0", "2-grown")
	e.run(replaying, strict)
	e.stage("3.5.0", "3-compacted")
	if res := e.run(replaying, strict); res.Replayed == 0 {
		t.Errorf("nothing was replayed: %v", res.Notes)
	}
}

// TestTurnedOn turns replays on for a database that nobody writes to any more.
func TestTurnedOn(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	e.stage("3.5.0", "2-grown")
	e.run()
	if r := e.run(replaying).Record; r.AddedBytes != 0 || len(e.knownFiles()) != 1 {
		t.Errorf("%d bytes were stored, and the node remembers %v", r.AddedBytes, e.knownFiles())
	}
	if r := e.run(replaying).Record; r.ReadBytes != 0 {
		t.Errorf("then %d bytes were read", r.ReadBytes)
	}
	e.stage("3.5.0", "3-compacted")
	if res := e.run(replaying); res.Replayed == 0 {
		t.Errorf("nothing was replayed: %v", res.Notes)
	}
}
