package ship_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// oneShard is a node with one database of one shard.
func oneShard(t testing.TB) *env {
	t.Helper()
	data := t.TempDir()
	_, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 1, Q: 1, DocsPerDB: 60, DocBytes: 300})
	must(t, err)
	return newEnv(t, data)
}

func openRepo(t testing.TB, s storage.Store, ids ...age.Identity) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, repo.Options{Identities: ids})
	must(t, err)
	return r
}

// empty makes a repository.
func empty(t testing.TB, id *age.X25519Identity) storage.Store {
	t.Helper()
	s := mem.New()
	_, err := repo.Init(t.Context(), s, repo.InitOptions{Recipients: []string{id.Recipient().String()}})
	must(t, err)
	return s
}

// copyBackups copies the newest backups, all for 0.
func copyBackups(t testing.TB, dst, src *repo.Repo, last int, readers ...string) {
	t.Helper()
	recs, _, err := src.List(t.Context(), "node1")
	must(t, err)
	if last > 0 {
		recs = recs[len(recs)-last:]
	}
	for _, rec := range recs {
		_, err := repo.Copy(t.Context(), dst, src, rec, repo.CopyOptions{Readers: readers})
		must(t, err)
	}
}

// sound fails unless check finds nothing wrong in a repository, and it gives back all states up to a time from some on,
// which points must tell of.
func (e *env) sound(r *repo.Repo, states []kept, from, upTo time.Time) {
	e.t.Helper()
	report, err := r.Check(e.t.Context(), repo.CheckOptions{ReadData: true})
	must(e.t, err)
	if len(report.Problems) > 0 {
		e.t.Errorf("check finds %+v", report.Problems)
	}
	p, err := r.Points(e.t.Context(), "node1", nil)
	must(e.t, err)
	n := 0
	for i, k := range states {
		if k.at.Before(from) || k.at.After(upTo) {
			continue
		}
		if n++; i%3 > 0 && i < len(states)-1 {
			continue
		}
		if !e.has(r, k) {
			e.t.Errorf("state %d of %s isn't there", i, k.at)
		}
		if !slices.ContainsFunc(p.Windows, func(w repo.Window) bool {
			return w.Shipped && !k.at.Before(w.From) && !k.at.After(w.To.Add(11*time.Minute))
		}) {
			e.t.Errorf("points don't tell of state %d of %s: %+v", i, k.at, p.Windows)
		}
	}
	if n == 0 {
		e.t.Errorf("no state is from %s to %s", from, upTo)
	}
}

// A copy gives back what was shipped, byte for byte, when the source is gone; the next one sends what is new.
func TestCopyHasMoments(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	own := e.identity.(*age.X25519Identity)
	other, err := age.GenerateX25519Identity()
	must(t, err)
	states := e.shipHours(5, true)
	kinds := map[string]struct {
		id     *age.X25519Identity
		source *repo.Repo
		dst    storage.Store
	}{
		"with a key":       {own, e.repo(), empty(t, own)},
		"without a key":    {own, openRepo(t, e.store), empty(t, own)},
		"other recipients": {other, e.repo(), empty(t, other)},
	}
	last := map[string]repo.CopyShippedResult{}
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			dst, opts := openRepo(t, k.dst), repo.CopyShippedOptions{Readers: []string{other.Recipient().String()}}
			if res, err := repo.CopyShipped(t.Context(), dst, k.source, "node1", opts); err != nil || res.Sent > 0 {
				t.Fatalf("without any backup: %+v, %v", res, err)
			}
			copyBackups(t, dst, k.source, 0, opts.Readers...)
			res, err := repo.CopyShipped(t.Context(), dst, k.source, "node1", opts)
			must(t, err)
			if res.Sent+res.There < 5 || res.Sent < 3 || res.Left == 0 || res.UpTo == nil || states[len(states)-1].at.Sub(*res.UpTo) > 2*time.Hour+30*time.Minute {
				t.Fatalf("%+v, up to %s of %s", res, res.UpTo, states[len(states)-1].at)
			}
			t.Logf("%d objects of %d bytes, up to %s of %s, %d left", res.Sent, res.SentBytes, res.UpTo, states[len(states)-1].at, res.Left)
			x := &env{t: t}
			x.sound(openRepo(t, k.dst, k.id), states, states[0].at, *res.UpTo)
			again, err := repo.CopyShipped(t.Context(), dst, k.source, "node1", opts)
			must(t, err)
			if again.Sent > 0 || again.There != res.Sent+res.There || !again.UpTo.Equal(*res.UpTo) {
				t.Errorf("again: %+v", again)
			}
			last[name] = res
		})
	}
	states = append(states, e.shipHours(2, false)...)
	for name, k := range kinds {
		t.Run(name+", later", func(t *testing.T) {
			dst := openRepo(t, k.dst)
			copyBackups(t, dst, k.source, 0)
			res, err := repo.CopyShipped(t.Context(), dst, k.source, "node1", repo.CopyShippedOptions{Newer: true})
			must(t, err)
			if was := last[name]; res.Sent == 0 || res.SentBytes > 10*was.SentBytes || !res.UpTo.After(was.UpTo.Add(time.Hour)) {
				t.Errorf("%+v, and before %+v", res, was)
			}
			x := &env{t: t}
			x.sound(openRepo(t, k.dst, k.id), states, states[0].at, *res.UpTo)
		})
	}
	// Of a node that is gone nothing is left behind.
	late, err := repo.Open(t.Context(), e.store, repo.Options{Now: func() time.Time { return time.Now().Add(4 * time.Hour) }})
	must(t, err)
	dst := empty(t, own)
	copyBackups(t, openRepo(t, dst), late, 0)
	res, err := repo.CopyShipped(t.Context(), openRepo(t, dst), late, "node1", repo.CopyShippedOptions{})
	must(t, err)
	if res.Left > 0 {
		t.Errorf("%d objects stay behind of a node that is gone", res.Left)
	}
	x := &env{t: t}
	x.sound(openRepo(t, dst, own), states, states[0].at, states[len(states)-1].at)
}

// Whichever write of a copy is the last one: what points tell of is there, and the next copy goes on.
func TestCopyInterrupted(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	own := e.identity.(*age.X25519Identity)
	states := e.shipHours(5, true)
	src := openRepo(t, e.store)
	for n := 1; ; n++ {
		store := empty(t, own)
		copyBackups(t, openRepo(t, store), src, 0)
		s := faulty.New(store, faulty.From(n, faulty.Fail(faulty.Err)))
		first, err := repo.CopyShipped(t.Context(), openRepo(t, s), src, "node1", repo.CopyShippedOptions{})
		if !s.Reached() {
			must(t, err)
			if n < 6 { // lock, and at least four objects
				t.Errorf("only %d writes", n)
			}
			break
		}
		if !errors.Is(err, faulty.Err) {
			t.Fatalf("write %d: %v", n, err)
		}
		r := openRepo(t, store, own)
		p, err := r.Points(t.Context(), "node1", nil)
		must(t, err)
		told := 0
		for i, k := range states {
			inside := slices.ContainsFunc(p.Windows, func(w repo.Window) bool { return w.Shipped && !k.at.Before(w.From) && !k.at.After(w.To) })
			if inside {
				told++
			}
			if i%3 == 0 && inside && !e.has(r, k) {
				t.Errorf("write %d: points tell of state %d of %s, and it isn't there: %+v", n, i, k.at, p)
			}
		}
		t.Logf("write %d: %d objects sent, %d states of %d, %d gaps", n, first.Sent, told, len(states), len(p.Gaps))
		res, err := repo.CopyShipped(t.Context(), openRepo(t, store), src, "node1", repo.CopyShippedOptions{Newer: true})
		must(t, err)
		x := &env{t: t}
		x.sound(r, []kept{states[0], states[5], states[9], states[15]}, states[0].at, *res.UpTo)
	}
}

// A copy of the newest backups alone has the moments since the oldest of them, and prune there keeps that.
func TestCopyOfNewestBackups(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	own := e.identity.(*age.X25519Identity)
	states := slices.Concat(e.shipHours(4, false), e.shipHours(4, false))
	src, store := openRepo(t, e.store), empty(t, own)
	recs, _, err := src.List(t.Context(), "node1")
	must(t, err)
	copyBackups(t, openRepo(t, store), src, len(recs)-1)
	res, err := repo.CopyShipped(t.Context(), openRepo(t, store), src, "node1", repo.CopyShippedOptions{})
	must(t, err)
	all, err := src.Shipped(t.Context(), "node1")
	must(t, err)
	if res.Sent+res.Left >= len(all) {
		t.Errorf("all of %d objects were sent: %+v", len(all), res)
	}
	r := openRepo(t, store, own)
	x := &env{t: t}
	x.sound(r, states, recs[1].Finished, *res.UpTo)
	lock, err := r.Lock(t.Context(), "node1", "prune", "")
	must(t, err)
	if _, err := r.Prune(t.Context(), lock, repo.PruneOptions{Remove: []manifest.BackupID{recs[1].ID}, KeepMoments: time.Hour, Now: e.now()}); !errors.Is(err, repo.ErrMoments) {
		t.Errorf("the backup that moments rest on was removed: %v", err)
	}
	freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{KeepMoments: time.Hour, Now: e.now()})
	must(t, err)
	must(t, lock.End(t.Context()))
	if freed.Shipped > 0 {
		t.Errorf("%+v", freed)
	}
	x.sound(r, states, recs[1].Finished, *res.UpTo)
}

// What is deleted from the source while it is copied is left out; damage is told, and stops nothing.
func TestCopyBesideDeletion(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	own := e.identity.(*age.X25519Identity)
	states := e.shipHours(6, false)
	shipped := func(key storage.Key) bool { return strings.HasPrefix(string(key), "ship/") }
	all := objects(t, e.store)
	var keys []storage.Key
	for k := range all {
		if shipped(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	t.Run("expired", func(t *testing.T) {
		store, src := empty(t, own), mem.New()
		for k, b := range all {
			must(t, src.Put(t.Context(), k, strings.NewReader(string(b)), storage.PutOptions{}))
		}
		var once atomic.Bool
		from := faulty.New(src, func(op faulty.Op) faulty.Action {
			if op.Kind == faulty.Get && shipped(op.Key) && once.CompareAndSwap(false, true) {
				must(t, src.Delete(t.Context(), keys[0]))
			}
			return faulty.Action{}
		})
		copyBackups(t, openRepo(t, store), openRepo(t, from), 0)
		res, err := repo.CopyShipped(t.Context(), openRepo(t, store), openRepo(t, from), "node1", repo.CopyShippedOptions{})
		must(t, err)
		if _, err := store.Stat(t.Context(), keys[0]); !errors.Is(err, storage.ErrNotExist) || res.Sent == 0 || len(res.Problems) > 0 {
			t.Errorf("%v, %+v", err, res)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		store, src := empty(t, own), mem.New()
		for k, b := range all {
			if k == keys[2] {
				b = slices.Clone(b)
				b[len(b)/2] ^= 1
			}
			must(t, src.Put(t.Context(), k, strings.NewReader(string(b)), storage.PutOptions{}))
		}
		copyBackups(t, openRepo(t, store), openRepo(t, src, own), 0)
		res, err := repo.CopyShipped(t.Context(), openRepo(t, store), openRepo(t, src, own), "node1", repo.CopyShippedOptions{})
		if !errors.Is(err, repo.ErrCorrupt) || len(res.Problems) != 1 || !strings.Contains(res.Problems[0], string(keys[2])) || res.Sent < 3 {
			t.Errorf("%v, %+v", err, res)
		}
		// A sound source brings it.
		res, err = repo.CopyShipped(t.Context(), openRepo(t, store), openRepo(t, e.store, own), "node1", repo.CopyShippedOptions{})
		must(t, err)
		if res.Sent != 1 {
			t.Errorf("%+v", res)
		}
		x := &env{t: t}
		x.sound(openRepo(t, store, own), states, states[0].at, *res.UpTo)
	})
	t.Run("protected", func(t *testing.T) {
		store := mem.NewRetaining()
		for k, b := range objects(t, empty(t, own)) {
			must(t, store.Put(t.Context(), k, strings.NewReader(string(b)), storage.PutOptions{}))
		}
		dst, err := repo.Open(t.Context(), store, repo.Options{RetainUntil: time.Now().Add(time.Hour)})
		must(t, err)
		copyBackups(t, dst, openRepo(t, e.store), 0)
		_, err = repo.CopyShipped(t.Context(), dst, openRepo(t, e.store), "node1", repo.CopyShippedOptions{})
		must(t, err)
		if err := store.Delete(t.Context(), keys[0]); !errors.Is(err, storage.ErrRetained) {
			t.Errorf("what was copied is not protected: %v", err)
		}
	})
	t.Run("other bytes", func(t *testing.T) {
		store := empty(t, own)
		copyBackups(t, openRepo(t, store), openRepo(t, e.store), 0)
		must(t, store.Put(t.Context(), keys[1], strings.NewReader(fmt.Sprint(keys)), storage.PutOptions{}))
		res, err := repo.CopyShipped(t.Context(), openRepo(t, store), openRepo(t, e.store), "node1", repo.CopyShippedOptions{})
		if !errors.Is(err, repo.ErrCorrupt) || len(res.Problems) != 1 {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

// When moments expire, what backups refer to stays, here and in a copy that has nothing else of that time: nobody misses the rest.
func TestCheckAfterExpiry(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	own := e.identity.(*age.X25519Identity)
	e.backup()
	s := e.ship()
	for day := range 4 {
		for step := range 5 {
			size := 0
			for p, b := range e.files() {
				if strings.HasPrefix(p, "shards/") {
					size = len(b)
				}
			}
			if step%2 == 0 {
				_, _, err := couchgen.Grow(e.data, 2e6/float64(size), couchgen.GrowOptions{Seed: uint64(10*day + step), DocBytes: 20_000})
				must(t, err)
			} else {
				e.growBy(uint64(10*day+step), 0.02)
			}
			e.clock = e.clock.Add(70 * time.Minute)
			s.Settle(t.Context(), t)
		}
		e.clock = e.clock.Add(12 * time.Hour)
		e.backup()
		s.Settle(t.Context(), t)
	}
	r := e.repo()
	recs, _, err := r.List(t.Context(), "node1")
	must(t, err)
	named := 0
	for _, rec := range recs {
		named += len(rec.Shipped)
	}
	first := empty(t, own)
	copyBackups(t, openRepo(t, first), r, 1)
	_, err = repo.CopyShipped(t.Context(), openRepo(t, first), r, "node1", repo.CopyShippedOptions{})
	must(t, err)
	lock, err := r.Lock(t.Context(), "node1", "prune", "")
	must(t, err)
	freed, err := r.Prune(t.Context(), lock, repo.PruneOptions{KeepMoments: time.Hour, Now: e.now()})
	must(t, err)
	must(t, lock.End(t.Context()))
	if named == 0 || freed.Shipped == 0 {
		t.Fatalf("backups name %d objects, and %d expired", named, freed.Shipped)
	}
	second := empty(t, own)
	copyBackups(t, openRepo(t, second), r, 0)
	_, err = repo.CopyShipped(t.Context(), openRepo(t, second), r, "node1", repo.CopyShippedOptions{Newer: true})
	must(t, err)
	for name, store := range map[string]storage.Store{"source": e.store, "copy of the newest": first, "copy of all": second} {
		for _, x := range []*repo.Repo{openRepo(t, store), openRepo(t, store, own)} {
			report, err := x.Check(t.Context(), repo.CheckOptions{ReadData: true})
			must(t, err)
			if len(report.Problems) > 0 || report.Shipped == 0 {
				t.Errorf("%s: %+v", name, report)
			}
			t.Logf("%s: %d objects, %d moments", name, report.Shipped, report.Moments)
		}
	}
}
