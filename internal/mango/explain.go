package mango

import (
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/ejson"
)

func member(name string, v ejson.Value) ejson.Member { return ejson.Member{Name: name, Value: v} }

// allDocs describes the index that each database has.
func allDocs() ejson.Object {
	return ejson.Object{
		member("ddoc", nil), member("name", "_all_docs"), member("type", "special"),
		member("def", one("fields", ejson.Array{one("_id", "asc")})),
	}
}

// unusable says why the order of ids can't serve the options, "" if it can.
func (o *Options) unusable() string {
	switch {
	case len(o.Sort) == 0:
		return ""
	case !slices.Contains(indexable(o.Selector.normal), "_id"):
		return "field_mismatch"
	case len(o.Sort) != 1 || o.Sort[0].Name != "_id":
		return "sort_order_mismatch"
	}
	return ""
}

// withoutFallback is the error if other indexes than that of all documents are asked for and no other may be taken. That of all documents can't be
// asked for.
func (o *Options) withoutFallback() error {
	if o.AllowFallback {
		return nil
	}
	switch name := o.UseIndex; len(name) {
	case 0:
		return bad("invalid_index", "You must specify an index with the `use_index` parameter.")
	case 1:
		return bad("invalid_index", "_design/%s specified by `use_index` could not be found or it is not suitable.", ddocName(name[0]))
	default:
		return bad("invalid_index", "_design/%s, %s specified by `use_index` could not be found or it is not suitable.", ddocName(name[0]), name[1])
	}
}

func ddocName(s string) string { return strings.TrimPrefix(s, "_design/") }

func (o *Options) bookmark() string {
	if o.Bookmark == "" {
		return "nil"
	}
	return o.Bookmark
}

// fields is the list of fields in JSON.
func (o *Options) fields() ejson.Array { return append(ejson.Array{}, o.Fields.json...) }

func (o *Options) json() ejson.Object {
	useIndex := ejson.Array{}
	for _, s := range o.UseIndex {
		useIndex = append(useIndex, s)
	}
	stale := ejson.Value(false)
	if o.Stale {
		stale = "ok"
	}
	return ejson.Object{
		member("use_index", useIndex), member("bookmark", o.bookmark()), member("limit", o.numbers["limit"]), member("skip", o.numbers["skip"]),
		member("sort", o.Sort.json()), member("fields", o.fields()), member("partition", o.Partition), member("r", o.numbers["r"]),
		member("conflicts", o.Conflicts), member("stale", stale), member("update", o.Update), member("stable", o.Stable),
		member("execution_stats", o.ExecutionStats), member("allow_fallback", o.AllowFallback),
	}
}

// Explain is what _explain answers for a database that has no indexes of its own.
func (o *Options) Explain(db string, partitioned bool) (ejson.Object, error) {
	if err := o.withoutFallback(); err != nil {
		return nil, err
	}
	index, candidates := ejson.Value(allDocs()), ejson.Array{}
	reason := o.unusable()
	if reason != "" {
		candidates = ejson.Array{ejson.Object{
			member("index", index),
			member("analysis", ejson.Object{
				member("usable", false), member("reasons", ejson.Array{one("name", reason)}), member("ranking", ejson.Int(1)), member("covering", nil),
			}),
		}}
		index = nil
	}
	out := ejson.Object{
		member("dbname", db), member("index", index), member("partitioned", partitioned), member("selector", o.Selector.normal), member("opts", o.json()),
		member("limit", o.numbers["limit"]), member("skip", o.numbers["skip"]), member("fields", o.fields()), member("index_candidates", candidates),
		member("selector_hints", ejson.Array{o.hints()}),
	}
	if reason != "" {
		return out, nil
	}
	s, err := o.scan()
	if err != nil {
		return nil, err
	}
	return append(out, member("mrargs", o.mrargs(s)), member("covering", false)), nil
}

func (o *Options) mrargs(s Scan) ejson.Object {
	direction := "fwd"
	if s.Descending {
		direction = "rev"
	}
	partition := ejson.Value(nil)
	if o.Partition != "" {
		partition = o.Partition
	}
	conflicts := ejson.Value("undefined")
	if o.Conflicts {
		conflicts = true
	}
	key := func(v ejson.Value) ejson.Value {
		if v == lastID {
			return "<MAX>"
		}
		return v
	}
	return ejson.Object{
		member("include_docs", o.R == 1), member("view_type", "map"), member("reduce", false), member("partition", partition),
		member("start_key", key(s.Start)), member("end_key", key(s.End)), member("direction", direction),
		member("stable", o.Stable || o.Stale), member("update", o.Update && !o.Stale), member("conflicts", conflicts),
	}
}

// hints tells which fields an index could serve. The type of a field's values, after a colon, is for indexes of text.
func (o *Options) hints() ejson.Object {
	var can []string
	for _, f := range indexable(o.Selector.normal) {
		f, _, _ = strings.Cut(f, ":")
		can = append(can, f)
	}
	slices.Sort(can)
	can = slices.Compact(can)
	indexed, rest := ejson.Array{}, ejson.Array{}
	for _, f := range can {
		indexed = append(indexed, f)
	}
	for _, f := range fieldsOf(o.Selector.normal) {
		if !slices.Contains(can, f) {
			rest = append(rest, f)
		}
	}
	return ejson.Object{member("type", "json"), member("indexable_fields", indexed), member("unindexable_fields", rest)}
}
