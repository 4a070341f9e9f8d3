package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
)

// NATS reads past what is damaged of its files, and says nothing of it: half of the backups
// can be missing, and all looks well. So the server keeps the number of entries of each
// table, with the revision up to which it had them, and compares at its next start. Between
// the two each revision may have removed one entry at most.
//
// What was found stays in the file until the catalog is rebuilt.

// censusEvery is how often the file is written while the catalog changes.
const censusEvery = time.Minute

// counted is how many entries a table had up to a revision.
type counted struct {
	Entries int    `json:"entries"`
	Last    uint64 `json:"last"`
}

// censusFile is what the file has.
type censusFile struct {
	Tables map[string]counted `json:"tables"`
	// Damage is a sentence of what was lost; "" as long as nothing is known to be.
	Damage string `json:"damage,omitempty"`
}

// keeper keeps the census.
type keeper struct {
	mu       sync.Mutex
	compared bool          // guarded by mu, as all below; before, nothing is written
	kept     censusFile    // as in the file
	at       time.Duration // by the watch, when it was written
}

// compare looks at the start whether the catalog has what it had.
func (s *Server) compare(ctx context.Context) {
	k := &s.census
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.compared = true; s.cfg.Census == "" {
		return
	}
	var was censusFile
	_, err := durable.ReadJSON(s.cfg.Census, &was)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.WarnContext(ctx, "what the catalog had can't be read, so whether some of it is lost is not known", "err", err)
		}
		return
	}
	k.kept = was
	var lost []string
	for _, t := range s.tables() {
		is, _ := t.count()
		if what := was.Tables[t.title()].missing(is); what != "" {
			lost = append(lost, t.title()+" "+what)
		}
	}
	if len(lost) > 0 {
		k.kept.Damage = strings.Join(lost, ", ")
		s.writeCensus(ctx)
	}
	if k.kept.Damage != "" {
		s.log.ErrorContext(ctx, "the catalog is damaged", "lost", k.kept.Damage, "what_to_do", rebuildIt)
	}
}

// rebuildIt says what to do about a damaged catalog.
const rebuildIt = "stop this server, run \"slipcover server rebuild\" for each repository, which brings back backups and instances, and start it again; " +
	"make schedules and tokens that are gone anew"

// missing says what a table has lost; "" if nothing.
func (was counted) missing(is counted) string {
	removable := 0
	if is.Last > was.Last {
		removable = int(min(is.Last-was.Last, uint64(was.Entries)))
	}
	switch lost := was.Entries - removable - is.Entries; {
	case lost > 0:
		return fmt.Sprintf("has %d entries and had %d", is.Entries, was.Entries)
	case is.Last < was.Last:
		return "is older than it was"
	}
	return ""
}

// damaged says in an error what of the catalog is lost.
func (s *Server) damaged() error {
	s.census.mu.Lock()
	defer s.census.mu.Unlock()
	if s.census.kept.Damage != "" {
		return fmt.Errorf("the catalog is damaged (%s): %s", s.census.kept.Damage, rebuildIt)
	}
	for _, t := range s.tables() {
		if n := t.lost(); n > 0 {
			return fmt.Errorf("the catalog is damaged (of %s %d can't be read): %s", t.title(), n, rebuildIt)
		}
	}
	return nil
}

// noteCensus writes how much the catalog has, if that has changed for a while, or at the
// end. At a moment at which it can't be said it is left to the next time.
func (s *Server) noteCensus(ctx context.Context, end bool) {
	k := &s.census
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.cfg.Census == "" || !k.compared || k.kept.Damage != "" || !end && k.at != 0 && s.cfg.Watch()-k.at < censusEvery {
		return
	}
	now := map[string]counted{}
	for _, t := range s.tables() {
		n, ok := t.count()
		if !ok {
			return
		}
		now[t.title()] = n
	}
	if !maps.Equal(now, k.kept.Tables) {
		k.kept.Tables = now
		s.writeCensus(ctx)
	}
}

// writeCensus is called with the lock held.
func (s *Server) writeCensus(ctx context.Context) {
	s.census.at = s.cfg.Watch()
	if err := durable.WriteJSON(s.cfg.Census, 0o600, s.census.kept); err != nil {
		s.log.WarnContext(ctx, "how much the catalog has can't be noted", "err", err)
	}
}

// ForgetCensus takes the catalog as it is for whole, after a rebuild.
func ForgetCensus(path string) error {
	if path == "" {
		return nil
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	return err
}
