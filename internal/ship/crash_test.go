package ship_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/testenv"
)

// genEnv is a node without a server, whose files are made.
func genEnv(t testing.TB, seed uint64) *env {
	t.Helper()
	data := t.TempDir()
	_, err := couchgen.DataDir(data, couchgen.DirOptions{Databases: 3, Q: 2, DocsPerDB: 20, DocBytes: 300, Seed: seed})
	must(t, err)
	return newEnv(t, data)
}

func (e *env) grow(seed uint64) { e.growBy(seed, 0.3) }

func (e *env) growBy(seed uint64, fraction float64) {
	e.t.Helper()
	_, _, err := couchgen.Grow(e.data, fraction, couchgen.GrowOptions{Seed: seed, DocBytes: 300, DeleteEvery: 5})
	must(e.t, err)
}

// kept is a state that a moment must have.
type kept struct {
	at    time.Time
	files map[string][]byte
}

// Whatever call of the storage fails, before or after it did something, and whenever the process ends
// then: no commit is lost, none is shipped twice, and no moment that was there goes.
func TestEveryStorageCallFails(t *testing.T) {
	t.Parallel()
	story := func(e *env, s *ship.Shipper) (states []kept, err error) {
		for i := range 5 {
			e.grow(uint64(100 + i))
			e.clock = e.clock.Add(2 * time.Minute)
			s.Look(t.Context())
			for quiet := 0; quiet < 3; quiet++ { // until all is done, roll-ups too
				time.Sleep(10 * time.Millisecond)
				was := s.Status().Ticks
				if err := s.Tick(t.Context()); err != nil {
					return states, err
				}
				if !s.Idle() || s.Status().Ticks > was {
					quiet = 0
				}
			}
			states = append(states, kept{e.now(), e.files()})
		}
		return states, nil
	}
	run := func(t *testing.T, plan faulty.Plan) (calls int) {
		e := genEnv(t, 1)
		e.backup()
		inner := e.store
		broken := faulty.New(inner, plan)
		e.store = broken
		s, err := ship.Open(t.Context(), e.options())
		must(t, err)
		s.GiveUp(errGone)
		states, err := story(e, s)
		must(t, s.Close())
		e.store = inner
		if err != nil && !errors.Is(err, errGone) {
			t.Fatal(err)
		}
		s = e.ship()
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
		for i, k := range states {
			got, _ := e.moment(k.at)
			e.compare(fmt.Sprintf("moment %d", i), got, k.files)
		}
		e.contiguous()
		must(t, s.Close())
		calls, _ = broken.Calls()
		return calls
	}
	calls := run(t, nil)
	step := max(1, calls/testenv.Rounds(12))
	for n := 1; n <= calls; n += step {
		for name, action := range map[string]faulty.Action{"before": faulty.Fail(errGone), "after": faulty.FailAfter(errGone)} {
			t.Run(fmt.Sprintf("%s call %d of %d", name, n, calls), func(t *testing.T) {
				t.Parallel()
				run(t, faulty.From(n, action))
			})
		}
	}
}

var errGone = fmt.Errorf("%w: and gone for good", storage.ErrDenied)

// contiguous holds the chain against itself: no hole, and nothing that doesn't go on from what is before.
func (e *env) contiguous() {
	e.t.Helper()
	h, err := e.repo().History(e.t.Context(), "node1", time.Time{})
	must(e.t, err)
	for _, c := range h.Chains {
		if c.Broken != "" {
			e.t.Errorf("chain %s: %s", c.ID, c.Broken)
		}
	}
}

// Of two machines with one state, a copy and its original, one ships; the other is refused,
// whether the ticks of the first are still there or were rolled up.
func TestClone(t *testing.T) {
	t.Parallel()
	for _, rolled := range []bool{false, true} {
		e := genEnv(t, 2)
		e.backup()
		s := e.ship()
		e.grow(1)
		s.Settle(t.Context(), t)
		must(t, s.Close())
		clone := &env{t: t, data: t.TempDir(), state: t.TempDir(), store: e.store, identity: e.identity, clock: e.clock}
		must(t, os.CopyFS(clone.data, os.DirFS(e.data)))
		must(t, os.CopyFS(clone.state, os.DirFS(e.state)))
		running, err := ship.Open(t.Context(), clone.options()) // it goes on as if nothing had been
		must(t, err)
		running.Settle(t.Context(), t)
		if h, err := e.repo().History(t.Context(), "node1", time.Time{}); err != nil || len(h.Chains[0].Links) != 1 {
			for _, l := range h.Chains[0].Links {
				for _, f := range l.Tick.Files {
					t.Logf("%d %s %d %d %s %v", l.First, f.Path, f.From, f.Size, f.Generation, f.Cuts)
				}
			}
			t.Fatalf("the copy has something to ship: %v, %v", h, err)
		}

		s = e.ship()
		for i := range 4 {
			e.grow(uint64(2 + i))
			if rolled {
				e.clock = e.clock.Add(3 * time.Minute)
			}
			s.Settle(t.Context(), t)
		}
		at, files := e.now(), e.files()
		clone.grow(77)
		if rolled {
			running.Forget() // when the chain was last looked at, as after a minute
		}
		err = tickUntil(t, running)
		if !errors.Is(err, ship.ErrOther) || !strings.Contains(err.Error(), "--take-over") {
			t.Errorf("rolled up %v: the clone was told %v", rolled, err)
		}
		must(t, running.Close())
		if _, err := ship.Open(t.Context(), clone.options()); !errors.Is(err, ship.ErrOther) {
			t.Errorf("rolled up %v: the clone was told %v when it was started again", rolled, err)
		}
		got, _ := e.moment(at)
		e.compare("the original's", got, files)

		// The clone is the one that stays.
		o := clone.options()
		o.TakeOver = true
		clone.clock = e.clock.Add(time.Minute)
		running, err = ship.Open(t.Context(), o)
		must(t, err)
		running.Settle(t.Context(), t)
		at, files = clone.now(), clone.files()
		got, _ = clone.moment(at)
		clone.compare("the clone's", got, files)
		must(t, running.Close())
		s.Forget()
		e.grow(9)
		if err := tickUntil(t, s); !errors.Is(err, ship.ErrOther) {
			t.Errorf("the original was told %v", err)
		}
	}
}

// tickUntil ticks until something was found to do.
func tickUntil(t *testing.T, s *ship.Shipper) error {
	t.Helper()
	was := s.Status().Ticks
	s.Look(t.Context())
	for range 100 {
		if err := s.Tick(t.Context()); err != nil || s.Status().Ticks > was {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("nothing was found to ship")
}

// What a power cut took back, and what was written in its place: another generation, and each moment is of one
// timeline.
func TestWentBack(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 3)
	e.backup()
	s := e.ship()
	e.grow(1)
	s.Settle(t.Context(), t)
	before := e.files()
	first := kept{e.now(), before}
	e.grow(2)
	s.Settle(t.Context(), t)
	second := kept{e.now(), e.files()}
	must(t, s.Close())
	for p, b := range before { // the disk has what it had, and other commits
		must(t, os.WriteFile(filepath.Join(e.data, p), b, 0o600))
	}
	e.grow(3)
	s = e.ship()
	s.Settle(t.Context(), t)
	third := kept{e.now(), e.files()}
	for i, k := range []kept{first, second, third} {
		got, _ := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d", i+1), got, k.files)
	}
	h, err := e.repo().History(t.Context(), "node1", time.Time{})
	must(t, err)
	links := h.Chains[0].Links
	notes := links[len(links)-1].Tick.Notes
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "doesn't begin any more with what was shipped of it") }) {
		t.Errorf("it isn't told: %q", notes)
	}
}

// Without its state a shipper begins another chain at the next backup, and all that was shipped is still there.
func TestStateIsLost(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 4)
	e.backup()
	s := e.ship()
	var states []kept
	step := func(seed uint64) {
		e.grow(seed)
		s.Settle(t.Context(), t)
		states = append(states, kept{e.now(), e.files()})
	}
	step(1)
	step(2)
	must(t, s.Close())
	must(t, os.RemoveAll(filepath.Join(e.state, e.repo().Config().ID)))
	if _, err := ship.Open(t.Context(), e.options()); !errors.Is(err, ship.ErrNoBase) {
		t.Fatalf("without a state: %v", err)
	}
	e.grow(3)
	e.backup()
	states = append(states, kept{e.now(), e.files()})
	s = e.ship()
	step(4)
	for i, k := range states {
		got, _ := e.moment(k.at)
		e.compare(fmt.Sprintf("state %d", i), got, k.files)
	}
	if h, err := e.repo().History(t.Context(), "node1", time.Time{}); err != nil || len(h.Chains) != 2 {
		t.Errorf("%v, %v", h, err)
	}
}

// While nothing is committed nothing is asked of the storage.
func TestIdle(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 5)
	store := &counting{Store: e.store}
	e.store = store
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	before := store.all()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	must(t, s.Run(ctx))
	if n := store.all() - before; n != 0 {
		t.Errorf("%d requests while idle", n)
	}
}

// A tick takes no more than one object, however many files changed.
func TestOneObject(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 6)
	store := &counting{Store: e.store}
	e.store = store
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	for i := range 5 {
		e.grow(uint64(i + 1))
		puts, all, ticks := store.puts.Load(), store.all(), s.Status().Ticks
		s.Settle(t.Context(), t)
		n := s.Status().Ticks - ticks
		if store.puts.Load()-puts != n || store.all()-all != n || n == 0 {
			t.Errorf("%d ticks made %d puts and %d requests", n, store.puts.Load()-puts, store.all()-all)
		}
	}
	if got := slices.Sorted(maps.Keys(e.files())); len(got) < 8 {
		t.Errorf("files: %q", got)
	}
}

// A disk that isn't mounted is no deletion of all databases, and another CouchDB's files are not shipped.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 7)
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	at, files := e.now(), e.files()
	away := e.data + "-away"
	must(t, os.Rename(e.data, away))
	must(t, os.MkdirAll(filepath.Join(e.data, "shards"), 0o700))
	s.Mark("shards/00000000-7fffffff/db-0000.1767225600.couch")
	if err := s.Tick(t.Context()); !errors.Is(err, ship.ErrOtherNode) {
		t.Errorf("without a disk: %v", err)
	}
	_, err := couchgen.DataDir(e.data, couchgen.DirOptions{Databases: 3, Q: 2, DocsPerDB: 20, DocBytes: 300, Seed: 99})
	must(t, err)
	if err := s.Tick(t.Context()); !errors.Is(err, ship.ErrOtherNode) {
		t.Errorf("with fresh files: %v", err)
	}
	must(t, s.Close())
	if _, err := ship.Open(t.Context(), e.options()); !errors.Is(err, ship.ErrOtherNode) {
		t.Errorf("begun with fresh files: %v", err)
	}
	must(t, os.RemoveAll(e.data))
	must(t, os.Rename(away, e.data))
	s = e.ship()
	s.Settle(t.Context(), t)
	e.grow(1)
	got, _ := e.moment(e.now())
	e.compare("meanwhile", got, files)
	s.Settle(t.Context(), t)
	got, _ = e.moment(at)
	e.compare("before", got, files)
	must(t, s.Close())
	s = e.ship() // which looks at all files
	s.Settle(t.Context(), t)
	got, _ = e.moment(e.now())
	e.compare("afterwards", got, e.files())
}

// Status tells how far behind a shipper is, and why.
func TestStatus(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 8)
	e.backup()
	gone := false
	broken := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if gone && op.Kind == faulty.Put {
			return faulty.Fail(errGone)
		}
		return faulty.Action{}
	})
	e.store = broken
	s := e.ship()
	s.Settle(t.Context(), t)
	if st := s.Status(); st.LagSeconds != 0 || st.LagBytes != 0 || st.Error != "" || st.Instance != "node1" || st.Shipped.IsZero() {
		t.Errorf("with nothing to do: %+v", st)
	}
	gone = true
	s.GiveUp(errGone)
	was := e.files()
	e.grow(1)
	if err := tickUntil(t, s); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	e.clock = e.clock.Add(time.Minute)
	bytes := int64(0)
	for p, b := range e.files() {
		bytes += int64(len(b) - len(was[p]))
	}
	if st := s.Status(); st.LagSeconds < 60 || st.LagBytes == 0 || st.LagBytes > bytes || st.LagFiles == 0 || !strings.Contains(st.Error, "gone for good") || st.ErrorSince.IsZero() {
		t.Errorf("without a storage: %+v, of %d bytes", st, bytes)
	}
	gone = false
	s.Settle(t.Context(), t)
	if st := s.Status(); st.LagSeconds != 0 || st.LagBytes != 0 || st.Error != "" {
		t.Errorf("when it is there again: %+v", st)
	}
}
