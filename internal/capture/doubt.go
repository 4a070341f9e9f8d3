package capture

import "time"

// Doubts about a file that is known, as Doubt finds them: with one of them it is read whole to be proven.
const (
	Moved   = "moved"   // another device or inode
	Times   = "times"   // they went back, or stood still though the size is another one
	Touched = "touched" // other times at the same size, which is not CouchDB's doing
	Booted  = "booted"  // the machine was started anew shortly after the last write, or there was one since
)

// settled is how long after its last write a file is on the disk for sure. Linux
// writes what is 30 seconds old; the rest is for slow disks.
const settled = time.Hour

// Doubt says why a file must be read whole although it is known, "" if it needn't be. booted says
// that the machine was started anew since a time, or that this can't be known.
//
// A file is kept unread if device, inode, size and both times are equal, for the
// kernel sets the time of change at each write and nobody can set it back. Equal
// ones can hold other bytes after a power cut, if they were written shortly before
// it, and where a disk loses what it acknowledged, which only reading finds.
func Doubt(was, is *Local, booted bool, since time.Time) string {
	equal := was.Size == is.Size && was.MTime == is.MTime && was.CTime == is.CTime
	written := time.Unix(0, max(was.MTime, was.CTime))
	switch {
	case was.Dev != is.Dev || was.Ino != is.Ino:
		return Moved
	case is.MTime < was.MTime || is.CTime < was.CTime || is.MTime == was.MTime && is.Size != was.Size:
		return Times
	case !equal && is.Size == was.Size:
		return Touched
	case booted && (!equal || !written.Before(since.Add(-settled))):
		return Booted
	}
	return ""
}
