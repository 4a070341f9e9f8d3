package viewindex

import (
	"bytes"
	"iter"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
)

// reduced is a group of rows in a shard.
type reduced struct {
	key   key // as it is given out
	value erlterm.Term
}

// groups gives out the groups of a shard.
func (r *reader) groups(yield func(reduced) bool) error {
	if r.tree == nil {
		return nil
	}
	level := *r.args.GroupLevel
	for _, p := range r.parts() {
		stopped := false
		err := r.tree.Groups(p, r.view.order.grouped(level), func(g couchfile.Group) (bool, error) {
			k, _, err := parseRowKey(g.Key)
			if err != nil {
				return false, err
			}
			value, err := r.reduce(g)
			if err != nil {
				return false, err
			}
			if level == 0 {
				k.value = nil
			} else if list, ok := k.value.(ejson.Array); ok && level > 0 {
				k.value = list[:min(level, len(list))]
			}
			stopped = !yield(reduced{newKey(k.value), value})
			return !stopped, r.ctx.Err()
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// reduce is the reduction of a group.
//
// Source: CouchDB 3.5, src/couch/src/couch_btree.erl, final_reduce.
func (r *reader) reduce(g couchfile.Group) (erlterm.Term, error) {
	f := r.view.function
	var values []erlterm.Term // turned around as the server does
	if len(g.Entries) > 0 {
		rows, err := reduceRows(g.Entries)
		if err != nil {
			return nil, err
		}
		v, err := f.reduce(rows)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	for _, t := range g.Reductions {
		red, err := parseReduction(t)
		if err != nil {
			return nil, err
		}
		if len(red.values) != len(r.view.tree.reduces) {
			return nil, errReduction
		}
		values = append(values, red.values[r.view.nth])
	}
	if len(values) == 1 {
		return values[0], nil
	}
	slices.Reverse(values)
	return f.rereduce(values)
}

// reduceRows are the rows of entries.
func reduceRows(entries []couchfile.Entry) (rows []reduceRow, err error) {
	for _, e := range entries {
		k, id, err := splitRowKey(e.Key)
		if err != nil {
			return nil, err
		}
		values, err := rowValues(e.Value)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			rows = append(rows, reduceRow{couchfile.Entry{Key: e.Key, Value: v}, k, id})
		}
	}
	return rows, nil
}

// reduceHead is the next group of a shard.
type reduceHead struct {
	next  func() (reduced, error, bool)
	group reduced
	ok    bool
}

func (h *reduceHead) advance() (err error) {
	h.group, err, h.ok = h.next()
	return err
}

// reduceRows merges the groups of the shards.
func (v *View) reduceRows(readers []*reader, a *mrargs.Args) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		m := &reduceMerge{view: v, args: a}
		for _, r := range readers {
			h := &reduceHead{}
			var stop func()
			h.next, stop = pull(r.groups)
			defer stop()
			m.heads = append(m.heads, h)
		}
		if err := m.run(yield); err != nil {
			yield(Row{}, err)
		}
	}
}

type reduceMerge struct {
	view  *View
	args  *mrargs.Args
	heads []*reduceHead
}

func (m *reduceMerge) run(yield func(Row, error) bool) error {
	if m.args.Limit == 0 {
		return nil
	}
	for _, h := range m.heads {
		if err := h.advance(); err != nil {
			return err
		}
	}
	keys := m.args.Keys
	if keys != nil && m.view.partitioned { // CouchDB asks for them with their partition, and rows come without
		keys = ejson.Array{}
	}
	skip, left := m.args.Skip, m.args.Limit
	for left > 0 {
		var k key
		if keys != nil {
			if len(keys) == 0 {
				return nil
			}
			k, keys = newKey(keys[0]), keys[1:]
		} else {
			h, err := m.least()
			if h == nil || err != nil {
				return err
			}
			k = h.group.key
		}
		value, err := m.take(k)
		if err != nil {
			return err
		}
		switch {
		case value == nil:
			continue
		case skip > 0:
			skip--
			continue
		}
		text, err := m.view.function.append(nil, value)
		if err != nil {
			return err
		}
		if !yield(Row{Key: k.value, Value: text}, nil) {
			return nil
		}
		left--
	}
	return nil
}

// least returns the shard whose group comes first, nil if there is none.
func (m *reduceMerge) least() (least *reduceHead, err error) {
	for _, h := range m.heads {
		if !h.ok {
			continue
		}
		if least == nil {
			least = h
			continue
		}
		c, err := m.view.order.keys(h.group.key, least.group.key)
		if err != nil {
			return nil, err
		}
		if m.args.Descending {
			c = -c
		}
		if c < 0 {
			least = h
		}
	}
	return least, nil
}

// take reduces the groups of a key, and goes on with the shards that had one. It returns nil if there is none.
func (m *reduceMerge) take(k key) (erlterm.Term, error) {
	var values []erlterm.Term
	for _, h := range m.heads {
		if !h.ok {
			continue
		}
		c, err := m.view.order.keys(h.group.key, k)
		if err != nil {
			return nil, err
		}
		if c != 0 {
			continue
		}
		if m.view.order.raw && !bytes.Equal(h.group.key.term, k.term) { // such as 0 and 0.0
			if m.args.Keys == nil {
				continue
			}
		} else {
			values = append(values, h.group.value)
		}
		if err := h.advance(); err != nil {
			return nil, err
		}
	}
	if values == nil {
		return nil, nil
	}
	slices.Reverse(values)
	return m.view.function.rereduce(values)
}
