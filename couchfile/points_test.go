package couchfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// TestNewestPoint finds, going back from the end, what Points lists: each moment, and none that only a compaction wrote.
func TestNewestPoint(t *testing.T) {
	t.Parallel()
	compacted := 0
	err := filepath.WalkDir("../testdata/couchdb-3.5.0/data", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".couch" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r, size := bytes.NewReader(b), int64(len(b))
		points, err := couchfile.Points(r, size)
		if err != nil {
			return err
		}
		for i, p := range points {
			got, err := couchfile.NewestPoint(r, size, func(h *couchfile.Header) bool { return h.Offset <= p.Offset })
			switch {
			case p.History && (err != nil || got.Offset != p.Offset || got.End != p.End):
				t.Errorf("%s: point %d at %d: %d, %v", path, i, p.Offset, got.Offset, err)
			case !p.History && !errors.Is(err, couchfile.ErrNoHeader):
				t.Errorf("%s: point %d at %d is a compaction's: %d, %v", path, i, p.Offset, got.Offset, err)
			}
			if !p.History {
				compacted++
			}
		}
		return nil
	})
	if err != nil || compacted == 0 {
		t.Fatal(compacted, err)
	}
}
