package node

import "testing"

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
