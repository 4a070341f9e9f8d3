package restore

import (
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// findSelf makes out which node of the maps the backup is of. What its record says may
// be wrong: versions that did not hold the name against the maps took it from vm.args
// or from the first file.
func (n *nodeMaps) findSelf(m *manifest.Manifest, epochs []couchfile.Epoch, told string) error {
	var candidates []shard.Candidate
	known := told != "" && slices.ContainsFunc(n.list, func(m dbMap) bool { _, ok := m.ByNode[told]; return ok })
	if known {
		candidates = append(candidates, shard.Candidate{Name: told, Source: "--node-name"})
	}
	if !slices.ContainsFunc(m.Damage, func(d manifest.Damage) bool { return d.What == manifest.DamageNode }) {
		candidates = append(candidates, shard.Candidate{Name: m.NodeName, Source: "the backup's record"})
	}
	for _, e := range epochs {
		candidates = append(candidates, shard.Candidate{Name: e.Node, Source: dbsPath})
	}
	files := m.Databases()
	list := make([]shard.Map, len(n.list))
	for i, m := range n.list {
		list[i] = m.Map
	}
	n.self = shard.FindSelf(list, func(s shard.Name) bool { return files[s.Path()] != nil }, candidates)
	if known && n.self.Name != told {
		return fmt.Errorf("%w: the shard maps know %s as another node than this backup's, which is %s: pass that name, or one that they don't know", ErrOptions, told, n.self.Name)
	}
	return nil
}

// name returns what the restored files are to run as: what was told, or as m lists
// this node.
func (n *nodeMaps) name(m shard.Map, told string) string {
	if told != "" {
		return told
	}
	if as := n.self.As(m); as != "" {
		return as
	}
	return n.self.Name
}

// tell puts into a result which node the backup is of, and how its files get served.
func (n *nodeMaps) tell(r *Result, told string) {
	r.NodeName = n.self.Name
	if told != "" {
		r.NodeName = told
	}
	r.Notes = append(r.Notes, n.self.Notes...)
	if n.self.Finding != "" && told == "" {
		r.warn("%s", n.self.Finding)
	}
}

// howToServe says what the CouchDB must be called that gets restored files; old says that
// they are those of a CouchDB 2.
func howToServe(node, told string, old bool) string {
	text := fmt.Sprintf("the shard maps name the node %s, and only a CouchDB of that name opens the databases: start it with -name %s in vm.args", node, node)
	if told == "" {
		ask := "/_node/_local"
		if old {
			ask = "/_membership"
		}
		text += ", or restore with --node-name and the name that it has (GET " + ask + ")"
	}
	return text
}
