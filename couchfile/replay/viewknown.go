package replay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

const (
	knownViewMagic   = "CouchKNV"
	knownViewVersion = 1

	// knownShare is of how many bytes of a file one may be remembered, and knownRunSize
	// about how many bytes a run takes.
	knownShare, knownRunSize = 64, 10
	// mostRuns is how many runs of a tree are remembered at most, about.
	mostRuns = 4 << 20
	// sampledRows is by how many rows of a tree the number of all is guessed.
	sampledRows = 1000
	// longestRun is how many runs one has at most that a key ought to have ended before.
	longestRun = 64
)

// KnownView is what a node remembers of a view index at a cut: hashes of runs of
// rows, whose ends follow from the keys of their rows, so that what is inserted or
// removed changes the run that it is in.
type KnownView struct {
	key       [32]byte
	header    int64
	updateSeq uint64
	rows      uint64
	trees     []knownRows
}

// knownRows are the runs of a tree.
type knownRows struct {
	every uint64 // how many rows a run has about
	runs  []knownRunAt
	order []uint32 // of their hashes; nil until it is needed
}

type knownRunAt struct {
	hash docHash
	n    uint64 // rows
	at   uint64 // rows in front of it
}

// Header is the offset of the header that is known.
func (k *KnownView) Header() int64 { return k.header }

// UpdateSeq is the update_seq of the header that is known.
func (k *KnownView) UpdateSeq() uint64 { return k.updateSeq }

// Rows is how many rows are known, of all trees.
func (k *KnownView) Rows() uint64 { return k.rows }

// find finds a run that is not in front of the one that is next.
func (r *knownRows) find(h docHash, next int) (i int, found bool) {
	if next < len(r.runs) && r.runs[next].hash == h {
		return next, true
	}
	if r.order == nil {
		r.order = make([]uint32, len(r.runs))
		for i := range r.order {
			r.order[i] = uint32(i)
		}
		slices.SortFunc(r.order, func(a, b uint32) int { return cmp.Or(r.compare(a, r.runs[b].hash), cmp.Compare(a, b)) })
	}
	i, found = slices.BinarySearchFunc(r.order, h, func(i uint32, h docHash) int { return r.compare(i, h) })
	if !found || int(r.order[i]) < next {
		return 0, false
	}
	return int(r.order[i]), true
}

func (r *knownRows) compare(i uint32, h docHash) int { return bytes.Compare(r.runs[i].hash[:], h[:]) }

// runs cuts the rows of a tree into runs.
type runs struct {
	key   [32]byte
	every uint64
	sum   hash.Hash
	n     uint64 // rows of the run
	buf   []byte
}

func newRuns(key [32]byte, every uint64) *runs {
	r := &runs{key: key, every: every, sum: sha256.New()}
	r.sum.Write(key[:])
	return r
}

// add adds a row, and says whether the run ends with it.
func (r *runs) add(e couchfile.Entry) bool {
	r.buf = appendStr(appendStr(r.buf[:0], e.Key), e.Value)
	r.sum.Write(r.buf)
	r.n++
	return xxh3.HashSeed(e.Key, binary.LittleEndian.Uint64(r.key[:]))%r.every == 0 || r.n >= longestRun*r.every
}

// end is the hash of the run. Another begins.
func (r *runs) end() (h docHash, n uint64) {
	copy(h[:], r.sum.Sum(nil))
	n = r.n
	r.sum.Reset()
	r.sum.Write(r.key[:])
	r.n = 0
	return h, n
}

// WriteKnownView writes what is to be remembered of a view index, all of whose
// rows it reads: less than 2 % of File.Size, and the more exactly the more of the file is
// not in its trees any more. key is 32 random bytes, which stay on the node with it.
func WriteKnownView(w io.Writer, key [32]byte, f File) error {
	index, trees, err := openView(f)
	if err != nil {
		return err
	}
	out := newWireWriter(w)
	out.raw(append([]byte(knownViewMagic), knownViewVersion))
	out.raw(key[:])
	out.number(uint64(f.Header))
	out.number(index.Header().UpdateSeq)
	live := int64(0)
	for _, t := range trees {
		live += max(t.Root.Size, 0)
	}
	for _, t := range trees {
		every, err := rowsOfRun(t, f.Size, live)
		if err != nil {
			return err
		}
		out.number(every)
		if err := writeRuns(out, newRuns(key, every), t); err != nil {
			return err
		}
	}
	out.number(0)
	return out.seal(w)
}

// rowsOfRun is how many rows a run of a tree has about. size is that of the file of which
// the tree's share is remembered.
func rowsOfRun(t *couchfile.Tree, size, live int64) (uint64, error) {
	rows, stored := int64(0), int64(0)
	var node, packed []byte
	for e, err := range t.All(nil, false) {
		if err != nil {
			return 0, err
		}
		node = append(append(node, e.Key...), e.Value...)
		if rows++; len(node) > couchwriter.DefaultChunkSize || rows == sampledRows {
			packed = couchwriter.Snappy.Append(packed[:0], node)
			stored, node = stored+int64(len(packed)), node[:0]
		}
		if rows == sampledRows {
			break
		}
	}
	if stored == 0 {
		return sampledRows, nil // it has one leaf
	}
	own := max(t.Root.Size, stored)
	all := float64(rows) * float64(own) / float64(stored)
	most := float64(size) * float64(own) / float64(max(live, own)) / (knownShare * knownRunSize)
	return uint64(1 + all/max(1, min(most, mostRuns))), nil
}

func writeRuns(out *wireWriter, r *runs, t *couchfile.Tree) error {
	put := func() {
		h, n := r.end()
		out.number(n)
		out.raw(h[:])
	}
	for e, err := range t.All(nil, false) {
		if err != nil {
			return err
		}
		if r.add(e) {
			put()
		}
		if out.err != nil {
			return out.err
		}
	}
	if r.n > 0 {
		put()
	}
	out.number(0)
	return out.err
}

// OpenKnownView reads what WriteKnownView wrote, size bytes, into memory, some 28
// bytes a run. Any byte that is wrong is a couchfile.ErrCorrupt, and what was known is
// to be treated as lost. A version that it doesn't know is ErrVersion.
func OpenKnownView(r io.ReaderAt, size int64) (*KnownView, error) {
	size -= sha256.Size
	if err := checkKnown(r, size, knownViewMagic, knownViewVersion); err != nil {
		return nil, err
	}
	in := newWireReader(io.NewSectionReader(r, 0, size), uint64(size))
	k := &KnownView{}
	if err := k.read(in, uint64(len(knownViewMagic)+1)); err != nil {
		return nil, err
	}
	if in.left != 0 {
		return nil, damaged("more was known than there should be")
	}
	return k, nil
}

func (k *KnownView) read(in *wireReader, head uint64) error {
	const what = "what was known"
	if _, err := in.bytes(what, head); err != nil {
		return err
	}
	if err := in.sum32(what, &k.key); err != nil {
		return err
	}
	header, err := in.small(what, math.MaxInt64)
	if err != nil {
		return err
	}
	k.header = int64(header)
	if k.updateSeq, err = in.number(what); err != nil {
		return err
	}
	for {
		every, err := in.small(what, math.MaxInt32)
		if err != nil || every == 0 {
			return err
		}
		t := knownRows{every: every}
		if err := t.read(in); err != nil {
			return err
		}
		for _, r := range t.runs {
			k.rows += r.n
		}
		k.trees = append(k.trees, t)
	}
}

func (t *knownRows) read(in *wireReader) error {
	at := uint64(0)
	for {
		n, err := in.small("what was known", math.MaxInt32)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		r := knownRunAt{n: n, at: at}
		b, err := in.bytes("what was known", uint64(len(r.hash)))
		if err != nil {
			return err
		}
		copy(r.hash[:], b)
		if t.runs = append(t.runs, r); len(t.runs) > math.MaxInt32 {
			return damaged("more runs of rows than there can be")
		}
		at += n
	}
}
