package node_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/node"
)

// flat writes settings as "section/key=value" lines in order.
func flat(ini node.Ini) string {
	var lines []string
	for section, keys := range ini {
		for key, value := range keys {
			lines = append(lines, fmt.Sprintf("%s/%s=%s", section, key, value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestParseIni(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"before a section", "k = v\n[s]\nk=w", "s/k=w"},
		{"space", "[s]\n \tk  =  v \t\n", "s/k=v"},
		{"ends of lines", "[s]\r\na=1\rb=2\x1ac=3\n", "s/a=1\ns/b=2\ns/c=3"},
		{"comments", ";x\n ; x\n[s] ; x\na=1 ; x\nb=2\t;x\nc=3;x\nd=;\ne = ;", "s/a=1\ns/b=2\ns/c=3;x\ns/d=;"},
		{"equal signs", "[s]\nhmac:k= = v=\nq=a=b\n=x=y\n= z", "s/hmac:k==v=\ns/q=a=b"},
		{"empty value hides nothing", "[s]\nk=v\nk=\nk =", "s/k=v"},
		{"later wins", "[s]\nk=1\n[t]\nk=2\n[s]\nk=3", "s/k=3\nt/k=2"},
		{"broken sections are skipped", "[s]\n[]\na=1\n[t\nb=2\n[u]x\nc=3\n[a]b]\nd=4", "s/a=1\ns/b=2\ns/c=3\ns/d=4"},
		{"no continuation", "[s]\nk=v\n  more\nl=w", "s/k=v\ns/l=w"},
		{"section with space", "[smoosh.ratio dbs]\nmin = 1", "smoosh.ratio dbs/min=1"},
		{"bytes", "[s]\nk=\xff\xfe\x00", "s/k=\xff\xfe\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := flat(node.ParseIni([]byte(tt.in))); got != tt.want {
				t.Errorf("ParseIni(%q):\n got %q\nwant %q", tt.in, got, tt.want)
			}
		})
	}
}

func FuzzParseIni(f *testing.F) {
	for _, s := range []string{"", "[s]\nk = v ; c\n", "[s]\r\nk==v\x1a[t]\rk=", "[admins]\na = b\n  c\n;d = e", "[a]b]\n[]\n=", "[s]\npassword = x\n"} {
		f.Add([]byte(s))
	}
	if real, err := os.ReadFile(filepath.Join(fixture, "etc/local.d/admin.ini")); err == nil {
		f.Add(real)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ini := node.ParseIni(data)
		// Written out and read again it must be the same.
		var b strings.Builder
		for section, keys := range ini {
			fmt.Fprintf(&b, "[%s]\n", section)
			for key, value := range keys {
				if key == "" || value == "" {
					t.Fatalf("%q gives an empty key or value in section %q", data, section)
				}
				fmt.Fprintf(&b, "%s = %s\n", key, value)
			}
		}
		if again := node.ParseIni([]byte(b.String())); roundTrips(ini) && !maps.EqualFunc(ini, again, maps.Equal[map[string]string]) {
			t.Fatalf("%q reads as %q, written out as %q reads as %q", data, flat(ini), b.String(), flat(again))
		}
	})
}

// roundTrips says whether "key = value" can express all settings: a key with
// " = " can't be written so, nor one that looks like a section, nor a value that
// looks like a comment.
func roundTrips(ini node.Ini) bool {
	for section, keys := range ini {
		if strings.ContainsAny(section, "]") || strings.Contains(section, " ;") || strings.Contains(section, "\t;") {
			return false
		}
		for key, value := range keys {
			if strings.HasPrefix(key, "[") || strings.HasPrefix(value, ";") || strings.HasPrefix(value, "= ") || strings.HasSuffix(key, " =") || strings.Contains(key+" "+value, " = ") {
				return false
			}
		}
	}
	return true
}
