package replay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestFlippedStream flips each byte of a stream that has everything in it.
func TestFlippedStream(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	older := atNewest(t, was)
	stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	each := max(1, len(stream)/testenv.Computed(len(stream)/4, 100))
	for i := range stream {
		if i > len(r.Prologue) && i%each != 0 {
			continue // what is behind the prologue costs a decoding each
		}
		bad := bytes.Clone(stream)
		bad[i] ^= 1 << (i % 8)
		if _, err := decode(bad, &older); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Fatalf("byte %d of %d flipped: %v", i, len(stream), err)
		}
	}
	for _, n := range []int{0, 5, len(r.Prologue), len(stream) - 1} {
		if _, err := decode(stream[:n], &older); !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("%d bytes of %d: %v", n, len(stream), err)
		}
	}
	later := bytes.Clone(stream)
	later[8]++
	if _, err := decode(later, &older); !errors.Is(err, replay.ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
}

// TestFlippedNewDocuments flips bytes of a stream with documents in it.
func TestFlippedNewDocuments(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "4-grown"), grown(t, "3.5.0", "5-compacted-under-writes")
	older := atNewest(t, was)
	stream, _ := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	rnd := rand.New(rand.NewPCG(1, 1))
	for range testenv.Computed(12, 3) {
		bad := bytes.Clone(stream)
		i := rnd.IntN(len(bad))
		bad[i] ^= 1 << (i % 8)
		if _, err := decode(bad, &older); !errors.Is(err, couchfile.ErrCorrupt) {
			t.Fatalf("byte %d of %d flipped: %v", i, len(stream), err)
		}
	}
}

// TestFlippedKnown flips each byte of what a node remembers.
func TestFlippedKnown(t *testing.T) {
	t.Parallel()
	known := knownBytes(t, grown(t, "3.5.0", "2-grown"))
	for i := range known {
		bad := bytes.Clone(known)
		bad[i] ^= 1 << (i % 8)
		if _, err := replay.OpenKnown(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Fatalf("byte %d of %d flipped: %v", i, len(known), err)
		}
	}
	for n := range 100 {
		if _, err := replay.OpenKnown(bytes.NewReader(known[:n]), int64(n)); !errors.Is(err, couchfile.ErrCorrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// TestOtherOlder decodes with an older file that isn't the one the stream was written for. A
// document of other bytes under the same sequence is what a hash that is the same by chance, or
// was made so, would lead to.
func TestOtherOlder(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	f := atNewest(t, was)
	stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	if r.New != 0 {
		t.Fatalf("%d documents are new", r.New)
	}
	// An earlier cut of the same file has another update_seq.
	points, err := couchfile.Points(bytes.NewReader(was), int64(len(was)))
	if err != nil {
		t.Fatal(err)
	}
	earlier := replay.File{R: f.R, Size: f.Size, Header: points[len(points)/2].Offset}
	if _, err := decode(stream, &earlier); !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("an earlier header: %v", err)
	}
	if _, err := decode(stream, nil); err == nil {
		t.Error("decoded without the older file")
	}
	out := &memory{}
	o, err := replay.OpenOlder(f)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	_, err = replay.Decode(bytes.NewReader(stream), &swappedBody{OlderFile: o}, out, nil)
	if !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("another body: %v", err)
	}
	if bytes.Equal(out.b, is) {
		t.Error("nothing differed")
	}
}

// swappedBody gives one document the body of another.
type swappedBody struct {
	*replay.OlderFile
	n     int
	first []byte
}

func (s *swappedBody) Next() (couchwriter.SourceDoc, error) {
	d, err := s.OlderFile.Next()
	if err != nil {
		return d, err
	}
	s.n++
	r, err := couchwriter.ParseRecord(d.Entry)
	if err != nil {
		return d, err
	}
	switch p, err := d.Chunks.Payload(r.Leaves[0].Offset); {
	case err != nil:
		return d, err
	case s.n == 7:
		s.first = bytes.Clone(p)
	case s.n == 8 && !bytes.Equal(p, s.first):
		d.Chunks = constant(s.first)
	}
	return d, nil
}

type constant []byte

func (c constant) Payload(int64) ([]byte, error) { return c, nil }

// TestForgedHash lets what is known lie about one document: it becomes a new one.
func TestForgedHash(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	known := knownBytes(t, was)
	at := len(known) - sha256.Size - 200
	known[at]++
	sum := sha256.Sum256(known[:len(known)-sha256.Size])
	copy(known[len(known)-sha256.Size:], sum[:])
	older := atNewest(t, was)
	stream, r, err := encode(atNewest(t, is), openKnown(t, known))
	if err != nil {
		t.Fatal(err)
	}
	if r.New == 0 {
		t.Error("a wrong hash was believed")
	}
	if got, err := decode(stream, &older); err != nil || !bytes.Equal(got, is) {
		t.Errorf("%v", err)
	}
}

// TestWrongPrediction changes the true file in places all over it: what can be read still comes
// back as it is, by corrections or as documents, or is not stored so.
func TestWrongPrediction(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	known, older := knownBytes(t, was), atNewest(t, was)
	cut := atNewest(t, is)
	rnd := rand.New(rand.NewPCG(2, 1))
	corrected, refused := 0, 0
	for i := range testenv.Computed(60, 12) {
		bad := bytes.Clone(is)
		at := rnd.IntN(int(cut.Header))
		for range 1 + i%3 {
			bad[at] ^= byte(1 + rnd.IntN(255))
			at = (at + rnd.IntN(20)) % int(cut.Header)
		}
		f := replay.File{R: bytes.NewReader(bad), Size: cut.Size, Header: cut.Header}
		stream, r, err := encode(f, openKnown(t, known))
		if err != nil {
			if !errors.Is(err, replay.ErrNotReplayed) {
				t.Fatalf("around byte %d: %v", at, err)
			}
			refused++
			continue
		}
		corrected += min(1, r.Corrections)
		got, err := decode(stream, &older)
		if err != nil || !bytes.Equal(got, bad[:r.Info.Size]) {
			t.Fatalf("around byte %d: %d corrections, %d new: %v", at, r.Corrections, r.New, err)
		}
	}
	t.Logf("%d corrected, %d refused", corrected, refused)
	if corrected == 0 {
		t.Error("nothing was corrected")
	}
}

// TestWrongEverywhere changes one byte in all kinds of places: of chunks the length and the first,
// middle and last byte, the markers of blocks, padding, headers. Each file comes back as it is or
// is not stored so. It takes some of the places; more with SLIPCOVER_ROUNDS.
func TestWrongEverywhere(t *testing.T) {
	t.Parallel()
	for _, c := range compactions {
		t.Run(c[1], func(t *testing.T) {
			t.Parallel()
			was, is := grown(t, "3.5.0", c[0]), grown(t, "3.5.0", c[1])
			known, older, cut := knownBytes(t, was), atNewest(t, was), atNewest(t, is)
			places := placesOf(t, is)
			step := max(1, len(places)/testenv.Computed(40, 10))
			stored := 0
			for i := 0; i < len(places); i += step {
				bad := bytes.Clone(is)
				bad[places[i]] ^= 1 << (i % 8)
				f := replay.File{R: bytes.NewReader(bad), Size: cut.Size, Header: cut.Header}
				stream, r, err := encode(f, openKnown(t, known))
				if errors.Is(err, replay.ErrNotReplayed) {
					continue
				}
				if err != nil {
					t.Fatalf("byte %d: %v", places[i], err)
				}
				got, err := decode(stream, &older)
				if err != nil || !bytes.Equal(got, bad[:r.Info.Size]) {
					t.Fatalf("byte %d: %d corrections, %d new: %v", places[i], r.Corrections, r.New, err)
				}
				stored++
			}
			t.Logf("every %dth of %d places, %d files were stored as streams", step, len(places), stored)
			if stored == 0 {
				t.Error("no file was stored as a stream")
			}
		})
	}
}

// placesOf are bytes of a file in front of its newest header.
func placesOf(t *testing.T, file []byte) (at []int64) {
	t.Helper()
	end := atNewest(t, file).Header
	last := int64(0)
	for c, err := range couchfile.Chunks(bytes.NewReader(file), 0, end) {
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{last, c.Offset, c.Offset + 3, c.Offset + 9, (c.Offset + c.End) / 2, c.End - 1} {
			if off < end {
				at = append(at, off)
			}
		}
		for off := c.Offset + couchfile.BlockSize - c.Offset%couchfile.BlockSize; off < min(c.End, end); off += couchfile.BlockSize {
			at = append(at, off) // of a marker
		}
		last = c.End // of padding, or the next chunk
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// TestRottenAttachment changes a byte of an attachment in the compacted file. Nothing there has a
// checksum but the MD5 in the document: it is not taken from the older file, which has another.
func TestRottenAttachment(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	bad := bytes.Clone(is)
	bad[attachmentIn(t, bad)] ^= 1
	stream, r := mustEncode(t, atNewest(t, bad), openKnown(t, knownBytes(t, was)))
	older := atNewest(t, was)
	if got, err := decode(stream, &older); err != nil || !bytes.Equal(got, bad) || r.New != 1 {
		t.Errorf("%d documents are new: %v", r.New, err)
	}
}

// attachmentIn is where a byte of an attachment lies in a file.
func attachmentIn(t *testing.T, file []byte) int {
	t.Helper()
	f := atNewest(t, file)
	db, err := couchfile.OpenOffset(f.R, f.Size, f.Header)
	if err != nil {
		t.Fatal(err)
	}
	for info, err := range db.Changes(0, false) {
		if err != nil {
			t.Fatal(err)
		}
		atts, err := db.Attachments(info.ID, info.Winner())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range atts {
			b, err := io.ReadAll(db.OpenStored(a))
			if err != nil {
				t.Fatal(err)
			}
			if len(b) < 1000 {
				continue
			}
			if at := bytes.Index(file, b[500:520]); at > 0 {
				return at
			}
		}
	}
	t.Fatal("no attachment")
	return 0
}

// TestNoCompaction gives files that no compaction made, and one that was cut before its end.
func TestNoCompaction(t *testing.T) {
	t.Parallel()
	if _, _, err := encode(atNewest(t, grown(t, "3.5.0", "2-grown")), nil); !errors.Is(err, replay.ErrNotReplayed) {
		t.Errorf("got %v", err)
	}
	is := grown(t, "3.5.0", "5-compacted-under-writes")
	err := couchfile.EachHeader(bytes.NewReader(is), int64(len(is)), func(h couchfile.RawHeader) error {
		if h.Kind == couchfile.HeaderCompaction {
			f := replay.File{R: bytes.NewReader(is[:h.End]), Size: h.End, Header: h.Offset}
			if _, _, err := encode(f, nil); !errors.Is(err, replay.ErrNotReplayed) {
				t.Errorf("cut at %d: %v", h.End, err)
			}
			return io.EOF
		}
		return nil
	})
	if !errors.Is(err, io.EOF) {
		t.Errorf("no header of a compaction: %v", err)
	}
}
