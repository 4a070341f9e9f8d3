package ship_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
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

// object reads an object whole.
func (e *env) object(key storage.Key) (b []byte) {
	e.t.Helper()
	must(e.t, e.store.Get(e.t.Context(), key, 0, -1, func(rd io.Reader) (err error) { b, err = io.ReadAll(rd); return err }))
	return b
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
	p := &backup.Progress{}
	rec = e.backup(func(o *backup.Options) { o.Tails, o.Compaction, o.Progress = backup.Whole, backup.Whole, p })
	if of, done := p.Bytes(); of < appended || done != of { // what was shipped counts as done
		t.Errorf("%d of %d bytes are done, and %d were appended", done, of, appended)
	}
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
		must(t, os.WriteFile(path, e.object(key), 0o600))
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
	key := storage.Key(fmt.Sprintf("backups/node1/%s/record.jsonl", rec.ID)) // while it is lost, nobody knows what it names
	text := e.object(key)
	must(t, e.store.Delete(t.Context(), key))
	if freed := prune(); freed.Shipped > 0 || len(freed.Lost) != 1 || there() != len(rec.Shipped) {
		t.Errorf("with a lost backup: %+v, %d objects of %d", freed, there(), len(rec.Shipped))
	}
	must(t, e.store.Put(t.Context(), key, bytes.NewReader(text), storage.PutOptions{}))
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
	b := e.object(key)
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

// shard is the path of a shard that the node has.
func (e *env) shard() string {
	e.t.Helper()
	for _, p := range slices.Sorted(maps.Keys(e.files())) {
		if strings.HasPrefix(p, "shards/") {
			return filepath.Join(e.data, filepath.FromSlash(p))
		}
	}
	e.t.Fatal("no shard")
	return ""
}

// large is a node whose databases compress little.
func largeEnv(t *testing.T) *env {
	t.Helper()
	data := t.TempDir()
	_, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 2, Q: 1, DocsPerDB: 50, DocBytes: 30_000, Seed: 20})
	must(t, err)
	return newEnv(t, data)
}

// hours ships for some hours in which nothing is written.
func (e *env) hours(s *ship.Shipper, n int) {
	e.t.Helper()
	for range n {
		e.clock = e.clock.Add(65 * time.Minute)
		s.Settle(e.t.Context(), e.t)
	}
}

// While nobody ships a backup is made, and the file is set back to before that, and grows again to where it was: neither
// moments nor backups mix what was there before and what is there since, whether both have a header in the same place or not.
func TestSetBackBehindABackup(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{false, true} {
		e := largeEnv(t)
		e.backup()
		s := e.ship()
		e.growLarge(1, 0.3)
		e.clock = e.clock.Add(time.Minute)
		s.Settle(t.Context(), t)
		must(t, s.Close())
		path := e.shard()
		was, err := os.ReadFile(path)
		must(t, err)
		e.growLarge(2, 0.5)
		e.clock = e.clock.Add(time.Minute)
		p1 := e.backup()
		p1files := e.files()
		before, err := os.Stat(path)
		must(t, err)
		for seed := uint64(3); ; seed++ { // until the other history has a header there too
			must(t, os.Truncate(path, int64(len(was))))
			must(t, couchgen.GrowTo(path, before.Size(), couchgen.GrowOptions{Seed: seed, DocBytes: 30_000}))
			info, err := os.Stat(path)
			must(t, err)
			if !same || info.Size() == before.Size() {
				break
			}
			if seed > 40 {
				t.Skip("no other history has a header in the same place")
			}
		}
		e.clock = e.clock.Add(time.Minute)
		s = e.ship()
		s.Settle(t.Context(), t)
		states := []kept{{e.now(), e.files()}}
		e.hours(s, 2)
		e.growLarge(50, 0.5)
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
		e.hours(s, 2)
		e.growLarge(51, 0.01)
		s.Settle(t.Context(), t)
		must(t, s.Close())
		rec := e.backup()
		for i, k := range states {
			got, _ := e.moment(k.at)
			e.compare(fmt.Sprintf("same place %v, moment %d", same, i), got, k.files)
		}
		for rec, want := range map[*manifest.Record]map[string][]byte{p1: p1files, rec: e.files()} {
			m, err := e.repo().Manifest(t.Context(), rec)
			must(t, err)
			e.compare(fmt.Sprintf("same place %v, backup of %s", same, rec.Started), e.read(e.repo(), m), want)
		}
	}
}

// Damage of a file is told by the next backup, also where the damaged part was shipped; and a file that was set back goes on
// from what is right of it.
func TestTakeOverTellsDamage(t *testing.T) {
	t.Parallel()
	e := largeEnv(t)
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	path := e.shard()
	info, err := os.Stat(path)
	must(t, err)
	e.growLarge(0, 1.5)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damaged!"), info.Size()+(info.Size()*4/10))
	must(t, err)
	must(t, f.Close())
	s.Settle(t.Context(), t)
	must(t, s.Close()) // what is known of it stands in the journal
	s = e.ship()
	e.hours(s, 3)
	must(t, s.Close())
	o := backup.Options{Repo: e.repo(), Node: e.node(), Instance: "node1", StateDir: e.state, Name: "test", Tool: "test", Indexes: true, Now: e.now, Strict: true}
	if _, err := backup.Run(t.Context(), o); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("strictly: %v", err)
	}
	o.Strict = false
	res, err := backup.Run(t.Context(), o)
	must(t, err)
	if res.TakenOver == 0 || len(res.Damage) == 0 || !strings.HasSuffix(path, res.Damage[0].Path) {
		t.Errorf("%d bytes taken over, damage %v", res.TakenOver, res.Damage)
	}
}

// A file that was set back within what was shipped since goes on from what the backup before has.
func TestTakeOverOfASetBackFile(t *testing.T) {
	t.Parallel()
	e := largeEnv(t)
	e.backup()
	s := e.ship()
	path := e.shard()
	first, err := os.Stat(path)
	must(t, err)
	e.growLarge(0, 0.5)
	was, err := os.Stat(path)
	must(t, err)
	s.Settle(t.Context(), t)
	e.growLarge(1, 1.5)
	e.hours(s, 3)
	must(t, s.Close())
	must(t, os.Truncate(path, was.Size()))
	e.growLarge(3, 0.02)
	now, err := os.Stat(path)
	must(t, err)
	rec := e.backup(func(o *backup.Options) { o.Tails, o.Compaction = backup.Whole, backup.Whole })
	m, err := e.repo().Manifest(t.Context(), rec)
	must(t, err)
	for _, f := range m.Files {
		stored := int64(0)
		for x := range f.Stored() {
			if m.Segments[x.Seg].Backup == rec.ID {
				stored += x.N
			}
		}
		if strings.HasSuffix(path, f.Path) && stored > now.Size()-first.Size() {
			t.Errorf("%d bytes were stored of a file that has %d more than the backup before", stored, now.Size()-first.Size())
		}
	}
	e.compare("the backup", e.read(e.repo(), m), e.files())
}

// A machine was set back, and ships; a backup that is built on one of before that has nothing of the other history.
func TestTakeOverOnAnotherHistory(t *testing.T) {
	t.Parallel()
	e := largeEnv(t)
	e.backup()
	path, state := e.shard(), t.TempDir()+"/state"
	must(t, os.CopyFS(state, os.DirFS(e.state)))
	first, err := os.Stat(path)
	must(t, err)
	e.growLarge(1, 0.8)
	e.clock = e.clock.Add(time.Minute)
	p1 := e.backup()
	before, err := os.Stat(path)
	must(t, err)
	for seed := uint64(2); ; seed++ {
		must(t, os.Truncate(path, first.Size()))
		must(t, couchgen.GrowTo(path, before.Size(), couchgen.GrowOptions{Seed: seed, DocBytes: 30_000}))
		if now, err := os.Stat(path); err != nil || now.Size() == before.Size() {
			must(t, err)
			break
		}
		if seed > 40 {
			t.Skip("no other history has a header in the same place")
		}
	}
	must(t, os.RemoveAll(e.state))
	must(t, os.CopyFS(e.state, os.DirFS(state)))
	s := e.ship()
	s.Settle(t.Context(), t)
	e.hours(s, 2)
	e.growLarge(50, 1.5)
	s.Settle(t.Context(), t)
	e.hours(s, 2)
	must(t, s.Close())
	rec := e.backup(func(o *backup.Options) { o.Parent = string(p1.ID) })
	m, err := e.repo().Manifest(t.Context(), rec)
	must(t, err)
	e.compare("the backup", e.read(e.repo(), m), e.files())
}

// A database that is new since the backup before, and has to be proven, is taken over as well.
func TestTakeOverOfANewDatabase(t *testing.T) {
	t.Parallel()
	e := largeEnv(t)
	e.backup()
	s := e.ship()
	b, err := os.ReadFile(e.shard())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(e.shard()), "new.1767225699.couch"), b, 0o600))
	s.Settle(t.Context(), t)
	e.growLarge(1, 1.5)
	e.hours(s, 3)
	must(t, s.Close())
	e.clock = e.clock.Add(100 * time.Hour)
	rec := e.backup(func(o *backup.Options) { o.ProveInterval = time.Hour })
	if len(rec.Shipped) == 0 {
		t.Error("nothing was taken over")
	}
	m, err := e.repo().Manifest(t.Context(), rec)
	must(t, err)
	e.compare("the backup", e.read(e.repo(), m), e.files())
}
