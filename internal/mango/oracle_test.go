package mango_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/testenv"
)

var update = flag.Bool("update", false, "write a server's answers anew into testdata")

const recorded = "testdata/answers.json"

func parse(t testing.TB, b []byte) ejson.Value {
	t.Helper()
	v, err := ejson.Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}

func o(name string, v ejson.Value) ejson.Object { return ejson.Object{{Name: name, Value: v}} }

// answers are what a server or we say to one body: status and JSON.
type answers struct{ find, explain string }

// ours is what we say.
func ours(body ejson.Value, docs []ejson.Object, partitioned bool) (a answers) {
	failure := func(err error) string {
		var e *mango.Error
		if !errors.As(err, &e) {
			return err.Error()
		}
		return fmt.Sprintf("%d %s", e.Status, ejson.String(ejson.Object{{Name: "error", Value: e.Name}, {Name: "reason", Value: e.Reason}}))
	}
	options, err := mango.ParseOptions(body)
	if err != nil {
		return answers{failure(err), failure(err)}
	}
	explained, err := options.Explain("find", partitioned)
	if err != nil {
		a.explain = failure(err)
	} else {
		a.explain = "200 " + ejson.String(explained)
	}
	found, err := find(options, docs, partitioned)
	if err != nil {
		a.find = failure(err)
	} else {
		a.find = "200 " + ejson.String(found)
	}
	return a
}

// find answers _find with documents in the order of their ids.
func find(options *mango.Options, docs []ejson.Object, partitioned bool) (ejson.Object, error) {
	c, err := options.Find(partitioned)
	if err != nil {
		return nil, err
	}
	rows := ejson.Array{}
	docs = slices.Clone(docs)
	if c.Scan.Descending {
		slices.Reverse(docs)
	}
	for _, d := range docs {
		id, _ := d.Get("_id")
		if c.Scan.Before(id.(string)) {
			continue
		}
		if !c.More() || c.Scan.After(id.(string)) {
			break
		}
		row, ok, err := c.Row(id.(string), d)
		if err != nil {
			return nil, err
		}
		if ok {
			rows = append(rows, row)
		}
	}
	return append(o("docs", rows), c.End(0)...), nil
}

var lineBreak = regexp.MustCompile(`\n +`)

// plain is an answer without what can't be the same: time, references, and how bookmarks are compressed.
func plain(t testing.TB, s string) string {
	t.Helper()
	status, text, _ := strings.Cut(s, " ")
	v, ok := parse(t, []byte(text)).(ejson.Object)
	if !ok {
		return s
	}
	v = slices.DeleteFunc(v, func(m ejson.Member) bool { return m.Name == "ref" })
	if reason, ok := v.Get("reason"); ok { // with the line breaks of Erlang's ~p
		v.Set("reason", lineBreak.ReplaceAllString(reason.(string), ""))
	}
	if stats, ok := v.Get("execution_stats"); ok {
		stats := stats.(ejson.Object)
		stats.Set("execution_time_ms", ejson.Number("0"))
	}
	if b, ok := v.Get("bookmark"); ok && b != "nil" {
		id, err := mango.DecodeBookmark(b.(string))
		if err != nil {
			t.Fatalf("the bookmark of %s: %v", s, err)
		}
		v.Set("bookmark", id)
	}
	return status + " " + ejson.String(v)
}

func check(t *testing.T, body ejson.Value, theirs answers, docs []ejson.Object, partitioned bool) bool {
	t.Helper()
	a := ours(body, docs, partitioned)
	ok := true
	if got, want := plain(t, a.find), plain(t, theirs.find); got != want {
		t.Errorf("_find %s:\n got %s\nwant %s", ejson.String(body), got, want)
		ok = false
	}
	if got, want := plain(t, a.explain), plain(t, theirs.explain); got != want {
		t.Errorf("_explain %s:\n got %s\nwant %s", ejson.String(body), got, want)
		ok = false
	}
	return ok
}

// A real server's answers hold, as they were recorded: CouchDB 3.5.0.
func TestRecordedAnswers(t *testing.T) {
	b, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) < 500 {
		t.Fatalf("only %d lines", len(lines))
	}
	var docs []ejson.Object
	for _, d := range parse(t, lines[0]).(ejson.Array) {
		docs = append(docs, d.(ejson.Object))
	}
	for _, line := range lines[1:] {
		a := parse(t, line).(ejson.Array)
		check(t, a[0], answers{a[1].(string), a[2].(string)}, docs, false)
	}
}

// server is a database on a running CouchDB.
type server struct {
	*testenv.Couch
	t    *testing.T
	docs []ejson.Object
}

func newServer(t *testing.T, docs ejson.Array, query string) *server {
	t.Helper()
	s := &server{Couch: testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"cluster": {"q": "1"}}}), t: t}
	if err := s.Put("/find"+query, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Post("/find/_bulk_docs", json.RawMessage(ejson.String(o("docs", docs))), nil); err != nil {
		t.Fatal(err)
	}
	var all []byte
	if err := s.Do(t.Context(), http.MethodGet, "/find/_all_docs?include_docs=true", nil, &all); err != nil {
		t.Fatal(err)
	}
	rows, _ := parse(t, all).(ejson.Object).Get("rows")
	for _, r := range rows.(ejson.Array) {
		d, _ := r.(ejson.Object).Get("doc")
		s.docs = append(s.docs, d.(ejson.Object))
	}
	return s
}

// ask returns the status and the answer.
func (s *server) ask(path string, body ejson.Value) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.URL+path, strings.NewReader(ejson.String(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth(s.Admin, s.Password)
	resp, err := cmp.Or(s.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if v, bad := ejson.Parse(b); err != nil || bad != nil {
		return fmt.Sprintf("0 %s", ejson.String(o("broken", fmt.Sprint(v, err, bad))))
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, ejson.String(parse(s.t, b)))
}

func TestServerAnswers(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	g := &generator{r: rand.New(rand.NewPCG(seed, 1))}
	s := newServer(t, g.docs(40), "")
	out := []ejson.Value{}
	all := ejson.Array{}
	for _, d := range s.docs {
		all = append(all, d)
	}
	out = append(out, all)
	bad := 0
	ask := func(body ejson.Value) {
		theirs := answers{s.ask("/find/_find", body), s.ask("/find/_explain", body)}
		if !check(t, body, theirs, s.docs, false) {
			bad++
		}
		if v, ok := parse(t, []byte(theirs.find[4:])).(ejson.Object); ok {
			if b, ok := v.Get("bookmark"); ok {
				g.bookmarks = append(g.bookmarks, b.(string))
			}
		}
		out = append(out, ejson.Array{body, theirs.find, theirs.explain})
	}
	for _, body := range special {
		ask(parse(t, []byte(body)))
	}
	n := testenv.Rounds(1500)
	if *update {
		n = 400
	}
	for range n {
		ask(g.body())
		if bad > 10 {
			t.Fatal("and so on")
		}
	}
	// A server goes on from our bookmarks, too.
	for _, d := range s.docs {
		id, _ := d.Get("_id")
		ask(ejson.Object{{Name: "selector", Value: ejson.Object{}}, {Name: "bookmark", Value: mango.EncodeBookmark(id.(string))}, {Name: "limit", Value: ejson.Number("2")}})
	}
	if !*update || t.Failed() {
		return
	}
	var b []byte
	for _, v := range out {
		b = append(ejson.Append(b, v), '\n')
	}
	if err := os.WriteFile(recorded, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// In a partitioned database a partition narrows the scan.
func TestServerPartitions(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	g := &generator{r: rand.New(rand.NewPCG(seed, 3))}
	docs := g.docs(40)
	for i, d := range docs[2:] {
		d := d.(ejson.Object)
		id, _ := d.Get("_id")
		d.Set("_id", pick(g, "p", "q", "pq", "É")+":"+id.(string))
		docs[i+2] = d
	}
	s := newServer(t, docs, "?partitioned=true")
	for range testenv.Rounds(400) {
		body := g.body().(ejson.Object)
		if g.r.IntN(2) == 0 {
			body.Set("selector", o("_id", o(pick(g, "$gt", "$lt", "$gte", "$beginsWith"), pick(g, "p:", "p:c", "p;", "q:", "q:B", "a", "r", "É:"))))
			if g.r.IntN(2) == 0 {
				body.Set("sort", ejson.Array{o("_id", pick(g, "asc", "desc"))})
			}
		}
		if g.r.IntN(4) > 0 {
			body.Set("partition", pick(g, "p", "q", "pq", "É", "x"))
		}
		if !check(t, body, answers{s.ask("/find/_find", body), s.ask("/find/_explain", body)}, s.docs, true) {
			return
		}
	}
}

// A server's _changes with a selector names the documents that match.
func TestServerFilter(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	g := &generator{r: rand.New(rand.NewPCG(seed, 2))}
	s := newServer(t, g.docs(40), "")
	matched, failed := 0, 0
	for range testenv.Rounds(300) {
		selector := g.selector(2)
		if g.r.IntN(20) == 0 {
			selector = g.value(1)
		}
		filter, err := mango.ParseFilter(selector)
		var e *mango.Error
		if errors.As(err, &e) {
			failed++
			got := fmt.Sprintf("%d %s", e.Status, ejson.String(ejson.Object{{Name: "error", Value: e.Name}, {Name: "reason", Value: e.Reason}}))
			if theirs := plain(t, s.ask("/find/_changes?filter=_selector", o("selector", selector))); got != theirs {
				t.Errorf("%s:\n got %s\nwant %s", ejson.String(selector), got, theirs)
			}
			continue
		}
		ids, err := matching(filter, s.docs)
		if err != nil {
			continue // the server's answer breaks off, and so does what it says next
		}
		theirs := s.ask("/find/_changes?filter=_selector", o("selector", selector))
		var want []string
		results, _ := parse(t, []byte(theirs[4:])).(ejson.Object).Get("results")
		for _, r := range results.(ejson.Array) {
			id, _ := r.(ejson.Object).Get("id")
			want = append(want, id.(string))
		}
		slices.Sort(want)
		matched += len(want)
		if !slices.Equal(ids, want) {
			t.Errorf("%s: got %v, want %v", ejson.String(selector), ids, want)
		}
	}
	if matched == 0 || failed == 0 {
		t.Errorf("%d documents, %d errors", matched, failed)
	}
}

func matching(s *mango.Selector, docs []ejson.Object) (ids []string, err error) {
	for _, d := range docs {
		ok, err := s.Match(d)
		if err != nil {
			return nil, err
		}
		if ok {
			id, _ := d.Get("_id")
			ids = append(ids, id.(string))
		}
	}
	return ids, nil
}

// special are bodies that chance doesn't make, or not often enough.
var special = strings.Split(strings.TrimSpace(`
[1]
{}
{"foo":1}
{"selector":5}
{"selector":{}}
{"selector":{},"foo":1,"bar":2}
{"selector":{"a":{"":1}}}
{"selector":{"":1}}
{"selector":{"$gt":1}}
{"selector":{"$and":[]}}
{"selector":{"$or":[]}}
{"selector":{"$nor":[]}}
{"selector":{"$and":[{"$or":[]}]}}
{"selector":{"n":{"$mod":[0,1]}}}
{"selector":{"n":{"$mod":[-3,-1]}}}
{"selector":{"$text":"x"}}
{"selector":{"$text":[]}}
{"selector":{"$nor":[{"$text":"x"}]}}
{"selector":{"x":{"$text":"x"}}}
{"selector":{"$where":1}}
{"selector":{"a":{"$near":1}}}
{"selector":{"$default":{"$text":1}}}
{"selector":{"$default":1}}
{"selector":{"_id":{"$and":[{"$lt":"a"},{"$beginsWith":"b"}]}}}
{"selector":{"a":{"$gt":1,"$lt":0},"_id":{"$gt":"b"}}}
{"selector":{"_id":{"$gt":5}}}
{"selector":{"_id":{"$lt":5}}}
{"selector":{"_id":{"$gt":[]}}}
{"selector":{"_id":{"$lt":{}}}}
{"selector":{"_id":{"$gt":"a","$lt":"B"}}}
{"selector":{"_id":{"$eq":"b","$gte":"b"}}}
{"selector":{"_id":{"$gt":"b"}},"sort":[{"_id":"desc"}]}
{"selector":{"_id":{"$gt":"b"}},"sort":["_id","_id"]}
{"selector":{"_id":{"$gt":"b"}},"sort":["a"]}
{"selector":{"a":1},"sort":["_id"]}
{"selector":{"a":1},"partition":"x"}
{"selector":{"a":1},"partition":"_x"}
{"selector":{"a":1},"partition":"x:y"}
{"selector":{"a":1},"partition":5}
{"selector":{"a":{"$gt":null}},"fields":[{"a":1}]}
{"selector":{"a":{"$gt":null}},"fields":["a..b"]}
{"selector":{"a":{"$gt":null}},"fields":[5]}
{"selector":{"a":{"$gt":null}},"fields":"a"}
{"selector":{"a":{"$gt":null}},"fields":["b\\.c","b.c.0","b.c.1"]}
{"selector":{"b.c":{"$gt":0}},"fields":["b.c","b.c.1"]}
{"selector":{"b.c":{"$gt":0}},"fields":["b.c","b.c.0"]}
{"selector":{"a":1},"sort":[{"a":"foo"}]}
{"selector":{"a":1},"sort":["a",{"b":"desc"}]}
{"selector":{"a":1},"sort":[1.5]}
{"selector":{"a":1},"sort":[[97,98,34]]}
{"selector":{"a":1},"sort":["é",1e300]}
{"selector":{"a":1},"sort":{"a":"é\u0001"}}
{"selector":{"a":1},"sort":[""]}
{"selector":{"a":1},"sort":[{"a":"asc","b":"asc"}]}
{"selector":{"a":1},"bookmark":"abc"}
{"selector":{"a":1},"bookmark":"nil"}
{"selector":{"a":1},"bookmark":null}
{"selector":{"a":1},"bookmark":{"a":1}}
{"selector":{"a":1},"limit":-1}
{"selector":{"a":1},"limit":1.0}
{"selector":{"a":1},"limit":12345678901234567890}
{"selector":{},"limit":0,"execution_stats":true}
{"selector":{},"limit":0,"skip":3,"execution_stats":true}
{"selector":{},"skip":3,"r":3,"limit":4,"execution_stats":true}
{"selector":{},"r":0}
{"selector":{},"r":"x"}
{"selector":{},"stale":"ok"}
{"selector":{},"stale":"false"}
{"selector":{},"stale":"x"}
{"selector":{},"stale":true}
{"selector":{},"update":false,"stable":true,"conflicts":true}
{"selector":{},"update":1}
{"selector":{},"allow_fallback":false}
{"selector":{},"allow_fallback":false,"use_index":"é"}
{"selector":{},"allow_fallback":false,"use_index":["_design/é","x"]}
{"selector":{},"allow_fallback":false,"use_index":"_all_docs"}
{"selector":{},"use_index":""}
{"selector":{},"use_index":null}
{"selector":{},"use_index":[]}
{"selector":{},"use_index":["_design/x"]}
{"selector":{},"use_index":"_design/x/y"}
{"selector":{},"use_index":"_design/x/y/z"}
{"selector":{},"use_index":["a","b","c"]}
{"selector":{},"use_index":["a",1]}
{"selector":{},"use_index":5}
{"selector":{"a":{"$regex":"("}}}
{"selector":{"a":{"$regex":5}}}
{"selector":{"a":{"$beginsWith":5}}}
{"selector":{"a":{"$in":{"x":["é","ab",1.5,true,null,12345678901234567890,[],{},1e-7,-0.001]}}}}
{"selector":{"a":{"$not":{"$elemMatch":{"$nor":[{"$gt":1}]}}}}}
{"selector":{"a":{"$elemMatch":{"$not":{"$gt":1}}}}}
{"selector":{"c:string":{"$gt":1},"c:x":{"$in":[1]}}}
`), "\n")

// generator makes documents and requests, from few names and values so that they have to do with each other.
type generator struct {
	r         *rand.Rand
	bookmarks []string
}

func pick[T any](g *generator, from ...T) T { return from[g.r.IntN(len(from))] }

func (g *generator) docs(n int) ejson.Array {
	out := ejson.Array{
		ejson.Object{{Name: "_id", Value: "_design/d"}, {Name: "a", Value: ejson.Number("1")}},
		ejson.Object{{Name: "_id", Value: "_design/e"}, {Name: "n", Value: "x"}},
	}
	for i := range n {
		d := ejson.Object{{Name: "_id", Value: fmt.Sprintf("%s%02d", pick(g, "a", "B", "c", "É", "~", "1"), i)}}
		for range 1 + g.r.IntN(4) {
			d.Set(g.name(), g.value(2))
		}
		out = append(out, d)
	}
	return out
}

func (g *generator) name() string { return pick(g, "a", "b", "c", "d", "n", "é", "x.y", "0") }

func (g *generator) field() string {
	switch g.r.IntN(12) {
	case 0:
		return "_id"
	case 1:
		return g.name() + "." + pick(g, "0", "1", "-1", "a", "b", "+1", "07")
	case 2:
		return g.name() + "." + g.name() + "." + g.name()
	case 3:
		return `x\.y`
	case 4:
		return pick(g, "a.", ".a", "a..b", `a\\b`, "_rev", "_Z", "Z")
	}
	return g.name()
}

func (g *generator) text() string {
	return pick(g, "", "a", "A", "b", "B", "é", "e\u0301", "e", "ab", "a b", "aé", "Z", "10", "9", "a\u0001", "a\u0301", "日本", "\n", "a\n", "😀", "x-y", "c03", "É05")
}

func (g *generator) number() ejson.Number {
	return pick[ejson.Number](g, "0", "1", "1.0", "2", "-1", "10", "1.5", "3", "7", "12345678901234567890", "1.0e+300", "-7")
}

func (g *generator) value(depth int) ejson.Value {
	switch n := g.r.IntN(10); {
	case n == 0:
		return pick[ejson.Value](g, nil, true, false)
	case n < 4:
		return g.number()
	case n < 7 || depth == 0:
		return g.text()
	case n < 9:
		out := ejson.Array{}
		for range g.r.IntN(4) {
			out = append(out, g.value(depth-1))
		}
		return out
	}
	out := ejson.Object{}
	for range g.r.IntN(3) {
		out.Set(g.name(), g.value(depth-1))
	}
	return out
}

func (g *generator) selectors(depth int) ejson.Array {
	out := ejson.Array{}
	for range g.r.IntN(4) {
		out = append(out, g.selector(depth))
	}
	return out
}

func (g *generator) selector(depth int) ejson.Value {
	out := ejson.Object{}
	for range pick(g, 1, 1, 1, 2, 3) {
		if depth > 0 && g.r.IntN(4) == 0 {
			op := pick(g, "$and", "$or", "$nor", "$not")
			if op == "$not" {
				out.Set(op, g.selector(depth-1))
			} else {
				out.Set(op, g.selectors(depth-1))
			}
			continue
		}
		out.Set(g.field(), g.condition(depth))
	}
	return out
}

func (g *generator) condition(depth int) ejson.Value {
	if g.r.IntN(8) == 0 {
		return g.value(1)
	}
	if g.r.IntN(25) == 0 { // anything for anything
		op := pick(g, "$and", "$or", "$nor", "$not", "$in", "$nin", "$all", "$exists", "$type", "$mod", "$regex", "$size", "$beginsWith", "$elemMatch", "$allMatch", "$keyMapMatch", "$text", "$foo", "$")
		return o(op, g.value(1))
	}
	out := ejson.Object{}
	for range pick(g, 1, 1, 1, 2) {
		name, v := g.operator(depth)
		out.Set(name, v)
	}
	return out
}

func (g *generator) operator(depth int) (string, ejson.Value) {
	switch g.r.IntN(13) {
	default:
		return pick(g, "$lt", "$lte", "$eq", "$ne", "$gte", "$gt"), g.value(1)
	case 4:
		list := ejson.Array{}
		for range g.r.IntN(4) {
			list = append(list, g.value(1))
		}
		return pick(g, "$in", "$nin", "$all"), list
	case 5:
		return "$exists", g.r.IntN(2) == 0
	case 6:
		return "$type", pick(g, "null", "boolean", "number", "string", "array", "object", "foo")
	case 7:
		return "$mod", ejson.Array{pick[ejson.Number](g, "2", "3", "-2", "10"), pick[ejson.Number](g, "0", "1", "-1")}
	case 8:
		return "$size", pick[ejson.Number](g, "0", "1", "2", "3")
	case 9:
		return "$beginsWith", g.text()
	case 10:
		return "$regex", g.regex()
	case 11:
		if depth > 0 {
			return pick(g, "$elemMatch", "$allMatch", "$keyMapMatch"), pick[ejson.Value](g, g.condition(depth-1), g.selector(depth-1), o("$eq", g.value(0)))
		}
	case 12:
		if depth > 0 {
			return pick(g, "$not", "$and", "$or"), pick[ejson.Value](g, g.condition(depth-1), ejson.Array{g.condition(depth - 1)})
		}
	}
	return "$gt", nil
}

func (g *generator) regex() string {
	if g.r.IntN(2) == 0 {
		return pick(g, "^a", "a$", "(?i)é", ".", "^.$", "^..$", `\w`, `^\w+$`, `\s`, `[[:alpha:]]`, "a|b", "(a)(b)?", `^(.)\1$`, "a(?=b)", "x?y", "(", "[", "a{2}", "(?i)^A", `\d`, `^\D*$`, "[^a]", "(?<n>a)b", `\bb\b`)
	}
	s := ""
	for range g.r.IntN(5) {
		s += pick(g, "a", "b", "é", ".", "*", "+", "?", "(", ")", "[", "]", "|", "^", "$", `\w`, `\W`, "{1,2}", "-", "10", `\`)
	}
	return s
}

func (g *generator) body() ejson.Value {
	b := o("selector", g.selector(2))
	if g.r.IntN(6) == 0 {
		b = o("selector", ejson.Object{{Name: "_id", Value: ejson.Object{{Name: pick(g, "$gt", "$lt", "$gte", "$beginsWith", "$eq"), Value: g.text()}}}, {Name: g.name(), Value: g.condition(1)}})
		if g.r.IntN(2) == 0 {
			b.Set("sort", ejson.Array{o("_id", pick(g, "asc", "desc"))})
		}
	}
	if g.r.IntN(3) == 0 {
		fields := ejson.Array{}
		for range g.r.IntN(4) {
			fields = append(fields, g.field())
		}
		b.Set("fields", fields)
	}
	some := func(name string, v ejson.Value) {
		if g.r.IntN(5) == 0 {
			b.Set(name, v)
		}
	}
	some("limit", pick[ejson.Value](g, ejson.Number("0"), ejson.Number("1"), ejson.Number("3"), ejson.Number("100")))
	some("skip", pick[ejson.Value](g, ejson.Number("0"), ejson.Number("1"), ejson.Number("3")))
	b.Set("execution_stats", true)
	if g.r.IntN(8) == 0 {
		b.Set("r", ejson.Number("2"))
	}
	if g.r.IntN(10) == 0 {
		b.Set("use_index", g.value(1))
	}
	if len(g.bookmarks) > 0 && g.r.IntN(5) == 0 {
		if s := pick(g, g.bookmarks...); s != "nil" {
			b.Set("bookmark", s)
		}
	}
	if g.r.IntN(20) == 0 {
		b.Set(pick(g, "limit", "skip", "sort", "fields", "r", "update", "stale", "conflicts", "bookmark", "partition", "stable", "foo"), g.value(1))
	}
	return b
}
