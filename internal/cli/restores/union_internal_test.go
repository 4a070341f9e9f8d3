package restores

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/topology"
)

// A copy that can't be read is a problem of its range, and keeps no other one from being compared.
func TestUnionGoesOn(t *testing.T) {
	t.Parallel()
	c := &cluster.Cluster{}
	for _, name := range []string{"couchdb@a", "couchdb@b"} {
		m := &manifest.Manifest{}
		m.NodeName = name
		c.Members = append(c.Members, cluster.Member{Manifest: m})
	}
	copies := c.Copies(&repo.Repo{})
	defer copies.Close()
	u := &unionJSON{}
	left := &topology.Left{Name: shard.Name{DB: "db", Range: shard.Full}, Used: []topology.Copy{{Backup: 0}}, Unused: []topology.Copy{{Backup: 1}}}
	if err := u.unite(t.Context(), c, copies, left, takeout.UnionOptions{}); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(u.Problems, " ")
	if len(u.Problems) != 2 || u.Ranges != 0 || !strings.Contains(all, "couchdb@a") || !strings.Contains(all, "00000000-ffffffff/db") {
		t.Errorf("got %d ranges, problems %q", u.Ranges, u.Problems)
	}
}
