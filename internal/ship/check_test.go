package ship_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// shipHours makes some hours of shipping with two backups in them, and maybe a write that is so large that it has parts. It
// returns the states.
func (e *env) shipHours(hours int, large bool) (states []kept) {
	e.t.Helper()
	shard := ""
	for p := range e.files() {
		if strings.HasPrefix(p, "shards/") && (shard == "" || p < shard) {
			shard = p
		}
	}
	shard = filepath.Join(e.data, shard)
	s, err := ship.Open(e.t.Context(), e.options())
	if errors.Is(err, ship.ErrNoBase) {
		e.backup()
		s, err = ship.Open(e.t.Context(), e.options())
	} else if err == nil {
		e.backup() // the chain goes on
	}
	must(e.t, err)
	for i := range hours * 6 {
		must(e.t, couchgen.GrowShard(shard, uint64(100+i)))
		if i == 6 && large {
			_, _, err := couchgen.Grow(e.data, 150, couchgen.GrowOptions{Seed: 7, DocBytes: 20_000})
			must(e.t, err)
		}
		e.ticking.Lock()
		e.clock = e.clock.Add(10 * time.Minute)
		e.ticking.Unlock()
		s.Settle(e.t.Context(), e.t)
		states = append(states, kept{e.now(), e.files()})
		if i == hours*3 {
			e.backup()
			s.Settle(e.t.Context(), e.t)
		}
	}
	must(e.t, s.Close())
	return states
}

// has reports whether a repository gives a state back, byte for byte.
func (e *env) has(r *repo.Repo, k kept) bool {
	m, _, err := r.At(e.t.Context(), "node1", k.at)
	if err != nil {
		return false
	}
	rd := r.NewReader(m, m.Files)
	defer rd.Close()
	n := 0
	for _, f := range m.Files {
		if f.Root != manifest.DataRoot || f.Kind == manifest.View {
			continue
		}
		n++
		var b bytes.Buffer
		err := rd.Stream(e.t.Context(), f, func(p []byte) error { b.Write(p); return nil })
		if err != nil || !bytes.Equal(b.Bytes(), k.files[f.Path]) {
			return false
		}
	}
	return n == len(k.files)
}

// objects are the contents of a storage.
func objects(t testing.TB, s storage.Store) map[storage.Key][]byte {
	t.Helper()
	out := map[storage.Key][]byte{}
	var keys []storage.Key
	must(t, s.List(t.Context(), "", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	for _, k := range keys {
		must(t, s.Get(t.Context(), k, 0, -1, func(rd io.Reader) (err error) {
			out[k], err = io.ReadAll(rd)
			return err
		}))
	}
	return out
}

// Whatever object is gone, short or damaged: check tells of it if a moment is lost, and of nothing where nothing is wrong.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	e := oneShard(t)
	states := e.shipHours(3, true)
	all := objects(t, e.store)
	keys := []storage.Key{""}
	for k := range all {
		if strings.HasPrefix(string(k), "ship/") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	parts := 0
	for _, k := range keys {
		if n, _ := repo.ParseShipName(strings.TrimSuffix(strings.TrimPrefix(string(k), "ship/node1/"), ".zst.age")); n.Part > 0 {
			parts++
		}
	}
	if len(keys) < 5 || parts == 0 {
		t.Fatalf("%d objects, %d of them parts:\n%s", len(keys), parts, keys)
	}
	for _, kind := range []string{"gone", "short", "damaged"} {
		for _, key := range keys {
			t.Run(fmt.Sprintf("%s %s", kind, key), func(t *testing.T) {
				t.Parallel()
				x := &env{t: t, store: mem.New(), identity: e.identity}
				for k, b := range all {
					switch {
					case k != key:
					case kind == "gone":
						continue
					case kind == "short":
						b = b[:len(b)-1]
					default:
						b = slices.Clone(b)
						b[len(b)/2] ^= 1
					}
					must(t, x.store.Put(t.Context(), k, bytes.NewReader(b), storage.PutOptions{}))
				}
				r := x.repo()
				lost := 0
				for i, k := range states {
					if i%2 == 1 && !x.has(r, k) {
						lost++
					}
				}
				report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: kind == "damaged"})
				must(t, err)
				switch {
				case key == "" && (lost > 0 || len(report.Problems) > 0 || report.Shipped != len(keys)-1 || report.Moments != len(states)):
					t.Errorf("of a sound repository %d moments are lost: %+v", lost, report)
				case kind == "gone" && key == keys[len(keys)-1]: // nobody can know of it
				case key != "" && lost > 0 && len(report.Problems) == 0:
					t.Errorf("%d moments are lost, and check says %+v", lost, report)
				case key != "" && kind == "damaged" && len(report.Problems) == 0:
					t.Errorf("check reads everything and finds nothing")
				}
				if len(report.Problems) > 0 {
					t.Logf("%d lost: %s: %s", lost, report.Problems[0].Object, report.Problems[0].What)
				}
			})
		}
	}
}

// paging is a storage whose listings come in small pages, each as things are when it is read.
type paging struct{ storage.Store }

func (p *paging) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	last := storage.Key("")
	for {
		var page []storage.Info
		err := p.Store.List(ctx, prefix, func(i storage.Info) error {
			if i.Key > last && len(page) < 2 {
				page = append(page, i)
			}
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, i := range page {
			if err := fn(i); err != nil {
				return err
			}
			last = i.Key
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A check beside a shipper that works finds nothing wrong, whatever is rolled up and deleted meanwhile.
func TestCheckBesideShipper(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 22)
	e.backup()
	s := e.ship()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			e.growBy(uint64(i), 0.02)
			e.ticking.Lock()
			e.clock = e.clock.Add(time.Minute)
			e.ticking.Unlock()
			if err := s.Tick(t.Context()); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	r, err := repo.Open(t.Context(), &paging{e.store}, repo.Options{Identities: []age.Identity{e.identity}})
	must(t, err)
	checks, most := 0, 0
	for began := time.Now(); time.Since(began) < time.Duration(testenv.Rounds(5))*time.Second; checks++ {
		report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: checks%2 == 0})
		must(t, err)
		if len(report.Problems) > 0 {
			t.Fatalf("check %d: %+v", checks, report)
		}
		most = max(most, report.Moments)
	}
	close(stop)
	<-done
	t.Logf("%d checks, %d moments", checks, most)
}
