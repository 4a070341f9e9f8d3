package open

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// commit reads what --at-seq or --before-change say, nil if neither is given.
func (w *When) commit() (*repo.Commit, error) {
	switch {
	case len(w.AtSeq) > 0 && w.BeforeChange != "":
		return nil, core.Usage("--at-seq and --before-change don't go together")
	case w.BeforeChange != "":
		db, doc, ok := cutDoc(w.BeforeChange)
		if !ok {
			return nil, core.Usage("--before-change %s: write DB/DOC, the database and the id of the document", w.BeforeChange)
		}
		return &repo.Commit{DB: db, Doc: doc}, nil
	case len(w.AtSeq) == 0:
		return nil, nil
	}
	c := &repo.Commit{Seqs: map[shard.Range]uint64{}, UUIDs: map[shard.Range]string{}}
	for _, text := range w.AtSeq {
		if err := addSeq(c, text); err != nil {
			return nil, core.Usage("--at-seq %s: %v", text, err)
		}
	}
	return c, nil
}

// cutDoc parts a database from a document's id, which both may have slashes in them: local and design documents' ids
// begin with a part of their own, and a database whose name has slashes is written with %2F in it, as in CouchDB's URLs.
func cutDoc(text string) (db, doc string, ok bool) {
	db, doc, ok = strings.Cut(text, "/")
	db = strings.NewReplacer("%2F", "/", "%2f", "/", "%2B", "+", "%2b", "+").Replace(db)
	return db, doc, ok && db != "" && doc != ""
}

// addSeq adds a sequence of a database: DB=N, DB/RANGE=N, or DB=N-… as CouchDB shows it.
func addSeq(c *repo.Commit, text string) error {
	i := strings.LastIndex(text, "=")
	if i <= 0 {
		return errors.New("write DB=N, DB/RANGE=N, or DB=SEQUENCE as CouchDB shows it")
	}
	db, seq := text[:i], strings.Trim(text[i+1:], `"`)
	rg := shard.Range{}
	if k := strings.LastIndex(db, "/"); k > 0 {
		if r, err := shard.ParseRange(db[k+1:]); err == nil {
			db, rg = db[:k], r
		}
	}
	if c.DB != "" && c.DB != db {
		return fmt.Errorf("it is of another database than %s: only one at a time can be had", c.DB)
	}
	c.DB = db
	if n, err := strconv.ParseUint(seq, 10, 64); err == nil {
		c.Seqs[rg] = n
		return nil
	}
	if rg != (shard.Range{}) {
		return errors.New("a shard's sequence is a number")
	}
	_, packed, _ := strings.Cut(seq, "-")
	return unpackSeq(c, packed)
}

// maxSeqTerm bounds what a sequence has inflated, in bytes: 100 or so for each shard.
const maxSeqTerm = 1 << 20

// unpackSeq reads what CouchDB packs into the sequences of a database: for each shard the number in
// one of its copies, with the beginning of that copy's uuid.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_view_changes.erl, pack_seqs and
// unpack_seq_decode_term.
func unpackSeq(c *repo.Commit, packed string) error {
	bad := errors.New("that is no sequence of a CouchDB 2 or 3: name a number for each shard, as DB/RANGE=N")
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(packed, "="))
	if err != nil {
		return bad
	}
	if len(b) > 6 && b[0] == erlterm.Version && b[1] == 80 { // compressed
		z, err := zlib.NewReader(bytes.NewReader(b[6:]))
		if err != nil {
			return bad
		}
		if b, err = io.ReadAll(io.LimitReader(z, maxSeqTerm)); err != nil {
			return bad
		}
		b = append([]byte{erlterm.Version}, b...)
	}
	t, err := erlterm.Parse(b)
	if err != nil {
		return bad
	}
	list, ok := erlterm.Elements(t)
	if !ok || len(list) == 0 {
		return bad
	}
	for _, x := range list {
		rg, n, id, ok := shardSeq(x)
		if !ok {
			return bad
		}
		if was, twice := c.Seqs[rg]; twice && c.UUIDs[rg] != id {
			return fmt.Errorf("it has two copies of shard %s: name the number of this node's, as DB/RANGE=N", rg)
		} else if !twice || n > was {
			c.Seqs[rg], c.UUIDs[rg] = n, id
		}
	}
	return nil
}

// shardSeq reads {Node, [Begin, End], Seq}, where Seq is a number, {N, UUID} or {N, UUID, Node}.
func shardSeq(t erlterm.Term) (rg shard.Range, n uint64, id string, ok bool) {
	parts, ok := tupleOf(t)
	if !ok || len(parts) != 3 {
		return rg, 0, "", false
	}
	ends, ok := erlterm.Elements(parts[1])
	if !ok || len(ends) != 2 {
		return rg, 0, "", false
	}
	begin, _, ok1 := erlterm.Uint(ends[0])
	end, _, ok2 := erlterm.Uint(ends[1])
	if !ok1 || !ok2 || begin > end || end > 1<<32-1 {
		return rg, 0, "", false
	}
	rg = shard.Range{Begin: uint32(begin), End: uint32(end)}
	if n, _, ok = erlterm.Uint(parts[2]); ok {
		return rg, n, "", true
	}
	seq, ok := tupleOf(parts[2])
	if !ok || len(seq) < 2 {
		return rg, 0, "", false
	}
	n, _, ok1 = erlterm.Uint(seq[0])
	uuid, _, ok2 := erlterm.Binary(seq[1])
	return rg, n, string(uuid), ok1 && ok2
}

func tupleOf(t erlterm.Term) (out []erlterm.Term, ok bool) {
	n, rest, ok := erlterm.Tuple(t)
	for range n {
		var x erlterm.Term
		if x, rest, ok = erlterm.Next(rest); !ok {
			return nil, false
		}
		out = append(out, x)
	}
	return out, ok
}
