// Package collate orders JSON values as CouchDB does in views and in selectors.
//
// The order is null, false, true, numbers by their value, strings, arrays, objects. Arrays are ordered by their elements
// from the first on, and objects by their members as they are stored: the name, then the value. What ends first is less.
//
// Strings are ordered by the Unicode Collation Algorithm with the root collation of CLDR: letters before their
// accents before their case, so that "a" < "A" < "á" < "b", and characters that have no weight, such as control
// characters, count for nothing: "a" and "a\u0001" are equal. The weights are those of ICU 72 (CLDR 42, Unicode 15), as Debian 12
// has it. CouchDB uses the ICU of the system it runs on, so that the order of a newer one differs in what Unicode
// has added or moved since; see docs/decisions/0013-collation.md for what was measured.
//
// Source: CouchDB 3.5, src/couch/priv/couch_ejson_compare; UTS #10 and UTS #35, part 5.
package collate

import (
	"cmp"
	"strings"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Highest is the string that CouchDB puts behind all others, for the ends of ranges. It is no UTF-8.
const Highest = "\xff\xff\xff\xff"

// Version is the collator whose order this is, as CouchDB names it among an index's collator_versions: that of ICU 72. An index of another
// version may have another order in places.
const Version = "153.120"

// Compare orders two values as views do. It is negative if a comes before b, 0 if they are equal in this
// order, and positive if a comes after b. Values are those that ejson.Parse makes; anything else counts as null.
func Compare(a, b ejson.Value) int { return compare(a, b, viewOrder, CompareStrings) }

// Raw orders two values as views with "collation": "raw" and Erlang do: numbers, false, null, true, objects, arrays,
// strings. Strings are ordered by their bytes.
func Raw(a, b ejson.Value) int { return compare(a, b, rawOrder, strings.Compare) }

// The kinds of values, and what comes first in the two orders.
type order struct{ null, no, yes, number, text, array, object int }

var (
	viewOrder = &order{null: 0, no: 1, yes: 2, number: 3, text: 4, array: 5, object: 6}
	// In Erlang they are numbers, the atoms false, null and true, tuples, lists and binaries.
	rawOrder = &order{number: 0, no: 1, null: 2, yes: 3, object: 4, array: 5, text: 6}
)

func (o *order) of(v ejson.Value) int {
	switch v := v.(type) {
	case bool:
		if v {
			return o.yes
		}
		return o.no
	case ejson.Number:
		return o.number
	case string:
		return o.text
	case ejson.Array:
		return o.array
	case ejson.Object:
		return o.object
	}
	return o.null
}

func compare(a, b ejson.Value, o *order, text func(a, b string) int) int {
	if c := cmp.Compare(o.of(a), o.of(b)); c != 0 {
		return c
	}
	switch a := a.(type) {
	case ejson.Number:
		return a.Compare(b.(ejson.Number))
	case string:
		return text(a, b.(string))
	case ejson.Array:
		b := b.(ejson.Array)
		for i := range min(len(a), len(b)) {
			if c := compare(a[i], b[i], o, text); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(a), len(b))
	case ejson.Object:
		b := b.(ejson.Object)
		for i := range min(len(a), len(b)) {
			if c := text(a[i].Name, b[i].Name); c != 0 {
				return c
			}
			if c := compare(a[i].Value, b[i].Value, o, text); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(a), len(b))
	}
	return 0
}
