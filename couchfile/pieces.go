package couchfile

import "bytes"

// pieceSize is how much of a large attachment's chunk is in memory at once.
const pieceSize = 1 << 20

// pieceState is a chunk that is read in pieces.
type pieceState struct {
	what   string
	chunk  chunk // but for the payload
	pos    int64 // of the next piece in the file
	left   int64 // bytes of payload to come
	skip   int   // bytes in front of the payload in the first piece
	sum    []byte
	hash   *bigHash // if there is a checksum
	onDone func(chunk)
}

func startPieces(off int64, what string, h chunkHead, onDone func(chunk)) pieceState {
	s := pieceState{what: what, pos: off, left: h.n, skip: int(h.total - h.n), onDone: onDone}
	s.chunk = chunk{off: off, end: storedEnd(off + h.raw), flagged: h.flagged}
	if h.flagged {
		s.hash = newBigHash()
	}
	return s
}

// piece reads the next piece of a chunk. Its last one fails if the checksum is
// wrong.
func (r *chunkReader) piece(s *pieceState) ([]byte, error) {
	n := min(s.left, pieceSize)
	raw := rawLen(s.pos, int64(s.skip)+n)
	if err := r.grow(int(raw)); err != nil {
		return nil, corrupt(s.chunk.off, s.what, err)
	}
	if err := r.src.readAt(r.buf[:raw], s.pos); err != nil {
		return nil, err
	}
	data, clean := stripMarkers(r.buf[:raw], s.pos)
	s.chunk.dirty = s.chunk.dirty || !clean
	if s.skip == 4+checksumLen {
		s.sum = bytes.Clone(data[4:s.skip])
	}
	data = data[s.skip:]
	s.pos, s.left, s.skip = s.pos+raw, s.left-n, 0
	if s.hash != nil {
		s.hash.write(data)
	}
	if s.left > 0 {
		return data, nil
	}
	if s.hash != nil && s.hash.match(s.sum) == ChecksumNone {
		return nil, corrupt(s.chunk.off, s.what, errChecksum)
	}
	if s.onDone != nil {
		s.onDone(s.chunk)
	}
	return data, nil
}
