package restore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// What CouchDB appends, compacts and deletes is no difference, and another byte below is one.
func TestCompareLive(t *testing.T) {
	t.Parallel()
	data := copyFixture(t)
	r := openRepo(t, mem.New())
	m, err := r.Manifest(t.Context(), take(t, r, data, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	var large []*manifest.File
	for _, f := range m.Files {
		if f.Kind == manifest.Shard && f.Header != nil && f.Header.Offset > 8<<10 {
			large = append(large, f)
		}
	}
	if len(large) < 4 {
		t.Fatalf("%d large files", len(large))
	}
	path := func(i int) string { return filepath.Join(data, filepath.FromSlash(large[i].Path)) }
	compare := func(same, other int, different string) {
		t.Helper()
		got, err := restore.CompareLive(t.Context(), m, data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Same != same || got.Other != other || len(got.Differences) > 0 != (different != "") {
			t.Errorf("got %+v, want %d and %d", got, same, other)
		}
		if different != "" && (len(got.Differences) != 1 || !strings.HasPrefix(got.Differences[0].What, different)) {
			t.Errorf("got %+v, want %s", got.Differences, different)
		}
	}
	whole, err := restore.CompareLive(t.Context(), m, data)
	if err != nil || whole.Same < 20 || len(whole.Differences) > 0 {
		t.Fatalf("%+v %v", whole, err)
	}
	n, other := whole.Same, whole.Other

	b, err := os.ReadFile(path(0))
	if err != nil {
		t.Fatal(err)
	}
	write(t, path(0), append(b, b[:4096]...))
	compare(n, other, "")
	write(t, path(1), b) // another file
	compare(n-1, other+1, "")
	if err := os.Remove(path(2)); err != nil {
		t.Fatal(err)
	}
	compare(n-2, other+2, "")
	c, err := os.ReadFile(path(3))
	if err != nil {
		t.Fatal(err)
	}
	c[4097] ^= 1
	write(t, path(3), c)
	compare(n-3, other+2, large[3].Path)
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
