package topology_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/topology"
)

// record reads the newest record of an instance: its name, its node, and then words: nodes of the cluster ("+" before each),
// "cluster=NAME", "uuid=U" (couchdb/uuid), "map=M" (of the shard map). day says when it was made.
func record(day int, text string) *manifest.Record {
	w := strings.Fields(text)
	rec := &manifest.Record{Summary: manifest.Summary{ID: manifest.BackupID(fmt.Sprintf("00000000-0000-7000-8000-%012d", day)), Instance: w[0],
		Started: time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), NodeName: w[1]}}
	if w[1] == "-" {
		rec.NodeName = ""
	}
	for _, x := range w[2:] {
		key, value, _ := strings.Cut(x, "=")
		switch key {
		case "cluster":
			rec.Cluster = value
		case "uuid":
			rec.Identity.ServerUUID = value
		case "map":
			rec.Identity.MapUUID = value
		default:
			rec.Nodes = append(rec.Nodes, strings.TrimPrefix(x, "+"))
		}
	}
	slices.Sort(rec.Nodes)
	return rec
}

// describe writes a cluster as its name, and of each node its instances, or "-".
func describe(c *topology.Cluster) string {
	text := c.Name + ":"
	instances := func(node string) string {
		var list []string
		for _, rec := range c.Instances[node] {
			list = append(list, rec.Instance)
		}
		return strings.Join(list, ",")
	}
	for _, node := range c.Nodes {
		text += " " + node + "=" + instances(node)
	}
	for _, node := range c.Removed() {
		text += " removed " + node + "=" + instances(node)
	}
	if list := instances(""); list != "" {
		text += " unknown=" + list
	}
	return text
}

// TestClusters gives the newest records, oldest first, and the clusters that they make.
func TestClusters(t *testing.T) {
	tests := []struct {
		name    string
		records []string
		want    []string
	}{
		{"nothing", nil, nil},
		{"nodes that are alone, of one name", []string{"a couchdb@127.0.0.1", "b couchdb@127.0.0.1", "c nonode@nohost", "d -"}, nil},
		{"three nodes", []string{"i1 c@h1 +c@h1 +c@h2 +c@h3", "i2 c@h2 +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h1 +c@h2 +c@h3"},
			[]string{"h1: c@h1=i1 c@h2=i2 c@h3=i3"}},
		{"one of three", []string{"i2 c@h2 +c@h1 +c@h2 +c@h3"}, []string{"h1: c@h1= c@h2=i2 c@h3="}},
		{"and two that have no record of it", []string{"i1 c@h1", "i3 c@h3", "i2 c@h2 +c@h1 +c@h2 +c@h3"}, []string{"h1: c@h1= c@h2=i2 c@h3="}},
		{"a node was added", []string{"i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h1 +c@h2 +c@h3"},
			[]string{"h1: c@h1=i1 c@h2=i2 c@h3=i3"}},
		{"a node was removed", []string{"i3 c@h3 +c@h1 +c@h2 +c@h3", "i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2"},
			[]string{"h1: c@h1=i1 c@h2=i2", "h3: c@h1= c@h2= c@h3=i3"}},
		{"and an old backup still knows it", []string{"i2 c@h2 +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h1 +c@h2 +c@h3", "i1 c@h1 +c@h1 +c@h2"},
			[]string{"h1: c@h1=i1 c@h2=i2", "h3: c@h1= c@h2= c@h3=i3"}},
		{"a node moved to another cluster", []string{"i2 c@h2 +c@h1 +c@h2 +c@h3", "i1 c@h1 +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h3 +c@h4", "i4 c@h4 +c@h3 +c@h4"},
			[]string{"h1: c@h1=i1 c@h2=i2 c@h3=", "h3: c@h3=i3 c@h4=i4"}},
		{"a cluster was split, and old backups of both halves know all", []string{"i1 c@h1 +c@h1 +c@h2 +c@h3 +c@h4", "i4 c@h4 +c@h1 +c@h2 +c@h3 +c@h4", "i2 c@h2 +c@h1 +c@h2", "i3 c@h3 +c@h3 +c@h4"},
			[]string{"h1: c@h1=i1 c@h2=i2", "h3: c@h3=i3 c@h4=i4"}},
		{"one that others list and that lists none of them", []string{"i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h2 +c@h3"},
			[]string{"h1: c@h1=i1 c@h2=", "h2: c@h2=i2 c@h3="}},
		{"several nodes on a host", []string{"i1 n1@127.0.0.1 +n1@127.0.0.1 +n2@127.0.0.1", "i2 n2@127.0.0.1 +n1@127.0.0.1 +n2@127.0.0.1"},
			[]string{"n1@127.0.0.1: n1@127.0.0.1=i1 n2@127.0.0.1=i2"}},
		{"an instance took the place of another one", []string{"old c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2", "new c@h1 +c@h1 +c@h2"},
			[]string{"h1: c@h1=new,old c@h2=i2"}},
		{"and no other node is backed up", []string{"old c@h1 +c@h1 +c@h2", "new c@h1 +c@h1 +c@h2"}, []string{"h1: c@h1=new,old c@h2="}},

		{"named", []string{"i1 c@h1 cluster=prod +c@h1 +c@h2", "i2 c@h2 cluster=prod +c@h1 +c@h2"}, []string{"prod: c@h1=i1 c@h2=i2"}},
		{"named, and no nodes are known", []string{"i1 c@h1 cluster=prod", "i2 c@h2 cluster=prod"}, []string{"prod: c@h1=i1 c@h2=i2"}},
		{"named, and a node doesn't know its name", []string{"i1 c@h1 cluster=prod +c@h1 +c@h2", "i2 - cluster=prod"}, []string{"prod: c@h1=i1 c@h2= unknown=i2"}},
		{"a node that is alone, and named", []string{"i1 couchdb@127.0.0.1 cluster=prod"}, []string{"prod: couchdb@127.0.0.1=i1"}},
		{"named on one node", []string{"i1 c@h1 cluster=prod +c@h1 +c@h2 +c@h3", "i2 c@h2 +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h1 +c@h2 +c@h3"},
			[]string{"prod: c@h1=i1 c@h2=i2 c@h3=i3"}},
		{"named anew, and not on all nodes yet", []string{"i1 c@h1 cluster=old +c@h1 +c@h2 +c@h3", "i2 c@h2 cluster=new +c@h1 +c@h2 +c@h3", "i3 c@h3 cluster=new +c@h1 +c@h2 +c@h3"},
			[]string{"new: c@h1= c@h2=i2 c@h3=i3", "old: c@h1=i1 c@h2= c@h3="}},
		{"between two names nobody knows", []string{"i1 c@h1 cluster=old +c@h1 +c@h2 +c@h3", "i2 c@h2 cluster=new +c@h1 +c@h2 +c@h3", "i3 c@h3 +c@h1 +c@h2 +c@h3"},
			[]string{"h1: c@h1= c@h2= c@h3=i3", "new: c@h1= c@h2=i2 c@h3=", "old: c@h1=i1 c@h2= c@h3="}},
		{"named, and a node was removed", []string{"i3 c@h3 cluster=prod +c@h1 +c@h2 +c@h3", "i1 c@h1 cluster=prod +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2"},
			[]string{"prod: c@h1=i1 c@h2=i2 removed c@h3=i3"}},
		{"the name of another cluster's host", []string{"i1 c@h1 +c@h1 +c@h2", "i5 c@h5 cluster=h1 +c@h5 +c@h6"},
			[]string{"h1: c@h5=i5 c@h6=", "h1/i1: c@h1=i1 c@h2="}},

		{"a copy of the cluster, which nothing tells apart", []string{"i1 c@h1 uuid=u map=m1 +c@h1 +c@h2", "i2 c@h2 uuid=u map=m2 +c@h1 +c@h2", "j1 c@h1 uuid=u map=m1 +c@h1 +c@h2", "j2 c@h2 uuid=u map=m2 +c@h1 +c@h2"},
			[]string{"h1: c@h1=j1,i1 c@h2=j2,i2"}},
		{"a copy of the cluster that has a name", []string{"i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2", "j1 c@h1 cluster=copy +c@h1 +c@h2", "j2 c@h2 cluster=copy +c@h1 +c@h2"},
			[]string{"copy: c@h1=j1 c@h2=j2", "h1: c@h1=i1 c@h2=i2"}},
		{"both have one", []string{"i1 c@h1 cluster=prod +c@h1 +c@h2", "i2 c@h2 cluster=prod +c@h1 +c@h2", "j1 c@h1 cluster=copy +c@h1 +c@h2", "j2 c@h2 cluster=copy +c@h1 +c@h2"},
			[]string{"copy: c@h1=j1 c@h2=j2", "prod: c@h1=i1 c@h2=i2"}},
		{"a node of the cluster, restored as one that is alone", []string{"i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2", "j1 c@h1"}, []string{"h1: c@h1=i1 c@h2=i2"}},
		{"a copy with another second node", []string{"i1 c@h1 +c@h1 +c@h2", "i2 c@h2 +c@h1 +c@h2", "j1 c@h1 +c@h1 +c@h9", "j9 c@h9 +c@h1 +c@h9"},
			[]string{"h1/i1: c@h1=i1 c@h2=i2", "h1/j1: c@h1=j1 c@h9=j9"}},
		{"two clusters of the same nodes' names, each with its uuid",
			[]string{"i1 c@h1 uuid=u map=m1 +c@h1 +c@h2", "j2 c@h2 uuid=v map=m4 +c@h1 +c@h2", "i2 c@h2 uuid=u map=m2 +c@h1 +c@h2", "j1 c@h1 uuid=v map=m3 +c@h1 +c@h2"},
			[]string{"h1/i1: c@h1=i1 c@h2=i2", "h1/j1: c@h1=j1 c@h2=j2"}},
		{"one of which is named on one node",
			[]string{"i1 c@h1 cluster=prod uuid=u map=m1 +c@h1 +c@h2 +c@h3", "i2 c@h2 uuid=u map=m2 +c@h1 +c@h2 +c@h3", "i3 c@h3 cluster=prod uuid=u map=m5 +c@h1 +c@h2 +c@h3",
				"j2 c@h2 uuid=v map=m4 +c@h1 +c@h2 +c@h3", "j1 c@h1 uuid=v map=m3 +c@h1 +c@h2 +c@h3"},
			[]string{"h1: c@h1=j1 c@h2=j2 c@h3=", "prod: c@h1=i1 c@h2=i2 c@h3=i3"}},
		{"a node that was made anew, with a uuid of its own", []string{"i1 c@h1 uuid=u map=m1 +c@h1 +c@h2 +c@h3", "i2 c@h2 uuid=u map=m2 +c@h1 +c@h2 +c@h3", "i3 c@h3 uuid=u map=m3 +c@h1 +c@h2 +c@h3", "j1 c@h1 uuid=v map=m4 +c@h1 +c@h2 +c@h3"},
			[]string{"h1: c@h1=j1,i1 c@h2=i2 c@h3=i3"}},
		{"each node with a uuid of its own, twice", []string{"i1 c@h1 uuid=1 map=m1 +c@h1 +c@h2", "i2 c@h2 uuid=2 map=m2 +c@h1 +c@h2", "j1 c@h1 uuid=3 map=m3 +c@h1 +c@h2", "j2 c@h2 uuid=4 map=m4 +c@h1 +c@h2"},
			[]string{"h1: c@h1=j1,i1 c@h2=j2,i2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var records []*manifest.Record
			for i, text := range tt.records {
				records = append(records, record(i+1, text))
			}
			for range 8 { // in any order
				rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
				var got []string
				for _, c := range topology.Clusters(records) {
					got = append(got, describe(&c))
				}
				if !slices.Equal(got, tt.want) {
					t.Fatalf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
				}
			}
		})
	}
}

// Whatever records say, each instance is in one cluster at most, no two clusters have one name, and those of one name are one.
func TestClustersOfAnything(t *testing.T) {
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 0))
	hosts := []string{"a@h", "b@h", "c@i", "d@h/i1", "h", ""}
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	for range testenv.Computed(20_000, 2_000) {
		var records []*manifest.Record
		for i := range rnd.IntN(8) {
			rec := record(i+1, fmt.Sprintf("i%d -", i))
			rec.NodeName = pick(hosts...)
			rec.Cluster = pick("", "", "", "x", "h")
			rec.Identity = manifest.Identity{ServerUUID: pick("", "u", "v"), MapUUID: pick("", "m", "n")}
			for _, h := range hosts[:5] {
				if rnd.IntN(2) == 0 {
					rec.Nodes = append(rec.Nodes, h)
				}
			}
			records = append(records, rec)
		}
		of, names, configured := map[string]string{}, map[string]bool{}, map[string]string{}
		for _, c := range topology.Clusters(records) {
			if c.Name == "" || names[c.Name] {
				t.Fatalf("two clusters, or one without a name: %s\n%v", describe(&c), records)
			}
			names[c.Name] = true
			if !slices.IsSorted(c.Nodes) || slices.Contains(c.Nodes, "") {
				t.Fatalf("nodes of %s", describe(&c))
			}
			for node, list := range c.Instances {
				for i, rec := range list {
					if of[rec.Instance] != "" || rec.NodeName != node || i > 0 && rec.Started.After(list[i-1].Started) {
						t.Fatalf("%s of %q in %s, and in %s", rec.Instance, rec.NodeName, describe(&c), of[rec.Instance])
					}
					of[rec.Instance] = c.Name
					if rec.Cluster != "" {
						configured[c.Name] = rec.Cluster
					}
				}
			}
		}
		for _, rec := range records {
			if rec.Cluster != "" && of[rec.Instance] != rec.Cluster || configured[of[rec.Instance]] != "" && configured[of[rec.Instance]] != of[rec.Instance] {
				t.Fatalf("%s of %q is in %q", rec.Instance, rec.Cluster, of[rec.Instance])
			}
		}
	}
}

func TestFind(t *testing.T) {
	two := []topology.Cluster{{Name: "prod"}, {Name: "staging"}}
	for _, tt := range []struct {
		list []topology.Cluster
		name string
		want string
		err  error
		text string
	}{
		{two, "prod", "prod", nil, ""},
		{two[:1], "", "prod", nil, ""},
		{two, "", "", topology.ErrWhich, "prod, staging"},
		{two, "stagin", "", topology.ErrNoCluster, "did you mean staging?"},
		{two, "elsewhere", "", topology.ErrNoCluster, "there are prod, staging"},
		{nil, "prod", "", topology.ErrNoCluster, "no backup here"},
		{nil, "", "", topology.ErrNoCluster, "no backup here"},
	} {
		got, err := topology.Find(tt.list, tt.name)
		if !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), tt.text) || err == nil && got.Name != tt.want {
			t.Errorf("%q of %d: %v, %v", tt.name, len(tt.list), got, err)
		}
	}
}
