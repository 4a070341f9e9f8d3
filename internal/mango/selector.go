package mango

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Selector says which documents are meant. It may be used by several goroutines at once.
type Selector struct {
	normal ejson.Object
	root   *node // nil: all documents
}

// JSON is the normalized selector, as _explain prints it.
func (s *Selector) JSON() ejson.Object { return s.normal }

// Parse reads a selector. Its errors are of type *Error.
func Parse(selector ejson.Value) (*Selector, error) {
	o, ok := selector.(ejson.Object)
	if !ok {
		return nil, bad("invalid_selector_json", "Selector must be a JSON object, not: %s", ejson.Term(selector))
	}
	normal, err := normalize(o)
	if err != nil {
		return nil, err
	}
	s := &Selector{normal: normal}
	if len(normal) == 0 {
		return s, nil
	}
	s.root, err = compile(normal, new(atomic.Int64))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// ParseFilter reads the selector of _changes with filter=_selector, whose errors are all called bad_request.
func ParseFilter(selector ejson.Value) (*Selector, error) {
	if _, ok := selector.(ejson.Object); !ok {
		return nil, bad("bad_request", "Selector error: expected a JSON object")
	}
	s, err := Parse(selector)
	var e *Error
	if errors.As(err, &e) {
		return nil, &Error{http.StatusBadRequest, "bad_request", e.Reason}
	}
	return s, err
}

func normalize(o ejson.Object) (ejson.Object, error) {
	if len(o) == 0 {
		return o, nil
	}
	o, err := normalizeOperators(o)
	if err != nil {
		return nil, err
	}
	if o, err = pushFields(o, ""); err != nil {
		return nil, err
	}
	if o, err = pushNegations(o); err != nil {
		return nil, err
	}
	if o[0].Name == "" {
		return nil, bad("invalid_selector", "One or more conditions is missing a field name.")
	}
	return o, nil
}

// one is an object of one member.
func one(name string, v ejson.Value) ejson.Object { return ejson.Object{{Name: name, Value: v}} }

// each applies f to the conditions of a list.
func each(v ejson.Value, f func(ejson.Object) (ejson.Object, error)) (ejson.Array, error) {
	out := ejson.Array{}
	for _, e := range v.(ejson.Array) {
		o, err := f(e.(ejson.Object))
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// normalizeOperators makes each condition an object of one member: several members are an $and, and a value is an $eq.
func normalizeOperators(v ejson.Value) (ejson.Object, error) {
	o, ok := v.(ejson.Object)
	if !ok || len(o) == 0 {
		return one("$eq", v), nil
	}
	if len(o) == 1 {
		return normalizeOperator(o[0].Name, o[0].Value)
	}
	all := ejson.Array{}
	for _, m := range o {
		c, err := normalizeOperator(m.Name, m.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return one("$and", all), nil
}

func normalizeOperator(op string, arg ejson.Value) (ejson.Object, error) {
	list, isList := arg.(ejson.Array)
	_, isObject := arg.(ejson.Object)
	text, isText := arg.(string)
	_, isBool := arg.(bool)
	number, isNumber := arg.(ejson.Number)
	ok := true
	switch op {
	case "$and", "$or", "$nor":
		if ok = isList; !ok {
			break
		}
		all := ejson.Array{}
		for _, a := range list {
			c, err := normalizeOperators(a)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
		return one(op, all), nil
	case "$not", "$elemMatch", "$allMatch", "$keyMapMatch":
		if ok = isObject; !ok {
			break
		}
		c, err := normalizeOperators(arg)
		return one(op, c), err
	case "$in", "$nin", "$all":
		ok = isList
	case "$exists":
		ok = isBool
	case "$type":
		ok = isText
	case "$mod":
		ok = len(list) == 2 && isInteger(list[0]) && isInteger(list[1])
	case "$regex":
		if !isText {
			return nil, bad("invalid_operator", "Invalid operator: %s", op)
		}
		if _, err := translate(text); err != nil {
			if errors.Is(err, errUnsupported) {
				return nil, bad("not_supported", "Unsupported regular expression: %s", text)
			}
			ok = false
		}
	case "$size":
		ok = isNumber && isInteger(number) && !strings.HasPrefix(string(number), "-")
	case "$text":
		if ok = isText || isNumber || isBool; ok {
			return one("$default", one(op, arg)), nil
		}
	case "$beginsWith":
		if !isText {
			return nil, bad("invalid_operator", "Invalid operator: %s", op)
		}
	case "$default", "$lt", "$lte", "$eq", "$ne", "$gte", "$gt":
	case "$where", "$geoWithin", "$geoIntersects", "$near", "$nearSphere":
		return nil, bad("not_supported", "Unsupported operator: %s", op)
	default:
		if strings.HasPrefix(op, "$") {
			return nil, bad("invalid_operator", "Invalid operator: %s", op)
		}
		c, err := normalizeOperators(arg)
		return one(op, c), err
	}
	if !ok {
		return nil, bad("bad_arg", "Bad argument for operator %s: %s", op, ejson.Term(arg))
	}
	return one(op, arg), nil
}

func isInteger(v ejson.Value) bool {
	n, ok := v.(ejson.Number)
	if !ok {
		return false
	}
	_, isFloat := n.Float()
	return !isFloat
}

// pushFields moves the names of fields down to the operators that look at them: {"a": {"b": {"$gt": 1}}} becomes {"a.b": {"$gt": 1}}.
func pushFields(o ejson.Object, path string) (ejson.Object, error) {
	name, arg := o[0].Name, o[0].Value
	switch name {
	case "$and", "$or", "$nor":
		all, err := each(arg, func(o ejson.Object) (ejson.Object, error) { return pushFields(o, path) })
		return one(name, all), err
	case "$not":
		c, err := pushFields(arg.(ejson.Object), path)
		return one(name, c), err
	case "$elemMatch", "$allMatch", "$keyMapMatch":
		c, err := pushFields(arg.(ejson.Object), "")
		return one(path, one(name, c)), err
	case "$default":
		if c, ok := arg.(ejson.Object); ok && path == "" && len(c) == 1 && c[0].Name == "$text" {
			return o, nil
		}
		return nil, bad("bad_field", "Invalid field normalization on selector: %s", ejson.Term(o))
	}
	if strings.HasPrefix(name, "$") {
		return one(path, o), nil
	}
	if path != "" {
		name = path + "." + name
	}
	return pushFields(arg.(ejson.Object), name)
}

// pushNegations moves negations down to the operators, by De Morgan's laws.
func pushNegations(o ejson.Object) (ejson.Object, error) {
	name, arg := o[0].Name, o[0].Value
	switch name {
	case "$not":
		return negate(arg.(ejson.Object))
	case "$nor":
		all, err := each(arg, negate)
		return one("$and", all), err
	case "$and", "$or":
		all, err := each(arg, pushNegations)
		return one(name, all), err
	}
	return o, nil
}

var opposite = map[string]string{
	"$lt": "$gte", "$lte": "$gt", "$eq": "$ne", "$ne": "$eq", "$gte": "$lt", "$gt": "$lte", "$in": "$nin", "$nin": "$in",
}

func negate(o ejson.Object) (ejson.Object, error) {
	name, arg := o[0].Name, o[0].Value
	switch name {
	case "$not":
		return pushNegations(arg.(ejson.Object))
	case "$nor":
		all, err := each(arg, pushNegations)
		return one("$or", all), err
	case "$and":
		all, err := each(arg, negate)
		return one("$or", all), err
	case "$or":
		all, err := each(arg, negate)
		return one("$and", all), err
	case "$default":
		return nil, bad("bad_arg", "Bad argument for operator $not: %s", ejson.Term(o))
	case "$exists":
		return one(name, !arg.(bool)), nil
	}
	if other, ok := opposite[name]; ok {
		return one(other, arg), nil
	}
	if strings.HasPrefix(name, "$") {
		return one("$not", o), nil
	}
	c, err := negate(arg.(ejson.Object))
	return one(name, c), err
}
