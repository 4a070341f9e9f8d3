package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a file of an archive.
type entry struct {
	name string // below the archive's folder
	mode int64
	data []byte
}

// archive packs the program for a system, with what explains it.
func (r *release) archive(s system, extra map[string][]byte) error {
	program, err := os.ReadFile(s.program)
	if err != nil {
		return err
	}
	entries := []entry{{filepath.Base(s.program), 0o755, program}}
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		entries = append(entries, entry{name, 0o644, extra[name]})
	}
	name := fmt.Sprintf("slipcover_%s_%s_%s", strings.TrimPrefix(r.version, "v"), s.goos, s.goarch)
	write, ending := writeTar, ".tar.gz"
	if s.goos == "windows" {
		write, ending = writeZip, ".zip"
	}
	f, err := os.OpenFile(filepath.Join(r.out, name+ending), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f, name, entries, r.time); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return f.Close()
}

// writeTar names no user, and one time for all.
func writeTar(w io.Writer, folder string, entries []entry, at time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: folder + "/" + e.name, Mode: e.mode, Size: int64(len(e.data)), ModTime: at, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(e.data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

func writeZip(w io.Writer, folder string, entries []entry, at time.Time) error {
	z := zip.NewWriter(w)
	for _, e := range entries {
		h := &zip.FileHeader{Name: folder + "/" + e.name, Method: zip.Deflate, Modified: at}
		h.SetMode(os.FileMode(e.mode))
		f, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := f.Write(e.data); err != nil {
			return err
		}
	}
	return z.Close()
}

// sums writes SHA256SUMS, which sha256sum --check reads.
func (r *release) sums() error {
	files, err := os.ReadDir(r.out) // sorted
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(r.out, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(b), f.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(text.String()), 0o644)
}
