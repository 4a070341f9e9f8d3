package userfile_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/userfile"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in, text, secret, fault string // secret "" = fault
	}{
		{"plain", "geheim\n", "geheim\n", "geheim", ""},
		{"no end", "geheim", "geheim", "geheim", ""},
		{"CRLF", "geheim\r\n\r\n", "geheim\r\n\r\n", "geheim", ""},
		{"blanks stay", "  two words \n", "  two words \n", "  two words ", ""},
		{"Notepad", "\xef\xbb\xbfgehéim\r\n", "gehéim\r\n", "gehéim", ""},
		{"PowerShell", "\xff\xfeg\x00\xe9\x00\r\x00\n\x00", "gé\r\n", "gé", ""},
		{"UTF-16, big end first", "\xfe\xff\x00g\x00\xe9\x00\n", "gé\n", "gé", ""},
		{"UTF-16 without a mark", "g\x00\xe9\x00\n\x00", "gé\n", "gé", ""},
		{"and big end first", "\x00g\x00\xe9\x00\n", "gé\n", "gé", ""},
		{"two units for one character", "\xff\xfe=\xd8\x00\xdeg\x00", "\U0001F600g", "\U0001F600g", ""},
		{"Latin-1 stays", "geh\xe9im\n", "geh\xe9im\n", "geh\xe9im", ""},
		{"one letter", "g", "g", "g", ""},
		{"empty", "", "", "", "is empty"},
		{"a mark alone", "\xef\xbb\xbf", "", "", "is empty"},
		{"blanks alone", " \t\r\n", " \t\r\n", "", "is empty"},
		{"binary", "\x7fELF\x00\x00\x01", "\x7fELF\x00\x00\x01", "", "is not a text file"},
		{"half a pair", "\xff\xfe\x00\xd8g\x00", "\xff\xfe\x00\xd8g\x00", "", "is not a text file"},
		{"zeros", "\x00\x00\x00\x00", "\x00\x00\x00\x00", "", "is not a text file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte(tt.in), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := userfile.Read(path)
			if err != nil || f.Text != tt.text || string(f.Raw) != tt.in {
				t.Errorf("got %+v, %v, want the text %q", f, err, tt.text)
			}
			if got := string(userfile.Decode([]byte(tt.in))); got != tt.text {
				t.Errorf("decoded %q, want %q", got, tt.text)
			}
			secret, err := userfile.ReadSecret(path)
			if secret != tt.secret || (err == nil) != (tt.fault == "") {
				t.Errorf("the secret is %q, %v, want %q", secret, err, tt.secret)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.fault) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q and the name", err, tt.fault)
			}
		})
	}
	if _, err := userfile.ReadText(filepath.Join(t.TempDir(), "gone")); !os.IsNotExist(err) {
		t.Errorf("a file that isn't there: %v", err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, userfile.Limit+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := userfile.Read(large); err == nil || !strings.Contains(err.Error(), "has more than") {
		t.Errorf("a large file: %v", err)
	}
}

func TestPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	t.Setenv("HOME", "/home/me")
	for in, want := range map[string]string{
		"~": "/home/me", "~/": "/home/me", "~/a b/c": "/home/me/a b/c", "/x/~": "/x/~", "./~": "./~", "a~b": "a~b", "": "",
	} {
		if got, err := userfile.Path(in); got != want || err != nil {
			t.Errorf("%q is %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"~/r": "/home/me/r", "file:~/r": "/home/me/r", "file://~/r": "/home/me/r", "file:///~/r": "/home/me/r",
		"file:///srv/~/r": "file:///srv/~/r", "s3://bucket/~/r": "s3://bucket/~/r", "r": "r",
	} {
		if got, err := userfile.Place(in); got != want || err != nil {
			t.Errorf("the place %q is %q, %v, want %q", in, got, err, want)
		}
	}
	if got, err := userfile.Path("~no-such-user-here/x"); err == nil || !strings.Contains(err.Error(), "write the path out") {
		t.Errorf("a user who isn't there: %q, %v", got, err)
	}
	t.Setenv("HOME", "")
	if got, err := userfile.Path("~/x"); err == nil || !strings.Contains(err.Error(), "no home directory") {
		t.Errorf("without a home: %q, %v", got, err)
	}
}
