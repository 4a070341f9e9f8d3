package couchgen

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Atom is an Erlang atom.
type Atom string

// Tuple is an Erlang tuple.
type Tuple []any

// Object is a JSON object with its members in order.
type Object []Member

// Member is one key and value of an Object. Key is a string or an Atom; CouchDB
// has atoms as keys in the props of shard map documents.
type Member struct {
	Key   any
	Value any
}

// Encoded is a JSON value that is already an external term, without the leading
// 131. JSONSize is its length as JSON text, which CouchDB keeps as "external" size.
type Encoded struct {
	Term     []byte
	JSONSize int64
}

// appendValue appends a JSON value as CouchDB stores it and returns the length
// that the server assumes for its JSON text.
//
// Source: CouchDB 3.5, src/couch/src/couch_ejson_size.erl, encoded_size.
func appendValue(b []byte, v any) ([]byte, int64, error) {
	switch v := v.(type) {
	case nil:
		return erlterm.PutAtom(b, "null"), 4, nil
	case bool:
		if v {
			return erlterm.PutAtom(b, "true"), 4, nil
		}
		return erlterm.PutAtom(b, "false"), 5, nil
	case Atom:
		return erlterm.PutAtom(b, string(v)), int64(len(v)) + 2, nil
	case string:
		return erlterm.PutBinary(b, v), int64(len(v)) + 2, nil
	case int:
		return erlterm.PutInt(b, int64(v)), intSize(int64(v)), nil
	case int64:
		return erlterm.PutInt(b, v), intSize(v), nil
	case uint64:
		return erlterm.PutUint(b, v), int64(len(fmt.Sprint(v))), nil
	case float64:
		return erlterm.PutFloat(b, v), floatSize(v), nil
	case Encoded:
		return append(b, v.Term...), v.JSONSize, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return erlterm.PutInt(b, n), intSize(n), nil
		}
		f, err := v.Float64()
		return erlterm.PutFloat(b, f), floatSize(f), err
	case Tuple:
		b = erlterm.PutTuple(b, len(v))
		for _, x := range v {
			var err error
			if b, _, err = appendValue(b, x); err != nil {
				return b, 0, err
			}
		}
		return b, 0, nil
	case []any:
		return appendArray(b, v)
	case Object:
		return appendTuple1(b, v)
	case map[string]any:
		o := make(Object, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			o = append(o, Member{k, v[k]})
		}
		return appendTuple1(b, o)
	case json.RawMessage:
		x, err := parseJSON(v)
		if err != nil {
			return b, 0, err
		}
		return appendValue(b, x)
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			return b, 0, fmt.Errorf("encode %T: %w", v, err)
		}
		return appendValue(b, json.RawMessage(raw))
	}
}

// appendArray writes a list of small integers as a byte string, as
// term_to_binary does.
func appendArray(b []byte, a []any) ([]byte, int64, error) {
	if len(a) == 0 {
		return append(b, erlterm.TagNil), 2, nil
	}
	start := len(b)
	b = erlterm.PutListHead(b, len(a))
	size, small := int64(1), len(a) <= math.MaxUint16
	for _, x := range a {
		at := len(b)
		var n int64
		var err error
		if b, n, err = appendValue(b, x); err != nil {
			return b, 0, err
		}
		size += n + 1
		small = small && b[at] == erlterm.TagSmallInt
	}
	if small {
		s := make([]byte, 0, len(a))
		for i := start + 5; i < len(b); i += 2 {
			s = append(s, b[i+1])
		}
		b = binary.BigEndian.AppendUint16(append(b[:start], erlterm.TagString), uint16(len(s)))
		return append(b, s...), size, nil
	}
	return append(b, erlterm.TagNil), size, nil
}

// appendTuple1 writes an object: a tuple of one, its list of members.
func appendTuple1(b []byte, o Object) ([]byte, int64, error) {
	return appendMembers(erlterm.PutTuple(b, 1), o)
}

// appendMembers writes the inside of an object, a list of pairs.
func appendMembers(b []byte, o Object) ([]byte, int64, error) {
	if len(o) == 0 {
		return append(b, erlterm.TagNil), 2, nil
	}
	b = erlterm.PutListHead(b, len(o))
	size := int64(1)
	for _, m := range o {
		b = erlterm.PutTuple(b, 2)
		var k, v int64
		var err error
		if b, k, err = appendValue(b, m.Key); err != nil {
			return b, 0, err
		}
		if b, v, err = appendValue(b, m.Value); err != nil {
			return b, 0, fmt.Errorf("member %v: %w", m.Key, err)
		}
		size += k + v + 2
	}
	return append(b, erlterm.TagNil), size, nil
}

// parseJSON keeps the order of members and tells integers from floats, as the
// server's parser does.
func parseJSON(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return parseNext(d)
}

func parseNext(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("parse JSON: %w", err)
	}
	switch t {
	case json.Delim('['):
		a := []any{}
		for d.More() {
			v, err := parseNext(d)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err = d.Token()
		return a, err
	case json.Delim('{'):
		o := Object{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("parse JSON: %w", err)
			}
			v, err := parseNext(d)
			if err != nil {
				return nil, err
			}
			o = append(o, Member{k.(string), v})
		}
		_, err = d.Token()
		return o, err
	default:
		return t, nil
	}
}

func intSize(v int64) int64 {
	n := int64(1)
	if v < 0 {
		n++
	}
	for ; v > 9 || v < -9; v /= 10 {
		n++
	}
	return n
}

func floatSize(f float64) int64 {
	switch {
	case f < 0:
		return floatSize(-f) + 1
	case f == 0, f == 1:
		return 3
	case f < 1 && f <= 1e-300:
		return 3
	case f < 1 && f <= 1e-100:
		return 6
	case f < 1 && f <= 1e-10:
		return 5
	case f < 1 && f <= 0.01:
		return 4
	case f < 1:
		return 3
	case f >= 1e100:
		return 5
	case f >= 1e10:
		return 4
	default:
		return 3
	}
}
