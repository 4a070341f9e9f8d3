package replay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"io"
	"iter"
	"math"
	"slices"
)

const (
	copyKnownMagic   = "CouchCKN"
	copyKnownVersion = 1
)

// CopyKnown is what a node remembers of the pieces of a file, some 20 bytes each, so that
// EncodeCopy needs neither that file nor a key that reads a repository.
type CopyKnown struct {
	r    io.ReaderAt
	size int64 // without the checksum

	key    [32]byte
	header int64
	cut    int64
	pieces uint64
}

type pieceHash [16]byte

// knownPiece is a piece of CopyKnown.
type knownPiece struct {
	at   int64 // in the payload
	n    int   // bytes
	hash pieceHash
}

// Header is the offset of the header that the file ended with.
func (k *CopyKnown) Header() int64 { return k.header }

// Size is how many bytes of the file are known: up to the end of that header.
func (k *CopyKnown) Size() int64 { return k.cut }

// OpenCopyKnown opens what WriteCopyKnown or Extend wrote, size bytes, as OpenKnown does.
func OpenCopyKnown(r io.ReaderAt, size int64) (*CopyKnown, error) {
	k := &CopyKnown{r: r, size: size - sha256.Size}
	if err := checkKnown(r, k.size, copyKnownMagic, copyKnownVersion); err != nil {
		return nil, err
	}
	for _, err := range k.all() { // counts them too
		if err != nil {
			return nil, err
		}
	}
	return k, nil
}

// all iterates over the pieces in the order of the file.
func (k *CopyKnown) all() iter.Seq2[knownPiece, error] {
	return func(yield func(knownPiece, error) bool) {
		in := newWireReader(io.NewSectionReader(k.r, 0, k.size), uint64(k.size))
		if err := k.readHead(in); err != nil {
			yield(knownPiece{}, err)
			return
		}
		end := int64(0)
		for n := uint64(0); ; n++ {
			p, err := nextKnown(in, end, payloadLen(k.cut))
			if err == nil && p.n == 0 {
				if k.pieces, err = in.small("pieces", math.MaxInt64); err == nil && k.pieces != n {
					err = damaged("another number of pieces is known")
				}
				if err != nil {
					yield(p, err)
				}
				return
			}
			if !yield(p, err) || err != nil {
				return
			}
			end = p.at + int64(p.n)
		}
	}
}

// nextKnown reads a piece behind end; one without length is none.
func nextKnown(in *wireReader, end, most int64) (p knownPiece, err error) {
	n, err := in.small("what was known", maxPiece+leastPiece)
	if err != nil || n == 0 {
		return p, err
	}
	gap, err := in.small("what was known", uint64(most-end))
	if err == nil && end+int64(gap)+int64(n) > most {
		err = damaged("a piece behind the end is known")
	}
	if err == nil {
		_, err = io.ReadFull(in.r, p.hash[:])
		err = ended("what was known", err)
	}
	p.at, p.n = end+int64(gap), int(n)
	return p, err
}

func (k *CopyKnown) readHead(in *wireReader) error {
	if _, err := in.bytes("what was known", uint64(len(copyKnownMagic)+1)); err != nil {
		return err
	}
	if err := in.sum32("key", &k.key); err != nil {
		return err
	}
	cut, err := in.small("size", math.MaxInt64)
	if err != nil {
		return err
	}
	header, err := in.small("header", cut)
	k.header, k.cut = int64(header), int64(cut)
	return err
}

// copyKnownWriter writes what is known.
type copyKnownWriter struct {
	w     *wireWriter
	out   io.Writer
	key   []byte
	least int
	end   int64
	n     uint64
}

func startCopyKnown(w io.Writer, key [32]byte, f File) *copyKnownWriter {
	k := &copyKnownWriter{w: newWireWriter(w), out: w, key: key[:], least: max(leastPiece, int(f.Size/mostPieces))}
	k.w.raw(append([]byte(copyKnownMagic), copyKnownVersion))
	k.w.raw(key[:])
	k.w.number(uint64(f.Size))
	k.w.number(uint64(f.Header))
	return k
}

func (k *copyKnownWriter) add(p knownPiece) {
	if p.n < k.least {
		return
	}
	k.w.number(uint64(p.n))
	k.w.number(uint64(p.at - k.end))
	k.w.raw(p.hash[:])
	k.end = p.at + int64(p.n)
	k.n++
}

// addFile adds the pieces of a file from from on, which is 0 or the end of a header.
func (k *copyKnownWriter) addFile(f File, from int64) error {
	for p, err := range pieces(f.R, from, f.Size) {
		if err != nil {
			return err
		}
		if len(p.b) >= k.least {
			k.add(knownPiece{p.at, len(p.b), hashPiece(k.key, p.b)})
		}
		if k.w.err != nil {
			return k.w.err
		}
	}
	return nil
}

func hashPiece(key, b []byte) (h pieceHash) {
	s := sha256.New()
	s.Write(key)
	s.Write(b)
	copy(h[:], s.Sum(nil))
	return h
}

func (k *copyKnownWriter) finish() error {
	k.w.number(0)
	k.w.number(k.n)
	return k.w.seal(k.out)
}

// WriteCopyKnown writes what is to be remembered of a file, which it reads whole. key is
// 32 random bytes, which stay on the node with it.
func WriteCopyKnown(w io.Writer, key [32]byte, f File) error {
	k := startCopyKnown(w, key, f)
	if err := k.addFile(f, 0); err != nil {
		return err
	}
	return k.finish()
}

// Extend writes what is to be remembered at a later header of the same file. It reads what
// was appended since. It returns ErrOtherFile if f is shorter than what is known.
func (k *CopyKnown) Extend(w io.Writer, f File) error {
	if f.Size < k.cut {
		return ErrOtherFile
	}
	out := startCopyKnown(w, k.key, f)
	for p, err := range k.all() {
		if err != nil {
			return err
		}
		out.add(p)
	}
	if err := out.addFile(f, k.cut); err != nil {
		return err
	}
	return out.finish()
}

// pieceTable finds pieces by their hashes.
type pieceTable []knownPiece

// table reads the pieces that end within so many bytes of payload.
func (k *CopyKnown) table(most int64) (pieceTable, error) {
	t := make(pieceTable, 0, k.pieces)
	for p, err := range k.all() {
		if err != nil {
			return nil, err
		}
		if p.at+int64(p.n) <= most {
			t = append(t, p)
		}
	}
	slices.SortStableFunc(t, func(a, b knownPiece) int { return cmp.Or(bytes.Compare(a.hash[:], b.hash[:]), cmp.Compare(a.at, b.at)) })
	return t, nil
}

// find returns the place in the table of a piece with that hash, of several one that
// begins at next, if there is, else the first.
func (t pieceTable) find(hash pieceHash, n int, next int64) (int, bool) {
	i, ok := slices.BinarySearchFunc(t, hash, func(p knownPiece, h pieceHash) int { return bytes.Compare(p.hash[:], h[:]) })
	if !ok || t[i].n != n {
		return 0, false
	}
	for j := i; j < len(t) && j < i+maxSame && t[j].hash == hash; j++ {
		if t[j].at == next {
			return j, true
		}
	}
	return i, true
}

// maxSame is how many pieces with the same bytes find looks at.
const maxSame = 16
