package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/slipcover/slipcover/couchfile"
)

const (
	tailMagic   = "CouchTRP"
	tailVersion = 1
)

// TailInfo is what the stream of a tail says of itself in front.
type TailInfo struct {
	From   int64    // the tail's offset: the end of an older header
	Size   int64    // of the tail, in bytes; its end is that of a newer header
	SHA256 [32]byte // of these bytes

	bodySize uint64
	bodySum  [32]byte
}

// append appends the prologue.
func (i *TailInfo) append(dst []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(i.From))
	b = append(binary.AppendUvarint(b, uint64(i.Size)), i.SHA256[:]...)
	b = append(binary.AppendUvarint(b, i.bodySize), i.bodySum[:]...)
	return sealPrologue(dst, tailMagic, tailVersion, b)
}

// ReadTailInfo reads the prologue of a tail's stream. r is at the body then.
func ReadTailInfo(r io.Reader) (*TailInfo, error) {
	in, err := openPrologue(r, tailMagic, tailVersion)
	if err != nil {
		return nil, err
	}
	i := &TailInfo{}
	from, err := in.small("offset of the tail", 1<<62)
	if err != nil {
		return nil, err
	}
	size, err := in.small("size of the tail", 1<<62)
	if err != nil {
		return nil, err
	}
	i.From, i.Size = int64(from), int64(size)
	if err := in.sum32("sum", &i.SHA256); err != nil {
		return nil, err
	}
	if i.bodySize, err = in.small("size of the body", 1<<62); err != nil {
		return nil, err
	}
	if err := in.sum32("sum of the body", &i.bodySum); err != nil {
		return nil, err
	}
	if in.left != 0 {
		return nil, damaged("more in the prologue than there should be")
	}
	return i, nil
}

// DecodeTail appends the tail of a stream to out, TailInfo.Size bytes. out has
// the file's bytes up to TailInfo.From, and gives back what it was given.
//
// Damage of the stream is a couchfile.ErrCorrupt, as are other bytes before the
// tail than those that it was written for. After an error what was appended is
// worthless. Besides nodes that it keeps, some 20 MiB at most, DecodeTail holds
// the records of one commit, of which it bounds the size, and one body or chunk
// of an attachment.
func DecodeTail(stream io.Reader, out Output) (*TailInfo, error) {
	info, err := ReadTailInfo(stream)
	if err != nil {
		return nil, err
	}
	was, err := headerBefore(out, info.From)
	if err != nil {
		return info, err
	}
	sink := &tailSink{out: out, left: info.Size, sum: sha256.New()}
	body := newWireReader(stream, info.bodySize)
	m := newTailMaker(body, sink, out, was)
	for ended := false; !ended && err == nil; {
		ended, err = m.step()
	}
	if err == nil {
		err = m.f.Flush()
	}
	if err != nil {
		return info, unpredicted(err)
	}
	if err := body.end(info.bodySum); err != nil {
		return info, err
	}
	return info, sink.end(info)
}

// headerBefore reads the header that ends at from.
func headerBefore(r io.ReaderAt, from int64) (couchfile.RawHeader, error) {
	h, err := couchfile.FindHeader(r, from)
	if err != nil {
		return h, fmt.Errorf("header in front of the tail: %w", err)
	}
	if h.End != from {
		return h, damaged(fmt.Sprintf("no header of the file ends at %d, where the tail begins", from))
	}
	return h, nil
}

// tailSink hands on what a stream makes, and sums it up.
type tailSink struct {
	out  io.Writer
	left int64
	sum  hash.Hash
}

func (s *tailSink) Write(p []byte) (int, error) {
	if s.left -= int64(len(p)); s.left < 0 {
		return 0, damaged("the file before the tail, or the stream: it makes more bytes than the tail has")
	}
	s.sum.Write(p)
	return s.out.Write(p)
}

func (s *tailSink) end(info *TailInfo) error {
	switch {
	case s.left != 0:
		return damaged(fmt.Sprintf("the file before the tail, or the stream: %d bytes of the tail are missing", s.left))
	case !bytes.Equal(s.sum.Sum(nil), info.SHA256[:]):
		return damaged("what was made has another SHA-256 than the tail that was stored: the file before it is not the one it rests on")
	}
	return nil
}
