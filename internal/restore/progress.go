package restore

import "sync/atomic"

// Progress counts what a run does; others may read it at any time.
type Progress struct {
	Files     atomic.Int64 // to be restored or verified
	FilesDone atomic.Int64
	Bytes     atomic.Int64 // of those files
	BytesDone atomic.Int64
	FilesKept atomic.Int64 // of those done: their bytes were there already
	BytesKept atomic.Int64
}
