package serve_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
)

// point is what the server answered of the database timeline at one step.
type point struct {
	Changes struct {
		Results []struct {
			ID      string `json:"id"`
			Deleted bool   `json:"deleted"`
			Changes []struct {
				Rev string `json:"rev"`
			} `json:"changes"`
		} `json:"results"`
	} `json:"changes"`
	Shards map[string]struct {
		Sizes struct {
			File int64 `json:"file"`
		} `json:"sizes"`
	} `json:"shard_info"`
}

// state is each document's winning revision, and whether that is a deletion.
func (p *point) state() map[string]string {
	out := map[string]string{}
	for _, r := range p.Changes.Results {
		out[r.ID] = r.Changes[0].Rev
		if r.Deleted {
			out[r.ID] += " deleted"
		}
	}
	return out
}

func points(t *testing.T) (out []*point) {
	t.Helper()
	paths, err := filepath.Glob(fixtures + "/expected/timeline/points/*.json")
	must(t, err)
	slices.Sort(paths)
	for _, p := range paths {
		x := &point{}
		read(t, strings.TrimPrefix(p, fixtures+"/expected/"), x)
		out = append(out, x)
	}
	return out
}

// Between each two steps of a database the changes are those that the server's answers differ by.
func TestChangesAsServer(t *testing.T) {
	t.Parallel()
	list := points(t)
	if len(list) < 5 || len(list[0].Shards) == 0 || len(list[0].Changes.Results) == 0 {
		t.Fatalf("%d points, %+v", len(list), list[0])
	}
	var nodes []*serve.Database
	for _, p := range list {
		data := t.TempDir()
		must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
		for name, s := range p.Shards {
			must(t, os.Truncate(filepath.Join(data, filepath.FromSlash(name)+".couch"), s.Sizes.File))
		}
		r, m := servetest.Backup(t, data)
		n, err := serve.OpenNode(t.Context(), r, m)
		must(t, err)
		t.Cleanup(n.Close)
		d, err := n.Database("timeline")
		must(t, err)
		nodes = append(nodes, d)
	}
	for i, a := range list {
		for j, b := range list {
			want := map[string]bool{}
			was, is := a.state(), b.state()
			for id := range maps.Keys(was) {
				if was[id] != is[id] {
					want[id] = true
				}
			}
			for id := range maps.Keys(is) {
				if was[id] != is[id] {
					want[id] = true
				}
			}
			got := map[string]bool{}
			must(t, serve.Changes(t.Context(), nodes[i], nodes[j], func(c serve.DocChange) error {
				if got[c.ID] {
					t.Errorf("from %d to %d: %s is told twice", i, j, c.ID)
				}
				got[c.ID] = true
				wantFrom, wantTo := strings.TrimSuffix(was[c.ID], " deleted"), strings.TrimSuffix(is[c.ID], " deleted")
				if c.From != wantFrom || c.To != wantTo || kindOf(was[c.ID], is[c.ID]) != c.Kind {
					t.Errorf("from %d to %d: %+v, and the server had %q and %q", i, j, c, was[c.ID], is[c.ID])
				}
				return nil
			}))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("from %d to %d: %v, want %v", i, j, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
		}
	}
}

// kindOf says what became of a document, as the server's answers tell it.
func kindOf(was, is string) serve.ChangeKind {
	deleted := func(s string) bool { return strings.HasSuffix(s, " deleted") }
	switch {
	case is == "":
		return serve.DocPurged
	case deleted(is):
		if deleted(was) {
			return serve.DocChanged
		}
		return serve.DocDeleted
	case was == "":
		return serve.DocAdded
	case deleted(was):
		return serve.DocUndeleted
	}
	return serve.DocChanged
}

// Of a database that is there in one of the two alone each document is told.
func TestChangesOfAWholeDatabase(t *testing.T) {
	t.Parallel()
	r, m := backedUp(t)
	n, err := serve.OpenNode(t.Context(), r, m)
	must(t, err)
	defer n.Close()
	d, err := n.Database("deletions")
	must(t, err)
	counts := map[serve.ChangeKind]int{}
	last := ""
	must(t, serve.Changes(t.Context(), nil, d, func(c serve.DocChange) error {
		counts[c.Kind]++
		if c.ID <= last {
			t.Errorf("%s behind %s", c.ID, last)
		}
		last = c.ID
		return nil
	}))
	if counts[serve.DocAdded] != 38 || counts[serve.DocDeleted] != 22 {
		t.Errorf("%v, and the server has 38 documents and 22 deleted ones", counts)
	}
	must(t, serve.Changes(t.Context(), d, d, func(c serve.DocChange) error { return fmt.Errorf("%+v", c) }))
}
