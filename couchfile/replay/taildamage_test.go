package replay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestFlippedTail flips bytes of streams, cuts one, and gives it another file.
func TestFlippedTail(t *testing.T) {
	t.Parallel()
	edits := makeEdits(t, 6)
	flipTail(t, edits.out.b, edits.from, 5, 100)
	file := grown(t, "3.5.0", "4-grown")
	from := cutBefore(t, file, 12)
	stream, r := flipTail(t, file, from, 97, 20)
	for _, n := range []int{0, 5, len(r.Prologue), len(stream) - 1} {
		if _, err := decodeTail(stream[:n], file[:from]); !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("%d bytes of %d: %v", n, len(stream), err)
		}
	}
	later := bytes.Clone(stream)
	later[8]++
	if _, err := decodeTail(later, file[:from]); !errors.Is(err, replay.ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	for _, before := range [][]byte{nil, file[:from-1], file[:cutBefore(t, file, 13)], file[:len(file)/2], otherNode(t, file[:from])} {
		if _, err := decodeTail(stream, before); err == nil || len(before) == int(from) && !errors.Is(err, couchfile.ErrCorrupt) {
			t.Errorf("behind %d other bytes: %v", len(before), err)
		}
	}
}

// flipTail flips bytes of a stream: all in its beginning, and behind that each so many, or few in all with -short.
func flipTail(t *testing.T, file []byte, from int64, each, few int) ([]byte, *replay.TailResult) {
	t.Helper()
	stream, r := tailTrip(t, file, from)
	each = max(1, len(stream)/testenv.Computed(len(stream)/each, few))
	for i := range stream {
		if i > len(r.Prologue) && i%each != 0 {
			continue // what is behind the prologue costs a decoding each
		}
		bad := bytes.Clone(stream)
		bad[i] ^= 1 << (i % 8)
		if _, err := decodeTail(bad, file[:from]); !errors.Is(err, couchfile.ErrCorrupt) && !errors.Is(err, replay.ErrVersion) {
			t.Fatalf("byte %d of %d flipped: %v", i, len(stream), err)
		}
	}
	return stream, r
}

// otherNode is a file with other bytes in a node that its newest header points to.
func otherNode(t *testing.T, file []byte) []byte {
	t.Helper()
	h, err := couchfile.FindHeader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := couchfile.ParseHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(file)
	bad[parsed.IDTree.Offset+60] ^= 1
	return bad
}

// TestWrongTailPrediction changes the tail in places all over it: what comes back is what is there,
// and what is strange costs itself, not the whole tail.
func TestWrongTailPrediction(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			file := grown(t, version, "4-grown")
			from := cutBefore(t, file, 12)
			right, whole := tailTrip(t, file, from)
			cut := atNewest(t, file)
			rnd := rand.New(rand.NewPCG(2, 1))
			others, unpredicted := 0, 0
			rounds := testenv.Computed(100, 15)
			for range rounds {
				at := int(from) + rnd.IntN(int(cut.Header-from))
				bad := bytes.Clone(file)
				bad[at] ^= byte(1 + rnd.IntN(255))
				stream, r := tailTrip(t, bad, from)
				others += r.Others
				unpredicted += min(1, whole.Predicted-r.Predicted)
				if r.Info.Size == whole.Info.Size && whole.Predicted-r.Predicted > 4 {
					t.Errorf("byte %d: %d commits of %d are predicted, %d before", at, r.Predicted, r.Commits, whole.Predicted)
				}
				if more := len(stream) - len(right); more > 400<<10 {
					t.Errorf("byte %d costs %d bytes", at, more)
				}
			}
			t.Logf("%d other nodes, %d of %d with commits that were not predicted", others, unpredicted, rounds)
		})
	}
}

// TestOtherNodes changes single nodes into others that can be read, as a server of another
// rule would write them.
func TestOtherNodes(t *testing.T) {
	t.Parallel()
	file := grown(t, "3.5.0", "4-grown")
	from := cutBefore(t, file, 12)
	right, whole := tailTrip(t, file, from)
	nodes := nodesOf(t, file, from)
	changed := 0
	for i := 0; i < len(nodes); i += 1 + len(nodes)/60 {
		bad := bytes.Clone(file)
		if !changeNode(bad, nodes[i]) {
			continue
		}
		changed++
		stream, r := tailTrip(t, bad, from)
		if r.Predicted < whole.Predicted-3 || len(stream) > len(right)+120<<10 {
			t.Errorf("node at %d: %d of %d commits are predicted, %d other nodes, %d bytes instead of %d",
				nodes[i].Offset, r.Predicted, whole.Predicted, r.Others, len(stream), len(right))
		}
	}
	if changed < 20 {
		t.Errorf("%d nodes were changed", changed)
	}
}

// nodesOf are the nodes of a tail.
func nodesOf(t *testing.T, file []byte, from int64) (nodes []couchfile.Chunk) {
	t.Helper()
	for c, err := range couchfile.Chunks(bytes.NewReader(file), from, int64(len(file))) {
		if err != nil {
			t.Fatal(err)
		}
		if term, err := couchfile.Inflate(c.Payload); err == nil && !c.IsHeader && !c.Flagged && bytes.HasPrefix(term[5:], []byte("k")) {
			c.Payload = bytes.Clone(c.Payload)
			nodes = append(nodes, c)
		}
	}
	return nodes
}

// changeNode gives a node another sum or sequence, if that has as many bytes.
func changeNode(file []byte, c couchfile.Chunk) bool {
	term, err := couchfile.Inflate(c.Payload)
	if err != nil {
		return false
	}
	term = append([]byte{131}, term...)
	for i := len(term) - 40; i > 20; i-- {
		term[i] ^= 1
		stored := couchwriter.Snappy.Append(nil, term)
		if _, err := couchfile.Inflate(stored); err == nil && len(stored) == len(c.Payload) && c.End-c.Offset == int64(len(stored))+4 {
			copy(file[c.Offset+4:], stored)
			return true
		}
		term[i] ^= 1
	}
	return false
}

// TestNoTail asks for tails that begin or end at no header.
func TestNoTail(t *testing.T) {
	t.Parallel()
	file := grown(t, "3.5.0", "2-grown")
	f := atNewest(t, file)
	from := cutBefore(t, file, 5)
	for _, at := range []int64{0, from - 1, from + 1, f.Header} {
		if _, _, err := encodeTail(f, at); !errors.Is(err, replay.ErrNotReplayed) && !errors.Is(err, couchfile.ErrNoHeader) {
			t.Errorf("from %d: %v", at, err)
		}
	}
	f.Header++
	if _, _, err := encodeTail(f, from); !errors.Is(err, replay.ErrNotReplayed) {
		t.Errorf("to no header: %v", err)
	}
}

// withTailBody is a stream with another body, whose checksum is right.
func withTailBody(info *replay.TailInfo, body []byte) []byte {
	f := binary.AppendUvarint(nil, uint64(info.From))
	f = append(binary.AppendUvarint(f, uint64(info.Size)), info.SHA256[:]...)
	sum := sha256.Sum256(body)
	f = append(binary.AppendUvarint(f, uint64(len(body))), sum[:]...)
	return append(sealed([]byte("CouchTRP\x01"), f), body...)
}

// FuzzDecodeTail gives DecodeTail bodies of any bytes whose checksums are right.
func FuzzDecodeTail(f *testing.F) {
	file := grown(f, "3.5.0", "4-grown")
	from := cutBefore(f, file, 6)
	stream, r := mustEncodeTail(f, atNewest(f, file), from)
	f.Add(false, stream[len(r.Prologue):])
	purged := grown(f, "3.5.0", "2-grown")
	second, r2 := mustEncodeTail(f, atNewest(f, purged), firstCut(f, purged))
	f.Add(false, second[len(r2.Prologue):][:20000])
	edits := makeEdits(f, 3)
	third, r3 := mustEncodeTail(f, atNewest(f, edits.out.b), edits.from)
	f.Add(true, third[len(r3.Prologue):])
	f.Fuzz(func(t *testing.T, edited bool, body []byte) {
		file, from, r := file, from, r
		if edited {
			file, from, r = edits.out.b, edits.from, r3
		}
		got, err := decodeTail(withTailBody(r.Info, body), file[:from])
		if n := int64(len(got)) - from; err == nil && n != r.Info.Size || n > r.Info.Size {
			t.Fatalf("%d bytes instead of %d: %v", n, r.Info.Size, err)
		}
	})
}

// FuzzEncodeTail changes eight bytes somewhere in a tail or before it: what comes of it is the tail
// again, or ErrNotReplayed.
func FuzzEncodeTail(f *testing.F) {
	file := grown(f, "3.5.0", "4-grown")
	from, cut := cutBefore(f, file, 8), atNewest(f, file)
	for _, at := range []uint32{0, 5000, uint32(from) - 5000, uint32(from) + 30, uint32(cut.Header) - 100} {
		f.Add(at, []byte{1})
	}
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		bad := bytes.Clone(file)
		copy(bad[int64(at)%cut.Header:], with[:min(len(with), 8)])
		stream, r, err := encodeTail(replay.File{R: bytes.NewReader(bad), Size: cut.Size, Header: cut.Header}, from)
		if errors.Is(err, replay.ErrNotReplayed) || errors.Is(err, couchfile.ErrNoHeader) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeTail(stream, bad[:from]); err != nil || !bytes.Equal(got, bad[:from+r.Info.Size]) {
			t.Fatalf("%d of %d commits predicted: %v", r.Predicted, r.Commits, err)
		}
	})
}
