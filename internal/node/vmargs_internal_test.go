package node

import (
	"slices"
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

func TestNodeName(t *testing.T) {
	tests := []struct{ args, host, want string }{
		{"-name couchdb@127.0.0.1\n", "h", "couchdb@127.0.0.1"},
		{"# -name a@b\n\n  -kernel x {127,0,0,1}\n-name\n  'c@d' # no\n", "h", "c@d"},
		{"-sname couch", "db1.example.org", "couch@db1"},
		{"-sname \"couch@here\"", "h", "couch@here"},
		{"-name couch", "db1.example.org", "couch@db1.example.org"},
		{"-name couch", "db1", ""},
		{"-name", "h", ""},
		{"-name # couch", "h", ""},
		{"+Bd -noinput", "h", "nonode@nohost"},
		{`-name a\@b`, "h", "a@b"},
	}
	for _, tt := range tests {
		if got := nodeName([]byte(tt.args), tt.host); got != tt.want {
			t.Errorf("nodeName(%q, %q) = %q, want %q", tt.args, tt.host, got, tt.want)
		}
	}
}
