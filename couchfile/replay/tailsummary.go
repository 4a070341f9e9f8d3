package replay

import (
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Forms of a body, plus summaryPending if a record refers to it.
const (
	bodyTerm   = iota // decompressed
	bodyStored        // as it is stored
	bodyDelta         // as what differs from an older one, with its attachments
	bodyForms

	summaryPending = 4
	maxDelta       = 16 << 20 // bytes of a body that may be a delta
)

// summary appends the chunk of a document's body.
func (m *tailMaker) summary() error {
	kind, err := m.in.small("body", summaryPending+bodyForms-1)
	if err != nil {
		return err
	}
	body, plain, err := m.body(kind % summaryPending)
	if err != nil {
		return err
	}
	list, sizes, err := m.attachments(plain)
	if err != nil {
		return err
	}
	p := erlterm.PutBinary(erlterm.PutTuple([]byte{erlterm.Version}, 2), body)
	off, size := m.f.Checked(erlterm.PutBinary(p, m.store(list)))
	if kind >= summaryPending {
		m.pending = append(m.pending, pendingBody{off, size, sizes})
	}
	return nil
}

// body reads a body, which it returns as it is stored, and the list of its
// attachments without pointers.
func (m *tailMaker) body(form uint64) (body []byte, list erlterm.Term, err error) {
	switch form {
	case bodyTerm:
		t, err := m.in.term("body")
		if err != nil {
			return nil, nil, err
		}
		body = m.store(t)
	case bodyStored:
		if body, err = m.in.str("body"); err != nil {
			return nil, nil, err
		}
	case bodyDelta:
		return m.deltaBody()
	default:
		return nil, nil, damaged("form of a body")
	}
	list, err = m.in.term("attachments of a body")
	return body, list, err
}

// deltaBody reads a body that is told as what differs from an older one.
func (m *tailMaker) deltaBody() (body []byte, list erlterm.Term, err error) {
	back, err := m.in.small("older body", uint64(m.f.Offset()))
	if err != nil {
		return nil, nil, err
	}
	oldBody, oldList, err := m.older(m.f.Offset() - int64(back))
	if err != nil {
		return nil, nil, err
	}
	d, err := m.in.delta("body", oldBody, maxDelta)
	if err != nil {
		return nil, nil, err
	}
	t, err := checkTerm("body", d)
	if err != nil {
		return nil, nil, err
	}
	if d, err = m.in.delta("attachments of a body", oldList, maxDelta); err == nil {
		list, err = checkTerm("attachments of a body", d)
	}
	return m.store(t), list, err
}

// older is the body in a chunk of the file, decompressed, and the list of its
// attachments without pointers.
func (m *tailMaker) older(off int64) (body, list erlterm.Term, err error) {
	p, err := nodesOf{m}.Payload(off)
	if err != nil {
		return nil, nil, err
	}
	s, err := splitSummary(p)
	if err != nil {
		return nil, nil, err
	}
	body, err = m.old.Term(s.body)
	return body, s.list(none), err
}

// attachments reads the pointers of attachments and puts them into their list.
// It also makes the list of {pointers, length} that the revision has.
func (m *tailMaker) attachments(plain erlterm.Term) (list, sizes erlterm.Term, err error) {
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
		if a.chunks, at, err = m.chunksOf(at); err != nil {
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

// chunksOf reads the pointers of an attachment. at is where the chunk before
// them ends, and then the last one of them.
func (m *tailMaker) chunksOf(at int64) (chunks []part, end int64, err error) {
	n, err := m.in.number("chunks of an attachment")
	if err != nil {
		return nil, 0, err
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
	off, base  int64 // of it, and of an older one, or 0
	pending    bool  // a record refers to it
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
	var delta []byte
	if isTerm && step.base > 0 {
		if m.vain < vainBodies || m.vain%vainBodies == 0 {
			delta = m.bodyDelta(step.off-step.base, step.base, t, list)
		}
		if m.vain++; delta != nil {
			m.vain = 0
		}
	}
	switch {
	case delta != nil:
		dst = append(append(dst, tailSummary, kind+bodyDelta), delta...)
	case isTerm:
		dst = appendStr(appendStr(append(dst, tailSummary, kind+bodyTerm), t), list)
	default:
		dst = appendStr(appendStr(append(dst, tailSummary, kind+bodyStored), s.body), list)
	}
	at := step.off
	for _, a := range s.atts {
		dst = appendNumber(dst, uint64(len(a.chunks)))
		for _, c := range a.chunks {
			dst = appendNumber(appendSigned(dst, c.off-at), c.length)
			at = chunkEnd(c.off, c.length)
		}
	}
	return dst, true
}

// vainBodies is after how many bodies in a row that have little in common with the older
// one only one in as many is looked at: to read the older one costs more than all else.
const vainBodies = 32

// bodyDelta is what differs from an older body, or nil if that is much.
func (m *tailMaker) bodyDelta(back, base int64, body, list erlterm.Term) []byte {
	oldBody, oldList, err := m.older(base)
	if err != nil || back <= 0 || len(body) > maxDelta || len(oldBody) > maxDelta || len(list) > maxDelta {
		return nil
	}
	d := appendDelta(appendNumber(nil, uint64(back)), oldBody, body)
	if d = appendDelta(d, oldList, list); 3*len(d) > len(body)+len(list) { // compressed they would be as small
		return nil
	}
	return d
}

// storedAs says whether t is one whole term that is stored as p.
func (m *tailMaker) storedAs(t erlterm.Term, p []byte) bool {
	n, ok := erlterm.Size(t)
	return ok && n == len(t) && m.set.compression.Stores(p) && string(m.store(t)) == string(p)
}
