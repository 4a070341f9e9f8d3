package diverge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/diverge"
)

// file writes a shard's file and returns its bytes. seed makes its uuid, and those of its purges.
func file(t *testing.T, seed uint64, opts couchgen.Options, write func(g *couchgen.Generator)) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f.couch"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opts.Seed = seed
	g, err := couchgen.Create(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	write(g)
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, b []byte) *couchfile.DB {
	t.Helper()
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func copies(t testing.TB, files ...[]byte) []diverge.Copy {
	t.Helper()
	var out []diverge.Copy
	for i, b := range files {
		out = append(out, diverge.Copy{Node: string(rune('a' + i)), DB: open(t, b)})
	}
	return out
}

// compare compares files, and holds the report against the differences that were told one by one.
func compare(t testing.TB, files ...[]byte) (*diverge.Report, []diverge.Difference) {
	t.Helper()
	return compareCopies(t, copies(t, files...))
}

func compareCopies(t testing.TB, all []diverge.Copy) (*diverge.Report, []diverge.Difference) {
	t.Helper()
	var each []diverge.Difference
	r, err := diverge.Compare(t.Context(), all, diverge.Options{Each: func(d diverge.Difference) error {
		each = append(each, d)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Documents != r.Equal+r.Different+r.Unread || r.Local.Documents != r.Local.Equal+r.Local.Different+r.Local.Unread {
		t.Errorf("counts don't add up: %+v", r)
	}
	if n := r.Different + r.Local.Different; uint64(len(each)) != n {
		t.Errorf("%d differences were told of %d", len(each), n)
	}
	for i, d := range each[min(1, len(each)):] {
		if last := each[i]; last.Local == d.Local && last.ID >= d.ID || last.Local && !d.Local {
			t.Errorf("%s was told behind %s", d.ID, last.ID)
		}
	}
	return r, each
}

// put writes a revision; parent and rev may be empty. Revisions' names are short: "a" to "z" 32 times.
func put(t testing.TB, g *couchgen.Generator, d couchgen.Doc) {
	t.Helper()
	if d.RevID != "" {
		d.RevID = strings.Repeat(d.RevID, 32)
	}
	if n, id, ok := strings.Cut(d.Parent, "-"); ok {
		d.Parent = n + "-" + strings.Repeat(id, 32)
	}
	if _, err := g.Put(d); err != nil {
		t.Fatal(err)
	}
}

func short(rev string) string {
	n, id, _ := strings.Cut(rev, "-")
	if id, what, ok := strings.Cut(id, " "); ok {
		return n + "-" + id[:1] + " " + what
	}
	return n + "-" + id[:1]
}

// text is what a list names: "doc 2-a,3-b".
func text(l diverge.List) string {
	var out []string
	for _, d := range l.First {
		var revs []string
		for _, r := range d.Revs {
			if !strings.HasPrefix(r, "0-") {
				r = short(r)
			}
			revs = append(revs, r)
		}
		out = append(out, d.ID+" "+strings.Join(revs, ","))
	}
	if int(l.Count) != len(l.First) {
		out = append(out, fmt.Sprintf("of %d", l.Count))
	}
	return strings.Join(out, "; ")
}

// story is what the lists of a report say, a line for each that isn't empty.
func story(r *diverge.Report) string {
	var out strings.Builder
	for _, c := range r.Copies {
		for _, l := range []struct {
			name string
			list diverge.List
		}{
			{"only", c.Only}, {"missing", c.Missing}, {"behind", c.Behind}, {"purged", c.Purged},
			{"local missing", c.LocalMissing}, {"local differs", c.LocalDiffers},
		} {
			if l.list.Count > 0 {
				fmt.Fprintf(&out, "%s %s: %s\n", c.Node, l.name, text(l.list))
			}
		}
	}
	for _, s := range r.Settings {
		fmt.Fprintf(&out, "%s: %s\n", s.Name, bytes.Join(raw(s.Values), []byte(" / ")))
	}
	return out.String()
}

func raw(values []json.RawMessage) (out [][]byte) {
	for _, v := range values {
		out = append(out, v)
	}
	return out
}

type doc = couchgen.Doc

// a tree is written as documents, one revision after another.
func docs(t testing.TB, list ...doc) func(*couchgen.Generator) {
	return func(g *couchgen.Generator) {
		for _, d := range list {
			put(t, g, d)
		}
	}
}

func TestDocuments(t *testing.T) {
	one := doc{ID: "x", RevID: "a"}
	two := doc{ID: "x", RevID: "b"}
	for _, c := range []struct {
		name  string
		files [][]doc
		want  string
		equal uint64
	}{
		{name: "nothing", files: [][]doc{nil, nil}},
		{name: "equal", files: [][]doc{{one, two}, {one, two}}, equal: 1},
		{name: "missing", files: [][]doc{{one}, nil}, want: "a only: x 1-a\nb missing: x 1-a\n"},
		{
			name: "missing at either end", files: [][]doc{{{ID: "a", RevID: "a"}, one}, {one, {ID: "z", RevID: "c"}}}, equal: 1,
			want: "a only: a 1-a\na missing: z 1-c\nb only: z 1-c\nb missing: a 1-a\n",
		},
		{name: "behind", files: [][]doc{{one}, {one, two}}, want: "a behind: x 2-b\n"},
		{
			name:  "behind two of three",
			files: [][]doc{{one}, {one, two}, {one, two, {ID: "x", RevID: "c"}}}, want: "a behind: x 3-c\nb behind: x 3-c\n",
		},
		{
			name: "missing in one of three", files: [][]doc{{one}, nil, {one}}, want: "b missing: x 1-a\n",
		},
		{
			name: "only in one of three", files: [][]doc{nil, {one}, nil},
			want: "a missing: x 1-a\nb only: x 1-a\nc missing: x 1-a\n",
		},
		{
			name:  "conflict on one only",
			files: [][]doc{{one, two}, {one, two, {ID: "x", Parent: "1-a", RevID: "c"}}}, want: "a behind: x 2-c\n",
		},
		{
			name:  "each has another branch",
			files: [][]doc{{one, two}, {one, {ID: "x", RevID: "c"}}}, want: "a behind: x 2-c\nb behind: x 2-b\n",
		},
		{
			name:  "conflicts in another order",
			files: [][]doc{{one, two, {ID: "x", Parent: "1-a", RevID: "c"}}, {one, {ID: "x", RevID: "c"}, {ID: "x", Parent: "1-a", RevID: "b"}}},
			equal: 1,
		},
		{
			name:  "deletion on one only",
			files: [][]doc{{one, {ID: "x", RevID: "d", Deleted: true}}, {one}}, want: "b behind: x 2-d deleted\n",
		},
		{
			name:  "deletion that one never had",
			files: [][]doc{{one, {ID: "x", RevID: "d", Deleted: true}}, nil},
			want:  "a only: x 2-d deleted\nb missing: x 2-d deleted\n",
		},
		{
			name:  "the same name, deleted or not",
			files: [][]doc{{one, {ID: "x", RevID: "d", Deleted: true}}, {one, {ID: "x", RevID: "d"}}},
			want:  "a behind: x 2-d\nb behind: x 2-d deleted\n",
		},
		{
			name:  "a history that was cut",
			files: [][]doc{{one, two, {ID: "x", RevID: "c"}}, {{ID: "x", Parent: "2-b", RevID: "c"}}}, equal: 1,
		},
		{
			name:  "a leaf of one in the history of another, which it doesn't know",
			files: [][]doc{{one, two, {ID: "x", RevID: "c"}}, {one, two, {ID: "x", Parent: "2-z", RevID: "c"}}},
			want:  "b behind: x \n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files [][]byte
			for i, d := range c.files {
				files = append(files, file(t, uint64(i), couchgen.Options{}, docs(t, d...)))
			}
			r, each := compare(t, files...)
			if got := story(r); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if r.Equal != c.equal || r.Agrees() != (c.want == "") || r.SameState {
				t.Errorf("%d equal, agrees %v, same state %v", r.Equal, r.Agrees(), r.SameState)
			}
			for _, d := range each {
				checkDifference(t, d)
			}
		})
	}
}

// checkDifference holds what is said of a document against its revision trees.
func checkDifference(t testing.TB, d diverge.Difference) {
	t.Helper()
	for i, h := range d.Copies {
		if (h.Info == nil) != (h.State == diverge.Missing || h.State == diverge.Unread || h.State == diverge.Purged && len(h.Lacks) == len(d.Leaves)) {
			t.Errorf("%s: copy %d is %v and has %v", d.ID, i, h.State, h.Info)
		}
		for _, l := range h.Lacks {
			if h.Info == nil {
				continue
			}
			if r, ok := h.Info.Revision(l.Rev); ok && r.Deleted == l.Deleted {
				t.Errorf("%s: copy %d lacks %v, which it has", d.ID, i, l)
			}
		}
	}
}

// Copies that were written in different orders, in different pieces, agree.
func TestOrder(t *testing.T) {
	const n = 3000
	write := func(seed uint64) []byte {
		return file(t, seed, couchgen.Options{}, func(g *couchgen.Generator) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			for k, i := range rnd.Perm(n) {
				id := fmt.Sprintf("doc-%05d", i)
				for range 1 + i%3 {
					put(t, g, doc{ID: id, Body: map[string]any{"i": i}})
				}
				if k%(100+int(seed)) == 0 {
					if err := g.Commit(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
	r, _ := compare(t, write(1), write(2), write(3))
	if !r.Agrees() || r.Equal != n || r.SameState {
		t.Errorf("got %+v", r)
	}
	for _, c := range r.Copies {
		if c.Documents != n {
			t.Errorf("%s: %d documents", c.Node, c.Documents)
		}
	}
}

// Random copies of random histories: what is told is what comparing the sets of all ids says.
func TestRandom(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		has := make([]map[string]int, 3) // revisions of each document
		var files [][]byte
		for i := range has {
			has[i] = map[string]int{}
			for k := range 400 {
				if rnd.IntN(10) > 0 {
					has[i][fmt.Sprintf("d%03d", k)] = 1 + rnd.IntN(20)/19
				}
			}
			files = append(files, file(t, uint64(i), couchgen.Options{}, func(g *couchgen.Generator) {
				for id, n := range has[i] {
					for r := range n {
						put(t, g, doc{ID: id, RevID: string(rune('a' + r))})
					}
				}
			}))
		}
		r, each := compare(t, files...)
		told := map[string]diverge.Difference{}
		for _, d := range each {
			told[d.ID] = d
		}
		for k := range 400 {
			id := fmt.Sprintf("d%03d", k)
			revs := []int{has[0][id], has[1][id], has[2][id]}
			d, ok := told[id]
			if ok != (slices.Min(revs) != slices.Max(revs)) {
				t.Fatalf("seed %d: %s with %v: told %v", seed, id, revs, ok)
			}
			if !ok {
				continue
			}
			for i, h := range d.Copies {
				want := diverge.Complete
				if revs[i] == 0 {
					want = diverge.Missing
				} else if revs[i] < slices.Max(revs) {
					want = diverge.Behind
				}
				if h.State != want {
					t.Fatalf("seed %d: %s with %v: copy %d is %v", seed, id, revs, i, h.State)
				}
			}
		}
		for i, c := range r.Copies {
			if c.Documents != uint64(len(has[i])) {
				t.Errorf("seed %d: copy %d has %d documents, told %d", seed, i, len(has[i]), c.Documents)
			}
		}
	}
}

func purge(t testing.TB, g *couchgen.Generator, id string) {
	t.Helper()
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := g.Purge(id); err != nil {
		t.Fatal(err)
	}
}

func TestPurged(t *testing.T) {
	write := docs(t, doc{ID: "x", RevID: "a"}, doc{ID: "y", RevID: "a"})
	purged := file(t, 1, couchgen.Options{}, func(g *couchgen.Generator) {
		write(g)
		purge(t, g, "x")
	})
	r, each := compare(t, purged, file(t, 2, couchgen.Options{}, write))
	if got, want := story(r), "a purged: x 1-a\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(each) != 1 || each[0].Copies[0].State != diverge.Purged || len(each[0].Copies[0].Purged) != 1 {
		t.Errorf("told %+v", each)
	}
	later := file(t, 3, couchgen.Options{}, func(g *couchgen.Generator) {
		write(g)
		put(t, g, doc{ID: "x", RevID: "b"})
	})
	r, _ = compare(t, purged, later)
	if got, want := story(r), "a missing: x 2-b\nb only: x 2-b\n"; got != want {
		t.Errorf("what was written behind the purge: got %s, want %s", got, want)
	}
	again := file(t, 1, couchgen.Options{}, func(g *couchgen.Generator) { // knows the same purge
		write(g)
		purge(t, g, "x")
		put(t, g, doc{ID: "x", RevID: "a"})
	})
	r, _ = compare(t, purged, again)
	if got, want := story(r), "a missing: x 1-a\nb only: x 1-a\n"; got != want {
		t.Errorf("what was written again: got %s, want %s", got, want)
	}
}

func TestLocals(t *testing.T) {
	type local struct {
		id    string
		body  map[string]any
		times int
	}
	write := func(list ...local) func(*couchgen.Generator) {
		return func(g *couchgen.Generator) {
			for _, l := range list {
				for range max(1, l.times) {
					if err := g.PutLocal(l.id, l.body); err != nil {
						t.Fatal(err)
					}
					if err := g.Commit(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	v := func(n int) map[string]any { return map[string]any{"v": n} }
	sync := local{id: "_local/shard-sync-a-b", body: v(1)}
	view := local{id: "_local/purge-mrview-0", body: v(1)}
	a := file(t, 1, couchgen.Options{}, write(sync, view, local{id: "_local/same", body: v(1)}, local{id: "_local/only", body: v(1)},
		local{id: "_local/older", body: v(1)}, local{id: "_local/other", body: v(1)}))
	b := file(t, 2, couchgen.Options{Compression: couchgen.Deflate}, write(local{id: "_local/same", body: v(1)},
		local{id: "_local/older", body: v(1), times: 2}, local{id: "_local/other", body: v(2)}))
	r, each := compare(t, a, b)
	want := "a local differs: _local/older 0-1; _local/other 0-1\nb local missing: _local/only 0-1\nb local differs: _local/older 0-2; _local/other 0-1\n"
	if got := story(r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r.Local != (diverge.Local{Documents: 4, Equal: 1, Different: 3}) || r.Documents != 0 || r.Agrees() {
		t.Errorf("got %+v", r)
	}
	for _, d := range each {
		if !d.Local || d.Leaves != nil || d.Copies[0].Local == nil {
			t.Errorf("told %+v", d)
		}
	}
}

func TestSettings(t *testing.T) {
	security := func(members ...couchgen.Member) couchgen.Object { return couchgen.Object(members) }
	admins := couchgen.Member{Key: "admins", Value: couchgen.Object{{Key: "names", Value: []any{"bob"}}}}
	members := couchgen.Member{Key: "members", Value: couchgen.Object{{Key: "roles", Value: []any{"_admin"}}}}
	none := func(*couchgen.Generator) {}
	a := file(t, 1, couchgen.Options{Security: security(admins, members)}, none)
	r, _ := compare(t, a, file(t, 2, couchgen.Options{Security: security(members, admins)}, none))
	if !r.Agrees() {
		t.Errorf("security in another order: %s", story(r))
	}
	r, _ = compare(t, a, file(t, 2, couchgen.Options{Security: security(members), Partitioned: true}, func(g *couchgen.Generator) { g.SetRevsLimit(50) }))
	for _, want := range []string{`security: {"admins"`, `props: {} / {"partitioned":true`, "revs_limit: 1000 / 50\n"} {
		if !strings.Contains(story(r), want) {
			t.Errorf("want %s in\n%s", want, story(r))
		}
	}
	if len(r.Settings) != 3 || r.Agrees() {
		t.Errorf("got %v", r.Settings)
	}
}

// One file as two nodes have it isn't walked as long as they wrote nothing.
func TestSameState(t *testing.T) {
	b := file(t, 1, couchgen.Options{}, docs(t, doc{ID: "x", RevID: "a"}, doc{ID: "y", RevID: "b"}))
	grown := func(node string, write func(g *couchgen.Generator)) []byte {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		g, err := couchgen.Reopen(f, couchgen.Options{NodeName: node})
		if err != nil {
			t.Fatal(err)
		}
		write(g)
		if err := g.Commit(); err != nil {
			t.Fatal(err)
		}
		out, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	local := func(v int) func(*couchgen.Generator) {
		return func(g *couchgen.Generator) {
			if err := g.PutLocal("_local/x", map[string]any{"v": v}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, _ := compare(t, b, b)
	if !r.SameState || !r.Agrees() || r.Equal != 2 {
		t.Errorf("the same file: %+v", r)
	}
	r, _ = compare(t, b, grown("n@127.0.0.1", local(1)), grown("m@127.0.0.1", local(2)))
	if !r.SameState || r.Equal != 2 || r.Local.Different != 1 {
		t.Errorf("a file with local documents of different nodes: %+v", r)
	}
	for _, nodes := range [][2]string{{"n@127.0.0.1", "m@127.0.0.1"}, {couchgen.DefaultNode, couchgen.DefaultNode}} {
		r, _ = compare(t, grown(nodes[0], docs(t, doc{ID: "x", RevID: "c"})), grown(nodes[1], docs(t, doc{ID: "x", RevID: "d"})))
		if r.SameState || r.Different != 1 {
			t.Errorf("a file with another write in each: %+v", r)
		}
	}
}

func TestFirst(t *testing.T) {
	var list []doc
	for i := range 30 {
		list = append(list, doc{ID: fmt.Sprintf("d%02d", i), RevID: "a"})
	}
	all := copies(t, file(t, 1, couchgen.Options{}, docs(t, list...)), file(t, 2, couchgen.Options{}, docs(t)))
	for _, c := range []struct{ first, want int }{{0, 30}, {7, 7}, {-1, 0}} {
		r, err := diverge.Compare(t.Context(), all, diverge.Options{First: c.first})
		if err != nil {
			t.Fatal(err)
		}
		l := r.Copies[1].Missing
		if l.Count != 30 || len(l.First) != c.want || c.want > 0 && l.First[0].ID != "d00" {
			t.Errorf("First %d: got %d of %d", c.first, len(l.First), l.Count)
		}
	}
}

func TestEnds(t *testing.T) {
	a := file(t, 1, couchgen.Options{}, docs(t, doc{ID: "x", RevID: "a"}))
	all := copies(t, a, file(t, 2, couchgen.Options{}, docs(t)))
	enough := errors.New("enough")
	if _, err := diverge.Compare(t.Context(), all, diverge.Options{Each: func(diverge.Difference) error { return enough }}); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if _, err := diverge.Compare(t.Context(), all[:1], diverge.Options{}); err == nil {
		t.Error("one copy was compared")
	}
}

// Of a document with very many conflicts just those are told that a copy lacks.
func TestManyConflicts(t *testing.T) {
	const n = 2000
	write := func(seed uint64, skip int) []byte {
		return file(t, seed, couchgen.Options{}, func(g *couchgen.Generator) {
			for i := range n {
				if i != skip {
					if _, err := g.Put(doc{ID: "x", Parent: "0", RevID: fmt.Sprintf("%032x", i)}); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
	files := [][]byte{write(1, 17), write(2, 1711)}
	r, each := compare(t, files...)
	if r.Different != 1 || len(each) != 1 || len(each[0].Leaves) != n {
		t.Fatalf("got %+v", r)
	}
	for i, want := range []int{17, 1711} {
		if got := revTexts(each[0].Copies[i].Lacks); !slices.Equal(got, []string{fmt.Sprintf("1-%032x", want)}) {
			t.Errorf("copy %d lacks %v", i, got)
		}
	}
}

func revTexts(leaves []diverge.Leaf) (out []string) {
	for _, l := range leaves {
		out = append(out, l.String())
	}
	return out
}
