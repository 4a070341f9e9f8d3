package testenv

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Versions are the CouchDBs whose files and answers testdata/versions holds. Real servers
// of these versions wrote them.
var Versions = []string{"2.1", "2.3", "3.3", "3.5.2", "main"}

// VersionFiles returns what a CouchDB of one of the Versions left: "answers.json", and
// its data directory, with names such as "data/_dbs.couch". They are not to be changed.
func VersionFiles(t TB, version string) map[string][]byte {
	t.Helper()
	all, err := versions()
	if err != nil {
		t.Fatalf("files of other CouchDBs: %v", err)
	}
	if all[version] == nil {
		t.Fatalf("no files of a CouchDB %s", version)
	}
	return all[version]
}

// VersionDir writes the data directory of one of the Versions into a temporary one, and
// returns its path.
func VersionDir(t TB, version string) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range VersionFiles(t, version) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatalf("files of a CouchDB %s: %v", version, err)
		}
	}
	return filepath.Join(dir, "data")
}

var versions = sync.OnceValues(func() (map[string]map[string][]byte, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	packed, err := os.ReadFile(filepath.Join(root, "testdata", "versions", "versions.tar.zst"))
	if err != nil {
		return nil, err
	}
	zr, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	all := map[string]map[string][]byte{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		version, name, _ := strings.Cut(h.Name, "/")
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if all[version] == nil {
			all[version] = map[string][]byte{}
		}
		if all[version][name], err = io.ReadAll(tr); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
})

// moduleRoot is the directory of go.mod above the one that the test runs in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
