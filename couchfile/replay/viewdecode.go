package replay

import (
	"bytes"
	"fmt"
	"io"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Steps of the rows of a tree; see docs/replay-format.md.
const (
	rowsEnd = iota
	rowsTake
	rowsSkip
	rowsNew
)

const (
	rowsEndBatch = iota
	rowsEndTree
)

// viewFunctions are the reduce functions by the numbers that a stream has for
// them; the values of the first one are in the stream.
var viewFunctions = []string{couchwriter.ToldReduce, "_sum", "_count", "_stats"}

// olderRows is the rows of the older file.
type olderRows interface {
	// tree goes to the first row of a tree: that by id is 0, then come the views.
	tree(n int) error
	// next is the next row of the tree. It stays valid.
	next() (couchfile.Entry, error)
	skip(n uint64) error
}

// DecodeView writes the view index of a stream to out, ViewInfo.Size bytes.
// older is nil if ViewInfo.Taken is 0.
//
// Damage of the stream is a couchfile.ErrCorrupt, as is an older file that is
// another than the one the stream was written for: then the sum of the result
// is wrong. After an error out holds nothing that is of use. It holds the rows
// of one batch, of which it bounds the size, and writes no more than
// ViewInfo.Size bytes.
func DecodeView(stream io.Reader, older *OlderView, out Output) (*ViewInfo, error) {
	info, err := ReadViewInfo(stream)
	if err != nil {
		return nil, err
	}
	var rows olderRows
	switch {
	case info.Taken == 0:
	case older == nil:
		return info, fmt.Errorf("replay: the older index at update_seq %d is needed", info.OlderSeq)
	case older.updateSeq != info.OlderSeq:
		return info, damaged(fmt.Sprintf("the older index is at update_seq %d, and %d is needed", older.updateSeq, info.OlderSeq))
	default:
		rows = older
	}
	body := newWireReader(stream, info.bodySize)
	sink := newPatcher(info.made, out)
	if err := info.decode(body, rows, sink); err != nil {
		return info, err
	}
	if body.left != 0 {
		return info, damaged("more in the stream than is needed")
	}
	if !bytes.Equal(body.sum.Sum(nil), info.bodySum[:]) {
		return info, damaged("the checksum of the stream is wrong")
	}
	return info, sink.end()
}

// viewDecoder runs the simulator of a view index's compaction.
type viewDecoder struct {
	info  *ViewInfo
	in    *wireReader
	older olderRows // nil if there is none
	f     *couchwriter.File

	batch     []couchfile.Entry
	size      int      // of the rows in the batch
	functions []string // of the batch
}

// decode reads a body and writes what it says to out.
func (i *ViewInfo) decode(in *wireReader, older olderRows, out Output) error {
	d := &viewDecoder{info: i, in: in, older: older, f: couchwriter.NewFile(out, out, 0, i.checksum)}
	if err := d.header(); err != nil {
		return err
	}
	for last := uint64(0); ; {
		n, err := in.small("tree", maxViewTrees)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if n <= last {
			return damaged("trees out of order")
		}
		last = n
		if err := d.tree(int(n - 1)); err != nil {
			return unpredicted(err)
		}
	}
	n, err := in.small("headers", in.left)
	if err != nil {
		return err
	}
	for range n {
		if err := d.header(); err != nil {
			return err
		}
	}
	return d.f.Flush()
}

const maxViewTrees = 1 << 20

func (d *viewDecoder) header() error {
	term, err := d.in.str("header")
	if err != nil {
		return err
	}
	if len(term) == 0 || term[0] != erlterm.Version {
		return damaged("no header")
	}
	_, err = d.f.Header(term)
	return err
}

// tree makes one tree.
func (d *viewDecoder) tree(n int) error {
	opts := couchwriter.TreeOptions{Compression: d.info.compression, ChunkSize: d.info.chunkSize}
	if n > 0 {
		opts.Reducer = viewReducer{d}
	}
	tree := couchwriter.NewTree(d.f, d.f, nil, opts)
	if d.older != nil {
		if err := d.older.tree(n); err != nil {
			return err
		}
	}
	for ended := false; !ended; {
		var err error
		if ended, err = d.rows(); err != nil {
			return err
		}
		if n > 0 {
			if err := d.readFunctions(); err != nil {
				return err
			}
		}
		if err := tree.Append(d.batch); err != nil {
			return err
		}
		d.batch, d.size = d.batch[:0], 0
	}
	return nil
}

// rows reads the rows of a batch, and whether the tree ends behind it.
func (d *viewDecoder) rows() (ended bool, err error) {
	for {
		step, err := d.in.number("step")
		if err != nil {
			return false, err
		}
		n := step >> 2
		switch step & 3 {
		case rowsEnd:
			if n > rowsEndTree || len(d.batch) == 0 {
				return false, damaged("a batch without rows")
			}
			return n == rowsEndTree, nil
		case rowsNew:
			err = d.each(n, d.newRow)
		case rowsTake, rowsSkip:
			if d.older == nil {
				return false, damaged("rows of an older index, and there is none")
			}
			if step&3 == rowsSkip {
				err = d.older.skip(n)
			} else {
				err = d.each(n, d.older.next)
			}
		}
		if err != nil {
			return false, err
		}
	}
}

func (d *viewDecoder) each(n uint64, next func() (couchfile.Entry, error)) error {
	for range n {
		e, err := next()
		if err != nil {
			return err
		}
		if d.size += len(e.Key) + len(e.Value); d.size > maxBatch {
			return damaged("a batch of too many rows")
		}
		d.batch = append(d.batch, e)
	}
	return nil
}

func (d *viewDecoder) newRow() (e couchfile.Entry, err error) {
	if e.Key, err = d.in.term("key of a row"); err != nil {
		return e, err
	}
	e.Value, err = d.in.term("value of a row")
	return e, err
}

func (d *viewDecoder) readFunctions() error {
	n, err := d.in.small("functions", min(d.in.left, maxViewTrees))
	d.functions = d.functions[:0]
	for range n {
		if err != nil {
			return err
		}
		var code uint64
		code, err = d.in.small("function", uint64(len(viewFunctions)-1))
		d.functions = append(d.functions, viewFunctions[min(code, uint64(len(viewFunctions)-1))])
	}
	return err
}

// viewReducer reduces by the functions of the batch.
type viewReducer struct{ d *viewDecoder }

func (r viewReducer) reducer() couchwriter.Reducer {
	return couchwriter.ViewReduceTold(r.d.functions, func(int) (erlterm.Term, error) { return r.d.in.term("reduction") })
}

func (r viewReducer) Reduce(dst []byte, entries []couchfile.Entry) ([]byte, error) {
	return r.reducer().Reduce(dst, entries)
}

func (r viewReducer) Rereduce(dst []byte, reductions []erlterm.Term) ([]byte, error) {
	return r.reducer().Rereduce(dst, reductions)
}

// OlderView is an index that has older rows.
type OlderView struct {
	updateSeq uint64
	trees     []*couchfile.Tree

	pull func() (couchfile.Entry, error, bool)
	stop func()
}

// OpenOlderView opens the older index for DecodeView. Close must be called.
func OpenOlderView(f File) (*OlderView, error) {
	index, trees, err := openView(f)
	if err != nil {
		return nil, err
	}
	return &OlderView{updateSeq: index.Header().UpdateSeq, trees: trees}, nil
}

// openView opens an index and its trees, the one by id first.
func openView(f File) (*couchfile.View, []*couchfile.Tree, error) {
	h, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		return nil, nil, err
	}
	index, err := couchfile.OpenViewAt(f.R, f.Size, h)
	if err != nil {
		return nil, nil, err
	}
	return index, append([]*couchfile.Tree{index.IDTree()}, index.Trees()...), nil
}

// Close ends the iteration.
func (o *OlderView) Close() {
	if o.stop != nil {
		o.stop()
	}
}

func (o *OlderView) tree(n int) error {
	o.Close()
	o.pull, o.stop = nil, nil
	if n < len(o.trees) {
		o.pull, o.stop = iter.Pull2(o.trees[n].All(nil, false))
	}
	return nil
}

const fewerRows = "the older index has fewer rows than the stream needs"

func (o *OlderView) step() (couchfile.Entry, error) {
	if o.pull == nil {
		return couchfile.Entry{}, damaged(fewerRows)
	}
	e, err, ok := o.pull()
	if !ok {
		err = damaged(fewerRows)
	}
	return e, err
}

func (o *OlderView) next() (couchfile.Entry, error) {
	e, err := o.step()
	if err != nil {
		return e, err
	}
	both := append(append(make(erlterm.Term, 0, len(e.Key)+len(e.Value)), e.Key...), e.Value...)
	return couchfile.Entry{Key: both[:len(e.Key):len(e.Key)], Value: both[len(e.Key):]}, nil
}

func (o *OlderView) skip(n uint64) error {
	for range n {
		if _, err := o.step(); err != nil {
			return err
		}
	}
	return nil
}
