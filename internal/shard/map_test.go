package shard_test

import (
	"os"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/shard"
)

func TestParseMap(t *testing.T) {
	doc, err := os.ReadFile("../../testdata/couchdb-3.5.0/expected/eight/shard_map.json")
	if err != nil {
		t.Fatal(err)
	}
	m, ok, err := shard.ParseMap(doc)
	if err != nil || !ok {
		t.Fatalf("ok %v, error %v", ok, err)
	}
	if m.DB != "eight" || m.Suffix != ".1795334390" {
		t.Errorf("got %q %q, want eight .1795334390", m.DB, m.Suffix)
	}
	for _, node := range []string{"couchdbfix@127.0.0.1", ""} {
		if got := m.Ranges(node); len(got) != 8 || got[1].String() != "20000000-3fffffff" {
			t.Errorf("ranges of %q: %v", node, got)
		}
	}
	if got := m.Ranges("other@127.0.0.1"); len(got) != 0 {
		t.Errorf("ranges of another node: %v", got)
	}
}

func TestParseMapOthers(t *testing.T) {
	for _, doc := range []string{`{"_id":"_design/x","views":{}}`, `{"_id":"gone","_deleted":true,"by_node":{}}`} {
		if _, ok, err := shard.ParseMap([]byte(doc)); ok || err != nil {
			t.Errorf("%s: ok %v, error %v; want neither", doc, ok, err)
		}
	}
	if _, _, err := shard.ParseMap([]byte(`{"_id":"a","by_node":{"n":["0-1"]}}`)); err == nil {
		t.Error("a range of another form was taken")
	}
}

// A forged map costs no more than its bytes, however much it names.
func TestParseMapBounds(t *testing.T) {
	for name, doc := range map[string]string{
		"ranges": `{"_id":"a","by_node":{"n@h":["00000000-7fffffff"` + strings.Repeat(`,"80000000-ffffffff"`, 1<<16) + `]}}`,
		"suffix": `{"_id":"a","shard_suffix":[46` + strings.Repeat(`,46`, 1<<16) + `],"by_node":{}}`,
	} {
		if m, ok, err := shard.ParseMap([]byte(doc)); err == nil || ok {
			t.Errorf("%s: got %d ranges, %v, want an error", name, len(m.ByNode["n@h"]), ok)
		}
	}
}
