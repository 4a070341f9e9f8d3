package ejson

import (
	"errors"
	"math"
	"testing"
)

func TestParseAppend(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[true,null,"ü\u0000\/"],"b":2}`:             `{"a":[true,null,"ü\u0000/"],"b":2}`,
		` [1.0, 1e3, -0, -0.0, 1.5e300, 12345678901234567890] `: `[1.0,1000.0,0,0.0,1.5e+300,12345678901234567890]`,
		`""`: `""`, `{}`: `{}`, `[]`: `[]`,
	} {
		v, err := Parse([]byte(in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := String(v); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{``, `{`, `[1,]`, `{"a"}`, `1 2`, "\"\xff\"", `1e999`, `nul`, `{"a":1,}`} {
		if v, err := Parse([]byte(in)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", in, v, err)
		}
	}
}

func TestCompareNumbers(t *testing.T) {
	for _, c := range []struct {
		a, b Number
		want int
	}{
		{"1", "1.0", 0}, {"1", "2", -1}, {"9007199254740993", "9007199254740992.0", 1},
		{"123456789012345678901234567890", "123456789012345678901234567891", -1}, {"1.0e300", "5", 1}, {Float(math.Pi), "3", 1},
	} {
		if got := c.a.Compare(c.b); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := c.b.Compare(c.a); got != -c.want {
			t.Errorf("%s and %s: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}
