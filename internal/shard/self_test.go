package shard_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/shard"
)

var halves = []shard.Range{{Begin: 0, End: 1<<31 - 1}, {Begin: 1 << 31, End: 1<<32 - 1}}

// mapOf returns the map of a database of two shards: each word is a node, "=", and
// which of the two it has, as in "a=12 b=1".
func mapOf(db, text string) shard.Map {
	m := shard.Map{DB: db, Suffix: ".1795334390", ByNode: map[string][]shard.Range{}}
	for _, word := range strings.Fields(text) {
		node, which, _ := strings.Cut(word, "=")
		m.ByNode[node] = []shard.Range{}
		for _, c := range which {
			m.ByNode[node] = append(m.ByNode[node], halves[c-'1'])
		}
	}
	return m
}

// TestFindSelf gives maps, the files that are there ("db1" is the first shard of
// database db), and what configuration and files say of the node's name.
func TestFindSelf(t *testing.T) {
	both := map[string]string{"x": "me=12 other=12", "y": "me=12 other=12"}
	tests := []struct {
		name       string
		maps       map[string]string
		files      string
		candidates string
		want       string
		note       string
		finding    string
		ranges     string // of this node, as files are given; "" are all that are there
	}{
		{"the name that the maps know", both, "x1 x2 y1 y2", "me", "me", "", "", ""},
		{"a shard is gone", both, "x1 x2 y2", "me", "me", "", "", "x1 x2 y1 y2"},
		{"all shards are gone", both, "", "me", "me", "", "", "x1 x2 y1 y2"},
		{"vm.args without a name, as with Helm", map[string]string{"x": "me=12 other=1"}, "x1 x2", "nonode@nohost", "me", "no shard map knows that name", "", ""},
		{"and a shard is gone", map[string]string{"x": "me=12 other=1", "y": "me=12 other=2"}, "x1 x2 y1", "nonode@nohost", "me", "no shard map knows", "", "x1 x2 y1 y2"},
		{"vm.args without a name, and a file's epoch", both, "x1 x2 y1", "nonode@nohost me", "me", "as c2 says and the shard maps know", "", "x1 x2 y1 y2"},
		{"renamed, and the maps with it", map[string]string{"x": "me=12 other=1"}, "x1 x2", "before", "me", "before by what c1 says", "", ""},
		{"nothing says a name", map[string]string{"x": "me=12 other=1"}, "x1 x2", "", "me", "", "", ""},
		{"all nodes have all shards", both, "x1 x2 y1 y2", "nonode@nohost", "me", "", "me, other, and nonode@nohost (c1) is none of them: pass --node-name", ""},
		{"and a name is given", both, "x1 x2 y1 y2", "other nonode@nohost", "other", "", "", ""},
		{"disjoint halves", map[string]string{"x": "me=1 other=2"}, "x1", "nonode@nohost", "me", "no shard map knows", "", ""},
		{"disjoint halves, the name of the other", map[string]string{"x": "me=1 other=2"}, "x1", "other", "me", "", "pass --node-name me", ""},
		{"the name of another that shares shards", map[string]string{"x": "me=1 other=2", "y": "me=12 other=1"}, "x1 y1 y2", "other", "me", "", "is this the data directory of other?", ""},
		{"another fits better, but nothing is there that is not mine", map[string]string{"x": "me=12 other=2"}, "x2", "me", "me", "", "", "x1 x2"},
		{"left over from a move", map[string]string{"x": "me=12 other=1", "y": "other=12 third=12"}, "x1 x2 y1", "me", "me", "", "", "x1 x2"},
		{"a node without shards", map[string]string{"x": "one=12 two=12"}, "", "me", "me", "none of the files that they name is here", "", ""},
		{"stale name, known to old maps alone", map[string]string{"x": "before=12 other=1", "y": "me=12 other=2"}, "x1 x2 y1 y2", "me before", "me", "another name than me, so CouchDB doesn't open their databases under that one: x (before)", "", ""},
		{"stale name first", map[string]string{"x": "before=12 other=1", "y": "me=12 other=2"}, "x1 x2 y1", "before me", "before", "y (me)", "", "x1 x2 y1 y2"},
		{"no maps", nil, "", "first second", "first", "", "", ""},
		{"no maps and no names", nil, "", "", "", "", "", ""},
		{"one node, another name", map[string]string{"x": "me=12"}, "x1", "nonode@nohost", "me", "no shard map knows", "", "x1 x2"},
		{"one node, two names", map[string]string{"x": "me=12", "y": "before=12"}, "x1 x2 y1", "me", "me", "y (before)", "", "x1 x2 y1 y2"},
		{"one node, two names that nobody says", map[string]string{"x": "a=12", "y": "b=12"}, "x1 x2 y1 y2", "c", "a", "no shard map knows", "", ""},
		{"one node, the name of another", map[string]string{"x": "me=12", "y": "other=12"}, "x1 x2", "other", "me", "is this the data directory of other?", "", ""},
		{"databases of one copy on several nodes", map[string]string{"x": "me=12", "y": "other=12"}, "x1 x2", "me", "me", "", "", ""},
		{"and another stands beside", map[string]string{"x": "me=12 other=12", "y": "other=12"}, "x1 x2 y1", "me", "me", "", "", "x1 x2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var list []shard.Map
			for db, text := range tt.maps {
				list = append(list, mapOf(db, text))
			}
			slices.SortFunc(list, func(a, b shard.Map) int { return strings.Compare(a.DB, b.DB) })
			var candidates []shard.Candidate
			for i, c := range strings.Fields(tt.candidates) {
				candidates = append(candidates, shard.Candidate{Name: c, Source: "c" + string(rune('1'+i))})
			}
			there := func(n shard.Name) bool { return slices.Contains(strings.Fields(tt.files), fileOf(n)) }
			s := shard.FindSelf(list, there, candidates)
			if s.Name != tt.want {
				t.Errorf("name %q, want %q", s.Name, tt.want)
			}
			if notes := strings.Join(s.Notes, "\n"); !strings.Contains(notes, tt.note) || tt.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if !strings.Contains(s.Finding, tt.finding) || tt.finding == "" && s.Finding != "" {
				t.Errorf("finding %q, want %q", s.Finding, tt.finding)
			}
			var mine []string
			for _, m := range list {
				for _, r := range s.Ranges(m) {
					mine = append(mine, fileOf(shard.Name{Range: r, DB: m.DB}))
				}
			}
			want := tt.ranges
			if want == "" {
				want = tt.files
			}
			if got := strings.Join(mine, " "); got != want {
				t.Errorf("its shards are %q, want %q", got, want)
			}
		})
	}
}

func fileOf(n shard.Name) string {
	if n.Range == halves[0] {
		return n.DB + "1"
	}
	return n.DB + "2"
}
