package backup

import "sync/atomic"

// Progress counts what a run does; others may read it at any time.
type Progress struct {
	Files     atomic.Int64 // found
	FilesDone atomic.Int64
	Bytes     atomic.Int64 // to be read, as far as is known
	BytesDone atomic.Int64 // read
	Stored    atomic.Int64 // bytes of segments stored
}
