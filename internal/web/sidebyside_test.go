package web

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCompareByField: a line stands beside another one if both are of the same field; what a field became is marked, and fields that came
// or went stand alone.
func TestCompareByField(t *testing.T) {
	a := json.RawMessage(`{"_id":"x","_rev":"1-a","n":3,"list":[1,2],"name":"old"}`)
	for _, c := range []struct{ b, want string }{
		{`{"_id":"x","_rev":"2-b","_deleted":true}`, `_rev/_rev n/- list/- 1/- 2/- ]/- name/- -/_deleted`},
		{`{"_id":"x","_rev":"1-a","n":4,"list":[1,3],"name":"old"}`, `n/n 2/3`},
		{`{"_id":"x","_rev":"1-a","n":3,"list":[1,2],"\\\"m":3,"name":"new"}`, `-/\\\"m name/name`},
	} {
		d := compare(a, json.RawMessage(c.b), true)
		if len(d.A) != len(d.B) {
			t.Fatalf("%d lines beside %d", len(d.A), len(d.B))
		}
		label := func(l diffLine) string {
			text := strings.Trim(l.Pre+l.Mark+l.Post, " ,")
			if name, _, ok := strings.Cut(text, `": `); ok {
				text = strings.TrimPrefix(name, `"`)
			}
			if l.Kind == "void" {
				return "-"
			}
			return text
		}
		var got []string
		for n := range d.A {
			if d.A[n].Kind != "" || d.B[n].Kind != "" {
				got = append(got, label(d.A[n])+"/"+label(d.B[n]))
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("beside %s:\n%s, not\n%s", c.b, s, c.want)
		}
	}
}
