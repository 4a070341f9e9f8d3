package mango

import (
	"math/big"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/rivo/uniseg"

	"github.com/slipcover/slipcover/internal/collate"
	"github.com/slipcover/slipcover/internal/ejson"
)

// node is a condition of a normalized selector.
type node struct {
	op    string // "" for a field
	field string
	path  []string
	wrong error // the field's name is invalid
	arg   ejson.Value
	subs  []*node
	re    *pattern
}

func compile(o ejson.Object, spent *atomic.Int64) (*node, error) {
	name, arg := o[0].Name, o[0].Value
	n := &node{op: name, arg: arg}
	switch name {
	case "$and", "$or", "$nor":
		for _, a := range arg.(ejson.Array) {
			sub, err := compile(a.(ejson.Object), spent)
			if err != nil {
				return nil, err
			}
			n.subs = append(n.subs, sub)
		}
		return n, nil
	case "$not", "$elemMatch", "$allMatch", "$keyMapMatch":
		sub, err := compile(arg.(ejson.Object), spent)
		n.subs = []*node{sub}
		return n, err
	case "$regex":
		re, err := newPattern(arg.(string), spent)
		n.re = re
		return n, err
	}
	if strings.HasPrefix(name, "$") {
		return n, nil
	}
	n.op, n.field = "", name
	if name != "" {
		n.path, n.wrong = parseField(name)
	}
	sub, err := compile(arg.(ejson.Object), spent)
	n.subs = []*node{sub}
	return n, err
}

// Match says whether a document, with its _id and _rev, is meant. It fails where CouchDB's answer is an error, for instance
// if a field that must be looked at has an invalid name, and when a regular expression took too much time.
func (s *Selector) Match(doc ejson.Value) (bool, error) {
	if s.root == nil {
		return true, nil
	}
	return s.root.match(doc, collate.Compare)
}

func (n *node) match(v ejson.Value, compare func(a, b ejson.Value) int) (bool, error) {
	switch n.op {
	case "":
		return n.matchField(v, compare)
	case "$and", "$or":
		stop := n.op == "$or"
		for _, sub := range n.subs {
			if ok, err := sub.match(v, compare); err != nil || ok == stop {
				return ok, err
			}
		}
		return !stop || len(n.subs) == 0, nil
	case "$not":
		ok, err := n.subs[0].match(v, compare)
		return !ok && err == nil, err
	case "$elemMatch", "$allMatch", "$keyMapMatch":
		return n.matchElements(v, compare), nil
	case "$lt":
		return compare(v, n.arg) < 0, nil
	case "$lte":
		return compare(v, n.arg) <= 0, nil
	case "$eq":
		return compare(v, n.arg) == 0, nil
	case "$ne":
		return compare(v, n.arg) != 0, nil
	case "$gte":
		return compare(v, n.arg) >= 0, nil
	case "$gt":
		return compare(v, n.arg) > 0, nil
	case "$in":
		return isIn(v, n.arg.(ejson.Array), compare), nil
	case "$nin":
		return !isIn(v, n.arg.(ejson.Array), compare), nil
	case "$all":
		return hasAll(v, n.arg.(ejson.Array)), nil
	case "$exists":
		return n.arg.(bool), nil
	case "$type":
		return n.arg == typeOf(v), nil
	case "$mod":
		return matchMod(v, n.arg.(ejson.Array))
	case "$size":
		list, ok := v.(ejson.Array)
		return ok && ejson.Int(int64(len(list))).Compare(n.arg.(ejson.Number)) == 0, nil
	case "$beginsWith":
		s, ok := v.(string)
		return ok && beginsWith(s, n.arg.(string)), nil
	case "$regex":
		if s, ok := v.(string); ok {
			return n.re.match(s)
		}
		return false, nil
	case "$default":
		return true, nil
	}
	return false, bad("invalid_operator", "Invalid operator: %s", n.op)
}

func (n *node) matchField(v ejson.Value, compare func(a, b ejson.Value) int) (bool, error) {
	sub := n.subs[0]
	if n.field == "" {
		return sub.match(v, compare)
	}
	if n.wrong != nil {
		return false, n.wrong
	}
	got, found := get(v, n.path)
	if found == missing {
		return sub.op == "$exists" && sub.arg == false, nil
	}
	if found == noPath {
		return false, nil
	}
	if n.field == "_id" {
		compare = collate.Raw
	}
	return sub.match(got, compare)
}

// matchElements asks the elements of a list or the names of an object; what fails doesn't match.
func (n *node) matchElements(v ejson.Value, compare func(a, b ejson.Value) int) bool {
	var items ejson.Array
	if n.op == "$keyMapMatch" {
		o, _ := v.(ejson.Object)
		for _, m := range o {
			items = append(items, m.Name)
		}
	} else {
		items, _ = v.(ejson.Array)
	}
	all := n.op == "$allMatch"
	for _, e := range items {
		ok, err := n.subs[0].match(e, compare)
		if err != nil {
			return false
		}
		if ok != all {
			return ok
		}
	}
	return all && len(items) > 0
}

func isIn(v ejson.Value, args ejson.Array, compare func(a, b ejson.Value) int) bool {
	values, isList := v.(ejson.Array)
	if !isList {
		values = ejson.Array{v}
	}
	for _, a := range args {
		for _, v := range values {
			if compare(v, a) == 0 {
				return true
			}
		}
	}
	return false
}

func hasAll(v ejson.Value, args ejson.Array) bool {
	values, ok := v.(ejson.Array)
	if !ok || len(args) == 0 {
		return false
	}
	has := true
	for _, a := range args {
		found := false
		for _, v := range values {
			found = found || same(a, v)
		}
		has = has && found
	}
	if !has && len(args) == 1 {
		if list, ok := args[0].(ejson.Array); ok {
			return collate.Raw(list, values) == 0
		}
	}
	return has
}

// same is Erlang's =:=, for which 1 and 1.0 differ.
func same(a, b ejson.Value) bool {
	switch a := a.(type) {
	case ejson.Array:
		b, ok := b.(ejson.Array)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !same(a[i], b[i]) {
				return false
			}
		}
		return true
	case ejson.Object:
		b, ok := b.(ejson.Object)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i].Name != b[i].Name || !same(a[i].Value, b[i].Value) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case ejson.Array, ejson.Object:
		return false
	}
	return a == b
}

func typeOf(v ejson.Value) string {
	switch v.(type) {
	case bool:
		return "boolean"
	case ejson.Number:
		return "number"
	case string:
		return "string"
	case ejson.Array:
		return "array"
	case ejson.Object:
		return "object"
	}
	return "null"
}

func matchMod(v ejson.Value, arg ejson.Array) (bool, error) {
	if !isInteger(v) {
		return false, nil
	}
	var n [3]big.Int
	for i, v := range []ejson.Value{v, arg[0], arg[1]} {
		if _, ok := n[i].SetString(string(v.(ejson.Number)), 10); !ok {
			return false, nil
		}
	}
	if n[1].Sign() == 0 {
		return false, broken("badarith")
	}
	return n[0].Rem(&n[0], &n[1]).Cmp(&n[2]) == 0, nil
}

// beginsWith says whether s begins with prefix, as Erlang's string:prefix does: the last character of the prefix must be a whole one in s too, with no
// combining mark behind it.
func beginsWith(s, prefix string) bool {
	if !strings.HasPrefix(s, prefix) {
		return false
	}
	if prefix == "" {
		return true
	}
	_, n := utf8.DecodeLastRuneInString(prefix)
	cluster, _, _, _ := uniseg.FirstGraphemeClusterInString(s[len(prefix)-n:], -1)
	return len(cluster) == n
}
