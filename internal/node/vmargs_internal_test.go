package node

import (
	"slices"
	"strings"
	"testing"
)

// TestVMWords expects what erl 25 -args_file F -emu_args_exit makes of the same.
func TestVMWords(t *testing.T) {
	const in = `-foo "c d" 'e\f' "g\"h" i\ j k'l'm n"o # p" # comment "q
-x 'a\b' "a\b" a\b q\#z 'a"b' "a'b" "" '' end
x# c 'quote
z"x"#c
last q\`
	want := []string{
		"-foo", "c d", `e\f`, `g\h i\ j k'l'm no`,
		"-x", `a\b`, `a\b`, "ab", "q#z", `a"b`, "a'b", "", "", "end",
		"x", "zx", "last", "q",
	}
	var got []string
	for _, w := range vmWords([]byte(in)) {
		if !w.comment {
			got = append(got, w.text)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestNodeName expects what node() says in erl 25 with the same arguments and variables.
func TestNodeName(t *testing.T) {
	tests := []struct{ args, env, host, want, source string }{
		{"-name couchdb@127.0.0.1\n", "", "h", "couchdb@127.0.0.1", "vm.args"},
		{"# -name a@b\n\n  -kernel x {127,0,0,1}\n-name\n  'c@d' # no\n", "", "h", "c@d", "vm.args"},
		{"-sname couch", "", "db1.example.org", "couch@db1", "vm.args"},
		{"-sname \"couch@here\"", "", "h", "couch@here", "vm.args"},
		{"-name couch", "", "db1.example.org", "couch@db1.example.org", "vm.args"},
		{"-name couch", "", "db1", "", "vm.args"},
		{"-name", "", "h", "", "vm.args"},
		{"-name # couch", "", "h", "", "vm.args"},
		{"+Bd -noinput", "", "h", "nonode@nohost", "vm.args"},
		{`-name a\@b`, "", "h", "a@b", "vm.args"},
		{"-name a@b\n-name c@d", "", "h", "a@b", "vm.args"},
		{"-name a@b\n-sname c@d", "", "h", "c@d", "vm.args"},
		{"+Bd -noinput", "ERL_FLAGS= -name couchdb@db-0.db.default -setcookie x ", "h", "couchdb@db-0.db.default", "ERL_FLAGS"},
		{"-name a@b", "ERL_FLAGS=-name c@d", "h", "a@b", "vm.args"},
		{"-name a@b", "ERL_ZFLAGS=-name c@d", "h", "a@b", "vm.args"},
		{"-name a@b", "ERL_AFLAGS=-name c@d", "h", "c@d", "ERL_AFLAGS"},
		{"-name a@b", "ERL_FLAGS=-sname c@d", "h", "c@d", "ERL_FLAGS"},
		{"", "ERL_FLAGS=-name 'c@d'", "h", "c@d", "ERL_FLAGS"},
	}
	for _, tt := range tests {
		getenv := func(key string) string {
			if k, v, _ := strings.Cut(tt.env, "="); k == key {
				return v
			}
			return ""
		}
		if got, source := nodeName([]byte(tt.args), getenv, tt.host); got != tt.want || source != tt.source {
			t.Errorf("nodeName(%q, %q, %q) = %q of %s, want %q of %s", tt.args, tt.env, tt.host, got, source, tt.want, tt.source)
		}
	}
}
