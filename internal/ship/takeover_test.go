package ship_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// growLarge appends some megabytes to each shard of a node, that compress little.
func (e *env) growLarge(seed uint64, fraction float64) (bytes int64) {
	e.t.Helper()
	_, bytes, err := couchgen.Grow(e.data, fraction, couchgen.GrowOptions{Seed: seed, DocBytes: 30_000})
	must(e.t, err)
	return bytes
}

// takenOver ships for some hours, with a backup before and after, and returns the latter, and what was appended between
// the two.
func takenOver(t *testing.T) (e *env, rec *manifest.Record, states []kept, appended int64) {
	data := t.TempDir()
	_, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 2, Q: 1, DocsPerDB: 100, DocBytes: 30_000, Seed: 20})
	must(t, err)
	e = newEnv(t, data)
	e.backup()
	s := e.ship()
	e.clock = e.clock.Add(time.Minute)
	for i := range 20 {
		appended += e.growLarge(uint64(i), 0.1)
		if i == 13 {
			must(t, s.Close())
			s = e.ship()
		}
		e.clock = e.clock.Add(10 * time.Minute)
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
	}
	rec = e.backup(func(o *backup.Options) { o.Tails, o.Compaction = backup.Whole, backup.Whole })
	s.Settle(t.Context(), t)
	must(t, s.Close())
	return e, rec, states, appended
}

// A backup refers to what was shipped, and stores only what wasn't or is of the last hour.
func TestBackupTakesOver(t *testing.T) {
	t.Parallel()
	e, rec, states, appended := takenOver(t)
	t.Logf("%d bytes appended, %d read and %d stored by the backup, which refers to %d objects", appended, rec.ReadBytes, rec.StoredBytes, len(rec.Shipped))
	if len(rec.Shipped) == 0 || rec.Format != manifest.ShippedRecord || rec.ReadBytes > appended*2/5 || rec.AddedBytes > appended*2/5 {
		t.Errorf("%d bytes were appended, and the backup read %d and added %d, and names %d objects", appended, rec.ReadBytes, rec.AddedBytes, len(rec.Shipped))
	}
	r := e.repo()
	same := func(r *repo.Repo, rec *manifest.Record, want map[string][]byte) {
		t.Helper()
		m, err := r.Manifest(t.Context(), rec)
		must(t, err)
		e.compare("backup "+rec.Name, e.read(r, m), want)
	}
	first := e.files()
	same(r, rec, first)

	// The next one goes on from it, and keeps what it refers to.
	e.growLarge(100, 0.01)
	next := e.backup()
	if len(next.Shipped) != len(rec.Shipped) || next.Type != manifest.Incremental {
		t.Errorf("the next backup names %d objects, the one before %d", len(next.Shipped), len(rec.Shipped))
	}
	same(r, next, e.files())
	for i, k := range states {
		got, _ := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d", i), got, k.files)
	}
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	must(t, err)
	if len(report.Problems) > 0 {
		t.Errorf("check: %+v", report.Problems)
	}
	whole, err := r.Incomplete(t.Context(), "node1", []*manifest.Record{rec, next})
	must(t, err)
	if len(whole) > 0 {
		t.Errorf("incomplete: %v", whole)
	}

	e.byHand(next, "db-0000", 1)

	// A copy has it all, whether who copies can read it or not.
	for name, ids := range map[string][]age.Identity{"with a key": {e.identity}, "without": nil} {
		to := mem.New()
		_, err := repo.Init(t.Context(), to, repo.InitOptions{Recipients: []string{e.identity.(*age.X25519Identity).Recipient().String()}})
		must(t, err)
		src, err := repo.Open(t.Context(), e.store, repo.Options{Identities: ids})
		must(t, err)
		dst, err := repo.Open(t.Context(), to, repo.Options{Identities: ids})
		must(t, err)
		_, err = repo.Copy(t.Context(), dst, src, rec, repo.CopyOptions{})
		must(t, err)
		dst, err = repo.Open(t.Context(), to, repo.Options{Identities: []age.Identity{e.identity}})
		must(t, err)
		same(dst, rec, first)
		report, err := dst.Check(t.Context(), repo.CheckOptions{ReadData: true})
		must(t, err)
		for _, p := range report.Problems {
			if p.Backup != "" {
				t.Errorf("check of the copy %s: %+v", name, p)
			}
		}
	}
}

// byHand restores a database of the newest backup with stock tools, as the page says.
func (e *env) byHand(rec *manifest.Record, db string, shards int) {
	t := e.t
	t.Helper()
	for _, tool := range []string{"bash", "age", "zstd", "jq", "dd", "sha256sum", "python3"} {
		testenv.Tool(t, tool)
	}
	dir := t.TempDir()
	var keys []storage.Key
	must(t, e.store.List(t.Context(), "", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	for _, key := range keys {
		path := filepath.Join(dir, "repo", filepath.FromSlash(string(key)))
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, e.store.Get(t.Context(), key, 0, -1, func(rd io.Reader) error {
			b, err := io.ReadAll(rd)
			return errors.Join(err, os.WriteFile(path, b, 0o600))
		}))
	}
	must(t, os.WriteFile(dir+"/key.txt", fmt.Appendln(nil, e.identity), 0o600))
	printed := testenv.Shell(t, testenv.PageBlocks(t, "../../docs/restore-by-hand.md", "```sh"),
		"REPO="+dir+"/repo", "KEY="+dir+"/key.txt", "INSTANCE=node1", "DB="+db, "OUT="+dir+"/out", "REPLAY=../../docs/replay.py")
	if n := strings.Count(printed, ": OK"); n != 1+shards {
		t.Errorf("%d hashes were right:\n%s", n, printed)
	}
}

// Moments expire, and what backups refer to stays; it goes with them.
func TestPruneKeepsWhatBackupsName(t *testing.T) {
	t.Parallel()
	e, rec, _, _ := takenOver(t)
	s := e.ship()
	want := e.files()
	var later []manifest.BackupID
	for i := range 4 { // full ones, which name nothing of it
		e.clock = e.clock.Add(30 * time.Hour)
		e.growBy(uint64(200+i), 0.01)
		s.Settle(t.Context(), t)
		later = append(later, e.backup(func(o *backup.Options) { o.Full = true }).ID)
		e.clock = e.clock.Add(2 * time.Hour)
		e.growBy(uint64(300+i), 0.01)
		s.Settle(t.Context(), t)
	}
	r := e.repo()
	prune := func(remove ...manifest.BackupID) repo.Freed {
		t.Helper()
		lock, err := r.Lock(t.Context(), "node1", "prune", "")
		must(t, err)
		freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: remove, KeepMoments: time.Hour, Now: e.now()})
		must(t, err)
		must(t, lock.End(t.Context()))
		return freed
	}
	there := func() (n int) {
		for _, name := range rec.Shipped {
			if _, err := e.store.Stat(t.Context(), storage.Key("ship/node1/"+name+".zst.age")); err == nil {
				n++
			}
		}
		return n
	}
	if freed := prune(); freed.Shipped == 0 || there() != len(rec.Shipped) {
		t.Errorf("%+v, and %d objects of %d that the backup names are left", freed, there(), len(rec.Shipped))
	}
	m, err := r.Manifest(t.Context(), rec)
	must(t, err)
	e.compare("the backup", e.read(r, m), want)
	got, moment := e.moment(rec.Finished.Add(time.Hour)) // its moments have expired
	if moment.Base.ID != rec.ID || moment.Tick != 0 {
		t.Errorf("an hour after the backup there is tick %d on %s", moment.Tick, moment.Base.ID)
	}
	e.compare("an hour later", got, want)
	points, err := r.Points(t.Context(), "node1", nil)
	must(t, err)
	for _, g := range points.Gaps {
		if g.From.Before(rec.Finished.Add(time.Hour)) {
			t.Errorf("a gap from %s on where moments have expired: %s", g.From, g.Why)
		}
	}
	report, err := r.Check(t.Context(), repo.CheckOptions{})
	must(t, err)
	if len(report.Problems) > 0 {
		t.Errorf("check: %+v", report.Problems)
	}
	prune(rec.ID)
	if n := there(); n != 0 {
		t.Errorf("%d objects of %d are left that only the deleted backup named", n, len(rec.Shipped))
	}
	last, err := r.Record(t.Context(), "node1", later[len(later)-1])
	must(t, err)
	if _, err := r.Manifest(t.Context(), last); err != nil {
		t.Error(err)
	}
}

// Damage of an object of a chain, or its loss, is a fault of each backup that names it; and no backup is built on it.
func TestDamageOfWhatBackupsName(t *testing.T) {
	t.Parallel()
	e, rec, _, _ := takenOver(t)
	key := storage.Key("ship/node1/" + rec.Shipped[len(rec.Shipped)-1] + ".zst.age")
	var b []byte
	must(t, e.store.Get(t.Context(), key, 0, -1, func(rd io.Reader) (err error) { b, err = io.ReadAll(rd); return err }))
	problems := func(o repo.CheckOptions, ids ...age.Identity) (out []string) {
		r, err := repo.Open(t.Context(), e.store, repo.Options{Identities: ids})
		must(t, err)
		report, err := r.Check(t.Context(), o)
		must(t, err)
		for _, p := range report.Problems {
			out = append(out, fmt.Sprintf("%s %s %s", p.Backup, p.Object, p.What))
		}
		return out
	}
	damaged := bytes.Clone(b)
	damaged[len(b)/2] ^= 1
	must(t, e.store.Put(t.Context(), key, bytes.NewReader(damaged), storage.PutOptions{}))
	for name, ids := range map[string][]age.Identity{"with a key": {e.identity}, "without": nil} {
		if got := problems(repo.CheckOptions{ReadData: true}, ids...); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), "recorded hash") {
			t.Errorf("damaged, %s: %q", name, got)
		}
	}
	must(t, e.store.Delete(t.Context(), key))
	for name, ids := range map[string][]age.Identity{"with a key": {e.identity}, "without": nil} {
		if got := problems(repo.CheckOptions{}, ids...); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), "1 segment is missing") {
			t.Errorf("gone, %s: %q", name, got)
		}
	}
	next := e.backup()
	r := e.repo()
	m, err := r.Manifest(t.Context(), next)
	must(t, err)
	e.compare("the next backup", e.read(r, m), e.files())
}
