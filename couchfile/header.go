package couchfile

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// HeaderKind tells whose header a block holds.
type HeaderKind uint8

const (
	HeaderUnknown    HeaderKind = iota
	HeaderDB                    // db_header: a commit of a database
	HeaderView                  // {signature, state}: a commit of a view index
	HeaderCompaction            // comp_header: a stage of a compaction
)

func (k HeaderKind) String() string {
	switch k {
	case HeaderDB:
		return "database"
	case HeaderView:
		return "view"
	case HeaderCompaction:
		return "compaction"
	}
	return "unknown"
}

// RawHeader is a header block whose checksum is right, before its meaning.
type RawHeader struct {
	Offset   int64 // of the marker byte; a multiple of BlockSize
	End      int64 // first byte behind the header: where a cut keeps it
	Checksum ChecksumKind
	Kind     HeaderKind
	Term     []byte // external term with its version byte, 131
	Raw      []byte // the bytes on disk from Offset to End, markers included
}

// maxHeaderTerm bounds the term of a header. Real ones have some 150 bytes,
// those of large view groups a few kilobytes. The server has no bound; ours
// keeps a file of forged markers from costing more than a few passes.
const maxHeaderTerm = 1 << 20

// After as many bytes of blocks that looked like headers and were not as the
// file has, and forgedFree more, only headers up to forgedMax are believed.
const (
	forgedFree = 4 << 20
	forgedMax  = 16 << 10
)

// sparseAfter is how far FindHeader goes back before it looks for holes.
const sparseAfter = 1 << 20

// backStep is how much FindHeader reads at once going back, but the first
// step is small because a file at rest ends with its header.
const backStep = 64 << 10

// FindHeader returns the newest header whose checksum is right, going back
// from the end of the file block by block as the server does. What the header
// holds is not part of the test. It returns ErrNoHeader if there is none down
// to block 0.
//
// It reads the bytes behind the newest header, at most 64 KiB below its
// start, and the bytes of blocks that only look like headers. It skips the
// holes of a sparse file, if the reader knows them: see Sparse.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, find_header and
// find_newest_header.
func FindHeader(r io.ReaderAt, size int64) (RawHeader, error) {
	return findHeader(newSource(r, size, lookupShift, 1), size)
}

// findHeader is FindHeader among the headers that start below limit.
func findHeader(src *source, limit int64) (RawHeader, error) {
	hi := limit // exclusive
	step := int64(2 * BlockSize)
	var buf []byte
	for hi > 0 {
		if limit-hi > sparseAfter {
			if below := src.holeBelow(hi); below < hi {
				if err := src.done(); err != nil {
					return RawHeader{}, err
				}
				hi = below
				continue
			}
		}
		lo := max(0, lastBlock(hi)+BlockSize-step)
		if int64(len(buf)) < hi-lo {
			buf = make([]byte, hi-lo)
		}
		win := buf[:hi-lo]
		if err := src.readFull(win, lo); err != nil {
			return RawHeader{}, err
		}
		h, err := newestIn(src, win, lo)
		if !errors.Is(err, ErrNoHeader) {
			return h, err
		}
		hi, step = lo, backStep
	}
	return RawHeader{}, ErrNoHeader
}

// newestIn looks at the block starts of win, which lies at lo, from the end.
func newestIn(src *source, win []byte, lo int64) (RawHeader, error) {
	last := int64(len(win)-1) / BlockSize * BlockSize
	for i := last; i >= 0; i -= BlockSize {
		if win[i] != 1 {
			continue
		}
		h, err := readHeader(src, lo+i, win[i:])
		if !errors.Is(err, ErrCorrupt) {
			return h, err
		}
	}
	return RawHeader{}, ErrNoHeader
}

// ReadHeader reads the header that starts at off, a multiple of BlockSize. It
// returns a *CorruptError if there is none whose checksum is right.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, load_header.
func ReadHeader(r io.ReaderAt, size, off int64) (RawHeader, error) {
	return readHeader(newSource(r, size, lookupShift, 1), off, nil)
}

// readHeader reads the header at off; have holds what is known of the file
// from off on and may be empty.
func readHeader(src *source, off int64, have []byte) (RawHeader, error) {
	var h RawHeader
	if off < 0 || off%BlockSize != 0 || src.size-off < 5 {
		return h, corrupt(off, "header", errBeyondEnd)
	}
	var prefix [5]byte
	if copy(prefix[:], have) < 5 {
		if err := src.readFull(prefix[:], off); err != nil {
			return h, err
		}
	}
	n := int64(binary.BigEndian.Uint32(prefix[1:]))
	if prefix[0] != 1 || n <= checksumLen || n-checksumLen > maxHeaderTerm || src.forged > src.size+forgedFree && n > forgedMax {
		return h, corrupt(off, "header", errShape)
	}
	end := off + rawLen(off, 4+n)
	if end > src.size {
		return h, corrupt(off, "header", errBeyondEnd)
	}
	stored := min(storedEnd(end), src.size)
	raw := make([]byte, stored-off)
	if got := copy(raw, have); got < len(raw) {
		if err := src.readFull(raw[got:], off+int64(got)); err != nil {
			return h, err
		}
	}
	h, err := parseHeader(raw, off, end)
	if err != nil {
		src.forged += n
	}
	return h, err
}

// parseHeader verifies the header in raw, which starts at off and whose
// payload ends at end.
func parseHeader(raw []byte, off, end int64) (RawHeader, error) {
	data := append([]byte(nil), raw[1:end-off]...)
	data, _ = stripMarkers(data, off+1)
	sum, term := data[4:4+checksumLen], data[4+checksumLen:]
	kind := matchChecksum(term, sum, XXH3)
	if kind == ChecksumNone {
		return RawHeader{}, corrupt(off, "header", errChecksum)
	}
	return RawHeader{
		Offset: off, End: off + int64(len(raw)), Checksum: kind,
		Kind: headerKind(term), Term: term, Raw: raw,
	}, nil
}

// headerKind tells a header's owner by the shape of its term.
func headerKind(term []byte) HeaderKind {
	t, err := erlterm.Parse(term)
	if err != nil {
		return HeaderUnknown
	}
	n, rest, ok := erlterm.Tuple(t)
	switch {
	case !ok || n == 0:
		return HeaderUnknown
	case erlterm.IsAtom(rest, "db_header"):
		return HeaderDB
	case erlterm.IsAtom(rest, "comp_header"):
		return HeaderCompaction
	case n == 2 && rest[0] == erlterm.TagBinary:
		return HeaderView
	}
	return HeaderUnknown
}

// EachHeader calls fn for every header whose checksum is right, in file
// order, until fn returns an error, which it passes on. It reads the whole
// file once, in large blocks, but for the holes of a sparse one.
func EachHeader(r io.ReaderAt, size int64, fn func(RawHeader) error) error {
	src := newSource(r, size, walkShift, 1)
	buf := make([]byte, min(4*backStep, max(size, 0)))
	next := int64(0)                                                  // lowest block start that is no part of a header seen
	for lo := int64(0); lo >= 0 && lo < size; lo += int64(len(buf)) { // it may overflow at the end
		win := buf[:min(int64(len(buf)), size-lo)]
		if err := src.readFull(win, lo); err != nil {
			return err
		}
		if size-lo > sparseAfter && allZero(win) {
			if from, _ := src.nextData(lo + int64(len(win))); from-lo > 2*int64(len(buf)) {
				lo = from/BlockSize*BlockSize - int64(len(buf))
			}
			continue
		}
		for i := int64(0); i < int64(len(win)); i += BlockSize {
			if win[i] != 1 || lo+i < next {
				continue
			}
			h, err := readHeader(src, lo+i, win[i:])
			if errors.Is(err, ErrCorrupt) {
				continue
			}
			if err != nil {
				return err
			}
			next = h.End
			if err := fn(h); err != nil {
				return err
			}
		}
	}
	return nil
}
