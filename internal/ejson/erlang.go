package ejson

import (
	"fmt"
	"strconv"
	"strings"
)

// Term prints a value as Erlang does with ~w, in which all strings are lists of bytes.
func Term(v Value) string { return string(appendTerm(nil, v, false)) }

// Pretty prints a value as Erlang does with ~p, without the line breaks that it puts into long ones.
func Pretty(v Value) string { return string(appendTerm(nil, v, true)) }

func appendTerm(dst []byte, v Value, pretty bool) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case Number:
		if f, isFloat := v.Float(); isFloat {
			return appendFloat(dst, f)
		}
		return append(dst, v...)
	case string:
		return appendBinary(dst, v, pretty)
	case Array:
		if s, ok := characters(v); ok && pretty {
			return appendQuoted(dst, s)
		}
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendTerm(dst, e, pretty)
		}
		return append(dst, ']')
	case Object:
		dst = append(dst, "{["...)
		for i, m := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendBinary(append(dst, '{'), m.Name, pretty), ',')
			dst = append(appendTerm(dst, m.Value, pretty), '}')
		}
		return append(dst, "]}"...)
	}
	return append(dst, fmt.Sprint(v)...)
}

func appendBinary(dst []byte, s string, pretty bool) []byte {
	dst = append(dst, "<<"...)
	if pretty && s != "" && printable(s) {
		return append(appendQuoted(dst, s), ">>"...)
	}
	for i := range len(s) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(s[i]), 10)
	}
	return append(dst, ">>"...)
}

// printable says whether Erlang takes bytes for text in Latin-1.
func printable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && (c < '\b' || c > '\r') && c != 27 || c > '~' && c < 160 {
			return false
		}
	}
	return true
}

// characters is a list of bytes that Erlang prints as a text.
func characters(v Array) (s string, ok bool) {
	var b []byte
	for _, e := range v {
		n, ok := e.(Number)
		if !ok {
			return "", false
		}
		c, err := strconv.ParseUint(string(n), 10, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(c))
	}
	return string(b), len(b) > 0 && printable(string(b))
}

func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if at := strings.IndexByte("\b\t\n\v\f\r\x1b\"\\", s[i]); at >= 0 {
			dst = append(dst, '\\', "btnvfre\"\\"[at])
		} else {
			dst = append(dst, s[i])
		}
	}
	return append(dst, '"')
}

// appendFloat prints a float as Erlang does: the shortest digits, with an exponent where that is shorter and from 2^53 on.
func appendFloat(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, "0.0"...)
	}
	if f < 0 {
		dst, f = append(dst, '-'), -f
	}
	var buf [32]byte
	b := strconv.AppendFloat(buf[:0], f, 'e', -1, 64)
	mantissa, exp, _ := strings.Cut(string(b), "e")
	digits := strings.Replace(mantissa, ".", "", 1)
	e, _ := strconv.Atoi(exp)
	scientific := digits[:1] + "." + digits[1:]
	if len(digits) == 1 {
		scientific += "0"
	}
	scientific += "e" + strconv.Itoa(e)
	plain := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	if f >= 1<<53 || len(scientific) < len(plain) {
		return append(dst, scientific...)
	}
	return append(dst, plain...)
}
