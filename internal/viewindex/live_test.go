package viewindex_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// liveDesigns are the design documents, and of which of them the views are in partitions where the database is.
var liveDesigns = map[string]string{
	"maps": `{"autoupdate":false,"views":{
		"key":{"map":"function(d) { emit(d.k, d.v); }"},
		"ids":{"map":"function(d) { emit(d._id, {n: d.n}); }"},
		"lists":{"map":"function(d) { emit([d.n % 5, d.n % 3, d.k], null); emit([d.n % 5], 1); }"},
		"links":{"map":"function(d) { emit(d.n % 50, d.link); }"},
		"twice":{"map":"function(d) { emit(d.n % 4, 1); emit(d.n % 4, 2); emit(d.n % 4, {a: d.v}); }"}}}`,
	"reduces": `{"language":"javascript","views":{
		"count":{"map":"function(d) { emit([d.n % 5, d.n % 3, d.k], d.n); }","reduce":"_count"},
		"sum":{"map":"function(d) { emit([d.n % 5, d.n % 3, d.k], d.n); }","reduce":"_sum"},
		"stats":{"map":"function(d) { emit([d.n % 5, d.n % 3, d.k], d.n); }","reduce":"_stats"},
		"plain":{"map":"function(d) { emit([d.n % 5, d.n % 3, d.k], d.n); }"},
		"sums":{"map":"function(d) { emit(d.k, [d.n, d.x, 1]); }","reduce":"_sum"},
		"floats":{"map":"function(d) { emit(d.n % 50, d.x); }","reduce":"_sum"},
		"floatstats":{"map":"function(d) { emit(d.n % 50, d.x); }","reduce":"_stats"},
		"equal":{"map":"function(d) { emit(d.n % 4, 1); emit(d.n % 4, d.n); }","reduce":"_sum"}}}`,
	"more": `{"views":{
		"objects":{"map":"function(d) { var o = {z: d.n, a: [d.n, 1]}; o['f' + d.n % 3] = {x: d.n}; emit([d.n % 5, d.n % 3], o); }","reduce":"_sum"},
		"mixed":{"map":"function(d) { emit([d.n % 5, d.n % 3], d.n % 100 == 3 ? 'x' : d.n); }","reduce":"_sum"},
		"statlists":{"map":"function(d) { emit([d.n % 5, d.n % 3], [d.n, d.x, {sum: d.n, count: 2, min: 1, max: d.n, sumsqr: d.n}]); }","reduce":"_stats"},
		"distinct":{"map":"function(d) { emit([d.n % 5, d.n], null); emit(d._id, null); }","reduce":"_approx_count_distinct"},
		"top":{"map":"function(d) { emit([d.n % 5, d.n % 3], d.v); }","reduce":"_top_4"},
		"bottom":{"map":"function(d) { emit([d.n % 5, d.n % 3], d.v); }","reduce":"_bottom_3"},
		"first":{"map":"function(d) { emit([d.n % 5, d.n % 3], d.v); }","reduce":"_first"},
		"last":{"map":"function(d) { emit([d.n % 5, d.n % 3], d.v); }","reduce":"_last"}}}`,
	"empty": `{"views":{"a":{"map":"function(d) {}"},"b":{"map":"function(d) { if (d.no) emit(1, 1); }","reduce":"_stats"},
		"c":{"map":"function(d) { if (d.no) emit(1, 2); }","reduce":"_sum"},"d":{"map":"function(d) { if (d.no) emit(1, 3); }","reduce":"_count"}}}`,
	"own": `{"views":{"own":{"map":"function(d) { emit(d.n, 1); }","reduce":"function(k, v, r) { return sum(v); }"}}}`,
	"raw": `{"views":{
		"key":{"map":"function(d) { emit(d.k, d.v); }","options":{"collation":"raw"}},
		"sum":{"map":"function(d) { emit(d.k, d.n); }","reduce":"_sum","options":{"collation":"raw"}}}}`,
	"options": `{"options":{"local_seq":true,"include_design":true},"views":{
		"lib":{"b":"exports.x = 1;","a":{"z":"exports.y = 1;","c":"exports.z = 2;"}},
		"seq":{"map":"function(d) { emit(d._local_seq, require('views/lib/b').x); }"},
		"key":{"map":"function(d) { emit(d.k, null); }","reduce":"_count"}}}`,
	"global": `{"options":{"partitioned":false},"views":{"key":{"map":"function(d) { emit(d.k, d.n); }","reduce":"_sum"}}}`,
	"erlang": `{"language":"query","views":{"byn":{"map":{"fields":{"n":"asc","v":"asc"},"partial_filter_selector":{}},"reduce":"_count",
		"options":{"def":{"fields":["n","v"]}}}}}`,
}

// globalOnly are those that no partitioned database can have: it has no include_design, and fails at functions that reduce.
var globalOnly = map[string]bool{"options": true, "own": true}

type liveDB struct {
	name        string
	q           int
	partitioned bool
	shards      map[string][]viewindex.Shard // by signature
	designs     map[string]*viewindex.Design
}

// Random queries of all kinds have the server's answers, byte by byte.
func TestLiveQueries(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"query_server_config": {"commit_freq": "0"}}})
	seed := testenv.Seed(t)
	l := &live{T: t, couch: couch, rnd: rand.New(rand.NewPCG(seed, 1)), seed: seed}
	dbs := []*liveDB{{name: "one", q: 1}, {name: "three", q: 3}, {name: "parted", q: 3, partitioned: true}}
	for _, d := range dbs {
		l.fill(d)
	}
	for _, d := range dbs {
		l.open(d)
	}
	for range testenv.Rounds(1200) {
		d := dbs[l.rnd.IntN(len(dbs))]
		l.compare(d)
		if l.failures > 20 {
			break
		}
	}
	for _, d := range dbs {
		l.info(d)
		l.behind(d)
	}
	if l.rows < 10000 || l.wrong < 100 || l.reduced < 100 {
		t.Errorf("%d rows, %d errors and %d reductions were compared", l.rows, l.wrong, l.reduced)
	}
	t.Logf("%d rows, %d errors and %d reductions were compared, seed %d", l.rows, l.wrong, l.reduced, seed)
}

type live struct {
	*testing.T
	couch                          *testenv.Couch
	rnd                            *rand.Rand
	seed                           uint64
	rows, wrong, reduced, failures int
}

func (l *live) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

var someKeys = []any{nil, false, true, 0, 1, 2.5, -3, 1e20, "", "a", "A", "b", "aa", "ab", "Ä", "ä", "z", "é", "10", "9", " x", []any{}, []any{1}, []any{"a", 2}, []any{"a", 2, nil},
	[]any{[]any{}}, map[string]any{}, map[string]any{"a": 1}, map[string]any{"b": "x"}}

func (l *live) key() any {
	if l.rnd.IntN(3) == 0 {
		return l.rnd.IntN(40)
	}
	return someKeys[l.rnd.IntN(len(someKeys))]
}

// id is that of a document, which may not be there.
func (l *live) id(d *liveDB) string {
	id := fmt.Sprintf("%06x", l.rnd.IntN(3000))
	if d.partitioned {
		id = []string{"p", "q", "é"}[l.rnd.IntN(3)] + ":" + id
	}
	return id
}

// link is a row's value that may name a document.
func (l *live) link(d *liveDB) any {
	switch l.rnd.IntN(6) {
	case 0:
		return map[string]any{"_id": nil}
	case 1:
		return map[string]any{"other": 1}
	case 2:
		return "text"
	}
	return map[string]any{"n": 1, "_id": l.id(d)}
}

func (l *live) fill(d *liveDB) {
	path := fmt.Sprintf("/%s?q=%d", d.name, d.q)
	if d.partitioned {
		path += "&partitioned=true"
	}
	l.must(l.couch.Put(path, nil, nil))
	for name, text := range liveDesigns {
		if d.partitioned && globalOnly[name] {
			continue
		}
		l.must(l.couch.Put("/"+d.name+"/_design/"+name, json.RawMessage(text), nil))
	}
	for range 4 {
		var docs []map[string]any
		for range 250 {
			id := l.id(d)
			x := float64(l.rnd.IntN(1<<20)) / 1024 // exact in any order of addition
			if d.q == 1 {
				x = l.rnd.NormFloat64() * 1e3
			}
			docs = append(docs, map[string]any{"_id": id, "k": l.key(), "v": l.key(), "n": l.rnd.IntN(1000), "x": x, "link": l.link(d)})
		}
		l.must(l.couch.Post("/"+d.name+"/_bulk_docs", map[string]any{"docs": docs}, nil))
	}
	for name := range liveDesigns {
		if d.partitioned && globalOnly[name] {
			continue
		}
		for view := range l.views(name) {
			query := "?limit=0&reduce=false"
			if d.partitioned && name != "global" {
				query += "&partition=p"
				for _, p := range []string{"q", "é"} {
					l.couch.Get("/"+d.name+"/_design/"+name+"/_view/"+view+"?limit=0&reduce=false&partition="+url.QueryEscape(p), nil) // another shard
				}
			}
			err := l.couch.Get("/"+d.name+"/_design/"+name+"/_view/"+view+query, nil)
			if testenv.Status(err) != 404 {
				l.must(err)
			}
		}
	}
}

func (l *live) design(name string) *viewindex.Design {
	v, err := ejson.Parse([]byte(liveDesigns[name]))
	l.must(err)
	d, err := viewindex.ParseDesign(v.(ejson.Object))
	l.must(err)
	return d
}

func (l *live) views(name string) map[string]json.RawMessage {
	var doc struct{ Views map[string]json.RawMessage }
	l.must(json.Unmarshal([]byte(liveDesigns[name]), &doc))
	delete(doc.Views, "lib")
	return doc.Views
}

// open opens the shards and the indexes as they are on disk.
func (l *live) open(d *liveDB) {
	d.shards, d.designs = map[string][]viewindex.Shard{}, map[string]*viewindex.Design{}
	paths, err := filepath.Glob(filepath.Join(l.couch.DataDir, "shards", "*", d.name+".*.couch"))
	l.must(err)
	slices.Sort(paths)
	if len(paths) != d.q {
		l.Fatalf("%d shards of %s", len(paths), d.name)
	}
	for name := range liveDesigns {
		design := l.design(name)
		d.designs[name] = design
		for _, path := range paths {
			rel, err := filepath.Rel(l.couch.DataDir, path)
			l.must(err)
			n, err := shard.ParsePath(filepath.ToSlash(rel))
			l.must(err)
			s := viewindex.Shard{Range: n.Range, DB: openDB(l, path)}
			index := filepath.Join(l.couch.DataDir, "."+strings.TrimSuffix(rel, ".couch")+"_design", "mrview", design.Signature+".view")
			if b, err := os.ReadFile(index); err == nil {
				s.Index, err = couchfile.OpenView(bytes.NewReader(b), int64(len(b)))
				l.must(err)
				s.Size = int64(len(b))
			} else if !d.partitioned && name != "nothing" {
				l.Errorf("%s of %s: %v", name, d.name, err)
			}
			d.shards[name] = append(d.shards[name], s)
		}
	}
}

func openDB(l *live, path string) *couchfile.DB {
	b, err := os.ReadFile(path)
	l.must(err)
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	l.must(err)
	return db
}

// info compares what is said of indexes.
func (l *live) info(d *liveDB) {
	for name, design := range d.designs {
		if d.partitioned { // shards without a document of a partition may have no index
			continue
		}
		var want []byte
		l.must(l.couch.Get("/"+d.name+"/_design/"+name+"/_info", &want))
		got, err := design.Info(name, d.shards[name])
		l.must(err)
		if text := ejson.String(got) + "\n"; text != string(want) {
			l.Errorf("%s of %s: got %s, want %s", name, d.name, text, want)
		}
	}
}

// behind compares what indexes answer that were left behind.
func (l *live) behind(d *liveDB) {
	for range 30 {
		id := fmt.Sprintf("new%06x", l.rnd.IntN(1<<20))
		if d.partitioned {
			id = "p:" + id
		}
		l.must(l.couch.Put(testenv.DBPath(d.name, id), map[string]any{"k": l.key(), "n": l.rnd.IntN(1000)}, nil))
	}
	l.open(d)
	for range 40 {
		view := []string{"key", "lists", "twice"}[l.rnd.IntN(3)]
		q := l.query(d, "maps", view)
		q.Set("update", "false")
		q.Del("include_docs")
		q.Del("conflicts")
		l.ask(d, "maps", view, q)
	}
	query := ""
	if d.partitioned {
		query = "partition=p"
	}
	_, err := l.ours(d, "maps", "key", query)
	var u *viewindex.Unable
	if !errors.As(err, &u) || !strings.Contains(u.Reason, "is behind by ") {
		l.Errorf("an index that is behind: %v", err)
	}
}

// query is a random query string.
func (l *live) query(d *liveDB, ddoc, view string) url.Values {
	q := url.Values{}
	key := func() string {
		v := l.key()
		switch view {
		case "ids":
			v = fmt.Sprintf("%06x", l.rnd.IntN(3000))
		case "objects", "mixed", "statlists", "distinct", "top", "bottom", "first", "last":
			v = []any{l.rnd.IntN(5), l.rnd.IntN(20)}[:l.rnd.IntN(3)]
		case "lists", "count", "sum", "stats", "plain":
			v = []any{l.rnd.IntN(5), l.rnd.IntN(3), l.key()}[:l.rnd.IntN(4)]
		case "floats", "floatstats", "seq", "twice", "equal", "links":
			v = l.rnd.IntN(60)
		}
		b, err := json.Marshal(v)
		l.must(err)
		return string(b)
	}
	chance := func(n int) bool { return l.rnd.IntN(n) == 0 }
	switch l.rnd.IntN(6) {
	case 0:
		q.Set("key", key())
	case 1:
		var keys []string
		seen := map[string]bool{}
		for range l.rnd.IntN(5) {
			k := key()
			if ddoc != "raw" && chance(4) && k[len(k)-1] >= '0' && k[len(k)-1] <= '9' && !strings.ContainsAny(k, ".e") {
				k += ".0"
			}
			if !seen[k] || d.q == 1 { // merged rows of one key that is asked for twice come in any order
				seen[k] = true
				keys = append(keys, k)
			}
		}
		q.Set("keys", "["+strings.Join(keys, ",")+"]")
	case 2, 3, 4:
		if !chance(4) {
			q.Set("startkey", key())
		}
		if !chance(4) {
			q.Set("endkey", key())
		}
		if chance(4) {
			q.Set("startkey_docid", fmt.Sprintf("%06x", l.rnd.IntN(3000)))
		}
		if chance(4) {
			q.Set("endkey_docid", fmt.Sprintf("%06x", l.rnd.IntN(3000)))
		}
		if chance(3) {
			q.Set("inclusive_end", "false")
		}
	}
	if chance(2) {
		q.Set("descending", "true")
	}
	if chance(2) {
		q.Set("limit", fmt.Sprint(l.rnd.IntN(30)))
	}
	if chance(4) {
		q.Set("skip", fmt.Sprint(l.rnd.IntN(20)))
	}
	if chance(6) {
		q.Set("update", "false")
	}
	if chance(3) {
		q.Set("reduce", "false")
	} else {
		switch l.rnd.IntN(3) {
		case 0:
			q.Set("group", "true")
		case 1:
			q.Set("group_level", fmt.Sprint(l.rnd.IntN(5)))
		}
	}
	if chance(5) || view == "links" {
		q.Set("include_docs", "true")
		q.Set("limit", fmt.Sprint(l.rnd.IntN(6)))
		if chance(3) {
			q.Set("conflicts", "true")
		}
	}
	return q
}

func (l *live) compare(d *liveDB) {
	names := []string{}
	for n := range liveDesigns {
		if !d.partitioned || !globalOnly[n] {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	ddoc := names[l.rnd.IntN(len(names))]
	var views []string
	for v := range l.views(ddoc) {
		views = append(views, v)
	}
	slices.Sort(views)
	view := views[l.rnd.IntN(len(views))]
	l.ask(d, ddoc, view, l.query(d, ddoc, view))
}

func (l *live) ask(d *liveDB, ddoc, view string, q url.Values) {
	if d.partitioned && ddoc != "global" {
		q.Set("partition", []string{"p", "q", "é"}[l.rnd.IntN(3)])
	}
	path := "/" + d.name + "/_design/" + ddoc + "/_view/" + view + "?" + q.Encode()
	var answer []byte
	var status *testenv.StatusError
	err := l.couch.Get(path, &answer)
	if err != nil && !errors.As(err, &status) {
		l.Fatal(err)
	}
	got, err := l.ours(d, ddoc, view, q.Encode())
	var wrong *mrargs.Error
	var un *viewindex.Unable
	switch {
	case errors.As(err, &un):
		if ddoc != "own" {
			l.fail(path, un.Reason, string(answer))
		}
	case errors.As(err, &wrong):
		l.wrong++
		want := fmt.Sprintf(`{"error":%q,"reason":%q}`, wrong.Name, wrong.Reason)
		if status == nil || status.Status != wrong.Status || !sameJSON(status.Body, want) {
			l.fail(path, want, string(answer)+fmt.Sprint(status))
		}
	case err != nil:
		l.fail(path, err.Error(), string(answer))
	case status != nil:
		l.fail(path, got, status.Body)
	default:
		want := string(answer)
		l.rows += strings.Count(want, "\n") - 2
		if !strings.HasPrefix(want, `{"total`) {
			l.reduced++
		}
		if got != want {
			l.fail(path, got, want)
		}
	}
}

func sameJSON(a, b string) bool {
	var x, y map[string]any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x["error"], x["reason"]) == fmt.Sprint(y["error"], y["reason"])
}

func (l *live) fail(path, got, want string) {
	l.Helper()
	l.failures++
	l.Errorf("seed %d: %s\ngot  %.1500s\nwant %.1500s", l.seed, path, got, want)
}

func (l *live) ours(d *liveDB, ddoc, view, query string) (string, error) {
	v, err := d.designs[ddoc].View(view, d.partitioned)
	if err != nil {
		return "", err
	}
	a, err := mrargs.ForView(mrargs.ParseQuery(query), nil, false)
	if err != nil {
		return "", err
	}
	if err := v.Check(a); err != nil {
		return "", err
	}
	return answer(l.Context(), v, d.shards[ddoc], a, func(r *viewindex.DocRef) json.RawMessage { return l.doc(d, a, r) })
}

// doc is a document of a row, which the server is asked for.
func (l *live) doc(d *liveDB, a *mrargs.Args, r *viewindex.DocRef) json.RawMessage {
	null := json.RawMessage("null")
	if r.None {
		return null
	}
	path := testenv.DBPath(d.name, r.ID)
	if a.Conflicts && !r.Linked {
		path += "?conflicts=true"
	}
	var doc []byte
	err := l.couch.Get(path, &doc)
	if testenv.Status(err) == 404 {
		return null
	}
	l.must(err)
	return bytes.TrimSpace(doc)
}

// answer is an answer as the server writes it, with documents that doc returns.
func answer(ctx context.Context, v *viewindex.View, shards []viewindex.Shard, a *mrargs.Args, doc func(*viewindex.DocRef) json.RawMessage) (string, error) {
	ans, err := v.Rows(ctx, shards, a)
	if err != nil {
		return "", err
	}
	out := []byte("{\"rows\":[\r\n")
	if !ans.Reduced {
		out = fmt.Appendf(nil, `{"total_rows":%d,"offset":%d,"rows":[`+"\r\n", ans.Total, ans.Offset)
	}
	n := 0
	for row, err := range ans.Rows {
		if err != nil {
			return "", err
		}
		if n > 0 {
			out = append(out, ",\r\n"...)
		}
		n++
		var text json.RawMessage
		if row.Doc != nil {
			text = doc(row.Doc)
		}
		out = row.Append(out, ans.Reduced, text)
	}
	return string(out) + "\r\n]}\n", nil
}
