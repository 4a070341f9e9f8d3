package shard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Candidate is a name that a node may have, and what says so.
type Candidate struct {
	Name   string // such as couchdb@127.0.0.1; an empty one is passed over
	Source string // for people, as in "vm.args says"
}

// Self says which node of its cluster a data directory belongs to. Nothing in a
// data directory names the node for sure: configuration may be another's, and shard
// maps may know a node by a name that it had before.
type Self struct {
	// Name is the node's name, by which the shard maps know it if they do. It is empty
	// if there was neither a map nor a candidate.
	Name string
	// Notes are what an operator should know of how it was found.
	Notes []string
	// Finding says why the name is not to be trusted, and what to do; empty if it is.
	// Then missing shards may go unnoticed.
	Finding string

	former []string        // other names by which maps know it
	others map[string]bool // nodes that are not this one
}

// FindSelf makes out which node has the files that are there. Candidates are names
// that it may have, the surest first.
//
// The name is the first candidate that a map of several nodes knows and the files
// don't contradict. Without one it is the node of those maps whose shards are best
// those that are there. Maps of one node are asked where no file is there that a map of
// several nodes names; whose such a map is, is no question for a node that is alone.
func FindSelf(list []Map, there func(Name) bool, candidates []Candidate) *Self {
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool { return c.Name == "" })
	several, single := weigh(list, there)
	s := &Self{}
	switch {
	case several.here > 0 || slices.ContainsFunc(candidates, func(c Candidate) bool { return several.knows(c.Name) }):
		s.choose(several, candidates, true)
	case len(single.fits) > 0:
		s.choose(single, candidates, false)
		if s.Finding != "" {
			s.Notes, s.Finding = append(s.Notes, s.Finding), ""
		}
	case len(candidates) > 0:
		s.Name = candidates[0].Name
		if len(list) > 0 {
			s.Notes = append(s.Notes, fmt.Sprintf("this node is %s by what %s says: no shard map knows that name, and none of the files that they name is here", s.Name, candidates[0].Source))
		}
	}
	s.related(list, there, candidates)
	return s
}

// fit is how many of the shards that maps give to a node are there.
type fit struct{ have, lack int }

// weights are the fits of all nodes in some maps.
type weights struct {
	fits map[string]fit
	here int // shards that any node of the maps has and that are there
}

func (w *weights) knows(name string) bool { _, ok := w.fits[name]; return ok }

// distance is by how many shards a node's own differ from those that are there.
func (w *weights) distance(name string) int {
	f := w.fits[name]
	return f.lack + w.here - f.have
}

// weigh holds the files that are there against maps of several nodes and maps of one.
func weigh(list []Map, there func(Name) bool) (several, single *weights) {
	several, single = &weights{fits: map[string]fit{}}, &weights{fits: map[string]fit{}}
	for _, m := range list {
		w := single
		if len(m.ByNode) > 1 {
			w = several
		}
		w.add(m, there)
	}
	return several, single
}

func (w *weights) add(m Map, there func(Name) bool) {
	have := map[Range]bool{}
	for _, r := range m.Ranges("") {
		if there(Name{Range: r, DB: m.DB, Suffix: m.Suffix}) {
			have[r] = true
		}
	}
	w.here += len(have)
	for node, ranges := range m.ByNode {
		f := w.fits[node]
		for _, r := range ranges {
			if have[r] {
				f.have++
			} else {
				f.lack++
			}
		}
		w.fits[node] = f
	}
}

// choose sets the name, out of weights that know at least one node. Whether the name
// matters says whether a doubt is a finding: the shards of maps of one node are this
// node's whatever it is called.
func (s *Self) choose(w *weights, candidates []Candidate, matters bool) {
	nearest := w.nearest()
	exact := w.here > 0 && w.distance(nearest[0]) == 0
	var denied *Candidate
	for i, c := range candidates {
		f, known := w.fits[c.Name]
		switch {
		case !known:
		case w.here == 0, f.have == w.here, f.have > 0 && !exact:
			s.Name = c.Name
			s.explain(&c, candidates[0], denied)
			return
		case denied == nil:
			denied = &candidates[i]
		}
	}
	s.Name = nearest[0]
	switch {
	case len(nearest) > 1 && matters:
		said := ""
		if len(candidates) > 0 {
			said = fmt.Sprintf(", and %s (%s) is none of them", candidates[0].Name, candidates[0].Source)
		}
		s.Finding = fmt.Sprintf("which node this is can't be made out: by the shard maps its files may be those of %s%s: pass --node-name, or set node_name; until then missing shards may go unnoticed", strings.Join(nearest, ", "), said)
	case len(candidates) > 0:
		s.explain(nil, candidates[0], denied)
	}
}

// nearest returns the nodes whose shards are best those that are there, sorted.
func (w *weights) nearest() []string {
	names := slices.SortedFunc(maps.Keys(w.fits), func(a, b string) int {
		return cmp.Or(cmp.Compare(w.distance(a), w.distance(b)), cmp.Compare(a, b))
	})
	n := 1
	for n < len(names) && w.distance(names[n]) == w.distance(names[0]) {
		n++
	}
	return names[:n]
}

// explain says why the name is not the first one that was said: chosen is the
// candidate that it is, nil if the files decided.
func (s *Self) explain(chosen *Candidate, first Candidate, denied *Candidate) {
	why := "since its files are those that the shard maps give to that node"
	if chosen != nil {
		why = "as " + chosen.Source + " says and the shard maps know"
	}
	switch {
	case denied != nil:
		s.Finding = fmt.Sprintf("this node is %s by what %s says, but the shard maps give the files that are there to %s: is this the data directory of %s? If %s is right, pass --node-name %s, or set node_name",
			denied.Name, denied.Source, s.Name, denied.Name, s.Name, s.Name)
	case first.Name != s.Name:
		s.Notes = append(s.Notes, fmt.Sprintf("this node is %s by what %s says, and no shard map knows that name: it is taken for %s, %s", first.Name, first.Source, s.Name, why))
	}
}

// related finds out which other names in maps are this node's, and which are not.
func (s *Self) related(list []Map, there func(Name) bool, candidates []Candidate) {
	known, beside, without := false, map[string]bool{}, &weights{fits: map[string]fit{}}
	for _, m := range list {
		if _, ok := m.ByNode[s.Name]; !ok {
			without.add(m, there)
			continue
		}
		known = true
		for name := range m.ByNode {
			beside[name] = name != s.Name
		}
	}
	for _, c := range candidates {
		if c.Name != s.Name && without.fits[c.Name].have > 0 && !beside[c.Name] && !slices.Contains(s.former, c.Name) {
			s.former = append(s.former, c.Name)
		}
	}
	s.others = map[string]bool{}
	for name, f := range without.fits {
		s.others[name] = beside[name] || known && f.have == 0
	}
	var odd []string
	for _, m := range list {
		if as := s.As(m); known && as != "" && as != s.Name {
			odd = append(odd, fmt.Sprintf("%s (%s)", m.DB, as))
		}
	}
	if len(odd) > 0 {
		text := strings.Join(odd[:min(len(odd), 3)], ", ")
		if len(odd) > 3 {
			text += fmt.Sprintf(" and %d more", len(odd)-3)
		}
		s.Notes = append(s.Notes, fmt.Sprintf("shard maps know this node by another name than %s, so CouchDB doesn't open their databases under that one: %s", s.Name, text))
	}
}

// As returns the name under which m lists this node, "" if it doesn't: its own, one
// that it had before, or whatever a map of one node calls it.
func (s *Self) As(m Map) string {
	for _, name := range append([]string{s.Name}, s.former...) {
		if _, ok := m.ByNode[name]; ok {
			return name
		}
	}
	if len(m.ByNode) == 1 {
		for name := range m.ByNode {
			if !s.others[name] {
				return name
			}
		}
	}
	return ""
}

// Ranges returns the ranges of m whose files belong to this node, sorted.
func (s *Self) Ranges(m Map) []Range {
	out := slices.Clone(m.ByNode[s.As(m)])
	slices.SortFunc(out, Range.Compare)
	return out
}
