package replay

import (
	"io"

	"github.com/slipcover/slipcover/couchfile"
)

// MergeTail is Merge for a tail: it appends to a file that holds the same database as
// the one in front of the tail, in other bytes or the same, what makes it the database
// that is behind it. out has the file's bytes up to was.Size; was.R is not used.
//
// It returns ErrNotMerged where the tail says something of bytes: what was torn, a commit or
// a node that was not predicted, an attachment whose upload had begun before the tail.
func MergeTail(stream io.Reader, was File, out Output) (File, error) {
	info, err := ReadTailInfo(stream)
	if err != nil {
		return File{}, err
	}
	head, err := couchfile.ReadHeader(out, was.Size, was.Header)
	if err != nil {
		return File{}, err
	}
	head.End = was.Size
	body := newWireReader(stream, info.bodySize)
	m := newTailMaker(body, newMerging(out, info.Size), out, head)
	m.merges = true
	for ended := false; !ended && err == nil; {
		ended, err = m.step()
	}
	if err == nil {
		err = m.f.Flush()
	}
	if err != nil {
		return File{}, unpredicted(err)
	}
	return File{R: out, Size: m.f.Offset(), Header: m.at}, body.end(info.bodySum)
}
