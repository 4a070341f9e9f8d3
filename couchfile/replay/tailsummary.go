package replay

import (
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Forms of a body, plus summaryPending if a record refers to it.
const (
	bodyTerm   = iota // decompressed
	bodyStored        // as it is stored
	bodyForms

	summaryPending = 4
)

// summary appends the chunk of a document's body.
func (m *tailMaker) summary() error {
	kind, err := m.in.small("body", summaryPending+bodyForms-1)
	if err != nil {
		return err
	}
	var body []byte
	switch kind % summaryPending {
	case bodyTerm:
		t, err := m.in.term("body")
		if err != nil {
			return err
		}
		body = m.store(t)
	case bodyStored:
		if body, err = m.in.str("body"); err != nil {
			return err
		}
	default:
		return damaged("form of a body")
	}
	list, sizes, err := m.attachments()
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

// attachments reads the list of a body's attachments, and makes the list of
// {pointers, length} that its revision has.
func (m *tailMaker) attachments() (list, sizes erlterm.Term, err error) {
	plain, err := m.in.term("attachments of a body")
	if err != nil {
		return nil, nil, err
	}
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
		n, err := m.in.number("chunks of an attachment")
		if err != nil {
			return nil, nil, err
		}
		for range n {
			by, err := m.in.signed("offset of a chunk")
			if err != nil {
				return nil, nil, err
			}
			length, err := m.in.small("length of a chunk", 1<<31-1)
			if err != nil {
				return nil, nil, err
			}
			off := at + by
			if off < 0 || off > 1<<62 {
				return nil, nil, damaged("offset of a chunk")
			}
			a.chunks = append(a.chunks, part{off, length})
			at = chunkEnd(off, length)
		}
		s.atts = append(s.atts, a)
	}
	sizes, ok = s.sizes()
	if !ok {
		return nil, nil, damaged("attachments of a body")
	}
	return s.list(pointers), sizes, nil
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

// appendSummary appends the step that makes the chunk of a body at off. ok is
// false if it is of another form than the server's today.
func (m *tailMaker) appendSummary(dst, payload []byte, off int64, pending bool) (step []byte, ok bool) {
	s, err := splitSummary(payload)
	if err != nil {
		return dst, false
	}
	kind, body := uint64(bodyStored), s.body
	if t, err := m.inf.Term(s.body); err == nil && m.storedAs(t, s.body) {
		kind, body = bodyTerm, t
	}
	if pending {
		kind += summaryPending
	}
	dst = append(dst, tailSummary, byte(kind))
	dst = appendStr(dst, body)
	dst = appendStr(dst, s.list(none))
	at := off
	for _, a := range s.atts {
		dst = appendNumber(dst, uint64(len(a.chunks)))
		for _, c := range a.chunks {
			dst = appendNumber(appendSigned(dst, c.off-at), c.length)
			at = chunkEnd(c.off, c.length)
		}
	}
	return dst, true
}

// storedAs says whether t is one whole term that is stored as p.
func (m *tailMaker) storedAs(t erlterm.Term, p []byte) bool {
	n, ok := erlterm.Size(t)
	return ok && n == len(t) && m.set.compression.Stores(p) && string(m.store(t)) == string(p)
}
