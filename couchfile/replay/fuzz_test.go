package replay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
)

// fields are those of a prologue, between its length and its checksum.
func fields(prologue []byte) []byte {
	n, k := binary.Uvarint(prologue[9:])
	return prologue[9+k : 9+k+int(n)]
}

// sealed is a prologue with other fields.
func sealed(prologue, fields []byte) []byte {
	p := binary.AppendUvarint(bytes.Clone(prologue[:9]), uint64(len(fields)))
	p = append(p, fields...)
	sum := sha256.Sum256(p)
	return append(p, sum[:]...)
}

// withBody is a stream with another body, and its size and checksum put right.
func withBody(prologue, body []byte) []byte {
	f := fields(prologue)
	at := 0
	for range 7 {
		_, k := binary.Uvarint(f[at:])
		at += k
	}
	at += sha256.Size // of the file
	_, k := binary.Uvarint(f[at:])
	sum := sha256.Sum256(body)
	changed := append(binary.AppendUvarint(bytes.Clone(f[:at]), uint64(len(body))), sum[:]...)
	return append(sealed(prologue, append(changed, f[at+k+sha256.Size:]...)), body...)
}

// FuzzDecode gives Decode bodies of any bytes whose checksums are right: it ends with an error,
// or a file of the size that the stream says.
func FuzzDecode(f *testing.F) {
	was := grown(f, "3.5.0", "2-grown")
	older := atNewest(f, was)
	var prologue []byte
	var size int64
	for _, c := range compactions[:1] {
		is := grown(f, "3.5.0", c[1])
		stream, r := mustEncode(f, atNewest(f, is), openKnown(f, knownBytes(f, was)))
		prologue, size = r.Prologue, r.Info.Size
		f.Add(stream[len(r.Prologue):])
		alone, a := mustEncode(f, atNewest(f, is), nil)
		f.Add(alone[len(a.Prologue):][:4096])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decode(withBody(prologue, body), &older)
		if err == nil && int64(len(got)) != size || int64(len(got)) > size {
			t.Fatalf("%d bytes instead of %d: %v", len(got), size, err)
		}
	})
}

// FuzzMerge gives Merge bodies of any bytes whose checksums are right: it ends with an error, or a
// file that ends with a header.
func FuzzMerge(f *testing.F) {
	was, is := grown(f, "3.5.0", "2-grown"), grown(f, "3.5.0", "3-compacted")
	older := atNewest(f, was)
	stream, r := mustEncode(f, atNewest(f, is), openKnown(f, knownBytes(f, was)))
	f.Add(stream[len(r.Prologue):])
	f.Fuzz(func(t *testing.T, body []byte) {
		out := &memory{b: bytes.Clone(was[:older.Size])}
		got, err := replay.Merge(bytes.NewReader(withBody(r.Prologue, body)), older, out)
		mergeEnds(t, got, err, out, older.Size, 2*(older.Size+r.Info.Size))
	})
}

// FuzzMergeTail is FuzzMerge for tails.
func FuzzMergeTail(f *testing.F) {
	edits := makeEdits(f, 3)
	was := edits.out.b[:edits.from]
	older := atNewest(f, was)
	stream, r := mustEncodeTail(f, atNewest(f, edits.out.b), edits.from)
	f.Add(stream[len(r.Prologue):])
	f.Fuzz(func(t *testing.T, body []byte) {
		out := &memory{b: bytes.Clone(was)}
		got, err := replay.MergeTail(bytes.NewReader(withTailBody(r.Info, body)), older, out)
		mergeEnds(t, got, err, out, older.Size, 2*r.Info.Size)
	})
}

func mergeEnds(t *testing.T, f replay.File, err error, out *memory, from, most int64) {
	t.Helper()
	if n := int64(len(out.b)) - from; n > most+1<<20 {
		t.Fatalf("%d bytes were written, want %d at most", n, most+1<<20)
	}
	if err != nil {
		if !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, couchfile.ErrNotDatabase) && !errors.Is(err, replay.ErrNotMerged) {
			t.Fatalf("neither damage nor what isn't merged: %v", err)
		}
		return
	}
	if _, err := couchfile.ReadHeader(f.R, f.Size, f.Header); err != nil {
		t.Fatal(err)
	}
}

// FuzzPrologue gives ReadInfo any fields under a right checksum, and what it takes to Decode.
func FuzzPrologue(f *testing.F) {
	stream, r := mustEncode(f, atNewest(f, grown(f, "3.5.0", "3-compacted")), nil)
	body := stream[len(r.Prologue):][:2000]
	f.Add(fields(r.Prologue))
	f.Fuzz(func(_ *testing.T, fields []byte) {
		p := sealed(r.Prologue, fields)
		if _, err := replay.ReadInfo(bytes.NewReader(p)); err == nil {
			_, _ = decode(append(p, body...), nil)
		}
	})
}

// FuzzKnown gives OpenKnown any bytes under a right checksum, and what it takes to Encode.
func FuzzKnown(f *testing.F) {
	is := grown(f, "3.5.0", "3-compacted")
	known := knownBytes(f, grown(f, "3.5.0", "2-grown"))
	f.Add(known[:len(known)-sha256.Size])
	f.Add(known[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		b = append(bytes.Clone(b), sum[:]...)
		k, err := replay.OpenKnown(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		stream, r := mustEncode(t, atNewest(t, is), k)
		if r.Taken == 0 {
			if got, err := decode(stream, nil); err != nil || !bytes.Equal(got, is) {
				t.Fatal(err)
			}
		}
	})
}

// FuzzEncode changes eight bytes somewhere in a compacted file: what comes of it is the file again,
// or ErrNotReplayed.
func FuzzEncode(f *testing.F) {
	was, is := grown(f, "3.5.0", "2-grown"), grown(f, "3.5.0", "3-compacted")
	known, older, cut := knownBytes(f, was), atNewest(f, was), atNewest(f, is)
	for _, at := range []uint32{0, 5000, 300000, uint32(len(is)) - 5000} {
		f.Add(at, []byte{1})
	}
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		bad := bytes.Clone(is)
		copy(bad[int64(at)%cut.Header:], with[:min(len(with), 8)])
		stream, r, err := encode(replay.File{R: bytes.NewReader(bad), Size: cut.Size, Header: cut.Header}, openKnown(t, known))
		if errors.Is(err, replay.ErrNotReplayed) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(stream, &older); err != nil || !bytes.Equal(got, bad[:r.Info.Size]) {
			t.Fatalf("%d corrections, %d new: %v", r.Corrections, r.New, err)
		}
	})
}
