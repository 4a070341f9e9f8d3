package replay_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestPythonTails has the other reader make what three servers appended to their files.
func TestPythonTails(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		for _, stage := range []string{"2-grown", "4-grown", "5-compacted-under-writes"} {
			t.Run(version+"/"+stage, func(t *testing.T) {
				t.Parallel()
				file := grown(t, version, stage)
				mustPythonTail(t, file, firstCut(t, file))
			})
		}
	}
}

// mustPythonTail has the other reader make the tail of a file from an offset on.
func mustPythonTail(t testing.TB, file []byte, from int64) {
	t.Helper()
	stream, r := mustEncodeTail(t, atNewest(t, file), from)
	mustPython(t, stream, file[:from], file[:from+r.Info.Size])
}

// TestPythonVersionTails has the other reader make what six servers wrote behind the first headers
// of files with attachments, conflicts and purges, and of one that was replicated.
func TestPythonVersionTails(t *testing.T) {
	t.Parallel()
	few := regexp.MustCompile(`ffffffff/(one|replica|attach|comp_mixed|checksum_mixed|purged|conflicted)\.`)
	made := map[string]int{}
	testenv.EachFixture(t, func(version, name string, file []byte) {
		if filepath.Ext(name) != ".couch" || len(file) > 1<<20 || !few.MatchString(name) && !testenv.Soak() {
			return
		}
		if from := firstHeader(t, file); atNewest(t, file).Header >= from {
			mustPythonTail(t, file, from)
			made[version]++
		}
	})
	t.Logf("tails: %v", made)
	for _, version := range append([]string{"3.5.0"}, testenv.Versions...) {
		if made[version] < 2 {
			t.Errorf("%d tails of %s", made[version], version)
		}
	}
}

// TestPythonMadeTails has the other reader make tails that no fixture is like: with chunks among
// nodes and other settings, with bodies that are edited again and again, with nodes that are told,
// and with a header that a crash tore.
func TestPythonMadeTails(t *testing.T) {
	t.Parallel()
	m := makeTail(t, couchwriter.DatabaseOptions{}, 3)
	m.commit(20)
	m.opts.Compression = couchwriter.None
	m.open(m.db.Header())
	m.f.Checksum = couchfile.MD5
	m.commit(40)
	m.f.Raw(append(make([]byte, couchfile.BlockSize), 1, 0, 0, 1))
	m.commit(5)
	mustPythonTail(t, m.out.b, m.from)
	m = makeCut(t, 700, 4096)
	mustPythonTail(t, m.out.b, m.from)
	m = makeEdits(t, 60)
	mustPythonTail(t, m.out.b, m.from)
	file := bytes.Clone(grown(t, "3.5.0", "4-grown"))
	from := cutBefore(t, file, 12)
	if !slices.ContainsFunc(nodesOf(t, file, from), func(n couchfile.Chunk) bool { return changeNode(file, n) }) {
		t.Fatal("no node was changed")
	}
	if _, r := mustEncodeTail(t, atNewest(t, file), from); r.Others == 0 {
		t.Error("no nodes are told")
	}
	mustPythonTail(t, file, from)
}

// TestPythonTailDamage has the other reader refuse streams of a tail, and files in front of it,
// with a byte flipped, and those that are cut off. In some of the bodies the sums are right again.
func TestPythonTailDamage(t *testing.T) {
	t.Parallel()
	file := grown(t, "3.5.0", "4-grown")
	from := cutBefore(t, file, 3)
	stream, r := mustEncodeTail(t, atNewest(t, file), from)
	was := file[:from]
	mustPython(t, stream, was, file[:from+r.Info.Size])
	rnd := rand.New(rand.NewPCG(3, 1))
	flipped := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1 << rnd.IntN(8)
		return b
	}
	refuses := func(what string, stream, before []byte) {
		t.Helper()
		if _, refused := python(t, stream, before); refused == "" {
			t.Errorf("%s: not refused", what)
		}
	}
	for i := rnd.IntN(20); i < len(stream); i += 1 + len(stream)/20 {
		refuses(fmt.Sprintf("byte %d of %d flipped", i, len(stream)), flipped(stream, i), was)
	}
	body := stream[len(r.Prologue):]
	for range 12 {
		i := rnd.IntN(len(body))
		refuses(fmt.Sprintf("byte %d of the body flipped, with the right sums", i), withTailBody(r.Info, flipped(body, i)), was)
	}
	for _, n := range []int{0, 5, len(r.Prologue), len(stream) - 1} {
		refuses(fmt.Sprintf("%d bytes of %d", n, len(stream)), stream[:n], was)
	}
	refuses("more bytes", append(bytes.Clone(stream), 0), was)
	refuses("a body with more bytes", withTailBody(r.Info, append(bytes.Clone(body), 0)), was)
	refuses("no file", stream, nil)
	for _, n := range []int64{0, cutBefore(t, file, 4), from - 1, from + 1} {
		refuses(fmt.Sprintf("%d bytes in front of the tail", n), stream, file[:n])
	}
	refuses("another node", stream, otherNode(t, was))
	refuses("another header", stream, flipped(was, int(from)-5))
}
