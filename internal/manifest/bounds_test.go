package manifest_test

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
)

// repeated is n times a text, without the memory for it.
type repeated struct {
	text string
	n    int
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:])
	if r.at += n; r.at == len(r.text) {
		r.at, r.n = 0, r.n-1
	}
	return n, nil
}

// A list that is longer than its record says, or of entries that say nothing, is
// refused where that shows, and not when all of it is in memory.
func TestDecodeBounds(t *testing.T) {
	const n = 2_000_000
	path := `"root":"data","path":"a"`
	for name, list := range map[string]string{
		"files":       `"files":[{` + path + `}|,{` + path + `}`,
		"no files":    `"files":[{}|,{}`,
		"null files":  `"files":[null|,null`,
		"left out":    `"left_out":[{` + path + `}|,{` + path + `}`,
		"nothing":     `"left_out":[{}|,{}`,
		"damage":      `"damage":[{` + path + `}|,{` + path + `}`,
		"no damage":   `"damage":[{}|,{}`,
		"segments":    `"segments":[{"n":1}|,{"n":1}`,
		"second list": `"files":[]|,"files":[{` + path + `},{` + path + `}]`,
	} {
		t.Run(name, func(t *testing.T) {
			first, rest, _ := strings.Cut(list, "|")
			text := io.MultiReader(strings.NewReader("{"+first), &repeated{text: rest, n: n}, strings.NewReader("]}"))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := manifest.Decode(text, manifest.Counts{Segments: 10, Files: 10, LeftOut: 10, Damage: 10})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, manifest.ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
				t.Errorf("allocated %d bytes", got)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	m := sample(t)
	rec := &manifest.Record{Summary: m.Summary}
	rec.Segments, rec.Shipped = m.Refs()
	if got := rec.Counts(); got != (manifest.Counts{Segments: 3, Files: 1}) {
		t.Errorf("got %+v", got)
	}
}
