package couchgen_test

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/testenv"
)

// newest returns the newest header of a file.
func newest(t *testing.T, path string) (couchfile.RawHeader, couchfile.Header) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	h, err := couchfile.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw, h
}

// appendFields appends a copy of the newest header that has two more fields, as a later
// release may write it.
func appendFields(t *testing.T, f *os.File) {
	t.Helper()
	raw, _ := newest(t, f.Name())
	term := append(bytes.Clone(raw.Term), 104, 2, 100, 0, 1, 'x', 97, 7, 109, 0, 0, 0, 1, 'y') // {x, 7}, <<"y">>
	term[2] += 2                                                                               // elements of the tuple
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum(term)
	b := make([]byte, (4096-st.Size()%4096)%4096)
	b = binary.BigEndian.AppendUint32(append(b, 1), uint32(16+len(term)))
	b = append(append(b, sum[:]...), term...)
	if _, err := f.WriteAt(b, st.Size()); err != nil {
		t.Fatal(err)
	}
}

// TestReopenLater goes on with a file of the main branch, and of whatever comes after it:
// what isn't known of the header stays.
func TestReopenLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.couch")
	for name, b := range testenv.VersionFiles(t, "main") {
		if strings.HasPrefix(name, "data/shards/00000000-7fffffff/manysmall.") {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	appendFields(t, f)
	before, was := newest(t, path)
	g, err := couchgen.Reopen(f, couchgen.Options{NodeName: was.Epochs[0].Node, Compression: couchgen.Zstd})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Put(couchgen.Doc{ID: "one more"}); err != nil {
		t.Fatal(err)
	}
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	after, is := newest(t, path)
	if was.TimeSeqPtr <= 0 || is.TimeSeqPtr != was.TimeSeqPtr || is.More != 2 || is.UpdateSeq != was.UpdateSeq+1 {
		t.Errorf("time_seq at %d, was at %d; %d more fields, want 2; update_seq %d, was %d", is.TimeSeqPtr, was.TimeSeqPtr, is.More, is.UpdateSeq, was.UpdateSeq)
	}
	if end := before.Term[len(before.Term)-14:]; !bytes.HasSuffix(after.Term, end) {
		t.Errorf("the header ends with %x, want %x", after.Term, end)
	}
	verify(t, path)
}

// TestDiskVersions writes the headers of CouchDB 2, field by field as real ones are.
func TestDiskVersions(t *testing.T) {
	t.Parallel()
	for disk, version := range map[int]string{6: "2.1", 7: "2.3", 8: "3.3"} {
		f := create(t, filepath.Join(t.TempDir(), "a.couch"))
		g, err := couchgen.Create(f, couchgen.Options{DiskVersion: disk, NodeLocal: true, Checksum: couchgen.MD5})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Put(couchgen.Doc{ID: "a"}); err != nil {
			t.Fatal(err)
		}
		if err := g.Commit(); err != nil {
			t.Fatal(err)
		}
		report := verify(t, f.Name())
		got, _ := newest(t, f.Name())
		b := testenv.VersionFiles(t, version)["data/_dbs.couch"]
		want, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if report.Header.DiskVersion != disk || got.Term[2] != want.Term[2] {
			t.Errorf("disk version %d of %d fields, want %d of %d as %s writes", report.Header.DiskVersion, got.Term[2], disk, want.Term[2], version)
		}
	}
}
