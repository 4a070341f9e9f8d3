package replay

import (
	"cmp"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Forms of a body, and what is added to them.
const (
	bodyTerm   = iota // decompressed
	bodyStored        // as it is stored
	bodyDelta         // as what differs from an older one, with its attachments
	bodyForms

	summaryPending = 4 // a record refers to it
	summaryOlder   = 8 // an older body is named
	maxDelta       = 16 << 20
)

// Where the chunks of an attachment are; from attOlder on, those of the older body.
const (
	attAnywhere = iota
	attOfTail
	attOlder
)

// maxBack is how many chunks back, at least, those of an attachment may be.
const maxBack = 1 << 20

// oldSummary is an older body, decompressed, and its attachments.
type oldSummary struct {
	body, list erlterm.Term // list is without pointers
	atts       []attachment
}

// summary appends the chunk of a document's body.
func (m *tailMaker) summary() error {
	kind, err := m.in.small("body", summaryOlder+summaryPending+bodyForms-1)
	if err != nil {
		return err
	}
	var old *oldSummary
	if kind&summaryOlder != 0 {
		if old, err = m.readOlder(); err != nil {
			return err
		}
	}
	body, plain, err := m.body(kind%summaryPending, old)
	if err != nil {
		return err
	}
	list, sizes, err := m.attachments(plain, old)
	if err != nil {
		return err
	}
	p := erlterm.PutBinary(erlterm.PutTuple([]byte{erlterm.Version}, 2), body)
	off, size := m.f.Checked(erlterm.PutBinary(p, m.store(list)))
	if kind&summaryPending != 0 {
		m.pending = append(m.pending, pendingBody{off, size, sizes})
	}
	return nil
}

// body reads a body, which it returns as it is stored, and the list of its
// attachments without pointers.
func (m *tailMaker) body(form uint64, old *oldSummary) (body []byte, list erlterm.Term, err error) {
	switch {
	case form == bodyTerm:
		t, err := m.in.term("body")
		if err != nil {
			return nil, nil, err
		}
		body = m.store(t)
	case form == bodyStored:
		if body, err = m.in.str("body"); err != nil {
			return nil, nil, err
		}
	case form == bodyDelta && old != nil:
		return m.deltaBody(old)
	default:
		return nil, nil, damaged("form of a body")
	}
	list, err = m.in.term("attachments of a body")
	return body, list, err
}

// deltaBody reads a body that is told as what differs from an older one.
func (m *tailMaker) deltaBody(old *oldSummary) (body []byte, list erlterm.Term, err error) {
	d, err := m.in.delta("body", old.body, maxDelta)
	if err != nil {
		return nil, nil, err
	}
	t, err := checkTerm("body", d)
	if err != nil {
		return nil, nil, err
	}
	if d, err = m.in.delta("attachments of a body", old.list, maxDelta); err == nil {
		list, err = checkTerm("attachments of a body", d)
	}
	return m.store(t), list, err
}

// readOlder reads which older body it is, and then the body.
func (m *tailMaker) readOlder() (*oldSummary, error) {
	seq := headerSeq(m.header)
	back, err := m.in.small("older body", seq)
	if err != nil {
		return nil, err
	}
	leaf, err := m.in.number("older body")
	if err != nil {
		return nil, err
	}
	db, err := m.database()
	if err != nil {
		return nil, err
	}
	v, err := db.DocAt(erlterm.PutUint(nil, seq-back))
	if err != nil {
		return nil, err
	}
	leaves := leafBodies(v)
	if leaf >= uint64(len(leaves)) {
		return nil, damaged("older body")
	}
	return m.older(leaves[leaf])
}

// leafBodies are the offsets of the bodies of a document's leaves.
func leafBodies(value erlterm.Term) (offs []int64) {
	p, ok := splitRecord(value)
	if !ok {
		return nil
	}
	eachRev(p.revs, func(r revValue) bool {
		if b, ok := parseRevBody(p.revs[r.start:r.end]); ok && r.leaf && b.off < 1<<62 {
			offs = append(offs, int64(b.off))
		}
		return true
	})
	return offs
}

// older is the body in a chunk of the file.
func (m *tailMaker) older(off int64) (*oldSummary, error) {
	p, err := nodesOf{m}.Payload(off)
	if err != nil {
		return nil, err
	}
	s, err := splitSummary(p)
	if err != nil {
		return nil, err
	}
	body, err := m.old.Term(s.body)
	return &oldSummary{body, s.list(none), s.atts}, err
}

// attachments reads the pointers of attachments and puts them into their list.
// It also makes the list of {pointers, length} that the revision has.
func (m *tailMaker) attachments(plain erlterm.Term, old *oldSummary) (list, sizes erlterm.Term, err error) {
	if plain.Tag() == erlterm.TagNil {
		return plain, plain, nil
	}
	items, ok := erlterm.Elements(plain)
	if !ok {
		return nil, nil, damaged("list of attachments")
	}
	var s summary
	at := m.f.Offset()
	for _, item := range items {
		a := attachment{}
		if a.fields, ok = erlterm.Elements(item); !ok || len(a.fields) != attFields {
			return nil, nil, damaged("attachment")
		}
		where, err := m.in.number("attachment")
		if err != nil {
			return nil, nil, err
		}
		switch {
		case where == attAnywhere:
			a.chunks, at, err = m.chunksAnywhere(at)
		case where == attOfTail:
			a.chunks, err = m.chunksOfTail()
		case old == nil || where-attOlder >= uint64(len(old.atts)):
			err = damaged("attachment of an older body")
		default:
			a.chunks = old.atts[where-attOlder].chunks
		}
		if err != nil {
			return nil, nil, err
		}
		s.atts = append(s.atts, a)
	}
	sizes, ok = s.sizes()
	if !ok {
		return nil, nil, damaged("attachments of a body")
	}
	return s.list(pointers), sizes, nil
}

// chunksAnywhere reads the pointers of an attachment. at is where the chunk before
// them ends, and then the last one of them.
func (m *tailMaker) chunksAnywhere(at int64) (chunks []part, end int64, err error) {
	n, err := m.in.number("chunks of an attachment")
	if err != nil {
		return nil, 0, err
	}
	if n > 0 && m.merges {
		return nil, 0, notMerged("an attachment whose chunks are anywhere in the file")
	}
	for range n {
		by, err := m.in.signed("offset of a chunk")
		if err != nil {
			return nil, 0, err
		}
		length, err := m.in.small("length of a chunk", 1<<31-1)
		if err != nil {
			return nil, 0, err
		}
		off := at + by
		if off < 0 || off > 1<<62 {
			return nil, 0, damaged("offset of a chunk")
		}
		chunks = append(chunks, part{off, length})
		at = chunkEnd(off, length)
	}
	return chunks, at, nil
}

// chunksOfTail reads which chunks of the tail an attachment has.
func (m *tailMaker) chunksOfTail() (chunks []part, err error) {
	n, err := m.in.number("chunks of an attachment")
	if err != nil {
		return nil, err
	}
	at := int64(len(m.chunks))
	for range n {
		by, err := m.in.signed("chunks of an attachment")
		if err != nil {
			return nil, err
		}
		count, err := m.in.small("chunks of an attachment", uint64(len(m.chunks)-len(chunks)))
		if err != nil {
			return nil, err
		}
		if at += by; at < 0 || at > int64(len(m.chunks))-int64(count) {
			return nil, damaged("chunks of an attachment")
		}
		chunks = append(chunks, m.chunks[at:at+int64(count)]...)
		at += int64(count)
	}
	return chunks, nil
}

// wrote counts a chunk. Only the newest are kept.
func (m *tailMaker) wrote(off int64, length int) {
	if len(m.chunks) == 2*maxBack {
		m.chunks = append(m.chunks[:0], m.chunks[maxBack:]...)
	}
	m.chunks = append(m.chunks, part{off, uint64(length)})
}

// pointers are {offset, length} of each chunk.
func pointers(chunks []part) erlterm.Term {
	if len(chunks) == 0 {
		return erlterm.Term{erlterm.TagNil}
	}
	t := erlterm.PutListHead(make([]byte, 0, 6+14*len(chunks)), len(chunks))
	for _, c := range chunks {
		t = erlterm.PutUint(erlterm.PutInt(erlterm.PutTuple(t, 2), c.off), c.length)
	}
	return append(t, erlterm.TagNil)
}

// sizes are what a revision says of its attachments: {pointers, length} of
// each, in Erlang's order, and each once.
//
// Source: CouchDB 3.5, src/couch/src/couch_att.erl, size_info.
func (s *summary) sizes() (erlterm.Term, bool) {
	var items []erlterm.Term
	for _, a := range s.atts {
		items = append(items, append(append(erlterm.PutTuple(nil, 2), pointers(a.chunks)...), a.fields[attLength]...))
	}
	known := true
	slices.SortFunc(items, func(a, b erlterm.Term) int {
		c, ok := erlterm.Compare(a, b)
		known = known && ok
		return c
	})
	items = slices.CompactFunc(items, func(a, b erlterm.Term) bool { return string(a) == string(b) })
	return erlterm.PutList(nil, items), known
}

// none are the pointers in a list of attachments whose pointers are told
// beside it.
func none([]part) erlterm.Term { return erlterm.Term{erlterm.TagNil} }

// summaryStep is a chunk that holds a body.
type summaryStep struct {
	payload    []byte
	off        int64
	older      olderBody // or nothing
	pending    bool      // a record refers to it
	decompress bool
}

// appendSummary appends the step that makes the chunk of a body. ok is false if
// it is of another form than the server's today.
func (m *tailMaker) appendSummary(dst []byte, step summaryStep) (out []byte, ok bool) {
	s, err := splitSummary(step.payload)
	if err != nil {
		return dst, false
	}
	kind := byte(0)
	if step.pending {
		kind = summaryPending
	}
	list := s.list(none)
	t, isTerm := erlterm.Term(nil), false
	if step.decompress && m.set.compression.Stores(s.body) {
		t, err = m.inf.Term(s.body)
		n, ok := erlterm.Size(t)
		isTerm = err == nil && ok && n == len(t)
	}
	var named, delta []byte
	var old *oldSummary
	if len(s.atts) > 0 || isTerm && (m.vain < vainBodies || m.vain%vainBodies == 0) {
		named, old = m.nameOlder(step.older)
	}
	if isTerm && old != nil {
		delta = bodyDeltaOf(old, t, list)
	}
	switch {
	case delta != nil:
		m.vain = 0
	case step.older.off > 0:
		m.vain++
	}
	if delta == nil && (old == nil || len(s.atts) == 0) {
		named, old = nil, nil
	} else {
		kind += summaryOlder
	}
	dst = append(dst, tailSummary)
	switch {
	case delta != nil:
		dst = append(append(append(dst, kind+bodyDelta), named...), delta...)
	case isTerm:
		dst = appendStr(appendStr(append(append(dst, kind+bodyTerm), named...), t), list)
	default:
		dst = appendStr(appendStr(append(append(dst, kind+bodyStored), named...), s.body), list)
	}
	at := step.off
	for _, a := range s.atts {
		dst, at = m.appendChunks(dst, a.chunks, old, at)
	}
	return dst, true
}

// vainBodies is after how many bodies in a row that have little in common with the older
// one only one in as many is looked at: to read the older one costs more than all else.
const vainBodies = 32

// nameOlder says which body of the newest header one is, and reads it; nil if it is none.
func (m *tailMaker) nameOlder(o olderBody) (named []byte, old *oldSummary) {
	if o.off == 0 {
		return nil, nil
	}
	db, err := m.database()
	if err != nil {
		return nil, nil
	}
	was, err := db.Doc(o.id)
	leaf := slices.Index(leafBodies(was), o.off)
	if err != nil || leaf < 0 {
		return nil, nil
	}
	seq, _, ok := erlterm.Uint(was[2:]) // {update_seq, ...}
	newest := headerSeq(m.header)
	if !ok || seq > newest {
		return nil, nil
	}
	if old, err = m.older(o.off); err != nil {
		return nil, nil
	}
	return appendNumber(appendNumber(nil, newest-seq), uint64(leaf)), old
}

// bodyDeltaOf is what differs from an older body, or nil if that is much.
func bodyDeltaOf(old *oldSummary, body, list erlterm.Term) []byte {
	if len(body) > maxDelta || len(old.body) > maxDelta || len(list) > maxDelta {
		return nil
	}
	d := appendDelta(nil, old.body, body)
	if d = appendDelta(d, old.list, list); 3*len(d) > len(body)+len(list) { // compressed they would be as small
		return nil
	}
	return d
}

// appendChunks appends where the chunks of an attachment are. at is as for chunksAnywhere.
func (m *tailMaker) appendChunks(dst []byte, chunks []part, old *oldSummary, at int64) ([]byte, int64) {
	if old != nil {
		i := slices.IndexFunc(old.atts, func(a attachment) bool { return slices.Equal(a.chunks, chunks) })
		if i >= 0 {
			return appendNumber(dst, uint64(i)+attOlder), at
		}
	}
	if runs, ok := m.runsOf(chunks); ok {
		return append(append(dst, attOfTail), runs...), at
	}
	dst = appendNumber(append(dst, attAnywhere), uint64(len(chunks)))
	for _, c := range chunks {
		dst = appendNumber(appendSigned(dst, c.off-at), c.length)
		at = chunkEnd(c.off, c.length)
	}
	return dst, at
}

// runsOf tells chunks of an attachment as those of the tail, if all are.
func (m *tailMaker) runsOf(chunks []part) (runs []byte, ok bool) {
	type run struct{ first, n int }
	var list []run
	for _, c := range chunks {
		i, found := slices.BinarySearchFunc(m.chunks, c.off, func(p part, off int64) int { return cmp.Compare(p.off, off) })
		if !found || m.chunks[i] != c || i < len(m.chunks)-maxBack {
			return nil, false
		}
		if last := len(list) - 1; last >= 0 && list[last].first+list[last].n == i {
			list[last].n++
		} else {
			list = append(list, run{i, 1})
		}
	}
	runs = appendNumber(nil, uint64(len(list)))
	at := len(m.chunks)
	for _, r := range list {
		runs = appendNumber(appendSigned(runs, int64(r.first-at)), uint64(r.n))
		at = r.first + r.n
	}
	return runs, true
}

// storedAs says whether t is one whole term that is stored as p.
func (m *tailMaker) storedAs(t erlterm.Term, p []byte) bool {
	n, ok := erlterm.Size(t)
	return ok && n == len(t) && m.set.compression.Stores(p) && string(m.store(t)) == string(p)
}
