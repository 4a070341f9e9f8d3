package couchfile_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const fixtures = "../testdata/couchdb-3.5.0"

var walkFixtures = sync.OnceValues(func() ([]string, error) {
	var paths []string
	err := filepath.WalkDir(filepath.Join(fixtures, "data"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(p, ".couch") || strings.HasSuffix(p, ".view")) {
			paths = append(paths, p)
		}
		return err
	})
	return paths, err
})

// fixtureFiles returns the paths of all sound .couch and .view files.
func fixtureFiles(t testing.TB) []string {
	t.Helper()
	paths, err := walkFixtures()
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != 80 {
		t.Fatalf("got %d files of the fixtures, want 80", len(paths))
	}
	return paths
}

// load returns a file of the fixtures as a reader and its size.
func load(t testing.TB, path string) (*bytes.Reader, int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b), int64(len(b))
}

// loadJSON reads an expected answer, numbers as they are written.
func loadJSON(t testing.TB, v any, parts ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{fixtures}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%v: %v", parts, err)
	}
}
