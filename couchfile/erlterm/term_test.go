package erlterm_test

import (
	"bufio"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testdata/jiffy.txt holds what the JSON encoder of CouchDB 3.5.0 printed for
// random bytes and random doubles.
func TestJSONAsServer(t *testing.T) {
	f, err := os.Open("testdata/jiffy.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for sc := bufio.NewScanner(f); sc.Scan(); lines++ {
		w := strings.Fields(sc.Text())
		switch w[0] {
		case "bytes":
			got := erlterm.AppendString(nil, unhex(t, w[1]))
			if want := unhex(t, w[2]); string(got) != string(want) {
				t.Errorf("AppendString(%s): got %x, want %x", w[1], got, want)
			}
		case "float":
			bits, err := strconv.ParseUint(w[1], 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(erlterm.AppendFloat(nil, math.Float64frombits(bits))); got != w[2] {
				t.Errorf("AppendFloat(%s): got %s, want %s", w[1], got, w[2])
			}
		default:
			t.Fatalf("line %d: %q", lines, w[0])
		}
	}
	if lines < 1000 {
		t.Errorf("read %d lines, want 1000 or more", lines)
	}
}

func TestAppendJSON(t *testing.T) {
	for _, tc := range []struct{ name, term, want string }{
		{"small int", "61 07", "7"},
		{"negative int", "62 ffffffff", "-1"},
		{"int32 minimum", "62 80000000", "-2147483648"},
		{"small big", "6e 08 00 ffffffffffffffff", "18446744073709551615"},
		{"negative big", "6e 08 01 0000000000000080", "-9223372036854775808"},
		{"big beyond 64 bits", "6e 09 00 000000000000000001", "18446744073709551616"},
		{"large big", "6f 00000001 01 05", "-5"},
		{"float", "46 3ff8000000000000", "1.5"},
		{"minus zero", "46 8000000000000000", "0.0"},
		{"text float", "63 312e3530303030303030303030303030303030303030652b30300000000000", "1.5"},
		{"binary", "6d 00000003 612262", `"a\"b"`},
		{"true", "64 0004 74727565", "true"},
		{"small utf8 null", "77 04 6e756c6c", "null"},
		{"utf8 false", "76 0005 66616c7365", "false"},
		{"other atom", "73 03 6e696c", `"nil"`},
		{"latin-1 atom", "64 0001 e9", `"é"`},
		{"nil", "6a", "[]"},
		{"string", "6b 0003 0001ff", "[0,1,255]"},
		{"list", "6c 00000002 6101 6a 6a", "[1,[]]"},
		{"empty object", "68 01 6a", "{}"},
		{"object", "68 01 6c 00000002 68 02 6d 00000001 62 6101 68 02 64 0001 61 6a 6a", `{"b":1,"a":[]}`},
		{"large tuple object", "69 00000001 6a", "{}"},
		{"control characters", "6d 00000008 0001080a0c0d091f", `"\u0000\u0001\b\n\f\r\t\u001F"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			term, err := erlterm.Parse(append([]byte{erlterm.Version}, unhex(t, tc.term)...))
			if err != nil {
				t.Fatal(err)
			}
			got, err := erlterm.AppendJSON(nil, term)
			if err != nil || string(got) != tc.want {
				t.Errorf("got %s, %v, want %s", got, err, tc.want)
			}
		})
	}
}

func TestAppendJSONRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, term string
		err        error
	}{
		{"pair", "68 02 6101 6102", erlterm.ErrNotJSON},
		{"object of no pairs", "68 01 6c 00000001 6101 6a", erlterm.ErrNotJSON},
		{"number as key", "68 01 6c 00000001 68 02 6101 6101 6a", erlterm.ErrNotJSON},
		{"improper list", "6c 00000001 6101 6102", erlterm.ErrNotJSON},
		{"map", "74 00000000", erlterm.ErrNotJSON},
		{"infinity", "46 7ff0000000000000", erlterm.ErrNotJSON},
		{"cut binary", "6d 00000003 61", erlterm.ErrMalformed},
		{"more behind", "6101 6101", erlterm.ErrMalformed},
		{"nothing", "", erlterm.ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := erlterm.AppendJSON([]byte("x"), unhex(t, tc.term))
			if !errors.Is(err, tc.err) || string(got) != "x" {
				t.Errorf("got %q, %v, want %v and nothing appended", got, err, tc.err)
			}
		})
	}
}

// Arities far beyond the bytes must not cost memory or time.
func TestHugeArities(t *testing.T) {
	for _, s := range []string{"6c ffffffff 6a", "69 ffffffff 6a", "74 ffffffff 6a", "6d ffffffff 00", "6f ffffffff 00 00", "6b ffff 00"} {
		if n, ok := erlterm.Size(unhex(t, s)); ok {
			t.Errorf("Size(%s): got %d, want none", s, n)
		}
	}
}

// Many levels of nesting take no stack.
func TestDeepNesting(t *testing.T) {
	const depth = 1 << 17
	var b []byte
	for range depth {
		b = append(b, erlterm.TagList, 0, 0, 0, 1)
	}
	b = append(b, erlterm.TagNil)
	for range depth {
		b = append(b, erlterm.TagNil)
	}
	if n, ok := erlterm.Size(b); !ok || n != len(b) {
		t.Fatalf("Size: got %d, %v, want %d", n, ok, len(b))
	}
	got, err := erlterm.AppendJSON(nil, b)
	if err != nil || len(got) != 2*(depth+1) {
		t.Errorf("AppendJSON: got %d bytes, %v, want %d", len(got), err, 2*(depth+1))
	}
}

func FuzzTerm(f *testing.F) {
	for _, s := range []string{
		"68 01 6c 00000001 68 02 6d 00000001 62 6101 6a", "6b 0003 0001ff", "6e 08 00 ffffffffffffffff", "6f 00000001 01 05",
		"46 3ff8000000000000", "63 312e3530303030303030303030303030303030303030652b30300000000000", "74 00000001 6101 6a",
		"64 0003 6e696c", "6c 00000002 6101 6a 6a", "69 00000001 6a", "6c ffffffff 6a",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := erlterm.Size(b)
		if ok && (n <= 0 || n > len(b)) {
			t.Fatalf("Size: got %d of %d bytes", n, len(b))
		}
		term, rest, ok2 := erlterm.Next(b)
		if ok != ok2 || ok && len(term)+len(rest) != len(b) {
			t.Fatalf("Next: got %d and %d of %d bytes, %v and %v", len(term), len(rest), len(b), ok, ok2)
		}
		out, err := erlterm.AppendJSON(nil, b)
		if err == nil && (!ok || n != len(b)) {
			t.Fatalf("printed %s from a term that does not fill its bytes", out)
		}
		_, _, _ = erlterm.Tuple(b)
		_, _, _ = erlterm.List(b)
		_, _, _ = erlterm.Uint(b)
		_, _, _ = erlterm.Binary(b)
		_, _, _ = erlterm.Atom(b)
		_, _ = erlterm.BigInt(b)
		_, _ = erlterm.AppendObject(nil, b)
	})
}
