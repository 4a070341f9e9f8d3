package shard_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/internal/shard"
)

func TestParseRange(t *testing.T) {
	for _, s := range []string{"00000000-7fffffff", "80000000-ffffffff", "00000000-ffffffff", "0000000a-0000000a"} {
		r, err := shard.ParseRange(s)
		if err != nil {
			t.Errorf("ParseRange(%q): %v", s, err)
		}
		if r.String() != s {
			t.Errorf("ParseRange(%q) prints as %q", s, r)
		}
	}
	for _, s := range []string{"", "0-1", "00000000_7fffffff", "00000000-7FFFFFFF", "80000000-7fffffff", "+0000000-7fffffff", "00000000-7fffffff "} {
		if r, err := shard.ParseRange(s); err == nil {
			t.Errorf("ParseRange(%q) = %v, want an error", s, r)
		}
	}
}

func TestRangeOrderAndContents(t *testing.T) {
	low, high := shard.Range{0, 0x7fffffff}, shard.Range{0x80000000, 0xffffffff}
	if low.Compare(high) >= 0 || high.Compare(low) <= 0 || low.Compare(low) != 0 || low.Compare(shard.Full) >= 0 {
		t.Error("ranges are not ordered by begin, then end")
	}
	if !low.Contains(0) || !low.Contains(0x7fffffff) || low.Contains(0x80000000) || !high.Contains(0xffffffff) {
		t.Error("both ends of a range belong to it, and nothing outside does")
	}
}

func TestParsePath(t *testing.T) {
	tests := []struct {
		path string
		want shard.Name
	}{
		{"shards/00000000-7fffffff/db.1795334390.couch", shard.Name{Range: shard.Range{0, 0x7fffffff}, DB: "db", Suffix: ".1795334390"}},
		{"shards/80000000-ffffffff/team/a+b_$(c)-d/2026.1795334390.couch", shard.Name{Range: shard.Range{0x80000000, 0xffffffff}, DB: "team/a+b_$(c)-d/2026", Suffix: ".1795334390"}},
		{"shards/00000000-ffffffff/_users.1795334386.couch", shard.Name{Range: shard.Full, DB: "_users", Suffix: ".1795334386"}},
		{"shards/00000000-ffffffff/tenant/_replicator.1795334386.couch", shard.Name{Range: shard.Full, DB: "tenant/_replicator", Suffix: ".1795334386"}},
		{"shards/00000000-ffffffff/bare.couch", shard.Name{Range: shard.Full, DB: "bare"}},
		{"shards/00000000-ffffffff/late.17953343900.couch", shard.Name{Range: shard.Full, DB: "late", Suffix: ".17953343900"}},
	}
	for _, tt := range tests {
		got, err := shard.ParsePath(tt.path)
		if err != nil || got != tt.want {
			t.Errorf("ParsePath(%q) = %+v, %v; want %+v", tt.path, got, err, tt.want)
		}
		if got.Path() != tt.path {
			t.Errorf("path of %+v = %q, want %q", got, got.Path(), tt.path)
		}
	}
	for _, p := range []string{
		"", "shards/db.couch", "shards/00000000-7fffffff/.couch", "shards/00000000-7fffffff/db.1.couch", "shards/00000000-7fffffff/db.abc.couch",
		"shards/00000000-7fffffff/Db.1795334390.couch", "shards/00000000-7fffffff/db.1795334390.couch.compact", "shards/00000000-7fffffff//x.couch",
		"shards/00000000-7fffffff/db.1795334390.20261122.133000.deleted.couch", "shards/00000000-7fffffff/a/../b.couch", "db.couch",
	} {
		if n, err := shard.ParsePath(p); err == nil {
			t.Errorf("ParsePath(%q) = %+v, want an error", p, n)
		}
	}
}

func TestParseViewPath(t *testing.T) {
	const sig = "32b884e1523e3dc8b0d023c694f8f08b"
	for _, tt := range []struct {
		path string
		db   string
	}{
		{".shards/00000000-3fffffff/parted.1795334390_design/mrview/" + sig + ".view", "parted"},
		{".shards/00000000-3fffffff/team/x.1795334390_design/mrview/" + sig + ".view", "team/x"},
		{".shards/00000000-3fffffff/odd_design.1795334390_design/mrview/" + sig + ".view", "odd_design"},
		{".shards/00000000-3fffffff/a_design/mrview/b.1795334390_design/mrview/" + sig + ".view", "a_design/mrview/b"},
	} {
		n, got, err := shard.ParseViewPath(tt.path)
		if err != nil || n.DB != tt.db || got != sig || n.Suffix != ".1795334390" {
			t.Errorf("ParseViewPath(%q) = %+v, %q, %v", tt.path, n, got, err)
		}
		if n.ViewPath(got) != tt.path {
			t.Errorf("view path of %+v = %q, want %q", n, n.ViewPath(got), tt.path)
		}
	}
	for _, p := range []string{
		".shards/00000000-3fffffff/x.1795334390_design/mrview/" + sig + ".compact.view",
		".shards/00000000-3fffffff/x.1795334390_design/mrview/short.view",
		".shards/00000000-3fffffff/x.1795334390_design/other/" + sig + ".view",
		".shards/00000000-3fffffff/_design/mrview/" + sig + ".view",
	} {
		if n, _, err := shard.ParseViewPath(p); err == nil {
			t.Errorf("ParseViewPath(%q) = %+v, want an error", p, n)
		}
	}
}

func TestCreated(t *testing.T) {
	if got := (shard.Name{Suffix: ".1795334390"}).Created(); got != 1795334390 {
		t.Errorf("created = %d, want 1795334390", got)
	}
	if got := (shard.Name{}).Created(); got != 0 {
		t.Errorf("created without a suffix = %d, want 0", got)
	}
}

func TestHash(t *testing.T) {
	const check = 0xcbf43926 // of "123456789", the published check value of CRC-32
	for _, tt := range []struct {
		id          string
		partitioned bool
		want        uint32
	}{
		{"123456789", false, check},
		{"123456789:a", true, check},
		{"123456789:a:b", true, check},
		{"123456789", true, check},
	} {
		if got := shard.Hash(tt.id, tt.partitioned); got != tt.want {
			t.Errorf("Hash(%q, %v) = %08x, want %08x", tt.id, tt.partitioned, got, tt.want)
		}
	}
	if shard.Hash("_design/a:b", true) != shard.Hash("_design/a:b", false) {
		t.Error("ids that start with _ have no partition")
	}
}

// TestHashOfRealDocuments counts the documents of each database by the shard
// into which Hash puts them, and holds that against what a real server says its
// shards contain.
func TestHashOfRealDocuments(t *testing.T) {
	dirs, err := filepath.Glob("../../testdata/couchdb-3.5.0/expected/*/shard_info.json")
	if err != nil || len(dirs) < 20 {
		t.Fatalf("found %d shard_info.json below testdata/couchdb-3.5.0/expected, want at least 20 (%v)", len(dirs), err)
	}
	docs := 0
	for _, file := range dirs {
		var shards map[string]struct {
			Docs  int `json:"doc_count"`
			Props struct {
				Partitioned bool `json:"partitioned"`
			} `json:"props"`
		}
		readJSON(t, file, &shards)
		var all struct {
			Rows []struct {
				ID string `json:"id"`
			} `json:"rows"`
		}
		readJSON(t, filepath.Join(filepath.Dir(file), "all_docs.json"), &all)
		docs += len(all.Rows)
		for name, info := range shards {
			n, err := shard.ParsePath(name + ".couch")
			if err != nil || n.String() != name {
				t.Errorf("%s: shard %q reads as %+v, %v", file, name, n, err)
			}
			got := 0
			for _, row := range all.Rows {
				if n.Range.Contains(shard.Hash(row.ID, info.Props.Partitioned)) {
					got++
				}
			}
			if got != info.Docs {
				t.Errorf("%s: %d ids hash into %s, the server has %d", file, got, name, info.Docs)
			}
		}
	}
	if docs < 1000 {
		t.Errorf("checked %d documents, want at least 1000", docs)
	}
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
