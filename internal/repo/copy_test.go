package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// sibling returns a repository that f's identity reads, without a backup.
func (f *fixture) sibling(t *testing.T) *fixture {
	t.Helper()
	s := &fixture{store: mem.New(), identity: f.identity, writer: f.writer}
	if _, err := repo.Init(t.Context(), s.store, repo.InitOptions{Recipients: []string{f.identity.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	return s
}

// openWith opens store with identities, or without any.
func openWith(t *testing.T, store storage.Store, ids ...age.Identity) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Options{Identities: ids})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func record(t *testing.T, r *repo.Repo, id manifest.BackupID) *manifest.Record {
	t.Helper()
	rec, err := r.Record(t.Context(), instance, id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func mustCopy(t *testing.T, dst, src *repo.Repo, id manifest.BackupID, opts repo.CopyOptions) repo.CopyResult {
	t.Helper()
	res, err := repo.Copy(t.Context(), dst, src, record(t, src, id), opts)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func object(t *testing.T, s storage.Store, key storage.Key) string {
	t.Helper()
	var b []byte
	err := s.Get(t.Context(), key, 0, -1, func(rd io.Reader) (err error) {
		b, err = io.ReadAll(rd)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func recordKey(id manifest.BackupID) storage.Key {
	return storage.Key("backups/" + instance + "/" + string(id) + "/record.jsonl")
}

// sound fails unless check finds nothing wrong, reading all data, and each of ids
// has the content that it has in want.
func sound(t *testing.T, r *repo.Repo, want map[manifest.BackupID][]byte) {
	t.Helper()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("check: %v %+v", err, report)
	}
	recs, bad, err := r.List(t.Context(), "")
	if err != nil || len(bad) > 0 || len(recs) != len(want) {
		t.Fatalf("%d backups, not %d: %v %v", len(recs), len(want), bad, err)
	}
	for id, b := range want {
		if !bytes.Equal(content(t, r, id), b) {
			t.Errorf("%s has other content", id)
		}
	}
}

func TestCopy(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	a, b, c := text(1, 200_000), text(2, 300_000), text(3, 10_000)
	first := mustBackup(t, src, f.writer, nil, a, b)
	second := mustBackup(t, src, f.writer, first, c)
	all := map[manifest.BackupID][]byte{first.ID: slices.Concat(a, b), second.ID: slices.Concat(a, b, c)}
	for name, ids := range map[string][]age.Identity{"with a key": {f.identity}, "without a key": nil} {
		t.Run(name, func(t *testing.T) {
			g := f.sibling(t)
			from, to := openWith(t, f.store, ids...), openWith(t, g.store)
			var p repo.CopyProgress
			if res := mustCopy(t, to, from, first.ID, repo.CopyOptions{Progress: &p}); res.Sent != 2 || res.There != 0 || res.Already || res.SentBytes != first.Segments[0].Size+first.Segments[1].Size {
				t.Errorf("first: %+v", res)
			}
			if res := mustCopy(t, to, from, second.ID, repo.CopyOptions{Progress: &p}); res.Sent != 1 || res.There != 2 {
				t.Errorf("second: %+v", res)
			}
			if p.Bytes.Load() != p.Done.Load() || p.Done.Load() <= p.Sent.Load() {
				t.Errorf("progress %d of %d, %d sent", p.Done.Load(), p.Bytes.Load(), p.Sent.Load())
			}
			if res := mustCopy(t, to, from, second.ID, repo.CopyOptions{}); !res.Already || res.Sent != 0 {
				t.Errorf("again: %+v", res)
			}
			if object(t, g.store, recordKey(second.ID)) != object(t, f.store, recordKey(second.ID)) {
				t.Error("the record is not as it was")
			}
			sound(t, g.open(t, g.store), all)
		})
	}
	t.Run("only the second", func(t *testing.T) {
		g := f.sibling(t)
		if res := mustCopy(t, openWith(t, g.store), openWith(t, f.store), second.ID, repo.CopyOptions{}); res.Sent != 3 {
			t.Errorf("%+v", res)
		}
		sound(t, g.open(t, g.store), map[manifest.BackupID][]byte{second.ID: all[second.ID]})
	})
}

func TestCopyWithoutEncryption(t *testing.T) {
	from, to := mem.New(), mem.New()
	for _, s := range []storage.Store{from, to} {
		if _, err := repo.Init(t.Context(), s, repo.InitOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f := newFixture(t)
	src, dst := openWith(t, from), openWith(t, to)
	m := mustBackup(t, src, f.writer, nil, text(1, 1000))
	mustCopy(t, dst, src, m.ID, repo.CopyOptions{})
	sound(t, dst, map[manifest.BackupID][]byte{m.ID: text(1, 1000)})
}

func TestCopyForOtherRecipients(t *testing.T) {
	f, g := newFixture(t), newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 1000))
	rec := record(t, src, m.ID)
	readers := repo.CopyOptions{Readers: []string{g.identity.Recipient().String()}}
	refused := []struct {
		name string
		ids  []age.Identity
		opts repo.CopyOptions
		want error
	}{
		{"no key", nil, readers, repo.ErrNoKey},
		{"a wrong key", []age.Identity{g.identity}, readers, repo.ErrWrongKey},
		{"readers not named", []age.Identity{f.identity}, repo.CopyOptions{}, repo.ErrRecipients},
	}
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			if _, err := repo.Copy(t.Context(), openWith(t, g.store), openWith(t, f.store, c.ids...), rec, c.opts); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			sound(t, g.open(t, g.store), nil)
		})
	}
	mustCopy(t, openWith(t, g.store), src, m.ID, readers)
	sound(t, g.open(t, g.store), map[manifest.BackupID][]byte{m.ID: text(1, 1000)})
	// With the key there, later ones need none.
	next := mustBackup(t, src, f.writer, m, text(2, 1000))
	mustCopy(t, openWith(t, g.store), openWith(t, f.store), next.ID, repo.CopyOptions{})
	sound(t, g.open(t, g.store), map[manifest.BackupID][]byte{m.ID: text(1, 1000), next.ID: slices.Concat(text(1, 1000), text(2, 1000))})
	if _, err := openWith(t, g.store, f.identity).Manifest(t.Context(), rec); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("a recipient of the source alone reads the copy: %v", err)
	}
}

// What the first versions encrypted to the recipients themselves goes to a
// repository with the same ones, and to no other.
func TestCopyOldRepository(t *testing.T) {
	const dir = "../../testdata/repository-1"
	key, err := os.ReadFile(dir + "/identity.txt")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(key))
	if err != nil {
		t.Fatal(err)
	}
	store, err := file.Open(dir + "/repository")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	src := openWith(t, store, ids...)
	recs, _, err := src.List(t.Context(), "")
	if err != nil || len(recs) == 0 {
		t.Fatal(recs, err)
	}
	same, other := mem.New(), newFixture(t)
	if _, err := repo.Init(t.Context(), same, repo.InitOptions{Recipients: src.Config().Recipients}); err != nil {
		t.Fatal(err)
	}
	dst := openWith(t, same, ids...)
	for _, rec := range recs {
		if _, err := repo.Copy(t.Context(), dst, src, rec, repo.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	report, err := dst.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 || report.Backups != len(recs) {
		t.Errorf("check: %v %+v", err, report)
	}
	opts := repo.CopyOptions{Readers: []string{other.identity.Recipient().String()}}
	if _, err := repo.Copy(t.Context(), openWith(t, other.store), src, recs[0], opts); !errors.Is(err, repo.ErrDirect) {
		t.Errorf("other recipients: %v", err)
	}
	if _, err := repo.Copy(t.Context(), openWith(t, other.store), openWith(t, store), recs[0], opts); !errors.Is(err, repo.ErrDirect) {
		t.Errorf("other recipients, without a key: %v", err)
	}
}

// A backup that is older than the keys of its instance may need the recipients
// themselves, which can't be told without a key.
func TestCopyOfABackupBeforeTheKeys(t *testing.T) {
	f, g := newFixture(t), newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 1000))
	opts := repo.CopyOptions{Readers: []string{g.identity.Recipient().String()}}
	if err := openWith(t, g.store).CopyKeys(t.Context(), src, instance, opts.Readers); err != nil {
		t.Fatal(err)
	}
	later := &aged{f.store}
	if _, err := repo.Copy(t.Context(), openWith(t, g.store), openWith(t, later), record(t, src, m.ID), opts); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("got %v", err)
	}
	mustCopy(t, openWith(t, g.store), openWith(t, later, f.identity), m.ID, opts)
	sound(t, g.open(t, g.store), map[manifest.BackupID][]byte{m.ID: text(1, 1000)})
}

// aged is a storage whose keys were stored a day later.
type aged struct{ storage.Store }

func (s *aged) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.Store.List(ctx, prefix, func(i storage.Info) error {
		if strings.HasPrefix(string(i.Key), "keys/") {
			i.Modified = i.Modified.Add(24 * time.Hour)
		}
		return fn(i)
	})
}

func TestCopyRefuses(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 1000))
	plain := mem.New()
	if _, err := repo.Init(t.Context(), plain, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Copy(t.Context(), openWith(t, plain), src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrMixed) {
		t.Errorf("without encryption: %v", err)
	}
	if _, err := repo.Copy(t.Context(), openWith(t, f.store), src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrSame) {
		t.Errorf("the same: %v", err)
	}
	g := f.sibling(t)
	dst := openWith(t, g.store)
	lock, err := dst.Lock(t.Context(), instance, "prune", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Copy(t.Context(), dst, src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustCopy(t, dst, src, m.ID, repo.CopyOptions{})
	// Another record in its place is not taken for the copy.
	text := strings.Replace(object(t, g.store, recordKey(m.ID)), `"b"`, `"c"`, 1)
	if err := g.store.Put(t.Context(), recordKey(m.ID), strings.NewReader(text), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Copy(t.Context(), dst, src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("another record: %v", err)
	}
}

// Each single write of a copy fails once before and once after taking effect, and
// once the storage is gone from there on, as if the copy had been killed.
// Afterwards the backup is in the destination whole or not at all, and the same
// copy succeeds and sends only what isn't there.
func TestCopyEveryWriteFails(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	parts := [][]byte{text(1, 5000), text(2, 6000), text(3, 7000)}
	m := mustBackup(t, src, f.writer, nil, parts...)
	want := map[manifest.BackupID][]byte{m.ID: slices.Concat(parts...)}
	for name, act := range map[string]func(int) faulty.Plan{
		"before": func(n int) faulty.Plan { return faulty.At(n, faulty.Fail(faulty.Err)) },
		"after":  func(n int) faulty.Plan { return faulty.At(n, faulty.FailAfter(faulty.Err)) },
		"gone":   func(n int) faulty.Plan { return faulty.From(n, faulty.Fail(faulty.Err)) },
		"full":   func(n int) faulty.Plan { return faulty.From(n, faulty.Fail(storage.ErrFull)) },
	} {
		t.Run(name, func(t *testing.T) {
			fences := 0
			for n := 1; ; n++ {
				g := f.sibling(t)
				s := faulty.New(g.store, act(n))
				_, err := repo.Copy(t.Context(), openWith(t, s), src, record(t, src, m.ID), repo.CopyOptions{})
				if !s.Reached() {
					if err != nil {
						t.Errorf("no fault, but %v", err)
					}
					if n < 7 { // lock, key, segments, manifest, record
						t.Errorf("only %d writes", n)
					}
					break
				}
				if !errors.Is(err, faulty.Err) && !errors.Is(err, storage.ErrFull) {
					t.Fatalf("write %d: %v", n, err)
				}
				listed, _, err := openWith(t, g.store).List(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				if len(listed) > 0 {
					sound(t, g.open(t, g.store), want)
				} else {
					sound(t, g.open(t, g.store), nil)
				}
				there, err := openWith(t, g.store).Segments(t.Context(), instance)
				if err != nil {
					t.Fatal(err)
				}
				again := faulty.New(g.store, func(op faulty.Op) faulty.Action {
					if op.Kind == faulty.Delete && op.Key == recordKey(m.ID) {
						fences++
					}
					return faulty.Action{}
				})
				res := mustCopy(t, openWith(t, again), src, m.ID, repo.CopyOptions{})
				if !res.Already && (res.There != len(there) || res.Sent != len(parts)-len(there)) {
					t.Errorf("write %d: %d segments were there: %+v", n, len(there), res)
				}
				sound(t, g.open(t, g.store), want)
			}
			if name == "gone" && fences == 0 {
				t.Error("no copy was given up")
			}
		})
	}
}

// A source that gives other bytes than were stored leaves no backup behind.
func TestCopyOfWrongBytes(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 5000), text(2, 5000))
	rec := record(t, f.open(t, f.store), m.ID)
	cases := []struct {
		name, prefix string
		act          faulty.Action
		ids          []age.Identity
	}{
		{"segment, with a key", "segments/", faulty.WrongBytes(100), []age.Identity{f.identity}},
		{"shorter segment, with a key", "segments/", faulty.Cut(100, io.EOF), []age.Identity{f.identity}},
		{"shorter segment", "segments/", faulty.Cut(100, io.EOF), nil},
		{"manifest", "backups/" + instance + "/" + string(m.ID) + "/manifest", faulty.WrongBytes(100), nil},
		{"record", string(recordKey(m.ID)), faulty.WrongBytes(10), nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := f.sibling(t)
			bad := faulty.New(f.store, func(op faulty.Op) faulty.Action {
				if op.Kind == faulty.Get && strings.HasPrefix(string(op.Key), c.prefix) {
					return c.act
				}
				return faulty.Action{}
			})
			_, err := repo.Copy(t.Context(), openWith(t, g.store), openWith(t, bad, c.ids...), rec, repo.CopyOptions{})
			if !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrSignature) {
				t.Errorf("got %v", err)
			}
			if !bad.Reached() {
				t.Error("nothing wrong was read")
			}
			sound(t, g.open(t, g.store), nil)
		})
	}
}

// A segment of another size in the destination is told, not built on.
func TestCopyUponAnotherSegment(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 5000))
	g := f.sibling(t)
	key := storage.Key("segments/" + instance + "/" + string(m.ID) + "/000000.zst.age")
	if err := g.store.Put(t.Context(), key, strings.NewReader("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Copy(t.Context(), openWith(t, g.store), src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), "has 1 bytes") {
		t.Errorf("got %v", err)
	}
}

// hook returns store with do run before the calls of a kind whose key has that
// beginning, once.
func hook(store storage.Store, kind faulty.Kind, prefix string, do func() error) *faulty.Store {
	done := false
	return faulty.New(store, func(op faulty.Op) faulty.Action {
		if done || op.Kind != kind || !strings.HasPrefix(string(op.Key), prefix) {
			return faulty.Action{}
		}
		done = true
		return faulty.Action{Before: do}
	})
}

func TestCopyOfABackupThatIsDeleted(t *testing.T) {
	for _, key := range []string{"with a key", "without a key"} {
		for _, at := range []string{"segments/", "backups/" + instance + "/"} {
			t.Run(key+" "+at, func(t *testing.T) {
				f := newFixture(t)
				var ids []age.Identity
				if key == "with a key" {
					ids = append(ids, f.identity)
				}
				m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 5000), text(2, 5000))
				rec := record(t, f.open(t, f.store), m.ID)
				deleted := hook(f.store, faulty.Get, at, func() error {
					r := openWith(t, f.store)
					lock, err := r.Lock(t.Context(), instance, "prune", "")
					if err != nil {
						return err
					}
					_, err = r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{m.ID}, Now: time.Now()})
					return errors.Join(err, lock.Release(t.Context()))
				})
				g := f.sibling(t)
				if _, err := repo.Copy(t.Context(), openWith(t, g.store), openWith(t, deleted, ids...), rec, repo.CopyOptions{}); !errors.Is(err, repo.ErrNoBackup) {
					t.Errorf("got %v", err)
				}
				if !deleted.Reached() {
					t.Error("it wasn't deleted")
				}
				sound(t, g.open(t, g.store), nil)
			})
		}
	}
}

// A copy that another process has taken for dead shows no backup any more.
func TestCopyWhoseLockIsLost(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 5000))
	put := func(s storage.Store, key storage.Key) error {
		return s.Put(t.Context(), key, strings.NewReader(""), storage.PutOptions{IfAbsent: true})
	}
	for name, prefix := range map[string]string{"before the look at the lock": string("backups/" + instance + "/" + string(m.ID) + "/manifest"), "after it": string(recordKey(m.ID))} {
		t.Run(name, func(t *testing.T) {
			g := f.sibling(t)
			taken := hook(g.store, faulty.Put, prefix, func() error { // as Lock.settle does
				return errors.Join(put(g.store, "locks/"+instance+"/0000000002.json"), put(g.store, recordKey(m.ID)))
			})
			if _, err := repo.Copy(t.Context(), openWith(t, taken), src, record(t, src, m.ID), repo.CopyOptions{}); !errors.Is(err, repo.ErrLockLost) {
				t.Errorf("got %v", err)
			}
			if got := object(t, g.store, recordKey(m.ID)); got != "" {
				t.Errorf("the record is %q", got)
			}
		})
	}
}

// Where the storage can, all that the copy needs is protected, what was there too.
func TestCopyProtects(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	first := mustBackup(t, src, f.writer, nil, text(1, 5000))
	second := mustBackup(t, src, f.writer, first, text(2, 5000))
	store := mem.NewRetaining()
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{Recipients: src.Config().Recipients}); err != nil {
		t.Fatal(err)
	}
	mustCopy(t, openWith(t, store), src, first.ID, repo.CopyOptions{})
	dst, err := repo.Open(t.Context(), store, repo.Options{RetainUntil: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	mustCopy(t, dst, src, second.ID, repo.CopyOptions{})
	manifestKey := storage.Key("backups/" + instance + "/" + string(second.ID) + "/manifest.json.zst.age")
	keys := []storage.Key{recordKey(second.ID), manifestKey}
	for _, s := range second.Segments {
		keys = append(keys, storage.Key("segments/"+instance+"/"+string(s.Backup)+"/000000.zst.age"))
	}
	for _, key := range keys {
		if err := store.Delete(t.Context(), key); !errors.Is(err, storage.ErrRetained) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPinKey(t *testing.T) {
	f := newFixture(t)
	src := f.open(t, f.store)
	m := mustBackup(t, src, f.writer, nil, text(1, 5000))
	g := f.sibling(t)
	dst := openWith(t, g.store)
	stored, _ := pins.Load(src.Config().ID)
	pin := stored.(*repo.KeyPin)
	if _, err := dst.PinKey(t.Context(), instance, pin.InstanceRecipient); !errors.Is(err, repo.ErrKeyGone) {
		t.Errorf("before: %v", err)
	}
	mustCopy(t, dst, src, m.ID, repo.CopyOptions{})
	got, err := dst.PinKey(t.Context(), instance, pin.InstanceRecipient)
	if err != nil {
		t.Fatal(err)
	}
	// With it the instance goes on in the copy.
	k, err := dst.WriteKey(t.Context(), instance, repo.KeyOptions{Pin: got})
	if err != nil || k.New || k.Full != "" || len(k.Notes) > 0 {
		t.Errorf("%+v %v", k, err)
	}
	if !slices.Equal(slices.Sorted(slices.Values(got.Recipients)), slices.Sorted(slices.Values(dst.Config().Recipients))) {
		t.Errorf("pin %+v", got)
	}
}
