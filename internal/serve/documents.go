package serve

import (
	"iter"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
)

// IDRange is a range of document ids in the order of their bytes, both ends included.
type IDRange struct {
	From, To   string
	Open       bool // To is the end of all
	Descending bool // from To down
	Deleted    bool // deleted documents, too
}

// Row is a document in a list of those of several shards, and the shard that it is in.
type Row struct {
	Info *couchfile.DocInfo
	DB   *couchfile.DB
}

// Documents iterates over the documents of shards that are in a range, in the order of their ids. An error ends it.
func Documents(dbs []*couchfile.DB, rg IDRange) iter.Seq2[Row, error] {
	if len(dbs) == 1 {
		return documents(dbs[0], rg)
	}
	return func(yield func(Row, error) bool) {
		type head struct {
			row  Row
			next func() (Row, error, bool)
		}
		var heads []*head
		for _, db := range dbs {
			next, stop := iter.Pull2(documents(db, rg))
			defer stop()
			h := &head{next: next}
			var err error
			var ok bool
			if h.row, err, ok = next(); err != nil {
				yield(Row{}, err)
				return
			}
			if ok {
				heads = append(heads, h)
			}
		}
		for len(heads) > 0 {
			k := 0
			for i, h := range heads {
				if c := strings.Compare(h.row.Info.ID, heads[k].row.Info.ID); c < 0 && !rg.Descending || c > 0 && rg.Descending {
					k = i
				}
			}
			if !yield(heads[k].row, nil) {
				return
			}
			row, err, ok := heads[k].next()
			if err != nil {
				yield(Row{}, err)
				return
			}
			if heads[k].row = row; !ok {
				heads = slices.Delete(heads, k, k+1)
			}
		}
	}
}

// documents is Documents of one shard.
func documents(db *couchfile.DB, rg IDRange) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		o := couchfile.DocsOptions{Start: rg.From, Descending: rg.Descending, Deleted: rg.Deleted}
		if rg.Descending {
			if o.Start = rg.To; rg.Open {
				o.Start = ""
			}
		}
		for info, err := range db.Docs(o) {
			if err != nil {
				yield(Row{}, err)
				return
			}
			switch {
			case rg.Descending && !rg.Open && info.ID > rg.To: // the tree's iteration begins there or above
				continue
			case rg.Descending && info.ID < rg.From, !rg.Descending && !rg.Open && info.ID > rg.To:
				return
			}
			if !yield(Row{info, db}, nil) {
				return
			}
		}
	}
}
