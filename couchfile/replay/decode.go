package replay

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Steps of a batch and kinds of payloads; see docs/replay-format.md.
const (
	stepEnd = iota
	stepTake
	stepSkip
	stepNew
)

const (
	payloadChunk = iota
	payloadTerm
	payloadStored
)

// Flags of a purge: the database still had the document; the purge is the last
// one of a batch, and a checkpoint follows.
const (
	purgedStill     = 1
	purgeEndsBatch  = 2
	purgeCheckpoint = 4
)

const (
	endBatch = iota
	endCheckpoint
	endPass
	endNot // but bytes of an interrupted compaction follow
)

// maxBatch bounds the records of a batch, in bytes. The server's default is
// half a MiB (database_compaction/doc_buffer_size).
const maxBatch = 64 << 20

// maxDead is how many bytes of an interrupted compaction stand together.
const maxDead = 1 << 20

// Output is where Decode puts the file, from its beginning on. It reads nodes
// of it back.
type Output interface {
	io.Writer
	io.ReaderAt
}

// Decode writes the file of a stream to out, Info.Size bytes. older is nil if
// Info.OlderDocs is 0. scratch is an empty file for sorting, which becomes as large
// as the id tree; nil keeps it in memory.
//
// Damage of the stream is a couchfile.ErrCorrupt, as is an older file that is
// another than the one the stream was written for: then the sum of the result
// is wrong. After an error out holds nothing that is of use. Besides batches of
// records, of which it bounds the size, Decode holds one body or chunk of an
// attachment; it writes no more than Info.Size bytes.
func Decode(stream io.Reader, older Older, out Output, scratch couchwriter.Scratch) (*Info, error) {
	info, err := ReadInfo(stream)
	if err != nil {
		return nil, err
	}
	if older == nil && info.OlderDocs > 0 {
		return info, fmt.Errorf("replay: the older file at update_seq %d is needed", info.OlderSeq)
	}
	if older != nil {
		if err := info.fits(older.UpdateSeq()); err != nil {
			return info, err
		}
	}
	body := newWireReader(stream, info.bodySize)
	sink := newPatcher(info.made, out)
	if err := info.decode(body, older, sink, scratch); err != nil {
		return info, err
	}
	if err := body.end(info.bodySum); err != nil {
		return info, err
	}
	return info, sink.end()
}

// fits says whether a file of an update_seq can be what the stream was written for.
func (i *Info) fits(seq uint64) error {
	if i.OlderDocs > 0 && seq != i.OlderSeq {
		return damaged(fmt.Sprintf("the older file is at update_seq %d, and %d is needed", seq, i.OlderSeq))
	}
	return nil
}

// decoder runs the simulator with what a stream says.
type decoder struct {
	info  *Info
	in    *wireReader
	older Older
	left  uint64  // documents of older that follow
	spans *[]span // instead of older: those of its documents that are not taken

	security, props, timeSeq erlterm.Term
	updateSeq                uint64
	lastNew                  uint64 // update_seq of the newest new document of the pass
}

// decode reads a body and writes what it says to out.
func (i *Info) decode(in *wireReader, older Older, out Output, scratch couchwriter.Scratch) error {
	f := couchwriter.NewFile(out, out, 0, i.checksum)
	d := &decoder{info: i, in: in, older: older, left: i.OlderDocs}
	if err := d.run(couchwriter.NewCompaction(f, scratch, i.options())); err != nil {
		return err
	}
	return f.Flush()
}

func (i *Info) options() couchwriter.CompactionOptions {
	return couchwriter.CompactionOptions{Release: i.release, Compression: i.compression, ChunkSize: i.chunkSize, Told: true, DefaultSecurity: i.security}
}

// run has the simulator do what a body says.
func (d *decoder) run(c *couchwriter.Compaction) error {
	for range d.info.Passes {
		src, err := d.pass()
		if err != nil {
			return err
		}
		if err := c.Pass(src, 0); err != nil {
			return unpredicted(err)
		}
	}
	src, err := d.swap()
	if err != nil || src == nil {
		return err
	}
	return unpredicted(c.Swap(src))
}

// unpredicted makes damage of what the simulator can't do: there was none of
// it when the stream was written.
func unpredicted(err error) error {
	if errors.Is(err, couchwriter.ErrUnpredicted) {
		return fmt.Errorf("%w: %w", damaged("nothing that a compaction reads"), err)
	}
	return err
}

// header is what the simulator takes from the header of the database.
func (d *decoder) header(revsLimit, purgesLimit uint64) erlterm.Term {
	null := erlterm.PutAtom(nil, "nil")
	h := erlterm.PutAtom(erlterm.PutTuple(nil, 15), "db_header")
	h = erlterm.PutInt(h, 8)
	h = erlterm.PutUint(h, d.updateSeq)
	h = erlterm.PutInt(h, 0)
	for range 6 {
		h = append(h, null...)
	}
	h = erlterm.PutUint(h, revsLimit)
	h = append(append(append(h, d.info.uuid...), d.info.epochs...), d.info.compactedSeq...)
	return erlterm.PutUint(h, purgesLimit)
}

// pass reads what stands in front of the documents of a pass.
func (d *decoder) pass() (src *couchwriter.Source, err error) {
	if d.updateSeq, err = d.in.number("update_seq"); err != nil {
		return nil, err
	}
	for _, to := range []*erlterm.Term{&d.security, &d.props, &d.timeSeq} {
		if err := d.object(to); err != nil {
			return nil, err
		}
	}
	src = &couchwriter.Source{Header: d.header(1000, 1000), Security: d.security, Props: d.props, TimeSeq: d.timeSeq}
	purges, has, err := d.purges()
	src.Purges = func(uint64) iter.Seq2[couchwriter.SourcePurge, error] { return all(purges) }
	src.Has = func(id erlterm.Term) (bool, error) { return has[string(id)], nil }
	src.Docs = func(uint64) iter.Seq2[couchwriter.SourceDoc, error] { return d.docs }
	src.Sorting = d.sorting
	return src, err
}

func (d *decoder) sorting() (erlterm.Term, error) { return d.in.term("state of the sorting") }

func all[T any](entries []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// object reads an object, which may be the one that is there.
func (d *decoder) object(to *erlterm.Term) error {
	n, err := d.in.number("object")
	switch {
	case err != nil || n == 1:
		return err
	case n == 0:
		*to = nil
		return nil
	}
	p, err := d.in.bytes("object", n-1)
	if err != nil {
		return err
	}
	*to, err = checkTerm("object", p)
	return err
}

func (d *decoder) entry(what string) (e couchfile.Entry, err error) {
	if e.Key, err = d.in.term(what); err != nil {
		return e, err
	}
	e.Value, err = d.in.term(what)
	return e, err
}

// purges reads the purges of a pass, and which of their documents the database
// still had.
func (d *decoder) purges() (purges []couchwriter.SourcePurge, has map[string]bool, err error) {
	n, err := d.in.number("purges")
	if err != nil {
		return nil, nil, err
	}
	has = map[string]bool{}
	for range n {
		e, err := d.entry("purge")
		if err != nil {
			return nil, nil, err
		}
		flags, err := d.in.small("purge", purgedStill+purgeCheckpoint)
		if err != nil {
			return nil, nil, err
		}
		if id, ok := purgedID(e); ok && flags&purgedStill != 0 {
			has[string(id)] = true
		}
		purges = append(purges, couchwriter.SourcePurge{Entry: e, Batch: couchwriter.Batch(flags >> 1)})
	}
	return purges, has, nil
}

// purgedID is the document's id in an entry of the purge_seq tree: {uuid, id, revisions}.
func purgedID(e couchfile.Entry) (erlterm.Term, bool) {
	parts, ok := erlterm.Elements(e.Value)
	if !ok || len(parts) != 3 {
		return nil, false
	}
	return parts[1], true
}

// docs yields the documents of a pass and says where batches end.
func (d *decoder) docs(yield func(couchwriter.SourceDoc, error) bool) {
	r := docReader{d: d, yield: yield}
	d.lastNew = 0
	if err := r.run(); err != nil && !errors.Is(err, errStopped) {
		yield(couchwriter.SourceDoc{}, err)
	}
}

// docReader reads batches. It holds one document back, until it is known
// whether it is the last one of its batch.
type docReader struct {
	d     *decoder
	yield func(couchwriter.SourceDoc, error) bool

	held  *couchwriter.SourceDoc
	size  int // of the records in the batch
	ended bool
}

func (r *docReader) run() error {
	for !r.ended {
		step, err := r.d.in.number("step")
		if err != nil {
			return err
		}
		n := step >> 2
		switch step & 3 {
		case stepEnd:
			err = r.end(n)
		case stepSkip:
			err = r.skip(n)
		case stepTake:
			err = r.take(n)
		case stepNew:
			err = r.each(n, r.d.newDoc)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *docReader) each(n uint64, next func() (couchwriter.SourceDoc, error)) error {
	for range n {
		doc, err := next()
		if err != nil {
			return err
		}
		if r.size += len(doc.Key) + len(doc.Value); r.size > maxBatch {
			return damaged("a batch of too many documents")
		}
		if !r.push(&doc, couchwriter.BatchGoesOn) {
			return errStopped
		}
	}
	return nil
}

// errStopped says that the simulator wants no more, since it failed.
var errStopped = errors.New("stopped")

// push yields the document that is held and holds another.
func (r *docReader) push(doc *couchwriter.SourceDoc, b couchwriter.Batch) bool {
	held := r.held
	r.held = doc
	if held == nil {
		return true
	}
	held.Batch = b
	return r.yield(*held, nil)
}

func (r *docReader) end(n uint64) error {
	b := couchwriter.BatchGoesOn
	switch {
	case n == endNot:
		return r.interrupted()
	case n == endPass:
		r.ended = true
	case n < endPass && r.held == nil && r.d.spans != nil: // all of them were taken
		if n == endCheckpoint {
			_, err := r.d.sorting()
			return err
		}
		return nil
	case r.held == nil || n > endPass:
		return damaged("a batch without documents")
	case n == endCheckpoint:
		b = couchwriter.BatchCheckpoint
	default:
		b = couchwriter.BatchEnds
	}
	r.size = 0
	if !r.push(nil, b) {
		r.ended = true
	}
	return nil
}

// interrupted reads what an interrupted compaction had written.
func (r *docReader) interrupted() error {
	if r.held != nil {
		return damaged("a compaction that was interrupted in a batch")
	}
	n, err := r.d.in.small("an interrupted compaction", maxDead)
	if err != nil {
		return err
	}
	p, err := r.d.in.bytes("an interrupted compaction", n)
	if err == nil && !r.yield(couchwriter.SourceDoc{Dead: p}, nil) {
		err = errStopped
	}
	return err
}

func (r *docReader) skip(n uint64) error {
	d := r.d
	if n > d.left {
		return errMoreOlder
	}
	at := d.info.OlderDocs - d.left
	d.left -= n
	if d.spans != nil {
		*d.spans = append(*d.spans, span{at, n})
		return nil
	}
	return d.older.Skip(n)
}

func (r *docReader) take(n uint64) error {
	d := r.d
	if d.spans == nil {
		return r.each(n, d.take)
	}
	if n > d.left {
		return errMoreOlder
	}
	d.left -= n
	return nil
}

var errMoreOlder = damaged("more documents of the older file than it has")

// take is the next document of the older file.
func (d *decoder) take() (couchwriter.SourceDoc, error) {
	if d.left == 0 {
		return couchwriter.SourceDoc{}, errMoreOlder
	}
	d.left--
	return d.older.Next()
}

// newDoc reads a document's record. Its bodies follow behind the batch.
func (d *decoder) newDoc() (doc couchwriter.SourceDoc, err error) {
	gap, err := d.in.number("update_seq of a document")
	if err != nil {
		return doc, err
	}
	d.lastNew += gap
	doc.Key = erlterm.PutUint(nil, d.lastNew)
	doc.Value, err = d.in.term("document")
	doc.Chunks, doc.ByOffset = payloads{d.in, d.info.compression}, true
	return doc, err
}

// payloads are those of new documents, whatever they are asked for by.
type payloads struct {
	in          *wireReader
	compression couchwriter.Compression
}

// Payload reads the next one.
func (p payloads) Payload(int64) ([]byte, error) {
	kind, err := p.in.small("payload", payloadStored)
	if err != nil {
		return nil, err
	}
	if kind == payloadChunk {
		return p.in.str("attachment")
	}
	body, err := p.in.str("body")
	if err != nil {
		return nil, err
	}
	list, err := p.in.term("attachments of a body")
	if err != nil {
		return nil, err
	}
	if kind == payloadStored {
		return joinSummary(nil, body, list), nil
	}
	if _, err := checkTerm("body", body); err != nil {
		return nil, err
	}
	stored := p.compression.Append(nil, append([]byte{erlterm.Version}, body...))
	return joinSummary(nil, stored, list), nil
}

// swap reads what the server added at the end; nil if it added nothing.
func (d *decoder) swap() (*couchwriter.Source, error) {
	is, err := d.in.small("swap", 1)
	if err != nil || is == 0 {
		return nil, err
	}
	var limits [2]uint64
	if d.updateSeq, err = d.in.number("update_seq"); err != nil {
		return nil, err
	}
	for i := range limits {
		if limits[i], err = d.in.number("limit"); err != nil {
			return nil, err
		}
	}
	if err := d.object(&d.timeSeq); err != nil {
		return nil, err
	}
	n, err := d.in.number("local documents")
	if err != nil {
		return nil, err
	}
	var locals []couchfile.Entry
	for range n {
		e, err := d.entry("local document")
		if err != nil {
			return nil, err
		}
		locals = append(locals, e)
	}
	src := &couchwriter.Source{Header: d.header(limits[0], limits[1]), TimeSeq: d.timeSeq}
	src.Locals = func() iter.Seq2[couchfile.Entry, error] { return all(locals) }
	return src, nil
}
