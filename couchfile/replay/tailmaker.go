package replay

import (
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Steps of a tail's body; see docs/replay-format.md.
const (
	tailEnd      = iota
	tailRaw      // bytes as they are
	tailChunk    // a chunk
	tailTerm     // a chunk of a term, which is stored as the settings say
	tailChecked  // a chunk with a checksum
	tailSummary  // the chunk of a document's body
	tailUpdate   // the nodes of a commit
	tailHeader   // a header
	tailSettings // of what follows
)

// tailCache is how many nodes of each tree are kept.
const tailCache = 2048

// tailSet is what the server was told, as far as it changes bytes.
type tailSet struct {
	compression, purges couchwriter.Compression // of terms; of the nodes of the purge trees
	chunkSize           int
	checksum            couchfile.ChecksumKind
}

// tailMaker appends to a file what the steps of a body say.
type tailMaker struct {
	in    *wireReader
	f     *couchwriter.File
	nodes couchwriter.Chunks // of the file
	inf   couchfile.Inflater
	old   couchfile.Inflater // of older bodies
	vain  int                // of these, in a row, that were no help

	set     tailSet
	header  []byte                // the newest, with 131
	at      int64                 // where it is
	db      *couchwriter.Database // at the header; nil until there is an update
	updated bool                  // since the header
	next    []byte                // what follows it then
	pending []pendingBody
	chunks  []part                              // of tailChunk steps, the newest
	terms   []int64                             // where those of tailTerm steps are
	merges  bool                                // into a file whose bytes are others; see MergeTail
	node    func(stored []byte) ([]byte, error) // of the update that is at work
	list    func(entries [][]byte)              // as of couchwriter.TreeOptions
	term    []byte
}

func newTailMaker(in *wireReader, w io.Writer, back io.ReaderAt, was couchfile.RawHeader) *tailMaker {
	m := &tailMaker{in: in, header: was.Term, at: was.Offset}
	m.f = couchwriter.NewFile(w, back, was.End, was.Checksum)
	m.set = tailSet{chunkSize: couchwriter.DefaultChunkSize, checksum: was.Checksum}
	m.nodes = &nodeReader{r: back, end: m.f.Offset}
	return m
}

// step does one step, and says whether it was the last one.
func (m *tailMaker) step() (ended bool, err error) {
	kind, err := m.in.number("step")
	if err != nil {
		return false, err
	}
	switch kind {
	case tailEnd:
		return true, nil
	case tailUpdate:
		return false, m.update()
	case tailHeader:
		return false, m.newHeader()
	case tailSettings:
		return false, m.settings()
	}
	return false, m.chunk(kind)
}

// chunk does a step that appends a chunk, or bytes.
func (m *tailMaker) chunk(kind uint64) error {
	switch kind {
	case tailSummary:
		return m.summary()
	case tailTerm:
		t, err := m.in.term("term")
		if err == nil {
			off, _ := m.f.Chunk(m.store(t))
			m.terms = append(m.terms, off)
		}
		return err
	}
	p, err := m.in.str("chunk")
	if err != nil {
		return err
	}
	switch kind {
	case tailRaw:
		if m.merges {
			return notMerged("bytes as they are")
		}
		m.f.Raw(p)
	case tailChunk:
		off, _ := m.f.Chunk(p)
		m.wrote(off, len(p))
	case tailChecked:
		m.f.Checked(p)
	default:
		return damaged(fmt.Sprintf("step of kind %d", kind))
	}
	return nil
}

// store is the stored form of a term.
func (m *tailMaker) store(t erlterm.Term) []byte {
	m.term = append(append(m.term[:0], erlterm.Version), t...)
	return m.set.compression.Append(nil, m.term)
}

func (m *tailMaker) settings() error {
	var n [4]uint64
	for i, most := range []uint64{uint64(couchwriter.None), uint64(couchwriter.None), 1 << 30, uint64(couchfile.MD5)} {
		var err error
		if n[i], err = m.in.small("setting", most); err != nil {
			return err
		}
	}
	set := tailSet{couchwriter.Compression(n[0]), couchwriter.Compression(n[1]), int(n[2]), couchfile.ChecksumKind(n[3])}
	if set.chunkSize == 0 || set.checksum == couchfile.ChecksumNone || set.purges != couchwriter.Snappy && set.purges != set.compression {
		return damaged("settings that there are not")
	}
	m.f.Checksum = set.checksum
	was := m.set
	if m.set = set; !m.merges && (was.compression != set.compression || was.purges != set.purges || was.chunkSize != set.chunkSize) {
		m.db = nil
	}
	return nil
}

// newHeader writes a header, and goes to it.
func (m *tailMaker) newHeader() error {
	term, err := m.readHeader()
	if err != nil {
		return err
	}
	if m.at, err = m.f.Header(term); err != nil {
		return err
	}
	m.header, m.updated, m.pending = term, false, m.pending[:0]
	if m.db != nil && m.db.Reset(term) != nil {
		m.db = nil
	}
	return nil
}

// nextHeader is what the next header probably is.
func (m *tailMaker) nextHeader() []byte {
	if m.updated {
		return m.next
	}
	return m.header
}

// database is the database at the newest header.
func (m *tailMaker) database() (*couchwriter.Database, error) {
	if m.db != nil {
		return m.db, nil
	}
	release := couchwriter.Release30
	if m.set.purges == m.set.compression {
		release = couchwriter.ReleaseMain
	}
	opts := couchwriter.DatabaseOptions{Release: release, Compression: m.set.compression, ChunkSize: m.set.chunkSize, CacheNodes: tailCache, List: m.list,
		Node: func(p []byte) ([]byte, error) { return m.node(p) }}
	if m.merges { // nobody keeps it
		opts.Release, opts.Compression, opts.ChunkSize = couchwriter.ReleaseMain, couchwriter.None, 0
	}
	db, err := couchwriter.OpenDatabase(m.f, nodesOf{m}, m.header, opts)
	if err != nil {
		return nil, err
	}
	m.db = db
	return db, nil
}

// nodesOf reads back what the file may still hold.
type nodesOf struct{ m *tailMaker }

func (n nodesOf) Payload(off int64) ([]byte, error) {
	if err := n.m.f.Flush(); err != nil {
		return nil, err
	}
	return n.m.nodes.Payload(off)
}

// update appends the nodes of a commit.
func (m *tailMaker) update() error {
	u, err := m.readUpdate()
	if err != nil {
		return err
	}
	t := told{m: m}
	if err := m.apply(u, t.node); err != nil {
		return err
	}
	return t.end()
}

func (m *tailMaker) apply(u couchwriter.Update, node func([]byte) ([]byte, error)) error {
	if m.updated {
		return damaged("two updates in a commit")
	}
	m.node = node
	if err := m.db.Update(u); err != nil {
		return err
	}
	m.next, m.updated = m.db.Header(), true
	return nil
}

// Kinds of what is told of a node.
const (
	nodeBehind = iota // a step stands in front of it
	nodeOther         // it is another one
)

// told is what a stream says of the nodes of an update.
type told struct {
	m    *tailMaker
	run  uint64 // nodes that are as predicted
	rest bool   // all are
	then bool   // something is told of the node behind the run
}

// node is told of each node in front of it.
func (t *told) node(stored []byte) ([]byte, error) {
	for {
		switch {
		case t.rest:
			return stored, nil
		case t.run > 0:
			t.run--
			return stored, nil
		case !t.then:
			if err := t.next(); err != nil {
				return nil, err
			}
			continue
		}
		t.then = false
		kind, err := t.m.in.small("node", nodeOther)
		if err != nil {
			return nil, err
		}
		if kind == nodeOther {
			if t.m.merges {
				return nil, notMerged("a node that was not predicted")
			}
			return t.m.in.str("node")
		}
		if kind, err = t.m.in.small("step", tailSummary); err == nil {
			err = t.m.chunk(kind)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (t *told) next() error {
	n, err := t.m.in.number("nodes")
	if t.rest, t.then, t.run = n == 0, n > 0, max(n, 1)-1; err != nil {
		t.rest = false
	}
	return err
}

// end says whether all that was told of was there.
func (t *told) end() error {
	if !t.rest && !t.then {
		if err := t.next(); err != nil {
			return err
		}
	}
	if !t.rest {
		return damaged("fewer nodes than are told of")
	}
	return nil
}

// readUpdate reads what a commit does.
func (m *tailMaker) readUpdate() (u couchwriter.Update, err error) {
	db, err := m.database()
	if err != nil {
		return u, err
	}
	r := updateReader{m: m, db: db, pending: m.pending}
	for _, read := range []func(*couchwriter.Update) error{r.docs, r.purges, r.locals} {
		if err := read(&u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// updateReader reads an update, whose entries are at most maxBatch bytes.
type updateReader struct {
	m       *tailMaker
	db      *couchwriter.Database
	pending []pendingBody
	size    int
}

func (r *updateReader) add(list *[]couchfile.Entry, e couchfile.Entry) error {
	if r.size += len(e.Key) + len(e.Value); r.size > maxBatch {
		return damaged("a commit of too many documents")
	}
	*list = append(*list, e)
	return nil
}

// Forms of records.
const (
	recordPlain = iota // in plain form, as a delta to the plain form's base
	recordWhole        // as it is
)

func (r *updateReader) docs(u *couchwriter.Update) error {
	n, err := r.m.in.number("documents")
	if err != nil {
		return err
	}
	seq := headerSeq(r.m.header)
	for range n {
		gap, err := r.m.in.number("update_seq of a document")
		if err != nil {
			return err
		}
		seq += gap + 1
		form, err := r.m.in.small("form of a document", recordWhole)
		if err != nil {
			return err
		}
		e := couchfile.Entry{Key: erlterm.PutUint(nil, seq)}
		if form == recordWhole && r.m.merges {
			return notMerged("a document that is told with its places")
		}
		if form == recordWhole {
			e.Value, err = r.m.in.term("document")
		} else {
			e.Value, err = r.record(e.Key)
		}
		if err != nil {
			return err
		}
		if err := r.add(&u.Docs, e); err != nil {
			return err
		}
	}
	return nil
}

// record reads a document in plain form.
func (r *updateReader) record(seq erlterm.Term) (erlterm.Term, error) {
	id, err := r.m.in.term("document")
	if err != nil {
		return nil, err
	}
	was, err := r.db.Doc(id)
	if err != nil {
		return nil, err
	}
	p, err := r.m.in.delta("document", bareRecord(was, id), maxBatch)
	if err != nil {
		return nil, err
	}
	plain, err := checkTerm("document", p)
	if err != nil {
		return nil, err
	}
	value, left, apart := fillRecord(plain, seq, r.pending, was)
	if r.m.merges && !apart {
		return nil, notMerged("a document that is told with some of its places")
	}
	r.pending = left
	return value, nil
}

func (r *updateReader) purges(u *couchwriter.Update) error {
	n, err := r.m.in.number("purges")
	if err != nil {
		return err
	}
	for range n {
		var e couchfile.Entry
		if e.Key, err = r.m.in.term("purge"); err == nil {
			e.Value, err = r.m.in.term("purge")
		}
		if err == nil {
			err = r.add(&u.Purges, e)
		}
		if err != nil {
			return err
		}
		gone, err := r.m.in.small("purge", 1)
		if err != nil {
			return err
		}
		if id, ok := purgedID(e); ok && gone == 1 {
			u.Gone = append(u.Gone, id)
		}
	}
	return nil
}

func (r *updateReader) locals(u *couchwriter.Update) error {
	n, err := r.m.in.number("local documents")
	if err != nil {
		return err
	}
	for range n {
		var e couchfile.Entry
		if e.Key, err = r.m.in.term("local document"); err != nil {
			return err
		}
		was, err := r.db.Local(e.Key)
		if err != nil {
			return err
		}
		v, err := r.m.in.delta("local document", was, maxBatch)
		if err != nil {
			return err
		}
		if len(v) == 0 {
			u.LocalsGone = append(u.LocalsGone, e.Key)
			continue
		}
		if e.Value, err = checkTerm("local document", v); err == nil {
			err = r.add(&u.Locals, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// headerSeq is the update_seq of a database's header, or 0.
func headerSeq(header []byte) uint64 {
	if len(header) == 0 {
		return 0
	}
	rest := header[1:]
	n, rest, ok := erlterm.Tuple(rest)
	if !ok || n <= couchwriter.AtUpdateSeq {
		return 0
	}
	for range couchwriter.AtUpdateSeq {
		if _, rest, ok = erlterm.Next(rest); !ok {
			return 0
		}
	}
	seq, _, _ := erlterm.Uint(rest)
	return seq
}
