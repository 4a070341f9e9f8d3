package mango

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Cursor answers one _find. Who has the documents gives them one by one, from the first one of Scan on, with those of designs, until More says that no
// more are wanted:
//
//	c, err := options.Find(false)
//	for each document of c.Scan, in its order {
//		if row, ok, err := c.Row(id, doc); ok { print row }
//		if !c.More() { break }
//	}
//	print the members of c.End(time.Since(start))
type Cursor struct {
	Scan    Scan
	options *Options

	skipRows     int // of those that a bookmark's scan finds
	limit, skip  int64
	last         string // id of the last document that counts for the bookmark
	hasLast      bool
	done         bool
	keys, docs   int64 // not yet told
	examinedKeys int64
	examinedDocs int64
	quorumDocs   int64
	results      int64
}

// ScanWarning is from how many documents a result on that a warning is given.
const ScanWarning = 10

// Find begins a _find in a database without indexes of its own. Its errors are of type *Error.
func (o *Options) Find(partitioned bool) (*Cursor, error) {
	if o.unusable() != "" {
		kind := "No index"
		if partitioned && o.Partition != "" {
			kind = "No partitioned index"
		} else if partitioned {
			kind = "No global index"
		}
		return nil, bad("no_usable_index", "%s exists for this sort, try indexing by the sort fields.", kind)
	}
	if err := o.withoutFallback(); err != nil {
		return nil, err
	}
	s, err := o.scan()
	if err != nil {
		return nil, err
	}
	c := &Cursor{Scan: s, options: o, limit: o.Limit, skip: o.Skip, done: s.Empty}
	if s.Empty {
		return c, nil
	}
	if o.Bookmark != "" {
		if c.Scan.Start, err = decodeBookmark(o.Bookmark); err != nil {
			return nil, err
		}
		c.skipRows = 1
	}
	if o.Partition != "" {
		if !partitioned {
			return nil, bad("query_parse_error", "`partition` parameter is not supported on this db")
		}
		c.Scan = c.Scan.within(o.Partition)
	}
	return c, nil
}

// More says whether another document is wanted.
func (c *Cursor) More() bool { return !c.done }

// Row takes the next document, with its _id, _rev and, if Options.Conflicts says so, _conflicts. ok says that it is a result: then row is what is printed of it.
func (c *Cursor) Row(id string, doc ejson.Value) (row ejson.Value, ok bool, err error) {
	if c.done {
		return nil, false, nil
	}
	quorum := c.options.R > 1
	c.keys++
	if !quorum {
		c.docs++
		if ok, err = c.options.Selector.Match(doc); err != nil || !ok {
			return nil, false, err
		}
		if row, err = c.options.Fields.Of(doc); err != nil {
			return nil, false, err
		}
	}
	keys, docs := c.keys, c.docs
	c.keys, c.docs = 0, 0
	if c.skipRows > 0 {
		c.skipRows--
		return nil, false, nil
	}
	if strings.HasPrefix(id, "_design/") {
		return nil, false, nil
	}
	c.examinedKeys += keys
	c.examinedDocs += docs
	if quorum {
		c.quorumDocs++
		if ok, err = c.options.Selector.Match(doc); err != nil || !ok {
			return nil, false, err
		}
		row = doc
	}
	// What a shard made of the document goes through the fields once more.
	if row, err = c.options.Fields.Of(row); err != nil {
		return nil, false, err
	}
	if c.limit > 0 {
		c.last, c.hasLast = id, true
	}
	switch {
	case c.skip > 0:
		c.skip--
		return nil, false, nil
	case c.limit > 0:
		c.limit--
		c.results++
		return row, true, nil
	}
	c.done = true
	return nil, false, nil
}

// End returns the members that stand behind the documents: the bookmark, what was examined in how much time, and warnings. What was not
// looked at to the end of the scan is not among it, just as CouchDB leaves out what a shard did after its last row. The numbers are those of a database of one
// shard; with several, CouchDB's own depend on which of them was how far.
func (c *Cursor) End(took time.Duration) ejson.Object {
	if c.Scan.Empty {
		return ejson.Object{}
	}
	if !c.done {
		c.done = true
		c.examinedKeys += c.keys
		c.examinedDocs += c.docs
	}
	bookmark := c.options.bookmark()
	if c.hasLast {
		bookmark = encodeBookmark(c.last)
	}
	out := ejson.Object{member("bookmark", bookmark)}
	if c.options.ExecutionStats {
		out = append(out, member("execution_stats", ejson.Object{
			member("total_keys_examined", ejson.Int(c.examinedKeys)), member("total_docs_examined", ejson.Int(c.examinedDocs)),
			member("total_quorum_docs_examined", ejson.Int(c.quorumDocs)), member("results_returned", ejson.Int(c.results)),
			member("execution_time_ms", ejson.Float(math.Round(float64(took.Microseconds()))/1000)),
		}))
	}
	return append(out, member("warning", strings.Join(c.warnings(), "\n")))
}

func (c *Cursor) warnings() []string {
	var out []string
	switch name := c.options.UseIndex; len(name) {
	case 0:
	case 1:
		out = append(out, fmt.Sprintf("_design/%s was not used because it does not contain a valid index for this query.", ddocName(name[0])))
	default:
		out = append(out, fmt.Sprintf("_design/%s, %s was not used because it is not a valid index for this query.", ddocName(name[0]), name[1]))
	}
	out = append(out, "No matching index found, create an index to optimize query time.")
	if c.examinedDocs+c.quorumDocs > ScanWarning*max(1, c.results) {
		out = append(out, "The number of documents examined is high in proportion to the number of results returned. "+
			"Consider adding a more specific index to improve this.")
	}
	return out
}
