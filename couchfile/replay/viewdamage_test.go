package replay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
)

// viewPair is an index of 3.5.0 before and after its compaction, and what is stored of it.
type viewPair struct {
	was, is []byte
	known   []byte
	stream  []byte
	r       *replay.ViewResult
}

func newViewPair(t testing.TB) viewPair {
	t.Helper()
	p := viewPair{was: grownView(t, "3.5.0", "2-grown"), is: grownView(t, "3.5.0", "3-compacted")}
	p.known = knownView(t, p.was)
	p.stream, p.r = mustEncodeView(t, atNewest(t, p.is), openKnownView(t, p.known))
	return p
}

// TestViewDamage flips bytes of a stream, of what it rests on and of what is known, and cuts them
// off: all of it is noticed.
func TestViewDamage(t *testing.T) {
	t.Parallel()
	p := newViewPair(t)
	older := atNewest(t, p.was)
	rnd := rand.New(rand.NewPCG(1, 1))
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1 << rnd.IntN(8)
		return b
	}
	places := func(n, step int) (out []int) {
		for i := rnd.IntN(step); i < n; i += step {
			out = append(out, i)
		}
		return append(out, n-1)
	}
	for _, i := range append(places(len(p.stream), 3000), places(len(p.r.Prologue), 5)...) {
		if _, err := decodeView(flip(p.stream, i), &older); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Errorf("byte %d of the stream: %v", i, err)
		}
	}
	for _, n := range []int{0, 5, 20, len(p.r.Prologue), len(p.stream) - 1} {
		if _, err := decodeView(p.stream[:n], &older); !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("%d bytes of %d: %v", n, len(p.stream), err)
		}
	}
	if _, err := decodeView(append(bytes.Clone(p.stream[:len(p.r.Prologue)]), 0), &older); !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("another body: %v", err)
	}
	if _, err := decodeView(p.stream, nil); err == nil {
		t.Error("no older index is needed")
	}
	for _, i := range places(len(p.known), 200) {
		b := flip(p.known, i)
		if _, err := replay.OpenKnownView(bytes.NewReader(b), int64(len(b))); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Errorf("byte %d of what is known: %v", i, err)
		}
	}
}

// TestViewOtherOlder gives another index than the one that the stream was written for.
func TestViewOtherOlder(t *testing.T) {
	t.Parallel()
	p := newViewPair(t)
	for name, b := range map[string][]byte{"compacted": p.is, "of 2.3": grownView(t, "2.3", "2-grown")} {
		older := atNewest(t, b)
		if got, err := decodeView(p.stream, &older); err == nil && !bytes.Equal(got, p.is[:p.r.Info.Size]) {
			t.Errorf("%s: makes %d other bytes", name, len(got))
		} else if err != nil && !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestViewUnpredicted changes bytes of an index that no compaction writes so: it is restored
// exactly, or said to be none that is replayed.
func TestViewUnpredicted(t *testing.T) {
	t.Parallel()
	p := newViewPair(t)
	older := atNewest(t, p.was)
	header := atNewest(t, p.is).Header
	corrected := 0
	for _, at := range []int64{header - 1, header - 1000, 0x1000, 5, 5000, 30000, header / 2, header - 3000} {
		is := bytes.Clone(p.is)
		is[at] ^= 0x41
		f := replay.File{R: bytes.NewReader(is), Size: int64(len(is)), Header: header}
		stream, r, err := encodeView(f, openKnownView(t, p.known))
		if errors.Is(err, replay.ErrNotReplayed) {
			continue
		}
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		corrected += r.Corrections
		if got, err := decodeView(stream, &older); err != nil || !bytes.Equal(got, is[:r.Info.Size]) {
			t.Errorf("byte %d: restored as other bytes: %v", at, err)
		}
	}
	if corrected == 0 {
		t.Error("nothing was corrected: there is padding in front of the header")
	}
}

// TestViewNotCompacted has files that no compaction made.
func TestViewNotCompacted(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{"grown": grownView(t, "3.5.0", "2-grown"), "database": grown(t, "3.5.0", "3-compacted")} {
		if _, _, err := encodeView(atNewest(t, b), nil); !errors.Is(err, replay.ErrNotReplayed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// withViewBody is a stream with another body, and its size and checksum put right.
func withViewBody(prologue, body []byte) []byte {
	f := fields(prologue)
	at := 0
	for range 6 {
		_, k := binary.Uvarint(f[at:])
		at += k
	}
	at += sha256.Size // of the file
	_, k := binary.Uvarint(f[at:])
	sum := sha256.Sum256(body)
	changed := append(binary.AppendUvarint(bytes.Clone(f[:at]), uint64(len(body))), sum[:]...)
	return append(sealed(prologue, append(changed, f[at+k+sha256.Size:]...)), body...)
}

// TestPythonViewDamage has the other reader refuse what is damaged, also under right sums.
func TestPythonViewDamage(t *testing.T) {
	t.Parallel()
	p := newViewPair(t)
	was := cut(t, p.was)
	body := p.stream[len(p.r.Prologue):]
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 4
		return b
	}
	for what, stream := range map[string][]byte{
		"prologue":     flip(p.stream, 60),
		"body":         flip(p.stream, len(p.stream)/2),
		"right sums":   withViewBody(p.r.Prologue, flip(body, len(body)/2)),
		"no end":       withViewBody(p.r.Prologue, body[:len(body)-1]),
		"more":         withViewBody(p.r.Prologue, append(bytes.Clone(body), 0)),
		"another tree": withViewBody(p.r.Prologue, append(bytes.Clone(body[:200]), 77)),
	} {
		if _, refused := python(t, stream, was); refused == "" {
			t.Errorf("%s: not refused", what)
		}
	}
	if _, refused := python(t, p.stream, nil); refused == "" {
		t.Error("no older index: not refused")
	}
}

// FuzzDecodeView gives DecodeView bodies of any bytes whose checksums are right: it ends with an
// error, or an index of the size that the stream says.
func FuzzDecodeView(f *testing.F) {
	p := newViewPair(f)
	older := atNewest(f, p.was)
	f.Add(p.stream[len(p.r.Prologue):])
	f.Add(p.stream[len(p.r.Prologue):][:2000])
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeView(withViewBody(p.r.Prologue, body), &older)
		if err == nil && int64(len(got)) != p.r.Info.Size || int64(len(got)) > p.r.Info.Size {
			t.Fatalf("%d bytes instead of %d: %v", len(got), p.r.Info.Size, err)
		}
	})
}

// FuzzEncodeView changes bytes somewhere in a compacted index: what comes of it is the index
// again, or ErrNotReplayed.
func FuzzEncodeView(f *testing.F) {
	p := newViewPair(f)
	older, whole := atNewest(f, p.was), atNewest(f, p.is)
	for _, at := range []uint32{0, 5000, 100000, uint32(len(p.is)) - 5000} {
		f.Add(at, []byte{1})
	}
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		bad := bytes.Clone(p.is)
		copy(bad[int64(at)%whole.Header:], with[:min(len(with), 8)])
		stream, r, err := encodeView(replay.File{R: bytes.NewReader(bad), Size: whole.Size, Header: whole.Header}, openKnownView(t, p.known))
		if errors.Is(err, replay.ErrNotReplayed) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeView(stream, &older); err != nil || !bytes.Equal(got, bad[:r.Info.Size]) {
			t.Fatalf("%d corrections, %d new: %v", r.Corrections, r.New, err)
		}
	})
}

// FuzzKnownView gives OpenKnownView any bytes under a right checksum, and what it takes to
// EncodeView.
func FuzzKnownView(f *testing.F) {
	p := newViewPair(f)
	f.Add(p.known[:len(p.known)-sha256.Size])
	f.Add(p.known[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		b = append(bytes.Clone(b), sum[:]...)
		k, err := replay.OpenKnownView(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		stream, r := mustEncodeView(t, atNewest(t, p.is), k)
		if r.Info.Taken == 0 {
			if got, err := decodeView(stream, nil); err != nil || !bytes.Equal(got, p.is) {
				t.Fatal(err)
			}
		}
	})
}

// FuzzViewPrologue gives ReadViewInfo any fields under a right checksum, and what it takes to
// DecodeView.
func FuzzViewPrologue(f *testing.F) {
	p := newViewPair(f)
	body := p.stream[len(p.r.Prologue):]
	f.Add(fields(p.r.Prologue))
	f.Fuzz(func(_ *testing.T, fields []byte) {
		head := sealed(p.r.Prologue, fields)
		if _, err := replay.ReadViewInfo(bytes.NewReader(head)); err == nil {
			_, _ = decodeView(append(head, body...), nil)
		}
	})
}
