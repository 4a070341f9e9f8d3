package backup

import (
	"cmp"
	"maps"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

const dbsPath = "_dbs.couch"

// sawEpochs notes which node wrote to a file last. r.mu is held.
func (r *run) sawEpochs(epochs []couchfile.Epoch) {
	if len(epochs) == 0 {
		return
	}
	if r.writers == nil {
		r.writers = map[string]int{}
	}
	r.writers[epochs[0].Node]++
}

// findSelf makes out which node this is, by the shard maps and the files that the
// backup holds by now.
func (r *run) findSelf() {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := func(n shard.Name) bool { return r.files[capture.Name{Root: manifest.DataRoot, Path: n.Path()}] != nil }
	r.self = shard.FindSelf(r.maps, there, r.candidates())
}

// candidates lists the names that this node may have, the surest first: what was told,
// the name under which a server last opened the shard map, what configuration says,
// who wrote to most files last, earlier names, and what the parent found.
//
// A server that opens a file whose newest epoch has another node's name writes its own.
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, init_state; tried on
// _dbs.couch and _nodes.couch, which each start of a server opens.
func (r *run) candidates() []shard.Candidate {
	n := r.opts.Node
	said := shard.Candidate{Name: n.NodeName, Source: cmp.Or(n.NameSource, "the configuration")}
	var told, read, epochs []shard.Candidate
	if n.NameTold {
		told = append(told, said)
	} else {
		read = append(read, said)
	}
	for _, e := range r.mapEpochs {
		epochs = append(epochs, shard.Candidate{Name: e.Node, Source: dbsPath})
	}
	newest := epochs[:min(len(epochs), 1)]
	var files []shard.Candidate
	for _, node := range slices.SortedFunc(maps.Keys(r.writers), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.writers[b], r.writers[a]), cmp.Compare(a, b))
	}) {
		files = append(files, shard.Candidate{Name: node, Source: "what wrote to the files last"})
	}
	before := shard.Candidate{Name: r.oldName, Source: "the backup before"}
	return slices.Concat(told, newest, read, files, epochs, []shard.Candidate{before})
}

// tellSelf says which node this was found to be, and what is wrong with that.
func (r *run) tellSelf() {
	r.nodeName = r.self.Name
	for _, n := range r.self.Notes {
		r.note(n)
	}
	if r.self.Finding != "" {
		r.damaged(capture.Name{Root: manifest.DataRoot, Path: dbsPath}, manifest.Damage{What: manifest.DamageNode, Error: r.self.Finding})
	}
}
