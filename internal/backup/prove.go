package backup

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/state"
)

// doubt is why a file is read whole, as the notes of the backup say it.
type doubt string

const (
	noDoubt doubt = ""
	asked   doubt = "as --prove says"
	oldest  doubt = "since the state in this node was written by a version that proved less"
	moved   doubt = "since they are on another device or inode than before"
	times   doubt = "since their times went back, or stood still though their sizes changed"
	booted  doubt = "since the machine was started anew after the backup before"
	touched doubt = "since their times changed and their sizes did not, which is not CouchDB's doing"
	due     doubt = "since prove_interval is over for them"
)

// doubts in the order of their notes. That somebody asked is no news.
var doubts = []doubt{oldest, moved, times, touched, booted, due}

// sayings are capture's doubts in those words.
var sayings = map[string]doubt{capture.Moved: moved, capture.Times: times, capture.Touched: touched, capture.Booted: booted}

// proofs decides which files are read whole, and gathers what came of it.
type proofs struct {
	all      doubt         // why every file is; noDoubt if it isn't so
	booted   bool          // or it can't be known
	since    time.Time     // when the backup before was started
	now      time.Time     // when this one was
	interval time.Duration // after which a file is proven again; 0 is never

	mu       sync.Mutex
	proven   map[doubt]*proven // guarded by mu, like what follows
	wentBack []string
}

type proven struct{ files, bytes int64 }

func newProofs(o *Options, parent *state.State, started time.Time) *proofs {
	p := &proofs{booted: parent.Boot == "" || parent.Boot != state.BootID(), since: parent.Summary.Started, now: started, interval: o.ProveInterval, proven: map[doubt]*proven{}}
	switch {
	case o.Prove:
		p.all = asked
	case parent.Unproven:
		p.all = oldest
	}
	return p
}

// doubt says why a file must be read whole although the backup before knows it; see capture.Doubt.
func (p *proofs) doubt(nm capture.Name, was, is *capture.Local) doubt {
	if p.all != noDoubt {
		return p.all
	}
	if why := capture.Doubt(was, is, p.booted, p.since); why != "" {
		return sayings[why]
	}
	if p.due(nm, was.Proven) {
		return due
	}
	return noDoubt
}

// due reports whether a file is to be proven again, having been at a time in Unix
// seconds. That is after half to all of the interval, as chance has it, so that files
// of one day don't stay files of one day. A time to come is a clock's error.
func (p *proofs) due(nm capture.Name, at int64) bool {
	age := p.now.Sub(time.Unix(at, 0))
	part := time.Duration(xxh3.HashStringSeed(nm.Path, uint64(at)) % 1024)
	return p.interval > 0 && (age < -time.Hour || age >= p.interval/2+p.interval/2048*part)
}

func (p *proofs) found(d doubt, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proven[d] == nil {
		p.proven[d] = &proven{}
	}
	p.proven[d].files++
	p.proven[d].bytes += size
}

func (p *proofs) foundBack(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wentBack = append(p.wentBack, path)
}

// notes says what was read whole and what came of it.
func (p *proofs) notes() (out []string) {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wentBack) > 0 {
		slices.Sort(p.wentBack)
		out = append(out, "went back in time: files don't begin any more with what the backup before holds of them, as after a power cut, a rollback of the disk, or an older copy put back; read and stored whole: "+joinShort(p.wentBack))
	}
	for _, d := range doubts {
		if f := p.proven[d]; f != nil {
			out = append(out, fmt.Sprintf("read whole, %s, and found as the backup before holds them: files: %d, bytes: %d", d, f.files, f.bytes))
		}
	}
	return out
}
