//go:build !windows

package restore

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// A CouchDB that would run as another user, who isn't there, is told to run as root.
func TestRunsAsRoot(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]string{"no-such-user-here": "no user no-such-user-here", "no-such-user-here:0": "no user no-such-user-here", "0:no-such-group-here": "no group no-such-group-here",
		":no-such-group-here": "no group no-such-group-here", "65534:65534": "", "65534": "", "": ""} {
		if got := runsAsRoot(spec, true); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", spec, got, want)
		}
		if got := runsAsRoot(spec, false); got != "" {
			t.Errorf("%q, not by root: %q", spec, got)
		}
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	if _, warning, err := parseOwner("no-such-user-here"); err != nil || !strings.Contains(warning, "no user") {
		t.Errorf("unknown user: %q, %v", warning, err)
	}
	if _, _, err := parseOwner("a:"); !errors.Is(err, ErrOptions) {
		t.Errorf("a: %v", err)
	}
	if o, warning, err := parseOwner(""); o.set || warning != "" || err != nil {
		t.Errorf("none: %+v, %q, %v", o, warning, err)
	}
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			t.Skip(err)
		}
		if _, warning, err := parseOwner(u.Username); warning != "" || err != nil {
			t.Errorf("self: %q, %v", warning, err)
		}
		if _, warning, err := parseOwner("root"); warning == "" || err != nil {
			t.Errorf("root: %q, %v", warning, err)
		}
		return
	}
	o, warning, err := parseOwner("65534:65534")
	if err != nil || warning != "" || o.uid != 65534 || o.gid != 65534 {
		t.Fatalf("%+v, %q, %v", o, warning, err)
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.path(path); err != nil {
		t.Fatal(err)
	}
}
