package mango

import (
	"net/http"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/collate"
	"github.com/slipcover/slipcover/internal/ejson"
)

// Scan says which documents of a database are looked at, in the order of their ids' bytes. The keys mostly are strings, but may be any value: all
// ids come after null and numbers and before what follows strings.
type Scan struct {
	Start, End ejson.Value // the first and the last one, End the lower one if Descending
	Descending bool
	// Empty says that no document can be meant, so that none is looked at.
	Empty bool
}

// lastID is behind all ids.
const lastID = "\xff"

// Before says whether an id comes before the first one.
func (s Scan) Before(id string) bool { return s.compare(id, s.Start) < 0 }

// After says whether an id comes after the last one, so that the scan is over.
func (s Scan) After(id string) bool { return s.compare(id, s.End) > 0 }

func (s Scan) compare(id string, key ejson.Value) int {
	if s.Descending {
		return collate.Raw(key, id)
	}
	return collate.Raw(id, key)
}

// scan is how the options' documents are looked up, with the start of a bookmark if there is one.
func (o *Options) scan() (Scan, error) {
	r, err := idRange(o.Selector.normal)
	if err != nil {
		return Scan{}, err
	}
	s := Scan{Descending: o.Sort.descending()}
	if r == nil || isNoop(o.Selector.normal) {
		s.Empty = true // both keys stay null
		return s, nil
	}
	s.Start, s.End = r.low.value, r.high.value
	if r.low.end != 0 {
		s.Start = ""
	}
	if r.high.end != 0 {
		s.End = lastID
	}
	if s.Descending {
		s.Start, s.End = s.End, s.Start
	}
	return s, nil
}

// within narrows a scan to the documents of a partition.
func (s Scan) within(partition string) Scan {
	low, high := partition+":", partition+";"
	clamp := func(v ejson.Value) ejson.Value {
		if collate.Raw(v, low) < 0 {
			return low
		}
		if collate.Raw(v, high) > 0 {
			return high
		}
		return v
	}
	s.Start, s.End = clamp(s.Start), clamp(s.End)
	return s
}

// isNoop says whether a selector is one operator with an empty list, for which CouchDB looks at nothing.
func isNoop(o ejson.Object) bool {
	if len(o) != 1 {
		return false
	}
	list, ok := o[0].Value.(ejson.Array)
	return ok && len(list) == 0 && slices.Contains([]string{"$all", "$and", "$or", "$in"}, o[0].Name)
}

// bound is one end of a range of values; end is -1 and 1 for what comes before and after all values.
type bound struct {
	op    string
	value ejson.Value
	end   int
}

type valueRange struct{ low, high bound }

// idRange is the range of the field _id that a selector leaves, nil if none. The order is that of views, as in CouchDB, though ids have another.
func idRange(o ejson.Object) (*valueRange, error) {
	var id *valueRange
	for _, field := range indexable(o) {
		r, err := narrow(o, field, &valueRange{bound{op: "$gt", end: -1}, bound{op: "$lt", end: 1}})
		if err != nil {
			return nil, err
		}
		if r == nil { // then CouchDB forgets the ranges that it has found
			if field == "_id" {
				return nil, nil
			}
			id = nil
			break
		}
		if field == "_id" {
			id = r
		}
	}
	if id == nil {
		id = &valueRange{bound{op: "$gt"}, bound{op: "$lt", end: 1}}
	}
	return id, nil
}

// indexable returns the fields that a selector compares with something, in their order.
func indexable(o ejson.Object) []string {
	var out []string
	if len(o) == 0 {
		return nil
	}
	name := o[0].Name
	switch {
	case name == "$and":
		for _, a := range o[0].Value.(ejson.Array) {
			out = append(out, indexable(a.(ejson.Object))...)
		}
	case !strings.HasPrefix(name, "$"):
		switch o[0].Value.(ejson.Object)[0].Name {
		case "$lt", "$lte", "$eq", "$gt", "$gte", "$beginsWith", "$exists":
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// fieldsOf returns all fields of a selector.
func fieldsOf(o ejson.Object) []string {
	if len(o) == 0 {
		return nil
	}
	list, ok := o[0].Value.(ejson.Array)
	if !ok || !strings.HasPrefix(o[0].Name, "$") {
		return []string{o[0].Name}
	}
	var out []string
	for _, a := range list {
		out = append(out, fieldsOf(a.(ejson.Object))...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func narrow(o ejson.Object, field string, r *valueRange) (*valueRange, error) {
	if r == nil {
		return nil, nil
	}
	var err error
	if o[0].Name == "$and" {
		for _, a := range o[0].Value.(ejson.Array) {
			if r, err = narrow(a.(ejson.Object), field, r); err != nil {
				return nil, err
			}
		}
		return r, nil
	}
	if o[0].Name != field {
		return r, nil
	}
	c := o[0].Value.(ejson.Object)[0]
	if c.Name != "$beginsWith" {
		return r.by(c.Name, c.Value), nil
	}
	prefix := c.Value.(string)
	if r = r.by("$gte", prefix); r == nil {
		return nil, &Error{http.StatusInternalServerError, "badmatch", "empty"}
	}
	return r.by("$lte", prefix+"\uffff"), nil
}

// by narrows a range by one comparison; nil is the empty range.
func (r *valueRange) by(op string, v ejson.Value) *valueRange {
	low, high := r.low.compare(v), r.high.compare(v)
	only := &valueRange{bound{op: "$eq", value: v}, bound{op: "$eq", value: v}}
	lowIncluded := r.low.op == "$gte" || r.low.op == "$eq"
	highIncluded := r.high.op == "$lte" || r.high.op == "$eq"
	switch op {
	case "$lt", "$lte":
		switch {
		case low < 0 || low == 0 && (op == "$lt" || !lowIncluded):
			return nil
		case low == 0:
			return only
		case high < 0 || high == 0 && op == "$lt":
			return &valueRange{r.low, bound{op: op, value: v}}
		}
	case "$eq":
		switch {
		case low < 0 || low == 0 && !lowIncluded || low > 0 && (high > 0 || high == 0 && !highIncluded):
			return nil
		}
		return only
	case "$gt", "$gte":
		switch {
		case low < 0 || low == 0 && op == "$gte":
			return r
		case low == 0 || high < 0:
			return &valueRange{bound{op: op, value: v}, r.high}
		case high > 0 || op == "$gt" || !highIncluded:
			return nil
		}
		return only
	}
	return r
}

// compare orders a value against a bound.
func (b bound) compare(v ejson.Value) int {
	if b.end != 0 {
		return -b.end
	}
	return collate.Compare(v, b.value)
}
