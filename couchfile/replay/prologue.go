package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ErrVersion says that a stream is of a version that a later program wrote.
var ErrVersion = errors.New("replay stream of an unknown version")

const (
	magic   = "CouchRPL"
	version = 1
	// maxPrologue is more than Encode writes: corrections are bounded.
	maxPrologue = 128 << 20
	maxPasses   = 1 << 20
)

// Info is what a stream says of itself in front.
type Info struct {
	// OlderDocs is how many documents the older file has at its header, and
	// OlderSeq the header's update_seq. 0 documents: no older file is needed.
	OlderDocs, OlderSeq uint64

	made
	Passes int // of the compaction

	release     couchwriter.Release
	compression couchwriter.Compression
	checksum    couchfile.ChecksumKind
	chunkSize   int
	bodySize    uint64
	bodySum     [32]byte

	security, uuid, epochs, compactedSeq erlterm.Term
}

// made is the file that a stream of a compaction makes.
type made struct {
	Size   int64    // in bytes
	SHA256 [32]byte // of these bytes

	corrections []correction
}

// correction is a place where the prediction is wrong.
type correction struct {
	off  int64
	is   []byte // in the file
	said []byte // by the simulator; not stored
}

// append appends the prologue.
func (i *Info) append(dst []byte) []byte {
	var b []byte
	number := func(v uint64) { b = binary.AppendUvarint(b, v) }
	str := func(p []byte) { number(uint64(len(p))); b = append(b, p...) }
	number(uint64(i.release))
	number(uint64(i.compression))
	number(uint64(i.checksum))
	number(uint64(i.chunkSize))
	number(i.OlderSeq)
	number(i.OlderDocs)
	number(uint64(i.Size))
	b = append(b, i.SHA256[:]...)
	number(i.bodySize)
	b = append(b, i.bodySum[:]...)
	number(uint64(i.Passes))
	for _, t := range []erlterm.Term{i.security, i.uuid, i.epochs, i.compactedSeq} {
		str(t)
	}
	return sealPrologue(dst, magic, version, i.appendCorrections(b))
}

func (m *made) appendCorrections(dst []byte) []byte {
	dst = appendNumber(dst, uint64(len(m.corrections)))
	end := int64(0)
	for _, c := range m.corrections {
		dst = appendStr(appendNumber(dst, uint64(c.off-end)), c.is)
		end = c.off + int64(len(c.is))
	}
	return dst
}

// sealPrologue appends a prologue of some fields.
func sealPrologue(dst []byte, magic string, version byte, fields []byte) []byte {
	start := len(dst)
	dst = append(append(dst, magic...), version)
	dst = append(binary.AppendUvarint(dst, uint64(len(fields))), fields...)
	sum := sha256.Sum256(dst[start:])
	return append(dst, sum[:]...)
}

// ReadInfo reads the prologue of a stream. r is at the body then.
func ReadInfo(r io.Reader) (*Info, error) {
	in, err := openPrologue(r, magic, version)
	if err != nil {
		return nil, err
	}
	info := &Info{}
	if err := info.read(in); err != nil {
		return nil, err
	}
	if in.left != 0 {
		return nil, damaged("more in the prologue than there should be")
	}
	return info, nil
}

// openPrologue reads a prologue and returns its fields.
func openPrologue(r io.Reader, magic string, version byte) (*wireReader, error) {
	head := make([]byte, len(magic)+1, 256)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, ended("its beginning", err)
	}
	if string(head[:len(magic)]) != magic {
		return nil, damaged("no replay stream")
	}
	if v := head[len(magic)]; v != version {
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, version)
	}
	n, head, err := headNumber(r, head)
	if err != nil {
		return nil, err
	}
	if n > maxPrologue {
		return nil, damaged("a prologue of more than it can have")
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, int64(n)+sha256.Size); err != nil {
		return nil, ended("the prologue", err)
	}
	fields, sum := buf.Bytes()[:n], buf.Bytes()[n:]
	if got := sha256.Sum256(append(head, fields...)); !bytes.Equal(got[:], sum) {
		return nil, damaged("the checksum of the prologue is wrong")
	}
	return newWireReader(bytes.NewReader(fields), n), nil
}

// headNumber reads a number byte by byte, and appends the bytes to head.
func headNumber(r io.Reader, head []byte) (uint64, []byte, error) {
	start := len(head)
	for range binary.MaxVarintLen64 {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, head, ended("the prologue", err)
		}
		if head = append(head, b[0]); b[0] < 0x80 {
			break
		}
	}
	n, k := binary.Uvarint(head[start:])
	if k <= 0 {
		return 0, head, damaged("the prologue's length is no number")
	}
	return n, head, nil
}

func (i *Info) read(in *wireReader) error {
	var release, compression, checksum, chunk, size, passes uint64
	for _, f := range []struct {
		what string
		to   *uint64
		most uint64
	}{
		{"release", &release, uint64(couchwriter.ReleaseMain)}, {"compression", &compression, uint64(couchwriter.None)},
		{"checksum kind", &checksum, uint64(couchfile.MD5)}, {"chunk size", &chunk, 1 << 30},
		{"update_seq of the older file", &i.OlderSeq, 1<<64 - 1}, {"documents of the older file", &i.OlderDocs, 1 << 62},
		{"size", &size, 1 << 62},
	} {
		v, err := in.small(f.what, f.most)
		if err != nil {
			return err
		}
		*f.to = v
	}
	i.release, i.compression = couchwriter.Release(release), couchwriter.Compression(compression)
	i.checksum, i.chunkSize, i.Size = couchfile.ChecksumKind(checksum), int(chunk), int64(size)
	if i.checksum == couchfile.ChecksumNone || i.chunkSize == 0 {
		return damaged("a checksum kind or chunk size of 0")
	}
	if err := in.sum32("sum", &i.SHA256); err != nil {
		return err
	}
	var err error
	if i.bodySize, err = in.small("size of the body", 1<<62); err != nil {
		return err
	}
	if err := in.sum32("sum of the body", &i.bodySum); err != nil {
		return err
	}
	if passes, err = in.small("passes", maxPasses); err != nil {
		return err
	}
	if i.Passes = int(passes); i.Passes == 0 {
		return damaged("no pass")
	}
	for _, to := range []*erlterm.Term{&i.security, &i.uuid, &i.epochs, &i.compactedSeq} {
		if *to, err = in.term("header"); err != nil {
			return err
		}
	}
	return i.readCorrections(in)
}

func (r *wireReader) sum32(what string, to *[32]byte) error {
	b, err := r.bytes(what, 32)
	copy(to[:], b)
	return err
}

func (m *made) readCorrections(in *wireReader) error {
	n, err := in.small("corrections", in.left)
	if err != nil {
		return err
	}
	end := int64(0)
	for range n {
		gap, err := in.small("correction", uint64(m.Size-end))
		if err != nil {
			return err
		}
		is, err := in.str("correction")
		if err != nil {
			return err
		}
		off := end + int64(gap)
		if end = off + int64(len(is)); end > m.Size || len(is) == 0 {
			return damaged("a correction beyond the end")
		}
		m.corrections = append(m.corrections, correction{off: off, is: is})
	}
	return nil
}
