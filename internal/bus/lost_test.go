package bus_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipcover/slipcover/internal/bus"
)

// TestLostStreams: a NATS that answers and has lost what was stored, as after a start over
// an empty folder, is not taken to be well.
func TestLostStreams(t *testing.T) {
	b := open(t, bus.Options{Dir: t.TempDir()})
	table, err := b.Table(t.Context(), "things")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SLIPCOVER_JOBS", "KV_slipcover_things"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "has lost what was stored") {
		t.Errorf("the check says %v", err)
	}
	if err := b.Connected(); err == nil {
		t.Error("and yet it can be used")
	}
	if _, _, err := table.Get(t.Context(), "a"); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := table.Put(t.Context(), "a", nil); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("write: %v", err)
	}
}
