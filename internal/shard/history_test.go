package shard_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/shard"
)

func TestHistories(t *testing.T) {
	a, b := "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "0f1e2d3c4b5a69788796a5b4c3d2e1f1"
	first, again, other := shard.NewHistory(a, "one"), shard.NewHistory(a, "one"), shard.NewHistory(a, "two")
	later := shard.NewHistory(first, "three")
	if first != again || len(first) != 32 || first[:7] == a[:7] || first[:7] == other[:7] || first[:7] == later[:7] {
		t.Errorf("%s, %s, %s, %s of %s", first, again, other, later, a)
	}
	for _, same := range [][2]string{{a, a}, {a, first}, {first, a}, {first, other}, {later, a}, {later, other}} {
		if !shard.SameOrigin(same[0], same[1]) {
			t.Errorf("%q are not of one shard", same)
		}
	}
	for _, differ := range [][2]string{{a, b}, {first, b}, {first, shard.NewHistory(b, "one")}, {a, ""}, {later, "x"}} {
		if shard.SameOrigin(differ[0], differ[1]) {
			t.Errorf("%q are of one shard", differ)
		}
	}
}
