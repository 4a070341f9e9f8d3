package topology

import (
	"errors"
	"strings"
	"testing"
)

// By a placement each range has as many copies in each zone as it says, and no node has much more than the others of its zone.
func TestPlaceByZones(t *testing.T) {
	t.Parallel()
	old := nodes(3, "old")
	p := New("c", backupsOf(t, old...), old, nodes(5, "new"))
	for i := range p.Nodes {
		p.Nodes[i].Zone = []string{"z1", "z2", "z1", "z2", "z1"}[i]
	}
	p.Placement = "z1:2,z2:1"
	got, err := p.Place([]Database{database("db", 8, 3, old, same(0))})
	if err != nil {
		t.Fatal(err)
	}
	checkPlacement(t, "zones", got, 8, 3, 1)
	for _, m := range got.Maps {
		for _, r := range m.Ranges("") {
			in := map[string]int{}
			for _, n := range p.Nodes {
				for _, has := range m.ByNode[n.Name] {
					if has == r {
						in[n.Zone]++
					}
				}
			}
			if in["z1"] != 2 || in["z2"] != 1 {
				t.Errorf("%s %s has %v", m.DB, r, in)
			}
		}
	}
	for _, part := range got.Parts {
		if len(part.Takes) == 0 {
			t.Errorf("%s gets nothing", part.Node.Name)
		}
	}
	for placement, want := range map[string]string{"z1": "must be like", "z1:0": "must be like", "z1:2,z1:1": "twice", "z2:3": "asks for 3 copies in the zone z2, and 2", "z9:1": "0 of the nodes"} {
		p.Placement = placement
		if err := p.Check(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", placement, err, want)
		}
	}
}

// Zones and placement are taken over where the maps of the original agree about them.
func TestZonesTakenOver(t *testing.T) {
	t.Parallel()
	old := nodes(3, "old")
	zones := map[string]string{old[0]: "z1", old[1]: "z1", old[2]: "z2"}
	p := New("c", backupsOf(t, old...), old, nodes(3, "new"))
	p.Zoned(zones, []Database{database("db", 4, 3, old, same(0))})
	if p.Placement != "z1:2,z2:1" || p.Nodes[2].Zone != "z2" || p.Nodes[0].Zone != "z1" {
		t.Errorf("got %q, %+v", p.Placement, p.Nodes)
	}
	p = New("c", backupsOf(t, old...), old, append(nodes(1, "new"), old...)) // nobody takes another's place
	p.Nodes[0].Zone = "z2"
	p.Zoned(zones, []Database{database("db", 4, 3, old, same(0))})
	if p.Placement != "z1:2,z2:1" || p.Nodes[1].Zone != "z1" || p.Nodes[3].Zone != "z2" {
		t.Errorf("names that stay: got %q, %+v", p.Placement, p.Nodes)
	}
	p = New("c", backupsOf(t, old...), old, append(nodes(1, "new"), old...))
	p.Zoned(zones, []Database{database("db", 4, 3, old, same(0))})
	if p.Placement != "" || p.Nodes[0].Zone != "" {
		t.Errorf("a node without a zone would get nothing: %q, %+v", p.Placement, p.Nodes)
	}
	p = New("c", backupsOf(t, old...), old, nodes(3, "new"))
	p.Zoned(zones, []Database{database("db", 4, 2, old, same(0))}) // z1:2 of some ranges, z1:1,z2:1 of others
	if p.Placement != "" || p.Nodes[2].Zone != "z2" {
		t.Errorf("got %q, %+v", p.Placement, p.Nodes)
	}
}
