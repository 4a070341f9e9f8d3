package couchwriter

import (
	"fmt"
	"io"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Scratch is a file of its own for what must be sorted, empty at the
// beginning. It becomes as large as all documents' records, some four times.
type Scratch interface {
	io.Writer
	io.ReaderAt
}

// Sizes of the lists of a sorter's file.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, record ems.
const (
	backBoneChunk = 10
	chainChunk    = 100
)

// emsort sorts records by id in a file, the .compact.meta of a compaction. It
// does so as the server does, since headers of the compaction say where in
// that file things are. A list in it is {items, offset of the next list}.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl.
type emsort struct {
	f           *File
	compression Compression
	bone        bone // the newest offsets of sorted chains
	kvs, chains int  // added so far

	items         []erlterm.Term // reused
	plain, packed []byte
	inf           couchfile.Inflater
}

// bone is a list of offsets, newest first, and where the older ones are.
type bone struct {
	items []int64
	next  int64 // 0 for none: at 0 is a header
}

// kv is {{id, seq}, what is known of it}.
type kv struct {
	id, seq erlterm.Term
	raw     erlterm.Term
}

func newKV(id, seq, value erlterm.Term) kv {
	raw := make([]byte, 0, 4+len(id)+len(seq)+len(value))
	raw = erlterm.PutTuple(erlterm.PutTuple(raw, 2), 2)
	raw = append(append(append(raw, id...), seq...), value...)
	return kv{id, seq, raw}
}

func (k *kv) value() erlterm.Term { return k.raw[4+len(k.id)+len(k.seq):] }

// chain is a list of sorted records that is being read.
type chain struct {
	items []kv
	next  int64
}

func compareKV(a, b kv) int {
	if c, _ := Terms(a.id, b.id); c != 0 { // binaries
		return c
	}
	c, _ := Terms(a.seq, b.seq) // integers
	return c
}

// add appends the records of one batch.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, add and write_kvs.
func (s *emsort) add(kvs []kv) {
	if len(kvs) == 0 {
		return
	}
	slices.SortFunc(kvs, compareKV)
	w := chainWriter{s: s}
	for _, k := range slices.Backward(kvs) {
		w.push(k)
	}
	s.push(&s.bone, w.end())
	s.kvs += len(kvs)
	s.chains++
}

// chainWriter writes records from the last one to the first.
type chainWriter struct {
	s     *emsort
	items []kv // newest last
	next  int64
}

// push is append_item of couch_emsort.erl for records.
func (w *chainWriter) push(k kv) {
	if len(w.items) >= chainChunk {
		w.next = w.end()
		w.items = w.items[:0]
	}
	w.items = append(w.items, k)
}

func (w *chainWriter) end() int64 {
	items := w.s.items[:0]
	for _, k := range slices.Backward(w.items) {
		items = append(items, k.raw)
	}
	w.s.items = items
	return w.s.list(items, w.next)
}

// push is append_item of couch_emsort.erl for offsets.
func (s *emsort) push(b *bone, off int64) {
	if len(b.items) >= backBoneChunk {
		b.next = s.list(b.terms(), b.next)
		b.items = nil
	}
	b.items = slices.Insert(b.items, 0, off)
}

func (b *bone) terms() []erlterm.Term {
	out := make([]erlterm.Term, len(b.items))
	for i, off := range b.items {
		out[i] = erlterm.PutInt(nil, off)
	}
	return out
}

// list appends {items, next}.
func (s *emsort) list(items []erlterm.Term, next int64) int64 {
	s.plain = putList(append(s.plain[:0], erlterm.Version), items, next)
	s.packed = s.compression.Append(s.packed[:0], s.plain)
	off, _ := s.f.Chunk(s.packed)
	return off
}

func putList(dst []byte, items []erlterm.Term, next int64) []byte {
	dst = erlterm.PutList(erlterm.PutTuple(dst, 2), items)
	if next == 0 {
		return erlterm.PutAtom(dst, "nil")
	}
	return erlterm.PutInt(dst, next)
}

// root is the state's term: undefined, or the newest list of offsets.
func (s *emsort) root() erlterm.Term {
	if s.chains == 0 {
		return erlterm.PutAtom(nil, "undefined")
	}
	return putList(nil, s.bone.terms(), s.bone.next)
}

// read reads {items, next} back. The items are valid until the next call.
func (s *emsort) read(off int64) (items []erlterm.Term, next int64, err error) {
	term, err := s.term(off)
	if err != nil {
		return nil, 0, err
	}
	parts, ok := erlterm.Elements(term)
	if !ok || len(parts) != 2 {
		return nil, 0, fmt.Errorf("list in the scratch file at %d: %w", off, couchfile.ErrCorrupt)
	}
	items, ok = erlterm.Elements(parts[0])
	v, _, isInt := erlterm.Uint(parts[1])
	if !ok || !isInt && !erlterm.IsAtom(parts[1], "nil") {
		return nil, 0, fmt.Errorf("list in the scratch file at %d: %w", off, couchfile.ErrCorrupt)
	}
	return items, int64(v), nil
}

// term reads one term back, into memory of its own.
func (s *emsort) term(off int64) (erlterm.Term, error) {
	p, err := s.f.Payload(off)
	if err != nil {
		return nil, err
	}
	t, err := s.inf.Term(p)
	return slices.Clone(t), err
}

func (s *emsort) chain(off int64) (c chain, err error) {
	items, next, err := s.read(off)
	if err != nil {
		return c, err
	}
	c.next = next
	c.items = make([]kv, 0, len(items))
	for _, raw := range items {
		k := kv{raw: raw}
		rest, ok := erlterm.TupleN(raw[2:], 2)
		if ok {
			k.id, rest, ok = erlterm.Next(rest)
		}
		if ok {
			k.seq, _, ok = erlterm.Next(rest)
		}
		if !ok {
			return c, fmt.Errorf("record in the scratch file at %d: %w", off, couchfile.ErrCorrupt)
		}
		c.items = append(c.items, k)
	}
	return c, nil
}

// merge merges chains until there are ten at most.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, decimate.
func (s *emsort) merge() error {
	for s.bone.next != 0 {
		for _, big := range []bool{false, true} { // links go from large to small, and back
			b, err := s.mergeBone(s.bone, big)
			if err != nil {
				return err
			}
			s.bone = b
		}
	}
	return nil
}

// mergeBone makes one chain of each list of offsets.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, merge_back_bone.
func (s *emsort) mergeBone(b bone, big bool) (out bone, err error) {
	for first := true; ; first = false {
		off, err := s.mergeChains(b.items, big)
		if err != nil {
			return out, err
		}
		if first {
			out.items = []int64{off}
		} else {
			s.push(&out, off)
		}
		if b.next == 0 {
			return out, nil
		}
		items, next, err := s.read(b.next)
		if err != nil {
			return out, err
		}
		b = bone{next: next}
		for _, t := range items {
			v, _, _ := erlterm.Uint(t)
			b.items = append(b.items, int64(v))
		}
	}
}

func (s *emsort) mergeChains(offs []int64, big bool) (int64, error) {
	w := chainWriter{s: s}
	err := s.each(offs, big, func(k kv) error {
		w.push(k)
		return nil
	})
	return w.end(), err
}

// each calls fn for the records of some chains in their order, or the other
// way if big.
//
// Source: CouchDB 3.5, src/couch/src/couch_emsort.erl, init_chains and choose_kv.
func (s *emsort) each(offs []int64, big bool, fn func(kv) error) error {
	compare := func(a, b chain) int {
		if c := compareKV(a.items[0], b.items[0]); !big {
			return c
		} else { //nolint:revive // both ways beside each other
			return -c
		}
	}
	var chains []chain
	for _, off := range offs {
		c, err := s.chain(off)
		if err != nil {
			return err
		}
		chains = append(chains, c)
	}
	slices.SortStableFunc(chains, compare)
	for len(chains) > 0 {
		c := chains[0]
		if err := fn(c.items[0]); err != nil {
			return err
		}
		if c.items = c.items[1:]; len(c.items) == 0 {
			if c.next == 0 {
				chains = chains[1:]
				continue
			}
			var err error
			if c, err = s.chain(c.next); err != nil {
				return err
			}
		}
		at, _ := slices.BinarySearchFunc(chains[1:], c, compare)
		copy(chains, chains[1:1+at])
		chains[at] = c
	}
	return nil
}
