package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// rule is how many copies of each range a zone gets.
type rule struct {
	zone string
	n    int
}

// rules reads a placement in CouchDB's words, such as z1:2,z2:1.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3.erl, decode_placement_string.
func rules(text string) ([]rule, error) {
	var out []rule
	for _, part := range strings.Split(text, ",") {
		zone, count, ok := strings.Cut(part, ":")
		n, err := strconv.Atoi(count)
		if !ok || zone == "" || err != nil || n < 1 {
			return nil, fmt.Errorf("placement is %q, and must be like z1:2,z2:1", text)
		}
		if slices.ContainsFunc(out, func(r rule) bool { return r.zone == zone }) {
			return nil, fmt.Errorf("placement names the zone %s twice", zone)
		}
		out = append(out, rule{zone, n})
	}
	return out, nil
}

// checkPlacement says why the nodes can't hold what the placement asks for. CouchDB takes fewer copies where a zone has
// fewer nodes; here that is refused, since it is told nowhere.
func (p *Plan) checkPlacement() error {
	if p.Placement == "" {
		return nil
	}
	list, err := rules(p.Placement)
	if err != nil {
		return err
	}
	if p.N != 0 {
		return fmt.Errorf("it says n and placement, which decide the same: leave n out")
	}
	for _, r := range list {
		n := 0
		for _, node := range p.Nodes {
			if node.Zone == r.zone {
				n++
			}
		}
		if n < r.n {
			return fmt.Errorf("placement asks for %d copies in the zone %s, and %d of the nodes are in it", r.n, r.zone, n)
		}
	}
	return nil
}

// placed returns the holders of a range out of all nodes, the best first: n of them, or by the placement as many of each
// zone as it says.
func (p *Plan) placed(order []int, n int) (out []int) {
	if p.Placement == "" {
		return order[:n]
	}
	list, err := rules(p.Placement)
	if err != nil { // it was checked
		return order[:n]
	}
	for _, r := range list {
		left := r.n
		for _, i := range order {
			if left > 0 && p.Nodes[i].Zone == r.zone {
				out = append(out, i)
				left--
			}
		}
	}
	return out
}

// Zoned gives the new nodes the zones of those whose place they take, or whose name they keep, and the plan the placement that
// the databases' maps have: the same number of copies of every range in each zone. It stays "" if they don't agree, a zone has
// too few of the new nodes, or one has no zone, which would get nothing.
func (p *Plan) Zoned(zones map[string]string, dbs []Database) {
	for i := range p.Nodes {
		if n := &p.Nodes[i]; n.Zone == "" {
			n.Zone = zones[cmp.Or(n.As, n.Name)]
		}
	}
	if p.Placement != "" || p.N != 0 || slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Zone == "" }) {
		return
	}
	text := ""
	for i := range dbs {
		for _, nodes := range dbs[i].copies() {
			counts := map[string]int{}
			var parts []string
			for _, node := range nodes {
				if zones[node] == "" {
					return
				}
				counts[zones[node]]++
			}
			for zone, n := range counts {
				parts = append(parts, fmt.Sprintf("%s:%d", zone, n))
			}
			slices.Sort(parts)
			this := strings.Join(parts, ",")
			if text != "" && this != text {
				return
			}
			text = this
		}
	}
	p.Placement = text
	if p.checkPlacement() != nil {
		p.Placement = ""
	}
}
