package contents

import (
	"context"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// When the time is over a page ends, and the next one goes on with the range that was in hand; the first one alone is told
// of as far as it came.
func TestDivergenceIsBounded(t *testing.T) {
	t.Parallel()
	r := servetest.Init(t, mem.New())()
	var members []cluster.Member
	var nodes []cluster.Compared
	for i, dir := range servetest.Cluster(t) {
		name := servetest.ClusterNodes[i]
		at, err := node.Locate(t.Context(), node.Options{DataDir: dir, NodeName: name})
		if err != nil {
			t.Fatal(err)
		}
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: at, Instance: "db" + string(rune('1'+i)), StateDir: t.TempDir(), Name: "b", Tool: "test"})
		if err != nil {
			t.Fatal(err)
		}
		m, n, err := cluster.Newest(t.Context(), r, name, res.Record)
		if err != nil {
			t.Fatal(err)
		}
		members, nodes = append(members, m), append(nodes, n)
	}
	c, err := cluster.Open(t.Context(), nil, members)
	if err != nil {
		t.Fatal(err)
	}
	// page compares what is behind a range until so many were asked for.
	page := func(after string, until int) (*Divergence, error) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		by := c.Compare(nil, nodes)
		defer by.Close()
		x, n := &Divergence{Complete: true}, 0
		return x, x.compare(ctx, c, by, func(string) bool {
			if n++; n == until {
				cancel(errSlow)
			}
			return true
		}, after, 10)
	}
	first, err := page("", 3)
	if err != nil || first.Complete || first.Next != "orders 00000000-7fffffff" || first.Counts.Ranges != 2 || len(first.Ranges) != 1 {
		t.Fatalf("first: %+v, %v", first, err)
	}
	rest, err := page(first.Next, 0)
	if err != nil || !rest.Complete || rest.Next != "" || rest.Counts.Ranges != 2 || rest.Counts.Different != 2 {
		t.Errorf("rest: %+v, %v", rest, err)
	}
	var told *refusal.Error
	if alone, err := page(first.Next, 3); !errors.As(err, &told) || told.Kind != refusal.Unavailable { // before it was opened; n counts what is passed over, too
		t.Errorf("alone: %+v, %v", alone, err)
	}
}
