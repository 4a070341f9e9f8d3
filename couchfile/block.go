package couchfile

// BlockSize is the unit of headers: the first byte of each block is a marker,
// 1 where a header starts and 0 elsewhere.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, make_blocks.
const BlockSize = 4096

const blockData = BlockSize - 1

// rawLen is how many bytes of the file n payload bytes take that start at
// off, block markers included. A payload that starts on a block boundary has
// that block's marker in front of it.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, calculate_total_read_len.
func rawLen(off, n int64) int64 {
	o := off % BlockSize
	if o == 0 {
		return n + (n+blockData-1)/blockData
	}
	left := BlockSize - o
	if n <= left {
		return n
	}
	return n + (n-left+blockData-1)/blockData
}

// storedEnd is where the writer's bytes end for a payload that ends at end: on
// a block boundary it also writes the marker of the next block.
//
// Source: CouchDB 3.5, src/couch/src/couch_file.erl, split_iolist.
func storedEnd(end int64) int64 {
	if end%BlockSize == 0 {
		return end + 1
	}
	return end
}

// stripMarkers removes the block markers from raw, which starts at off in the
// file, in place. clean is false if one of them is not 0.
func stripMarkers(raw []byte, off int64) (payload []byte, clean bool) {
	clean = true
	first := int((BlockSize - off%BlockSize) % BlockSize)
	if first >= len(raw) {
		return raw, true
	}
	w := first
	for i := first; i < len(raw); i += BlockSize {
		clean = clean && raw[i] == 0
		w += copy(raw[w:], raw[i+1:min(i+BlockSize, len(raw))])
	}
	return raw[:w], clean
}
