package bus_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
)

func open(t *testing.T, o bus.Options) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// join adds an agent and returns what it dials with.
func join(t *testing.T, b *bus.Bus, agent string) bus.LinkOptions {
	t.Helper()
	seed, public, err := bus.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddAgent(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
	jwt, err := b.Issue(t.Context(), agent, public)
	if err != nil {
		t.Fatal(err)
	}
	return bus.LinkOptions{URL: b.ClientURL(), Agent: agent, JWT: jwt, Seed: seed}
}

func dial(t *testing.T, o bus.LinkOptions) *bus.Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := bus.Dial(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// run runs something that lasts until its context ends, and returns what ends it.
func run(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(4 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 4 minutes: %s", what)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: dir})
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	rev, err := tab.Create(ctx, "a.b", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Create(ctx, "a.b", []byte("two")); !errors.Is(err, bus.ErrExists) {
		t.Errorf("a second Create: got %v, want ErrExists", err)
	}
	rev2, err := tab.Update(ctx, "a.b", []byte("two"), rev)
	if err != nil || rev2 <= rev {
		t.Errorf("Update: revision %d, %v", rev2, err)
	}
	if _, err := tab.Update(ctx, "a.b", []byte("three"), rev); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Update of an old revision: got %v, want ErrConflict", err)
	}
	if err := tab.Delete(ctx, "a.b", rev); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Delete of an old revision: got %v, want ErrConflict", err)
	}
	if v, r, err := tab.Get(ctx, "a.b"); string(v) != "two" || r != rev2 || err != nil {
		t.Errorf("Get: got %q, %d, %v", v, r, err)
	}
	if err := tab.Delete(ctx, "a.b", rev2); err != nil {
		t.Error(err)
	}
	if _, _, err := tab.Get(ctx, "a.b"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("Get of what was deleted: got %v, want ErrNotFound", err)
	}
	if _, err := tab.Update(ctx, "a.b", nil, rev2); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Update of what was deleted: got %v, want ErrConflict", err)
	}
	if _, err := tab.Create(ctx, "a.b", []byte("again")); err != nil {
		t.Errorf("Create of what was deleted: %v", err)
	}
	if err := tab.Delete(ctx, "never", 0); err != nil {
		t.Errorf("Delete of what never was: %v", err)
	}
	if _, err := tab.Put(ctx, "a b", nil); err == nil {
		t.Error("a key with a space was accepted")
	}
	if _, err := bus.Open(ctx, bus.Options{Dir: dir}); !errors.Is(err, bus.ErrInUse) {
		t.Errorf("a second server on the folder: got %v, want ErrInUse", err)
	}
}

func TestJobsAndRequests(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", AckWait: 2 * time.Second})
	o := join(t, b, "node-1")
	o.AckWait = 2 * time.Second
	l := dial(t, o)
	if _, err := l.Request(ctx, "hello", nil); !errors.Is(err, bus.ErrNoServer) {
		t.Errorf("Request without a server: got %v, want ErrNoServer", err)
	}
	if _, err := b.Ask(ctx, "node-1", nil); !errors.Is(err, bus.ErrNoAgent) {
		t.Errorf("Ask without an agent: got %v, want ErrNoAgent", err)
	}
	run(t, func(ctx context.Context) error {
		return b.Serve(ctx, func(_ context.Context, agent, verb string, data []byte) ([]byte, error) {
			if verb == "fail" {
				return nil, &bus.Error{Code: "no", Text: "it failed"}
			}
			return []byte(agent + " " + verb + " " + string(data)), nil
		})
	})
	run(t, func(ctx context.Context) error {
		return l.Answer(ctx, func(_ context.Context, data []byte) ([]byte, error) {
			return append([]byte("re: "), data...), nil
		})
	})
	eventually(t, "an answer of the server", func() bool {
		d, err := l.Request(ctx, "hello", []byte("you"))
		return err == nil && string(d) == "node-1 hello you"
	})
	eventually(t, "an answer of the agent", func() bool {
		d, err := b.Ask(ctx, "node-1", []byte("you"))
		return err == nil && string(d) == "re: you"
	})
	var e *bus.Error
	if _, err := l.Request(ctx, "fail", nil); !errors.As(err, &e) || e.Code != "no" || e.Text != "it failed" {
		t.Errorf("an error of the server: got %v", err)
	}

	jobs := make(chan string, 10)
	run(t, func(ctx context.Context) error {
		return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			if err := d.Done(ctx); err != nil {
				t.Error(err)
			}
			jobs <- d.Job
		})
	})
	for _, job := range []string{"j1", "j2", "j3"} {
		if err := b.Enqueue(ctx, "node-1", job); err != nil {
			t.Fatal(err)
		}
		if got := <-jobs; got != job {
			t.Errorf("got job %s, want %s", got, job)
		}
	}
}

// TestFloodingAgent has an agent ask far more than a server works on at a time, of what
// takes for ever: others are still served, and so is it when it has come to its senses.
func TestFloodingAgent(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	mad, sane := dial(t, join(t, b, "mad")), dial(t, join(t, b, "sane"))
	ending := make(chan struct{})
	var working atomic.Int64
	run(t, func(ctx context.Context) error {
		return b.Serve(ctx, func(_ context.Context, agent, _ string, _ []byte) ([]byte, error) {
			if agent == "mad" {
				working.Add(1)
				<-ending
			}
			return nil, nil
		})
	})
	eventually(t, "the server to serve", func() bool { _, err := sane.Request(ctx, "x", nil); return err == nil })
	var asking sync.WaitGroup
	var refused atomic.Int64
	for range 300 {
		asking.Go(func() {
			var e *bus.Error
			if _, err := mad.Request(ctx, "x", nil); errors.As(err, &e) && e.Code == "busy" {
				refused.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "the flood to be refused", func() bool { return working.Load() == 16 && refused.Load() == 284 })
	for range 20 {
		if _, err := sane.Request(ctx, "x", nil); err != nil {
			t.Errorf("while another agent floods: %v", err)
		}
	}
	close(ending)
	asking.Wait()
	for range 20 {
		if _, err := mad.Request(ctx, "x", nil); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	}
}
