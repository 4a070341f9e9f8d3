package ship

import (
	"context"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
)

// Settle ticks until nothing is left to do.
func (s *Shipper) Settle(ctx context.Context, t testing.TB) {
	t.Helper()
	for n := 0; ; n++ {
		select { // what the system tells of files comes when it comes
		case <-time.After(30 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		if n == 0 {
			s.Look(ctx)
		}
		if err := s.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		if r := s.rolling; r != nil {
			<-r.done
			continue
		}
		if r := s.reading; r != nil {
			<-r.done
			continue
		}
		if len(s.dirty) == 0 && len(s.unread) == 0 && !s.config && len(s.old) == 0 {
			if links, _ := s.dueRollUp(s.o.Now()); links == nil && n > 0 {
				return
			}
		}
		if n > 200 {
			t.Fatalf("it has %d files to look at and %d objects to delete still", len(s.dirty), len(s.old))
		}
	}
}

// Idle reports whether nothing is left to do that is known of.
func (s *Shipper) Idle() bool {
	if len(s.dirty) > 0 || s.config || s.rolling != nil {
		return false
	}
	links, _ := s.dueRollUp(s.o.Now())
	return len(s.old) == 0 && links == nil || s.o.Now().Before(s.rollAfter)
}

// Forget lets the shipper look next time whether its chain is still its own.
func (s *Shipper) Forget() { s.looked = time.Time{} }

// GiveUp ends tries of a put at an error of that kind, as the end of the process would.
func (s *Shipper) GiveUp(err error) { s.giveUp = err }

// Holds reports whether a database's file is held open, as it is being compacted.
func (s *Shipper) Holds(path string) bool {
	return s.held[capture.Name{Root: manifest.DataRoot, Path: path}] != nil
}

// Mark has a file looked at.
func (s *Shipper) Mark(path string) { s.mark(capture.Name{Root: manifest.DataRoot, Path: path}) }

// Reporter returns what writes a report, as Tell does again and again.
func (s *Shipper) Reporter() func(last bool) { return (&reporter{s: s}).write }

// Wait waits for what other goroutines do.
func (s *Shipper) Wait() { s.work.Wait() }

// Waited lets the next tick be what the shipper was waiting for.
func (s *Shipper) Waited() { s.waited = true }
