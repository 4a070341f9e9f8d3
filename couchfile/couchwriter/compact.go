package couchwriter

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Release is a line of CouchDB releases whose compactors write the same bytes.
type Release int

const (
	Release23   Release = iota // 2.3: measures bodies anew, has no properties
	Release30                  // 3.0 to 3.5
	ReleaseMain                // the main branch of August 2026: time_seq, compresses all trees
)

// CompactionOptions are what a compaction's bytes depend on beside documents.
type CompactionOptions struct {
	Release     Release
	Compression Compression // couchdb/file_compression
	ChunkSize   int         // couchdb/btree_chunk_size; DefaultChunkSize if 0
	// BufferSize is database_compaction/doc_buffer_size: the bytes of records
	// in a batch; 524288 if 0.
	BufferSize int
	// CheckpointAfter is database_compaction/checkpoint_after: the bytes of
	// records behind which a batch is committed; 10 times BufferSize if 0.
	CheckpointAfter int
	// Told lets SourceDoc.Batch say where batches of documents end, instead of
	// the two sizes above; and their revisions are what the compaction left, so
	// that no limit cuts them.
	Told bool
	// DefaultSecurity is the object that a new file begins with: default_security
	// makes it [] or {members, admins} of _admin.
	DefaultSecurity erlterm.Term
}

// Batch says whether a batch of documents ends. Behind the last document of a
// pass there is an end that need not be told.
type Batch int

const (
	BatchGoesOn     Batch = iota
	BatchEnds             // and its documents are copied
	BatchCheckpoint       // and a header of the compaction is written
)

const defaultBufferSize = 524288

// Compaction writes a compacted database: the passes that the server needed
// until nothing had been written meanwhile, and what it adds at the swap.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, and
// src/couch/src/couch_bt_engine.erl, finish_compaction_int.
type Compaction struct {
	f      *File
	sorter sorter // of the id tree's entries
	p      CompactionOptions

	head    dbHeader
	written dbHeader // the newest header in the file

	allTrees

	passes int
	src    *Source // of the pass

	older *Tree           // the seq tree of the file that is continued, as it was; else nil: see NewMerge
	put   map[string]bool // update_seqs of the documents that were merged
	late  map[string]bool // ids of those that are newer in the older file: see isLate

	body, part, term, packed []byte // reused
	leaves                   []*revLeaf
	arena                    arena
}

// NewCompaction begins a compaction that writes to f, which is empty. scratch
// is a file for sorting what is more than 8 MiB; nil keeps it in memory.
func NewCompaction(f *File, scratch Scratch, opts CompactionOptions) *Compaction {
	if opts.BufferSize == 0 {
		opts.BufferSize = defaultBufferSize
	}
	if opts.CheckpointAfter == 0 {
		opts.CheckpointAfter = 10 * opts.BufferSize
	}
	if scratch == nil {
		scratch = &memoryScratch{}
	}
	c := &Compaction{f: f, sorter: sorter{scratch: scratch}, p: opts}
	always := Snappy // whatever is configured, before main
	if opts.Release == ReleaseMain {
		always = opts.Compression
	}
	c.allTrees = newTrees(f, f, always, opts.Compression, always, TreeOptions{ChunkSize: opts.ChunkSize})
	return c
}

// memoryScratch is a Scratch in memory.
type memoryScratch struct{ b []byte }

func (m *memoryScratch) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memoryScratch) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

// Pass copies what src has and an earlier pass did not. minPurgeSeq is the
// sequence up to which all indexes and copies know of purges; those are left out.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, start.
func (c *Compaction) Pass(src *Source, minPurgeSeq uint64) error {
	head, err := parseDBHeader(src.Header)
	if err != nil {
		return err
	}
	if err := c.begin(head); err != nil {
		return err
	}
	c.src = src
	stages := []func() error{
		func() error { return c.copyPurges(src, minPurgeSeq) },
		func() error { return c.copyDocs(src, head) },
		func() error { return c.copyObjects(src, head) },
		c.checkpoint,
		c.checkpoint, // when the server has sorted
		c.copyIDs,
		c.commit,
	}
	if c.merges() {
		stages = stages[:len(stages)-2]
	}
	for _, stage := range stages {
		if err := stage(); err != nil {
			return fmt.Errorf("pass %d of the compaction: %w", c.passes, err)
		}
	}
	return nil
}

// begin starts the file, in the first pass.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl,
// open_compaction_files; src/couch/src/couch_bt_engine.erl, init_state.
func (c *Compaction) begin(src dbHeader) error {
	if c.passes++; c.passes > 1 {
		return nil
	}
	if c.head = newDBHeader(c.p.Release, src); c.merges() {
		return nil
	}
	if _, err := c.f.Header(withVersion(c.head.term())); err != nil {
		return err
	}
	c.object(AtSecurity, c.p.DefaultSecurity)
	return c.commit()
}

// object appends an object and lets the header point to it.
func (c *Compaction) object(at int, t erlterm.Term) {
	off, _ := c.f.Chunk(c.p.Compression.Append(nil, withVersion(t)))
	c.head[at] = erlterm.PutInt(nil, off)
}

// commit writes the database's header.
func (c *Compaction) commit() error {
	c.allTrees.put(c.head)
	c.written = c.head.clone()
	_, err := c.f.Header(withVersion(c.head.term()))
	return err
}

// checkpoint writes a header of the compaction, which the server also writes into
// the file in which it sorts.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl,
// commit_compaction_data.
func (c *Compaction) checkpoint() error {
	c.allTrees.put(c.head) // the id tree is that of the file, while its new entries are being sorted
	state := noAtts
	if c.src.Sorting != nil {
		var err error
		if state, err = c.src.Sorting(); err != nil {
			return err
		}
	}
	if c.merges() {
		return nil
	}
	t := erlterm.PutAtom(erlterm.PutTuple(nil, 3), "comp_header")
	t = append(append(t, c.head.term()...), state...)
	_, err := c.f.Header(withVersion(t))
	return err
}

// copyDocs copies documents in the order of their sequences, in batches.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_compact.
func (c *Compaction) copyDocs(src *Source, head dbHeader) error {
	limit := int(head.uint(AtRevsLimit))
	var batch []batchDoc
	size, copied := 0, 0
	for e, err := range src.Docs(c.head.uint(AtUpdateSeq)) {
		if err != nil {
			return err
		}
		if e.Dead != nil {
			c.f.Raw(e.Dead)
			continue
		}
		d, err := parseSeqEntry(e.Entry)
		if err != nil {
			return err
		}
		batch = append(batch, batchDoc{d, len(batch), e.Chunks, e.ByOffset})
		end := e.Batch
		if !c.p.Told {
			c.term = d.putRecord(c.term[:0])
			size += 1 + len(c.term)
			end = c.batch(size, copied)
		}
		if end == BatchGoesOn {
			continue
		}
		if err := c.copyBatch(batch, limit); err != nil {
			return err
		}
		c.head[AtUpdateSeq] = d.seq
		copied += size
		if batch, size = batch[:0], 0; end == BatchCheckpoint {
			copied = 0
			if err := c.checkpoint(); err != nil {
				return err
			}
		}
	}
	return c.copyBatch(batch, limit)
}

// batch says whether a batch of size bytes of records ends, after others of
// copied bytes since the last checkpoint.
func (c *Compaction) batch(size, copied int) Batch {
	switch {
	case size < c.p.BufferSize:
		return BatchGoesOn
	case copied+size < c.p.CheckpointAfter:
		return BatchEnds
	}
	return BatchCheckpoint
}

type batchDoc struct {
	*docInfo
	at       int // in the batch, by update_seqs
	from     Chunks
	byOffset bool
}

// copyBatch copies one batch, in the order of the documents' ids.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl, copy_docs.
func (c *Compaction) copyBatch(batch []batchDoc, limit int) error {
	slices.SortFunc(batch, func(a, b batchDoc) int {
		n, _ := Terms(a.id, b.id) // binaries
		return n
	})
	seqs := make([]pair, len(batch))
	var gone []erlterm.Term
	var ids []pair // if they are not sorted first
	for _, d := range batch {
		if err := c.copyDoc(d); err != nil {
			return fmt.Errorf("document of update_seq %x: %w", []byte(d.seq), err)
		}
		if !c.p.Told {
			var err error
			if d.roots, err = stem(d.roots, limit); err != nil {
				return err
			}
		}
		seq := c.pair(d.docInfo)
		if c.passes > 1 || c.merges() {
			was, err := c.ids.Lookup(d.id)
			if err != nil {
				return err
			}
			if was != nil && c.isLate(d.docInfo, was) {
				continue
			}
			if was != nil {
				gone = append(gone, slices.Clone(firstOf(was)))
			}
		}
		seqs[d.at] = seq
		if id := c.byID(d.docInfo, seq); c.merges() {
			ids = append(ids, pair{c.arena.put(id.raw), id.valueAt})
			c.put[string(d.seq)] = true
		} else if err := c.sorter.add(id); err != nil {
			return err
		}
	}
	seqs = slices.DeleteFunc(seqs, func(p pair) bool { return p.raw == nil })
	if len(ids) > 0 {
		if err := c.ids.modify(ids, nil); err != nil {
			return err
		}
	}
	return c.seqs.modify(seqs, gone)
}

// pair is a document's entry of the seq tree.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, seq_tree_split.
func (c *Compaction) pair(d *docInfo) pair {
	var at int
	c.term, at = d.appendPair(c.term[:0])
	return pair{c.arena.put(c.term), int32(at)}
}

// byID is the document's entry of the id tree, valid until the next one. It differs
// from that of the seq tree in id and update_seq alone.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, id_tree_split.
func (c *Compaction) byID(d *docInfo, seq pair) pair {
	rest := seq.raw[int(seq.valueAt)+pairHead+len(d.id):]
	t := append(erlterm.PutTuple(c.term[:0], 2), d.id...)
	at := len(t)
	t = append(append(erlterm.PutTuple(t, 4), d.seq...), rest...)
	c.term = t
	return pair{t, int32(at)}
}

// firstOf is the sequence in a value of the id tree.
func firstOf(value erlterm.Term) erlterm.Term {
	_, rest, _ := erlterm.Tuple(value)
	t, _, _ := erlterm.Next(rest)
	return t
}

// copyObjects copies security, properties and times.
func (c *Compaction) copyObjects(src *Source, head dbHeader) error {
	empty := erlterm.Term{erlterm.TagNil}
	c.object(AtSecurity, orElse(src.Security, empty))
	if c.p.Release > Release23 {
		c.object(AtProps, orElse(src.Props, empty))
	}
	if err := c.copyTimes(src); err != nil {
		return err
	}
	c.head[AtUpdateSeq] = head[AtUpdateSeq]
	return nil
}

// copyTimes copies the times of sequences if they are others than in the file.
//
// Source: CouchDB's main branch of August 2026, src/couch/src/couch_bt_engine.erl, set_time_seq.
func (c *Compaction) copyTimes(src *Source) error {
	if c.p.Release < ReleaseMain || src.TimeSeq == nil {
		return nil
	}
	if off := c.head.pointer(AtTimeSeq); off >= 0 {
		p, err := c.f.Payload(off)
		if err != nil {
			return err
		}
		t, err := couchfile.Inflate(p)
		if err != nil || bytes.Equal(t, src.TimeSeq) {
			return err
		}
	}
	c.object(AtTimeSeq, src.TimeSeq)
	return nil
}

func orElse(t, other erlterm.Term) erlterm.Term {
	if t == nil {
		return other
	}
	return t
}

// idBatch is how many records are added to the id tree at once: as many as
// are needed for more than a thousand.
const idBatch = 1001

// copyIDs builds the id tree of the sorted records. Those that another one of
// the same document follows, since the compaction was interrupted and the
// document changed until it was taken up again, leave the seq tree.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine_compactor.erl,
// copy_meta_data and merge_docids.
func (c *Compaction) copyIDs() error {
	batch := make([]pair, 0, idBatch)
	var gone, before []erlterm.Term // of the batch; of the last document
	var last pair
	flush := func() error {
		if err := c.ids.modify(batch, nil); err != nil {
			return err
		}
		if len(gone) > 0 {
			if err := c.seqs.modify(nil, gone); err != nil {
				return err
			}
		}
		batch, gone = batch[:0], gone[:0]
		return nil
	}
	add := func() error {
		if len(batch) == idBatch {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, last)
		gone, before = append(gone, before...), before[:0]
		return nil
	}
	err := c.sorter.each(func(p pair) (err error) {
		switch {
		case last.raw == nil:
		case sameID(last, p):
			before = append(before, firstOf(last.value()))
		default:
			err = add()
		}
		last = p
		return err
	})
	if err == nil && last.raw != nil {
		err = add()
	}
	if err != nil {
		return err
	}
	return flush()
}

// Swap adds what the server does when it takes the compacted file into use:
// local documents, limits and the sequence of the compaction, all of src, the
// older database as it was then.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, finish_compaction_int.
func (c *Compaction) Swap(src *Source) error {
	head, err := parseDBHeader(src.Header)
	if err != nil {
		return err
	}
	var locals []couchfile.Entry
	for e, err := range src.Locals() {
		if err != nil {
			return err
		}
		locals = append(locals, localEntry(e))
	}
	if err := c.locals.Modify(locals, nil); err != nil {
		return err
	}
	times := c.head[AtTimeSeq]
	if err := c.copyTimes(src); err != nil {
		return err
	}
	for at, from := range map[int]int{AtCompactedSeq: AtUpdateSeq, AtRevsLimit: AtRevsLimit, AtPurgesLimit: AtPurgesLimit} {
		c.head[at] = head[from]
	}
	if c.merges() {
		return nil
	}
	// The server compares the trees alone with the header that it is about to write.
	if string(c.locals.State()) == string(c.written[AtLocalTree]) && string(times) == string(c.head[AtTimeSeq]) {
		return c.f.Flush()
	}
	return c.commit()
}

// localEntry gives the revision of a local document the form of today.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, local_tree_split.
func localEntry(e couchfile.Entry) couchfile.Entry {
	parts, ok := erlterm.Elements(e.Value)
	if !ok || len(parts) != 2 {
		return e
	}
	digits, _, ok := erlterm.Binary(parts[0])
	if !ok {
		return e
	}
	var n uint64
	for _, d := range digits {
		n = n*10 + uint64(d-'0')
	}
	e.Value = tupleOf([]erlterm.Term{erlterm.PutUint(nil, n), parts[1]})
	return e
}
