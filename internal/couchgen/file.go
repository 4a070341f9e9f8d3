package couchgen

import (
	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Checksum chooses what protects headers and document bodies.
type Checksum int

const (
	XXH3 Checksum = iota // XXH3-128, the default of CouchDB 3.5
	MD5                  // what 3.3 and older write
)

func (c Checksum) kind() couchfile.ChecksumKind {
	if c == MD5 {
		return couchfile.MD5
	}
	return couchfile.XXH3
}

// Compression chooses how terms are stored: couchdb/file_compression.
type Compression = couchwriter.Compression

const (
	Snappy  = couchwriter.Snappy  // the server's default
	None    = couchwriter.None    // plain external terms
	Deflate = couchwriter.Deflate // deflate_6
	Zstd    = couchwriter.Zstd    // of the main branch of August 2026, with Erlang 28
)

// inflated returns what is stored in p as a plain term, 131 first.
func inflated(p []byte) ([]byte, error) {
	t, err := couchfile.Inflate(p)
	if err != nil {
		return nil, err
	}
	return append([]byte{erlterm.Version}, t...), nil
}

func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(make([]byte, 0, 2*cap(b)+n), b...)
}
