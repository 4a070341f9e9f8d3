package couchfile_test

import (
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// scan feeds b from off to a Scanner in pieces of at most piece bytes, 0 for
// pieces of random sizes.
func scan(b []byte, off int64, piece int) *couchfile.Scanner {
	s := couchfile.NewScanner(off)
	rnd := rand.New(rand.NewPCG(1, uint64(off)))
	for b = b[off:]; len(b) > 0; {
		n := piece
		if n == 0 {
			n = 1 + rnd.IntN(5000)
		}
		n = min(n, len(b))
		_, _ = s.Write(b[:n])
		b = b[n:]
	}
	return s
}

func TestScannerSoundFiles(t *testing.T) {
	for _, path := range fixtureFiles(t) {
		r, size := load(t, path)
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 0, 1 << 20} {
			s := scan(b, 0, piece)
			if len(s.Anomalies()) != 0 || !s.Synced() {
				t.Errorf("%s in pieces of %d: anomalies %v, synced %v", path, piece, s.Anomalies(), s.Synced())
			}
		}
		err = couchfile.EachHeader(r, size, func(h couchfile.RawHeader) error {
			s := scan(b, h.End, 0)
			if len(s.Anomalies()) != 0 || !s.Synced() {
				t.Errorf("%s from %d: anomalies %v, synced %v", path, h.End, s.Anomalies(), s.Synced())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestScannerDamage(t *testing.T) {
	for _, tc := range []struct {
		file   string
		offset int64
	}{
		{"bitflip-doc-body", 12255},
		{"last-header-checksum", 49152},
		{"last-header-body", 49152},
		{"block-zeroed", 4327}, // the header at 8192 is gone,
		{"zeros-appended", 49357},
	} {
		t.Run(tc.file, func(t *testing.T) {
			r, _ := load(t, filepath.Join(fixtures, "damaged", tc.file+".couch"))
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			for _, piece := range []int{1, 0, 1 << 20} {
				got := scan(b, 0, piece).Anomalies()
				if len(got) == 0 || got[0].Offset != tc.offset {
					t.Errorf("pieces of %d: got %v, want one at %d", piece, got, tc.offset)
				}
			}
		})
	}
}
