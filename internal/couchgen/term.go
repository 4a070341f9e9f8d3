package couchgen

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
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

// Tags of the external term format.
const (
	tagVersion  = 131
	tagZlib     = 80
	tagFloat    = 70
	tagSmallInt = 97
	tagInt32    = 98
	tagAtom     = 100
	tagTuple    = 104
	tagNil      = 106
	tagString   = 107
	tagList     = 108
	tagBinary   = 109
	tagBignum   = 110
)

func appendAtom(b []byte, a string) []byte {
	b = append(b, tagAtom)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
	return append(b, a...)
}

func appendBinary[T string | []byte](b []byte, s T) []byte {
	b = append(b, tagBinary)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendTuple starts a tuple of n elements; n < 256.
func appendTuple(b []byte, n int) []byte { return append(b, tagTuple, byte(n)) }

// appendList starts a list of n > 0 elements, which tagNil must end.
func appendList(b []byte, n int) []byte {
	b = append(b, tagList)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0 && v < 256:
		return append(b, tagSmallInt, byte(v))
	case v >= math.MinInt32 && v <= math.MaxInt32:
		return binary.BigEndian.AppendUint32(append(b, tagInt32), uint32(v))
	case v < 0:
		return appendBig(b, 1, uint64(-v))
	default:
		return appendBig(b, 0, uint64(v))
	}
}

func appendUint(b []byte, v uint64) []byte {
	if v > math.MaxInt64 {
		return appendBig(b, 0, v)
	}
	return appendInt(b, int64(v))
}

func appendBig(b []byte, sign byte, v uint64) []byte {
	at := len(b)
	b = append(b, tagBignum, 0, sign)
	for ; v > 0; v >>= 8 {
		b = append(b, byte(v))
		b[at+1]++
	}
	return b
}

func appendFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tagFloat), math.Float64bits(f))
}

// appendValue appends a JSON value as CouchDB stores it and returns the length
// that the server assumes for its JSON text.
//
// Source: CouchDB 3.5, src/couch/src/couch_ejson_size.erl, encoded_size.
func appendValue(b []byte, v any) ([]byte, int64, error) {
	switch v := v.(type) {
	case nil:
		return appendAtom(b, "null"), 4, nil
	case bool:
		if v {
			return appendAtom(b, "true"), 4, nil
		}
		return appendAtom(b, "false"), 5, nil
	case Atom:
		return appendAtom(b, string(v)), int64(len(v)) + 2, nil
	case string:
		return appendBinary(b, v), int64(len(v)) + 2, nil
	case int:
		return appendInt(b, int64(v)), intSize(int64(v)), nil
	case int64:
		return appendInt(b, v), intSize(v), nil
	case uint64:
		return appendUint(b, v), int64(len(fmt.Sprint(v))), nil
	case float64:
		return appendFloat(b, v), floatSize(v), nil
	case Encoded:
		return append(b, v.Term...), v.JSONSize, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return appendInt(b, n), intSize(n), nil
		}
		f, err := v.Float64()
		return appendFloat(b, f), floatSize(f), err
	case Tuple:
		b = appendTuple(b, len(v))
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
		return append(b, tagNil), 2, nil
	}
	start := len(b)
	b = appendList(b, len(a))
	size, small := int64(1), len(a) <= math.MaxUint16
	for _, x := range a {
		at := len(b)
		var n int64
		var err error
		if b, n, err = appendValue(b, x); err != nil {
			return b, 0, err
		}
		size += n + 1
		small = small && b[at] == tagSmallInt
	}
	if small {
		s := make([]byte, 0, len(a))
		for i := start + 5; i < len(b); i += 2 {
			s = append(s, b[i+1])
		}
		b = binary.BigEndian.AppendUint16(append(b[:start], tagString), uint16(len(s)))
		return append(b, s...), size, nil
	}
	return append(b, tagNil), size, nil
}

// appendTuple1 writes an object: a tuple of one, its list of members.
func appendTuple1(b []byte, o Object) ([]byte, int64, error) {
	return appendMembers(appendTuple(b, 1), o)
}

// appendMembers writes the inside of an object, a list of pairs.
func appendMembers(b []byte, o Object) ([]byte, int64, error) {
	if len(o) == 0 {
		return append(b, tagNil), 2, nil
	}
	b = appendList(b, len(o))
	size := int64(1)
	for _, m := range o {
		b = appendTuple(b, 2)
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
	return append(b, tagNil), size, nil
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
