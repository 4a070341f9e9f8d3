package replay

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile"
)

// nodeReader reads the chunks of nodes and bodies, which lie all over the file: of
// each a single piece, of which nothing else is kept. It does not look at checksums:
// what comes of a wrong byte is a wrong tail, whose sum is not what it should be.
type nodeReader struct {
	r   io.ReaderAt
	end func() int64 // how much of the file can be read
	buf []byte
}

// firstRead is what most nodes have.
const firstRead = 1600

// Payload is valid until the next call.
func (n *nodeReader) Payload(off int64) ([]byte, error) {
	size := n.end() - off
	if off < 0 || size <= 0 {
		return nil, damaged(fmt.Sprintf("chunk at %d beyond the end", off))
	}
	raw, err := n.read(off, min(size, firstRead))
	if err != nil {
		return nil, err
	}
	data := stripMarkers(raw, off)
	if len(data) < 4 {
		return nil, damaged(fmt.Sprintf("chunk at %d beyond the end", off))
	}
	word, head := binary.BigEndian.Uint32(data), int64(4)
	if word >= 1<<31 {
		word, head = word&(1<<31-1), head+16
	}
	total := head + int64(word)
	if total > size {
		return nil, damaged(fmt.Sprintf("chunk at %d beyond the end", off))
	}
	if total > int64(len(data)) {
		if raw, err = n.read(off, min(size, total+total/(couchfile.BlockSize-1)+2)); err != nil {
			return nil, err
		}
		if data = stripMarkers(raw, off); int64(len(data)) < total {
			return nil, damaged(fmt.Sprintf("chunk at %d beyond the end", off))
		}
	}
	return data[head:total:total], nil
}

func (n *nodeReader) read(off, size int64) ([]byte, error) {
	if int64(cap(n.buf)) < size {
		n.buf = make([]byte, size)
	}
	raw := n.buf[:size]
	if k, err := n.r.ReadAt(raw, off); k < len(raw) {
		return nil, fmt.Errorf("read %d bytes at %d: %w", size, off, err)
	}
	return raw, nil
}

// stripMarkers removes the blocks' markers from raw, which lies at off, in place.
func stripMarkers(raw []byte, off int64) []byte {
	first := int((couchfile.BlockSize - off%couchfile.BlockSize) % couchfile.BlockSize)
	if first >= len(raw) {
		return raw
	}
	w := first
	for i := first; i < len(raw); i += couchfile.BlockSize {
		w += copy(raw[w:], raw[i+1:min(i+couchfile.BlockSize, len(raw))])
	}
	return raw[:w]
}

// chunkEnd is where a chunk without a checksum ends that holds n bytes.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, calculate_total_read_len
// and split_iolist.
func chunkEnd(off int64, n uint64) int64 {
	const data = couchfile.BlockSize - 1
	total := int64(n) + 4
	if off%couchfile.BlockSize == 0 {
		off++
	}
	left := couchfile.BlockSize - off%couchfile.BlockSize
	end := off + total
	if total > left {
		end += (total - left + data - 1) / data
	}
	if end%couchfile.BlockSize == 0 {
		end++
	}
	return end
}
