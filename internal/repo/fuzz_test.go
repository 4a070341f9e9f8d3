package repo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/manifest"
)

func plainRepo(t testing.TB) *Repo {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	return &Repo{config: Config{Encryption: "none"}, encoder: e, decoder: d, contents: newSpares(SegmentSize+decoderSpare, 1)}
}

// A stored segment of any bytes gives its content or ErrCorrupt, whole and by
// ranges alike, and never more than it says.
func FuzzSegment(f *testing.F) {
	r := plainRepo(f)
	for _, n := range []int{1, frameSize, frameSize + 1, 3 * frameSize} {
		var b bytes.Buffer
		if _, err := r.compress(&b, bytes.Repeat([]byte("slipcover "), n/10+1)[:n]); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), int64(n))
	}
	f.Add([]byte{}, int64(1))
	f.Fuzz(func(t *testing.T, b []byte, plain int64) {
		whole, err := r.unseal(t.Context(), "node1", bytes.Clone(b), plain)
		if err == nil && int64(len(whole)) != plain {
			t.Fatalf("%d bytes instead of %d", len(whole), plain)
		}
		trailer, _, terr := readTrailer(bytes.NewReader(b), int64(len(b)), plain)
		if terr != nil {
			return
		}
		sum := sha256.Sum256(trailer) // as if the manifest named these bytes
		frames, terr := readFrames(bytes.NewReader(b), int64(len(b)), plain, hex.EncodeToString(sum[:]))
		if terr != nil {
			return
		}
		s := &seekSegment{repo: r, src: bytes.NewReader(b), frames: frames}
		for _, off := range []int64{0, plain / 2, plain - 1, plain} {
			i, ferr := s.find(off)
			if ferr != nil || err != nil {
				continue
			}
			part, ferr := s.read(i)
			if ferr != nil {
				continue
			}
			from := frames[i].from
			if !bytes.Equal(part, whole[from:from+int64(len(part))]) {
				t.Fatalf("the frame at %d differs from the whole", from)
			}
		}
	})
}

// A record of any text is refused or means what was signed.
func FuzzRecord(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	id, err := manifest.NewID()
	if err != nil {
		f.Fatal(err)
	}
	text, err := signed(&manifest.Record{Format: 1, Summary: manifest.Summary{ID: id, Instance: "a"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := (&Repo{}).verifyRecord(b)
		if err != nil {
			return
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		writer, err := base64.StdEncoding.DecodeString(rec.Writer)
		var again manifest.Record
		if err != nil || len(writer) != ed25519.PublicKeySize || json.Unmarshal(line, &again) != nil || again.ID != rec.ID {
			t.Errorf("accepted %q", b)
		}
	})
}
