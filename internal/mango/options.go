package mango

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/ejson"
)

// Options are the body of _find and of _explain.
type Options struct {
	Selector       *Selector
	UseIndex       []string // a design document, and one of its indexes
	Bookmark       string   // "" for none
	Limit, Skip    int64
	Sort           Sort
	Fields         Fields
	Partition      string // "" for none
	R              int64
	Conflicts      bool
	Stale          bool // "ok"
	Update, Stable bool
	ExecutionStats bool
	AllowFallback  bool

	numbers map[string]ejson.Number // as they were written
}

// DefaultLimit is the limit of a request that has none.
const DefaultLimit = 25

// ParseOptions reads the body of _find or _explain. Its errors are of type *Error.
func ParseOptions(body ejson.Value) (*Options, error) {
	o, ok := body.(ejson.Object)
	if !ok {
		return nil, bad("bad_request", "Request body must be a JSON object")
	}
	out := &Options{Limit: DefaultLimit, R: 1, Sort: Sort{}, Update: true, AllowFallback: true,
		numbers: map[string]ejson.Number{"limit": "25", "skip": "0", "r": "1"}}
	rest := slices.Clone(o)
	for _, f := range optionFields {
		i := slices.IndexFunc(rest, func(m ejson.Member) bool { return m.Name == f.name })
		if i < 0 {
			if f.name == "selector" {
				return nil, bad("missing_required_key", "Missing required key: selector")
			}
			continue
		}
		v := rest[i].Value
		rest = slices.Delete(rest, i, i+1)
		if err := f.read(out, v); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		return nil, bad("invalid_key", "Invalid key %s for this request.", rest[0].Name)
	}
	return out, nil
}

// optionFields are the members in the order in which CouchDB looks at them.
var optionFields = []struct {
	name string
	read func(o *Options, v ejson.Value) error
}{
	{"selector", func(o *Options, v ejson.Value) (err error) { o.Selector, err = Parse(v); return err }},
	{"use_index", func(o *Options, v ejson.Value) (err error) { o.UseIndex, err = parseUseIndex(v); return err }},
	{"bookmark", readBookmark},
	{"limit", natural("limit", func(o *Options) *int64 { return &o.Limit })},
	{"skip", natural("skip", func(o *Options) *int64 { return &o.Skip })},
	{"sort", func(o *Options, v ejson.Value) (err error) { o.Sort, err = ParseSort(v); return err }},
	{"fields", func(o *Options, v ejson.Value) (err error) { o.Fields, err = ParseFields(v); return err }},
	{"partition", func(o *Options, v ejson.Value) (err error) { o.Partition, err = parsePartition(v); return err }},
	{"r", readR},
	{"conflicts", boolean(func(o *Options) *bool { return &o.Conflicts })},
	{"stale", readStale},
	{"update", boolean(func(o *Options) *bool { return &o.Update })},
	{"stable", boolean(func(o *Options) *bool { return &o.Stable })},
	{"execution_stats", boolean(func(o *Options) *bool { return &o.ExecutionStats })},
	{"allow_fallback", boolean(func(o *Options) *bool { return &o.AllowFallback })},
}

func boolean(of func(*Options) *bool) func(*Options, ejson.Value) error {
	return func(o *Options, v ejson.Value) error {
		b, ok := v.(bool)
		if !ok {
			return bad("invalid_boolean", "Invalid boolean value: %s", ejson.Term(v))
		}
		*of(o) = b
		return nil
	}
}

func natural(name string, of func(*Options) *int64) func(*Options, ejson.Value) error {
	return func(o *Options, v ejson.Value) error {
		n, ok := v.(ejson.Number)
		if !ok || !isInteger(n) || strings.HasPrefix(string(n), "-") {
			return bad("invalid_non_neg_integer", "%s is not an integer greater than or equal to zero", ejson.Term(v))
		}
		o.numbers[name], *of(o) = n, clamp(n)
		return nil
	}
}

// clamp is an integer that isn't negative, or the largest there is in place of a larger one.
func clamp(n ejson.Number) int64 {
	i, err := strconv.ParseInt(string(n), 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return i
}

func readR(o *Options, v ejson.Value) error {
	n, ok := v.(ejson.Number)
	if !ok || !isInteger(n) || n.Compare("0") <= 0 {
		return bad("invalid_pos_integer", "%s is not an integer greater than zero", ejson.Term(v))
	}
	o.numbers["r"], o.R = n, clamp(n)
	return nil
}

func readStale(o *Options, v ejson.Value) error {
	switch v {
	case "ok":
		o.Stale = true
	case "false", false:
	default:
		return broken("Unknown Error: mango_opts :: {invalid_ok_or_false_value," + ejson.Term(v) + "}")
	}
	return nil
}

func readBookmark(o *Options, v ejson.Value) error {
	s, ok := v.(string)
	if !ok && v != nil {
		return broken("Unknown Error: mango_opts :: {invalid_bookmark," + ejson.Term(v) + "}")
	}
	o.Bookmark = s
	return nil
}

func parseUseIndex(v ejson.Value) ([]string, error) {
	invalid := bad("invalid_index_name", "Invalid index name: %s", ejson.Term(v))
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		parts := strings.Split(v, "/")
		if len(parts) > 1 && len(parts) < 4 && parts[0] == "_design" {
			parts = parts[1:]
		}
		if len(parts) > 2 {
			return nil, invalid
		}
		return parts, nil
	case ejson.Array:
		var parts []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, invalid
			}
			parts = append(parts, s)
		}
		if len(parts) <= 2 {
			return parts, nil
		}
	}
	return nil, invalid
}

func parsePartition(v ejson.Value) (string, error) {
	s, ok := v.(string)
	switch {
	case !ok:
		return "", bad("illegal_partition", "Partition must be a string")
	case strings.HasPrefix(s, "_"):
		return "", bad("illegal_partition", "Partition must not start with an underscore")
	case strings.Contains(s, ":"):
		return "", bad("illegal_partition", "Partition must not contain a colon")
	}
	return s, nil
}
