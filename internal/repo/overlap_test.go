package repo_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// TestOverlappingReplay: a file goes on within what a replay makes, of which it has the beginning already.
func TestOverlappingReplay(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../testdata/couchdb-3.5.0/data/shards/00000000-7fffffff/timeline.1795334426.couch")
	if err != nil {
		t.Fatal(err)
	}
	points, err := couchfile.Points(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(points) < 12 {
		t.Fatal(len(points), err)
	}
	from, mid, end := points[3].End, points[6].End, points[11].End
	var body bytes.Buffer
	res, err := replay.EncodeTail(&body, replay.File{R: bytes.NewReader(b), Size: end, Header: points[11].Offset}, from)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	r := f.open(t, f.store)
	key, err := writeKey(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Summary: manifest.Summary{ID: id, Instance: instance}}
	for n, content := range [][]byte{b[:end], append(res.Prologue, body.Bytes()...)} {
		var s repo.Sealed
		if err := r.Seal(&s, key, id, n, content); err != nil {
			t.Fatal(err)
		}
		if err := r.PutSegment(t.Context(), instance, &s); err != nil {
			t.Fatal(err)
		}
		m.Segments = append(m.Segments, s.Segment)
	}
	for _, has := range []int64{from, from + 1, mid, end - 1} {
		file := &manifest.File{Root: manifest.DataRoot, Path: "x.couch", Kind: manifest.System, Size: end,
			Extents: []manifest.Extent{{N: has}, {Seg: -1, At: has - from, N: end - has}},
			Replays: []*manifest.Replay{{Kind: manifest.TailReplay, Size: end - from, Stream: []manifest.Extent{{Seg: 1, N: m.Segments[1].Plain}}}}}
		m.Files = []*manifest.File{file}
		rd := r.NewReader(m, m.Files)
		got := map[string][]byte{}
		if err := rd.Stream(t.Context(), file, func(p []byte) error { got["stream"] = append(got["stream"], p...); return nil }); err != nil {
			t.Error(err)
		}
		got["ranges"] = make([]byte, end)
		if _, err := rd.ReaderAt(t.Context(), file).ReadAt(got["ranges"], 0); err != nil {
			t.Error(err)
		}
		lost, err := rd.Salvage(t.Context(), file, false, func(off int64, p []byte) error {
			if off != int64(len(got["salvage"])) {
				return fmt.Errorf("bytes at %d come after %d", off, len(got["salvage"]))
			}
			got["salvage"] = append(got["salvage"], p...)
			return nil
		})
		if err != nil || lost != 0 {
			t.Error(lost, err)
		}
		for how, x := range got {
			if !bytes.Equal(x, b[:end]) {
				t.Errorf("%s: with %d bytes of %d to %d there are %d others", how, has, from, end, len(x))
			}
		}
		rd.Close()
	}
}
