package ship

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// While CouchDB compacts a database the shipper has its file open: when the new one takes its
// place, the old one has its last commits still, and all that was not yet rolled up of it. What a tick
// takes of that is one range, and roll-ups need the file no more.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, finish_compaction_int.

const (
	// mostHeld is how many files are held open at most.
	mostHeld = 64
	// heldFor is for how long, if nothing is heard of the compaction.
	heldFor = 10 * time.Minute
	// compactionEnding is how the file ends that a compaction writes documents to.
	compactionEnding = ".couch.compact.data"
)

// held is a file that is being compacted.
type held struct {
	src   *capture.Source
	heard time.Time
}

// compactionOf returns the path of the database whose compaction writes a file.
func compactionOf(path string) (db string, ok bool) {
	base, ok := strings.CutSuffix(path, compactionEnding)
	return base + ".couch", ok
}

// early are files that were opened when their compaction was told of, which a small one doesn't outlive
// until the next tick.
type early struct {
	mu    sync.Mutex
	files map[string]*os.File // guarded by mu; by path
}

// open opens a database, unless it is open or enough are. It is called by the follower.
func (e *early) open(path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.files[path] != nil || len(e.files) >= mostHeld {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	if e.files == nil {
		e.files = map[string]*os.File{}
	}
	e.files[path] = f
}

func (e *early) take(path string) *os.File {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.files[path]
	delete(e.files, path)
	return f
}

// hold keeps a file open that is being compacted.
func (s *Shipper) hold(nm capture.Name) {
	f := s.early.take(filepath.Join(s.o.Node.DataDir, filepath.FromSlash(nm.Path)))
	if h := s.held[nm]; h != nil || f == nil {
		if h != nil {
			h.heard = time.Now()
		}
		if f != nil {
			_ = f.Close()
		}
		return
	}
	src, err := capture.NewSource(f)
	if err != nil {
		return
	}
	is, l := s.files[nm], src.Local()
	if is == nil || l.Ino != is.Local.Ino || l.Dev != is.Local.Dev || len(s.held) >= mostHeld { // or it has its new file already
		src.Close()
		return
	}
	s.held[nm] = &held{src, time.Now()}
	s.mark(nm) // it may be swapped already
}

// release closes files of which nothing was heard for long.
func (s *Shipper) release(all bool) {
	if all {
		s.early.mu.Lock()
		defer s.early.mu.Unlock()
		for _, f := range s.early.files {
			_ = f.Close()
		}
		s.early.files = nil
	}
	for nm, h := range s.held {
		if all || time.Since(h.heard) > heldFor {
			h.src.Close()
			delete(s.held, nm)
		}
	}
}

// closeGeneration takes what there is of a file that was held, once another one has its place.
func (s *Shipper) closeGeneration(ctx context.Context, t *tick, taker *capture.Taker, e node.Entry) error {
	nm := capture.Name{Root: e.Root, Path: e.Path}
	h, is := s.held[nm], s.files[nm]
	if h == nil || is == nil {
		return nil
	}
	info, err := os.Stat(s.o.Node.Path(&e))
	if err == nil {
		if now, was := capture.LocalOf(info), h.src.Local(); now.Ino == was.Ino && now.Dev == was.Dev {
			return nil // not yet
		}
	}
	defer func() {
		h.src.Close()
		delete(s.held, nm)
	}()
	start := s.unrolled(nm, is)
	known := *start
	got, err := taker.TakeOpen(ctx, e, h.src, &known)
	if err != nil || got.File == nil || got.From != start.File.Size || got.File.Size == got.From || got.File.Header == nil {
		return err
	}
	t.files = append(t.files, took{nm, &capture.Known{File: got.File, Local: got.Local, Damaged: got.Local.Unsound, Whole: is.Whole}, got.From, start, s.o.Now()})
	return nil
}

// fewRanges is how many objects may stay because a generation has a range in each of them.
const fewRanges = 4

// unrolled returns what was known of a generation where the range of it that is to be taken once more begins: before
// the first link of a row that a roll-up would join, if they are more than few; else, as it is.
func (s *Shipper) unrolled(nm capture.Name, is *capture.Known) *capture.Known {
	start, n := is, 0
	for _, l := range slices.Backward(s.links) {
		i := slices.IndexFunc(l.tick.Files, func(f *manifest.TickFile) bool {
			return f.Root == nm.Root && f.Path == nm.Path && f.Generation == is.File.Generation
		})
		if i < 0 {
			continue
		}
		f, was := l.tick.Files[i], l.was[i]
		if was == nil || was.File.Generation != is.File.Generation || large(f) {
			break
		}
		start, n = was, n+1
	}
	if n <= fewRanges {
		return is
	}
	return start
}
