package replay

import (
	"bytes"
	"errors"
	"maps"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// commit is what a commit did to the trees of the database.
type commit struct {
	predict                       bool                    // there are nodes to be predicted
	compression, purgeCompression couchwriter.Compression // of these
	docs                          []couchfile.Entry
	purges                        []couchfile.Entry
	gone                          map[string]bool // documents that were purged altogether
	locals                        []couchfile.Entry
	localsGone                    []erlterm.Term
	// bodies are the chunks that records refer to, with those of the newest revisions
	// before them that the header before has.
	bodies map[int64]olderBody
}

// changes finds what a commit did by the trees before and after it. What can't
// be read, or is none of a database, is not predicted.
func (e *tailEncoder) changes(h couchfile.RawHeader) (*commit, error) {
	c := &commit{gone: map[string]bool{}, bodies: map[int64]olderBody{}}
	if !bytes.Equal(e.m.header, e.was) || h.Kind != couchfile.HeaderDB || bytes.Equal(e.was, h.Term) {
		return c, nil
	}
	before, okBefore := erlterm.Elements(e.was[1:])
	after, okAfter := erlterm.Elements(h.Term[1:])
	if !okBefore || !okAfter || len(before) <= couchwriter.AtCompactedSeq || len(after) <= couchwriter.AtCompactedSeq {
		return c, nil
	}
	for at := couchwriter.AtIDTree; at <= couchwriter.AtPurgeSeqTree; at++ {
		c.predict = c.predict || !bytes.Equal(before[at], after[at])
	}
	if !c.predict {
		return c, nil
	}
	err := e.readChanges(c, before, h)
	if err == nil {
		err = e.nodeSettings(c, before, after)
	}
	if errors.Is(err, errTooMany) || guessed(err) == nil && err != nil {
		return &commit{}, nil
	}
	return c, err
}

var errTooMany = errors.New("a commit of too many documents")

func (e *tailEncoder) readChanges(c *commit, before []erlterm.Term, h couchfile.RawHeader) error {
	db, err := couchfile.OpenOffset(e.f.R, h.End, h.Offset)
	if err != nil {
		return err
	}
	size := 0
	entries := func(t *couchfile.Tree, since uint64) (list []couchfile.Entry, err error) {
		for x, err := range t.All(&couchfile.Key{Seq: since + 1}, false) {
			if err != nil {
				return nil, err
			}
			if size += len(x.Key) + len(x.Value); size > maxBatch {
				return nil, errTooMany
			}
			list = append(list, couchfile.Entry{Key: bytes.Clone(x.Key), Value: bytes.Clone(x.Value)})
		}
		return list, nil
	}
	if c.docs, err = entries(db.SeqTree(), headerSeq(e.was)); err != nil {
		return err
	}
	c.findBodies(e.truth.summed)
	purged, err := e.lastPurge(before)
	if err == nil {
		c.purges, err = entries(db.PurgeSeqTree(), purged)
	}
	if err != nil {
		return err
	}
	for _, p := range c.purges {
		id, ok := purgedID(p)
		name, _, okName := erlterm.Binary(id)
		if !ok || !okName {
			return damaged("purge")
		}
		if _, err := db.DocInfo(string(name)); errors.Is(err, couchfile.ErrNotFound) {
			c.gone[string(id)] = true
		} else if err != nil {
			return err
		}
	}
	return e.localChanges(c, before, h)
}

// olderBody is the body of a revision and the document's id; or nothing.
type olderBody struct {
	off int64
	id  erlterm.Term
}

// findBodies finds the bodies behind from that records refer to.
func (c *commit) findBodies(from int64) {
	for _, d := range c.docs {
		p, ok := splitRecord(d.Value)
		if !ok {
			continue
		}
		before := int64(0)
		eachRev(p.revs, func(r revValue) bool {
			b, ok := parseRevBody(p.revs[r.start:r.end])
			if !ok || b.off > 1<<62 {
				return true
			}
			off := int64(b.off)
			if off >= from {
				c.bodies[off] = olderBody{before, p.id}
				from = off + 1
			} else {
				before = off
			}
			return true
		})
	}
}

// lastPurge is the newest purge before the commit.
func (e *tailEncoder) lastPurge(before []erlterm.Term) (uint64, error) {
	state := before[couchwriter.AtPurgeSeqTree]
	if _, _, ok := erlterm.Tuple(state); !ok { // nil, or of 2.2 and before
		return 0, nil
	}
	t := couchwriter.NewTree(nil, &e.nodes, state, couchwriter.TreeOptions{Reducer: couchwriter.CountReduce})
	key, err := t.Last()
	seq, _, _ := erlterm.Uint(key)
	return seq, err
}

func (e *tailEncoder) localChanges(c *commit, before []erlterm.Term, h couchfile.RawHeader) error {
	after, _ := erlterm.Elements(h.Term[1:])
	is, was := after[couchwriter.AtLocalTree], before[couchwriter.AtLocalTree]
	if bytes.Equal(is, was) {
		return nil
	}
	t := couchwriter.NewTree(nil, &e.nodes, is, couchwriter.TreeOptions{})
	var err error
	c.locals, c.localsGone, err = t.Diff(was, e.truth.summed)
	return err
}

// nodeSettings finds how the nodes of a commit are compressed.
func (e *tailEncoder) nodeSettings(c *commit, before, after []erlterm.Term) error {
	set := e.m.set
	for at := couchwriter.AtPurgeSeqTree; at >= couchwriter.AtIDTree; at-- {
		if bytes.Equal(before[at], after[at]) {
			continue
		}
		parts, ok := erlterm.Elements(after[at])
		if !ok || len(parts) == 0 { // nil
			continue
		}
		off, _, ok := erlterm.Uint(parts[0])
		if !ok || off > 1<<62 {
			return damaged("root of a tree")
		}
		p, err := e.nodes.Payload(int64(off))
		if err != nil {
			return err
		}
		to := &set.compression
		if at >= couchwriter.AtPurgeTree {
			to = &set.purges
		}
		switch {
		case couchwriter.Snappy.Stores(p):
			*to = couchwriter.Snappy
		case couchwriter.None.Stores(p) && p[0] == erlterm.Version:
			*to = couchwriter.None
		default:
			return couchwriter.ErrUnpredicted
		}
	}
	if set.purges != couchwriter.Snappy && set.purges != set.compression {
		return couchwriter.ErrUnpredicted
	}
	c.compression, c.purgeCompression = set.compression, set.purges
	return nil
}

// isNode says whether a chunk is a node of a tree, or looks like one.
func (e *tailEncoder) isNode(c couchfile.Chunk) bool {
	if c.IsHeader || c.Flagged {
		return false
	}
	term, err := e.inf.Term(c.Payload)
	if err != nil {
		return false
	}
	rest, ok := erlterm.TupleN(term, 2)
	return ok && (erlterm.IsAtom(rest, "kv_node") || erlterm.IsAtom(rest, "kp_node"))
}

// update stores the nodes of a commit as what it did. ok is false if they are
// not predicted.
func (e *tailEncoder) update(c *commit, h couchfile.RawHeader) (ok bool, err error) {
	set := e.m.set
	set.compression, set.purges = c.compression, c.purgeCompression // bodies may be of another
	if err := e.settings(set); err != nil {
		return false, err
	}
	for {
		f := finder{e: e, to: h.Offset}
		start := e.m.f.Offset()
		step, err := e.predict(c, &f)
		if guessed(err) != nil {
			return false, err
		}
		if size := e.cut.next(e.m.set.chunkSize); size > 0 { // and all of it once more
			e.giveUp(start)
			set.chunkSize = size
			if err := e.settings(set); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			e.giveUp(start)
			return false, nil
		}
		return e.updated(step, &f, start)
	}
}

// predict makes the step of a commit, without what f was told of its nodes.
func (e *tailEncoder) predict(c *commit, f *finder) (step []byte, err error) {
	if step, err = e.appendUpdate(nil, c); err != nil {
		return nil, err
	}
	e.read(step[1:])
	u, err := e.m.readUpdate()
	if err == nil {
		err = e.m.apply(u, f.node)
	}
	if err == nil {
		err = e.m.f.Flush()
	}
	return step, err
}

// updated writes the step of a commit that was predicted from start on.
func (e *tailEncoder) updated(step []byte, f *finder, start int64) (ok bool, err error) {
	if step = appendNumber(append(step, f.told...), 0); len(f.told) > 0 {
		e.back(start) // and let the decoder do all of it
		if e.m.updated, err = false, e.m.db.Reset(e.m.header); err != nil {
			return false, err
		}
		if ok, err := e.try(step); !ok || err != nil {
			e.giveUp(start)
			return false, err
		}
	} else if err := e.accept(step); err != nil {
		return false, err
	}
	e.res.Predicted++
	e.res.Others += f.others
	e.res.Between += f.chunks
	return true, nil
}

// giveUp goes back to where an update began.
func (e *tailEncoder) giveUp(start int64) {
	e.back(start)
	e.m.db, e.m.updated = nil, false
}

// appendUpdate appends the step of a commit, without what is told of its nodes.
func (e *tailEncoder) appendUpdate(dst []byte, c *commit) ([]byte, error) {
	db, err := e.m.database()
	if err != nil {
		return nil, err
	}
	dst = appendNumber(append(dst, tailUpdate), uint64(len(c.docs)))
	last, pending := headerSeq(e.m.header), e.m.pending
	for _, d := range c.docs {
		seq, ok := seqOf(d)
		if !ok || seq <= last {
			return nil, damaged("update_seq of a document")
		}
		dst = appendNumber(dst, seq-last-1)
		last = seq
		if dst, pending, err = appendRecord(dst, db, d, pending); err != nil {
			return nil, err
		}
	}
	dst = appendNumber(dst, uint64(len(c.purges)))
	left := maps.Clone(c.gone)
	for _, p := range c.purges {
		dst = appendStr(appendStr(dst, p.Key), p.Value)
		id, _ := purgedID(p)
		gone := byte(0)
		if left[string(id)] {
			gone = 1
			delete(left, string(id))
		}
		dst = append(dst, gone)
	}
	dst = appendNumber(dst, uint64(len(c.locals)+len(c.localsGone)))
	for _, l := range c.locals {
		was, err := db.Local(l.Key)
		if err != nil {
			return nil, err
		}
		dst = appendDelta(appendStr(dst, l.Key), was, l.Value)
	}
	for _, key := range c.localsGone {
		dst = appendDelta(appendStr(dst, key), nil, nil)
	}
	return dst, nil
}

// appendRecord appends a document, in plain form if it can be made again of it.
func appendRecord(dst []byte, db *couchwriter.Database, d couchfile.Entry, pending []pendingBody) ([]byte, []pendingBody, error) {
	p, ok := splitRecord(d.Value)
	if !ok {
		return appendStr(append(dst, recordWhole), d.Value), pending, nil
	}
	was, err := db.Doc(p.id)
	if err != nil {
		return nil, nil, err
	}
	plain, left := plainRecord(d.Value, d.Key, pending, was)
	again, leftAgain, _ := fillRecord(plain, d.Key, pending, was)
	if !bytes.Equal(again, d.Value) || len(left) != len(leftAgain) {
		return appendStr(append(dst, recordWhole), d.Value), pending, nil
	}
	return appendDelta(appendStr(append(dst, recordPlain), p.id), bareRecord(was, p.id), plain), left, nil
}

// finder finds the nodes of an update in the file, and writes down what is told
// of them.
type finder struct {
	e    *tailEncoder
	to   int64 // where the commit ends
	told []byte

	run, nodes, others, chunks int
}

const (
	lookAhead  = 64 // chunks that are looked at for one that is predicted
	mostOthers = 8  // nodes, and a quarter of those that are right, that may be other ones
)

// node is told of each node that is predicted.
func (f *finder) node(stored []byte) ([]byte, error) {
	f.nodes++
	f.e.cut.nodes++
	off := f.e.m.f.Offset()
	same, err := f.e.truth.chunk(off, stored)
	if err != nil {
		return nil, err
	}
	if same {
		f.run++
		return stored, nil
	}
	at, other, err := f.find(off, stored)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		return nil, errWrong
	}
	if other != nil {
		if err := f.learn(at); err != nil {
			return nil, err
		}
	}
	for chunk, err := range couchfile.Chunks(f.e.f.R, off, f.to) {
		if err != nil {
			return nil, err
		}
		if chunk.Offset == at {
			break
		}
		if chunk.IsHeader || chunk.Offset != f.e.m.f.Offset() {
			return nil, errWrong
		}
		if err := f.between(chunk); err != nil {
			return nil, err
		}
	}
	if other == nil {
		f.run++
		return stored, nil
	}
	if f.others++; f.others > mostOthers+f.nodes/4 {
		return nil, errWrong
	}
	f.tell(nodeOther)
	f.told = appendStr(f.told, other)
	return other, nil
}

func (f *finder) tell(kind byte) {
	f.told = append(appendNumber(f.told, uint64(f.run)+1), kind)
	f.run = 0
}

// find looks for the node behind off. If it is not there, the next node is
// another one.
func (f *finder) find(off int64, stored []byte) (at int64, other []byte, err error) {
	at = -1
	n := 0
	for chunk, err := range couchfile.Chunks(f.e.f.R, off, f.to) {
		if n++; errors.Is(err, couchfile.ErrCorrupt) || n > lookAhead {
			break
		}
		if err != nil {
			return -1, nil, err
		}
		if !chunk.Flagged && !chunk.IsHeader && bytes.Equal(chunk.Payload, stored) {
			return chunk.Offset, nil, nil
		}
		if at < 0 && f.e.isNode(chunk) {
			at, other = chunk.Offset, bytes.Clone(chunk.Payload)
		}
	}
	return at, other, nil
}

// between stores a chunk that stands between nodes: of an attachment that
// somebody uploads meanwhile.
func (f *finder) between(c couchfile.Chunk) error {
	f.chunks++
	f.tell(nodeBehind)
	step := f.e.plainStep(nil, c)
	f.told = append(f.told, step...)
	f.e.read(step)
	kind, err := f.e.in.number("step")
	if err != nil {
		return err
	}
	return f.e.m.chunk(kind)
}
