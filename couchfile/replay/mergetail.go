package replay

import (
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// MergeTail is Merge for a tail: it appends to a file that holds the same database as
// the one in front of the tail, in other bytes or the same, what makes it the database
// that is behind it. out has the file's bytes up to was.Size; was.R is not used. was.Header
// may be any header of the file, also one with others behind it.
//
// It returns ErrNotMerged where the tail says something of bytes: what was torn, a commit or
// a node that was not predicted, an attachment whose upload had begun before the tail.
func MergeTail(stream io.Reader, was File, out Output) (File, error) {
	m, err := NewTailMerger(was, out)
	if err != nil {
		return File{}, err
	}
	return m.Merge(stream, nil)
}

// TailMerger merges tails that follow one another, keeping the nodes that it read. It is
// not safe for concurrent use.
type TailMerger struct {
	m   *tailMaker
	out *merging
}

// NewTailMerger returns a merger of the tails behind was, as MergeTail takes it.
func NewTailMerger(was File, out Output) (*TailMerger, error) {
	head, err := couchfile.ReadHeader(out, was.Size, was.Header)
	if err != nil {
		return nil, err
	}
	head.End = was.Size
	limit := newMerging(out)
	m := newTailMaker(nil, limit, out, head)
	m.merges = true
	return &TailMerger{m, limit}, nil
}

// Merge is MergeTail for the next tail. It calls header, if that is not nil, with each header of
// the tail and the file up to it, which stays as it is. After an error the merger is worthless.
func (t *TailMerger) Merge(stream io.Reader, header func(couchfile.Header, File)) (File, error) {
	info, err := ReadTailInfo(stream)
	if err != nil {
		return File{}, err
	}
	m := t.m
	t.out.left = newMerging(t.out.Output, info.Size).left
	m.in = newWireReader(stream, info.bodySize)
	m.begin()
	for ended, at := false, m.at; !ended && err == nil; {
		ended, err = m.step()
		if err != nil || m.at == at || header == nil {
			continue
		}
		at = m.at
		h, herr := couchfile.ParseHeader(couchfile.RawHeader{Offset: at, End: m.f.Offset(), Kind: couchfile.HeaderDB, Term: m.header})
		if err = herr; err == nil {
			header(h, t.file())
		}
	}
	if err == nil {
		err = m.f.Flush()
	}
	if err != nil {
		return File{}, unpredicted(err)
	}
	return t.file(), m.in.end(info.bodySum)
}

func (t *TailMerger) file() File {
	return File{R: t.out.Output, Size: t.m.f.Offset(), Header: t.m.at}
}

// begin forgets what a tail before has said, but for the database.
func (m *tailMaker) begin() {
	m.pending, m.chunks, m.terms, m.updated = m.pending[:0], m.chunks[:0], m.terms[:0], false
	m.set = tailSet{chunkSize: couchwriter.DefaultChunkSize, checksum: m.f.Checksum}
}
