package topology

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

func backupsOf(t *testing.T, nodes ...string) (out []Backup) {
	t.Helper()
	for i, node := range nodes {
		id, err := manifest.NewID()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Backup{Node: node, Instance: fmt.Sprintf("db%d", i+1), ID: id})
	}
	return out
}

// database returns one of q ranges on nodes, n copies of each; docs is how many documents
// the copy in a backup has.
func database(name string, q, n int, nodes []string, docs func(backup int) uint64) Database {
	d := Database{Map: shard.Map{DB: name, Suffix: ".1700000000", ByNode: map[string][]shard.Range{}}, Doc: []byte(`{"_id":"x","props":{}}`), Rev: "1-a"}
	width := uint64(1<<32) / uint64(q)
	for i := range uint64(q) {
		r := shard.Range{Begin: uint32(i * width), End: uint32((i+1)*width - 1)}
		rg := Range{Range: r}
		for j := range n {
			b := (len(name) + int(name[len(name)-1]) + int(i) + j) % len(nodes)
			d.Map.ByNode[nodes[b]] = append(d.Map.ByNode[nodes[b]], r)
			rg.Copies = append(rg.Copies, Copy{Backup: b, Docs: docs(b), Seq: docs(b), Size: 10})
		}
		d.Ranges = append(d.Ranges, rg)
	}
	return d
}

func same(uint64) func(int) uint64 { return func(int) uint64 { return 5 } }

func nodes(n int, host string) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("couchdb@%s%d", host, i+1))
	}
	return out
}

// Whatever the plan is: each range has as many copies as asked, on nodes that differ, each
// of a backup that has it, and maps say who has what.
func TestPlaceAny(t *testing.T) {
	t.Parallel()
	for _, had := range []int{1, 2, 3, 5} {
		for _, now := range []int{1, 2, 3, 5} {
			for _, q := range []int{1, 2, 8} {
				for n := range now + 1 {
					old := nodes(had, "old")
					copies := min(had, 3)
					p := New("c", backupsOf(t, old...), old, nodes(now, "new"))
					p.N = n
					var dbs []Database
					for i := range 20 {
						dbs = append(dbs, database(fmt.Sprintf("db%d", i), q, copies, old, same(0)))
					}
					got, err := p.Place(dbs)
					if err != nil {
						t.Fatal(err)
					}
					want := min(now, copies)
					if n > 0 {
						want = n
					}
					name := fmt.Sprintf("%d nodes to %d, q %d, n %d", had, now, q, n)
					checkPlacement(t, name, got, q, want, len(dbs))
				}
			}
		}
	}
}

func checkPlacement(t *testing.T, name string, got *Placement, q, n, dbs int) {
	t.Helper()
	holders := map[shard.Name][]string{}
	most, least := 0, 1<<30
	for _, part := range got.Parts {
		for _, take := range part.Takes {
			if slices.Contains(holders[take.Name], part.Node.Name) {
				t.Errorf("%s: %s has %v twice", name, part.Node.Name, take.Name)
			}
			holders[take.Name] = append(holders[take.Name], part.Node.Name)
		}
		most, least = max(most, len(part.Takes)), min(least, len(part.Takes))
	}
	if len(holders) != q*dbs || len(got.Maps) != dbs || len(got.Missing) != 0 {
		t.Errorf("%s: %d ranges, %d maps, %d missing", name, len(holders), len(got.Maps), len(got.Missing))
	}
	if most > 2*least+2*q {
		t.Errorf("%s: a node has %d files and another %d", name, most, least)
	}
	for _, m := range got.Maps {
		parsed, ok, err := shard.ParseMap(m.Doc)
		if err != nil || !ok {
			t.Fatalf("%s: %v", m.Doc, err)
		}
		for node, ranges := range parsed.ByNode {
			for _, r := range ranges {
				key := shard.Name{Range: r, DB: parsed.DB, Suffix: parsed.Suffix}
				if i := slices.Index(holders[key], node); i < 0 {
					t.Errorf("%s: the map names %s for %v, which it doesn't get", name, node, key)
				}
			}
		}
	}
	for key, nodes := range holders {
		if len(nodes) != n {
			t.Errorf("%s: %v has %d copies, want %d", name, key, len(nodes), n)
		}
	}
}

// With as many nodes each takes the place of one, and gets that one's own files.
func TestPlaceSamePlaces(t *testing.T) {
	t.Parallel()
	old := nodes(3, "old")
	p := New("c", backupsOf(t, old...), old, []string{"couchdb@x", "couchdb@old2", "couchdb@y"})
	if as := []string{p.Nodes[0].As, p.Nodes[1].As, p.Nodes[2].As}; !slices.Equal(as, []string{"couchdb@old1", "couchdb@old2", "couchdb@old3"}) {
		t.Fatalf("places: %v", as)
	}
	got, err := p.Place([]Database{database("db", 4, 2, old, same(0))})
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range got.Parts {
		if len(part.Takes) == 0 {
			t.Errorf("%s gets nothing", part.Node.Name)
		}
		for _, take := range part.Takes {
			if take.Backup != i {
				t.Errorf("%s gets %v out of the backup of %s", part.Node.Name, take.Name, p.Backups[take.Backup].Node)
			}
		}
	}
	for new, was := range map[string]string{"couchdb@x": "couchdb@old1", "couchdb@y": "couchdb@old3"} {
		a, b := got.Maps[0].ByNode[new], database("db", 4, 2, old, same(0)).Map.ByNode[was]
		if !slices.Equal(a, b) {
			t.Errorf("%s has %v, %s had %v", new, a, was, b)
		}
	}
}

// Where fewer copies come back than there were, those that saw most do.
func TestPlaceBest(t *testing.T) {
	t.Parallel()
	old := nodes(3, "old")
	docs := func(b int) uint64 { return []uint64{7, 9, 8}[b] }
	for n, want := range map[int][]int{1: {1}, 2: {1, 2}, 3: {0, 1, 2}} {
		for _, now := range []int{3, 4} {
			p := New("c", backupsOf(t, old...), old, nodes(now, "new"))
			p.N = n
			got, err := p.Place([]Database{database("db", 1, 3, old, docs)})
			if err != nil {
				t.Fatal(err)
			}
			used := map[int]bool{}
			for _, part := range got.Parts {
				for _, take := range part.Takes {
					used[take.Backup] = true
				}
			}
			if !slices.Equal(slices.Sorted(maps.Keys(used)), want) {
				t.Errorf("n %d on %d nodes: backups %v are used, want %v", n, now, used, want)
			}
			if len(got.Left) > 0 != (n < 3) || n < 3 && (!got.Left[0].Unlike() || len(got.Left[0].Used) != n || len(got.Left[0].Unused) != 3-n) {
				t.Errorf("n %d: left are %v", n, got.Left)
			}
		}
	}
}

// A range that no backup has is named, and stands in the map, so that its place is taken.
func TestPlaceMissing(t *testing.T) {
	t.Parallel()
	old := nodes(2, "old")
	d := database("db", 2, 1, old, same(0))
	d.Ranges[1].Copies = nil
	p := New("c", backupsOf(t, old...), old, nodes(2, "new"))
	got, err := p.Place([]Database{d})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Missing) != 1 || got.Missing[0].Range != d.Ranges[1].Range {
		t.Errorf("missing: %v", got.Missing)
	}
	n := 0
	for _, part := range got.Parts {
		for _, take := range part.Takes {
			if take.Backup < 0 {
				n++
			}
		}
	}
	if n != 1 || len(got.Maps[0].Ranges("")) != 2 {
		t.Errorf("%d nodes take its place, the map has %v", n, got.Maps[0].Ranges(""))
	}
}

func TestPlanText(t *testing.T) {
	t.Parallel()
	p := New("c", backupsOf(t, "couchdb@a", "couchdb@b"), []string{"couchdb@a", "couchdb@b"}, []string{"couchdb@c", "couchdb@d"})
	text, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if b, _ := again.YAML(); !bytes.Equal(b, text) {
		t.Errorf("got\n%s\nwant\n%s", b, text)
	}
	good := string(text)
	for change, want := range map[string]string{
		"n: 3":                             "only 2 nodes",
		"n: -1":                            "n is -1",
		"copies: 2":                        "copies",
		"nodes: []":                        "nodes",
		"couchdb@d=>couchdb@c":             "there twice",
		"couchdb@d=>couchdb":               "not the name",
		"as: couchdb@b=>":                  "some nodes say",
		"as: couchdb@b=>as: couchdb@a":     "take the place of couchdb@a",
		"node: couchdb@b=>node: couchdb@a": "two backups",
		"instance: db2=>instance: ../x":    "can't be the instance",
	} {
		text := good + change + "\n"
		if from, to, ok := strings.Cut(change, "=>"); ok {
			text = strings.Replace(good, from, to, 1)
		}
		if _, err := Parse(strings.NewReader(text)); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want ErrPlan with %q", change, err, want)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte("cluster: c\nbackups:\n- node: couchdb@a\n  instance: db1\n  backup: 0192f0c5-0000-7000-8000-000000000000\nnodes:\n- name: couchdb@b\n  as: couchdb@a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		p.Placement = "" // TestPlaceByZones
		old := nodes(len(p.Backups), "old")
		for i, b := range p.Backups {
			old[i] = b.Node
		}
		got, err := p.Place([]Database{database("db", 2, min(2, len(old)), old, same(0))})
		if err != nil {
			t.Fatal(err)
		}
		want := p.N
		if want == 0 {
			want = min(len(p.Nodes), 2, len(old))
		}
		checkPlacement(t, "fuzz", got, 2, want, 1)
	})
}

// A plan that was changed by hand is held against its backups.
func TestPlanFits(t *testing.T) {
	t.Parallel()
	both := []string{"couchdb@a", "couchdb@b"}
	backups := backupsOf(t, both...)
	records := func() (out []*manifest.Record) {
		for _, b := range backups {
			out = append(out, &manifest.Record{Summary: manifest.Summary{ID: b.ID, Instance: b.Instance, NodeName: b.Node, Nodes: both}})
		}
		return out
	}
	for _, tt := range []struct {
		name string
		edit func(*Plan, []*manifest.Record)
		want string
	}{
		{"as it was made", func(*Plan, []*manifest.Record) {}, ""},
		{"the backup of another node", func(_ *Plan, r []*manifest.Record) { r[1].NodeName = "couchdb@c" }, "is one of the node couchdb@c"},
		{"a backup that doesn't know its node", func(_ *Plan, r []*manifest.Record) { r[1].NodeName = "" }, ""},
		{"another cluster by its name", func(_ *Plan, r []*manifest.Record) { r[0].Cluster, r[1].Cluster = "x", "y" }, "different clusters"},
		{"another cluster by its nodes", func(_ *Plan, r []*manifest.Record) {
			r[0].Nodes, r[1].Nodes = []string{"couchdb@a", "couchdb@c"}, []string{"couchdb@b", "couchdb@d"}
		}, "different clusters"},
		{"a node that was removed", func(_ *Plan, r []*manifest.Record) { r[0].Nodes = []string{"couchdb@a", "couchdb@c"} }, ""},
		{"the place of nobody", func(p *Plan, _ []*manifest.Record) { p.Nodes[0].As = "couchdb@A" }, "which is no node of the cluster"},
		{"the place of one whose backup was taken out", func(p *Plan, _ []*manifest.Record) { p.Backups = p.Backups[:1] }, ""},
		{"two names of one host", func(p *Plan, _ []*manifest.Record) { p.Nodes[0].Name = "couchdb@D" }, "upper and lower case"},
	} {
		p, list := New("c", slices.Clone(backups), both, []string{"couchdb@c", "couchdb@d"}), records()
		tt.edit(p, list)
		err := p.Check()
		if err == nil {
			err = p.Fits(list[:len(p.Backups)], nil)
		}
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A map whose ranges leave hashes out, and one of a database that is being split, whose ranges overlap.
func TestGaps(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"00000000-ffffffff":                                     "[]",
		"00000000-7fffffff 80000000-ffffffff":                   "[]",
		"00000000-7fffffff 00000000-ffffffff 80000000-ffffffff": "[]",
		"00000000-7fffffff":                                     "[80000000-ffffffff]",
		"10000000-7fffffff 20000000-2fffffff 90000000-ffffffff": "[00000000-0fffffff 80000000-8fffffff]",
		"": "[00000000-ffffffff]",
	} {
		d := Database{}
		for _, s := range strings.Fields(text) {
			r, err := shard.ParseRange(s)
			if err != nil {
				t.Fatal(err)
			}
			d.Ranges = append(d.Ranges, Range{Range: r})
		}
		if got := fmt.Sprint(d.Gaps()); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// Where one copy comes back, it is the one that knows what was purged, not the one that still has it; unless that saw more.
func TestBestKnowsPurges(t *testing.T) {
	t.Parallel()
	still, purged, more := Copy{Backup: 0, Docs: 10, Seq: 20}, Copy{Backup: 1, Docs: 9, Purges: 1, Seq: 12}, Copy{Backup: 2, Docs: 11, Seq: 11}
	r := Range{Copies: []Copy{still, purged}}
	if got, _ := r.Best(); got != purged {
		t.Errorf("got %+v, want the one that knows the purge", got)
	}
	r.Copies = append(r.Copies, more)
	if got, _ := r.Best(); got != more {
		t.Errorf("got %+v, want the one that saw most", got)
	}
}
