package backup

import (
	"sync"
	"sync/atomic"
)

// Progress counts what runs do; others may read it at any time.
type Progress struct {
	Files     atomic.Int64 // found
	FilesDone atomic.Int64 // read; what is new of them may be on its way yet
	Stored    atomic.Int64 // bytes of segments stored

	planned atomic.Int64 // bytes of files to be taken, as far as is known
	taken   atomic.Int64 // of these, read, or found to be stored
	held    atomic.Int64 // bytes in segments that are not stored yet; added before those taken are

	mu   sync.Mutex
	done int64 // what Bytes said last; guarded by mu
}

// Bytes returns how many bytes of files there are to be taken, as far as is known, and how many of them need nothing any
// more: they are read, and in a stored segment. done never falls, and is less than of while a segment is to be stored. Once
// all is read, of is what that came to. Both are 0 if no file had anything new.
func (p *Progress) Bytes() (of, done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.taken.Load() // before held, so that what is read meanwhile isn't taken for stored
	p.done = max(p.done, taken-p.held.Load())
	// A replay is larger or smaller than the bytes that it makes, so what is held doesn't just add up to what was taken.
	return max(p.planned.Load(), p.taken.Load(), p.done+p.held.Load()), p.done
}

// begin forgets what a run that failed did not store.
func (p *Progress) begin() { p.held.Store(0) }

// allRead makes what was read the whole: files may have shrunk, vanished, or ended with what no header covers.
func (p *Progress) allRead() { p.planned.Store(p.taken.Load()) }
