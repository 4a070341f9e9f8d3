package mango

import (
	"math/big"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/ejson"
)

// parseField splits the name of a field at its dots; a backslash takes a dot its meaning.
func parseField(name string) ([]string, error) {
	var path []string
	start := 0
	for i := range len(name) {
		if name[i] == '.' && (i == 0 || name[i-1] != '\\') {
			path, start = append(path, name[start:i]), i+1
		}
	}
	path = append(path, name[start:])
	for i, p := range path {
		if p == "" {
			return nil, bad("invalid_field_name", "Invalid field name: %s", name)
		}
		path[i] = strings.ReplaceAll(p, `\`, "")
	}
	return path, nil
}

type lookup int

const (
	found   lookup = iota
	missing        // an object on the way hasn't the name
	noPath         // what is on the way has no names
)

// get looks up a path.
func get(v ejson.Value, path []string) (ejson.Value, lookup) {
	for _, name := range path {
		switch x := v.(type) {
		case ejson.Object:
			var ok bool
			if v, ok = x.Get(name); !ok {
				return nil, missing
			}
		case ejson.Array:
			i, ok := index(name, len(x))
			if !ok {
				return nil, noPath
			}
			v = x[i]
		default:
			return nil, noPath
		}
	}
	return v, found
}

// index reads the place of an element as Erlang reads an integer.
func index(s string, n int) (int, bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	v, ok := new(big.Int).SetString(digits, 10)
	if !ok || !v.IsInt64() || v.Int64() >= int64(n) || s[0] == '-' && v.Sign() != 0 {
		return 0, false
	}
	return int(v.Int64()), true
}

// Fields is which parts of a document are asked for.
type Fields struct {
	json  ejson.Array // empty: all of it
	parts []part
}

// part is a field that is asked for.
type part struct {
	path  []string
	wrong error // the field's name is invalid
}

// ParseFields reads the member "fields" of a request.
func ParseFields(v ejson.Value) (Fields, error) {
	list, ok := v.(ejson.Array)
	if !ok {
		return Fields{}, bad("invalid_fields", "Fields must be an array of strings, not: %s", ejson.Term(v))
	}
	out := Fields{json: list}
	for _, f := range list {
		var p part
		switch f := f.(type) {
		case string:
			p.path, p.wrong = parseField(f)
		case ejson.Object: // is let through, and fails later
			p.wrong = broken("badarg")
		default:
			return Fields{}, bad("invalid_field", "Invalid JSON for field spec: %s", ejson.Term(f))
		}
		out.parts = append(out.parts, p)
	}
	return out, nil
}

// All says that documents are asked for as they are.
func (f Fields) All() bool { return len(f.json) == 0 }

// Of returns the fields of a document, in the order in which they were asked for.
func (f Fields) Of(doc ejson.Value) (ejson.Value, error) {
	if f.All() {
		return doc, nil
	}
	out := ejson.Value(ejson.Object{})
	for _, p := range f.parts {
		if p.wrong != nil {
			return nil, p.wrong
		}
		if v, how := get(doc, p.path); how == found {
			var err error
			if out, err = set(out, p.path, v); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// set returns v with something else at a path. What v holds is not changed. That an element of a list lands one place in front of its own, and that the first one
// can't be set, is CouchDB's.
func set(v ejson.Value, path []string, to ejson.Value) (ejson.Value, error) {
	if len(path) == 0 {
		return to, nil
	}
	switch x := v.(type) {
	case ejson.Object:
		old, ok := x.Get(path[0])
		var in ejson.Value
		var err error
		if ok {
			in, err = set(old, path[1:], to)
		} else {
			in = nest(path[1:], to)
		}
		x = slices.Clone(x)
		x.Set(path[0], in)
		return x, err
	case ejson.Array:
		i, ok := index(path[0], len(x))
		if !ok {
			return v, nil
		}
		in, err := set(x[i], path[1:], to)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			return nil, broken("function_clause")
		}
		x = slices.Clone(x)
		x[i-1] = in
		return x, nil
	}
	return v, nil
}

func nest(path []string, v ejson.Value) ejson.Value {
	for _, name := range slices.Backward(path) {
		v = one(name, v)
	}
	return v
}

// Sort is by which fields documents are ordered, all in one direction.
type Sort []SortField

// SortField is one field of a Sort.
type SortField struct {
	Name       string
	Descending bool
}

// ParseSort reads the member "sort" of a request.
func ParseSort(v ejson.Value) (Sort, error) {
	list, ok := v.(ejson.Array)
	if !ok {
		return nil, bad("invalid_sort_json", "Sort must be an array of sort specs, not: %s", ejson.Pretty(v))
	}
	out := Sort{}
	for _, e := range list {
		f, ok := sortField(e)
		if !ok {
			return nil, bad("invalid_sort_field", "Invalid sort field: %s", ejson.Pretty(e))
		}
		out = append(out, f)
	}
	for _, f := range out {
		if f.Descending != out[0].Descending {
			return nil, bad("unsupported_mixed_sort", "Sorts currently only support a single direction for all fields.")
		}
	}
	return out, nil
}

func sortField(v ejson.Value) (f SortField, ok bool) {
	switch v := v.(type) {
	case string:
		return SortField{Name: v}, v != ""
	case ejson.Object:
		if len(v) == 1 {
			return SortField{v[0].Name, v[0].Value == "desc"}, v[0].Value == "asc" || v[0].Value == "desc"
		}
	}
	return f, false
}

func (s Sort) json() ejson.Object {
	out := ejson.Object{}
	for _, f := range s {
		direction := "asc"
		if f.Descending {
			direction = "desc"
		}
		out = append(out, ejson.Member{Name: f.Name, Value: direction})
	}
	return out
}

// descending says whether documents come in the reverse order.
func (s Sort) descending() bool { return len(s) > 0 && s[0].Descending }
