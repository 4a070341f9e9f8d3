package viewindex

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
)

// Info is what CouchDB answers to _info of a design document of that name, without the prefix, of a database at rest. A shard
// without an index counts as one of which nothing is indexed. The error is one of reading.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_index.erl, get(info), and src/fabric/src/fabric_group_info.erl.
func (d *Design) Info(name string, shards []Shard) (ejson.Object, error) {
	var pending, updateSeq, purgeSeq, active, external, file uint64
	var collators []string
	for _, s := range shards {
		db := s.DB.Header().UpdateSeq
		if s.Index == nil {
			pending += db
			continue
		}
		h := s.Index.Header()
		pending += db - min(db, h.UpdateSeq)
		updateSeq += h.UpdateSeq
		purgeSeq += h.PurgeSeq
		file += uint64(max(0, s.Size))
		active += treeSize(h.IDTree)
		for i, v := range h.Views {
			active += treeSize(v.Tree)
			n, err := d.externalSize(i, v.Tree)
			if err != nil {
				return nil, err
			}
			external += n
		}
		collators = append(collators, collatorVersions(h.Info)...)
	}
	slices.Sort(collators)
	versions := ejson.Array{}
	for _, v := range slices.Compact(collators) {
		versions = append(versions, v)
	}
	number := func(n uint64) ejson.Number { return ejson.Number(fmt.Sprint(n)) }
	return ejson.Object{{Name: "name", Value: name}, {Name: "view_index", Value: ejson.Object{
		{Name: "updates_pending", Value: ejson.Object{
			{Name: "minimum", Value: number(pending)}, {Name: "preferred", Value: number(pending)}, {Name: "total", Value: number(pending)}}},
		{Name: "waiting_commit", Value: false},
		{Name: "waiting_clients", Value: number(0)},
		{Name: "updater_running", Value: false},
		{Name: "update_seq", Value: number(updateSeq)},
		{Name: "sizes", Value: ejson.Object{
			{Name: "file", Value: number(file)}, {Name: "external", Value: number(external)}, {Name: "active", Value: number(active)}}},
		{Name: "signature", Value: d.Signature},
		{Name: "purge_seq", Value: number(purgeSeq)},
		{Name: "language", Value: d.Language},
		{Name: "compact_running", Value: false},
		{Name: "collator_versions", Value: versions},
	}}}, nil
}

func treeSize(r couchfile.TreeRoot) uint64 {
	if r.Empty {
		return 0
	}
	return uint64(max(0, r.Size))
}

// externalSize is the size of the keys and values of a view. That of an empty one is that of what its functions make of nothing,
// as far as it is known.
func (d *Design) externalSize(i int, r couchfile.TreeRoot) (uint64, error) {
	t := r.Reduction
	if r.Empty {
		var functions []string
		if i < len(d.views) {
			for _, f := range d.views[i].reduces {
				source, _ := f.source.(string)
				functions = append(functions, source)
			}
		}
		var err error
		if t, err = couchwriter.ViewReduce(functions).Reduce(nil, nil); err != nil {
			return 0, nil
		}
	}
	red, err := parseReduction(t)
	return red.size, err
}

// collatorVersions are the versions in #{ucol_vs => [[153,120,0,0]]}, without zeros at the end.
func collatorVersions(info erlterm.Term) (out []string) {
	if info.Tag() != erlterm.TagMap || len(info) < 5 || binary.BigEndian.Uint32(info[1:]) != 1 || !erlterm.IsAtom(info[5:], "ucol_vs") {
		return nil
	}
	_, list, ok := erlterm.Next(info[5:])
	versions, ok2 := erlterm.Elements(list)
	if !ok || !ok2 {
		return nil
	}
	for _, v := range versions {
		numbers, _ := erlterm.Elements(v)
		var parts []string
		for _, n := range numbers {
			i, _, _ := erlterm.Uint(n)
			parts = append(parts, fmt.Sprint(i))
		}
		for len(parts) > 0 && parts[len(parts)-1] == "0" {
			parts = parts[:len(parts)-1]
		}
		out = append(out, strings.Join(parts, "."))
	}
	return out
}
