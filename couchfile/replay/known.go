package replay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

const (
	knownMagic   = "CouchKNW"
	knownVersion = 1
)

// ErrOtherFile says that a file doesn't continue what Known is of.
var ErrOtherFile = errors.New("the file is not the one that is known")

// File is a database file of Size bytes, cut behind the header at Header.
type File struct {
	R            io.ReaderAt
	Size, Header int64
}

// Known is what a node remembers of a file at a cut, some 9 bytes a document,
// so that Encode needs neither that file nor a key that reads a repository.
type Known struct {
	r    io.ReaderAt
	size int64 // without the checksum

	key       [32]byte
	header    int64
	updateSeq uint64
	docs      uint64
}

// knownDoc is a document of Known.
type knownDoc struct {
	seq  uint64
	hash docHash
}

// Docs is how many documents are known, deleted ones too.
func (k *Known) Docs() uint64 { return k.docs }

// UpdateSeq is the update_seq of the header that is known.
func (k *Known) UpdateSeq() uint64 { return k.updateSeq }

// Header is the offset of the header that is known.
func (k *Known) Header() int64 { return k.header }

// OpenKnown opens what WriteKnown or Extend wrote, size bytes. It reads all of
// it once: any byte that is wrong is a couchfile.ErrCorrupt, and what was known
// is to be treated as lost. A version that it doesn't know is ErrVersion.
func OpenKnown(r io.ReaderAt, size int64) (*Known, error) {
	k := &Known{r: r, size: size - sha256.Size}
	if err := checkKnown(r, k.size, knownMagic, knownVersion); err != nil {
		return nil, err
	}
	for _, err := range k.all() { // counts them too
		if err != nil {
			return nil, err
		}
	}
	return k, nil
}

// checkKnown checks the version and checksum of what was remembered.
func checkKnown(r io.ReaderAt, size int64, magic string, version byte) error {
	head := make([]byte, len(magic)+1)
	if size < int64(len(head)) {
		return damaged("what was known is too short")
	}
	if _, err := r.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read what was known: %w", err)
	}
	if string(head[:len(magic)]) != magic {
		return damaged("nothing that was known")
	}
	if v := head[len(magic)]; v != version {
		return fmt.Errorf("%w: what was known is of version %d, this program reads %d", ErrVersion, v, version)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, size)); err != nil {
		return fmt.Errorf("read what was known: %w", err)
	}
	want := make([]byte, sha256.Size)
	if _, err := r.ReadAt(want, size); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read what was known: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return damaged("the checksum of what was known is wrong")
	}
	return nil
}

// all iterates over the documents in the order of their sequences.
func (k *Known) all() iter.Seq2[knownDoc, error] {
	return func(yield func(knownDoc, error) bool) {
		in := newWireReader(io.NewSectionReader(k.r, 0, k.size), uint64(k.size))
		if err := k.readHead(in); err != nil {
			yield(knownDoc{}, err)
			return
		}
		var d knownDoc
		for n := uint64(0); ; n++ {
			gap, err := in.number("what was known")
			if err == nil && gap == 0 {
				if k.docs, err = in.small("documents", math.MaxInt64); err == nil && k.docs != n {
					err = damaged("another number of documents is known")
				}
				if err != nil {
					yield(d, err)
				}
				return
			}
			if err == nil {
				d.seq += gap - 1
				_, err = io.ReadFull(in.r, d.hash[:])
				err = ended("what was known", err)
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

func (k *Known) readHead(in *wireReader) error {
	if _, err := in.bytes("what was known", uint64(len(knownMagic)+1)); err != nil {
		return err
	}
	if err := in.sum32("key", &k.key); err != nil {
		return err
	}
	header, err := in.small("header", math.MaxInt64)
	if err != nil {
		return err
	}
	k.header = int64(header)
	k.updateSeq, err = in.number("update_seq")
	return err
}

// knownWriter writes what is known.
type knownWriter struct {
	w    *wireWriter
	out  io.Writer
	last uint64
	n    uint64
}

func startKnown(w io.Writer, key [32]byte, h couchfile.Header) *knownWriter {
	k := &knownWriter{w: newWireWriter(w), out: w}
	k.w.raw(append([]byte(knownMagic), knownVersion))
	k.w.raw(key[:])
	k.w.number(uint64(h.Offset))
	k.w.number(h.UpdateSeq)
	return k
}

func (k *knownWriter) add(d knownDoc) {
	k.w.number(d.seq - k.last + 1)
	k.w.raw(d.hash[:])
	k.last = d.seq
	k.n++
}

func (k *knownWriter) end() error {
	k.w.number(0)
	k.w.number(k.n)
	return k.w.seal(k.out)
}

// WriteKnown writes what is to be remembered of a file, all of whose documents
// it reads. key is 32 random bytes, which stay on the node with it.
func WriteKnown(w io.Writer, key [32]byte, f File) error {
	db, err := couchfile.OpenOffset(f.R, f.Size, f.Header)
	if err != nil {
		return err
	}
	k := startKnown(w, key, db.Header())
	if err := k.addDocs(db, f, 0, key); err != nil {
		return err
	}
	return k.end()
}

// addDocs adds the documents behind a sequence.
func (k *knownWriter) addDocs(db *couchfile.DB, f File, since uint64, key [32]byte) error {
	h := hasher{key: key}
	chunks := couchfile.NewChunkReader(f.R, f.Size)
	for e, err := range db.SeqTree().All(&couchfile.Key{Seq: since + 1}, false) {
		if err != nil {
			return err
		}
		seq, ok := seqOf(e)
		if !ok || seq < k.last {
			return damaged("update_seq of a document")
		}
		d := knownDoc{seq: seq}
		if r, err := couchwriter.ParseRecord(e); err == nil {
			d.hash = h.hash(r, chunks)
		}
		k.add(d)
		if k.w.err != nil {
			return k.w.err
		}
	}
	return nil
}

func seqOf(e couchfile.Entry) (uint64, bool) {
	seq, _, ok := erlterm.Uint(e.Key)
	return seq, ok
}

// Extend writes what is to be remembered at a later header of the same file. It
// reads the documents that are new since, and looks up which they replaced. It
// returns ErrOtherFile if f isn't the file that is known, or doesn't add up.
func (k *Known) Extend(w io.Writer, f File) error {
	older, err := couchfile.OpenOffset(f.R, f.Size, k.header)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOtherFile, err)
	}
	newer, err := couchfile.OpenOffset(f.R, f.Size, f.Header)
	if err != nil {
		return err
	}
	if older.Header().UpdateSeq != k.updateSeq || f.Header < k.header {
		return ErrOtherFile
	}
	gone, err := replaced(older, newer)
	if err != nil {
		return err
	}
	out := startKnown(w, k.key, newer.Header())
	for d, err := range k.all() {
		if err != nil {
			return err
		}
		if _, found := slices.BinarySearch(gone, d.seq); !found {
			out.add(d)
		}
	}
	if err := out.addDocs(newer, f, k.updateSeq, k.key); err != nil {
		return err
	}
	info, err := newer.Info()
	if err != nil {
		return err
	}
	if info.DocCount+info.DeletedCount != out.n {
		return fmt.Errorf("%w: it has %d documents, not %d", ErrOtherFile, info.DocCount+info.DeletedCount, out.n)
	}
	return out.end()
}

// lookedUp is how many documents at a time are looked up in the older tree.
const lookedUp = 1 << 16

// replaced returns the sequences of documents of older that newer has no more,
// in order.
func replaced(older, newer *couchfile.DB) (gone []uint64, err error) {
	now := map[string]uint64{} // sequences, 0 of documents that are gone
	look := func() error {
		ids := slices.Collect(maps.Keys(now))
		for was, err := range older.Lookup(ids) {
			if err != nil {
				return err
			}
			if was.UpdateSeq != now[was.ID] {
				gone = append(gone, was.UpdateSeq)
			}
		}
		clear(now)
		return nil
	}
	for d, err := range newer.Changes(older.Header().UpdateSeq, false) {
		if err != nil {
			return nil, err
		}
		if now[d.ID] = d.UpdateSeq; len(now) == lookedUp {
			if err := look(); err != nil {
				return nil, err
			}
		}
	}
	if err := look(); err != nil {
		return nil, err
	}
	purged, err := purgedDocs(older, newer)
	if err != nil {
		return nil, err
	}
	for d, err := range newer.Lookup(slices.Clone(purged)) {
		if err != nil {
			return nil, err
		}
		now[d.ID] = d.UpdateSeq
	}
	for _, id := range purged {
		now[id] += 0
	}
	if err := look(); err != nil {
		return nil, err
	}
	slices.Sort(gone)
	return slices.Compact(gone), nil
}

// purgedDocs returns the ids of the documents that newer has purges of, and older not.
func purgedDocs(older, newer *couchfile.DB) (ids []string, err error) {
	info, err := older.Info()
	if err != nil {
		return nil, err
	}
	for p, err := range newer.Purges(info.PurgeSeq) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, p.DocID)
	}
	return ids, nil
}
