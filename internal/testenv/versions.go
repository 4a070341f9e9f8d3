package testenv

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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
		file := filepath.Join(dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, b, 0o644)
		}
		if err != nil {
			t.Fatalf("files of a CouchDB %s: %v", version, err)
		}
	}
	return filepath.Join(dir, "data")
}

// GrownVersions are the CouchDBs that wrote testdata/grown.
var GrownVersions = []string{"2.3", "3.5.0", "main"}

// GrownFile returns the shard (".couch") or the index (".view") of one of the GrownVersions
// at a stage of its life. It is not to be changed.
func GrownFile(t TB, version, stage, ext string) []byte {
	t.Helper()
	all, err := grown()
	if err != nil {
		t.Fatalf("files of a grown database: %v", err)
	}
	for name, b := range all[version] {
		if path.Dir(name) == stage && path.Ext(name) == ext {
			return b
		}
	}
	t.Fatalf("testdata/grown has no %s of %s at %s", ext, version, stage)
	return nil
}

// EachFixture calls fn for the databases and indexes of CouchDB 3.5.0 and of all Versions.
func EachFixture(t TB, fn func(version, name string, b []byte)) {
	t.Helper()
	wanted := func(name string) bool { return path.Ext(name) == ".couch" || path.Ext(name) == ".view" }
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("fixtures: %v", err)
	}
	err = filepath.WalkDir(filepath.Join(root, "testdata", "couchdb-3.5.0", "data"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !wanted(p) {
			return err
		}
		b, err := os.ReadFile(p)
		fn("3.5.0", p, b)
		return err
	})
	if err != nil {
		t.Fatalf("fixtures: %v", err)
	}
	for _, version := range Versions {
		for name, b := range VersionFiles(t, version) {
			if wanted(name) {
				fn(version, name, b)
			}
		}
	}
}

var versions, grown = archived("versions"), archived("grown")

// archived returns what reads an archive in testdata once: by version, then by name.
func archived(what string) func() (map[string]map[string][]byte, error) {
	return sync.OnceValues(func() (map[string]map[string][]byte, error) {
		root, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		packed, err := os.ReadFile(filepath.Join(root, "testdata", what, what+".tar.zst"))
		if err != nil {
			return nil, err
		}
		return unpack(packed)
	})
}

func unpack(packed []byte) (map[string]map[string][]byte, error) {
	zr, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxWindow(1<<27))
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
		version, name, _ := strings.Cut(path.Clean(h.Name), "/")
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
}

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
