package replay_test

import (
	"bytes"
	"testing"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

func grownView(t testing.TB, version, stage string) []byte {
	t.Helper()
	return testenv.GrownFile(t, version, stage, ".view")
}

// knownView is what a node remembers of an index at its newest header.
func knownView(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := replay.WriteKnownView(&out, testKey, atNewest(t, b)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openKnownView(t testing.TB, b []byte) *replay.KnownView {
	t.Helper()
	k, err := replay.OpenKnownView(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// encodeView is a whole stream; known may be nil.
func encodeView(f replay.File, known *replay.KnownView) ([]byte, *replay.ViewResult, error) {
	var body bytes.Buffer
	r, err := replay.EncodeView(&body, f, known)
	if err != nil {
		return nil, nil, err
	}
	return append(r.Prologue, body.Bytes()...), r, nil
}

func mustEncodeView(t testing.TB, f replay.File, known *replay.KnownView) ([]byte, *replay.ViewResult) {
	t.Helper()
	stream, r, err := encodeView(f, known)
	if err != nil {
		t.Fatal(err)
	}
	return stream, r
}

// decodeView makes an index of a stream and what an older one has, which may be nil.
func decodeView(stream []byte, older *replay.File) ([]byte, error) {
	out := &memory{}
	var rows *replay.OlderView
	if older != nil {
		o, err := replay.OpenOlderView(*older)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		rows = o
	}
	_, err := replay.DecodeView(bytes.NewReader(stream), rows, out)
	return out.b, err
}

// replayView stores an index that was compacted, with and without an older one, and makes it
// again.
func replayView(t testing.TB, was, is []byte) (stream []byte, r *replay.ViewResult) {
	t.Helper()
	known := knownView(t, was)
	stream, r = mustEncodeView(t, atNewest(t, is), openKnownView(t, known))
	alone, a := mustEncodeView(t, atNewest(t, is), nil)
	t.Logf("%d bytes of stream (%d packed), known %d of %d; %d bytes of %d replayed (%d packed); %d taken, %d new, %d told, %d corrections; all new: %d (%d)",
		len(stream), packed(t, stream), len(known), len(was), r.Info.Size, len(is), packed(t, is[:r.Info.Size]), r.Info.Taken, r.New, r.Told,
		r.Corrections, len(alone), packed(t, alone))
	older := atNewest(t, was)
	for what, s := range map[string][]byte{"older": stream, "alone": alone} {
		var from *replay.File
		if what == "older" {
			from = &older
		}
		if got, err := decodeView(s, from); err != nil || !bytes.Equal(got, is[:r.Info.Size]) {
			t.Fatalf("%s: other bytes: %v", what, err)
		}
	}
	if r.Info.Size != a.Info.Size || a.Info.Taken > 0 || r.Corrections > 0 {
		t.Errorf("%d bytes, %d without an older index, %d corrections", r.Info.Size, a.Info.Size, r.Corrections)
	}
	return stream, r
}

// TestGrownViews stores the indexes that three servers compacted, and makes them again.
func TestGrownViews(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			was, is := grownView(t, version, "2-grown"), grownView(t, version, "3-compacted")
			_, r := replayView(t, was, is)
			if r.Told > 0 || r.Info.Taken < 4000 || r.Info.Size != int64(len(is)) {
				t.Errorf("%d taken, %d told, %d bytes of %d", r.Info.Taken, r.Told, r.Info.Size, len(is))
			}
		})
	}
}

// TestPythonViews has the other reader make what three servers compacted.
func TestPythonViews(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			was, is := grownView(t, version, "2-grown"), grownView(t, version, "3-compacted")
			stream, r := mustEncodeView(t, atNewest(t, is), openKnownView(t, knownView(t, was)))
			mustPython(t, stream, cut(t, was), is[:r.Info.Size])
			alone, r := mustEncodeView(t, atNewest(t, is), nil)
			mustPython(t, alone, nil, is[:r.Info.Size])
		})
	}
}
