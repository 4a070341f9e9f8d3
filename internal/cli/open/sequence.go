package open

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/sequence"
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
	return unpackSeq(c, seq)
}

// unpackSeq takes the numbers of shards out of a sequence as CouchDB shows it.
func unpackSeq(c *repo.Commit, text string) error {
	list, err := sequence.Unpack(text)
	if err != nil {
		return fmt.Errorf("that is %w: name a number for each shard, as DB/RANGE=N", err)
	}
	for _, x := range list {
		if was, twice := c.Seqs[x.Range]; twice && c.UUIDs[x.Range] != x.UUID {
			return fmt.Errorf("it has two copies of shard %s: name the number of this node's, as DB/RANGE=N", x.Range)
		} else if !twice || x.Seq > was {
			c.Seqs[x.Range], c.UUIDs[x.Range] = x.Seq, x.UUID
		}
	}
	return nil
}
