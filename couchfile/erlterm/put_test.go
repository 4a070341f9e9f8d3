package erlterm_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// TestPut holds each function against what term_to_binary gives on Erlang 25.
func TestPut(t *testing.T) {
	t.Parallel()
	one, big := erlterm.PutInt(nil, 1), erlterm.PutInt(nil, 300)
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"0", erlterm.PutInt(nil, 0), []byte{97, 0}},
		{"255", erlterm.PutInt(nil, 255), []byte{97, 255}},
		{"256", erlterm.PutInt(nil, 256), []byte{98, 0, 0, 1, 0}},
		{"-1", erlterm.PutInt(nil, -1), []byte{98, 255, 255, 255, 255}},
		{"2^31-1", erlterm.PutInt(nil, math.MaxInt32), []byte{98, 127, 255, 255, 255}},
		{"2^31", erlterm.PutInt(nil, 1<<31), []byte{110, 4, 0, 0, 0, 0, 128}},
		{"-2^31-1", erlterm.PutInt(nil, math.MinInt32-1), []byte{110, 4, 1, 1, 0, 0, 128}},
		{"-2^63", erlterm.PutInt(nil, math.MinInt64), []byte{110, 8, 1, 0, 0, 0, 0, 0, 0, 0, 128}},
		{"2^64-1", erlterm.PutUint(nil, math.MaxUint64), []byte{110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255}},
		{"1.5", erlterm.PutFloat(nil, 1.5), []byte{70, 63, 248, 0, 0, 0, 0, 0, 0}},
		{"nil", erlterm.PutAtom(nil, "nil"), []byte{100, 0, 3, 'n', 'i', 'l'}},
		{"<<a>>", erlterm.PutBinary(nil, "a"), []byte{109, 0, 0, 0, 1, 'a'}},
		{"{1,..}", erlterm.PutTuple(nil, 2), []byte{104, 2}},
		{"[]", erlterm.PutList[[]byte](nil, nil), []byte{106}},
		{"[1,1]", erlterm.PutList(nil, [][]byte{one, one}), []byte{107, 0, 2, 1, 1}},
		{"[1,300]", erlterm.PutList(nil, [][]byte{one, big}), []byte{108, 0, 0, 0, 2, 97, 1, 98, 0, 0, 1, 44, 106}},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
}

// TestCompare holds Compare against Erlang's order of a list of terms.
func TestCompare(t *testing.T) {
	t.Parallel()
	num := func(v int64) []byte { return erlterm.PutInt(nil, v) }
	list := func(items ...[]byte) []byte { return erlterm.PutList(nil, items) }
	tuple := func(items ...[]byte) []byte {
		return append(erlterm.PutTuple(nil, len(items)), bytes.Join(items, nil)...)
	}
	bin := func(s string) []byte { return erlterm.PutBinary(nil, s) }
	ordered := [][]byte{
		num(math.MinInt64), erlterm.PutFloat(nil, -1e6), num(-300), num(-1), num(0), erlterm.PutFloat(nil, 0.5), num(1), num(255),
		num(256), num(math.MaxInt32), erlterm.PutUint(nil, 1<<40), erlterm.PutFloat(nil, 1e30),
		erlterm.PutAtom(nil, "a"), erlterm.PutAtom(nil, "ab"), erlterm.PutAtom(nil, "b"),
		tuple(), tuple(num(9)), tuple(num(1), bin("")), tuple(num(1), bin("a")), tuple(num(2), num(0)),
		list(), list(num(1)), list(num(1), num(2)), list(num(1), num(300)), list(num(2)), list(bin("")),
		bin(""), bin("A"), bin("a"), bin("aa"),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got, ok := erlterm.Compare(a, b); got != want || !ok {
				t.Errorf("compare %v with %v: got %d, %v; want %d", a, b, got, ok, want)
			}
		}
	}
	if got, ok := erlterm.Compare(num(1), erlterm.PutFloat(nil, 1)); got != 0 || !ok {
		t.Errorf("compare 1 with 1.0: got %d, %v; want 0", got, ok)
	}
	for _, bad := range [][][]byte{{{116, 0, 0, 0, 0}, num(1)}, {{}, num(1)}, {{109, 0}, bin("a")}, {{110, 9, 0, 1}, num(1)}} {
		if _, ok := erlterm.Compare(bad[0], bad[1]); ok {
			t.Errorf("compare %v: got an order, want none", bad)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add([]byte{104, 1, 97, 1}, []byte{104, 1, 107, 0, 1, 1})
	f.Add([]byte{110, 1, 0, 1}, []byte{111, 0, 0, 0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, okX := erlterm.Compare(a, b)
		y, okY := erlterm.Compare(b, a)
		if okX != okY || okX && x != -y {
			t.Errorf("%v, %v: got %d, %v and the other way %d, %v", a, b, x, okX, y, okY)
		}
	})
}
