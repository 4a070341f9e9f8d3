package replay

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// summary is what the chunk of a body holds.
type summary struct {
	body []byte // as it is stored
	atts []attachment
}

// attachment is an attachment in a summary: {name, type, pointers, length,
// decoded length, position, MD5, encoding}.
type attachment struct {
	fields []erlterm.Term
	chunks []part
}

// Places in an attachment.
const (
	attPointers = 2
	attLength   = 3
	attMD5      = 6
	attFields   = 8
)

// part is a pointer to a chunk of an attachment.
type part struct {
	off    int64
	length uint64 // of what it holds
}

// splitSummary takes {body, attachments} apart, as the compactor does.
func splitSummary(p []byte) (s summary, err error) {
	var list erlterm.Term
	if s.body, list, err = couchwriter.SplitSummary(p); err != nil {
		return s, err
	}
	if len(list) == 1 && list.Tag() == erlterm.TagNil {
		return s, nil
	}
	items, ok := erlterm.Elements(list)
	if !ok {
		return s, damaged("list of attachments")
	}
	for _, item := range items {
		a := attachment{}
		if a.fields, ok = erlterm.Elements(item); !ok || item.Tag() != erlterm.TagSmallTuple || len(a.fields) != attFields {
			return s, damaged("attachment")
		}
		if a.chunks, err = parts(a.fields[attPointers]); err != nil {
			return s, err
		}
		s.atts = append(s.atts, a)
	}
	return s, nil
}

// parts reads a list of {offset, length}.
func parts(pointers erlterm.Term) (out []part, err error) {
	items, ok := erlterm.Elements(pointers)
	if !ok {
		return nil, damaged("pointers of an attachment")
	}
	for _, p := range items {
		pair, ok := erlterm.Elements(p)
		if !ok || len(pair) != 2 {
			return nil, damaged("pointer of an attachment")
		}
		off, _, okOff := erlterm.Uint(pair[0])
		n, _, okLen := erlterm.Uint(pair[1])
		if !okOff || !okLen || off > 1<<62 || n > 1<<31 {
			return nil, damaged("pointer of an attachment")
		}
		out = append(out, part{int64(off), n})
	}
	return out, nil
}

// list is the list of attachments with others for their pointers.
func (s *summary) list(pointers func([]part) erlterm.Term) erlterm.Term {
	if len(s.atts) == 0 {
		return noList
	}
	items := make([]erlterm.Term, len(s.atts))
	for i, a := range s.atts {
		t := erlterm.PutTuple(nil, len(a.fields))
		for at, f := range a.fields {
			if at == attPointers {
				f = pointers(a.chunks)
			}
			t = append(t, f...)
		}
		items[i] = t
	}
	return erlterm.PutList(nil, items)
}

var noList = erlterm.Term{erlterm.TagNil}

// zeros are pointers to nothing, as many as there were.
func zeros(chunks []part) erlterm.Term {
	if len(chunks) == 0 {
		return erlterm.Term{erlterm.TagNil}
	}
	t := erlterm.PutListHead(nil, len(chunks))
	for range chunks {
		t = erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(t, 2), 0), 0)
	}
	return append(t, erlterm.TagNil)
}

// merged are the lengths of the chunks that a compaction makes of others.
func merged(chunks []part) erlterm.Term {
	var lengths []erlterm.Term
	held := uint64(0)
	for _, c := range chunks {
		full := couchwriter.FillsStream(held, c.length)
		if held += c.length; full {
			lengths, held = append(lengths, erlterm.PutUint(nil, held)), 0
		}
	}
	if held > 0 {
		lengths = append(lengths, erlterm.PutUint(nil, held))
	}
	return erlterm.PutList(nil, lengths)
}

// whole says whether an attachment's chunks hold what its MD5 is of. The
// compactor copies them without a look.
func (a *attachment) whole(chunks couchwriter.Chunks) bool {
	sum := md5.New()
	n := uint64(0)
	for _, c := range a.chunks {
		p, err := chunks.Payload(c.off)
		if err != nil || uint64(len(p)) != c.length {
			return false
		}
		sum.Write(p)
		n += c.length
	}
	length, _, okLen := erlterm.Uint(a.fields[attLength])
	want, _, okSum := erlterm.Binary(a.fields[attMD5])
	return okLen && okSum && n == length && string(sum.Sum(nil)) == string(want)
}

// joinSummary makes a summary that the simulator reads.
func joinSummary(dst, body []byte, list erlterm.Term) []byte {
	dst = erlterm.PutBinary(erlterm.PutTuple(append(dst, erlterm.Version), 2), body)
	return erlterm.PutBinary(dst, append([]byte{erlterm.Version}, list...))
}

// docHash is what a node remembers of a document.
type docHash [8]byte

// hasher makes hashes of documents.
type hasher struct {
	key [32]byte
	buf []byte
	// stored is what stands for a body instead of its bytes, if not nil.
	stored func(body []byte) ([]byte, error)
}

// hash returns 8 zeros for documents that can't be read, whose damage is not
// this package's to find.
func (h *hasher) hash(r *couchwriter.Record, chunks couchwriter.Chunks) docHash {
	sum, err := h.sum(r, chunks)
	if err != nil {
		return docHash{}
	}
	return sum
}

func (h *hasher) sum(r *couchwriter.Record, chunks couchwriter.Chunks) (sum docHash, err error) {
	s := sha256.New()
	str := func(p []byte) {
		var n [binary.MaxVarintLen64]byte
		s.Write(n[:binary.PutUvarint(n[:], uint64(len(p)))])
		s.Write(p)
	}
	s.Write(h.key[:])
	h.buf = r.AppendPlain(h.buf[:0])
	str(h.buf)
	for _, leaf := range r.Leaves {
		p, err := chunks.Payload(leaf.Offset)
		if err != nil {
			return sum, fmt.Errorf("body at %d: %w", leaf.Offset, err)
		}
		parts, err := splitSummary(p)
		if err != nil {
			return sum, err
		}
		body := parts.body
		if h.stored != nil {
			if body, err = h.stored(body); err != nil {
				return sum, err
			}
		}
		str(body)
		str(parts.list(merged))
	}
	copy(sum[:], s.Sum(h.buf[:0]))
	return sum, nil
}
