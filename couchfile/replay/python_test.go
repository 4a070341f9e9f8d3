package replay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// python runs docs/replay.py, the reader that was written from docs/replay-format.md alone. older
// may be nil. What it refuses comes as the sentence that it says.
func python(t testing.TB, stream, older []byte) (made []byte, refused string) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs another program many times")
	}
	program := "/usr/bin/python3" // rather than what chooses one of several first
	if _, err := os.Stat(program); err != nil {
		program = testenv.Tool(t, "python3")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	args := []string{"-I", filepath.Join("..", "..", "docs", "replay.py"), at("stream"), "-", at("out")}
	err := os.WriteFile(at("stream"), stream, 0o600)
	if older != nil && err == nil {
		args[3] = at("older")
		err = os.WriteFile(at("older"), older, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	made, errRead := os.ReadFile(at("out"))
	if err == nil {
		if errRead != nil || len(said) > 0 {
			t.Fatalf("replay.py says %q; %v", said, errRead)
		}
		return made, ""
	}
	var exit *exec.ExitError
	line := string(said)
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(line, "replay.py: ") || strings.Count(line, "\n") != 1 {
		t.Fatalf("replay.py: %v: %s", err, said)
	}
	if !errors.Is(errRead, os.ErrNotExist) {
		t.Errorf("replay.py refuses and leaves %d bytes", len(made))
	}
	return nil, line
}

// mustPython makes a file, which is to be want.
func mustPython(t testing.TB, stream, older, want []byte) {
	t.Helper()
	switch got, refused := python(t, stream, older); {
	case refused != "":
		t.Error(refused)
	case !bytes.Equal(got, want):
		t.Errorf("replay.py makes %d bytes, others than the %d there should be", len(got), len(want))
	}
}

// cut is a file cut behind its newest header.
func cut(t testing.TB, b []byte) []byte {
	t.Helper()
	h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return b[:h.End]
}

// TestPython has the other reader make what three servers compacted.
func TestPython(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		for _, c := range compactions {
			t.Run(version+"/"+c[1], func(t *testing.T) {
				t.Parallel()
				was, is := grown(t, version, c[0]), grown(t, version, c[1])
				stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
				mustPython(t, stream, cut(t, was), is[:r.Info.Size])
				if c == compactions[0] || testenv.Soak() {
					alone, r := mustEncode(t, atNewest(t, is), nil)
					mustPython(t, alone, nil, is[:r.Info.Size])
				}
			})
		}
	}
}

// TestPythonFixtures has the other reader make all other compacted files that there are, of which
// no older ones are at hand.
func TestPythonFixtures(t *testing.T) {
	t.Parallel()
	made := map[string]int{}
	testenv.EachFixture(t, func(version, name string, b []byte) {
		if filepath.Ext(name) != ".couch" || len(b) == 0 {
			return
		}
		h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		stream, r, err := encode(replay.File{R: bytes.NewReader(b), Size: int64(len(b)), Header: h.Offset}, nil)
		if errors.Is(err, replay.ErrNotReplayed) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mustPython(t, stream, nil, b[:r.Info.Size])
		made[version]++
	})
	t.Logf("compacted files: %v", made)
	for _, version := range []string{"2.3", "3.3", "3.5.0", "3.5.2", "main"} {
		if made[version] < 2 {
			t.Errorf("%d compacted files of %s", made[version], version)
		}
	}
}

// prologue is what stands before the body, as docs/replay-format.md has it.
type prologue struct {
	release, compression, checksum, chunkSize, olderSeq, olderDocs, size uint64
	sum                                                                  [32]byte
	rest                                                                 []byte // from passes on
	body                                                                 []byte
}

func parsePrologue(stream []byte) (p prologue) {
	n, k := binary.Uvarint(stream[9:])
	fields := stream[9+k:][:n]
	p.body = stream[9+k+int(n)+sha256.Size:]
	for _, to := range p.numbers() {
		*to, k = binary.Uvarint(fields)
		fields = fields[k:]
	}
	fields = fields[copy(p.sum[:], fields):]
	_, k = binary.Uvarint(fields)
	p.rest = fields[k+sha256.Size:]
	return p
}

func (p *prologue) numbers() []*uint64 {
	return []*uint64{&p.release, &p.compression, &p.checksum, &p.chunkSize, &p.olderSeq, &p.olderDocs, &p.size}
}

// stream has the right sums of what p says.
func (p *prologue) stream() []byte {
	var f []byte
	for _, n := range p.numbers() {
		f = binary.AppendUvarint(f, *n)
	}
	f = append(f, p.sum[:]...)
	f = binary.AppendUvarint(f, uint64(len(p.body)))
	sum := sha256.Sum256(p.body)
	f = append(append(f, sum[:]...), p.rest...)
	s := append(binary.AppendUvarint([]byte("CouchRPL\x01"), uint64(len(f))), f...)
	sum = sha256.Sum256(s)
	return append(append(s, sum[:]...), p.body...)
}

// fit lets p be of the file that is made of it.
func (p *prologue) fit(older *replay.File) []byte {
	p.size = 1 << 40
	made, _ := decode(p.stream(), older)
	p.size, p.sum = uint64(len(made)), sha256.Sum256(made)
	return made
}

// TestPythonSettings has both readers make files that no fixture is like: of other releases and
// settings, and with corrections.
func TestPythonSettings(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "4-grown"), grown(t, "3.5.0", "5-compacted-under-writes")
	older := atNewest(t, was)
	stream, _ := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	different := map[[32]byte]bool{}
	for release := range uint64(3) {
		for i, n := range []prologue{
			{compression: 1, checksum: 1, chunkSize: 5000},
			{compression: 0, checksum: 2, chunkSize: 400},
		} {
			if i == 1 && release != 1 && !testenv.Soak() {
				continue // the fixtures are much the same
			}
			p := parsePrologue(stream)
			p.release, p.compression, p.checksum, p.chunkSize = release, n.compression, n.checksum, n.chunkSize
			t.Run(fmt.Sprintf("%d-%d-%d-%d", release, n.compression, n.checksum, n.chunkSize), func(t *testing.T) {
				want := p.fit(&older)
				p.rest = append(bytes.Clone(p.rest[:len(p.rest)-1]), 2, 100, 3, 'a', 'b', 'c', 0, 1, 'd') // two corrections
				copy(want[100:], "abcd")
				p.sum = sha256.Sum256(want)
				if got, err := decode(p.stream(), &older); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				different[p.sum] = true
				mustPython(t, p.stream(), cut(t, was), want)
			})
		}
	}
	if want := map[bool]int{false: 4, true: 6}[testenv.Soak()]; len(different) != want {
		t.Errorf("%d different files", len(different))
	}
}

// TestPythonCut has the other reader make a file of many small batches whose histories the
// compaction cut, of a database with branches that are found in another order then.
func TestPythonCut(t *testing.T) {
	t.Parallel()
	was := grown(t, "3.5.0", "2-grown")
	is := compacted(t, atNewest(t, was), couchwriter.CompactionOptions{BufferSize: 700, CheckpointAfter: 10_000}, 1)
	stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	if r.Taken == 0 || r.New == 0 || r.Corrections > 0 {
		t.Errorf("%d documents taken, %d new, %d corrections", r.Taken, r.New, r.Corrections)
	}
	mustPython(t, stream, cut(t, was), is)
}

// TestPythonDamage has the other reader refuse streams and older files with a byte flipped, and
// those that are cut off. In half of the bodies the sums are right again.
func TestPythonDamage(t *testing.T) {
	t.Parallel()
	was, is := grown(t, "3.5.0", "2-grown"), grown(t, "3.5.0", "3-compacted")
	stream, r := mustEncode(t, atNewest(t, is), openKnown(t, knownBytes(t, was)))
	was = cut(t, was)
	rnd := rand.New(rand.NewPCG(1, 1))
	flipped := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1 << rnd.IntN(8)
		return b
	}
	refuses := func(what string, stream, older []byte) {
		t.Helper()
		if _, refused := python(t, stream, older); refused == "" {
			t.Errorf("%s: not refused", what)
		}
	}
	for i := rnd.IntN(30); i < len(stream); i += 30 {
		refuses(fmt.Sprintf("byte %d of %d flipped", i, len(stream)), flipped(stream, i), was)
	}
	for _, n := range []int{0, 5, 20, len(r.Prologue), len(stream) - 1} {
		refuses(fmt.Sprintf("%d bytes of %d", n, len(stream)), stream[:n], was)
	}
	refuses("more bytes", append(bytes.Clone(stream), 0), was)
	refuses("no older file", stream, nil)
	refuses("an older file that is cut off", stream, was[:len(was)/2])
	for range 3 {
		p := parsePrologue(stream)
		i := rnd.IntN(len(p.body))
		p.body = flipped(p.body, i)
		refuses(fmt.Sprintf("byte %d of the body flipped, with the right sums", i), p.stream(), was)
	}
	refuses("another header", stream, bytes.ReplaceAll(was, binary.BigEndian.AppendUint32(nil, uint32(r.Info.OlderSeq)), []byte{0, 0, 0, 1}))
}
