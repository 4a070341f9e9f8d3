package couchgen

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// DefaultNode is the node name that files belong to when none is given.
const DefaultNode = "couchdb-unique@127.0.0.1"

// Options say what file to write. The zero value is an empty shard of a database
// that is not partitioned, as CouchDB 3.5 makes it.
type Options struct {
	Seed        uint64
	NodeName    string // for the epochs; DefaultNode if empty
	UUID        string // 32 hex characters; from Seed if empty
	Checksum    Checksum
	Compression Compression
	Partitioned bool
	NodeLocal   bool // _dbs or _nodes: no props, so the first header is at 0
	// DiskVersion is that of the header: 6 (2.0 to 2.2), 7 (2.3) or 8; 8 if 0. Before 8 there
	// are no props, before 7 no purges.
	DiskVersion     int
	Security        Object
	RevsLimit       int // 1000 if 0; histories are not cut to it
	AttachmentChunk int // bytes; 8 KiB if 0
	// MemoryDocs is how many documents stay in memory before they are forgotten
	// and read again on demand; 100,000 if 0. Needs an output that is an io.ReaderAt.
	MemoryDocs int
}

// Generator appends to one .couch file. It is not safe for concurrent use.
// Nothing is visible to a reader before Commit; the caller closes the file.
type Generator struct {
	opts Options
	out  *couchwriter.File
	head header

	ids       tree[string, *info]
	seqs      tree[uint64, *info]
	locals    tree[string, *local]
	purges    tree[string, *purge]
	purgeSeqs tree[uint64, *purge]

	pending    map[string]*info // changed since the last commit; nil = purged
	oldSeqs    []uint64         // of the changed documents
	newLocals  map[string]*local
	newPurges  []*purge
	noAtts     []byte // an empty attachment list, compressed
	packer     packer
	packedBody []byte // scratch
	summary    []byte // scratch
	zipped     bytes.Buffer
	zip        *gzip.Writer
}

type header struct {
	updateSeq, purgeSeq    uint64
	compactedSeq           uint64
	noCompactedSeq         bool // the very first header says undefined
	security, props        int64
	noSecurity, noProps    bool
	revsLimit, purgesLimit int64
	uuid                   string
	epochs                 []epoch
	timeSeq                any   // of a later release: an offset, or an atom
	more                   []any // what a later release has behind the fields of 3.5
}

type epoch struct {
	node string
	seq  uint64
}

type local struct {
	id   string
	rev  int64
	body []byte
}

type purge struct {
	seq      uint64
	uuid, id string
	revs     []Rev
}

// Doc is a revision to write.
type Doc struct {
	ID string
	// Body is the document without _id, _rev, _attachments: a map, an Object, a
	// json.RawMessage of an object, Encoded, or whatever encoding/json marshals
	// to an object. nil is an empty object.
	Body        any
	Deleted     bool
	Attachments []Attachment
	// KeepAttachments takes over those of the parent, without copying, as a
	// stub does. Needs an output that is an io.ReaderAt.
	KeepAttachments bool
	// Parent is the revision that this one follows: the winner if empty. One
	// that the document doesn't have starts a new root behind it, as replication
	// of a cut history does; "0" starts a new root at 1.
	Parent string
	// RevID is 32 hex characters or any other name; computed if empty.
	RevID string
}

// Attachment is a file to store with a document.
type Attachment struct {
	Name, Type string
	Data       []byte
	Gzip       bool // store it compressed, as the server does with text
}

// Create starts a file: props (for a shard), a header, the security object and a
// second header. It takes an empty w; the caller closes it.
func Create(w io.Writer, opts Options) (*Generator, error) {
	g := newGenerator(w, 0, opts)
	rnd := rand.New(rand.NewPCG(opts.Seed, 1))
	g.head = header{
		noCompactedSeq: true, noSecurity: true, noProps: true,
		revsLimit:   int64(cmp.Or(opts.RevsLimit, 1000)),
		purgesLimit: 1000,
		uuid:        cmp.Or(opts.UUID, fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64())),
		epochs:      []epoch{{g.opts.NodeName, 0}},
		timeSeq:     0,
	}
	if !opts.NodeLocal && g.opts.DiskVersion == newestDisk {
		props := Object{}
		if opts.Partitioned {
			props = Object{{Atom("partitioned"), true}, {Atom("hash"), []any{Atom("couch_partition"), Atom("hash"), []any{}}}}
		}
		if err := g.setTerm(&g.head.props, props); err != nil {
			return nil, err
		}
		g.head.noProps = false
	}
	if err := g.writeHeader(); err != nil {
		return nil, err
	}
	security := opts.Security
	if security == nil {
		admins := Object{{"roles", []any{"_admin"}}}
		security = Object{{"members", admins}, {"admins", admins}}
	}
	if err := g.SetSecurity(security); err != nil {
		return nil, err
	}
	g.head.noCompactedSeq = false
	return g, g.writeHeader()
}

func newGenerator(w io.Writer, size int64, opts Options) *Generator {
	opts.NodeName = cmp.Or(opts.NodeName, DefaultNode)
	opts.AttachmentChunk = cmp.Or(opts.AttachmentChunk, 8<<10)
	opts.MemoryDocs = cmp.Or(opts.MemoryDocs, 100_000)
	opts.DiskVersion = cmp.Or(opts.DiskVersion, newestDisk)
	nodes := opts.MemoryDocs / docsInNode
	r, ok := w.(io.ReaderAt)
	if !ok {
		nodes = allNodes
	}
	f := couchwriter.NewFile(w, r, size, opts.Checksum.kind())
	purges := Snappy // whatever the rest is, before the main branch of 2026
	if opts.Compression == Zstd {
		purges = Zstd
	}
	return &Generator{
		opts:      opts,
		out:       f,
		pending:   map[string]*info{},
		newLocals: map[string]*local{},
		noAtts:    opts.Compression.Append(nil, []byte{erlterm.Version, erlterm.TagNil}),
		ids:       newTree(f, opts.Compression, nodes, idCodec),
		seqs:      newTree(f, opts.Compression, nodes, seqCodec),
		locals:    newTree(f, opts.Compression, nodes, localCodec),
		purges:    newTree(f, purges, nodes, purgeCodec),
		purgeSeqs: newTree(f, purges, nodes, purgeSeqCodec),
	}
}

// docsInNode is about how many documents a leaf has.
const docsInNode = 8

var idCodec = codec[string, *info]{
	value: func(b []byte, d *info) []byte {
		return d.appendTail(erlterm.PutUint(erlterm.PutTuple(b, 4), d.seq))
	},
	reducer: couchwriter.DocsReduce,
	readValue: func(id string, term any) (d *info, err error) {
		defer guard(&err)
		t := must[Tuple](term)
		d = &info{id: id, seq: uint64(must[int64](t[0]))}
		return d, d.readTail(t[1], t[2], t[3])
	},
}

var seqCodec = codec[uint64, *info]{
	value: func(b []byte, d *info) []byte {
		return d.appendTail(erlterm.PutBinary(erlterm.PutTuple(b, 4), d.id))
	},
	reducer: couchwriter.CountReduce,
	readValue: func(seq uint64, term any) (d *info, err error) {
		defer guard(&err)
		t := must[Tuple](term)
		d = &info{id: must[string](t[0]), seq: seq}
		return d, d.readTail(t[1], t[2], t[3])
	},
}

var localCodec = codec[string, *local]{
	value: func(b []byte, l *local) []byte {
		return append(erlterm.PutInt(erlterm.PutTuple(b, 2), l.rev), l.body...)
	},
	reducer: couchwriter.NoReduce,
	readValue: func(id string, term any) (l *local, err error) {
		defer guard(&err)
		t := must[Tuple](term)
		body, _, err := appendValue(nil, t[1])
		return &local{id, must[int64](t[0]), body}, err
	},
}

var purgeCodec = codec[string, *purge]{
	value: func(b []byte, p *purge) []byte {
		return appendRevs(erlterm.PutBinary(erlterm.PutUint(erlterm.PutTuple(b, 3), p.seq), p.id), p.revs)
	},
	reducer: couchwriter.CountReduce,
	readValue: func(uuid string, term any) (p *purge, err error) {
		defer guard(&err)
		t := must[Tuple](term)
		return &purge{uint64(must[int64](t[0])), uuid, must[string](t[1]), readRevs(t[2])}, nil
	},
}

var purgeSeqCodec = codec[uint64, *purge]{
	value: func(b []byte, p *purge) []byte {
		return appendRevs(erlterm.PutBinary(erlterm.PutBinary(erlterm.PutTuple(b, 3), p.uuid), p.id), p.revs)
	},
	reducer: couchwriter.CountReduce,
	readValue: func(seq uint64, term any) (p *purge, err error) {
		defer guard(&err)
		t := must[Tuple](term)
		return &purge{seq, must[string](t[0]), must[string](t[1]), readRevs(t[2])}, nil
	},
}

func appendRevs(b []byte, revs []Rev) []byte {
	b = erlterm.PutListHead(b, len(revs))
	for _, r := range revs {
		b = erlterm.PutBinary(erlterm.PutUint(erlterm.PutTuple(b, 2), r.Pos), r.ID)
	}
	return append(b, erlterm.TagNil)
}

func readRevs(term any) (revs []Rev) {
	for _, r := range must[[]any](term) {
		t := must[Tuple](r)
		revs = append(revs, Rev{uint64(must[int64](t[0])), must[string](t[1])})
	}
	return revs
}

// Put writes a new document or a new revision of one.
func (g *Generator) Put(doc Doc) (Rev, error) {
	if doc.ID == "" {
		return Rev{}, errors.New("document without an id")
	}
	d, err := g.change(doc.ID)
	if err != nil {
		return Rev{}, err
	}
	parentRev, parent, err := d.parent(doc.Parent)
	if err != nil {
		return Rev{}, fmt.Errorf("document %q: %w", doc.ID, err)
	}
	rev := Rev{Pos: parentRev.Pos + 1}
	n := d.newNode()
	n.stored, n.deleted = true, doc.Deleted
	var kept []byte
	if doc.KeepAttachments && parent != nil {
		n.atts = slices.Clone(parent.atts)
		if kept, err = g.attachmentList(parent); err != nil {
			return Rev{}, fmt.Errorf("attachments of %q: %w", doc.ID, err)
		}
	}
	atts, digest, err := g.writeAttachments(n, kept, doc.Attachments, rev.Pos)
	if err != nil {
		return Rev{}, err
	}
	if err := g.writeSummary(n, doc, parentRev, atts, digest); err != nil {
		return Rev{}, fmt.Errorf("document %q: %w", doc.ID, err)
	}
	rev.ID = n.id
	g.head.updateSeq++
	n.seq, d.seq = g.head.updateSeq, g.head.updateSeq
	d.attach(parent, rev.Pos, n)
	d.sum()
	g.keep(doc.ID, d, d)
	return rev, nil
}

// keep notes d as what the next commit writes for id; nil removes the document.
func (g *Generator) keep(id string, was, d *info) {
	if was.oldSeq != 0 {
		g.oldSeqs = append(g.oldSeqs, was.oldSeq)
		was.oldSeq = 0
	}
	g.pending[id] = d
}

// Delete writes a tombstone over the winner.
func (g *Generator) Delete(id string) (Rev, error) { return g.Put(Doc{ID: id, Deleted: true}) }

// change returns the record of a document to be changed; a new one has no revs.
func (g *Generator) change(id string) (*info, error) {
	if d := g.pending[id]; d != nil {
		return d, nil
	}
	d, found, err := g.ids.find(id)
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", id, err)
	}
	if _, purged := g.pending[id]; purged || !found {
		return newInfo(id), nil
	}
	d = d.clone()
	d.oldSeq = d.seq
	return d, nil
}

func (d *info) parent(want string) (Rev, *revNode, error) {
	switch {
	case want == "" && len(d.roots) == 0, want == "0":
		return Rev{}, nil, nil
	case want == "":
		rev, n := d.winner()
		return rev, n, nil
	default:
		rev, err := ParseRev(want)
		if err != nil {
			return rev, nil, err
		}
		return rev, d.lookup(rev), nil
	}
}

// writeSummary appends {body, attachments} and fills in n.
func (g *Generator) writeSummary(n *revNode, doc Doc, parent Rev, atts, digest []byte) error {
	body, ok := doc.Body.(packed)
	if !ok {
		var err error
		if body, err = g.packer.pack(g.opts.Compression, doc.Body, g.packedBody[:0]); err != nil {
			return err
		}
		g.packedBody = body.bytes
	}
	n.external = body.jsonSize
	n.id = doc.RevID
	if raw, err := hex.DecodeString(n.id); err == nil && len(raw) == 16 {
		n.id = string(raw)
	}
	if n.id == "" {
		n.id = revID(body.hash, doc.Deleted, parent, digest)
	}
	g.summary = erlterm.PutBinary(append(g.summary[:0], erlterm.Version, erlterm.TagSmallTuple, 2), body.bytes)
	g.summary = erlterm.PutBinary(g.summary, atts)
	n.body, n.active = g.out.Checked(g.summary)
	return nil
}

// packed is a body in its stored form.
type packed struct {
	bytes    []byte
	jsonSize int64
	hash     xxh3.Uint128 // of the term
}

// packer makes packed bodies.
type packer struct{ term []byte }

// pack appends the stored form to dst, which the result's bytes begin at.
func (p *packer) pack(c Compression, body any, dst []byte) (packed, error) {
	if body == nil {
		body = Object{}
	}
	term, size, err := appendValue(append(p.term[:0], erlterm.Version), body)
	if err != nil {
		return packed{}, err
	}
	p.term = term
	if len(term) < 3 || term[1] != erlterm.TagSmallTuple || term[2] != 1 {
		return packed{}, fmt.Errorf("body of type %T is not an object", body)
	}
	return packed{c.Append(dst, term), size, xxh3.Hash128(term)}, nil
}

// revID differs from the server's, which hashes a term with MD5; no reader can
// tell.
func revID(body xxh3.Uint128, deleted bool, parent Rev, digest []byte) string {
	var seed uint64
	if deleted {
		seed = 1
	}
	seed ^= xxh3.HashString(parent.ID) ^ parent.Pos<<1 ^ xxh3.Hash(digest)
	b := body.Bytes()
	sum := xxh3.Hash128Seed(b[:], seed).Bytes()
	return string(sum[:])
}

// writeAttachments appends the attachments' bytes; it returns the compressed list
// for the summary and a digest of it.
func (g *Generator) writeAttachments(n *revNode, kept []byte, atts []Attachment, revPos uint64) (list, digest []byte, err error) {
	count, entries := listEntries(kept)
	if count+len(atts) == 0 {
		return g.noAtts, nil, nil
	}
	term := erlterm.PutListHead([]byte{erlterm.Version}, count+len(atts))
	term = append(term, entries...)
	for _, a := range atts {
		data, encoding := a.Data, "identity"
		if a.Gzip {
			if data, err = g.gzipped(a.Data); err != nil {
				return nil, nil, err
			}
			encoding = "gzip"
		}
		s := stream{length: int64(len(data))}
		for part := range slices.Chunk(data, g.opts.AttachmentChunk) {
			off, _ := g.out.Chunk(part)
			s.chunks = append(s.chunks, extent{off, int64(len(part))})
		}
		sum := md5.Sum(data)
		term = erlterm.PutBinary(erlterm.PutBinary(erlterm.PutTuple(term, 8), a.Name), a.Type)
		term = erlterm.PutInt(appendExtents(term, s.chunks), s.length)
		term = erlterm.PutUint(erlterm.PutInt(term, int64(len(a.Data))), revPos)
		term = erlterm.PutAtom(erlterm.PutBinary(term, sum[:]), encoding)
		n.atts = append(n.atts, s)
	}
	slices.SortFunc(n.atts, compareStreams)
	n.atts = slices.CompactFunc(n.atts, func(a, b stream) bool { return compareStreams(a, b) == 0 })
	term = append(term, erlterm.TagNil)
	return g.opts.Compression.Append(nil, term), term, nil
}

// listEntries returns the elements of an encoded list.
func listEntries(term []byte) (int, []byte) {
	if len(term) < 7 || term[1] != erlterm.TagList {
		return 0, nil
	}
	return int(binary.BigEndian.Uint32(term[2:])), term[6 : len(term)-1]
}

// attachmentList reads the attachment list of a stored revision.
func (g *Generator) attachmentList(n *revNode) ([]byte, error) {
	if len(n.atts) == 0 {
		return nil, nil // zero-byte ones are in atts too
	}
	p, err := g.out.Payload(n.body)
	if err != nil {
		return nil, err
	}
	term, err := decodeTerm(p)
	if err != nil {
		return nil, err
	}
	_, list, _ := pair(term)
	packed, ok := list.(string)
	if !ok {
		return nil, errTerm
	}
	return inflated([]byte(packed))
}

// gzipped returns p compressed; valid until the next call.
func (g *Generator) gzipped(p []byte) ([]byte, error) {
	g.zipped.Reset()
	if g.zip == nil {
		w, err := gzip.NewWriterLevel(&g.zipped, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		g.zip = w
	}
	g.zip.Reset(&g.zipped)
	if _, err := g.zip.Write(p); err != nil {
		return nil, err
	}
	err := g.zip.Close()
	return g.zipped.Bytes(), err
}

// PutLocal writes a local document; id starts with "_local/".
func (g *Generator) PutLocal(id string, body any) error {
	old, err := g.local(id)
	if err != nil {
		return err
	}
	term, _, err := appendValue(nil, body)
	if err != nil {
		return fmt.Errorf("local document %q: %w", id, err)
	}
	l := &local{id: id, rev: 1, body: term}
	if old != nil {
		l.rev = old.rev + 1
	}
	g.newLocals[id] = l
	return nil
}

// DeleteLocal removes a local document.
func (g *Generator) DeleteLocal(id string) error {
	g.newLocals[id] = nil
	return nil
}

func (g *Generator) local(id string) (*local, error) {
	if l, ok := g.newLocals[id]; ok {
		return l, nil
	}
	l, _, err := g.locals.find(id)
	return l, err
}

// Purge removes a document as if it had never been, and records that.
func (g *Generator) Purge(id string) error {
	d, err := g.change(id)
	if err != nil {
		return err
	}
	if len(d.roots) == 0 {
		return fmt.Errorf("purge %q: no such document", id)
	}
	p := &purge{id: id}
	d.leaves(func(r Rev, _ *revNode) { p.revs = append(p.revs, r) })
	g.head.purgeSeq++
	g.head.updateSeq++
	p.seq = g.head.purgeSeq
	sum := xxh3.Hash128Seed([]byte(id), g.opts.Seed^p.seq).Bytes()
	p.uuid = hex.EncodeToString(sum[:])
	g.newPurges = append(g.newPurges, p)
	g.keep(id, d, nil)
	return nil
}

// SetSecurity replaces the security object.
func (g *Generator) SetSecurity(o Object) error {
	g.head.noSecurity = false
	return g.setTerm(&g.head.security, o)
}

func (g *Generator) setTerm(ptr *int64, o Object) error {
	term, _, err := appendMembers([]byte{erlterm.Version}, o)
	if err != nil {
		return err
	}
	*ptr, _ = g.out.Chunk(g.opts.Compression.Append(nil, term))
	return nil
}

// SetRevsLimit changes the limit in the header; histories are not cut to it.
func (g *Generator) SetRevsLimit(n int) { g.head.revsLimit = int64(n) }

// Commit writes the trees and a header, and hands all bytes to the output. The
// state is complete then; the file may be cut here.
func (g *Generator) Commit() error {
	for _, step := range []func() error{g.commitDocs, g.commitLocals, g.commitPurges} {
		if err := step(); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return g.writeHeader()
}

func (g *Generator) commitDocs() error {
	ids := make([]edit[string, *info], 0, len(g.pending))
	seqs := make([]edit[uint64, *info], 0, len(g.pending)+len(g.oldSeqs))
	for id, d := range g.pending {
		ids = append(ids, edit[string, *info]{id, d, d == nil})
		if d != nil {
			seqs = append(seqs, edit[uint64, *info]{d.seq, d, false})
		}
	}
	for _, seq := range g.oldSeqs {
		seqs = append(seqs, edit[uint64, *info]{key: seq, remove: true})
	}
	clear(g.pending)
	g.oldSeqs = g.oldSeqs[:0]
	if err := g.ids.apply(ids); err != nil {
		return err
	}
	return g.seqs.apply(seqs)
}

func (g *Generator) commitLocals() error {
	var edits []edit[string, *local]
	for id, l := range g.newLocals {
		edits = append(edits, edit[string, *local]{id, l, l == nil})
	}
	clear(g.newLocals)
	return g.locals.apply(edits)
}

func (g *Generator) commitPurges() error {
	var byUUID []edit[string, *purge]
	var bySeq []edit[uint64, *purge]
	for _, p := range g.newPurges {
		byUUID = append(byUUID, edit[string, *purge]{p.uuid, p, false})
		bySeq = append(bySeq, edit[uint64, *purge]{p.seq, p, false})
	}
	g.newPurges = nil
	if err := g.purges.apply(byUUID); err != nil {
		return err
	}
	return g.purgeSeqs.apply(bySeq)
}

func (g *Generator) writeHeader() error {
	_, err := g.out.Header(g.headerTerm())
	return err
}

// newestDisk is the disk version of CouchDB 3.
const newestDisk = 8

// headerTerm is the record db_header.
//
// Source: CouchDB 3.5, 2.3.1 and 2.1.2, src/couch/src/couch_bt_engine_header.erl, db_header
// (2.1: couch_db_header.erl); the files of testdata/versions.
func (g *Generator) headerTerm() []byte {
	h := &g.head
	fields := map[int]int{6: 14, 7: 15}[g.opts.DiskVersion]
	if fields == 0 {
		fields = 16 + len(h.more)
	}
	b := erlterm.PutAtom(erlterm.PutTuple([]byte{erlterm.Version}, fields), "db_header")
	b = erlterm.PutUint(erlterm.PutInt(b, int64(g.opts.DiskVersion)), h.updateSeq)
	b = appendKnown(b, h.timeSeq)
	b = append(b, g.ids.State()...)
	b = append(b, g.seqs.State()...)
	b = append(b, g.locals.State()...)
	if g.opts.DiskVersion < 7 { // purge_seq, and the last purge
		b = erlterm.PutAtom(erlterm.PutInt(b, 0), "nil")
	} else {
		b = append(b, g.purges.State()...)
		b = append(b, g.purgeSeqs.State()...)
	}
	b = appendOr(b, h.noSecurity, "nil", h.security)
	b = erlterm.PutBinary(erlterm.PutInt(b, h.revsLimit), h.uuid)
	b = erlterm.PutListHead(b, len(h.epochs))
	for _, e := range h.epochs {
		b = erlterm.PutUint(erlterm.PutAtom(erlterm.PutTuple(b, 2), e.node), e.seq)
	}
	b = append(b, erlterm.TagNil)
	b = appendOr(b, h.noCompactedSeq, "undefined", int64(h.compactedSeq))
	if g.opts.DiskVersion < 7 {
		return b
	}
	b = erlterm.PutInt(b, h.purgesLimit)
	if g.opts.DiskVersion < newestDisk {
		return b
	}
	b = appendOr(b, h.noProps, "undefined", h.props)
	for _, v := range h.more {
		b = appendKnown(b, v)
	}
	return b
}

// appendKnown appends what decodeTerm read, or a plain number.
func appendKnown(b []byte, v any) []byte {
	b, _, err := appendValue(b, v)
	if err != nil {
		panic(err) // it was a term
	}
	return b
}

func appendOr(b []byte, absent bool, atom string, v int64) []byte {
	if absent {
		return erlterm.PutAtom(b, atom)
	}
	return erlterm.PutInt(b, v)
}

// Size is the length of the file so far, uncommitted bytes included.
func (g *Generator) Size() int64 { return g.out.Offset() }

// UpdateSeq is the sequence of the latest change.
func (g *Generator) UpdateSeq() uint64 { return g.head.updateSeq }

// UUID is the file's uuid.
func (g *Generator) UUID() string { return g.head.uuid }

// Docs counts the committed documents.
func (g *Generator) Docs() (live, deleted int64) {
	state, _ := erlterm.Elements(g.ids.State())
	if len(state) != 3 {
		return 0, 0
	}
	return countsOf(state[1])
}

// countsOf reads a reduction of the id tree.
func countsOf(reduction erlterm.Term) (live, deleted int64) {
	_, rest, _ := erlterm.Tuple(reduction)
	a, rest, _ := erlterm.Uint(rest)
	b, _, _ := erlterm.Uint(rest)
	return int64(a), int64(b)
}

// DocAt returns the id and the winning revision of the i-th committed document,
// deleted ones included, in order of the ids.
func (g *Generator) DocAt(i int64) (id string, rev Rev, deleted bool, err error) {
	live, dead := g.Docs()
	if i < 0 || i >= live+dead {
		return "", rev, false, fmt.Errorf("document %d of %d", i, live+dead)
	}
	e, err := g.ids.Descend(func(red erlterm.Term) bool {
		count := int64(1)
		if red != nil {
			live, dead := countsOf(red)
			count = live + dead
		}
		if i < count {
			return false
		}
		i -= count
		return true
	})
	if err != nil {
		return "", rev, false, err
	}
	d, err := g.ids.readEntry(e)
	if err != nil {
		return "", rev, false, err
	}
	rev, _ = d.winner()
	return d.id, rev, d.deleted, nil
}
