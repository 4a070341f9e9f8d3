package restore_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// segments returns the stored segments by their keys.
func segments(t *testing.T, store storage.Store) map[storage.Key][]byte {
	t.Helper()
	out := map[storage.Key][]byte{}
	var keys []storage.Key
	if err := store.List(t.Context(), "segments/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if err := store.Get(t.Context(), k, 0, -1, func(rd io.Reader) (err error) { out[k], err = io.ReadAll(rd); return err }); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func putSegment(t *testing.T, store storage.Store, key storage.Key, b []byte) {
	t.Helper()
	if err := store.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// spoil changes a stored byte so that a file can't be read any more.
func spoil(t *testing.T, store storage.Store, r *repo.Repo, m *manifest.Manifest, path string) {
	t.Helper()
	f := m.Files[slices.IndexFunc(m.Files, func(f *manifest.File) bool { return f.Path == path })]
	for key, good := range segments(t, store) {
		for at := 0; at < len(good); at += 5_000 {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			putSegment(t, store, key, bad)
			if err := r.NewReader(m, []*manifest.File{f}).Stream(t.Context(), f, func([]byte) error { return nil }); repo.Damaged(err) {
				return
			}
		}
		putSegment(t, store, key, good)
	}
	t.Fatalf("%s is in no segment", path)
}

// holds checks that each file of the backup is at its place with its bytes, or is told
// to be lost and can't be taken for whole there, and returns how many are lost.
func holds(t *testing.T, dir string, m *manifest.Manifest, res *restore.Result) int {
	t.Helper()
	got := hashes(t, dir)
	told := map[string]bool{}
	for _, l := range slices.Concat(res.Lost, res.Dropped) {
		told[l.Path] = true
	}
	lost := 0
	for _, f := range m.Files {
		now := got[filepath.FromSlash(f.Path)]
		switch {
		case now == f.SHA256:
			if told[f.Path] {
				t.Errorf("%s is told to be lost, and is there", f.Path)
			}
		case !told[f.Path]:
			t.Errorf("%s is %q and nobody says so", f.Path, now)
		case f.Kind == manifest.View && now != "", f.Kind == manifest.Shard && now != "dir":
			t.Errorf("%s is lost, and its place is %q", f.Path, now)
		default:
			lost++
		}
	}
	if len(told) != lost || res.LostCount != lost || res.OK() != (lost == 0) || got[restore.MarkerName] != "" {
		t.Errorf("%d files told, %d lost, result %+v", len(told), lost, res)
	}
	return lost
}

// A wrong byte costs the files whose frame it hit, and no other.
func TestWrongByteCostsOnlyWhatItHit(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		store := mem.New()
		r := openRepo
		if encrypted {
			r = encryptedRepo
		}
		rp := r(t, store)
		rec := take(t, rp, fixture+"/data", t.TempDir())
		m := manifestOf(t, rp, rec)
		whole, worst := 0, 0
		for key, good := range segments(t, store) {
			for _, part := range []float64{0.2, 0.5, 0.8, 1} {
				bad := bytes.Clone(good)
				bad[int(part*float64(len(bad)-1))] ^= 1
				putSegment(t, store, key, bad)
				dir := filepath.Join(t.TempDir(), "data")
				res := files(t, restore.Options{Repo: rp, Record: rec, To: dir})
				lost := holds(t, dir, m, res)
				contains(t, res.Warnings, string(key))
				if lost == 0 {
					whole++
				}
				worst = max(worst, lost)
			}
			putSegment(t, store, key, good)
		}
		t.Logf("encrypted %v: %d of %d files lost at worst", encrypted, worst, len(m.Files))
		if worst == 0 || worst > len(m.Files)*2/3 || whole == 0 && !encrypted {
			t.Errorf("encrypted %v: at worst %d of %d files lost; no loss in %d restores", encrypted, worst, len(m.Files), whole)
		}
	}
}

// What is damaged, cut short, too long, or gone costs only itself.
func TestDamagedSegments(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		r := openRepo
		if encrypted {
			r = encryptedRepo
		}
		store := mem.New()
		rp := r(t, store)
		rec := take(t, rp, fixture+"/data", t.TempDir())
		m := manifestOf(t, rp, rec)
		all := segments(t, store)
		key := slices.Sorted(maps.Keys(all))[0]
		for name, spoiled := range map[string]func([]byte) []byte{
			"garbage": func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) },
			"half":    func(b []byte) []byte { return b[:len(b)/2] },
			"cut":     func(b []byte) []byte { return b[:len(b)-10] },
			"longer":  func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 5000)...) },
			"empty":   func([]byte) []byte { return nil },
			"gone":    nil,
		} {
			t.Run(name, func(t *testing.T) {
				defer putSegment(t, store, key, all[key]) // for the next one
				if spoiled == nil {
					if err := store.Delete(t.Context(), key); err != nil {
						t.Fatal(err)
					}
				} else {
					putSegment(t, store, key, spoiled(all[key]))
				}
				dir := filepath.Join(t.TempDir(), "data")
				res := files(t, restore.Options{Repo: rp, Record: rec, To: dir})
				lost := holds(t, dir, m, res)
				if name == "longer" && lost > 0 || name == "garbage" && lost == 0 || name == "gone" && lost == 0 {
					t.Errorf("%d files lost", lost)
				}
				rep, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: rp, Record: rec})
				if err != nil || rep.OK() {
					t.Errorf("verify: %v, %+v", err, rep)
				}
				// Once it is whole again, a delta fills the gaps.
				putSegment(t, store, key, all[key])
				res = files(t, restore.Options{Repo: rp, Record: rec, To: dir, Delta: true})
				if holds(t, dir, m, res) > 0 || res.KeptFiles < int64(len(m.Files)-lost) {
					t.Errorf("the second restore: %+v", res)
				}
			})
		}
	}
}

// Of a lost shard what can be read is kept apart, each byte where it was.
func TestLostShardIsKeptApart(t *testing.T) {
	t.Parallel()
	store := mem.New()
	r := openRepo(t, store)
	rec := take(t, r, fixture+"/data", t.TempDir())
	m := manifestOf(t, r, rec)
	const path = "shards/00000000-7fffffff/attach.1795334389.couch"
	spoil(t, store, r, m, path)
	dir := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir})
	holds(t, dir, m, res)
	want, err := os.ReadFile(filepath.Join(fixture, "data", path))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, path+".damaged"))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	same := 0
	for i := range got {
		if got[i] == want[i] {
			same++
		} else if got[i] != 0 {
			t.Fatalf("byte %d is %d, neither right nor 0", i, got[i])
		}
	}
	if same == 0 || same == len(want) {
		t.Errorf("%d of %d bytes are right", same, len(want))
	}
	contains(t, res.Damaged, path+".damaged")
	contains(t, res.Notes, "--delta")
}

// A delta never takes what is right away, nor deletes what stands where something is lost.
func TestDeltaKeepsWhatTheRepositoryLost(t *testing.T) {
	t.Parallel()
	store := mem.New()
	r := openRepo(t, store)
	rec := take(t, r, fixture+"/data", t.TempDir())
	m := manifestOf(t, r, rec)
	dir := filepath.Join(t.TempDir(), "data")
	files(t, restore.Options{Repo: r, Record: rec, To: dir})
	for key := range segments(t, store) {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	o := restore.Options{Repo: r, Record: rec, To: dir, Delta: true}
	res := files(t, o)
	if !res.OK() || res.KeptFiles != int64(len(m.Files)) || len(res.Aside) > 0 {
		t.Errorf("all was right: %+v", res)
	}
	sameFiles(t, hashes(t, dir), wanted(t, r, rec))

	const shard = "shards/00000000-7fffffff/attach.1795334389.couch"
	for _, p := range []string{shard, "_dbs.couch"} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte("of another time"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // and again: nothing is overwritten
		res = files(t, o)
		if res.OK() || len(res.Lost) != 2 {
			t.Errorf("result: %+v", res)
		}
		for _, p := range []string{shard, "_dbs.couch"} {
			if info, err := os.Stat(filepath.Join(dir, p)); err != nil || !info.IsDir() {
				t.Errorf("%s: %v, %v", p, info, err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, p+".aside")); err != nil || string(b) != "of another time" {
				t.Errorf("%s: %q, %v", p, b, err)
			}
		}
	}
}

// Without the shard maps everything comes back, and databases can be chosen by the
// names of their files.
func TestLostShardMap(t *testing.T) {
	t.Parallel()
	store := mem.New()
	r := openRepo(t, store)
	rec := take(t, r, fixture+"/data", t.TempDir())
	m := manifestOf(t, r, rec)
	good := filepath.Join(t.TempDir(), "good")
	pick := []string{"parted", "viewed", "team/*", "eight"}
	files(t, restore.Options{Repo: r, Record: rec, To: good, Databases: pick, KeepSuffix: true})
	bare := copyFixture(t)
	if err := os.Remove(filepath.Join(bare, "_dbs.couch")); err != nil {
		t.Fatal(err)
	}
	r2 := openRepo(t, mem.New())
	rec2 := take(t, r2, bare, t.TempDir())
	spoil(t, store, r, m, "_dbs.couch")
	for name, x := range map[string]struct {
		repo *repo.Repo
		rec  *manifest.Record
	}{"not there": {r2, rec2}, "damaged": {r, rec}} {
		dir := filepath.Join(t.TempDir(), "out")
		res := files(t, restore.Options{Repo: x.repo, Record: x.rec, To: dir, Databases: pick, KeepSuffix: true})
		contains(t, res.Warnings, "from the names of the files")
		for _, db := range []string{"parted", "viewed", "eight", "team%2Fa%2Bb_%24%28c%29-d%2F2026"} {
			if got, want := mapOf(t, dir, db), mapOf(t, good, db); got != want && !slices.ContainsFunc(res.Problems, func(s string) bool { return strings.Contains(s, db) }) {
				t.Errorf("%s: %s:\n%s\nwant\n%s", name, db, got, want)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir})
	contains(t, res.Problems, "_dbs.couch can't be read back")
	if info, err := os.Stat(filepath.Join(dir, "_dbs.couch")); err != nil || !info.IsDir() {
		t.Errorf("_dbs.couch: %v, %v", info, err)
	}
	renamed := files(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "data"), NodeName: "other@127.0.0.1"})
	contains(t, renamed.Problems, "_dbs.couch can't be read back")
	contains(t, renamed.Problems, "the name other@127.0.0.1 was not written")
	if renamed.Files != res.Files || renamed.LostCount != res.LostCount {
		t.Errorf("with another name %d files came back and %d were lost, without it %d and %d", renamed.Files, renamed.LostCount, res.Files, res.LostCount)
	}
}

// mapOf returns a shard map document that was written, without what tells nothing of its
// shards.
func mapOf(t *testing.T, dir, db string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "shard-maps", db+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	b, err = json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
