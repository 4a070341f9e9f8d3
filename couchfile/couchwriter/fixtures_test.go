package couchwriter_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Versions of the servers that wrote testdata/grown.
var grownVersions = []string{"2.3", "3.5.0", "main"}

var grownFiles = sync.OnceValues(func() (map[string][]byte, error) {
	f, err := os.Open("../../testdata/grown/grown.tar.zst")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(1<<27))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := path.Clean(h.Name)
		if strings.HasSuffix(name, ".view") {
			name = path.Join(path.Dir(name), "grow.view")
		}
		if files[name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
})

// grownFile returns grow.couch or grow.view of a version at a stage of its life.
func grownFile(t testing.TB, version, stage, name string) []byte {
	t.Helper()
	files, err := grownFiles()
	if err != nil {
		t.Fatal(err)
	}
	b := files[path.Join(version, stage, name)]
	if b == nil {
		t.Fatalf("testdata/grown has no %s of %s at %s", name, version, stage)
	}
	return b
}
