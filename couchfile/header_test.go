package couchfile_test

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

func TestFindHeaderDamaged(t *testing.T) {
	for _, tc := range []struct {
		file   string
		offset int64
		seq    uint64
		err    error
	}{
		{"torn-tail", 45056, 55, nil},
		{"torn-in-header", 45056, 55, nil},
		{"garbage-appended", 49152, 56, nil},
		{"fake-header-markers", 49152, 56, nil},
		{"zeros-appended", 49152, 56, nil},
		{"last-header-checksum", 45056, 55, nil},
		{"last-header-body", 45056, 55, nil},
		{"block-zeroed", 49152, 56, nil},
		{"no-headers", 0, 0, couchfile.ErrNoHeader},
		{"zero-length", 0, 0, couchfile.ErrNoHeader},
		{"all-zeros", 0, 0, couchfile.ErrNoHeader},
		{"first-100-bytes", 0, 0, couchfile.ErrNoHeader},
	} {
		t.Run(tc.file, func(t *testing.T) {
			r, size := load(t, filepath.Join(fixtures, "damaged", tc.file+".couch"))
			raw, err := couchfile.FindHeader(r, size)
			if !errors.Is(err, tc.err) || raw.Offset != tc.offset {
				t.Fatalf("FindHeader: got offset %d, error %v, want %d, %v", raw.Offset, err, tc.offset, tc.err)
			}
			db, err := couchfile.Open(r, size)
			if !errors.Is(err, tc.err) {
				t.Fatalf("Open: got %v, want %v", err, tc.err)
			}
			if err == nil && db.Header().UpdateSeq != tc.seq {
				t.Errorf("got update_seq %d, want %d", db.Header().UpdateSeq, tc.seq)
			}
		})
	}
}

// countingReader counts the bytes that were read below limit.
type countingReader struct {
	io.ReaderAt
	limit, below int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	if n := min(int64(len(p)), c.limit-off); n > 0 {
		c.below += n
	}
	return c.ReaderAt.ReadAt(p, off)
}

// FindHeader may read what is behind the newest header, and little else.
func TestFindHeaderReadsLittle(t *testing.T) {
	for _, path := range fixtureFiles(t) {
		r, size := load(t, path)
		raw, err := couchfile.FindHeader(r, size)
		if err != nil {
			t.Fatal(err)
		}
		c := &countingReader{ReaderAt: r, limit: raw.Offset}
		if _, err := couchfile.FindHeader(c, size); err != nil || c.below > 64<<10 {
			t.Errorf("%s: read %d bytes below the header at %d, error %v", path, c.below, raw.Offset, err)
		}
	}
}

func TestViewHeaders(t *testing.T) {
	fresh := 0
	for _, path := range fixtureFiles(t) {
		if !strings.HasSuffix(path, ".view") {
			continue
		}
		r, size := load(t, path)
		v, err := couchfile.OpenView(r, size)
		if err != nil {
			t.Fatal(err)
		}
		h := v.Header()
		if want := strings.TrimSuffix(filepath.Base(path), ".view"); h.Signature != want {
			t.Errorf("got signature %s, want %s", h.Signature, want)
		}
		if h.Fresh {
			fresh++
			continue
		}
		// .shards/<range>/<db>_design/mrview/<sig>.view belongs to shards/<range>/<db>.couch.
		shard := strings.Replace(filepath.Dir(filepath.Dir(path)), "/.shards/", "/shards/", 1)
		r, size = load(t, strings.TrimSuffix(shard, "_design")+".couch")
		db, err := couchfile.Open(r, size)
		if err != nil {
			t.Fatal(err)
		}
		info, err := db.Info()
		if err != nil {
			t.Fatal(err)
		}
		if h.UpdateSeq != info.UpdateSeq || h.PurgeSeq != info.PurgeSeq {
			t.Errorf("%s: got seq %d and purge seq %d, want %d and %d", path, h.UpdateSeq, h.PurgeSeq, info.UpdateSeq, info.PurgeSeq)
		}
		if _, err := couchfile.Open(load(t, path)); !errors.Is(err, couchfile.ErrNotDatabase) {
			t.Errorf("%s as a database: got %v, want ErrNotDatabase", path, err)
		}
	}
	if fresh == 0 {
		t.Error("no fresh view file among the fixtures")
	}
}
