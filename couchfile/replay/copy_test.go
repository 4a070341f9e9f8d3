package replay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/couchgen"
)

// attached returns a database with attachments of up to 40 KB, and a large one, as it was
// after each of some commits. All but the first of these update documents.
func attached(t testing.TB, docs, commits int) (stages [][]byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "a.couch"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := rand.New(rand.NewPCG(uint64(docs), 2))
	opts := couchgen.Options{AttachmentChunk: 10_000}
	g, err := couchgen.Create(f, opts)
	for i := 0; i < docs && err == nil; i++ {
		data := make([]byte, rnd.IntN(40_000))
		if i == docs/2 {
			data = make([]byte, 3<<20)
		}
		for j := range data {
			data[j] = byte(rnd.Uint32())
		}
		_, err = g.Put(couchgen.Doc{ID: fmt.Sprintf("%04d", (i*7919)%docs), Body: couchgen.Object{{Key: "n", Value: i}},
			Attachments: []couchgen.Attachment{{Name: "a", Type: "image/png", Data: data}}})
	}
	for i := 0; i < commits && err == nil; i++ {
		for j := i; j < docs && err == nil && i > 0; j += 17 {
			_, err = g.Put(couchgen.Doc{ID: fmt.Sprintf("%04d", j), Body: couchgen.Object{{Key: "again", Value: i}}, KeepAttachments: true})
		}
		if err == nil {
			err = g.Commit()
		}
		b, errRead := os.ReadFile(f.Name())
		if err = errors.Join(err, errRead); err == nil {
			stages = append(stages, b)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

func copyKnown(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := replay.WriteCopyKnown(&out, testKey, atNewest(t, b)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openCopyKnown(t testing.TB, b []byte) *replay.CopyKnown {
	t.Helper()
	k, err := replay.OpenCopyKnown(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mustCopy is a whole stream.
func mustCopy(t testing.TB, is []byte, known *replay.CopyKnown) ([]byte, *replay.CopyResult) {
	t.Helper()
	var body bytes.Buffer
	r, err := replay.EncodeCopy(&body, atNewest(t, is), known, known.Size())
	if err != nil {
		t.Fatal(err)
	}
	if r.StreamSize() != int64(len(r.Prologue)+body.Len()) || r.Copy.SHA256 != sha256.Sum256(is) {
		t.Error("the result tells another size or sum")
	}
	return append(bytes.Clone(r.Prologue), body.Bytes()...), r
}

func copyReader(stream, older []byte) (*replay.CopyReader, error) {
	c, err := replay.OpenCopy(bytes.NewReader(stream), int64(len(stream)))
	return &replay.CopyReader{Copy: c, Stream: bytes.NewReader(stream), Older: bytes.NewReader(older)}, err
}

// TestCopy makes a compacted file out of the older one, compacts it again, and reads from
// any place of what a copy of a copy makes.
func TestCopy(t *testing.T) {
	t.Parallel()
	stages := attached(t, 400, 3)
	was := stages[2]
	is := compacted(t, atNewest(t, was), couchwriter.CompactionOptions{}, 0)
	stream, r := mustCopy(t, is, openCopyKnown(t, copyKnown(t, was)))
	if len(stream) > len(is)/20 || r.Copied < int64(len(is))*9/10 {
		t.Errorf("a stream of %d bytes for a file of %d, of which %d are copied", len(stream), len(is), r.Copied)
	}
	in, err := copyReader(stream, was)
	if err != nil {
		t.Fatal(err)
	}
	sameReader(t, in, is)

	again := compacted(t, atNewest(t, is), couchwriter.CompactionOptions{BufferSize: 700}, 0)
	second, _ := mustCopy(t, again, openCopyKnown(t, copyKnown(t, is)))
	c, err := replay.OpenCopy(bytes.NewReader(second), int64(len(second)))
	if err != nil {
		t.Fatal(err)
	}
	sameReader(t, &replay.CopyReader{Copy: c, Stream: bytes.NewReader(second), Older: in}, again)

	var filled bytes.Buffer
	f := in.NewFiller(&filled)
	for at := int64(0); ; at += 5000 { // Runs, as a restore reads them
		n := int64(0)
		if err := in.Runs(at, 5000, func(run replay.Run) error {
			n += run.N
			if !run.Older {
				_, err := f.Write(stream[run.At : run.At+run.N])
				return err
			}
			lo, hi := replay.BytesOf(run.At, run.N)
			_, err := f.Write(replay.Strip(bytes.Clone(was[lo:hi]), lo))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if err := f.Close(); err != nil || !bytes.Equal(filled.Bytes(), is) {
		t.Errorf("runs make another file: %v", err)
	}
}

// sameReader reads a file from many places.
func sameReader(t *testing.T, r io.ReaderAt, want []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		off, n := rnd.IntN(len(want)+10), 1+rnd.IntN(20_000)
		if i == 0 {
			off, n = 0, len(want)
		}
		got := make([]byte, n)
		k, err := r.ReadAt(got, int64(off))
		end := min(len(want), off+n)
		if off > end {
			end = off
		}
		if k != max(0, min(end, len(want))-off) || (k < n) != errors.Is(err, io.EOF) || k == n && err != nil || k > 0 && !bytes.Equal(got[:k], want[off:end]) {
			t.Fatalf("%d bytes at %d: %d, %v", n, off, k, err)
		}
	}
}

// TestCopyBoundaries cuts files behind any byte around the ends of blocks: their payload
// and markers are put together again.
func TestCopyBoundaries(t *testing.T) {
	t.Parallel()
	was := attached(t, 60, 1)[0]
	known := openCopyKnown(t, copyKnown(t, was))
	for _, n := range []int{len(was) / 4096 * 4096, len(was)/4096*4096 + 1, len(was)/4096*4096 - 1, len(was) - 5, len(was)} {
		var body bytes.Buffer
		is := bytes.Clone(was[:n])
		is[8192] = 7 // a marker that CouchDB doesn't write
		r, err := replay.EncodeCopy(&body, replay.File{R: bytes.NewReader(is), Size: int64(n)}, known, known.Size())
		if err != nil {
			t.Fatal(err)
		}
		in, err := copyReader(append(r.Prologue, body.Bytes()...), was)
		if err != nil {
			t.Fatal(err)
		}
		sameReader(t, in, is)
	}
}

// TestCopyKnownGrows holds that what is remembered step by step is what is remembered at
// once.
func TestCopyKnownGrows(t *testing.T) {
	t.Parallel()
	stages := attached(t, 100, 3)
	known := copyKnown(t, stages[0])
	for _, b := range stages[1:] {
		var out bytes.Buffer
		if err := openCopyKnown(t, known).Extend(&out, atNewest(t, b)); err != nil {
			t.Fatal(err)
		}
		if known = out.Bytes(); !bytes.Equal(known, copyKnown(t, b)) {
			t.Error("something else is remembered")
		}
		if len(known) > len(b)/50 {
			t.Errorf("%d bytes are remembered of %d", len(known), len(b))
		}
	}
	err := openCopyKnown(t, known).Extend(io.Discard, atNewest(t, stages[0]))
	if !errors.Is(err, replay.ErrOtherFile) {
		t.Errorf("a shorter file: %v", err)
	}
}

// TestCopyDamage flips bytes of a stream and of what is remembered, and offers other older
// files.
func TestCopyDamage(t *testing.T) {
	t.Parallel()
	was := attached(t, 60, 2)[1]
	is := compacted(t, atNewest(t, was), couchwriter.CompactionOptions{}, 0)
	known := copyKnown(t, was)
	stream, r := mustCopy(t, is, openCopyKnown(t, known))
	for at := range r.Prologue {
		bad := bytes.Clone(stream)
		bad[at] ^= 4
		if _, err := replay.OpenCopy(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Fatalf("byte %d of the prologue flipped: %v", at, err)
		}
	}
	if _, err := replay.OpenCopy(bytes.NewReader(stream), int64(len(stream)-1)); !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("a stream that is cut: %v", err)
	}
	for at := 0; at < len(known); at += 7 {
		bad := bytes.Clone(known)
		bad[at] ^= 4
		if _, err := replay.OpenCopyKnown(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Fatalf("byte %d of what is known flipped: %v", at, err)
		}
	}
	in, err := copyReader(stream, was[:len(was)/2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(in, 0, in.Size)); !errors.Is(err, couchfile.ErrCorrupt) {
		t.Errorf("half of the older file: %v", err)
	}
	var other bytes.Buffer
	if err := replay.WriteCopyKnown(&other, [32]byte{9}, atNewest(t, attached(t, 61, 1)[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.EncodeCopy(io.Discard, atNewest(t, is), openCopyKnown(t, other.Bytes()), 1<<40); !errors.Is(err, replay.ErrMostlyNew) {
		t.Errorf("another database: %v", err)
	}
}

// TestPythonCopies holds that docs/replay.py makes the same file, and refuses what is
// damaged.
func TestPythonCopies(t *testing.T) {
	t.Parallel()
	was := attached(t, 60, 2)[1]
	is := compacted(t, atNewest(t, was), couchwriter.CompactionOptions{}, 0)
	stream, r := mustCopy(t, is, openCopyKnown(t, copyKnown(t, was)))
	if made, refused := python(t, stream, was); refused != "" || !bytes.Equal(made, is) {
		t.Errorf("replay.py makes %d bytes of %d: %s", len(made), len(is), refused)
	}
	for _, at := range []int{3, 30, len(r.Prologue) - 40, len(r.Prologue) + 10} {
		bad := bytes.Clone(stream)
		bad[at] ^= 1
		if _, refused := python(t, bad, was); refused == "" {
			t.Errorf("replay.py makes a file of a stream whose byte %d is flipped", at)
		}
	}
	if _, refused := python(t, stream, was[:len(was)/2]); refused == "" {
		t.Error("replay.py makes a file out of half an older one")
	}
}

// FuzzCopy gives OpenCopy any fields under a right checksum, and reads what they say.
func FuzzCopy(f *testing.F) {
	was := attached(f, 30, 2)
	stream, r := mustCopy(f, was[1], openCopyKnown(f, copyKnown(f, was[0])))
	f.Add(fields(r.Prologue))
	f.Fuzz(func(t *testing.T, fields []byte) {
		b := append(sealed(r.Prologue, fields), stream[len(r.Prologue):]...)
		in, err := copyReader(b, was[0])
		if err != nil || in.Size > 64<<20 {
			return
		}
		n, err := io.Copy(io.Discard, io.NewSectionReader(in, 0, in.Size))
		if err == nil && n != in.Size || n > in.Size {
			t.Fatalf("%d bytes instead of %d: %v", n, in.Size, err)
		}
	})
}

// FuzzCopyKnown gives OpenCopyKnown any bytes under a right checksum, and what it takes to
// EncodeCopy: what comes of it is never a stream that needs what isn't so.
func FuzzCopyKnown(f *testing.F) {
	was := attached(f, 30, 1)[0]
	known := copyKnown(f, was)
	f.Add(known[:len(known)-sha256.Size])
	f.Fuzz(func(_ *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		b = append(bytes.Clone(b), sum[:]...)
		if k, err := replay.OpenCopyKnown(bytes.NewReader(b), int64(len(b))); err == nil {
			_, _ = replay.EncodeCopy(io.Discard, replay.File{R: bytes.NewReader(was), Size: 100_000}, k, k.Size())
		}
	})
}
