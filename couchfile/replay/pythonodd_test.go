package replay_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// madeBody is a body in the file, with its attachments as a revision has them.
type madeBody struct {
	off, size int64
	parts     []madePart
}

// madePart is an attachment: the list of its pointers, and its length.
type madePart struct {
	pointers erlterm.Term
	length   int64
}

// upload writes the chunks of an attachment.
func (m *madeTail) upload(chunks ...int) madePart {
	var p madePart
	var list []erlterm.Term
	for i, n := range chunks {
		off, _ := m.f.Chunk(bytes.Repeat([]byte{byte(i + n)}, n))
		list = append(list, erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(nil, 2), off), int64(n)))
		p.length += int64(n)
	}
	p.pointers = erlterm.PutList(nil, list)
	return p
}

// attached writes a body with attachments, compressed as other servers may.
func (m *madeTail) attached(text string, z func(dst, term []byte) []byte, parts ...madePart) madeBody {
	var list []erlterm.Term
	for i, p := range parts {
		a := erlterm.PutBinary(erlterm.PutBinary(erlterm.PutTuple(nil, 8), fmt.Sprint("a", i)), "text/plain")
		a = erlterm.PutInt(erlterm.PutInt(erlterm.PutInt(append(a, p.pointers...), p.length), p.length), 1)
		list = append(list, erlterm.PutAtom(erlterm.PutBinary(a, strings.Repeat("m", 16)), "identity"))
	}
	body := erlterm.PutBinary(erlterm.PutTuple([]byte{erlterm.Version}, 2), z(nil, erlterm.PutBinary([]byte{erlterm.Version}, text)))
	b := madeBody{parts: parts}
	b.off, b.size = m.f.Checked(erlterm.PutBinary(body, m.opts.Compression.Append(nil, append([]byte{erlterm.Version}, erlterm.PutList(nil, list)...))))
	return b
}

// literal compresses with snappy, badly: without a copy.
func literal(dst, term []byte) []byte {
	dst = binary.AppendUvarint(append(dst, 1), uint64(len(term)))
	return append(append(dst, 61<<2, byte(len(term)-1), byte((len(term)-1)>>8)), term...)
}

// value is what a revision has for a body of a document with a sequence.
func (b madeBody) value(deleted int64, seq uint64) []byte {
	v := erlterm.PutUint(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(nil, 5), deleted), b.off), seq)
	parts := slices.Clone(b.parts) // in the order of their first pointers, and each once
	slices.SortFunc(parts, func(a, b madePart) int { c, _ := erlterm.Compare(a.pointers, b.pointers); return c })
	parts = slices.CompactFunc(parts, func(a, b madePart) bool { return bytes.Equal(a.pointers, b.pointers) })
	var list []erlterm.Term
	for _, p := range parts {
		list = append(list, erlterm.PutInt(append(erlterm.PutTuple(nil, 2), p.pointers...), p.length))
	}
	return append(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(v, 2), b.size), 99), erlterm.PutList(nil, list)...)
}

// revision is {revision, value, children}.
func madeRevision(id int, value []byte, children ...erlterm.Term) erlterm.Term {
	r := append(erlterm.PutBinary(erlterm.PutTuple(nil, 3), fmt.Sprintf("%016d", id)), value...)
	return erlterm.PutList(r, children)
}

// entry is a document with one root and a sum of sizes.
func (m *madeTail) entry(id string, deleted, active, external int64, root erlterm.Term) couchfile.Entry {
	v := erlterm.PutInt(erlterm.PutBinary(erlterm.PutTuple(nil, 4), id), deleted)
	v = erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(v, 2), active), external)
	v = append(erlterm.PutInt(erlterm.PutTuple(erlterm.PutListHead(v, 1), 2), 1), root...)
	return couchfile.Entry{Key: erlterm.PutUint(nil, m.seq), Value: append(v, erlterm.TagNil)}
}

func (m *madeTail) purge(seq int, id string) couchfile.Entry {
	v := erlterm.PutBinary(erlterm.PutBinary(erlterm.PutTuple(nil, 3), fmt.Sprintf("uuid-%d", 1000-seq)), id)
	return couchfile.Entry{Key: erlterm.PutInt(nil, int64(seq)), Value: append(v, erlterm.TagNil)}
}

func (m *madeTail) update(u couchwriter.Update) {
	m.Helper()
	if err := m.db.Update(u); err != nil {
		m.Fatal(err)
	}
	m.header()
}

// makeOdd writes commits that are each of another kind.
func makeOdd(t testing.TB, z, purges couchwriter.Compression) *madeTail {
	t.Helper()
	m := makeTail(t, couchwriter.DatabaseOptions{Compression: z}, 0)
	if purges == z && z != couchwriter.Snappy {
		m.opts.Release = couchwriter.ReleaseMain
		m.open(m.db.Header())
	}
	for n := range 3 {
		m.oddBodies(n)
		m.oddRecords(n)
		m.oddTrees(n)
	}
	return m
}

func madeBinary(s string) erlterm.Term { return erlterm.PutBinary(nil, s) }

// oddBodies writes bodies that are stored, and attached to, in all ways.
func (m *madeTail) oddBodies(n int) {
	m.Helper()
	z := m.opts.Compression.Append
	m.seq++
	// Two leaves that share an attachment; lists that are not in the order of the chunks, and name one twice.
	one, two, three := m.upload(5000, 4063, 30), m.upload(8), m.upload(300)
	a := m.attached("left", z, two, one, two)
	b := m.attached("right", z, three, one)
	sum := a.size + b.size + one.length + two.length + three.length
	root := madeRevision(1, []byte{erlterm.TagNil}, madeRevision(2, a.value(0, m.seq)), madeRevision(3, b.value(1, m.seq)))
	u := couchwriter.Update{Docs: []couchfile.Entry{m.entry(fmt.Sprint("conflict", n), 0, sum, sum-a.size-b.size+2*99, root)}}
	m.attached(strings.Repeat("of nobody ", 10), literal)
	m.seq++
	c := m.attached(strings.Repeat("stored in another way ", 10), literal)
	u.Docs = append(u.Docs, m.entry(fmt.Sprint("literal", n), 1, c.size, 99, madeRevision(4, c.value(1, m.seq))))
	m.update(u)
	m.seq++ // changed a little
	m.attached("of nobody, and stored as all are", z)
	d := m.attached(strings.Repeat("stored in another way ", 10)+"and changed", z)
	m.update(couchwriter.Update{Docs: []couchfile.Entry{m.entry(fmt.Sprint("literal", n), 0, d.size, 99, madeRevision(4, c.value(1, m.seq-1), madeRevision(5, d.value(0, m.seq))))}})
}

// oddRecords writes records that are not what follows from the bodies in front of them.
func (m *madeTail) oddRecords(n int) {
	m.Helper()
	var u couchwriter.Update
	z := m.opts.Compression.Append
	add := func(id string, active int64, root func(b madeBody) erlterm.Term) madeBody {
		m.seq++
		b := m.attached(id, z)
		if active == 0 {
			active = b.size
		}
		u.Docs = append(u.Docs, m.entry(fmt.Sprint(id, n), 0, active, 99, root(b)))
		return b
	}
	plain := func(b madeBody) erlterm.Term { return madeRevision(5, b.value(0, m.seq)) }
	pair := append(erlterm.PutTuple(nil, 2), erlterm.PutInt(erlterm.PutInt(nil, 0), 5)...)
	add("sizes", 7, plain)
	add("late", 0, func(b madeBody) erlterm.Term { return madeRevision(5, b.value(0, m.seq-1)) }) // another sequence
	old := add("next", 0, plain)
	m.seq++ // a body of another document
	u.Docs = append(u.Docs, m.entry(fmt.Sprint("old", n), 0, old.size, 99, madeRevision(6, old.value(0, m.seq-1))))
	add("below", 0, func(b madeBody) erlterm.Term {
		return madeRevision(6, old.value(0, m.seq-2), madeRevision(7, b.value(0, m.seq)))
	})
	add("pair", 0, func(b madeBody) erlterm.Term { return madeRevision(6, pair, madeRevision(7, b.value(0, m.seq))) })
	add("last", 0, plain)
	m.update(u)
	u = couchwriter.Update{}
	m.seq++ // without bodies
	u.Docs = append(u.Docs, m.entry(fmt.Sprint("pair", n), 0, old.size, 99, madeRevision(6, pair, madeRevision(7, old.value(0, 1)))))
	m.update(u)
	u = couchwriter.Update{}
	add("sizes", 0, plain)
	m.update(u)
}

// oddTrees changes local documents, and purges documents altogether and others that stay,
// with and without a write.
func (m *madeTail) oddTrees(n int) {
	m.Helper()
	m.update(couchwriter.Update{Locals: []couchfile.Entry{{Key: madeBinary("_local/kept"), Value: madeBinary(fmt.Sprint("a value of some length, ", n))},
		{Key: madeBinary(fmt.Sprint("_local/", n)), Value: madeBinary("x")}}})
	m.update(couchwriter.Update{LocalsGone: []erlterm.Term{madeBinary(fmt.Sprint("_local/", n))}})
	m.header() // the same again
	gone := []erlterm.Term{madeBinary(fmt.Sprint("conflict", n))}
	m.update(couchwriter.Update{Purges: []couchfile.Entry{m.purge(10*n+1, fmt.Sprint("conflict", n)), m.purge(10*n+2, fmt.Sprint("late", n))}, Gone: gone})
	m.seq += 2
	f := m.attached("one more", m.opts.Compression.Append)
	m.update(couchwriter.Update{Docs: []couchfile.Entry{m.entry(fmt.Sprint("more", n), 0, f.size, 99, madeRevision(8, f.value(0, m.seq)))},
		Purges: []couchfile.Entry{m.purge(10*n+3, fmt.Sprint("old", n))}, Gone: []erlterm.Term{madeBinary(fmt.Sprint("old", n))}})
}

// TestOddTails stores commits of many kinds, and has the other reader make them, too.
func TestOddTails(t *testing.T) {
	t.Parallel()
	for _, z := range [][2]couchwriter.Compression{{couchwriter.Snappy, couchwriter.Snappy}, {couchwriter.None, couchwriter.Snappy}, {couchwriter.None, couchwriter.None}} {
		m := makeOdd(t, z[0], z[1])
		stream, r := tailTrip(t, m.out.b, m.from)
		t.Logf("%v: %d bytes in %d, %d of %d predicted, %d other nodes, %d raw", z, r.Info.Size, len(stream), r.Predicted, r.Changed, r.Others, r.Raw)
		if r.Predicted != r.Changed || r.Others+int(r.Raw) > 0 {
			t.Errorf("%v: %d of %d commits predicted, %d other nodes, %d raw", z, r.Predicted, r.Changed, r.Others, r.Raw)
		}
		mustPythonTail(t, m.out.b, m.from)
	}
}
