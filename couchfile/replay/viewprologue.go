package replay

import (
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

const (
	viewMagic   = "CouchVRP"
	viewVersion = 1
)

// ViewInfo is what the stream of a compacted view index says of itself in front.
type ViewInfo struct {
	// Taken is how many rows come from the older file, and OlderSeq the update_seq
	// of its header. 0 rows: no older file is needed.
	Taken, OlderSeq uint64

	made

	compression couchwriter.Compression
	checksum    couchfile.ChecksumKind
	chunkSize   int
	bodySize    uint64
	bodySum     [32]byte
}

// append appends the prologue.
func (i *ViewInfo) append(dst []byte) []byte {
	var b []byte
	for _, v := range []uint64{uint64(i.compression), uint64(i.checksum), uint64(i.chunkSize), i.OlderSeq, i.Taken, uint64(i.Size)} {
		b = appendNumber(b, v)
	}
	b = append(b, i.SHA256[:]...)
	b = append(appendNumber(b, i.bodySize), i.bodySum[:]...)
	return sealPrologue(dst, viewMagic, viewVersion, i.appendCorrections(b))
}

// ReadViewInfo reads the prologue of a stream. r is at the body then.
func ReadViewInfo(r io.Reader) (*ViewInfo, error) {
	in, err := openPrologue(r, viewMagic, viewVersion)
	if err != nil {
		return nil, err
	}
	i := &ViewInfo{}
	if err := i.read(in); err != nil {
		return nil, err
	}
	if in.left != 0 {
		return nil, damaged("more in the prologue than there should be")
	}
	return i, nil
}

func (i *ViewInfo) read(in *wireReader) error {
	var compression, checksum, chunk, size uint64
	for _, f := range []struct {
		what string
		to   *uint64
		most uint64
	}{
		{"compression", &compression, uint64(couchwriter.None)}, {"checksum kind", &checksum, uint64(couchfile.MD5)},
		{"chunk size", &chunk, 1 << 30}, {"update_seq of the older file", &i.OlderSeq, 1<<64 - 1},
		{"rows of the older file", &i.Taken, 1 << 62}, {"size", &size, 1 << 62},
	} {
		v, err := in.small(f.what, f.most)
		if err != nil {
			return err
		}
		*f.to = v
	}
	i.compression, i.checksum = couchwriter.Compression(compression), couchfile.ChecksumKind(checksum)
	i.chunkSize, i.Size = int(chunk), int64(size)
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
	return i.readCorrections(in)
}
