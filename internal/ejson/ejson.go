// Package ejson holds JSON as CouchDB does: members keep their order, and numbers are what they were written as.
//
// A value is nil, a bool, a Number, a string, an Array or an Object. CouchDB's own name for Erlang's form of JSON is ejson.
package ejson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

type (
	// Value is any JSON value.
	Value = any
	// Array is a list of values.
	Array []Value
	// Object is a list of members, in their order.
	Object []Member
	// Number is a number in JSON, as CouchDB prints it.
	Number string
)

// Member is a member of an object.
type Member struct {
	Name  string
	Value Value
}

// ErrInvalid says that some text is no JSON.
var ErrInvalid = errors.New("invalid JSON")

// deepest is how far values may be nested.
const deepest = 1000

// Parse reads a value. Of several members of one name the last one stays, as it does in CouchDB (jiffy:decode with
// dedupe_keys). It returns ErrInvalid.
func Parse(b []byte) (Value, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: it is no UTF-8", ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := parse(d, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the value", ErrInvalid)
	}
	return v, nil
}

func parse(d *json.Decoder, depth int) (Value, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return number(string(t))
	case json.Delim:
		if depth == deepest {
			return nil, errors.New("it is nested too deeply")
		}
		if t == '[' {
			return parseArray(d, depth)
		}
		return parseObject(d, depth)
	}
	return t, nil
}

func parseArray(d *json.Decoder, depth int) (Value, error) {
	out := Array{}
	for d.More() {
		v, err := parse(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token()
	return out, err
}

func parseObject(d *json.Decoder, depth int) (Value, error) {
	out := Object{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := parse(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, Member{name.(string), v})
	}
	_, err := d.Token()
	return dedupe(out), err
}

// dedupe keeps the last member of each name.
func dedupe(o Object) Object {
	last := make(map[string]int, len(o))
	for i, m := range o {
		last[m.Name] = i
	}
	if len(last) == len(o) {
		return o
	}
	out := Object{}
	for i, m := range o {
		if last[m.Name] == i {
			out = append(out, m)
		}
	}
	return out
}

// number reads a number as jiffy does: what has a fraction or an exponent is a float.
func number(s string) (Value, error) {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return Number("0"), nil
		}
		return Number(s), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("the number %s is out of range", s)
	}
	return Float(f), nil
}

// Float returns a float as CouchDB prints it. It must be finite.
func Float(f float64) Number { return Number(erlterm.AppendFloat(nil, f)) }

// Int returns an integer.
func Int(n int64) Number { return Number(strconv.FormatInt(n, 10)) }

// Float reports a number as a float and whether it is one: CouchDB's integers have no fraction and no exponent, and may be of
// any size.
func (n Number) Float() (f float64, isFloat bool) {
	f, _ = strconv.ParseFloat(string(n), 64)
	return f, strings.ContainsAny(string(n), ".eE")
}

// Compare orders two numbers by their value, exactly.
func (n Number) Compare(m Number) int {
	if n == m {
		return 0
	}
	a, aFloat := n.Float()
	b, bFloat := m.Float()
	const exact = 1 << 53
	if aFloat && bFloat || math.Abs(a) < exact && math.Abs(b) < exact {
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	}
	x, ok1 := new(big.Rat).SetString(string(n))
	y, ok2 := new(big.Rat).SetString(string(m))
	if !ok1 || !ok2 {
		return strings.Compare(string(n), string(m))
	}
	return x.Cmp(y)
}

// Get returns the value of a member.
func (o Object) Get(name string) (Value, bool) {
	for _, m := range o {
		if m.Name == name {
			return m.Value, true
		}
	}
	return nil, false
}

// Set gives a member a value, in its place if it is there and at the end if it isn't.
func (o *Object) Set(name string, v Value) {
	for i := range *o {
		if (*o)[i].Name == name {
			(*o)[i].Value = v
			return
		}
	}
	*o = append(*o, Member{name, v})
}

// Append appends a value's JSON as CouchDB writes it: without spaces, strings in UTF-8.
func Append(dst []byte, v Value) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case Number:
		return append(dst, v...)
	case string:
		return erlterm.AppendString(dst, []byte(v))
	case json.RawMessage:
		return append(dst, v...)
	case Array:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = Append(dst, e)
		}
		return append(dst, ']')
	case Object:
		dst = append(dst, '{')
		for i, m := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(erlterm.AppendString(dst, []byte(m.Name)), ':')
			dst = Append(dst, m.Value)
		}
		return append(dst, '}')
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case []string:
		dst = append(dst, '[')
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = erlterm.AppendString(dst, []byte(s))
		}
		return append(dst, ']')
	}
	panic(fmt.Sprintf("no JSON value: %T", v))
}

// String returns a value's JSON.
func String(v Value) string { return string(Append(nil, v)) }
