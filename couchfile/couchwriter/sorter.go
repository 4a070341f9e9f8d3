package couchwriter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Scratch is a file of its own for what must be sorted, empty at the
// beginning. It becomes as large as the id tree's entries, in each pass.
type Scratch interface {
	io.Writer
	io.ReaderAt
}

const (
	// sorterRun is how many bytes of entries are sorted in memory.
	sorterRun = 8 << 20
	// runBuffer is how much of a run is read at once, when runs are merged.
	runBuffer = 64 << 10
)

// sorter puts entries of the id tree into order: by id, and those of the same id by
// their update_seqs. The server does so in a file .compact.meta, of which only its
// state is in the compacted file, in headers of the compaction.
type sorter struct {
	scratch Scratch
	used    int64 // bytes of scratch
	arena   arena
	held    []pair
	size    int // of what is held
	runs    []run
}

// run is entries in order, in the scratch file.
type run struct{ off, n int64 }

// add takes an entry. It copies it.
func (s *sorter) add(p pair) error {
	s.held = append(s.held, pair{s.arena.put(p.raw), p.valueAt})
	if s.size += len(p.raw); s.size < sorterRun {
		return nil
	}
	return s.spill()
}

// spill writes what is held into the scratch file.
func (s *sorter) spill() error {
	s.sort()
	r := run{off: s.used}
	w := bufio.NewWriterSize(s.scratch, runBuffer)
	var head [2 * binary.MaxVarintLen64]byte
	for _, p := range s.held {
		h := binary.AppendUvarint(binary.AppendUvarint(head[:0], uint64(p.valueAt)), uint64(len(p.raw)))
		_, _ = w.Write(h) // Flush tells
		_, _ = w.Write(p.raw)
		r.n += int64(len(h) + len(p.raw))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	s.used += r.n
	s.runs = append(s.runs, r)
	s.held, s.size, s.arena = s.held[:0], 0, arena{}
	return nil
}

func (s *sorter) sort() { slices.SortFunc(s.held, compareEntries) }

// compareEntries orders entries {id, {update_seq, ...}}.
func compareEntries(a, b pair) int {
	if c, _ := Terms(a.key(), b.key()); c != 0 { // binaries
		return c
	}
	c, _ := Terms(firstOf(a.value()), firstOf(b.value())) // integers
	return c
}

// sameID says whether two entries are of the same document.
func sameID(a, b pair) bool { return bytes.Equal(a.key(), b.key()) }

// each calls fn for all entries in their order, and forgets them.
func (s *sorter) each(fn func(pair) error) error {
	s.sort()
	heads := []*runReader{{held: s.held}}
	for _, r := range s.runs {
		heads = append(heads, &runReader{in: bufio.NewReaderSize(io.NewSectionReader(s.scratch, r.off, r.n), runBuffer)})
	}
	s.held, s.size, s.arena, s.runs = nil, 0, arena{}, nil
	heads, err := begin(heads)
	if err != nil {
		return err
	}
	for len(heads) > 0 {
		h := heads[0]
		if err := fn(h.at); err != nil {
			return err
		}
		more, err := h.next()
		if err != nil {
			return err
		}
		if !more {
			heads = heads[1:]
			continue
		}
		to, _ := slices.BinarySearchFunc(heads[1:], h, compareRuns)
		copy(heads, heads[1:1+to])
		heads[to] = h
	}
	return nil
}

func compareRuns(a, b *runReader) int { return compareEntries(a.at, b.at) }

// begin reads the first entry of each run, leaves empty ones out and puts them in order.
func begin(runs []*runReader) (heads []*runReader, err error) {
	for _, r := range runs {
		more, err := r.next()
		if err != nil {
			return nil, err
		}
		if more {
			heads = append(heads, r)
		}
	}
	slices.SortFunc(heads, compareRuns)
	return heads, nil
}

// runReader goes over a run, which is in memory or in the scratch file.
type runReader struct {
	held []pair
	in   *bufio.Reader // nil: in memory
	at   pair
}

func (r *runReader) next() (bool, error) {
	if r.in == nil {
		if len(r.held) == 0 {
			return false, nil
		}
		r.at, r.held = r.held[0], r.held[1:]
		return true, nil
	}
	if _, err := r.in.Peek(1); err == io.EOF {
		return false, nil
	}
	valueAt, err := binary.ReadUvarint(r.in)
	var n uint64
	if err == nil {
		n, err = binary.ReadUvarint(r.in)
	}
	if err != nil || n > maxEntry || valueAt < pairHead || valueAt > n {
		return false, errScratch(err)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r.in, raw); err != nil {
		return false, errScratch(err)
	}
	if _, ok := erlterm.Size(raw[valueAt:]); !ok {
		return false, errScratch(nil)
	}
	r.at = pair{raw, int32(valueAt)}
	return true, nil
}

// maxEntry is more than an entry of the id tree has.
const maxEntry = 1 << 31

// errScratch says that the scratch file gave other bytes than it got.
func errScratch(err error) error {
	if err == nil {
		err = couchfile.ErrCorrupt
	}
	return fmt.Errorf("read the scratch file: %w", err)
}
