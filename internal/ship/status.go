package ship

import (
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

// status is what Status tells.
type status struct {
	mu sync.Mutex // guards what follows
	s  Status
}

// Status is how shipping is doing.
type Status struct {
	Chain   manifest.BackupID `json:"chain"`
	Tick    int64             `json:"tick"`
	Shipped time.Time         `json:"shipped"` // when the last tick was stored; zero if none was
	Ticks   int64             `json:"ticks"`   // stored by this process
	Bytes   int64             `json:"bytes"`   // of their objects
	Error   string            `json:"error,omitempty"`
	Since   time.Time         `json:"error_since,omitzero"`
}

func (s *status) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s.Error == "" {
		s.s.Since = time.Now()
	}
	s.s.Error = err.Error()
}

func (s *status) shipped(t *tick, seg *manifest.Segment, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Chain, s.s.Tick, s.s.Shipped = t.index.Chain, t.index.Last, now
	s.s.Ticks++
	s.s.Bytes += seg.Size
	s.s.Error, s.s.Since = "", time.Time{}
}

// Status tells how shipping is doing. Any goroutine may ask.
func (s *Shipper) Status() Status {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	return s.status.s
}
