package viewindex

import (
	"errors"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/collate"
	"github.com/slipcover/slipcover/internal/ejson"
)

// function is one of CouchDB's own reduce functions. Rows and values come in its order.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_reduce and finalize.
type function struct {
	reduce   func(rows []reduceRow) (erlterm.Term, error)
	rereduce func(values []erlterm.Term) (erlterm.Term, error)
	append   func(dst []byte, t erlterm.Term) ([]byte, error) // the JSON of a reduction
}

// reduceRow is a row that is reduced.
type reduceRow struct {
	entry couchfile.Entry // of the row alone
	key   erlterm.Term
	id    string
}

func (r *reduceRow) value() erlterm.Term { return r.entry.Value }

// builtin returns the function of a name.
func builtin(name string) (f function, ok bool) {
	switch {
	case strings.HasPrefix(name, "_count"):
		return written(name, nil), true
	case strings.HasPrefix(name, "_sum"):
		return written(name, sum), true
	case strings.HasPrefix(name, "_stats"):
		f := written(name, stats)
		f.append = appendStats
		return f, true
	case strings.HasPrefix(name, "_approx_count_distinct"):
		return function{approxRows, approxUnion, appendApprox}, true
	case strings.HasPrefix(name, "_top_"):
		return ranked(strings.TrimPrefix(name, "_top_"), -1)
	case strings.HasPrefix(name, "_bottom_"):
		return ranked(strings.TrimPrefix(name, "_bottom_"), 1)
	case strings.HasPrefix(name, "_first"):
		return ended(func(c int) bool { return c < 0 }), true
	case strings.HasPrefix(name, "_last"):
		return ended(func(c int) bool { return c >= 0 }), true
	}
	return f, false
}

// written is a function that indexes are written with too. What that doesn't know of, such as sums of objects, other does.
func written(name string, other func(values []erlterm.Term) (erlterm.Term, error)) function {
	reducer := couchwriter.ViewReduce([]string{name})
	single := func(t []byte, err error, values func() []erlterm.Term) (erlterm.Term, error) {
		if errors.Is(err, couchwriter.ErrUnpredicted) && other != nil {
			return other(values())
		}
		if err != nil {
			return nil, err
		}
		red, err := parseReduction(t)
		if err != nil || len(red.values) != 1 {
			return nil, errReduction
		}
		return red.values[0], nil
	}
	return function{
		reduce: func(rows []reduceRow) (erlterm.Term, error) {
			entries := make([]couchfile.Entry, len(rows))
			for i, r := range rows {
				entries[i] = r.entry
			}
			t, err := reducer.Reduce(nil, entries)
			return single(t, err, func() []erlterm.Term {
				values := make([]erlterm.Term, len(rows))
				for i, r := range rows {
					values[i] = r.value()
				}
				return values
			})
		},
		rereduce: func(values []erlterm.Term) (erlterm.Term, error) {
			list := make([]erlterm.Term, len(values))
			for i, v := range values { // the reducer turns them around
				t := erlterm.PutList(erlterm.PutInt(erlterm.PutTuple(nil, 3), 0), []erlterm.Term{v})
				list[len(list)-1-i] = erlterm.PutInt(t, 0)
			}
			t, err := reducer.Rereduce(nil, list)
			return single(t, err, func() []erlterm.Term { return values })
		},
		append: erlterm.AppendJSON,
	}
}

// add adds two numbers: an integer and a float are a float.
func add(a, b ejson.Number) (ejson.Number, error) {
	f, isFloat := a.Float()
	g, isFloat2 := b.Float()
	if isFloat || isFloat2 {
		return finite(f + g)
	}
	x, ok1 := new(big.Int).SetString(string(a), 10)
	y, ok2 := new(big.Int).SetString(string(b), 10)
	if !ok1 || !ok2 {
		return "", errReduction
	}
	return ejson.Number(x.Add(x, y).String()), nil
}

func finite(f float64) (ejson.Number, error) {
	if f-f != 0 {
		return "", unable("a sum is too large for a float")
	}
	return ejson.Float(f), nil
}

// sumError is what CouchDB answers where values can't be added; it is told with the value that can't.
const sumError = "The _sum function requires that map values be numbers, arrays of numbers, or objects. Objects cannot be mixed with other " +
	"data structures. Objects can be arbitrarily nested, provided that the values for all fields are themselves numbers, arrays of numbers, or objects."

// notSummed is an error that is the sum.
type notSummed struct{ value ejson.Object }

func (e *notSummed) Error() string { return "values can't be added" }

func unsummable(v ejson.Value) error {
	return &notSummed{ejson.Object{{Name: "error", Value: "builtin_reduce_error"}, {Name: "reason", Value: sumError}, {Name: "caused_by", Value: v}}}
}

var errSum = &Unable{"the values of its rows are of a kind that CouchDB fails at"}

// sum adds numbers, lists of numbers and objects of all of them. What CouchDB makes of large ones its settings decide.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, sum_values and check_sum_overflow.
func sum(values []erlterm.Term) (erlterm.Term, error) {
	var acc ejson.Value = ejson.Number("0")
	for _, t := range values {
		v, err := parseValue(t)
		if err != nil {
			return nil, err
		}
		acc, err = sumValues(v, acc)
		var not *notSummed
		if errors.As(err, &not) {
			acc = not.value
			break
		}
		if err != nil {
			return nil, err
		}
	}
	out := putValue(nil, acc)
	if len(out) > 4905 {
		return nil, unable("a sum is so large that CouchDB's settings decide whether it is one")
	}
	return out, nil
}

func sumValues(v, acc ejson.Value) (ejson.Value, error) {
	n, isNumber := v.(ejson.Number)
	list, isList := v.(ejson.Array)
	accNumber, accIsNumber := acc.(ejson.Number)
	accList, accIsList := acc.(ejson.Array)
	o, isObject := v.(ejson.Object)
	switch {
	case isNumber && accIsNumber:
		return add(accNumber, n)
	case isObject:
		return sumObject(o, acc)
	case isNumber && accIsList:
		return sumArrays(accList, ejson.Array{n})
	case isList && accIsNumber:
		return sumArrays(ejson.Array{accNumber}, list)
	case isList && accIsList:
		return sumArrays(accList, list)
	}
	return nil, unsummable(v)
}

func sumArrays(a, b ejson.Array) (ejson.Value, error) {
	out := ejson.Array{}
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return append(out, b[i:]...), nil
		case i >= len(b):
			return append(out, a[i:]...), nil
		}
		x, ok1 := a[i].(ejson.Number)
		y, ok2 := b[i].(ejson.Number)
		if !ok1 || !ok2 {
			return nil, unsummable(a[i:])
		}
		n, err := add(x, y)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func sumObject(o ejson.Object, acc ejson.Value) (ejson.Value, error) {
	if e, ok := o.Get("error"); ok {
		if e != "builtin_reduce_error" {
			return nil, errSum
		}
		return nil, &notSummed{o}
	}
	if acc == ejson.Number("0") {
		return o, nil
	}
	p, ok := acc.(ejson.Object)
	if !ok {
		return nil, errSum
	}
	o, p = sortedMembers(o), sortedMembers(p)
	out := ejson.Object{}
	for len(o) > 0 && len(p) > 0 {
		switch a, b := o[0], p[0]; {
		case a.Name < b.Name:
			out, o = append(out, a), o[1:]
		case a.Name > b.Name:
			out, p = append(out, b), p[1:]
		default:
			v, err := sumValues(a.Value, b.Value)
			if err != nil {
				return nil, err
			}
			out, o, p = append(out, ejson.Member{Name: a.Name, Value: v}), o[1:], p[1:]
		}
	}
	return append(append(out, o...), p...), nil
}

func sortedMembers(o ejson.Object) ejson.Object {
	o = slices.Clone(o)
	slices.SortStableFunc(o, func(a, b ejson.Member) int { return strings.Compare(a.Name, b.Name) })
	return o
}

// statNames are the parts of a statistic, in their order.
var statNames = []string{"sum", "count", "min", "max", "sumsqr"}

// stat is a statistic, or one for each element of a list.
type stat struct {
	parts []ejson.Number // as statNames
	list  []stat         // if parts is nil
}

// stats combines numbers, statistics as objects, lists of them, and what it made of them.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_stats and stat_values.
func stats(values []erlterm.Term) (erlterm.Term, error) {
	var acc stat
	for i, t := range values {
		s, err := statOf(t)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			acc = s
		} else if acc, err = s.with(acc); err != nil {
			return nil, err
		}
	}
	return acc.put(nil), nil
}

func statOf(t erlterm.Term) (stat, error) {
	parts, ok := erlterm.Elements(t)
	switch tag := t.Tag(); {
	case ok && (tag == erlterm.TagSmallTuple || tag == erlterm.TagLargeTuple) && len(parts) == len(statNames):
		var s stat
		for _, p := range parts {
			v, err := parseValue(p)
			n, ok := v.(ejson.Number)
			if err != nil || !ok {
				return stat{}, errReduction
			}
			s.parts = append(s.parts, n)
		}
		return s, nil
	case ok && (tag == erlterm.TagList || tag == erlterm.TagString || tag == erlterm.TagNil):
		var s stat
		for _, p := range parts {
			e, err := statOf(p)
			if err != nil {
				return stat{}, err
			}
			s.list = append(s.list, e)
		}
		return s, nil
	}
	v, err := parseValue(t)
	if err != nil {
		return stat{}, err
	}
	if n, ok := v.(ejson.Number); ok {
		square, err := multiply(n)
		return stat{parts: []ejson.Number{n, "1", n, n, square}}, err
	}
	var s stat
	o, _ := v.(ejson.Object)
	for _, name := range statNames {
		v, _ := o.Get(name)
		n, ok := v.(ejson.Number)
		if !ok {
			return stat{}, errSum
		}
		s.parts = append(s.parts, n)
	}
	return s, nil
}

func multiply(n ejson.Number) (ejson.Number, error) {
	if f, isFloat := n.Float(); isFloat {
		return finite(f * f)
	}
	x, ok := new(big.Int).SetString(string(n), 10)
	if !ok {
		return "", errReduction
	}
	return ejson.Number(x.Mul(x, x).String()), nil
}

// with combines s with what came before it. Of equal numbers, such as 1 and 1.0, that of s stays.
func (s stat) with(acc stat) (out stat, err error) {
	if (s.parts == nil) != (acc.parts == nil) || len(s.list) != len(acc.list) {
		return out, errSum
	}
	for i := range s.list {
		e, err := s.list[i].with(acc.list[i])
		if err != nil {
			return out, err
		}
		out.list = append(out.list, e)
	}
	if s.parts == nil {
		return out, nil
	}
	out.parts = slices.Clone(s.parts)
	for _, i := range []int{0, 1, 4} {
		if out.parts[i], err = add(s.parts[i], acc.parts[i]); err != nil {
			return out, err
		}
	}
	if s.parts[2].Compare(acc.parts[2]) > 0 {
		out.parts[2] = acc.parts[2]
	}
	if s.parts[3].Compare(acc.parts[3]) < 0 {
		out.parts[3] = acc.parts[3]
	}
	return out, nil
}

func (s stat) put(dst []byte) []byte {
	if s.parts != nil {
		dst = erlterm.PutTuple(dst, len(s.parts))
		for _, n := range s.parts {
			dst = putNumber(dst, n)
		}
		return dst
	}
	list := make([]erlterm.Term, len(s.list))
	for i, e := range s.list {
		list[i] = e.put(nil)
	}
	return erlterm.PutList(dst, list)
}

func appendStats(dst []byte, t erlterm.Term) ([]byte, error) {
	s, err := statOf(t)
	if err != nil {
		return nil, err
	}
	return ejson.Append(dst, s.json()), nil
}

func (s stat) json() ejson.Value {
	if s.parts == nil {
		list := ejson.Array{}
		for _, e := range s.list {
			list = append(list, e.json())
		}
		return list
	}
	var o ejson.Object
	for i, n := range s.parts {
		o = append(o, ejson.Member{Name: statNames[i], Value: n})
	}
	return o
}

// ranked is _top_N, or _bottom_N where sign is 1: the values that come last or first, each once.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_rank_n.
func ranked(number string, sign int) (f function, ok bool) {
	most, err := strconv.Atoi(number)
	if err != nil || most <= 0 {
		return f, false
	}
	merge := func(a, b []erlterm.Term) (out []erlterm.Term, err error) {
		for len(out) < most && len(a) > 0 && len(b) > 0 {
			x, err := parseValue(a[0])
			if err != nil {
				return nil, err
			}
			y, err := parseValue(b[0])
			if err != nil {
				return nil, err
			}
			switch c := sign * collate.Compare(x, y); {
			case c == 0:
				out, a, b = append(out, a[0]), a[1:], b[1:]
			case c < 0:
				out, a = append(out, a[0]), a[1:]
			default:
				out, b = append(out, b[0]), b[1:]
			}
		}
		out = append(append(out, a...), b...)
		return out[:min(most, len(out))], nil
	}
	fold := func(lists [][]erlterm.Term) (erlterm.Term, error) {
		var acc []erlterm.Term
		for _, l := range lists {
			var err error
			if acc, err = merge(acc, l); err != nil {
				return nil, err
			}
		}
		return erlterm.PutList(nil, acc), nil
	}
	return function{
		reduce: func(rows []reduceRow) (erlterm.Term, error) {
			lists := make([][]erlterm.Term, len(rows))
			for i, r := range rows {
				lists[i] = []erlterm.Term{r.value()}
			}
			return fold(lists)
		},
		rereduce: func(values []erlterm.Term) (erlterm.Term, error) {
			lists := make([][]erlterm.Term, len(values))
			for i, v := range values {
				var ok bool
				if lists[i], ok = erlterm.Elements(v); !ok {
					return nil, errReduction
				}
			}
			return fold(lists)
		},
		append: erlterm.AppendJSON,
	}, true
}

// ended is _first or _last: the value of the row that comes first or last. takes says whether a row that compares so with the one
// before is taken.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, builtin_first_last.
func ended(takes func(c int) bool) function {
	rereduce := func(values []erlterm.Term) (erlterm.Term, error) {
		var acc erlterm.Term
		var accKey key
		var accID string
		for _, t := range values {
			parts, ok := erlterm.Elements(t)
			if !ok || len(parts) != 3 {
				return nil, errReduction
			}
			k, err := parseKey(parts[0])
			if err != nil {
				return nil, err
			}
			id, _, ok := erlterm.Binary(parts[1])
			if !ok {
				return nil, errReduction
			}
			if acc != nil {
				c, err := order{}.rows(k, string(id), accKey, accID)
				if err != nil {
					return nil, err
				}
				if !takes(c) {
					continue
				}
			}
			acc, accKey, accID = t, k, string(id)
		}
		return acc, nil
	}
	return function{
		reduce: func(rows []reduceRow) (erlterm.Term, error) {
			values := make([]erlterm.Term, len(rows))
			for i, r := range rows {
				t := append(erlterm.PutTuple(nil, 3), r.key...)
				values[i] = append(erlterm.PutBinary(t, r.id), r.value()...)
			}
			return rereduce(values)
		},
		rereduce: rereduce,
		append: func(dst []byte, t erlterm.Term) ([]byte, error) {
			parts, ok := erlterm.Elements(t)
			if !ok || len(parts) != 3 {
				return nil, errReduction
			}
			return erlterm.AppendJSON(dst, parts[2])
		},
	}
}
