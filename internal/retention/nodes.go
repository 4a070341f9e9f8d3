package retention

import (
	"fmt"
	"slices"
)

// part is what is counted together: the backups of one node, and apart from them those
// that hold no database. The latter say nothing of what was lost, however new they are.
type part struct {
	label string // empty if there is but one part
	list  []Decision
}

// apart parts a sorted list. A backup of which the node isn't known is counted with the
// known node, if that is the only one and its maker has made others of it, or else with
// the maker's other such ones.
func apart(list []Decision) []part {
	makers, nodes := map[string]bool{}, map[string]bool{} // of what is of a known node
	for n := range list {
		if d := &list[n]; d.Node != "" {
			makers[d.Maker], nodes[d.Node] = true, true
		}
	}
	type key struct {
		node, maker string
		empty       bool
	}
	var keys []key
	parts := map[key]*part{}
	for n := range list {
		d := &list[n]
		k := key{node: d.Node, empty: d.Databases == 0}
		switch {
		case d.Node != "":
		case len(nodes) == 1 && makers[d.Maker]:
			for node := range nodes {
				k.node = node
			}
		default:
			k.maker = d.Maker
		}
		if parts[k] == nil {
			keys, parts[k] = append(keys, k), &part{list: make([]Decision, 0, len(list)-n)}
		}
		parts[k].list = append(parts[k].list, *d)
	}
	out := make([]part, 0, len(keys))
	for _, k := range keys {
		p := *parts[k]
		switch {
		case len(keys) == 1:
		case k.node != "":
			p.label = fmt.Sprintf("node %.8s", k.node)
		case k.maker != "":
			p.label = fmt.Sprintf("an unknown node, signed with %.8s", k.maker)
		default:
			p.label = "an unknown node"
		}
		if p.label != "" && k.empty {
			p.label += ", without databases"
		}
		out = append(out, p)
	}
	return out
}

// say adds to the reasons of what is kept which node's backups it was counted with.
func (p *part) say() {
	if p.label == "" {
		return
	}
	for i := range p.list {
		d := &p.list[i]
		for k := range d.Reasons {
			if d.Keep {
				d.Reasons[k] += " (" + p.label + ")"
			}
		}
	}
}

// keepBeforeLoss keeps each undamaged backup that holds more than twice as many
// databases as any since: what was lost in between is in it.
func keepBeforeLoss(past []Decision) {
	most := 0
	for i, d := range past {
		if d.flaw() > sound {
			continue
		}
		if most > 0 && d.Databases > 2*most {
			past[i].keep("it holds more than twice as many databases as all since")
		}
		most = max(most, d.Databases)
	}
}

// merge puts the parts together, the newest first.
func merge(parts []part) []Decision {
	var list []Decision
	for _, p := range parts {
		list = append(list, p.list...)
	}
	slices.SortFunc(list, newerFirst)
	return list
}
