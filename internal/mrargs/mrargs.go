// Package mrargs reads the arguments of view queries as CouchDB does, those of _all_docs and its kin too: out of a query string
// and a body, with CouchDB's own words for what is wrong.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_http.erl (parse_params), couch_mrview_util.erl (validate_args),
// src/chttpd/src/chttpd_view.erl and chttpd_db.erl, for which of them is called with what.
package mrargs

import (
	"fmt"
	"math"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Error is what CouchDB answers to arguments that it doesn't take.
type Error struct {
	Status int    // of HTTP
	Name   string // the member "error"
	Reason string // the member "reason"
}

func (e *Error) Error() string { return e.Name + ": " + e.Reason }

func parseError(format string, args ...any) error {
	return &Error{400, "query_parse_error", fmt.Sprintf(format, args...)}
}

func badRequest(reason string) error { return &Error{400, "bad_request", reason} }

// Kind says what is asked for.
type Kind uint8

// What can be asked for.
const (
	Map    Kind = iota // rows
	Reduce             // reductions
)

// Update says what may be done to an index that is behind before it answers.
type Update string

// What may be done to an index.
const (
	UpdateFirst Update = "true"  // it is brought up to date
	UpdateNot   Update = "false" // it answers as it stands
	UpdateLater Update = "lazy"  // the same, and is brought up to date behind it
)

const (
	// NoLimit is the limit of a query that doesn't give one, and the highest that may be given.
	NoLimit = 1<<59 - 1
	// tooLarge is a number of which we don't know how large it is: as a limit CouchDB doesn't take it, else it is as good as any.
	tooLarge = math.MaxInt64
	// ExactGroups is the level of groups where each key is its own.
	ExactGroups = -1
)

// Highest is the key above all keys, where a query of a partition ends.
var Highest ejson.Value = highest{}

type highest struct{}

// Bound is where a range of keys starts or ends.
type Bound struct {
	Set      bool // a key was given
	Key      ejson.Value
	DocIDSet bool // a document id was given
	DocID    string
}

func (b *Bound) set(key ejson.Value) { b.Set, b.Key = true, key }

// Args are the arguments of a query. Start is where rows start in the direction that is asked for.
type Args struct {
	Kind Kind // the caller's, before the checks

	Start, End   Bound
	Keys         ejson.Array // nil if none are asked for
	InclusiveEnd bool
	Descending   bool
	Limit, Skip  int64

	Reduce     *bool // nil if nothing is said of it
	Group      *bool
	GroupLevel *int // checks give it: 0 for none, ExactGroups

	IncludeDocs, Conflicts       bool
	Attachments, AttEncodingInfo bool
	UpdateSeq, Sorted            bool
	Stable                       bool
	Update                       Update
	Partition                    string // "" if there is none; checks set what Start and End are in it

	keysNoList   bool // keys is something else
	conflictsSet bool
}

func newArgs() *Args {
	return &Args{InclusiveEnd: true, Limit: NoLimit, Sorted: true, Update: UpdateFirst}
}

// ForView reads the arguments of a view's query: its query string, and with POST its body. It returns an *Error.
func ForView(q Query, body ejson.Value, post bool) (*Args, error) {
	a := newArgs()
	if !post {
		keys, given, err := q.json("keys")
		if err != nil {
			return nil, err
		}
		if list, ok := keys.(ejson.Array); given && (!ok || len(list) != 1) { // one key is no list of them
			a.setKeys(keys)
		}
		return a, a.parseQuery(q)
	}
	o, err := object(body)
	if err != nil {
		return nil, err
	}
	if queries, ok := o.Get("queries"); ok {
		if _, ok := queries.(ejson.Array); !ok {
			return nil, badRequest("`queries` member must be an array.")
		}
		return nil, badRequest("The `queries` parameter is no longer supported at this endpoint")
	}
	if keys, ok := o.Get("keys"); ok {
		if a.Keys, ok = keys.(ejson.Array); !ok {
			return nil, badRequest("`keys` member must be an array.")
		}
	}
	if err := a.parseBody(o); err != nil {
		return nil, err
	}
	if len(a.Keys) == 1 {
		a.Keys = nil
	}
	return a, a.parseQuery(q)
}

// ForAllDocs is ForView for _all_docs, _design_docs and _local_docs.
func ForAllDocs(q Query, body ejson.Value, post bool) (*Args, error) {
	a := newArgs()
	if !post {
		keys, given, err := q.json("keys")
		if err != nil {
			return nil, err
		}
		if given {
			var ok bool
			if a.Keys, ok = keys.(ejson.Array); !ok {
				return nil, badRequest("`keys` parameter must be an array.")
			}
		}
		return a, a.parseQuery(q)
	}
	o, err := object(body)
	if err != nil {
		return nil, err
	}
	if keys, ok := o.Get("keys"); ok {
		if a.Keys, ok = keys.(ejson.Array); !ok {
			return nil, badRequest("`keys` body member must be an array.")
		}
	}
	if err := a.parseBody(o); err != nil {
		return nil, err
	}
	return a, a.parseQuery(q)
}

// ForQueries reads the arguments of several queries in one body, of a view or of _all_docs: what the query string says holds for
// all of them, but for keys and groups. check is called for each as it was read; its errors are passed on.
func ForQueries(q Query, body ejson.Value, check func(*Args) error) ([]*Args, error) {
	o, err := object(body)
	if err != nil {
		return nil, err
	}
	list, ok := o.Get("queries")
	if !ok {
		return nil, badRequest("POST body must include `queries` parameter.")
	}
	queries, ok := list.(ejson.Array)
	if !ok {
		return nil, badRequest("`queries` member must be an array.")
	}
	all := newArgs()
	if err := all.parseQuery(q); err != nil {
		return nil, err
	}
	var out []*Args
	for _, query := range queries {
		o, ok := query.(ejson.Object)
		if !ok {
			return nil, &Error{500, "unknown_error", "function_clause"}
		}
		a := *all
		a.Keys, a.keysNoList, a.Group, a.GroupLevel = nil, false, nil, nil
		if err := a.parseBody(o); err != nil {
			return nil, err
		}
		if err := check(&a); err != nil {
			return nil, err
		}
		out = append(out, &a)
	}
	return out, nil
}

func object(body ejson.Value) (ejson.Object, error) {
	o, ok := body.(ejson.Object)
	if !ok {
		return nil, badRequest("Request body must be a JSON object")
	}
	return o, nil
}

func (a *Args) setKeys(keys ejson.Value) {
	list, ok := keys.(ejson.Array)
	a.Keys, a.keysNoList = list, !ok
}

// CheckAllDocs checks the arguments of a query of _all_docs and its kin, and makes them whole: document ids that weren't given
// become those that bound nothing, and the range of keys ends at that of the partition. partitioned says whether the database
// is. It returns an *Error.
func (a *Args) CheckAllDocs(partitioned bool) error {
	a.Kind = Map
	if err := a.check(); err != nil {
		return err
	}
	if a.Partition != "" && !partitioned {
		return parseError("`partition` parameter is not supported on this db")
	}
	if err := a.checkLimit(); err != nil || a.Partition == "" {
		return err
	}
	first, last := a.Partition+":", a.Partition+";"
	if a.Descending {
		a.Start.atMost(last)
		a.End.atLeast(first)
	} else {
		a.Start.atLeast(first)
		a.End.atMost(last)
	}
	return nil
}

// atLeast and atMost move a bound to id if it is beyond it. Erlang has strings above all else.
func (b *Bound) atLeast(id string) {
	if s, ok := b.Key.(string); !b.Set || !ok || s < id {
		b.set(id)
	}
}

func (b *Bound) atMost(id string) {
	if s, ok := b.Key.(string); !b.Set || ok && s > id {
		b.set(id)
	}
}

// CheckView is CheckAllDocs for a view; partitioned says whether its index is. In one that is, bounds that weren't given become
// nil and Highest: keys are in the partition then. Kind must be set.
func (a *Args) CheckView(partitioned bool) error {
	if err := a.checkLimit(); err != nil {
		return err
	}
	if err := a.check(); err != nil {
		return err
	}
	switch {
	case partitioned && a.Partition == "":
		return parseError("`partition` parameter is mandatory for queries to this view.")
	case !partitioned && a.Partition != "":
		return parseError("`partition` parameter is not supported in this design doc")
	case !partitioned || a.Keys != nil:
		return nil
	}
	low, high := &a.Start, &a.End
	if a.Descending {
		low, high = high, low
	}
	if !low.Set {
		low.set(nil)
	}
	if !high.Set {
		high.set(Highest)
	}
	return nil
}

func (a *Args) checkLimit() error {
	if a.Limit > NoLimit {
		return parseError("Limit is too large, must not exceed %d", int64(NoLimit))
	}
	return nil
}

// check is what all queries have in common.
func (a *Args) check() error {
	level, err := a.level()
	if err != nil {
		return err
	}
	single := len(a.Keys) == 1 && a.Start.Set && a.End.Set && ejson.String(a.Start.Key) == ejson.String(a.Keys[0]) && ejson.String(a.End.Key) == ejson.String(a.Keys[0])
	switch {
	case a.Kind == Map && a.Reduce != nil && *a.Reduce:
		return parseError("Reduce is invalid for map-only views.")
	case a.Kind == Reduce && level != ExactGroups && a.Keys != nil:
		return parseError("Multi-key fetches for reduce views must use `group=true`")
	case a.keysNoList:
		return parseError("`keys` must be an array of strings.")
	case len(a.Keys) > 0 && !single && (a.Start.Set || a.End.Set):
		return parseError("`keys` is incompatible with `key`, `start_key` and `end_key`")
	case a.Kind == Map && level != 0:
		return parseError("Invalid use of grouping on a map view.")
	case a.Kind == Reduce && a.IncludeDocs:
		return parseError("`include_docs` is invalid for reduce")
	case a.Kind == Reduce && a.conflictsSet:
		return parseError("`conflicts` is invalid for reduce views.")
	}
	a.GroupLevel = &level
	first, last := &a.Start, &a.End
	if a.Descending {
		first, last = last, first
	}
	if !first.DocIDSet {
		first.DocID = ""
	}
	if !last.DocIDSet {
		last.DocID = "\xff"
	}
	return nil
}

// level is the level of groups that is asked for.
func (a *Args) level() (int, error) {
	switch {
	case a.Group != nil && !*a.Group && a.GroupLevel != nil && *a.GroupLevel > 0:
		return 0, parseError("Can't specify group=false and group_level>0 at the same time")
	case a.GroupLevel != nil:
		return *a.GroupLevel, nil
	case a.Group != nil && *a.Group:
		return ExactGroups, nil
	}
	return 0, nil
}
