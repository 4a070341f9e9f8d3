package couchwriter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ViewReduce is the Reducer of a view's tree: {rows, values of the reduce
// functions, bytes of keys and values as terms}. functions are the reduce
// functions of the view in the order of the index; those of the server are
// _count, _sum and _stats. Any other reduces to ErrUnpredicted.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, make_reduce_fun.
func ViewReduce(functions []string) Reducer { return viewReduce{functions: functions} }

// ToldReduce in place of a reduce function says that its values are told.
const ToldReduce = ""

// ViewReduceTold is ViewReduce, where told is called for the value of each function
// that is ToldReduce, node by node as they are written.
func ViewReduceTold(functions []string, told func(function int) (erlterm.Term, error)) Reducer {
	return viewReduce{functions, told}
}

type viewReduce struct {
	functions []string
	told      func(function int) (erlterm.Term, error)
}

// value is that of a function of a node.
func (r viewReduce) value(i int, of func(valueReduce) (erlterm.Term, error)) (erlterm.Term, error) {
	name := r.functions[i]
	if name == ToldReduce && r.told != nil {
		return r.told(i)
	}
	fn, err := builtin(name)
	if err != nil {
		return nil, err
	}
	return of(fn)
}

func (r viewReduce) Reduce(dst []byte, entries []couchfile.Entry) ([]byte, error) {
	rows, size, err := viewRows(entries)
	if err != nil {
		return dst, err
	}
	values := make([]erlterm.Term, len(r.functions))
	for i, name := range r.functions {
		values[i], err = r.value(i, func(fn valueReduce) (erlterm.Term, error) { return fn.reduce(rows) })
		if err != nil {
			return dst, fmt.Errorf("reduce by %s: %w", name, err)
		}
	}
	list := erlterm.PutList(nil, values)
	dst = erlterm.PutInt(erlterm.PutTuple(dst, 3), int64(len(rows)))
	dst = append(dst, list...)
	return erlterm.PutInt(dst, int64(size+1+len(list))), nil
}

// viewRows are the values of the rows in a leaf, those of equal keys expanded,
// and what erlang:external_size says of all keys and values.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, expand_dups,
// detuple_kvs and kv_external_size.
func viewRows(entries []couchfile.Entry) (values []erlterm.Term, size int, err error) {
	for _, e := range entries {
		rest, ok := erlterm.TupleN(e.Key, 2) // {key, document id}
		n, ok2 := erlterm.Size(rest)
		if !ok || !ok2 {
			return nil, 0, fmt.Errorf("key of a view: %w", ErrUnpredicted)
		}
		rows := []erlterm.Term{e.Value}
		if rest, ok := erlterm.TupleN(e.Value, 2); ok && erlterm.IsAtom(rest, "dups") {
			_, list, _ := erlterm.Next(rest)
			if rows, ok = erlterm.Elements(list); !ok {
				return nil, 0, fmt.Errorf("rows of equal keys: %w", ErrUnpredicted)
			}
			slices.Reverse(rows)
		}
		for _, v := range rows {
			values = append(values, v)
			size += 1 + n + 1 + len(v)
		}
	}
	return values, size, nil
}

func (r viewReduce) Rereduce(dst []byte, reductions []erlterm.Term) ([]byte, error) {
	var count, size uint64
	columns := make([][]erlterm.Term, len(r.functions))
	for _, red := range reductions {
		parts, ok := erlterm.Elements(red)
		if !ok || len(parts) < 2 || len(parts) > 3 {
			return dst, fmt.Errorf("reduction of a view: %w", ErrUnpredicted)
		}
		n, _, ok := erlterm.Uint(parts[0])
		values, ok2 := erlterm.Elements(parts[1])
		if !ok || !ok2 || len(values) != len(columns) {
			return dst, fmt.Errorf("reduction of a view: %w", ErrUnpredicted)
		}
		if count += n; len(parts) == 3 {
			v, _, _ := erlterm.Uint(parts[2])
			size += v
		}
		for i, v := range values {
			columns[i] = append(columns[i], v)
		}
	}
	values := make([]erlterm.Term, len(r.functions))
	for i := range r.functions {
		if i%2 == 0 { // each function's values are turned around once more than the last one's
			slices.Reverse(columns[i])
		}
		var err error
		values[i], err = r.value(i, func(fn valueReduce) (erlterm.Term, error) { return fn.rereduce(columns[i]) })
		if err != nil {
			return dst, fmt.Errorf("rereduce by %s: %w", r.functions[i], err)
		}
	}
	dst = erlterm.PutUint(erlterm.PutTuple(dst, 3), count)
	dst = erlterm.PutList(dst, values)
	return erlterm.PutUint(dst, size), nil
}

// valueReduce is a reduce function of the server.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_reduce
// and group_reductions_results.
type valueReduce struct {
	reduce, rereduce func(values []erlterm.Term) (erlterm.Term, error)
}

func builtin(name string) (valueReduce, error) {
	switch {
	case strings.HasPrefix(name, "_sum"):
		return valueReduce{sum, sum}, nil
	case strings.HasPrefix(name, "_count"):
		return valueReduce{countValues, sum}, nil
	case strings.HasPrefix(name, "_stats"):
		return valueReduce{stats, stats}, nil
	}
	return valueReduce{}, fmt.Errorf("reduce by %.40q: %w", name, ErrUnpredicted)
}

func countValues(values []erlterm.Term) (erlterm.Term, error) {
	return erlterm.PutInt(nil, int64(len(values))), nil
}

// sum adds numbers, and lists of numbers element by element.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_sum_rows,
// sum_values and check_sum_overflow.
func sum(values []erlterm.Term) (erlterm.Term, error) {
	total, isList := []number{{}}, false
	for _, v := range values {
		list, listed, err := numbers(v)
		if err != nil {
			return nil, err
		}
		isList = isList || listed
		for i, n := range list {
			if i >= len(total) {
				total = append(total, n)
				continue
			}
			var ok bool
			if total[i], ok = total[i].add(n); !ok {
				return nil, ErrUnpredicted
			}
		}
	}
	if !isList {
		return total[0].put(nil), nil
	}
	out := erlterm.Term(erlterm.PutList(nil, putNumbers(total)))
	if 1+len(out) > 4906 { // then the configuration decides
		return nil, ErrUnpredicted
	}
	return out, nil
}

// numbers reads a number, or a list of them.
func numbers(t erlterm.Term) (list []number, listed bool, err error) {
	if n, ok := parseNumber(t); ok {
		return []number{n}, false, nil
	}
	items, ok := erlterm.Elements(t)
	if tag := t.Tag(); !ok || tag == erlterm.TagSmallTuple || tag == erlterm.TagLargeTuple {
		return nil, false, ErrUnpredicted
	}
	for _, item := range items {
		n, ok := parseNumber(item)
		if !ok {
			return nil, false, ErrUnpredicted
		}
		list = append(list, n)
	}
	return list, true, nil
}

func putNumbers(list []number) []erlterm.Term {
	out := make([]erlterm.Term, len(list))
	for i, n := range list {
		out[i] = n.put(nil)
	}
	return out
}

// stat is {sum, count, min, max, sum of squares}.
type stat [5]number

// stats combines numbers, or what it made of them, from the first on.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_stats
// and stat_values.
func stats(values []erlterm.Term) (erlterm.Term, error) {
	var acc stat // of nothing: zeros
	for i, v := range values {
		s, err := parseStat(v)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			acc = s
		} else if acc, err = s.with(acc); err != nil {
			return nil, err
		}
	}
	out := erlterm.PutTuple(nil, len(acc))
	for _, n := range acc {
		out = n.put(out)
	}
	return out, nil
}

func parseStat(t erlterm.Term) (s stat, err error) {
	if n, ok := parseNumber(t); ok {
		square, ok := n.square()
		if !ok {
			return s, ErrUnpredicted
		}
		return stat{n, integer(1), n, n, square}, nil
	}
	parts, ok := erlterm.Elements(t)
	if !ok || len(parts) != len(s) || t.Tag() != erlterm.TagSmallTuple {
		return s, ErrUnpredicted
	}
	for i, p := range parts {
		if s[i], ok = parseNumber(p); !ok {
			return s, ErrUnpredicted
		}
	}
	return s, nil
}

// with combines s with what came before it. Of equal numbers, such as 1 and
// 1.0, that of s stays.
func (s stat) with(acc stat) (out stat, err error) {
	out = s
	for _, i := range []int{0, 1, 4} {
		var ok bool
		if out[i], ok = s[i].add(acc[i]); !ok {
			return out, ErrUnpredicted
		}
	}
	for i, sign := range [...]int{2: 1, 3: -1} {
		if sign == 0 {
			continue
		}
		c, ok := s[i].compare(acc[i])
		if !ok {
			return out, ErrUnpredicted
		}
		if c*sign > 0 {
			out[i] = acc[i]
		}
	}
	return out, nil
}
