package replay_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestExtend remembers a file that has grown, from each tenth of its headers on: the same as if
// all of it were read.
func TestExtend(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			is := grown(t, version, "2-grown")
			want := knownBytes(t, is)
			if k := openKnown(t, want); len(want) > 100+10*int(k.Docs()) {
				t.Errorf("%d bytes for %d documents", len(want), k.Docs())
			}
			points, err := couchfile.Points(bytes.NewReader(is), int64(len(is)))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(points); i += 1 + len(points)/10 {
				f := atNewest(t, is)
				f.Header = points[i].Offset
				var was, out bytes.Buffer
				if err := replay.WriteKnown(&was, testKey, f); err != nil {
					t.Fatal(err)
				}
				if err := openKnown(t, was.Bytes()).Extend(&out, atNewest(t, is)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), want) {
					t.Errorf("from update_seq %d: extended to %d bytes, others than the %d of all that is read",
						points[i].UpdateSeq, out.Len(), len(want))
				}
			}
		})
	}
}

// TestExtendOtherFile continues with a file that isn't the one that is known.
func TestExtendOtherFile(t *testing.T) {
	t.Parallel()
	k := openKnown(t, knownBytes(t, grown(t, "3.5.0", "4-grown")))
	err := k.Extend(&bytes.Buffer{}, atNewest(t, grown(t, "3.5.0", "5-compacted-under-writes")))
	if !errors.Is(err, replay.ErrOtherFile) {
		t.Errorf("got %v", err)
	}
}

// TestKeyed has other hashes with another key.
func TestKeyed(t *testing.T) {
	t.Parallel()
	is := grown(t, "3.5.0", "3-compacted")
	var other bytes.Buffer
	if err := replay.WriteKnown(&other, [32]byte{9}, atNewest(t, is)); err != nil {
		t.Fatal(err)
	}
	one := knownBytes(t, is)
	same := 0
	for i := 45; i < other.Len()-32; i++ {
		if one[i] == other.Bytes()[i] {
			same++
		}
	}
	if same > other.Len()/6 { // a ninth are distances of sequences, and one in 256 by chance
		t.Errorf("%d of %d bytes are the same", same, other.Len())
	}
}
