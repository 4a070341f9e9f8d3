package couchfile

import (
	"errors"
	"fmt"
)

// Bounds on one pass over a file. What a header of CouchDB's reaches fits the
// file, since no two pieces share bytes; so a pass that wants several times as
// much is led in circles. A hole of a sparse file costs nothing to make and is
// worth little: what a pass reads is bounded by the bytes that are really there
// too. A tool that copies files may turn zeros into holes, which is no damage.
const (
	passFactor   = 4       // times the size of the file that a pass reads
	passFree     = 1 << 20 // bytes that it reads on top, for small files
	sparseFactor = 64      // times the bytes that are really there
	sparseFree   = 8 << 20

	leastPiece = 32   // what a piece costs at least
	leastNode  = 128  // what a node costs at least
	badPiece   = 1024 // what one costs that can't be read

	inflateFactor = 128 // times the above that all its terms may become, decompressed
	inflateMore   = 128 << 20

	maxTerm = 512 << 20 // bytes of one node or document: more than any server could handle
	maxHeld = 1 << 30   // bytes that all buffers of a pass may take

	mostRevs        = 1 << 20 // revisions of a document
	mostAttachments = 1 << 17 // attachments of a revision
)

var (
	errBudget = errors.New("its pieces are larger than the file itself")
	errHeld   = errors.New("needs more memory than the file is worth")
	errTerm   = fmt.Errorf("larger than %d bytes", maxTerm)
)

// budget is what a pass over a file may still cost. All readers of the pass
// share it. It is not safe for concurrent use; a nil budget bounds nothing.
type budget struct {
	src      *source
	limit    int64 // bytes of pieces
	spent    int64
	inflated int64 // bytes of terms that were decompressed
	held     int64 // bytes of buffers
	fixed    bool  // limit is not the file's
}

// newBudget returns the budget of a pass over src. How much of the file is
// really there is only asked once it matters.
func newBudget(src *source) *budget {
	return &budget{src: src, limit: min(src.whole(), sparseFree)}
}

// pathMost is what the nodes on one path of a tree of small records may take.
const pathMost = 1 << 20

// newPathBudget is the budget of one such path. A file may have as many of them
// as headers.
func newPathBudget(src *source) *budget {
	return &budget{src: src, limit: min(src.whole(), pathMost), fixed: true}
}

// spend takes the n bytes of the piece at off off the budget.
func (b *budget) spend(off int64, what string, n int64) error {
	if b == nil {
		return nil
	}
	b.spent += max(n, leastPiece)
	if b.spent <= b.limit {
		return nil
	}
	if !b.fixed {
		b.limit = b.src.allowance()
	}
	if b.spent <= b.limit {
		return nil
	}
	return corrupt(off, what, errBudget)
}

// inflate takes the n bytes that a stored term becomes off the budget.
func (b *budget) inflate(n int64) error {
	if n > maxTerm {
		return errTerm
	}
	if b == nil {
		return nil
	}
	b.inflated += n
	if b.inflated <= inflateMore || b.inflated/inflateFactor <= b.src.allowance() {
		return nil
	}
	return errBudget
}

// hold notes that n more bytes of memory are in use; n is negative if some are
// given back.
func (b *budget) hold(n int64) error {
	if b == nil {
		return nil
	}
	b.held += n
	if n <= 0 || b.held <= inflateFree {
		return nil
	}
	if b.held > maxHeld || b.held-inflateFree > inflateRatio*b.src.allowance() {
		b.held -= n
		return errHeld
	}
	return nil
}

// whole is what a pass may read of a file without holes.
func (s *source) whole() int64 { return passFactor*min(s.size, 1<<60) + passFree }

// allowance is what a pass may read of the file. It looks for holes once.
func (s *source) allowance() int64 {
	s.holes.Do(func() {
		s.allowed = min(s.whole(), sparseFree+sparseFactor*min(s.present(), 1<<56))
	})
	return s.allowed
}
