package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipcover/slipcover/internal/bus"
)

// TestLostStreams: a NATS that answers and has lost what was stored, as after a start over
// an empty folder, is not taken to be well.
func TestLostStreams(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{Dir: t.TempDir()})
	table, err := b.Table(t.Context(), "things")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the check to find all well", func() bool { return b.Check(t.Context()) == nil })
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SLIPCOVER_JOBS", "KV_slipcover_things"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the check to say so", func() bool {
		err := b.Check(t.Context())
		return err != nil && strings.Contains(err.Error(), "has lost what was stored") && b.Connected() != nil
	})
	if _, _, err := table.Get(t.Context(), "a"); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := table.Put(t.Context(), "a", nil); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("write: %v", err)
	}
}

// TestPauseWhileConnecting: NATS hangs up on who is 2 s late to say who he is, as a machine that stands still is. He is back.
func TestPauseWhileConnecting(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"in the process": "", "over TCP": "127.0.0.1:0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, err := open(t, bus.Options{Dir: t.TempDir(), Listen: listen}).Connect(t.Context(), 3*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			nc.Close()
		})
	}
}

// TestNATSAwayAtTheStart: that nobody answers is told, also to who doesn't ask for more.
func TestNATSAwayAtTheStart(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(context.Context, *slog.Logger) error{
		"server": func(ctx context.Context, log *slog.Logger) error {
			_, err := bus.Open(ctx, bus.Options{URL: "nats://127.0.0.1:1", Log: log})
			return err
		},
		"agent": func(ctx context.Context, log *slog.Logger) error {
			_, err := bus.Dial(ctx, bus.LinkOptions{URL: "nats://127.0.0.1:1", Agent: "a", Log: log})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			said := make(chan string, 1)
			log := slog.New(slog.NewTextHandler(firstLine(said), &slog.HandlerOptions{Level: slog.LevelWarn}))
			ended := make(chan error, 1)
			go func() { ended <- start(ctx, log) }()
			select {
			case line := <-said:
				if !strings.Contains(line, "can't be reached") {
					t.Error(line)
				}
			case <-time.After(time.Minute):
				t.Error("nothing is told")
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// firstLine gets what is written first.
type firstLine chan string

func (f firstLine) Write(p []byte) (int, error) {
	select {
	case f <- string(p):
	default:
	}
	return len(p), nil
}
