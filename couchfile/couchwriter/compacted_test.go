package couchwriter_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestCompactedFixtures compacts what compacted databases of other servers hold into what they
// are: the records are there already, but not where they are, nor the trees around them.
func TestCompactedFixtures(t *testing.T) {
	t.Parallel()
	releases := map[string]couchwriter.Release{"2.3": couchwriter.Release23, "3.3": couchwriter.Release30,
		"3.5.0": couchwriter.Release30, "3.5.2": couchwriter.Release30, "main": couchwriter.ReleaseMain}
	counts := map[string]int{}
	testenv.EachFixture(t, func(version, name string, file []byte) {
		release, ok := releases[version]
		if headers := rawHeaders(t, file); !ok || len(headers) == 0 || headers[0].Kind != couchfile.HeaderDB {
			return
		}
		passes, swap := compactionOf(t, file)
		if len(passes) == 0 || strings.Contains(name, "deflate") { // zlib's choices are not known
			return
		}
		counts[version]++
		out := &memory{}
		f := couchwriter.NewFile(out, out, 0, swap.Checksum)
		c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: release, DefaultSecurity: firstSecurity(t, file)})
		states := sorting(t, file)
		for _, h := range passes {
			src := openSource(t, file, h)
			src.Sorting = states
			if err := c.Pass(src, minPurge(t, file)); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
		}
		if err := c.Swap(openSource(t, file, swap)); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if end := int(swap.End); len(out.b) != end || !bytes.Equal(out.b, file[:end]) {
			t.Errorf("%s: got %d bytes, want %d; others from %d on", name, len(out.b), end, firstDifference(out.b, file))
		}
	})
	for version := range releases {
		if counts[version] != 2 {
			t.Errorf("%s: got %d compacted databases, want 2", version, counts[version])
		}
	}
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
