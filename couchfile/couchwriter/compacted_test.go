package couchwriter_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// TestCompactedFixtures compacts what compacted databases of other servers hold into what they
// are: the records are there already, but not where they are, nor the trees around them.
func TestCompactedFixtures(t *testing.T) {
	t.Parallel()
	releases := map[string]couchwriter.Release{"2.3": couchwriter.Release23, "3.3": couchwriter.Release31,
		"3.5.0": couchwriter.Release31, "3.5.2": couchwriter.Release31, "main": couchwriter.ReleaseMain}
	counts := map[string]int{}
	eachFixture(t, func(version, name string, file []byte) {
		release, ok := releases[version]
		if headers := rawHeaders(t, file); !ok || len(headers) == 0 || headers[0].Kind != couchfile.HeaderDB {
			return
		}
		passes, swap := compactionOf(t, file)
		if len(passes) == 0 || strings.Contains(name, "deflate") { // zlib's choices are not known
			return
		}
		counts[version]++
		out := &memory{}
		f := couchwriter.NewFile(out, out, 0, swap.Checksum)
		c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: release, DefaultSecurity: firstSecurity(t, file)})
		for _, h := range passes {
			if err := c.Pass(openSource(t, file, h), minPurge(t, file)); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
		}
		if err := c.Swap(openSource(t, file, swap)); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if end := int(swap.End); len(out.b) != end || !bytes.Equal(out.b, file[:end]) {
			t.Errorf("%s: got %d bytes, want %d; others from %d on", name, len(out.b), end, firstDifference(out.b, file))
		}
	})
	for version := range releases {
		if counts[version] != 2 {
			t.Errorf("%s: got %d compacted databases, want 2", version, counts[version])
		}
	}
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// eachFixture calls fn for the databases of all versions.
func eachFixture(t *testing.T, fn func(version, name string, file []byte)) {
	t.Helper()
	err := filepath.WalkDir("../../testdata/couchdb-3.5.0/data", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".couch") {
			return err
		}
		b, err := os.ReadFile(p)
		fn("3.5.0", p, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("../../testdata/versions/versions.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(1<<27))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if version, _, _ := strings.Cut(h.Name, "/"); strings.HasSuffix(h.Name, ".couch") {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			fn(version, h.Name, b)
		}
	}
}
