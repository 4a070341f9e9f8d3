package replay

import (
	"bytes"
	"errors"
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// ViewResult is what EncodeView made.
type ViewResult struct {
	// Prologue stands in front of the body: the stream is both.
	Prologue []byte
	Info     *ViewInfo

	New         uint64 // rows that are in the stream; Info.Taken are those of the older file
	Told        uint64 // reductions that are in the stream
	Corrections int    // places where the prediction was wrong
}

// StreamSize is how many bytes the stream has, prologue and body.
func (r *ViewResult) StreamSize() int64 { return int64(len(r.Prologue)) + int64(r.Info.bodySize) }

// EncodeView writes the body of the stream for a view index that a compaction made.
// known is of the older index at the cut that the stream will rest on; nil if
// nothing is known, and then the stream has all rows.
//
// It returns ErrNotReplayed, with the reason, if the file is to be stored as it is.
// After an error what body got is worthless. It holds a few batches of rows, of some
// 2 MiB by default (view_compaction/keyvalue_buffer_size), and nodes of the simulator.
func EncodeView(body io.Writer, f File, known *KnownView) (*ViewResult, error) {
	e := &viewEncoder{f: f, known: known, info: &ViewInfo{made: made{Size: f.Size}}}
	err := e.begin()
	if e.scan != nil {
		defer e.scan.stop()
	}
	if err != nil {
		return nil, asNotReplayed(err)
	}
	e.proof = startViewProof(e.info, f)
	e.w = newWireWriter(io.MultiWriter(body, e.proof.pipe))
	err = e.run()
	if proved := e.proof.end(err); err == nil || errors.Is(proved, errWrong) || errors.Is(err, errProofEnded) {
		err = proved
	}
	if err != nil {
		return nil, asNotReplayed(err)
	}
	return e.result()
}

// viewEncoder writes a body.
type viewEncoder struct {
	f     File
	known *KnownView
	info  *ViewInfo
	proof *viewProof
	w     *wireWriter
	scan  *viewScan
	first couchfile.RawHeader
	trees []int // that have rows: their numbers

	began     int        // trees
	ahead     *viewBatch // the next batch, of which nothing was written
	pending   []*batchRows
	rows      *knownRows // known of the tree; nil if nothing is
	runs      *runs
	open      []segment // of the run that has not ended
	next      int       // the run of the older tree behind the one that was taken
	functions []byte    // of the batch before in the tree

	taken, news, told uint64
}

// batchRows is a batch whose rows are decided on.
type batchRows struct {
	*viewBatch
	rows []couchfile.Entry
	segs []segment
	left int // rows of runs that didn't end yet
}

// segment is rows of a batch that are all of one run, and how many rows of the older tree
// are in front of them if they are known.
type segment struct {
	batch *batchRows
	rows  []couchfile.Entry
	known bool
	at    uint64
}

// begin reads what the prologue needs.
func (e *viewEncoder) begin() (err error) {
	if e.first, err = couchfile.ReadHeader(e.f.R, e.f.Size, 0); err != nil {
		return err
	}
	if v, err := couchfile.ParseViewHeader(e.first); err != nil || !v.Fresh {
		return notReplayed("no compaction made this index: it doesn't begin with an empty header")
	}
	_, trees, err := openView(e.f)
	if err != nil {
		return err
	}
	for i, t := range trees {
		if !t.Root.Empty {
			e.trees = append(e.trees, i)
		}
	}
	e.scan = scanView(e.f, e.first.End)
	if e.ahead, err = e.scan.batch(); err != nil {
		return err
	}
	e.info.checksum, e.info.compression, e.info.chunkSize = e.first.Checksum, e.scan.compression, couchwriter.DefaultChunkSize
	if e.ahead != nil {
		e.info.chunkSize = e.ahead.chunkSize()
	}
	return nil
}

// chunkSize finds the value that cut the leaves of the first batch.
func (b *viewBatch) chunkSize() int {
	l := &leaves{}
	for _, n := range b.leaves {
		for _, r := range n.rows {
			l.sizes = append(l.sizes, 2+len(r.Key)+len(r.Value))
		}
		l.ends = append(l.ends, len(l.sizes))
	}
	l.lists = []int{len(l.sizes)}
	if l.cutBy(couchwriter.DefaultChunkSize) {
		return couchwriter.DefaultChunkSize
	}
	for _, size := range l.candidates() {
		if l.cutBy(size) {
			return size
		}
	}
	return couchwriter.DefaultChunkSize
}

func (e *viewEncoder) run() error {
	e.w.str(e.first.Term)
	for e.ahead != nil {
		if err := e.tree(); err != nil {
			return err
		}
	}
	e.w.number(0)
	if e.began != len(e.trees) {
		return notReplayed("the compaction wrote %d trees, and the index has %d", e.began, len(e.trees))
	}
	if err := e.headers(); err != nil {
		return err
	}
	return e.w.flush()
}

// tree writes a tree, which begins with the batch that is ahead.
func (e *viewEncoder) tree() error {
	if e.began == len(e.trees) {
		return notReplayed("the compaction wrote more trees than the %d of the index", len(e.trees))
	}
	n := e.trees[e.began]
	e.began++
	e.w.number(uint64(n) + 1)
	e.rows, e.runs, e.next, e.functions = nil, nil, 0, nil
	e.proof.begin()
	if e.known != nil && n < len(e.known.trees) {
		e.rows = &e.known.trees[n]
		e.runs = newRuns(e.known.key, e.rows.every)
	}
	for last := false; !last; {
		b := &batchRows{viewBatch: e.ahead, rows: e.ahead.rows()}
		var err error
		if e.ahead, err = e.scan.batch(); err != nil {
			return err
		}
		last = e.ahead == nil || e.ahead.begins
		e.pending = append(e.pending, b)
		e.cut(b, last)
		for len(e.pending) > 0 && (last || e.pending[0].left == 0) {
			b := e.pending[0]
			e.pending = e.pending[1:]
			if err := e.batch(b, n > 0, last && len(e.pending) == 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut cuts the rows of a batch into runs. last says that it is the tree's last one.
func (e *viewEncoder) cut(b *batchRows, last bool) {
	if e.runs == nil {
		b.segs = []segment{{batch: b, rows: b.rows}}
		return
	}
	start := 0
	for i, row := range b.rows {
		ends := e.runs.add(row)
		if !ends && i+1 < len(b.rows) {
			continue
		}
		e.open = append(e.open, segment{batch: b, rows: b.rows[start : i+1]})
		b.left += i + 1 - start
		if start = i + 1; ends {
			e.decide()
		}
	}
	if last && len(e.open) > 0 {
		e.decide()
	}
}

// decide looks up the run that ended.
func (e *viewEncoder) decide() {
	h, n := e.runs.end()
	i, known := e.rows.find(h, e.next)
	r := knownRunAt{}
	if known = known && e.rows.runs[i].n == n; known {
		r, e.next = e.rows.runs[i], i+1
	}
	for _, s := range e.open {
		s.known, s.at = known, r.at
		r.at += uint64(len(s.rows))
		s.batch.left -= len(s.rows)
		s.batch.segs = append(s.batch.segs, s)
	}
	e.open = e.open[:0]
}

// batch writes a batch.
func (e *viewEncoder) batch(b *batchRows, reduces, last bool) error {
	size := 0
	for _, r := range b.rows {
		size += len(r.Key) + len(r.Value)
	}
	if size > maxBatch {
		return notReplayed("a batch of more than %d MiB", maxBatch>>20)
	}
	for i := 0; i < len(b.segs); {
		n := 1
		for i+n < len(b.segs) && b.segs[i+n].follows(&b.segs[i+n-1]) {
			n++
		}
		e.steps(b.segs[i : i+n])
		i += n
	}
	end := uint64(rowsEndBatch)
	if last {
		end = rowsEndTree
	}
	e.w.number(end << 2) // and rowsEnd, which is 0
	if reduces {
		e.reductions(b.viewBatch)
	}
	return e.w.flush()
}

// follows says whether one step says both.
func (s *segment) follows(before *segment) bool {
	return s.known == before.known && (!s.known || s.at == before.at+uint64(len(before.rows)))
}

func (e *viewEncoder) steps(list []segment) {
	n := uint64(0)
	for _, s := range list {
		n += uint64(len(s.rows))
	}
	if list[0].known {
		if skips := e.proof.lend(list); skips > 0 {
			e.w.number(skips<<2 | rowsSkip)
		}
		e.w.number(n<<2 | rowsTake)
		e.taken += n
		return
	}
	e.w.number(n<<2 | rowsNew)
	for _, s := range list {
		for _, r := range s.rows {
			e.w.str(r.Key)
			e.w.str(r.Value)
		}
	}
	e.news += n
}

// headers writes those that stand behind the trees.
func (e *viewEncoder) headers() error {
	var list [][]byte
	from := e.first.End
	if s := e.scan.last; s != nil {
		from = s.root().off
	}
	for c, err := range couchfile.Chunks(e.f.R, from, e.f.Size) {
		if err != nil {
			return err
		}
		if c.IsHeader {
			list = append(list, bytes.Clone(c.Payload))
		} else if c.Offset != from {
			break
		}
	}
	if len(list) == 0 {
		return notReplayed("no header behind the trees")
	}
	e.w.number(uint64(len(list)))
	for _, t := range list {
		e.w.str(t)
	}
	return e.w.err
}

// result is the prologue, with what the proof found out.
func (e *viewEncoder) result() (*ViewResult, error) {
	c, info := e.proof.out, e.info
	info.Size = c.off
	copy(info.SHA256[:], c.sum.Sum(nil))
	info.corrections = c.corrections
	info.bodySize = e.w.n
	copy(info.bodySum[:], e.w.sum.Sum(nil))
	if info.Taken = e.taken; e.taken > 0 {
		info.OlderSeq = e.known.updateSeq
	}
	r := &ViewResult{Prologue: info.append(nil), Info: info, New: e.news, Told: e.told, Corrections: len(info.corrections)}
	again, err := ReadViewInfo(bytes.NewReader(r.Prologue))
	if err != nil || !bytes.Equal(again.append(nil), r.Prologue) {
		return nil, notReplayed("the prologue does not read back: %w", err)
	}
	return r, nil
}
