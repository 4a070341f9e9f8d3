package bus_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/slipcover/slipcover/internal/bus"
)

const mib = 1 << 20

// stream asks an agent, and again until it listens.
func stream(t *testing.T, b *bus.Bus, agent, what string) io.ReadCloser {
	t.Helper()
	var in io.ReadCloser
	eventually(t, "the agent to listen", func() (ok bool) {
		var err error
		in, err = b.Stream(t.Context(), agent, []byte(what))
		return !errors.Is(err, bus.ErrNoAgent)
	})
	return in
}

// What an agent writes arrives whole, is never far ahead of the reader, and is cut off where either ends it.
func TestStream(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	l := dial(t, join(t, b, "node-1"))
	if _, err := b.Stream(t.Context(), "node-1", nil); !errors.Is(err, bus.ErrNoAgent) {
		t.Errorf("an agent that doesn't listen: %v", err)
	}
	data := make([]byte, 5*mib+17)
	_, _ = rand.Read(data)
	var written, ended atomic.Int64
	run(t, func(ctx context.Context) error {
		return l.Streams(ctx, func(ctx context.Context, what []byte, w io.Writer) error {
			defer ended.Add(1)
			switch string(what) {
			case "none":
				return nil
			case "fail":
				_, _ = w.Write(data[:3*mib])
				return &bus.Error{Code: "no", Text: "it failed"}
			case "late":
				time.Sleep(4 * time.Second)
			case "wait":
				<-ctx.Done()
				return ctx.Err()
			}
			for rest := data; len(rest) > 0; {
				n, err := w.Write(rest[:min(len(rest), 100_000)])
				written.Add(int64(n))
				if err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
	})
	for _, what := range []string{"all", "late"} {
		in := stream(t, b, "node-1", what)
		if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
		in.Close()
	}
	in := stream(t, b, "node-1", "none")
	if got, err := io.ReadAll(in); err != nil || len(got) > 0 {
		t.Errorf("nothing: %d bytes, %v", len(got), err)
	}
	in.Close()
	in = stream(t, b, "node-1", "fail")
	var e *bus.Error
	if got, err := io.ReadAll(in); !errors.As(err, &e) || e.Code != "no" || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("a failure: %d bytes, %v", len(got), err)
	}
	in.Close()

	written.Store(0)
	ended.Store(0)
	in = stream(t, b, "node-1", "all")
	if _, err := io.ReadFull(in, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if n := written.Load(); n > 2*mib {
		t.Errorf("the agent is %d bytes ahead", n)
	}
	in.Close()
	eventually(t, "what nobody reads to end", func() bool { return ended.Load() == 1 })

	var open []io.ReadCloser
	for range 16 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		in, err := b.Stream(ctx, "node-1", []byte("wait")) // which begins it, and hangs up
		cancel()
		if err == nil {
			open = append(open, in)
		}
	}
	for _, in := range open {
		in.Close()
	}
	eventually(t, "those that were given up to end", func() bool { return ended.Load() == 17 })
	go func() { _, _ = b.Stream(t.Context(), "node-1", []byte("wait")) }()
	in = stream(t, b, "node-1", "all")
	defer in.Close()
	if _, err := io.ReadFull(in, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := io.ReadAll(in); !errors.Is(err, bus.ErrNoAgent) {
		t.Errorf("an agent that died: %v", err)
	}
}

// An agent has so many at a time, and says of others that it is busy.
func TestStreamsBound(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	l := dial(t, join(t, b, "node-1"))
	run(t, func(ctx context.Context) error {
		return l.Streams(ctx, func(_ context.Context, _ []byte, w io.Writer) error {
			_, err := w.Write(make([]byte, 2*mib))
			return err
		})
	})
	for range 16 {
		defer stream(t, b, "node-1", "").Close()
	}
	var e *bus.Error
	if _, err := b.Stream(t.Context(), "node-1", nil); !errors.As(err, &e) || e.Code != "busy" {
		t.Errorf("one more: %v", err)
	}
}

// An agent that is connected and says nothing is given up.
func TestStreamOfSilent(t *testing.T) {
	t.Parallel()
	o := bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	o.Hurry(10)
	b := open(t, o)
	l := dial(t, join(t, b, "node-1"))
	asked := make(chan *nats.Msg, 10)
	if _, err := l.Conn().ChanSubscribe("slipcover.to.node-1.stream", asked); err != nil {
		t.Fatal(err)
	}
	if err := l.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := b.Stream(t.Context(), "node-1", []byte("x")); !errors.Is(err, bus.ErrSilent) || time.Since(began) > time.Minute {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if len(asked) < 2 {
		t.Errorf("it was asked %d times", len(asked))
	}
}
