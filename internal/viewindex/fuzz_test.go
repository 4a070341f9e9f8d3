package viewindex

import (
	"bytes"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
)

// Values come back as the terms that they were made of, byte by byte: signatures depend on it.
func TestTerms(t *testing.T) {
	for _, text := range []string{`null`, `[true,false]`, `{"a":[],"b":{}}`, `[1,2,255]`, `[1,256]`, `[-1,4294967295,18446744073709551616,-99999999999999999999999]`,
		`1.5`, `"ä"`, `[[1.0],"",0]`} {
		v, err := ejson.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		b := putValue(nil, v)
		back, err := parseValue(b)
		if err != nil || ejson.String(back) != text {
			t.Errorf("%s: got %s, %v", text, ejson.String(back), err)
		}
		if json, err := erlterm.AppendJSON(nil, b); err != nil || string(json) != text {
			t.Errorf("%s: got %s, %v", text, json, err)
		}
		if again := putValue(nil, back); !bytes.Equal(again, b) {
			t.Errorf("%s: %x, and then %x", text, b, again)
		}
	}
}

// The registers that a reduction is made of come back, whether packed or single.
func TestApprox(t *testing.T) {
	var h hyper
	for i := range h {
		h[i] = uint8(i * 7 % 64)
	}
	var back hyper
	if err := back.add(h.put()); err != nil || back != h {
		t.Errorf("%v", err)
	}
	var rows []reduceRow
	for i := range 100_000 {
		rows = append(rows, reduceRow{key: erlterm.PutInt(nil, int64(i%50_000))})
	}
	for n, want := range map[int][2]int64{10: {10, 10}, 1000: {980, 1020}, 100_000: {48_000, 52_000}} {
		red, err := approxRows(rows[:n])
		if err != nil {
			t.Fatal(err)
		}
		text, err := appendApprox(nil, red)
		if err != nil {
			t.Fatal(err)
		}
		v, _ := ejson.Parse(text)
		f, _ := v.(ejson.Number).Float()
		if f < float64(want[0]) || f > float64(want[1]) {
			t.Errorf("%d rows: %s distinct ones", n, text)
		}
	}
	red, err := approxRows(rows[:5000])
	if err != nil {
		t.Fatal(err)
	}
	if text, err := appendApprox(nil, red); err == nil {
		t.Errorf("between what is counted exactly and what has no bias: %s", text)
	}
}

var functions = []string{"_sum", "_count", "_stats", "_approx_count_distinct", "_top_2", "_bottom_3", "_first", "_last"}

// FuzzTerms reads keys, rows and reductions that may be anything.
func FuzzTerms(f *testing.F) {
	row := erlterm.PutBinary(append(erlterm.PutTuple(nil, 2), putValue(nil, ejson.Array{ejson.Number("1"), "a"})...), "id")
	parted := erlterm.PutBinary(erlterm.PutInt(erlterm.PutBinary(erlterm.PutAtom(erlterm.PutTuple(erlterm.PutTuple(nil, 2), 3), "p"), "x"), 1), "id")
	var h hyper
	f.Add(row, parted)
	f.Add([]byte(putValue(nil, ejson.Object{{Name: "a", Value: ejson.Float(1.5)}})), []byte(h.put()))
	f.Add(putValue(nil, ejson.Array{ejson.Number("300")}), putValue(nil, ejson.Number("12345678901234567890")))
	whole := func(b []byte) bool {
		n, ok := erlterm.Size(b)
		return ok && n == len(b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if !whole(a) || !whole(b) { // nodes are only taken apart to whole terms
			return
		}
		for _, raw := range []bool{false, true} {
			o := order{raw: raw}
			x, id, err := parseRowKey(a)
			y, id2, err2 := parseRowKey(b)
			if err == nil && err2 == nil {
				c, err := o.rows(x, id, y, id2)
				d, err2 := o.rows(y, id2, x, id)
				if err == nil && err2 == nil && c != -d {
					t.Fatalf("%x and %x: %d and %d", a, b, c, d)
				}
			}
			_, _ = o.grouped(2)(a, b)
		}
		_, _ = parseReduction(a)
		values, err := rowValues(a)
		if err == nil && len(values) > len(a) {
			t.Fatalf("%d values of %d bytes", len(values), len(a))
		}
		_ = collatorVersions(a)
		for _, name := range functions {
			fn, ok := builtin(name)
			if !ok {
				t.Fatal(name)
			}
			if rows, err := reduceRows([]couchfile.Entry{{Key: a, Value: b}, {Key: b, Value: a}}); err == nil {
				if red, err := fn.reduce(rows); err == nil {
					_, _ = fn.append(nil, red)
				}
			}
			if red, err := fn.rereduce([]erlterm.Term{a, b}); err == nil {
				_, _ = fn.append(nil, red)
			}
		}
	})
}
