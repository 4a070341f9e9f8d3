package node_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/node"
)

func TestRedactIni(t *testing.T) {
	const in = "; about\r\n" +
		"password = GONE0\n[couchdb]\nuuid = keep1\n" +
		"[admins]\nadmin = -pbkdf2-GONE1 ; comment GONE2\n;old one = GONE3\nroot=GONE4\n  GONE5\n" +
		"[chttpd_auth]\nsecret = GONE6\npassword_scheme = keep2\nproxy_use_secret = true\nallow_persistent_cookies = true\n" +
		"[couch_httpd_auth]\nsecret=GONE7\n" +
		"[jwt_keys]\nhmac:a= = GONE8\nrsa:b = GONE9\n" +
		"[replicator]\npassword = GONE10\n; the password = keep3 sort of text\n" +
		"[ssl]\npassword = GONE11\nkey_file = keep4\n" +
		"[smtp]\nSMTP_Password=GONE12\n" +
		"[proxy]\nsecret = GONE13\r\nurl = http://keep5/x@y:z\nother = a, https://u:GONE14@h/\n" +
		"[x]\nk = keep6\n  keep7\nempty_password =\n"
	clean, removed := node.RedactIni([]byte(in))
	if bytes.Contains(clean, []byte("GONE")) {
		t.Errorf("a secret is left in\n%s", clean)
	}
	for _, keep := range []string{"keep1", "keep2", "keep3", "keep4", "keep5", "keep6", "keep7"} {
		if !bytes.Contains(clean, []byte(keep)) {
			t.Errorf("%s is gone from\n%s", keep, clean)
		}
	}
	want := []string{
		"/password (not in use)", "admins/admin", "admins/old one (not in use)", "admins/root", "chttpd_auth/secret", "couch_httpd_auth/secret", "jwt_keys/hmac:a=", "jwt_keys/rsa:b",
		"replicator/password", "ssl/password", "smtp/SMTP_Password", "proxy/secret", "proxy/other",
	}
	if !slices.Equal(removed, want) {
		t.Errorf("removed %q\nwant    %q", removed, want)
	}
	if g, w := bytes.Count(clean, []byte("\n")), strings.Count(in, "\n"); g != w {
		t.Errorf("%d lines, want %d", g, w)
	}
	if got := flat(node.ParseIni(clean)); got != "chttpd_auth/allow_persistent_cookies=true\nchttpd_auth/password_scheme=keep2\nchttpd_auth/proxy_use_secret=true\ncouchdb/uuid=keep1\nproxy/url=http://keep5/x@y:z\nssl/key_file=keep4\nx/k=keep6" {
		t.Errorf("what CouchDB reads of it:\n%s", got)
	}
	if again, more := node.RedactIni(clean); !bytes.Equal(again, clean) || more != nil {
		t.Errorf("a second time removes %q", more)
	}
}

func TestRedactRealFiles(t *testing.T) {
	data, err := os.ReadFile(fixture + "/etc/local.d/admin.ini")
	must(t, err)
	clean, removed := node.Redact("local.d/admin.ini", data)
	if !slices.Equal(removed, []string{"admins/admin"}) || bytes.Contains(clean, []byte("pbkdf2")) {
		t.Errorf("removed %q from\n%s", removed, clean)
	}
	if uuid, _ := node.ParseIni(clean).Get("couchdb", "uuid"); uuid != "f1c0f1c0f1c0f1c0f1c0f1c0f1c0f1c0" {
		t.Errorf("uuid = %q", uuid)
	}
}

func TestRedactVMArgs(t *testing.T) {
	const in = "-name couchdb@h\n-setcookie GONE1\n  -setcookie 'GONE2 x' +K true\n#-setcookie GONE3\n# a cookie is fine\n# -setcookie\n" +
		"-ssl_dist_opt server_password \"GONE4\" server_certfile keep1\n-setcookie\n# why\nGONE5\n-x y -setcookie"
	clean, removed := node.Redact("etc/vm.args", []byte(in))
	if bytes.Contains(clean, []byte("GONE")) {
		t.Errorf("a secret is left in\n%s", clean)
	}
	for _, keep := range []string{"-name couchdb@h", "+K true", "server_certfile keep1", "-x y", "a cookie is fine"} {
		if !bytes.Contains(clean, []byte(keep)) {
			t.Errorf("%q is gone from\n%s", keep, clean)
		}
	}
	if want := []string{"-setcookie", "-setcookie", "-setcookie (not in use)", "server_password", "-setcookie", "-setcookie"}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	if again, more := node.RedactVMArgs(clean); !bytes.Equal(again, clean) || more != nil {
		t.Errorf("a second time removes %q from\n%s", more, clean)
	}
}

// FuzzRedact: nothing that a setting of [admins] says survives, the number of
// lines stays, and CouchDB reads the rest as before.
func FuzzRedact(f *testing.F) {
	f.Add([]byte("[admins]\na = b ; c\n d\n;e=f\n[ssl]\npassword=x\r\nkey = y"))
	f.Add([]byte("[admins]\r[x]\x1a[admins]\n\xff=\xfe"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := node.ParseIni(data)
		clean, _ := node.RedactIni(data)
		after := node.ParseIni(clean)
		if len(after["admins"]) > 0 || len(after["jwt_keys"]) > 0 {
			t.Fatalf("%q keeps a secret as %q", data, clean)
		}
		for section, keys := range after {
			for key, value := range keys {
				if before[section][key] == "" {
					t.Fatalf("%q: [%s] %s = %s appears in %q", data, section, key, value, clean)
				}
			}
		}
		node.RedactVMArgs(data)
	})
}

// Where a person sees a section that CouchDB doesn't, what stands below it is secret too.
func TestRedactMeant(t *testing.T) {
	t.Parallel()
	utf16 := func(s string) string {
		b := []byte{0xff, 0xfe}
		for _, c := range []byte(s) {
			b = append(b, c, 0)
		}
		return string(b)
	}
	for name, in := range map[string]string{
		"a byte order mark":     "\xef\xbb\xbf[admins]\r\nroot = GONE\r\n",
		"a mark and a comment":  "\xef\xbb\xbf[admins] # ours\nroot = GONE\n",
		"a comment behind":      "[couchdb]\nuuid = 1\n[admins] # ours\nroot = GONE\n",
		"another":               "[couchdb]\n[admins]// ours\nroot = GONE\n",
		"a comment of CouchDB":  "[admins] ; ours\nroot = GONE\n",
		"blanks":                "[couchdb]\n  [ admins ]\n\troot\t=\tGONE\n",
		"capitals":              "[couchdb]\n[Admins]\nroot = GONE\n",
		"no end":                "[couchdb]\n[admins\nroot = GONE\n",
		"a colon":               "[admins]\nroot: GONE\n",
		"a value on its line":   "[admins]\nroot\nGONE\n",
		"a comment of others":   "[admins]\n#root = GONE\n# root = GONE\n",
		"no blanks":             "[admins]\nroot=GONE\n",
		"UTF-16":                utf16("[admins]\r\nroot = GONE\r\n[couchdb]\r\nuuid = 1\r\n"),
		"a short word":          "[ssl]\nkeyfile_pass = GONE\n",
		"a shorter one":         "[x]\npwd = GONE\n",
		"a mark before a word":  "\xef\xbb\xbfpassword = GONE\n",
		"in UTF-16, by no name": utf16("[replicator]\npassword = GONE\n"),
	} {
		clean, removed := node.Redact("local.ini", []byte(in))
		if text := strings.ReplaceAll(string(clean), "\x00", ""); strings.Contains(text, "GONE") {
			t.Errorf("%s: a secret is left in %q", name, text)
		}
		if len(removed) == 0 && !strings.Contains(string(clean), "a line was removed") {
			t.Errorf("%s: nothing says that something is gone from %q", name, clean)
		}
		if again, more := node.Redact("local.ini", clean); !bytes.Equal(again, clean) || more != nil {
			t.Errorf("%s: a second time removes %q", name, more)
		}
	}
	for name, in := range map[string]string{
		"UTF-16 without secrets": utf16("[couchdb]\r\nuuid = 1\r\n"),
		"what only looks so":     "[ioq.bypass]\nos_process = true\nread = true\n[couch_passwords_cache]\nmax_objects = 5\n[couchdb]\n; [admins] are elsewhere\nfile = [x]\n",
	} {
		if clean, removed := node.Redact("local.ini", []byte(in)); string(clean) != in || removed != nil {
			t.Errorf("%s: removed %q from %q", name, removed, in)
		}
	}
}
