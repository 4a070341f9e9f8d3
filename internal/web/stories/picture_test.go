//go:build unix

package stories_test

import (
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
)

// picturesDir is where the documentation has its pictures.
const picturesDir = "../../../docs/dashboard"

// largest is how large a picture may be, in bytes.
const largest = 60 << 10

// keep stores the pictures of a story with the documentation, with 256 colours each.
func (w *world) keep(shots string) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(shots, "*.png"))
	must(w.t, err)
	must(w.t, os.MkdirAll(picturesDir, 0o755))
	for _, f := range files {
		in, err := os.Open(f)
		must(w.t, err)
		full, err := png.Decode(in)
		must(w.t, err)
		must(w.t, in.Close())
		to := filepath.Join(picturesDir, filepath.Base(f))
		out, err := os.Create(to)
		must(w.t, err)
		must(w.t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(out, paletted(full)))
		must(w.t, out.Close())
		info, err := os.Stat(to)
		must(w.t, err)
		if info.Size() > largest {
			w.t.Errorf("%s has %d bytes, more than %d", to, info.Size(), largest)
		}
	}
}

// near says of two colours that hardly anybody sees a difference.
func near(a, b color.RGBA) bool {
	apart := func(x, y uint8) int { return max(int(x), int(y)) - min(int(x), int(y)) }
	return apart(a.R, b.R)+apart(a.G, b.G)+apart(a.B, b.B) < 12
}

// paletted has the most frequent colours of a picture, of those that are alike one.
func paletted(full image.Image) *image.Paletted {
	b := full.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	all := make([]color.RGBA, 0, len(count))
	for c := range count {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int {
		if n := count[b] - count[a]; n != 0 {
			return n
		}
		return (int(a.R)-int(b.R))<<16 + (int(a.G)-int(b.G))<<8 + int(a.B) - int(b.B)
	})
	var p color.Palette
	for _, c := range all {
		if len(p) == 256 {
			break
		}
		if !slices.ContainsFunc(p, func(o color.Color) bool { return near(o.(color.RGBA), c) }) { //nolint:forcetypeassert // put there below
			p = append(p, c)
		}
	}
	nearest := map[color.RGBA]uint8{}
	to := image.NewPaletted(b, p)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := at(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(p.Index(c)) //nolint:gosec // of 256
				nearest[c] = i
			}
			to.SetColorIndex(x, y, i)
		}
	}
	return to
}
