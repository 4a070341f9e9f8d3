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
