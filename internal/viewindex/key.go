package viewindex

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/collate"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
)

// key is a key of a view.
type key struct {
	parted    bool // it is in a partition
	partition string
	value     ejson.Value
	term      erlterm.Term // with the partition
}

func newKey(v ejson.Value) key { return key{value: v, term: putValue(nil, v)} }

// parseKey reads a key as it is stored: in a partition it is {p, partition, key}.
func parseKey(t erlterm.Term) (k key, err error) {
	k.term = t
	if rest, ok := erlterm.TupleN(t, 3); ok && erlterm.IsAtom(rest, "p") {
		_, rest, _ = erlterm.Next(rest)
		p, rest, ok := erlterm.Binary(rest)
		if !ok {
			return k, errKey
		}
		k.parted, k.partition, t = true, string(p), rest
	}
	k.value, err = parseValue(t)
	return k, err
}

// parseRowKey reads the key of an entry.
func parseRowKey(t erlterm.Term) (k key, id string, err error) {
	stored, id, err := splitRowKey(t)
	if err != nil {
		return k, "", err
	}
	k, err = parseKey(stored)
	return k, id, err
}

// splitRowKey is what the key of an entry consists of: {key, document id}.
func splitRowKey(t erlterm.Term) (k erlterm.Term, id string, err error) {
	rest, ok := erlterm.TupleN(t, 2)
	k, rest, ok2 := erlterm.Next(rest)
	doc, _, ok3 := erlterm.Binary(rest)
	if !ok || !ok2 || !ok3 {
		return nil, "", errKey
	}
	return k, string(doc), nil
}

// order is how a view's keys are ordered.
type order struct {
	raw bool // as Erlang orders terms
}

// keys compares keys.
func (o order) keys(a, b key) (int, error) {
	if bytes.Equal(a.term, b.term) {
		return 0, nil
	}
	if o.raw {
		return o.terms(a.term, b.term)
	}
	if a.parted != b.parted {
		return 0, errKey
	}
	if a.partition != b.partition {
		if c := collate.Compare(a.partition, b.partition); c != 0 {
			return c, nil
		}
	}
	return values(a.value, b.value), nil
}

// values compares keys within a partition.
func values(a, b ejson.Value) int {
	if a == mrargs.Highest || b == mrargs.Highest {
		return cmp.Compare(b2i(a == mrargs.Highest), b2i(b == mrargs.Highest))
	}
	return collate.Compare(a, b)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (o order) terms(a, b erlterm.Term) (int, error) {
	c, ok := erlterm.Compare(a, b)
	if !ok {
		return 0, fmt.Errorf("raw %w", errKey)
	}
	return c, nil
}

// rows compares rows: by their keys, and those of one key by their documents.
func (o order) rows(a key, aID string, b key, bID string) (int, error) {
	c, err := o.keys(a, b)
	if c == 0 && err == nil {
		c = strings.Compare(aID, bID)
	}
	return c, err
}

// bound compares stored keys with a row that may not be there.
func (o order) bound(b key, id string) func(erlterm.Term) (int, error) {
	return func(t erlterm.Term) (int, error) {
		k, doc, err := parseRowKey(t)
		if err != nil {
			return 0, err
		}
		return o.rows(k, doc, b, id)
	}
}

// grouped says that rows of two stored keys are in one group of a level.
func (o order) grouped(level int) func(a, b erlterm.Term) (bool, error) {
	if level == 0 {
		return func(_, _ erlterm.Term) (bool, error) { return true, nil }
	}
	return func(a, b erlterm.Term) (bool, error) {
		if bytes.Equal(a, b) {
			return true, nil
		}
		x, _, err := parseRowKey(a)
		if err != nil {
			return false, err
		}
		y, _, err := parseRowKey(b)
		if err != nil {
			return false, err
		}
		if level > 0 && x.partition == y.partition {
			p, ok1 := x.value.(ejson.Array)
			q, ok2 := y.value.(ejson.Array)
			if ok1 && ok2 && len(p) > 0 && len(q) > 0 {
				x, y = newKey(p[:min(level, len(p))]), newKey(q[:min(level, len(q))])
			}
		}
		c, err := o.keys(x, y)
		return c == 0, err
	}
}

var errReduction = fmt.Errorf("reduction of a view: %w", couchfile.ErrCorrupt)

// reduction is what a pointer says of the rows below it.
type reduction struct {
	rows   uint64
	values []erlterm.Term // of the reduce functions
	size   uint64         // bytes of keys and values; 0 in old files
}

func parseReduction(t erlterm.Term) (r reduction, err error) {
	parts, ok := erlterm.Elements(t)
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return r, errReduction
	}
	var ok1, ok2 bool
	r.rows, _, ok1 = erlterm.Uint(parts[0])
	r.values, ok2 = erlterm.Elements(parts[1])
	if !ok1 || !ok2 {
		return r, errReduction
	}
	if len(parts) == 3 {
		r.size, _, _ = erlterm.Uint(parts[2])
	}
	return r, nil
}

// rowValues are the values of an entry: one, or those of several rows with one key.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, expand_dups.
func rowValues(t erlterm.Term) ([]erlterm.Term, error) {
	rest, ok := erlterm.TupleN(t, 2)
	if !ok || !erlterm.IsAtom(rest, "dups") {
		return []erlterm.Term{t}, nil
	}
	_, list, _ := erlterm.Next(rest)
	rows, ok := erlterm.Elements(list)
	if !ok {
		return nil, fmt.Errorf("rows of one key: %w", couchfile.ErrCorrupt)
	}
	slices.Reverse(rows)
	return rows, nil
}
