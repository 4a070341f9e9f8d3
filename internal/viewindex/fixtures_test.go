package viewindex_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/viewindex"
)

const fixtures = "../../testdata/couchdb-3.5.0"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a database of the fixtures.
type fixture struct {
	dbs    []*couchfile.DB
	ranges []shard.Range
	paths  []string // of the shards, below the data
}

func openFixture(t testing.TB, name string) *fixture {
	t.Helper()
	f := &fixture{}
	paths, err := filepath.Glob(filepath.Join(fixtures, "data/shards/*", name+".*.couch"))
	must(t, err)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		must(t, err)
		db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
		must(t, err)
		rel, err := filepath.Rel(filepath.Join(fixtures, "data"), p)
		must(t, err)
		n, err := shard.ParsePath(filepath.ToSlash(rel))
		must(t, err)
		f.dbs, f.ranges, f.paths = append(f.dbs, db), append(f.ranges, n.Range), append(f.paths, rel)
	}
	return f
}

func (f *fixture) design(t testing.TB, id string) *viewindex.Design {
	t.Helper()
	for _, db := range f.dbs {
		b, err := db.Doc(id, couchfile.DocOptions{})
		if errors.Is(err, couchfile.ErrNotFound) {
			continue
		}
		must(t, err)
		v, err := ejson.Parse(b)
		must(t, err)
		d, err := viewindex.ParseDesign(v.(ejson.Object))
		must(t, err)
		return d
	}
	t.Fatalf("there is no %s", id)
	return nil
}

func (f *fixture) shards(t testing.TB, d *viewindex.Design) (out []viewindex.Shard) {
	t.Helper()
	for i, db := range f.dbs {
		s := viewindex.Shard{Range: f.ranges[i], DB: db}
		b, err := os.ReadFile(filepath.Join(fixtures, "data", "."+strings.TrimSuffix(f.paths[i], ".couch")+"_design", "mrview", d.Signature+".view"))
		if err == nil {
			s.Size = int64(len(b))
			s.Index, err = couchfile.OpenView(bytes.NewReader(b), s.Size)
		}
		must(t, err)
		out = append(out, s)
	}
	return out
}

// query answers a path as the server would, and returns its rows.
func (f *fixture) query(t testing.TB, path string) (rows string, err error) {
	t.Helper()
	u, err := url.Parse(path)
	must(t, err)
	q, parted := mrargs.ParseQuery(u.RawQuery), false
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if parts[0] == "_partition" {
		q, err = q.InPartition(parts[1])
		must(t, err)
		parts = parts[2:]
	}
	if parted, err = f.dbs[0].Partitioned(); err != nil {
		t.Fatal(err)
	}
	d := f.design(t, parts[0]+"/"+parts[1])
	v, err := d.View(parts[3], parted)
	must(t, err)
	a, err := mrargs.ForView(q, nil, false)
	must(t, err)
	must(t, v.Check(a))
	return answer(t.Context(), v, f.shards(t, d), a, nil)
}

// What the server answered of views comes out of its files, and the signatures of design documents are the names of their indexes.
func TestFixtures(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(fixtures, "expected/*/views/[0-9]*.json"))
	must(t, err)
	compared, refused := 0, 0
	for _, p := range paths {
		b, err := os.ReadFile(p)
		must(t, err)
		var want struct {
			Path   string
			Result json.RawMessage
		}
		must(t, json.Unmarshal(b, &want))
		f := openFixture(t, filepath.Base(filepath.Dir(filepath.Dir(p))))
		text, err := f.query(t, want.Path)
		var u *viewindex.Unable
		if errors.As(err, &u) {
			refused++
			if !strings.Contains(want.Path, "/custom") {
				t.Errorf("%s: %s", want.Path, u.Reason)
			}
			continue
		}
		must(t, err)
		if got := value(t, []byte(text)); !reflect.DeepEqual(got, value(t, want.Result)) {
			t.Errorf("%s: got %.500s, want %.500s", want.Path, text, want.Result)
		}
		compared++
	}
	if compared < 10 || refused != 1 {
		t.Errorf("%d answers were compared, %d refused", compared, refused)
	}
}

func value(t testing.TB, b []byte) any {
	t.Helper()
	v, err := ejson.Parse(b)
	must(t, err)
	return v
}

func TestInfo(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join(fixtures, "expected/*/ddoc_info/*.json"))
	must(t, err)
	if len(paths) < 4 {
		t.Fatal(paths)
	}
	for _, p := range paths {
		want, err := os.ReadFile(p)
		must(t, err)
		f := openFixture(t, filepath.Base(filepath.Dir(filepath.Dir(p))))
		id, err := url.PathUnescape(strings.TrimSuffix(filepath.Base(p), ".json"))
		must(t, err)
		d := f.design(t, id)
		got, err := d.Info(strings.TrimPrefix(id, "_design/"), f.shards(t, d))
		must(t, err)
		if text := ejson.String(got) + "\n"; text != string(want) {
			t.Errorf("%s: got %s, want %s", id, text, want)
		}
	}
}

// An index that isn't there, of other views, behind its shard or ahead of it isn't used.
func TestUnable(t *testing.T) {
	t.Parallel()
	f := openFixture(t, "viewed")
	d := f.design(t, "_design/stats")
	v, err := d.View("plain", false)
	must(t, err)
	ask := func(shards []viewindex.Shard, query string) error {
		t.Helper()
		a, err := mrargs.ForView(mrargs.ParseQuery(query), nil, false)
		must(t, err)
		must(t, v.Check(a))
		_, err = answer(t.Context(), v, shards, a, nil)
		return err
	}
	older := func(t *testing.T, s viewindex.Shard, i int) viewindex.Shard { // at the shard's first commit with documents
		b, err := os.ReadFile(filepath.Join(fixtures, "data", f.paths[i]))
		must(t, err)
		var headers []couchfile.RawHeader
		must(t, couchfile.EachHeader(bytes.NewReader(b), int64(len(b)), func(h couchfile.RawHeader) error {
			headers = append(headers, h)
			return nil
		}))
		s.DB, err = couchfile.Open(bytes.NewReader(b), headers[len(headers)/2].End)
		must(t, err)
		return s
	}
	whole := f.shards(t, d)
	must(t, ask(whole, ""))
	for name, c := range map[string]struct {
		change func([]viewindex.Shard)
		want   string
	}{
		"missing": {func(s []viewindex.Shard) { s[1].Index = nil }, "no index of plain is stored"},
		"other":   {func(s []viewindex.Shard) { s[1].Index = f.shards(t, f.design(t, "_design/second"))[1].Index }, "of other views"},
		"ahead":   {func(s []viewindex.Shard) { s[0] = older(t, s[0], 0) }, "from after what is read"},
	} {
		s := slices.Clone(whole)
		c.change(s)
		for _, query := range []string{"", "update=false"} {
			var u *viewindex.Unable
			if err := ask(s, query); !errors.As(err, &u) || !strings.Contains(u.Reason, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := d.View("nosuch", false); err == nil || err.Error() != "not_found: missing_named_view" {
		t.Errorf("a view that isn't there: %v", err)
	}
}
