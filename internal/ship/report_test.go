package ship_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
)

// mayFail lets every put of the storage fail in some way while what it returns is true.
func (e *env) mayFail(how faulty.Action) *bool {
	gone := new(bool)
	e.store = faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if *gone && op.Kind == faulty.Put {
			return how
		}
		return faulty.Action{}
	})
	return gone
}

// oneReport is what `ship status` gets to know.
func (e *env) oneReport(now time.Time) *ship.Report {
	e.t.Helper()
	list, err := ship.Reports(e.t.Context(), e.state, now)
	must(e.t, err)
	if len(list) != 1 {
		e.t.Fatalf("%d reports", len(list))
	}
	return list[0]
}

// A report tells the same as Status, without the shipper; and how far behind the node is
// when that has ended.
func TestReports(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 9)
	e.backup()
	gone := e.mayFail(faulty.Fail(errGone))
	s := e.ship()
	write := s.Reporter()
	e.grow(1)
	s.Settle(t.Context(), t)
	write(false)
	r := e.oneReport(e.now())
	if !r.Running || r.Tick == 0 || r.LagSeconds != 0 || r.LagFiles != 0 || r.Error != "" || r.DataDir != e.data || r.Window.IsZero() || r.Window.After(time.Now()) {
		t.Errorf("with nothing to do: %+v", r)
	}

	path, err := filepath.Glob(filepath.Join(e.state, "*", "node1", "ship", "status.json"))
	must(t, err)
	was, err := os.Stat(path[0])
	must(t, err)
	for range 3 {
		must(t, s.Tick(t.Context()))
		write(false)
	}
	if now, err := os.Stat(path[0]); err != nil || !os.SameFile(was, now) {
		t.Errorf("with nothing to say a report was written: %v", err)
	}

	*gone = true
	s.GiveUp(errGone)
	e.grow(1)
	if err := tickUntil(t, s); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	write(false)
	if r := e.oneReport(e.clock.Add(time.Hour)); r.LagSeconds < 3600 || r.LagSeconds > 3700 || r.LagFiles == 0 || r.LagBytes == 0 || r.Error == "" || r.Behind.IsZero() {
		t.Errorf("without a storage: %+v", r)
	}
	write(true)
	must(t, s.Close())
	if r := e.oneReport(e.now()); r.Running || r.LagFiles == 0 || r.LagBytes == 0 || r.Error == "" {
		t.Errorf("when it has ended: %+v", r)
	}

	s = e.ship()
	s.GiveUp(errGone)
	if err := tickUntil(t, s); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	if st := s.Status(); !st.Shipped.IsZero() || st.Behind.IsZero() || st.Behind.After(r.Shipped.Add(time.Second)) || st.LagFiles == 0 || !st.Window.Equal(r.Window) || st.Chain != r.Chain {
		t.Errorf("of the next one, still without a storage: %+v", st)
	}
	must(t, s.Close())

	*gone = false
	must(t, os.MkdirAll(path[0]+".new/in/the/way", 0o700)) // a report can't be replaced, as on a full disk
	s = e.ship()
	s.Settle(t.Context(), t)
	s.Reporter()(true)
	must(t, s.Close())
	if r := e.oneReport(e.now()); r.Running || r.LagFiles != 0 || r.LagBytes != 0 || r.LagSeconds != 0 || r.Error != "" {
		t.Errorf("when all was shipped: %+v", r)
	}
}

// A node on which nothing was committed for hours is not hours behind when something is.
func TestBehindAfterIdling(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 10)
	e.backup()
	s := e.ship()
	s.Settle(t.Context(), t)
	s.GiveUp(errGone)
	e.store = faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if op.Kind == faulty.Put {
			return faulty.Fail(errGone)
		}
		return faulty.Action{}
	})
	must(t, s.Close())
	s = e.ship()
	s.GiveUp(errGone)
	s.Settle(t.Context(), t)
	if s.Status().Polling != "" {
		t.Skip("the system doesn't tell of changes: " + s.Status().Polling)
	}
	e.clock = e.clock.Add(3 * time.Hour)
	e.grow(1)
	s.Waited()
	if err := tickUntil(t, s); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	if st := s.Status(); st.LagSeconds <= 0 || st.LagSeconds > 600 {
		t.Errorf("behind by %v s", st.LagSeconds)
	}
}

// Ticks that could not be stored, one after the other, in one process and in the next: what comes then is
// shipped as if nothing had been, also where one of them was stored without an answer.
func TestFailuresInARow(t *testing.T) {
	t.Parallel()
	for _, answers := range []faulty.Action{faulty.Fail(errGone), faulty.FailAfter(errGone)} {
		e := genEnv(t, 11)
		e.backup()
		gone := e.mayFail(answers)
		s := e.ship()
		s.GiveUp(errGone)
		e.grow(1)
		s.Settle(t.Context(), t)
		for range 3 {
			*gone = true
			for range 2 {
				e.grow(1)
				if err := tickUntil(t, s); !errors.Is(err, errGone) {
					t.Fatal(err)
				}
			}
			must(t, s.Close())
			s = e.ship()
			s.GiveUp(errGone)
		}
		*gone = false
		s.Settle(t.Context(), t)
		got, _ := e.moment(e.now())
		e.compare("afterwards", got, e.files())
		must(t, s.Close())
	}
}

// late is a storage in which a put that failed takes effect later.
type late struct {
	storage.Store
	fail bool
	then func()
}

func (l *late) Put(ctx context.Context, key storage.Key, body storage.Body, o storage.PutOptions) error {
	if then := l.then; then != nil {
		l.then = nil
		then()
	}
	if !l.fail || !strings.HasPrefix(string(key), "ship/") {
		return l.Store.Put(ctx, key, body, o)
	}
	b := make([]byte, body.Size())
	if _, err := body.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if l.fail = false; l.then == nil {
		l.then = func() { _ = l.Store.Put(context.WithoutCancel(ctx), key, bytes.NewReader(b), o) }
	}
	return errGone
}

// A put that was given up and takes effect after it was asked for is this shipper's own, and not another one's, also
// for the shipper that is started next.
func TestLatePut(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		e := genEnv(t, 12)
		e.backup()
		store := &late{Store: e.store}
		e.store = store
		s := e.ship()
		s.GiveUp(errGone)
		e.grow(1)
		s.Settle(t.Context(), t)
		e.grow(2)
		store.fail = true
		if err := tickUntil(t, s); !errors.Is(err, errGone) {
			t.Fatal(err)
		}
		if again {
			must(t, s.Close())
			s = e.ship()
			s.GiveUp(errGone)
		}
		e.grow(3)
		for range 3 { // the first of these meets the late one
			_ = tickUntil(t, s)
		}
		s.Settle(t.Context(), t)
		got, _ := e.moment(e.now())
		e.compare(fmt.Sprintf("started again %v", again), got, e.files())
		e.contiguous()
		must(t, s.Close())
	}
}

// quiet is for how long before the newest tick the state may have been another one than that of the tick before, as its
// index says.
func (e *env) quiet() time.Duration {
	e.t.Helper()
	h, err := e.repo().History(e.t.Context(), "node1", time.Time{})
	must(e.t, err)
	links := h.Chains[len(h.Chains)-1].Links
	times := links[len(links)-1].Tick.Times
	return time.Duration(times[len(times)-1].Quiet) * time.Millisecond
}

// A tick tells since when nobody could look: while the storage was away, and while the machine was suspended. Without
// either it is exact to an interval, though nothing was committed for hours.
func TestQuiet(t *testing.T) {
	t.Parallel()
	e := genEnv(t, 31)
	e.backup()
	gone := e.mayFail(faulty.Fail(errGone))
	s := e.ship()
	s.GiveUp(errGone)
	end := s.Tell()
	defer end()
	later := func(d time.Duration) {
		e.ticking.Lock()
		defer e.ticking.Unlock()
		e.clock = e.clock.Add(d)
	}
	e.grow(1)
	s.Settle(t.Context(), t)

	*gone = true
	e.grow(2)
	if err := tickUntil(t, s); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	later(10 * time.Minute)
	*gone = false
	s.Settle(t.Context(), t)
	if q := e.quiet(); q < 10*time.Minute || q > 11*time.Minute {
		t.Errorf("while the storage was away for 10m: %s", q)
	}

	s.Settle(t.Context(), t)
	time.Sleep(1200 * time.Millisecond) // a sign of life, as each second
	later(time.Hour)                    // none
	time.Sleep(1200 * time.Millisecond)
	s.Waited()
	e.grow(3)
	for path := range e.files() {
		s.Mark(path)
	}
	must(t, s.Tick(t.Context()))
	if q := e.quiet(); q < 59*time.Minute || q > 62*time.Minute {
		t.Errorf("after an hour in which the machine was suspended: %s", q)
	}
}
