package couchfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// recordDigest hashes a document record the same way for both trees: from its
// id, its sequence, and the bytes that both entries end with.
func recordDigest(id []byte, seq uint64, tail []byte) digest {
	h := xxh3.Hash128(tail)
	k := xxh3.HashSeed(id, seq)
	return digest{h.Hi ^ k, h.Lo + k*0x9E3779B97F4A7C15}
}

// idEntry verifies an entry of the id tree. Bodies are read with the seq
// tree, which has them in the order of the file.
func (v *verifier) idEntry(off int64, e Entry) (reduction, digest, bool) {
	d, ok := parseIDEntry(e)
	if !ok {
		return reduction{}, digest{}, false
	}
	return reduction{d.counts(), d.sized}, recordDigest(d.id, d.seq, d.raw), true
}

// seqEntry verifies an entry of the seq tree, and the document's bodies.
func (v *verifier) seqEntry(off int64, e Entry) (reduction, digest, bool) {
	d, ok := parseSeqEntry(e)
	if !ok {
		return reduction{}, digest{}, false
	}
	revs, rest, ok := v.revs.parse(d.revs)
	if !ok || len(rest) != 0 {
		v.find(Finding{Offset: off, What: "revision tree: " + errShape.Error(), Doc: v.name(d.id), Err: errShape})
		return reduction{Counts: Counts{Docs: 1}}, digest{}, false
	}
	v.winner(off, &d, revs)
	if v.sampled(d.id) {
		for i := 0; i < len(revs) && v.err == nil && !v.spent; i++ { // reading asks the context
			v.revision(off, d.id, &revs[i])
		}
	}
	return reduction{Counts: Counts{Docs: 1}}, recordDigest(d.id, d.seq, d.raw), true
}

// winner checks that no document is told to be deleted that isn't; see leavesDeleted for the
// other way.
func (v *verifier) winner(off int64, d *docEntry, revs []rawRev) {
	if d.deleted && !leavesDeleted(revs) {
		v.find(Finding{Offset: off, What: "deleted is true, want false", Doc: v.name(d.id)})
	}
}

// sampled picks the share of the documents whose bodies are read.
func (v *verifier) sampled(id []byte) bool {
	if v.opts.Sample <= 0 || v.opts.Sample >= 1 {
		return true
	}
	return float64(xxh3.Hash(id)) < v.opts.Sample*math.MaxUint64
}

// revision verifies the summary of one revision, and its attachments.
func (v *verifier) revision(off int64, id []byte, r *rawRev) {
	if !r.Stored {
		if r.Leaf {
			v.find(Finding{Offset: off, What: "leaf revision without a body", Doc: v.name(id), Rev: v.revName(r)})
		}
		return
	}
	if v.bodies != nil {
		if v.bodies[r.Ptr] {
			return
		}
		v.bodies[r.Ptr] = true
	}
	v.report.Bodies++
	c, err := v.body.chunks.readChecked(r.Ptr, "doc summary")
	if err != nil {
		v.findErr(err, Finding{Doc: v.name(id), Rev: v.revName(r)})
		return
	}
	v.took(&v.docs, &c, "doc summary")
	if what := v.summary(&c, r); what != "" {
		v.find(Finding{Offset: c.off, What: what, Doc: v.name(id), Rev: v.revName(r)})
		return
	}
	s, err := v.body.decode(c)
	if err == nil && !isObject(s.body) {
		err = corrupt(c.off, "doc body", errShape)
	}
	if err != nil {
		v.findErr(err, Finding{Doc: v.name(id), Rev: v.revName(r)})
		return
	}
	for i := range s.atts {
		v.attachment(&s.atts[i], id, r)
	}
}

// summary checks the chunk itself. The size in a leaf's record is the
// chunk's, but in records that old releases wrote.
func (v *verifier) summary(c *chunk, r *rawRev) string {
	if !c.flagged {
		return "doc summary without a checksum"
	}
	if r.Leaf && r.modern && r.Sizes.Active != uint64(c.raw()) {
		return fmt.Sprintf("doc summary takes %d bytes, the record says %d", c.raw(), r.Sizes.Active)
	}
	return ""
}

// isObject says that t is a whole term that looks like a JSON object.
func isObject(t erlterm.Term) bool {
	n, ok := erlterm.Size(t)
	if !ok || n != len(t) {
		return false
	}
	rest, ok := erlterm.TupleN(t, 1)
	return ok && (rest[0] == erlterm.TagList || rest[0] == erlterm.TagNil)
}

// attachment reads an attachment once, however many revisions share it.
func (v *verifier) attachment(a *Attachment, id []byte, r *rawRev) {
	if v.opts.SkipAttachments || v.stopped() {
		return
	}
	key := xxh3.Hash128(append(append([]byte(nil), a.stream...), a.MD5...))
	if v.attOK[[2]uint64{key.Hi, key.Lo}] {
		return
	}
	v.attOK[[2]uint64{key.Hi, key.Lo}] = true
	v.report.Attachments++
	if v.att == nil {
		v.att = newAttReader(v.budget, a)
		v.att.onPart = func(c chunk) { v.took(&v.docs, &c, "attachment chunk") }
	}
	v.att.reset(a)
	for {
		_, err := v.att.next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			v.findErr(err, Finding{Offset: r.Ptr, What: "attachment " + strconv.Quote(shorten(a.Name)) + ": ", Doc: v.name(id), Rev: v.revName(r)})
			return
		}
	}
}

// localEntry verifies a local document, as far as decoding shows.
func (v *verifier) localEntry(off int64, e Entry) (reduction, digest, bool) {
	id, _, body, ok := parseLocalEntry(e)
	if !ok {
		return reduction{}, digest{}, false
	}
	if !isObject(body) {
		v.find(Finding{Offset: off, What: "local document: " + errShape.Error(), Doc: v.name(id), Err: errShape})
	}
	return reduction{}, digest{}, true
}

// purgeEntry verifies uuid => {purge seq, doc id, revs}.
func (v *verifier) purgeEntry(off int64, e Entry) (reduction, digest, bool) {
	uuid, _, ok1 := erlterm.Binary(e.Key)
	rest, ok2 := erlterm.TupleN(e.Value, 3)
	if !ok1 || !ok2 {
		return reduction{}, digest{}, false
	}
	seq, rest, ok := erlterm.Uint(rest)
	return reduction{Counts: Counts{Docs: 1}}, recordDigest(uuid, seq, rest), ok
}

// purgeSeqEntry verifies purge seq => {uuid, doc id, revs}.
func (v *verifier) purgeSeqEntry(off int64, e Entry) (reduction, digest, bool) {
	seq, _, ok1 := erlterm.Uint(e.Key)
	rest, ok2 := erlterm.TupleN(e.Value, 3)
	if !ok1 || !ok2 {
		return reduction{}, digest{}, false
	}
	uuid, rest, ok := erlterm.Binary(rest)
	return reduction{Counts: Counts{Docs: 1}}, recordDigest(uuid, seq, rest), ok
}

// sameRecords checks that the id and seq trees hold the same records. If the
// sums of their hashes differ, it looks for the records that do.
func (v *verifier) sameRecords(h Header, id, seq subtree) {
	if !id.ok || !seq.ok || id.sum == seq.sum || v.stopped() {
		return
	}
	db := &DB{src: v.src, hdr: h}
	want := map[string]digest{}
	for e, err := range db.IDTree().all(v.again, nil, false) {
		if err != nil {
			v.findErr(err, Finding{})
			return
		}
		if d, ok := parseIDEntry(e); ok {
			want[string(d.id)] = v.meaning(&d)
		}
	}
	for e, err := range db.SeqTree().all(v.again, nil, false) {
		if err != nil {
			v.findErr(err, Finding{})
			return
		}
		d, ok := parseSeqEntry(e)
		if !ok {
			continue
		}
		got, known := want[string(d.id)]
		if !known || got != v.meaning(&d) {
			v.find(Finding{Offset: h.SeqTree.Offset, What: "seq tree and id tree have different records", Doc: v.name(d.id)})
		}
		delete(want, string(d.id))
	}
	for doc := range want {
		v.find(Finding{Offset: h.IDTree.Offset, What: "document is missing from the seq tree", Doc: doc})
	}
}

// meaning hashes a record by what it says, so that records in the encodings
// of different releases are equal.
func (v *verifier) meaning(d *docEntry) digest {
	var b []byte
	put := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	flag := func(set bool) {
		if set {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	flag(d.deleted)
	revs, _, ok := v.revs.parse(d.revs)
	flag(ok)
	for i := range revs {
		r := &revs[i]
		put(r.pos)
		put(uint64(len(r.id)))
		b = append(b, r.id...)
		put(uint64(r.Parent + 1))
		flag(r.Stored)
		flag(r.Deleted)
		put(uint64(r.Ptr))
		put(r.Seq)
	}
	return recordDigest(d.id, d.seq, b)
}
