package viewindex

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"unicode/utf8"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
)

// deepest is how far a key may be nested.
const deepest = 10_000

var errKey = fmt.Errorf("key of a view: %w", couchfile.ErrCorrupt)

// putValue appends the term of a value, as CouchDB has it of JSON that it read: objects are 1-tuples of a list of pairs, strings
// binaries, and a list of small integers alone is a STRING.
func putValue(dst []byte, v ejson.Value) []byte {
	switch v := v.(type) {
	case nil:
		return erlterm.PutAtom(dst, "null")
	case bool:
		return erlterm.PutAtom(dst, strconv.FormatBool(v))
	case string:
		return erlterm.PutBinary(dst, v)
	case ejson.Number:
		return putNumber(dst, v)
	case ejson.Array:
		items := make([]erlterm.Term, len(v))
		for i, e := range v {
			items[i] = putValue(nil, e)
		}
		return erlterm.PutList(dst, items)
	case ejson.Object:
		return putPairs(erlterm.PutTuple(dst, 1), v)
	}
	if v == mrargs.Highest {
		return erlterm.PutBinary(erlterm.PutTuple(dst, 1), "\xff\xff\xff\xff")
	}
	panic(fmt.Sprintf("no JSON value: %T", v))
}

func putPairs(dst []byte, o ejson.Object) []byte {
	if len(o) == 0 {
		return append(dst, erlterm.TagNil)
	}
	dst = erlterm.PutListHead(dst, len(o))
	for _, m := range o {
		dst = putValue(erlterm.PutBinary(erlterm.PutTuple(dst, 2), m.Name), m.Value)
	}
	return append(dst, erlterm.TagNil)
}

func putNumber(dst []byte, n ejson.Number) []byte {
	f, isFloat := n.Float()
	if isFloat {
		return erlterm.PutFloat(dst, f)
	}
	i, ok := new(big.Int).SetString(string(n), 10)
	switch {
	case !ok:
		return erlterm.PutFloat(dst, f)
	case i.IsInt64():
		return erlterm.PutInt(dst, i.Int64())
	}
	sign := byte(0)
	if i.Sign() < 0 {
		sign = 1
	}
	b := i.Bytes()
	if len(b) < 256 {
		dst = append(dst, erlterm.TagSmallBig, byte(len(b)), sign)
	} else {
		dst = append(dst, erlterm.TagLargeBig, byte(len(b)>>24), byte(len(b)>>16), byte(len(b)>>8), byte(len(b)), sign)
	}
	for i := range b {
		dst = append(dst, b[len(b)-1-i])
	}
	return dst
}

// parseValue is the value of a term that stands for JSON.
func parseValue(t erlterm.Term) (ejson.Value, error) {
	v, rest, err := parseNext(t, 0)
	if err == nil && len(rest) != 0 {
		err = errKey
	}
	return v, err
}

func parseNext(b []byte, depth int) (v ejson.Value, rest []byte, err error) {
	if len(b) == 0 || depth == deepest {
		return nil, nil, errKey
	}
	switch b[0] {
	case erlterm.TagSmallTuple, erlterm.TagLargeTuple:
		return parseObject(b, depth)
	case erlterm.TagNil:
		return ejson.Array{}, b[1:], nil
	case erlterm.TagList:
		return parseArray(b, depth)
	case erlterm.TagBinary:
		s, rest, ok := erlterm.Binary(b)
		if !ok {
			return nil, nil, errKey
		}
		return string(s), rest, nil
	}
	t, rest, ok := erlterm.Next(b)
	if !ok {
		return nil, nil, errKey
	}
	if t.Tag() == erlterm.TagString {
		var list ejson.Array
		for _, c := range t[3:] {
			list = append(list, ejson.Number(strconv.Itoa(int(c))))
		}
		return list, rest, nil
	}
	if name, _, ok := erlterm.Atom(t); ok {
		switch string(name) {
		case "true":
			return true, rest, nil
		case "false":
			return false, rest, nil
		case "null":
			return nil, rest, nil
		}
		if !utf8.Valid(name) {
			return nil, nil, errKey
		}
		return string(name), rest, nil
	}
	n, err := erlterm.AppendJSON(nil, t)
	if err != nil {
		return nil, nil, errors.Join(errKey, err)
	}
	return ejson.Number(n), rest, nil
}

func parseArray(b []byte, depth int) (v ejson.Value, rest []byte, err error) {
	n, rest, ok := erlterm.List(b)
	if !ok {
		return nil, nil, errKey
	}
	list := ejson.Array{}
	for range n {
		var e ejson.Value
		if e, rest, err = parseNext(rest, depth+1); err != nil {
			return nil, nil, err
		}
		list = append(list, e)
	}
	if rest, ok = erlterm.ListEnd(rest); !ok {
		return nil, nil, errKey
	}
	return list, rest, nil
}

func parseObject(b []byte, depth int) (v ejson.Value, rest []byte, err error) {
	rest, ok := erlterm.TupleN(b, 1)
	if !ok {
		return nil, nil, errKey
	}
	n, rest, ok := erlterm.List(rest)
	if !ok {
		return nil, nil, errKey
	}
	o := ejson.Object{}
	for range n {
		pair, ok := erlterm.TupleN(rest, 2)
		name, pair, ok2 := erlterm.Binary(pair)
		if !ok || !ok2 {
			return nil, nil, errKey
		}
		m := ejson.Member{Name: string(name)}
		if m.Value, rest, err = parseNext(pair, depth+1); err != nil {
			return nil, nil, err
		}
		o = append(o, m)
	}
	if n > 0 {
		if rest, ok = erlterm.ListEnd(rest); !ok {
			return nil, nil, errKey
		}
	}
	return o, rest, nil
}
