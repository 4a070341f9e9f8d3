package replay_test

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// compactions are the stages before and after a compaction.
var compactions = [][2]string{{"2-grown", "3-compacted"}, {"4-grown", "5-compacted-under-writes"}}

func grown(t testing.TB, version, stage string) []byte {
	t.Helper()
	return testenv.GrownFile(t, version, stage, ".couch")
}

// atNewest is a file cut behind its newest header.
func atNewest(t testing.TB, b []byte) replay.File {
	t.Helper()
	h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return replay.File{R: bytes.NewReader(b), Size: int64(len(b)), Header: h.Offset}
}

var testKey = [32]byte{1, 2, 3}

// knownBytes is what a node remembers of a file at its newest header.
func knownBytes(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := replay.WriteKnown(&out, testKey, atNewest(t, b)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openKnown(t testing.TB, b []byte) *replay.Known {
	t.Helper()
	k, err := replay.OpenKnown(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// encode is a whole stream; known may be nil.
func encode(f replay.File, known *replay.Known) ([]byte, *replay.Result, error) {
	var body bytes.Buffer
	r, err := replay.Encode(&body, f, known, nil)
	if err != nil {
		return nil, nil, err
	}
	return append(r.Prologue, body.Bytes()...), r, nil
}

func mustEncode(t testing.TB, f replay.File, known *replay.Known) ([]byte, *replay.Result) {
	t.Helper()
	stream, r, err := encode(f, known)
	if err != nil {
		t.Fatal(err)
	}
	return stream, r
}

// decode makes a file of a stream and what an older file has, which may be nil.
func decode(stream []byte, older *replay.File) ([]byte, error) {
	out := &memory{}
	var docs replay.Older
	if older != nil {
		o, err := replay.OpenOlder(*older)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		docs = o
	}
	_, err := replay.Decode(bytes.NewReader(stream), docs, out, nil)
	return out.b, err
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

// packed is the length of b under zstd, as the repository stores it.
func packed(t testing.TB, b []byte) int {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	return len(w.EncodeAll(b, nil))
}
