package couchfile

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Info is what the server's info of a single shard says, as far as it is in
// the file.
type Info struct {
	DocCount     uint64 // without deleted ones
	DeletedCount uint64
	UpdateSeq    uint64
	PurgeSeq     uint64
	CompactedSeq uint64
	DiskVersion  int
	UUID         string
	FileSize     int64 // up to the end of the header that is open
	ActiveSize   int64 // documents, attachments and trees; -1 in old files that don't say
	ExternalSize int64 // documents as JSON and attachments decoded; -1 as above
}

// Info reads counts and sizes: from the header, and one path of the purge
// tree.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, get_size_info and
// get_purge_seq.
func (db *DB) Info() (Info, error) {
	h := &db.hdr
	info := Info{
		UpdateSeq: h.UpdateSeq, CompactedSeq: h.CompactedSeq, DiskVersion: h.DiskVersion,
		UUID: h.UUID, FileSize: h.End,
	}
	if !h.IDTree.Empty {
		c, sized, ok := parseCounts(h.IDTree.Reduction)
		if !ok {
			return info, corrupt(h.Offset, "id tree reduction", errShape)
		}
		info.DocCount, info.DeletedCount = c.Docs, c.Deleted
		info.ActiveSize, info.ExternalSize = int64(c.Sizes.Active), int64(c.Sizes.External)
		if !sized {
			info.ActiveSize, info.ExternalSize = -1, -1
		}
	}
	for _, root := range []TreeRoot{h.IDTree, h.SeqTree, h.LocalTree, h.PurgeTree, h.PurgeSeqTree} {
		if root.Size < 0 {
			info.ActiveSize = -1
		}
		if info.ActiveSize >= 0 {
			info.ActiveSize += root.Size
		}
	}
	var err error
	info.PurgeSeq, err = db.purgeSeq()
	return info, err
}

// purgeSeq is the largest key of the purge_seq tree.
func (db *DB) purgeSeq() (uint64, error) {
	for e, err := range db.PurgeSeqTree().all(newPathBudget(db.src), nil, true) {
		if err != nil {
			return 0, err
		}
		seq, _, ok := erlterm.Uint(e.Key)
		if !ok {
			return 0, corrupt(db.hdr.PurgeSeqTree.Offset, "purge_seq tree key", errShape)
		}
		return seq, nil
	}
	return db.hdr.OldPurgeSeq, nil
}

// Security returns the security object as JSON. A file that has none yet
// answers {}, where the server would use its configured default.
func (db *DB) Security() (json.RawMessage, error) {
	return db.object(db.hdr.SecurityPtr, "security")
}

// Props returns the database's properties as JSON: {} for most, partitioned
// and hash for a partitioned one, and any others that a later CouchDB keeps
// there, as far as they are JSON.
func (db *DB) Props() (json.RawMessage, error) {
	if db.hdr.PropsPtr < 0 {
		return json.RawMessage("{}"), nil
	}
	const what = "props"
	var inf inflater
	t, err := db.term(&inf, db.hdr.PropsPtr, what)
	if err != nil {
		return nil, err
	}
	b, ok := appendProps([]byte("{"), t)
	if !ok {
		return nil, corrupt(db.hdr.PropsPtr, what, errShape)
	}
	return append(b, '}'), nil
}

// appendProps appends the members of an object: the pairs of a list that are JSON. Only
// CouchDB's own code writes props, and what a later one will is not known.
func appendProps(dst []byte, t erlterm.Term) ([]byte, bool) {
	if len(t) == 1 && t[0] == erlterm.TagNil {
		return dst, true
	}
	start := len(dst)
	n, rest, ok := erlterm.List(t)
	for ; ok && n > 0; n-- {
		var key, value erlterm.Term
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			break
		}
		if key, rest, ok = erlterm.Next(rest); !ok {
			break
		}
		if value, rest, ok = erlterm.Next(rest); !ok {
			break
		}
		whole := dst
		if len(dst) > start {
			dst = append(dst, ',')
		}
		at := len(dst)
		var err1, err2 error
		if dst, err1 = erlterm.AppendJSON(dst, key); err1 == nil && dst[at] == '"' {
			dst, err2 = erlterm.AppendJSON(append(dst, ':'), value)
		}
		if err1 != nil || err2 != nil || dst[at] != '"' {
			dst = whole
		}
	}
	if !ok {
		return dst, false
	}
	rest, ok = erlterm.ListEnd(rest)
	return dst, ok && len(rest) == 0
}

// Partitioned says whether documents are placed by the part of their id in
// front of the colon.
func (db *DB) Partitioned() (bool, error) {
	b, err := db.Props()
	if err != nil {
		return false, err
	}
	var p struct {
		Partitioned bool `json:"partitioned"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return false, fmt.Errorf("props: %w", err)
	}
	return p.Partitioned, nil
}

// object reads the chunk at off, a list of pairs.
func (db *DB) object(off int64, what string) (json.RawMessage, error) {
	if off < 0 {
		return json.RawMessage("{}"), nil
	}
	var inf inflater
	t, err := db.term(&inf, off, what)
	if err != nil {
		return nil, err
	}
	b, err := erlterm.AppendObject(nil, t)
	if err != nil {
		return nil, corrupt(off, what, err)
	}
	return b, nil
}

// term reads the term in the chunk at off. It is valid as long as inf is left alone.
func (db *DB) term(inf *inflater, off int64, what string) (erlterm.Term, error) {
	r := chunkReader{src: db.src}
	c, err := r.readChecked(off, what)
	if err != nil {
		return nil, err
	}
	t, err := inf.term(c.payload)
	if err != nil {
		return nil, corrupt(off, what, err)
	}
	return t, nil
}

// LocalDoc is a local document: it has no history and is not replicated.
type LocalDoc struct {
	ID   string // with its prefix, _local/
	Rev  string // "0-N"
	body erlterm.Term
}

// JSON returns the document as the server's JSON.
func (d *LocalDoc) JSON() ([]byte, error) {
	dst := erlterm.AppendString([]byte(`{"_id":`), []byte(d.ID))
	dst = erlterm.AppendString(append(dst, `,"_rev":`...), []byte(d.Rev))
	dst, err := appendBody(dst, d.body)
	if err != nil {
		return nil, fmt.Errorf("local document %q: %w", d.ID, err)
	}
	return append(dst, '}'), nil
}

// LocalDocs iterates over the local documents in the order of their ids from
// start on, or from the first if start is empty.
func (db *DB) LocalDocs(start string) iter.Seq2[*LocalDoc, error] {
	var from *Key
	if start != "" {
		from = &Key{ID: start}
	}
	return func(yield func(*LocalDoc, error) bool) {
		for e, err := range db.LocalTree().All(from, false) {
			var d *LocalDoc
			if err == nil {
				d, err = db.localDoc(e)
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// LocalDoc returns one local document by its id with prefix, or ErrNotFound.
func (db *DB) LocalDoc(id string) (*LocalDoc, error) {
	for d, err := range db.LocalDocs(id) {
		if err != nil {
			return nil, err
		}
		if d.ID == id {
			return d, nil
		}
		break
	}
	return nil, fmt.Errorf("local document %q: %w", id, ErrNotFound)
}

// localDoc reads id => {rev, body}; old releases stored rev as text.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, local_tree_join.
func (db *DB) localDoc(e Entry) (*LocalDoc, error) {
	id, rev, body, ok := parseLocalEntry(e)
	if !ok {
		return nil, corrupt(db.hdr.LocalTree.Offset, "local document", errShape)
	}
	return &LocalDoc{ID: string(id), Rev: "0-" + rev, body: append(erlterm.Term(nil), body...)}, nil
}

func parseLocalEntry(e Entry) (id []byte, rev string, body erlterm.Term, ok bool) {
	id, _, ok1 := erlterm.Binary(e.Key)
	rest, ok2 := erlterm.TupleN(e.Value, 2)
	if !ok1 || !ok2 {
		return nil, "", nil, false
	}
	if n, after, ok := erlterm.Uint(rest); ok {
		return id, strconv.FormatUint(n, 10), after, true
	}
	b, after, ok := erlterm.Binary(rest)
	return id, string(b), after, ok
}

// Purge is one remembered purge.
type Purge struct {
	Seq   uint64
	UUID  string
	DocID string
	Revs  []Rev
}

// Purges iterates over the remembered purges behind the purge sequence since.
func (db *DB) Purges(since uint64) iter.Seq2[Purge, error] {
	return func(yield func(Purge, error) bool) {
		if since == ^uint64(0) {
			return
		}
		for e, err := range db.PurgeSeqTree().All(&Key{Seq: since + 1}, false) {
			var p Purge
			if err == nil {
				var ok bool
				if p, ok = parsePurge(e); !ok {
					err = corrupt(db.hdr.PurgeSeqTree.Offset, "purge", errShape)
				}
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// parsePurge reads purge seq => {uuid, doc id, [{pos, rev id}]}.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, purge_seq_tree_join.
func parsePurge(e Entry) (p Purge, ok bool) {
	var f [3]erlterm.Term
	n, ok := splitTuple(e.Value, f[:])
	if !ok || n != 3 {
		return p, false
	}
	var ok1, ok2, ok3, ok4 bool
	p.Seq, _, ok1 = erlterm.Uint(e.Key)
	p.UUID, ok2 = text(f[0])
	p.DocID, ok3 = text(f[1])
	p.Revs, ok4 = parseRevs(f[2])
	return p, ok1 && ok2 && ok3 && ok4
}

func parseRevs(list erlterm.Term) ([]Rev, bool) {
	n, rest, ok := erlterm.List(list)
	var revs []Rev
	for ; ok && n > 0; n-- {
		var r Rev
		var id []byte
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			break
		}
		if r.Pos, rest, ok = erlterm.Uint(rest); !ok {
			break
		}
		if id, rest, ok = erlterm.Binary(rest); ok {
			r.ID = string(id)
			revs = append(revs, r)
		}
	}
	return revs, ok
}
