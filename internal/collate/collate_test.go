package collate_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slipcover/slipcover/internal/collate"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/testenv"
)

var update = flag.Bool("update", false, "write the order of a server anew into testdata")

const recorded = "testdata/order.json"

// row is a value as a server gives it back, with the id of its document, by which it orders what is equal.
type row struct {
	ID    string
	Value ejson.Value
}

// check holds rows in a server's order against ours: each pair of neighbours, and pairs that are further apart.
func check(t *testing.T, rows []row, compare func(a, b ejson.Value) int, r *rand.Rand) {
	t.Helper()
	bad := 0
	pair := func(i, j int) {
		c := compare(rows[i].Value, rows[j].Value)
		if c > 0 || c == 0 && rows[i].ID > rows[j].ID {
			bad++
			if bad <= 20 {
				t.Errorf("%d: %+q and %+q of %s and %s are the wrong way round", c, ejson.String(rows[i].Value), ejson.String(rows[j].Value), rows[i].ID, rows[j].ID)
			}
		}
		if d := compare(rows[j].Value, rows[i].Value); d != -c {
			t.Errorf("%+q and %+q: %d and the other way round %d", ejson.String(rows[i].Value), ejson.String(rows[j].Value), c, d)
		}
	}
	for i := range len(rows) - 1 {
		pair(i, i+1)
		if j := i + 1 + r.IntN(len(rows)-1-i); j < len(rows) {
			pair(i, j)
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d pairs", bad, 2*len(rows))
	}
}

// The order of a real server holds, as it was recorded: CouchDB 3.5.0 with ICU 72.
func TestRecordedOrder(t *testing.T) {
	b, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		v, err := ejson.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		pair := v.(ejson.Array)
		rows = append(rows, row{pair[0].(string), pair[1]})
	}
	if len(rows) < 4000 {
		t.Fatalf("only %d values", len(rows))
	}
	check(t, rows, collate.Compare, rand.New(rand.NewPCG(1, 2)))
}

// The order of a server that runs holds for random values.
func TestServerOrder(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{"cluster": {"q": "1"}}})
	var versions struct {
		Driver struct {
			Version string `json:"collator_version"`
		} `json:"collation_driver"`
	}
	if err := couch.Get("/_node/_local/_versions", &versions); err != nil {
		t.Fatal(err)
	}
	if v := versions.Driver.Version; v != collate.Version {
		testenv.Missing(t, "couchdb", "this one's collator is "+v+", not "+collate.Version)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	rows := ordered(t, couch, r, testenv.Rounds(5000))
	check(t, rows, collate.Compare, r)
	check(t, rawOrdered(t, couch), collate.Raw, r)
	if !*update || t.Failed() {
		return
	}
	var out []byte
	for _, row := range rows {
		out = append(ejson.Append(out, ejson.Array{row.ID, row.Value}), '\n')
	}
	if err := os.WriteFile(recorded, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ordered stores random values on a server, and returns them in the order of an index.
func ordered(t *testing.T, couch *testenv.Couch, r *rand.Rand, n int) []row {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(couch.Put(testenv.DBPath("order"), nil, nil))
	must(couch.Post(testenv.DBPath("order", "_index"), map[string]any{"index": map[string]any{"fields": []string{"v"}}, "ddoc": "v", "name": "v"}, nil))
	values := newGenerator(r)
	for at := 0; at < n; at += 1000 {
		docs := ejson.Array{}
		for i := at; i < min(n, at+1000); i++ {
			docs = append(docs, ejson.Object{{Name: "_id", Value: fmt.Sprintf("%05x", r.IntN(0xFFFFF))}, {Name: "v", Value: values.value()}})
		}
		must(couch.Do(t.Context(), http.MethodPost, testenv.DBPath("order", "_bulk_docs"), json.RawMessage(ejson.String(ejson.Object{{Name: "docs", Value: docs}})), nil))
	}
	var found struct {
		Docs []struct {
			ID string          `json:"_id"`
			V  json.RawMessage `json:"v"`
		} `json:"docs"`
	}
	query := `{"selector":{"v":{"$gte":null}},"limit":10000000,"sort":["v"],"use_index":["v","v"],"fields":["_id","v"]}`
	must(couch.Post(testenv.DBPath("order", "_find"), json.RawMessage(query), &found))
	var rows []row
	for _, d := range found.Docs {
		v, err := ejson.Parse(d.V)
		must(err)
		rows = append(rows, row{d.ID, v})
	}
	if len(rows) < n*9/10 {
		t.Fatalf("the server gave %d of %d values", len(rows), n)
	}
	return rows
}

// rawOrdered returns the same values in the order of a view with raw collation.
func rawOrdered(t *testing.T, couch *testenv.Couch) []row {
	t.Helper()
	view := map[string]any{"views": map[string]any{"v": map[string]any{"map": "function(d) { emit(d.v, null) }", "options": map[string]any{"collation": "raw"}}}}
	if err := couch.Put(testenv.DBPath("order", "_design", "raw"), view, nil); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	if err := couch.Do(t.Context(), http.MethodGet, testenv.DBPath("order", "_design", "raw", "_view", "v"), nil, &answer); err != nil {
		t.Fatal(err)
	}
	v, err := ejson.Parse(answer)
	if err != nil {
		t.Fatal(err)
	}
	var out []row
	list, _ := v.(ejson.Object).Get("rows")
	for _, r := range list.(ejson.Array) {
		id, _ := r.(ejson.Object).Get("id")
		key, _ := r.(ejson.Object).Get("key")
		out = append(out, row{id.(string), key})
	}
	if len(out) < 1000 {
		t.Fatalf("the server gave %d rows", len(out))
	}
	return out
}

// generator makes random values, most of them strings, many of which differ in little.
type generator struct {
	r       *rand.Rand
	scripts []*unicode.RangeTable
	last    string
}

func newGenerator(r *rand.Rand) *generator {
	g := &generator{r: r}
	var names []string
	for name := range unicode.Scripts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		g.scripts = append(g.scripts, unicode.Scripts[name])
	}
	return g
}

func (g *generator) value() ejson.Value {
	switch g.r.IntN(20) {
	case 0:
		return [...]ejson.Value{nil, true, false, ejson.Array{}, ejson.Object{}, "", ejson.Number("0"), ejson.Number("-0.0")}[g.r.IntN(8)]
	case 1:
		return g.number()
	case 2:
		out := ejson.Array{}
		for range g.r.IntN(4) {
			out = append(out, g.value())
		}
		return out
	case 3:
		out := ejson.Object{}
		for range g.r.IntN(3) {
			out.Set(g.text(), g.value())
		}
		return out
	}
	return g.text()
}

func (g *generator) number() ejson.Value {
	switch g.r.IntN(4) {
	case 0:
		return ejson.Float(g.r.NormFloat64())
	case 1:
		return ejson.Float(float64(g.r.IntN(10)))
	case 2:
		return ejson.Number(fmt.Sprintf("%d%018d", 1+g.r.IntN(9), g.r.IntN(3)))
	}
	return ejson.Int(int64(g.r.IntN(20) - 10))
}

func (g *generator) text() string {
	s := []rune(g.last)
	if g.r.IntN(3) == 0 || len(s) > 6 {
		s = nil
		script := g.scripts[g.r.IntN(len(g.scripts))]
		for range g.r.IntN(5) {
			if g.r.IntN(2) == 0 {
				script = unicode.Latin
			}
			s = append(s, g.of(script))
		}
	}
	at := g.r.IntN(len(s) + 1)
	switch g.r.IntN(8) {
	case 0:
		s = slices.Insert(s, at, g.of(unicode.Mn))
	case 1:
		s = slices.Insert(s, at, rune(g.r.IntN(128)))
	case 2:
		s = slices.Insert(s, at, g.of(unicode.P))
	case 3:
		s = slices.Insert(s, at, g.of(unicode.S))
	case 4:
		for i, c := range s {
			s[i] = unicode.ToUpper(c)
		}
	case 5:
		g.r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	case 6:
		s = slices.Insert(s, at, g.of(unicode.Han))
	case 7:
		if c := rune(g.r.IntN(utf8.MaxRune)); utf8.ValidRune(c) {
			s = slices.Insert(s, at, c)
		}
	}
	g.last = string(s)
	return g.last
}

// of returns a character of a table.
func (g *generator) of(t *unicode.RangeTable) rune {
	n := g.r.IntN(len(t.R16) + len(t.R32))
	if n < len(t.R16) {
		x := t.R16[n]
		return rune(x.Lo) + rune(x.Stride)*rune(g.r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
	}
	x := t.R32[n-len(t.R16)]
	return rune(x.Lo) + rune(x.Stride)*rune(g.r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
}

// What is said of the order, one by one; each value is less than the next, and equal to what follows it in its line.
func TestOrder(t *testing.T) {
	text := func(s ...string) (out []ejson.Value) {
		for _, s := range s {
			out = append(out, s)
		}
		return out
	}
	parse := func(s string) []ejson.Value {
		v, err := ejson.Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return v.(ejson.Array)
	}
	view := [][]ejson.Value{
		{nil}, {false}, {true}, parse(`[-1e300]`), parse(`[0, -0.0, 0.0]`), parse(`[1, 1.0]`), parse(`[9007199254740992, 9007199254740992.0]`), parse(`[9007199254740993]`),
		text("", "\u0001", "\x7f", "\u200d"), text("\t"), text(" "), text("_"), text("~"), text("0"), text("a", "a\u0000"), text("A"), text("á", "a\u0301", "a\u0001\u0301"), text("Á"),
		text("aa"), text("b"), text("l·"), text("la"), text("z"), text("ж"), text("가", "\u1100\u1161"), text("あ"), text("ア"), text("一"), text("丁"), text("\U00020000"), text("\uffff"), {collate.Highest},
		parse(`[[]]`), parse(`[["a"], ["a\u0001"]]`), parse(`[["a", null]]`), parse(`[["b"]]`),
		parse(`[{}]`), parse(`[{"a":1}]`), parse(`[{"a":1,"b":0}]`), parse(`[{"a":2}]`), parse(`[{"b":0}]`), parse(`[{"b":0,"a":1}]`),
	}
	raw := [][]ejson.Value{
		parse(`[1, 1.0]`), {false}, {nil}, {true}, parse(`[{}]`), parse(`[{"a":1}]`), parse(`[[]]`), parse(`[[1]]`), text(""), text("A"), text("a"), text("a\u0000"), text("aa"), text("á"),
	}
	inOrder(t, view, collate.Compare)
	inOrder(t, raw, collate.Raw)
	for i := range 300 { // nested deeply
		v := ejson.Value(nil)
		for range i {
			v = ejson.Array{v}
		}
		if c := collate.Compare(v, ejson.Array{v}); c >= 0 {
			t.Fatalf("at depth %d: %d", i, c)
		}
	}
}

func inOrder(t *testing.T, classes [][]ejson.Value, compare func(a, b ejson.Value) int) {
	t.Helper()
	for i, x := range classes {
		for j, y := range classes {
			for _, a := range x {
				for _, b := range y {
					if c := compare(a, b); c != sign(i-j) {
						t.Errorf("%+q and %+q: %d, want %d", ejson.String(a), ejson.String(b), c, sign(i-j))
					}
				}
			}
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

// ASCII is compared in a way of its own, which agrees with that of all characters.
func TestASCII(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		b := make([]byte, 2*r.IntN(6))
		for i := range b {
			b[i] = byte(r.IntN(128))
			if i > len(b)/2 && r.IntN(2) == 0 {
				b[i] = b[i-len(b)/2] ^ 0x20
			}
		}
		x, y := string(b[:len(b)/2]), string(b[len(b)/2:])
		// A zero-width joiner weighs nothing, and makes the strings others than ASCII.
		if c, d := collate.CompareStrings(x, y), collate.CompareStrings("\u200d"+x, y); c != d {
			t.Fatalf("%q and %q: %d, and with a joiner %d", x, y, c, d)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, c := range [][2]string{{"some key", "some other key"}, {strings.Repeat("x", 1000), strings.Repeat("x", 1000) + "y"}, {"Größe", "Große"}} {
		collate.CompareStrings(c[0], c[1])
		if n := testing.AllocsPerRun(100, func() { collate.CompareStrings(c[0], c[1]) }); n != 0 {
			t.Errorf("%q and %q: %v allocations", c[0], c[1], n)
		}
	}
}

func FuzzCompareStrings(f *testing.F) {
	f.Add("a", "\u0418\u0323\u0306", "\xff")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if len(a)+len(b)+len(c) > 1000 {
			return
		}
		ab, bc, ac := collate.CompareStrings(a, b), collate.CompareStrings(b, c), collate.CompareStrings(a, c)
		if ba := collate.CompareStrings(b, a); ba != -ab {
			t.Errorf("%d, and the other way round %d", ab, ba)
		}
		if ab <= 0 && bc <= 0 && ac > 0 || ab == 0 && bc != ac {
			t.Errorf("no order: %d, %d, %d", ab, bc, ac)
		}
	})
}

func BenchmarkCompareStrings(b *testing.B) {
	for name, c := range map[string][2]string{"ascii": {"user:alice:2024-05-06", "user:alice:2024-05-07"}, "latin": {"Straße nach Süden 12", "Straße nach Süden 13"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				collate.CompareStrings(c[0], c[1])
			}
		})
	}
}
