package mrargs

import (
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/ejson"
)

// read is how the arguments of a view are read and checked.
func read(query, body string, kind Kind) (*Args, error) {
	var b ejson.Value
	if body != "" {
		var err error
		if b, err = ejson.Parse([]byte(body)); err != nil {
			return nil, err
		}
	}
	a, err := ForView(ParseQuery(query), b, body != "")
	if err != nil {
		return nil, err
	}
	if a.Kind = kind; a.Reduce != nil && !*a.Reduce {
		a.Kind = Map
	}
	return a, a.CheckView(false)
}

func TestViewArgs(t *testing.T) {
	a, err := read("startkey=%5B1%5D&endkey=%7B%7D&limit=7&skip=2&descending=true&inclusive_end=FALSE&stale=ok&startkey_docid=a+b%zz", "", Map)
	if err != nil {
		t.Fatal(err)
	}
	if ejson.String(a.Start.Key) != "[1]" || ejson.String(a.End.Key) != "{}" || a.Limit != 7 || a.Skip != 2 || !a.Descending || a.InclusiveEnd ||
		a.Update != UpdateNot || !a.Stable || a.Start.DocID != "a b%zz" || a.End.DocID != "" {
		t.Errorf("%+v", a)
	}
	if a, err = read("group_level=2&reduce=true&limit=3", `{"limit":5,"keys":["one"],"group":true}`, Reduce); err != nil {
		t.Fatal(err)
	}
	if a.Keys != nil || a.Start.Key != "one" || a.End.Key != "one" || a.Limit != 3 || *a.GroupLevel != 2 {
		t.Errorf("one key: %+v", a)
	}
	if a, err = read("", `{"keys":["one",2],"group":true}`, Reduce); err != nil || len(a.Keys) != 2 || *a.GroupLevel != ExactGroups {
		t.Errorf("two keys: %+v, %v", a, err)
	}
	if a, err = read(`keys=["one"]`, ``, Map); err != nil || a.Keys != nil || a.Start.Key != "one" || a.End.DocID != "\xff" || a.Limit != NoLimit {
		t.Errorf("one key in a query string: %+v, %v", a, err)
	}
}

func TestPartitions(t *testing.T) {
	q, err := ParseQuery("startkey=\"a:9\"&endkey=\"z\"&startkey=1").InPartition("b")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ForAllDocs(q, nil, false)
	if err == nil {
		err = a.CheckAllDocs(true)
	}
	if err != nil || a.Start.Key != "b:" || a.End.Key != "b;" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = ForView(q, nil, false); err == nil {
		err = a.CheckView(true)
	}
	if err != nil || a.Start.Key != "a:9" || a.End.Key != "z" || a.Partition != "b" {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = ForView(Query{{"partition", "b"}, {"descending", "true"}}, nil, false)
	if err == nil {
		err = a.CheckView(true)
	}
	if err != nil || a.Start.Key != Highest || !a.End.Set || a.End.Key != nil {
		t.Errorf("%+v, %v", a, err)
	}
	for name, want := range map[string]string{"": "Partition must not be empty", "_x": "Partition must not start with an underscore",
		"a:b": "Partition must not contain a colon", "\xff": "Partition must be valid UTF-8"} {
		_, err := Query(nil).InPartition(name)
		reason(t, name, err, 400, "illegal_partition", want)
	}
	_, err = Query{{"partition", "c"}}.InPartition("b")
	reason(t, "another one", err, 400, "bad_request", "Conflicting value for `partition` in query string")
}

func reason(t *testing.T, what string, err error, status int, name, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Status != status || e.Name != name || e.Reason != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func TestErrors(t *testing.T) {
	for query, want := range map[string]string{
		"limit=x":                     `Invalid value for integer: "x"`,
		"limit=":                      `Invalid value for integer: []`,
		"limit=-1":                    `Invalid value for positive integer: "-1"`,
		"limit=576460752303423488":    "Limit is too large, must not exceed 576460752303423487",
		"skip=%C4":                    "Invalid value for integer: \"\xc4\"",
		"skip=%C4%80":                 "Invalid value for integer: [196,128]",
		"descending=%22yes%22":        `Invalid boolean parameter: "\"yes\""`,
		"stale=no":                    "Invalid value for `stale`.",
		"update=no":                   "Invalid value for `update`.",
		"stable=no":                   "Invalid value for `stable`.",
		"reduce=true":                 "Reduce is invalid for map-only views.",
		"group=true":                  "Invalid use of grouping on a map view.",
		"group=false&group_level=1":   "Can't specify group=false and group_level>0 at the same time",
		"keys=1":                      "`keys` must be an array of strings.",
		`keys=["a","b"]&startkey="a"`: "`keys` is incompatible with `key`, `start_key` and `end_key`",
		"partition=a":                 "`partition` parameter is not supported in this design doc",
	} {
		_, err := read(query, "", Map)
		reason(t, query, err, 400, "query_parse_error", want)
	}
	for query, want := range map[string]string{
		"keys=[1,2]":        "Multi-key fetches for reduce views must use `group=true`",
		"include_docs=true": "`include_docs` is invalid for reduce",
		"conflicts=false":   "`conflicts` is invalid for reduce views.",
	} {
		_, err := read(query, "", Reduce)
		reason(t, query, err, 400, "query_parse_error", want)
	}
	for body, want := range map[string]string{
		"[]": "Request body must be a JSON object", `{"keys":1}`: "`keys` member must be an array.", `{"queries":1}`: "`queries` member must be an array.",
		`{"queries":[]}`: "The `queries` parameter is no longer supported at this endpoint",
	} {
		_, err := read("", body, Map)
		reason(t, body, err, 400, "bad_request", want)
	}
	for body, want := range map[string]string{
		`{"limit":1e10}`: "Invalid value for integer: 1.0e10", `{"limit":"a"}`: `Invalid value for integer: <<"a">>`, `{"limit":{"a":[0.1,[]]}}`: `Invalid value for integer: {[{<<"a">>,[0.1,[]]}]}`,
		`{"skip":[97,98]}`: `Invalid value for integer: "ab"`, `{"reduce":[97,1]}`: "Invalid boolean parameter: [97,1]",
	} {
		_, err := read("", body, Map)
		reason(t, body, err, 400, "query_parse_error", want)
	}
	for _, body := range []string{`{"group":1.5}`, `{"group":{}}`, `{"group":null}`} {
		_, err := read("", body, Map)
		reason(t, body, err, 500, "unknown_error", "function_clause")
	}
	_, err := read("key=a", "", Map)
	reason(t, "no JSON", err, 400, "bad_request", "invalid UTF-8 JSON")
}

func TestQueries(t *testing.T) {
	body, err := ejson.Parse([]byte(`{"queries":[{"limit":1},{"keys":["a","b"]},{"descending":"true"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	list, err := ForQueries(ParseQuery("limit=9&include_docs=true"), body, func(a *Args) error { return a.CheckAllDocs(false) })
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[0].Limit != 1 || list[1].Limit != 9 || len(list[1].Keys) != 2 || !list[2].Descending || !list[2].IncludeDocs || list[2].Keys != nil {
		t.Errorf("%+v %+v %+v", list[0], list[1], list[2])
	}
	for query, want := range map[string]string{`{}`: "POST body must include `queries` parameter.", `{"queries":{}}`: "`queries` member must be an array."} {
		v, _ := ejson.Parse([]byte(query))
		_, err := ForQueries(nil, v, nil)
		reason(t, query, err, 400, "bad_request", want)
	}
}
