package viewindex

import (
	"errors"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
)

// mapRow is a row in a shard.
type mapRow struct {
	key   key
	id    string
	value erlterm.Term
}

var errStop = errors.New("stop")

// rows gives out the rows of a shard, in their order.
func (r *reader) rows(yield func(mapRow) bool) error {
	if r.tree == nil {
		return nil
	}
	known := false // where the first row is
	for _, p := range r.parts() {
		before := uint64(0)
		err := r.tree.Walk(p, couchfile.Visitor{
			Passed: func(e couchfile.Entry) error {
				values, err := rowValues(e.Value)
				before += uint64(len(values))
				return err
			},
			PassedBelow: func(t erlterm.Term) error {
				red, err := parseReduction(t)
				before += red.rows
				return err
			},
			Visit: func(e couchfile.Entry) (bool, error) {
				k, id, err := parseRowKey(e.Key)
				if err != nil {
					return false, err
				}
				values, err := rowValues(e.Value)
				if err != nil {
					return false, err
				}
				for _, value := range values {
					if r.skip > 0 {
						r.skip--
						before++
						continue
					}
					if !known {
						known, r.offset = true, before
					}
					before++
					if !yield(mapRow{k, id, value}) {
						return false, errStop
					}
				}
				return true, r.ctx.Err()
			},
		})
		if err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
		if !known {
			r.offset = before
		}
	}
	return nil
}

// mapRows merges the rows of the shards.
func (v *View) mapRows(ans *Answer, readers []*reader, a *mrargs.Args) error {
	skip := a.Skip
	if a.Partition != "" { // there the shard skips
		for _, r := range readers {
			r.skip = skip
		}
		skip = 0
	}
	m := &mapMerge{view: v, args: a, ranks: map[string]int{}}
	for i, k := range keysOf(a) { // of a key that is asked for twice the last one counts
		m.keys = append(m.keys, v.bound(a, k))
		m.ranks[string(m.keys[i].term)] = i
	}
	for _, r := range readers {
		n, err := r.total()
		if err != nil {
			return err
		}
		ans.Total += n
		h := &mapHead{}
		var stop func()
		h.next, stop = pull(r.rows)
		m.stops = append(m.stops, stop)
		if err := m.advance(h); err != nil {
			m.stop()
			return err
		}
		ans.Offset += r.offset
		m.heads = append(m.heads, h)
	}
	ans.Offset = min(ans.Total, ans.Offset+uint64(skip))
	ans.Rows = func(yield func(Row, error) bool) {
		defer m.stop()
		if err := m.run(skip, yield); err != nil {
			yield(Row{}, err)
		}
	}
	return nil
}

// mapHead is the next row of a shard.
type mapHead struct {
	next func() (mapRow, error, bool)
	row  mapRow
	rank int // of its key among those that are asked for
	ok   bool
}

type mapMerge struct {
	view  *View
	args  *mrargs.Args
	keys  []key
	ranks map[string]int // of keys by their terms
	heads []*mapHead
	stops []func()
}

func (m *mapMerge) stop() {
	for _, stop := range m.stops {
		stop()
	}
}

// advance goes to the next row of a shard.
func (m *mapMerge) advance(h *mapHead) (err error) {
	for {
		if h.row, err, h.ok = h.next(); err != nil || !h.ok || m.args.Keys == nil {
			return err
		}
		var known bool
		if h.rank, known = m.ranks[string(h.row.key.term)]; known {
			return nil
		}
		if m.view.order.raw { // CouchDB finds 0 where 0.0 was asked for, and drops it
			continue
		}
		for i, k := range m.keys { // it may be equal to one that isn't the same
			c, err := m.view.order.keys(h.row.key, k)
			if err != nil {
				return err
			}
			if c == 0 {
				h.rank = i
				break
			}
		}
		m.ranks[string(h.row.key.term)] = h.rank
		return nil
	}
}

// less says that the row of a comes before that of b.
func (m *mapMerge) less(a, b *mapHead) (bool, error) {
	c, err := 0, error(nil)
	if m.args.Keys != nil {
		if a.rank != b.rank {
			return a.rank < b.rank, nil
		}
		c = strings.Compare(a.row.id, b.row.id)
	} else {
		c, err = m.view.order.rows(a.row.key, a.row.id, b.row.key, b.row.id)
	}
	if m.args.Descending {
		c = -c
	}
	return c < 0, err
}

func (m *mapMerge) run(skip int64, yield func(Row, error) bool) error {
	for left := m.args.Limit; left > 0; {
		h, err := m.least()
		if h == nil || err != nil {
			return err
		}
		if skip > 0 {
			skip--
		} else {
			row, err := m.row(h.row)
			if err != nil || !yield(row, nil) {
				return err
			}
			if left--; left == 0 {
				return nil
			}
		}
		if err := m.advance(h); err != nil {
			return err
		}
	}
	return nil
}

// least returns the shard whose row comes first, nil if there is none.
func (m *mapMerge) least() (least *mapHead, err error) {
	for _, h := range m.heads {
		if !h.ok {
			continue
		}
		if least == nil {
			least = h
			continue
		}
		less, err := m.less(h, least)
		if err != nil {
			return nil, err
		}
		if less {
			least = h
		}
	}
	return least, nil
}

// row is a row as it is given out.
func (m *mapMerge) row(r mapRow) (Row, error) {
	value, err := erlterm.AppendJSON(nil, r.value)
	out := Row{ID: r.id, Key: r.key.value, Value: value}
	if err != nil || !m.args.IncludeDocs {
		return out, err
	}
	out.Doc = &DocRef{ID: r.id}
	if t := r.value.Tag(); t != erlterm.TagSmallTuple && t != erlterm.TagLargeTuple {
		return out, nil
	}
	v, err := parseValue(r.value)
	if err != nil {
		return out, err
	}
	o, _ := v.(ejson.Object)
	if rev, ok := o.Get("_rev"); ok {
		out.Doc.Rev, _ = rev.(string)
	}
	if id, ok := o.Get("_id"); ok {
		out.Doc.Linked = true
		out.Doc.ID, ok = id.(string)
		out.Doc.None = !ok
	}
	return out, nil
}
