package replay_test

import (
	"bytes"
	"testing"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestGrown stores what three servers compacted, and makes it again.
func TestGrown(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		for _, c := range compactions {
			t.Run(version+"/"+c[1], func(t *testing.T) {
				t.Parallel()
				was, is := grown(t, version, c[0]), grown(t, version, c[1])
				known := knownBytes(t, was)
				older := atNewest(t, was)
				stream, r := mustEncode(t, atNewest(t, is), openKnown(t, known))
				alone, _ := mustEncode(t, atNewest(t, is), nil)
				t.Logf("%d bytes of stream (%d packed), prologue %d, known %d; %d bytes of %d replayed (%d packed); %d passes, %d taken, %d new, %d corrections; all new: %d (%d)",
					len(stream), packed(t, stream), len(r.Prologue), len(known), r.Info.Size, len(is), packed(t, is[:r.Info.Size]), r.Info.Passes,
					r.Taken, r.New, r.Corrections, len(alone), packed(t, alone))
				for what, s := range map[string][]byte{"older": stream, "alone": alone} {
					var from *replay.File
					if what == "older" {
						from = &older
					}
					got, err := decode(s, from)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if !bytes.Equal(got, is[:r.Info.Size]) {
						t.Fatalf("%s: other bytes", what)
					}
				}
			})
		}
	}
}
