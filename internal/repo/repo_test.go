package repo_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

const instance = "node1"

// fixture is a repository in memory with its key.
type fixture struct {
	store    *mem.Store
	identity *age.X25519Identity
	writer   ed25519.PrivateKey
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: mem.New(), identity: id, writer: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
	if _, err := repo.Init(t.Context(), f.store, repo.InitOptions{Recipients: []string{id.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) open(t *testing.T, store storage.Store) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Options{Identities: []age.Identity{f.identity}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text makes n bytes that compress about as data does.
func text(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rnd.IntN(20))
	}
	return b
}

// backup stores contents as one file in segments of its own, after the extents of
// base, and commits. It returns what stopped it.
func backup(ctx context.Context, r *repo.Repo, key ed25519.PrivateKey, base *manifest.Manifest, contents ...[]byte) (*manifest.Manifest, error) {
	id, err := manifest.NewID()
	if err != nil {
		return nil, err
	}
	return backupAt(ctx, r, key, id, time.Now().UTC(), base, contents...)
}

// backupAt is backup with an id and a stamp of its own.
func backupAt(ctx context.Context, r *repo.Repo, key ed25519.PrivateKey, id manifest.BackupID, started time.Time, base *manifest.Manifest, contents ...[]byte) (*manifest.Manifest, error) {
	lock, err := r.Lock(ctx, instance, "backup", id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Release(context.WithoutCancel(ctx)) }()
	f := &manifest.File{Root: manifest.DataRoot, Path: "shards/00000000-ffffffff/db.1795334390.couch", Kind: manifest.Shard}
	m := &manifest.Manifest{Format: 1, Summary: manifest.Summary{ID: id, Instance: instance, Name: "b", Type: manifest.Full, Status: manifest.Completed, Started: started}}
	if base != nil {
		m.Type, m.Parent, m.Segments = manifest.Incremental, base.ID, append(m.Segments, base.Segments...)
		f.Extents, f.Size = append(f.Extents, base.Files[0].Extents...), base.Files[0].Size
	}
	write, err := writeKey(ctx, r)
	if err != nil {
		return nil, err
	}
	var s repo.Sealed
	for n, b := range contents {
		if err := r.Seal(&s, write, id, n, b); err != nil {
			return nil, err
		}
		if err := r.PutSegment(ctx, instance, &s); err != nil {
			return nil, err
		}
		f.Extents = append(f.Extents, manifest.Extent{Seg: len(m.Segments), N: int64(len(b))})
		f.Size += int64(len(b))
		m.Segments = append(m.Segments, s.Segment)
	}
	f.SHA256 = strings.Repeat("00", 32)
	m.Files = []*manifest.File{f}
	_, err = r.Commit(ctx, lock, m, write, key)
	return m, err
}

// pins are what the tests' node keeps of the keys that it writes with, by
// repository.
var pins sync.Map

// writeKey returns the key of the instance, as its node does.
func writeKey(ctx context.Context, r *repo.Repo) (*repo.WriteKey, error) {
	pin, _ := pins.Load(r.Config().ID)
	opts := repo.KeyOptions{}
	opts.Pin, _ = pin.(*repo.KeyPin)
	k, err := r.WriteKey(ctx, instance, opts)
	if err == nil && k.Pin != nil {
		pins.Store(r.Config().ID, k.Pin)
	}
	return k, err
}

func mustBackup(t *testing.T, r *repo.Repo, key ed25519.PrivateKey, base *manifest.Manifest, contents ...[]byte) *manifest.Manifest {
	t.Helper()
	m, err := backup(t.Context(), r, key, base, contents...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// content streams the only file of a backup.
func content(t *testing.T, r *repo.Repo, id manifest.BackupID) []byte {
	t.Helper()
	rec, err := r.Find(t.Context(), instance, string(id))
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Manifest(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	err = r.NewReader(m, m.Files).Stream(t.Context(), m.Files[0], func(b []byte) error {
		out = append(out, b...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBackupAndRead(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	a, b, c := text(1, repo.SegmentSize), text(2, 300_001), text(3, 5)
	full := mustBackup(t, r, f.writer, nil, a, b)
	incr := mustBackup(t, r, f.writer, full, c)
	if got := content(t, r, full.ID); !bytes.Equal(got, append(append([]byte{}, a...), b...)) {
		t.Error("the full backup reads differently")
	}
	want := append(append(append([]byte{}, a...), b...), c...)
	if got := content(t, r, incr.ID); !bytes.Equal(got, want) {
		t.Error("the incremental reads differently")
	}
	rd := r.NewReader(incr, nil).ReaderAt(t.Context(), incr.Files[0])
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off, n := rnd.IntN(len(want)), 1+rnd.IntN(200_000)
		got := make([]byte, n)
		k, err := rd.ReadAt(got, int64(off))
		end := min(off+n, len(want))
		if k != end-off || (err == io.EOF) != (off+n > len(want)) || err != nil && err != io.EOF || !bytes.Equal(got[:k], want[off:end]) {
			t.Fatalf("ReadAt(%d bytes, %d) gave %d, %v", n, off, k, err)
		}
	}
}

// countReads counts bytes that Get hands out.
type countReads struct {
	storage.Store
	n int64
}

func (c *countReads) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	return c.Store.Get(ctx, key, off, n, func(r io.Reader) error {
		return fn(io.TeeReader(r, writerFunc(func(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil })))
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A 4 KiB read in a segment of 8 MiB must not read the segment.
func TestReadAtByRange(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, repo.SegmentSize))
	c := &countReads{Store: f.store}
	r := f.open(t, c)
	c.n = 0
	if _, err := r.NewReader(m, nil).ReaderAt(t.Context(), m.Files[0]).ReadAt(make([]byte, 4096), 5_000_000); err != nil {
		t.Fatal(err)
	}
	if c.n > 1<<20 {
		t.Errorf("4 KiB cost %d bytes of the storage", c.n)
	}
}

// A segment that was opened for a caller whose context ended serves the next one.
func TestReaderOutlivesAContext(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, text(1, 1<<20))
	rd := r.NewReader(m, nil)
	ctx, cancel := context.WithCancel(t.Context())
	b := make([]byte, 100)
	if _, err := rd.ReaderAt(ctx, m.Files[0]).ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := rd.ReaderAt(t.Context(), m.Files[0]).ReadAt(b, 900_000); err != nil {
		t.Error(err)
	}
	if _, err := rd.ReaderAt(ctx, m.Files[0]).ReadAt(b, 500_000); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

func TestKeys(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		opts repo.Options
		want error
	}{
		"no key":                         {repo.Options{}, repo.ErrNoKey},
		"wrong key":                      {repo.Options{Identities: []age.Identity{other}}, repo.ErrWrongKey},
		"no identity under a passphrase": {repo.Options{Passphrase: func() ([]string, error) { return []string{"x"}, nil }}, repo.ErrNoKey},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := repo.Open(t.Context(), f.store, test.opts)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := r.Find(t.Context(), "", repo.Latest) // listing needs no key
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Manifest(t.Context(), rec); !errors.Is(err, test.want) {
				t.Errorf("Manifest: got %v, want %v", err, test.want)
			}
			if _, err := r.ReadSegment(t.Context(), instance, m.Segments[0]); !errors.Is(err, test.want) {
				t.Errorf("ReadSegment: got %v, want %v", err, test.want)
			}
			mustBackup(t, r, f.writer, nil, text(2, 100)) // neither does writing
		})
	}
}

func TestPassphrase(t *testing.T) {
	store := mem.New()
	c, err := repo.Init(t.Context(), store, repo.InitOptions{Passphrase: "correct horse"})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Encrypted() || len(c.Recipients) != 1 {
		t.Fatalf("config %+v", c)
	}
	for pass, want := range map[string]error{"correct horse": nil, "wrong": repo.ErrWrongKey} {
		r, err := repo.Open(t.Context(), store, repo.Options{Passphrase: func() ([]string, error) { return []string{pass}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Unlock(t.Context()); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", pass, err, want)
		}
	}
}

func TestInitAndOpenRefuse(t *testing.T) {
	f := newFixture(t)
	if _, err := repo.Init(t.Context(), f.store, repo.InitOptions{}); !errors.Is(err, repo.ErrExists) {
		t.Errorf("second Init: %v", err)
	}
	if _, err := repo.Open(t.Context(), mem.New(), repo.Options{}); !errors.Is(err, repo.ErrNoRepository) {
		t.Errorf("Open of nothing: %v", err)
	}
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"newer format": {`{"format":2,"shiny":true}`, repo.ErrFormat},
		"not JSON":     {`{"format":`, repo.ErrCorrupt},
		"unknown key":  {`{"format":1,"id":"x","encryption":"none","recipients":[],"colour":1}`, repo.ErrCorrupt},
		"age, no keys": {`{"format":1,"id":"8f14e45f-ceea-467f-a6b6-ff2ac3d1a1c4","encryption":"age","recipients":[]}`, repo.ErrCorrupt},
		"id of a path": {`{"format":1,"id":"../x","encryption":"none","recipients":[]}`, repo.ErrCorrupt},
	} {
		store := mem.New()
		put(t, store, "slipcover.json", []byte(test.text))
		if _, err := repo.Open(t.Context(), store, repo.Options{}); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func put(t *testing.T, s storage.Store, key storage.Key, b []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s storage.Store, key storage.Key) []byte {
	t.Helper()
	var b []byte
	err := s.Get(t.Context(), key, 0, -1, func(r io.Reader) (err error) { b, err = io.ReadAll(r); return err })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objects lists all objects but locks and keys, with their hashes.
func objects(t *testing.T, s storage.Store) map[storage.Key]string {
	t.Helper()
	out := map[storage.Key]string{}
	err := s.List(t.Context(), "", func(i storage.Info) error {
		if !strings.HasPrefix(string(i.Key), "locks/") && !strings.HasPrefix(string(i.Key), "keys/") {
			sum := sha256.Sum256(get(t, s, i.Key))
			out[i.Key] = hex.EncodeToString(sum[:])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every single byte of a backup's objects, flipped, is noticed; so is an object
// cut short, missing, or in the place of another.
func TestDelete(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	before := objects(t, f.store)
	full := mustBackup(t, r, f.writer, nil, text(1, 1000), text(2, 1000))
	incr := mustBackup(t, r, f.writer, full, text(3, 1000))
	del := func(id manifest.BackupID) repo.Freed {
		lock, err := r.Lock(t.Context(), instance, "prune", "")
		if err != nil {
			t.Fatal(err)
		}
		freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{id}, Now: time.Now()})
		if err := errors.Join(err, lock.Release(t.Context())); err != nil {
			t.Fatal(err)
		}
		return freed
	}
	if freed := del(full.ID); freed.Segments != 0 || freed.Kept != 2 {
		t.Errorf("the parent's deletion freed %+v", freed)
	}
	if got := content(t, r, incr.ID); len(got) != 3000 {
		t.Errorf("the incremental has %d bytes after its parent's deletion", len(got))
	}
	if freed := del(incr.ID); freed.Segments != 3 {
		t.Errorf("the last deletion freed %+v", freed)
	}
	got := objects(t, f.store)
	maps.DeleteFunc(got, func(k storage.Key, _ string) bool {
		return strings.HasPrefix(string(k), "plans/") || strings.HasPrefix(string(k), "kept/"+instance) || strings.HasSuffix(string(k), "/record.jsonl") && len(get(t, f.store, k)) == 0
	})
	if len(got) != len(before) {
		t.Errorf("left behind: %v", got)
	}
}

func TestDeleteRefusesBesideADamagedRecord(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	first := mustBackup(t, r, f.writer, nil, text(1, 1000))
	second := mustBackup(t, r, f.writer, first, text(2, 1000))
	put(t, f.store, storage.Key("backups/"+instance+"/"+string(second.ID)+"/record.jsonl"), []byte("{}\n{}\n"))
	before := objects(t, f.store)
	lock, err := r.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{first.ID}, Now: time.Now()}); !errors.Is(err, repo.ErrSignature) {
		t.Errorf("got %v, want ErrSignature", err)
	}
	if got := objects(t, f.store); len(got) != len(before) {
		t.Error("something was deleted all the same")
	}
}

func TestLock(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	lock, err := r.Lock(t.Context(), instance, "backup", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Lock(t.Context(), instance, "backup", "")
	if !errors.Is(err, repo.ErrLocked) || !strings.Contains(err.Error(), "a backup runs on") {
		t.Errorf("second lock: %v", err)
	}
	if other, err := r.Lock(t.Context(), "node2", "backup", ""); err != nil {
		t.Errorf("another instance: %v", err)
	} else if err := other.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := r.Lock(t.Context(), instance, "backup", "")
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	// Somebody who took us for dead:
	put(t, f.store, "locks/"+instance+"/0000000003.json", []byte(`{"pid":1}`))
	if err := again.Check(t.Context()); !errors.Is(err, repo.ErrLockLost) {
		t.Errorf("replaced holder: %v", err)
	}
}

// Of a process that can't be looked at, on another host or on one of the same name
// that started another time, a lock counts until it showed no sign of life for the
// lease: by its own time, and then by the watch of who waits for it.
func TestLockOfAnotherHost(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		host   string
		age    time.Duration
		renews bool
		want   error
		waits  time.Duration
	}{
		"alive elsewhere":       {"elsewhere", time.Minute, false, repo.ErrLocked, 0},
		"same name, other boot": {host, time.Minute, false, repo.ErrLocked, 0},
		"silent elsewhere":      {"elsewhere", time.Hour, false, nil, 5 * time.Minute},
		"silent, same name":     {host, time.Hour, false, nil, 5 * time.Minute},
		"its clock is behind":   {"elsewhere", 24 * time.Hour, true, repo.ErrLocked, time.Minute},
		"its clock is ahead":    {"elsewhere", -24 * time.Hour, true, repo.ErrLocked, time.Minute},
		"silent, and ahead":     {"elsewhere", -24 * time.Hour, false, nil, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				r := f.open(t, f.store)
				began := time.Now()
				held := func() {
					info, err := json.Marshal(repo.LockInfo{Host: test.host, Boot: "another", PID: 1, Start: "1", Purpose: "backup", Renewed: time.Now().Add(-test.age)})
					if err != nil {
						t.Error(err)
					}
					put(t, f.store, "locks/"+instance+"/0000000001.json", info)
				}
				held()
				if test.renews {
					go func() {
						time.Sleep(time.Minute)
						held()
					}()
				}
				lock, err := r.Lock(t.Context(), instance, "backup", "")
				if !errors.Is(err, test.want) {
					t.Fatalf("got %v, want %v", err, test.want)
				}
				if took := time.Since(began); took < test.waits || took > test.waits+time.Minute {
					t.Errorf("took %v, want %v", took, test.waits)
				}
				if err == nil {
					if err := lock.Release(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

func TestLockIsTakenByOne(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	const n = 16
	got := make(chan error, n)
	for range n {
		go func() {
			_, err := r.Lock(context.Background(), instance, "backup", "")
			got <- err
		}()
	}
	won := 0
	for range n {
		switch err := <-got; {
		case err == nil:
			won++
		case !errors.Is(err, repo.ErrLocked):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d took the lock", won)
	}
}

// TestMain lets a test run this binary as a process that takes a lock and dies.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REPO_TEST_LOCK"); dir != "" {
		s, err := file.Open(dir)
		if err != nil {
			os.Exit(3)
		}
		r, err := repo.Open(context.Background(), s, repo.Options{})
		if err != nil {
			os.Exit(4)
		}
		if _, err := r.Lock(context.Background(), instance, "backup", ""); err != nil {
			os.Exit(5)
		}
		fmt.Println("locked")
		if os.Getenv("REPO_TEST_HOLD") != "" {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the test is done
		}
		os.Exit(0) // without releasing it
	}
	os.Exit(m.Run())
}

// Each single write of a backup and of a deletion fails once before and once
// after taking effect, and once the storage is gone from there on. Afterwards the
// repository opens, every listed backup reads whole, and the same step succeeds.
func TestEveryWriteFails(t *testing.T) {
	for name, act := range map[string]func(int) faulty.Plan{
		"before": func(n int) faulty.Plan { return faulty.At(n, faulty.Fail(faulty.Err)) },
		"after":  func(n int) faulty.Plan { return faulty.At(n, faulty.FailAfter(faulty.Err)) },
		"gone":   func(n int) faulty.Plan { return faulty.From(n, faulty.Fail(faulty.Err)) },
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				f := newFixture(t)
				first := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 1000))
				s := faulty.New(f.store, act(n))
				failed := steps(t, f.open(t, s), f, first)
				if !s.Reached() {
					if failed != nil {
						t.Errorf("no fault, but %v", failed)
					}
					if n < 10 {
						t.Errorf("only %d writes", n)
					}
					return
				}
				r := f.open(t, f.store)
				recs, bad, err := r.List(t.Context(), "")
				if err != nil || len(bad) > 0 {
					t.Fatalf("write %d: %v %v", n, err, bad)
				}
				for _, rec := range recs {
					content(t, r, rec.ID)
				}
				report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
				if err != nil || len(report.Problems) > 0 {
					t.Fatalf("write %d: check: %v %+v", n, err, report)
				}
				if err := steps(t, r, f, first); err != nil {
					t.Fatalf("write %d: afterwards: %v", n, err)
				}
			}
		})
	}
}

// steps makes an incremental backup and deletes its parent, if that is there.
func steps(t *testing.T, r *repo.Repo, f *fixture, first *manifest.Manifest) error {
	t.Helper()
	if _, err := r.Find(t.Context(), instance, string(first.ID)); errors.Is(err, repo.ErrNoBackup) {
		first = nil
	}
	if _, err := backup(t.Context(), r, f.writer, first, text(5, 1000), text(6, 1000)); err != nil {
		return err
	}
	if first == nil {
		return nil
	}
	lock, err := r.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		return err
	}
	_, err = r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{first.ID}, Now: time.Now()})
	if errors.Is(err, repo.ErrNoBackup) { // whoever took the lock first ended the deletion
		err = nil
	}
	return errors.Join(err, lock.Release(t.Context()))
}

func TestCheckFinds(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	m := mustBackup(t, r, f.writer, nil, text(1, 1000), text(2, 1000), text(3, 1000))
	key := func(n string) storage.Key {
		return storage.Key("segments/" + instance + "/" + string(m.ID) + "/00000" + n + ".zst.age")
	}
	put(t, f.store, key("0"), get(t, f.store, key("1")))
	put(t, f.store, key("1"), []byte("short"))
	if err := f.store.Delete(t.Context(), key("2")); err != nil {
		t.Fatal(err)
	}
	put(t, f.store, key("7"), []byte("nobody needs it"))
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range report.Problems {
		all = append(all, p.Object+" "+p.What)
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"1 segment is missing: ", "000001.zst.age has 5 bytes", "000000.zst.age its", "000001.zst.age its"} {
		if !strings.Contains(text, want) {
			t.Errorf("check didn't say %q:\n%s", want, text)
		}
	}
	if report.Unreferenced != 1 {
		t.Errorf("unreferenced: %d, want 1", report.Unreferenced)
	}
}

func TestFind(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	a := mustBackup(t, r, f.writer, nil, text(1, 10))
	b := mustBackup(t, r, f.writer, nil, text(2, 10))
	for ref, want := range map[string]manifest.BackupID{
		string(a.ID): a.ID, a.ID.Short(): a.ID, "latest": b.ID, "b": b.ID,
	} {
		rec, err := r.Find(t.Context(), "", ref)
		if err != nil || rec.ID != want {
			t.Errorf("Find(%q): %v", ref, err)
		}
	}
	if _, err := r.Find(t.Context(), "", "nosuch"); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("got %v", err)
	}
}
