package replay

import (
	"errors"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// span is some documents of the older file that follow one another in its seq tree: how
// many are in front of them, and how many they are.
type span struct{ from, n uint64 }

// ErrNotMerged says that a stream has corrections: what the file holds is known when all of
// it was made.
var ErrNotMerged = errors.New("the file of a replay has to be made whole")

func notMerged(what string) error { return fmt.Errorf("%w: it has %s", ErrNotMerged, what) }

// merging takes no more bytes than a merge needs: the stream may be anyone's. out's nodes are
// cut and joined otherwise than those of the file that Decode makes, so this is an estimate.
type merging struct {
	Output
	left int64
}

func newMerging(out Output, sizes ...int64) *merging {
	m := &merging{out, 1 << 20}
	for _, n := range sizes {
		m.left += 2 * n
	}
	return m
}

func (m *merging) Write(p []byte) (int, error) {
	if m.left -= int64(len(p)); m.left < 0 {
		return 0, notMerged("more to write than the file that it makes")
	}
	return m.Output.Write(p)
}

// Merge appends to the older file what makes of it the same database as the one in the
// file that Decode would make: the same documents, bodies, attachments, purges and
// limits in other places. It reads the nodes above what is new and takes the time and
// the room of that, not of the file. out has the older file's bytes up to older.Size, and
// gives back what it was given; older.R is not used. It returns the file, which ends
// with the header.
//
// The result is not proven by a hash, as Decode's is: but for damage of the stream, which
// is a couchfile.ErrCorrupt, it is as right as the older file and the program. Merge
// holds what Decode does, and 100 bytes for each new document. It returns ErrNotMerged
// where the stream does not allow it.
func Merge(stream io.Reader, older File, out Output) (File, error) {
	info, err := ReadInfo(stream)
	if err != nil {
		return File{}, err
	}
	if len(info.corrections) > 0 {
		return File{}, notMerged("a stream with corrections")
	}
	var head couchfile.RawHeader
	if older.Size > 0 {
		if head, err = couchfile.ReadHeader(out, older.Size, older.Header); err != nil {
			return File{}, err
		}
		if err := info.fits(headerSeq(head.Term)); err != nil {
			return File{}, err
		}
	}
	f := couchwriter.NewFile(newMerging(out, older.Size, info.Size), out, older.Size, info.checksum)
	c, err := couchwriter.NewMerge(f, head.Term, info.options())
	if err != nil {
		return File{}, err
	}
	spans := []span{}
	d := &decoder{info: info, in: newWireReader(stream, info.bodySize), left: info.OlderDocs, spans: &spans}
	if err := d.run(c); err != nil {
		return File{}, err
	}
	if err := d.in.end(info.bodySum); err != nil {
		return File{}, err
	}
	for _, s := range append(spans, span{info.OlderDocs - d.left, d.left}) {
		err := c.Remove(s.from, s.n)
		if errors.Is(err, couchwriter.ErrLate) {
			return File{}, notMerged("a document as it was before the older file's")
		}
		if err != nil {
			return File{}, unpredicted(err)
		}
	}
	at, err := c.EndMerge()
	return File{R: out, Size: f.Offset(), Header: at}, err
}
