package ship

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/follow"
	"github.com/slipcover/slipcover/internal/manifest"
)

// status is what Status tells, kept by the goroutine that ships.
type status struct {
	mu      sync.Mutex // guards what follows
	s       Status
	pending map[capture.Name]int64 // files that are to be shipped, and how much of each is
	watch   follow.Status
}

// Status is how shipping is doing.
type Status struct {
	Instance string            `json:"instance"`
	Chain    manifest.BackupID `json:"chain"`
	Backup   manifest.BackupID `json:"backup"` // the backup whose cuts it went on from last
	Tick     int64             `json:"tick"`   // number of the last tick that is stored
	// Shipped is up to when all that was committed is stored, as far as is known: by the node's clock.
	Shipped time.Time `json:"shipped"`
	// Behind is since when something is committed that isn't stored: zero if all is.
	Behind time.Time `json:"behind_since,omitzero"`
	// LagSeconds is how old the oldest commit may be that isn't stored; 0 if all are.
	LagSeconds float64 `json:"lag_seconds"`
	LagBytes   int64   `json:"lag_bytes"` // of files, that are not stored
	LagFiles   int     `json:"lag_files"` // that have some
	// Window is since when moments can be had back out of what this chain has. Backups that are older are not in it;
	// of gaps in between, as while nobody shipped, the history tells.
	Window time.Time `json:"window_from"`
	// Error is why something could not be stored, and since when; "" if all is well.
	Error      string    `json:"error,omitempty"`
	ErrorSince time.Time `json:"error_since,omitzero"`

	Ticks      int64 `json:"ticks"`        // stored by this process
	Bytes      int64 `json:"bytes"`        // of their objects
	Unrolled   int   `json:"unrolled"`     // ticks that are not rolled up yet
	RollUps    int   `json:"roll_ups"`     // alive, of both levels
	Undeleted  int   `json:"undeleted"`    // objects that were rolled up and are to be deleted
	RollUpLate bool  `json:"roll_up_late"` // one is due and has failed

	Watches int      `json:"watches"`           // folders that the system tells changes of
	Polling string   `json:"polling,omitempty"` // why it has to look for some
	Missing []string `json:"missing,omitempty"` // folders that are gone, as an unmounted disk is
}

// begun notes what a tick has to do.
func (s *Shipper) begun() {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	s.status.pending = make(map[capture.Name]int64, len(s.dirty))
	for nm := range s.dirty {
		size := int64(0)
		if f := s.files[nm]; f != nil {
			size = f.File.Size
		}
		s.status.pending[nm] = size
	}
	x := &s.status.s
	x.Instance, x.Chain, x.Backup, x.Tick = s.o.Instance, s.chain.ID, s.chain.Since, s.chain.Tick
	if x.Behind.IsZero() {
		x.Behind, x.Window = s.behindSince(), s.windowFrom()
	}
}

// behindSince is when what a tick finds may have been committed first: in the last interval, if the shipper was waiting
// for it; or since it last found nothing, or was stopped, or the last one ended.
func (s *Shipper) behindSince() time.Time {
	if s.quiet.IsZero() {
		return time.UnixMilli(s.chain.Seen).UTC()
	}
	at := s.started.Add(-s.o.Interval)
	if !s.waited || !at.After(s.quiet) || s.follow.Status().Polling != "" {
		return s.quiet
	}
	beat := s.beat.Load() // the process, or the machine, may have stood still
	if beat == 0 || s.started.UnixMilli()-beat <= stopped.Milliseconds() {
		beat = s.stood.Load()
	}
	if t := time.UnixMilli(beat).UTC(); beat > 0 && t.After(s.quiet) {
		return t
	}
	return at
}

// stopped is after what time without a sign of life a process is taken to have stood still.
const stopped = 5 * time.Second

// behind is since when something may have been committed that isn't stored.
func (s *status) behind() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Behind
}

// windowFrom is since when moments are there without a gap.
func (s *Shipper) windowFrom() time.Time {
	from, newest := s.chain.ID.Time(), s.quiet
	if s.o.KeepMoments <= 0 {
		return from
	}
	if newest.IsZero() {
		newest = time.UnixMilli(s.chain.Seen)
	}
	if kept := newest.Add(-s.o.KeepMoments).Truncate(time.Minute).UTC(); kept.After(from) {
		return kept
	}
	return from
}

// told notes that a tick is done, and how things are.
func (s *Shipper) told() {
	st := &s.status
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pending = nil
	st.watch = s.follow.Status()
	x := &st.s
	x.Instance, x.Chain, x.Backup, x.Tick, x.Shipped = s.o.Instance, s.chain.ID, s.chain.Since, s.chain.Tick, s.quiet
	x.Behind, x.Window = time.Time{}, s.windowFrom()
	x.Error, x.ErrorSince = "", time.Time{}
	x.Unrolled, x.RollUps, x.Undeleted = 0, len(s.long), 0
	for _, l := range s.links {
		if l.name.RollUp() {
			x.RollUps++
		} else {
			x.Unrolled++
		}
	}
	for _, d := range s.old {
		x.Undeleted += len(d.Keys)
	}
	x.RollUpLate = s.o.Now().Before(s.rollAfter)
}

func (s *status) failed(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s.Error == "" {
		s.s.ErrorSince = now
	}
	s.s.Error = err.Error()
}

func (s *status) stored(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Ticks++
	s.s.Bytes += bytes
}

// Status tells how shipping is doing. Any goroutine may ask.
func (s *Shipper) Status() Status {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	out := s.status.s
	out.Watches, out.Polling, out.Missing = s.status.watch.Watches, s.status.watch.Polling, s.status.watch.Missing
	for nm, size := range s.status.pending {
		info, err := os.Stat(filepath.Join(s.o.Node.Dir(nm.Root), filepath.FromSlash(nm.Path)))
		switch {
		case err != nil || info.Size() == size:
		case info.Size() < size: // another file has taken its place
			size = 0
			fallthrough
		default:
			out.LagFiles++
			out.LagBytes += info.Size() - size
		}
	}
	if out.LagFiles == 0 && out.Error == "" { // it was looked at and has nothing new, or is gone
		out.Behind = time.Time{}
	}
	if !out.Behind.IsZero() {
		out.LagSeconds = max(0, s.o.Now().Sub(out.Behind).Seconds())
	}
	return out
}
