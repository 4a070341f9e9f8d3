package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Result is what Encode made.
type Result struct {
	// Prologue stands in front of the body: the stream is both.
	Prologue []byte
	Info     *Info

	Taken, New  uint64 // documents: of the older file, and in the stream
	Corrections int    // places where the prediction was wrong
}

// StreamSize is how many bytes the stream has, prologue and body.
func (r *Result) StreamSize() int64 { return int64(len(r.Prologue)) + int64(r.Info.bodySize) }

// Encode writes the body of the stream for a file that a compaction made. known
// is of the older file at the cut that the stream will rest on; nil if nothing
// is known, and then the stream has all documents. scratch is as for Decode.
//
// It returns ErrNotReplayed, with the reason, if the file is to be stored as it
// is. After an error what body got is worthless.
//
// It holds 8 bytes for each document of the pass with the most, one batch of
// records, and what the simulator holds.
func Encode(body io.Writer, f File, known *Known, scratch couchwriter.Scratch) (*Result, error) {
	s, err := shapeOf(f)
	if err != nil {
		return nil, asNotReplayed(err)
	}
	info, err := s.parameters()
	if err != nil {
		return nil, asNotReplayed(err)
	}
	p := startProof(info, f, known, scratch)
	e := &encoder{shape: s, info: info, known: openCursor(known), proof: p, w: newWireWriter(io.MultiWriter(body, p.pipe)),
		chunks: couchfile.NewChunkReader(f.R, s.size)}
	if known != nil {
		e.hasher.key = known.key
	}
	defer e.known.close()
	err = e.run()
	if proved := p.end(err); err == nil || errors.Is(proved, errWrong) || errors.Is(err, errProofEnded) {
		err = proved
	}
	if err != nil {
		return nil, asNotReplayed(err)
	}
	return e.result()
}

// asNotReplayed turns damage and what isn't predicted into ErrNotReplayed: the
// file is stored as it is, whatever is the matter with it. Errors of reading
// and writing stay.
func asNotReplayed(err error) error {
	switch {
	case errors.Is(err, ErrNotReplayed):
	case errors.Is(err, couchfile.ErrCorrupt), errors.Is(err, couchwriter.ErrUnpredicted), errors.Is(err, errWrong),
		errors.Is(err, couchfile.ErrUnsupportedVersion), errors.Is(err, couchfile.ErrNotDatabase):
		return notReplayed("%w", err)
	}
	return err
}

// result is the prologue, with what the proof found out.
func (e *encoder) result() (*Result, error) {
	c := e.proof.out
	if c.off != e.info.Size {
		return nil, notReplayed("%w: %d bytes instead of %d", errWrong, c.off, e.info.Size)
	}
	info := e.info
	copy(info.SHA256[:], c.sum.Sum(nil))
	info.corrections = c.corrections
	info.bodySize = e.w.n
	copy(info.bodySum[:], e.w.sum.Sum(nil))
	if e.taken > 0 {
		info.OlderDocs, info.OlderSeq = e.known.known.docs, e.known.known.updateSeq
	}
	r := &Result{Prologue: info.append(nil), Info: info, Taken: e.taken, New: e.news, Corrections: len(info.corrections)}
	again, err := ReadInfo(bytes.NewReader(r.Prologue))
	if err != nil || !bytes.Equal(again.append(nil), r.Prologue) {
		return nil, notReplayed("the prologue does not read back: %w", err)
	}
	return r, nil
}

// encoder writes a body.
type encoder struct {
	*shape
	info   *Info
	known  *cursor
	proof  *proof
	w      *wireWriter
	chunks *couchfile.ChunkReader
	hasher hasher
	inf    couchfile.Inflater

	objects     [3]erlterm.Term // of the pass before
	lastPurge   uint64
	lastNew     uint64
	skipped     uint64 // not yet written
	checked     int    // checkpoints of the shape that were written
	taken, news uint64
}

func (e *encoder) run() error {
	since, from := uint64(0), e.begun
	for i, h := range e.passes {
		src, err := e.source(h, e.copied[i])
		if err != nil {
			return err
		}
		parsed, err := couchfile.ParseHeader(h)
		if err != nil {
			return err
		}
		e.w.number(parsed.UpdateSeq)
		for i, t := range []erlterm.Term{src.Security, src.Props, src.TimeSeq} {
			e.object(i, t)
		}
		purges, err := e.purges(src, from)
		if err != nil {
			return err
		}
		x, err := e.newExtents(src, since)
		if err != nil {
			return err
		}
		if purges == 0 { // else their nodes are in front of the documents
			x.begin(behind(from))
		}
		if err := e.docs(src, x, since, parsed.SecurityPtr); err != nil {
			return err
		}
		since, from = parsed.UpdateSeq, h.End
	}
	if err := e.swapped(); err != nil {
		return err
	}
	return e.w.flush()
}

// source is what a pass copied: what its header has and, in front of a
// checkpoint, what was there then. If the compaction was interrupted behind it,
// documents may have changed since that it had copied.
func (e *encoder) source(h couchfile.RawHeader, checkpoint *couchfile.RawHeader) (*couchwriter.Source, error) {
	src, err := couchwriter.OpenSource(e.f.R, e.size, h)
	if err != nil || checkpoint == nil {
		return src, err
	}
	at, err := couchwriter.OpenSource(e.f.R, e.size, *checkpoint)
	if err != nil {
		return nil, err
	}
	parsed, err := couchfile.ParseHeader(*checkpoint)
	if err != nil {
		return nil, err
	}
	later := src.Docs
	src.Docs = func(since uint64) iter.Seq2[couchwriter.SourceDoc, error] {
		return func(yield func(couchwriter.SourceDoc, error) bool) {
			for _, docs := range []iter.Seq2[couchwriter.SourceDoc, error]{at.Docs(since), later(max(since, parsed.UpdateSeq))} {
				for d, err := range docs {
					if !yield(d, err) || err != nil {
						return
					}
				}
			}
		}
	}
	return src, nil
}

// object writes the object of one kind.
func (e *encoder) object(kind int, t erlterm.Term) {
	switch {
	case t == nil:
		e.w.number(0)
	case bytes.Equal(t, e.objects[kind]):
		e.w.number(1)
	default:
		e.w.number(uint64(len(t)) + 1)
		e.w.raw(t)
	}
	e.objects[kind] = t
}

func (e *encoder) entry(x couchfile.Entry) {
	e.w.str(x.Key)
	e.w.str(x.Value)
}

// purges writes those of the pass that began at an offset.
func (e *encoder) purges(src *couchwriter.Source, from int64) (n int, err error) {
	var list []couchfile.Entry
	for p, err := range src.Purges(e.lastPurge) {
		if err != nil {
			return 0, err
		}
		list = append(list, p.Entry)
	}
	e.w.number(uint64(len(list)))
	if len(list) == 0 {
		return 0, nil
	}
	flags, err := e.purgeBatches(from)
	if err != nil {
		return 0, err
	}
	ended := 0
	for _, p := range list {
		seq, okSeq := seqOf(p)
		id, okID := purgedID(p)
		if !okSeq || !okID {
			return 0, damaged("purge")
		}
		e.lastPurge = seq
		has, err := src.Has(id)
		if err != nil {
			return 0, err
		}
		flag := flags[seq]
		if has {
			flag |= purgedStill
		}
		e.entry(p)
		e.w.number(flag)
		if flag&purgeCheckpoint != 0 {
			ended++
		}
	}
	return len(list), e.sorting(ended)
}

// sorting writes what the next checkpoints say of the file in which the server sorted.
func (e *encoder) sorting(n int) error {
	if e.checked+n > len(e.checkpoints) {
		return notReplayed("fewer headers of the compaction than there should be")
	}
	for _, p := range e.checkpoints[e.checked : e.checked+n] {
		if p.sorting == nil {
			return notReplayed("a header of the compaction of an unknown form")
		}
		e.w.str(p.sorting)
	}
	e.checked += n
	return e.w.err
}

// swapped writes what the server added when it took the file into use.
func (e *encoder) swapped() error {
	if e.swap == nil {
		e.w.number(0)
		return nil
	}
	src, err := couchwriter.OpenSource(e.f.R, e.size, *e.swap)
	if err != nil {
		return err
	}
	parsed, err := couchfile.ParseHeader(*e.swap)
	if err != nil {
		return err
	}
	e.w.number(1)
	e.w.number(parsed.CompactedSeq)
	e.w.number(parsed.RevsLimit)
	e.w.number(parsed.PurgeInfosLimit)
	e.object(2, src.TimeSeq)
	var locals []couchfile.Entry
	for l, err := range src.Locals() {
		if err != nil {
			return err
		}
		locals = append(locals, l)
	}
	e.w.number(uint64(len(locals)))
	for _, l := range locals {
		e.entry(l)
	}
	return nil
}

// doc is a document of a batch.
type doc struct {
	couchwriter.SourceDoc
	seq   uint64
	rec   *couchwriter.Record
	known bool    // in the older file, at this sequence
	hash  docHash // that is known
	skips uint64  // documents of the older file in front of it
	taken bool
}

// docs writes the documents of a pass.
func (e *encoder) docs(src *couchwriter.Source, x *extents, since uint64, objects int64) error {
	e.lastNew = 0
	var batch []doc
	size := 0
	for s, err := range src.Docs(since) {
		if err != nil {
			return err
		}
		d, err := e.doc(s)
		if err != nil {
			return err
		}
		if err := e.dead(x); err != nil {
			return err
		}
		end, err := x.next(d.rec, objects)
		if err != nil {
			return err
		}
		batch = append(batch, d)
		if size += len(s.Key) + len(s.Value); size > maxBatch {
			return notReplayed("a batch of more than %d MiB", maxBatch>>20)
		}
		if end == couchwriter.BatchGoesOn {
			continue
		}
		n := uint64(endBatch)
		if end == couchwriter.BatchCheckpoint {
			n = endCheckpoint
		}
		if err := e.batch(batch, n); err != nil {
			return err
		}
		batch, size = batch[:0], 0
	}
	if err := e.dead(x); err != nil {
		return err
	}
	return e.batch(batch, endPass)
}

// dead writes what an interrupted compaction left in front of the next batch,
// if it did.
func (e *encoder) dead(x *extents) error {
	if x.dead < 0 {
		return notReplayed("documents at %d, in front of their batch", x.deadFrom+x.dead)
	}
	for x.dead > 0 && e.w.err == nil {
		p := make([]byte, min(x.dead, maxDead))
		if n, err := e.f.R.ReadAt(p, x.deadFrom); n < len(p) {
			return fmt.Errorf("read the file at %d: %w", x.deadFrom, err)
		}
		e.w.number(endNot << 2) // and stepEnd, which is 0
		e.w.str(p)
		x.deadFrom, x.dead = x.deadFrom+int64(len(p)), x.dead-int64(len(p))
	}
	return e.w.err
}

// doc looks up what is known of a document.
func (e *encoder) doc(s couchwriter.SourceDoc) (d doc, err error) {
	r, err := couchwriter.ParseRecord(s.Entry)
	if err != nil {
		return d, err
	}
	d = doc{SourceDoc: s, rec: r}
	mixed := r.Copied()
	var ok bool
	if d.seq, ok = seqOf(s.Entry); !ok {
		return d, damaged("update_seq of a document")
	}
	if d.hash, d.known, d.skips, err = e.known.find(d.seq); mixed {
		d.hash = docHash{}
	}
	return d, err
}

// checkpointsAt is how many checkpoints follow the end of a batch.
var checkpointsAt = map[uint64]int{endCheckpoint: 1, endPass: 2}

// batch writes documents, which are in the order of their sequences.
func (e *encoder) batch(docs []doc, end uint64) error {
	order := make([]*doc, len(docs))
	for i := range docs {
		order[i] = &docs[i]
	}
	slices.SortFunc(order, func(a, b *doc) int {
		n, _ := couchwriter.Terms(a.rec.ID, b.rec.ID) // binaries
		return n
	})
	for _, d := range order {
		d.taken = d.known && d.hash != (docHash{}) && e.same(d) && e.whole(d)
	}
	if err := e.steps(docs); err != nil {
		return err
	}
	e.w.number(end << 2) // and stepEnd, which is 0
	for _, d := range order {
		if d.taken {
			continue
		}
		if err := e.payloads(d); err != nil {
			return fmt.Errorf("document of update_seq %d: %w", d.seq, err)
		}
	}
	if err := e.sorting(checkpointsAt[end]); err != nil {
		return err
	}
	return e.w.flush() // so that the proof does not fall behind, which holds what it was lent
}

// same says whether a document is the one that is known, or that one with its
// bodies compressed anew.
func (e *encoder) same(d *doc) bool {
	if e.hasher.hash(d.rec, e.chunks) == d.hash {
		return true
	}
	other := e.hasher
	other.stored = e.otherwise
	return other.hash(d.rec, e.chunks) == d.hash
}

// otherwise is a body as a file of the other compression has it, if compressing
// that one gives the body.
func (e *encoder) otherwise(body []byte) ([]byte, error) {
	t, err := e.inf.Term(body)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(e.store(t), body) {
		return nil, errWrong
	}
	other := couchwriter.None
	if e.info.compression == couchwriter.None {
		other = couchwriter.Snappy
	}
	return other.Append(nil, append([]byte{erlterm.Version}, t...)), nil
}

// steps writes runs of documents.
func (e *encoder) steps(docs []doc) error {
	for i := 0; i < len(docs); {
		n := 1
		for i+n < len(docs) && docs[i+n].taken == docs[i].taken && (!docs[i].taken || docs[i+n].skips == 0) {
			n++
		}
		run := docs[i : i+n]
		i += n
		if !run[0].taken {
			e.newDocs(run)
			continue
		}
		if e.skipped += run[0].skips; e.skipped > 0 {
			e.w.number(e.skipped<<2 | stepSkip)
		}
		e.skipped = 0
		e.proof.lend(run)
		e.taken += uint64(n)
		e.w.number(uint64(n)<<2 | stepTake)
	}
	return e.w.err
}

func (e *encoder) newDocs(run []doc) {
	e.news += uint64(len(run))
	e.w.number(uint64(len(run))<<2 | stepNew)
	var plain []byte
	for _, d := range run {
		e.skipped += d.skips
		if d.known {
			e.skipped++
		}
		plain = d.rec.AppendPlain(plain[:0])
		e.w.number(d.seq - e.lastNew)
		e.w.str(plain)
		e.lastNew = d.seq
	}
}

// whole says whether all attachments of a document are what their MD5s say: the
// hash that is known is of these.
func (e *encoder) whole(d *doc) bool {
	for _, leaf := range d.rec.Leaves {
		if len(leaf.Attachments) > 0 && leaf.Attachments.Tag() == erlterm.TagNil {
			continue
		}
		p, err := e.chunks.Payload(leaf.Offset)
		if err != nil {
			return false
		}
		s, err := splitSummary(bytes.Clone(p))
		if err != nil {
			return false
		}
		for _, a := range s.atts {
			if !a.whole(e.chunks) {
				return false
			}
		}
	}
	return true
}

// payloads writes bodies and attachments of a new document.
func (e *encoder) payloads(d *doc) error {
	for _, leaf := range d.rec.Leaves {
		p, err := e.chunks.Payload(leaf.Offset)
		if err != nil {
			return err
		}
		s, err := splitSummary(p)
		if err != nil {
			return err
		}
		e.body(s)
		for _, a := range s.atts {
			for _, c := range a.chunks {
				p, err := e.chunks.Payload(c.off)
				if err != nil {
					return err
				}
				e.w.number(payloadChunk)
				e.w.str(p)
			}
		}
	}
	return e.w.err
}

// body writes a body decompressed, if compressing it gives the same again.
func (e *encoder) body(s summary) {
	kind, body := uint64(payloadStored), s.body
	t, err := e.inf.Term(s.body)
	if err == nil {
		if n, ok := erlterm.Size(t); ok && n == len(t) && bytes.Equal(e.store(t), s.body) {
			kind, body = payloadTerm, t
		}
	}
	e.w.number(kind)
	e.w.str(body)
	e.w.str(s.list(zeros))
}

func (e *encoder) store(t erlterm.Term) []byte {
	return e.info.compression.Append(nil, append([]byte{erlterm.Version}, t...))
}
