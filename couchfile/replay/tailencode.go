package replay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sort"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// TailResult is what EncodeTail made.
type TailResult struct {
	// Prologue stands in front of the body: the stream is both.
	Prologue []byte
	Info     *TailInfo

	Commits   int   // headers in the tail
	Changed   int   // of these, with other trees than the header before
	Predicted int   // of those, whose nodes follow from the documents
	Between   int   // chunks among their nodes, of attachments that were uploaded meanwhile
	Others    int   // nodes among these that were stored, being other ones
	Raw       int64 // bytes that are no chunk, or a damaged one, or were not predicted
}

// StreamSize is how many bytes the stream has, prologue and body.
func (r *TailResult) StreamSize() int64 { return int64(len(r.Prologue)) + int64(r.Info.bodySize) }

// EncodeTail writes the body of the stream for a tail: for what a server
// appended to a database's file from the end of an older header, from, to the
// end of the one at f.Header.
//
// Nothing is believed: what is written is decoded step by step, with DecodeTail's
// own code, and held against the file. Nodes that are not predicted are stored.
// It returns ErrNotReplayed if no header ends at from. It holds the records of one
// commit, one chunk, and nodes that it keeps, some 20 MiB at most.
func EncodeTail(body io.Writer, f File, from int64) (*TailResult, error) {
	r, err := encodeTail(body, f, from)
	if err != nil {
		return nil, asNotReplayed(err)
	}
	return r, nil
}

func encodeTail(body io.Writer, f File, from int64) (*TailResult, error) {
	cut, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		return nil, err
	}
	was, err := headerBefore(f.R, from)
	if err != nil {
		return nil, err
	}
	e := newTailEncoder(body, f, was, cut.End)
	for e.truth.summed < cut.End {
		h, err := e.nextHeader(cut)
		if err != nil {
			return nil, err
		}
		if err := e.commit(h); err != nil {
			return nil, err
		}
	}
	e.w.raw([]byte{tailEnd})
	if err := e.w.flush(); err != nil {
		return nil, err
	}
	return e.end(from)
}

// tailEncoder writes a body.
type tailEncoder struct {
	f     File
	w     *wireWriter
	truth *truth
	m     *tailMaker // decodes what is written

	in    wireReader // of a step
	bytes bytes.Reader
	buf   []byte // of the step that is being made
	nodes nodeReader
	inf   couchfile.Inflater
	was   []byte // the header before
	cut   cutSizes
	res   TailResult
}

func newTailEncoder(body io.Writer, f File, was couchfile.RawHeader, end int64) *tailEncoder {
	e := &tailEncoder{f: f, was: was.Term, w: newWireWriter(body), truth: newTruth(f.R, was.End, end)}
	e.in.r = bufio.NewReaderSize(&e.bytes, 64<<10)
	e.m = newTailMaker(&e.in, e.truth, f.R, was)
	e.m.list = e.cut.list
	e.nodes = nodeReader{r: f.R, end: func() int64 { return end }}
	return e
}

// end is the result, whose prologue reads back.
func (e *tailEncoder) end(from int64) (*TailResult, error) {
	info := &TailInfo{From: from, Size: e.truth.end - from, bodySize: e.w.n}
	copy(info.SHA256[:], e.truth.sum.Sum(nil))
	copy(info.bodySum[:], e.w.sum.Sum(nil))
	r := e.res
	r.Info, r.Prologue = info, info.append(nil)
	again, err := ReadTailInfo(bytes.NewReader(r.Prologue))
	if err != nil || *again != *info {
		return nil, notReplayed("the prologue does not read back: %w", err)
	}
	return &r, nil
}

// nextHeader is the next header behind what is accepted.
func (e *tailEncoder) nextHeader(cut couchfile.RawHeader) (couchfile.RawHeader, error) {
	const block = couchfile.BlockSize
	for off := (e.truth.summed + block - 1) / block * block; off < cut.Offset; off += block {
		marker, err := e.truth.bytes(off, 1)
		if err != nil {
			return cut, err
		}
		if marker[0] != 1 {
			continue
		}
		h, err := couchfile.ReadHeader(e.f.R, cut.End, off)
		if !errors.Is(err, couchfile.ErrCorrupt) {
			return h, err
		}
	}
	return cut, nil
}

// read lets the decoder read a step.
func (e *tailEncoder) read(step []byte) {
	e.bytes.Reset(step)
	e.in.r.Reset(&e.bytes)
	e.in.left = uint64(len(step))
}

// try decodes a step, and writes it if it makes the true bytes.
func (e *tailEncoder) try(step []byte) (ok bool, err error) {
	start, pending := e.m.f.Offset(), len(e.m.pending)
	e.read(step)
	_, err = e.m.step()
	if err == nil {
		err = e.m.f.Flush()
	}
	if err == nil && e.in.left == 0 {
		return true, e.accept(step)
	}
	e.back(start)
	e.m.pending = e.m.pending[:min(pending, len(e.m.pending))]
	return false, guessed(err)
}

func (e *tailEncoder) accept(step []byte) error {
	e.w.raw(step)
	if err := e.truth.accept(); err != nil {
		return err
	}
	return e.w.err
}

// back goes back to where a step began that was wrong.
func (e *tailEncoder) back(off int64) {
	m := e.m
	m.f.Reset(off)
	m.chunks = m.chunks[:sort.Search(len(m.chunks), func(i int) bool { return m.chunks[i].off >= off })]
	m.terms = m.terms[:sort.Search(len(m.terms), func(i int) bool { return m.terms[i] >= off })]
	e.truth.off = off
}

// guessed drops the errors of guesses that were wrong.
func guessed(err error) error {
	if errors.Is(asNotReplayed(err), ErrNotReplayed) {
		return nil
	}
	return err
}

// raw stores the bytes up to to as they are.
func (e *tailEncoder) raw(to int64) error {
	for off := e.truth.summed; off < to; off = e.truth.summed {
		p, err := e.truth.bytes(off, min(to-off, truthWindow/2))
		if err != nil {
			return err
		}
		e.res.Raw += int64(len(p))
		e.buf = appendStr(append(e.buf[:0], tailRaw), p)
		switch ok, err := e.try(e.buf); {
		case err != nil:
			return err
		case !ok:
			return notReplayed("a file that changes while it is read")
		}
	}
	return nil
}

// settings stores other settings.
func (e *tailEncoder) settings(set tailSet) error {
	if set == e.m.set {
		return nil
	}
	step := []byte{tailSettings}
	for _, n := range []uint64{uint64(set.compression), uint64(set.purges), uint64(set.chunkSize), uint64(set.checksum)} {
		step = appendNumber(step, n)
	}
	_, err := e.try(step)
	return err
}

// compression stores that terms are stored in another way.
func (e *tailEncoder) compression(payload []byte) error {
	set := e.m.set
	switch {
	case couchwriter.Snappy.Stores(payload):
		set.compression, set.purges = couchwriter.Snappy, couchwriter.Snappy
	case couchwriter.None.Stores(payload) && payload[0] == 131:
		set.compression = couchwriter.None
	}
	return e.settings(set)
}

// commit stores all up to the end of a header.
func (e *tailEncoder) commit(h couchfile.RawHeader) error {
	c, err := e.changes(h)
	if err != nil {
		return err
	}
	e.res.Commits++
	if c.predict {
		e.res.Changed++
	}
	for again := true; again; {
		if again, err = e.chunks(c, h); err != nil {
			return err
		}
	}
	e.was = h.Term
	return e.header(h)
}

// chunks stores what is in front of a header, or up to the end of the nodes of
// its commit.
func (e *tailEncoder) chunks(c *commit, h couchfile.RawHeader) (again bool, err error) {
	for chunk, err := range couchfile.Chunks(e.f.R, e.truth.summed, h.Offset) {
		if errors.Is(err, couchfile.ErrCorrupt) {
			return false, e.raw(h.Offset)
		}
		if err != nil {
			return false, err
		}
		if err := e.raw(chunk.Offset); err != nil { // zeros of no header
			return false, err
		}
		if c.predict && e.isNode(chunk) {
			c.predict = false
			if ok, err := e.update(c, h); ok || err != nil {
				return ok, err
			}
		}
		if err := e.chunk(chunk, c); err != nil {
			return false, err
		}
	}
	return false, nil
}

// chunk stores a chunk.
func (e *tailEncoder) chunk(c couchfile.Chunk, in *commit) error {
	if c.Flagged && c.Checksum != couchfile.ChecksumNone {
		set := e.m.set
		set.checksum = c.Checksum
		if err := e.settings(set); err != nil {
			return err
		}
		if len(c.Payload) > 10 {
			if err := e.compression(c.Payload[8:]); err != nil { // the first bytes of {body, attachments}
				return err
			}
		}
		if ok, err := e.summary(c, in); ok || err != nil {
			return err
		}
	}
	if !c.IsHeader {
		e.buf = e.plainStep(e.buf[:0], c)
		if ok, err := e.try(e.buf); ok || err != nil {
			return err
		}
	}
	return e.raw(c.End)
}

// summary stores the chunk of a body: as a term, or as it is stored, if storing the
// term gives something else.
func (e *tailEncoder) summary(c couchfile.Chunk, in *commit) (ok bool, err error) {
	older, pending := in.bodies[c.Offset]
	for _, decompress := range []bool{true, false} {
		s := summaryStep{payload: c.Payload, off: c.Offset, older: older, pending: pending, decompress: decompress}
		if e.buf, ok = e.m.appendSummary(e.buf[:0], s); !ok {
			return false, nil
		}
		if ok, err = e.try(e.buf); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// plainStep appends the step that makes a chunk of its payload alone.
func (e *tailEncoder) plainStep(dst []byte, c couchfile.Chunk) []byte {
	if c.Flagged {
		return appendStr(append(dst, tailChecked), c.Payload)
	}
	if t, err := e.inf.Term(c.Payload); err == nil && e.m.storedAs(t, c.Payload) {
		return appendStr(append(dst, tailTerm), t)
	}
	return appendStr(append(dst, tailChunk), c.Payload)
}

// header stores a header. Zeros that are more than fill a block are raw.
func (e *tailEncoder) header(h couchfile.RawHeader) error {
	set := e.m.set
	set.checksum = h.Checksum
	if err := e.settings(set); err != nil {
		return err
	}
	for _, to := range []int64{e.truth.summed, h.Offset} {
		if err := e.raw(to); err != nil {
			return err
		}
		for _, apart := range []bool{true, false} {
			e.buf = e.m.appendHeader(append(e.buf[:0], tailHeader), h.Term, apart)
			if ok, err := e.try(e.buf); ok || err != nil {
				return err
			}
		}
	}
	return e.raw(h.End)
}
