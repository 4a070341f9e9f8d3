package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// twice returns a release's files, which a second run elsewhere and later makes of the same
// bytes.
func twice(t *testing.T, run func(r *release, dir string) error) map[string][]byte {
	t.Helper()
	var made [2]map[string][]byte
	for n := range made {
		r := &release{version: "v1.2.3", out: t.TempDir(), time: at}
		if err := run(r, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		made[n] = map[string][]byte{}
		files, err := os.ReadDir(r.out)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(r.out, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			made[n][f.Name()] = b
		}
	}
	for name, b := range made[0] {
		if !bytes.Equal(b, made[1][name]) {
			t.Errorf("%s is another one when it is made again", name)
		}
	}
	return made[0]
}

func TestArchives(t *testing.T) {
	ago := time.Hour
	files := twice(t, func(r *release, dir string) error {
		for _, s := range []system{{"linux", "amd64", dir + "/slipcover"}, {"windows", "arm64", dir + "/slipcover.exe"}} {
			if err := os.WriteFile(s.program, []byte("program"), 0o700); err != nil {
				return err
			}
			ago *= 2
			if err := os.Chtimes(s.program, time.Now(), time.Now().Add(-ago)); err != nil {
				return err
			}
			if err := r.archive(s, map[string][]byte{"README.md": []byte("read"), "docs/a.md": []byte("a")}); err != nil {
				return err
			}
		}
		return r.sums()
	})
	const folder = "slipcover_1.2.3_linux_amd64"
	z, err := gzip.NewReader(bytes.NewReader(files[folder+".tar.gz"]))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip's header: %v %q", z.ModTime, z.Name)
	}
	var got []string
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0o644)
		if h.Name == folder+"/slipcover" {
			want = 0o755
		}
		if h.Mode != want || h.Uid+h.Gid != 0 || h.Uname+h.Gname != "" || !h.ModTime.Equal(at) {
			t.Errorf("%s: mode %o, of %d:%d %q:%q, %v", h.Name, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		got = append(got, strings.TrimPrefix(h.Name, folder+"/"))
	}
	if text := strings.Join(got, " "); text != "slipcover README.md docs/a.md" {
		t.Errorf("in the archive: %s", text)
	}
	b := files["slipcover_1.2.3_windows_arm64.zip"]
	zr, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if len(zr.File) != 3 || zr.File[0].Name != "slipcover_1.2.3_windows_arm64/slipcover.exe" || !zr.File[0].Modified.Equal(at) {
		t.Errorf("in the zip: %d files, %+v", len(zr.File), zr.File[0])
	}
	if sums := string(files["SHA256SUMS"]); strings.Count(sums, "\n") != 2 || !regexp.MustCompile(`(?m)^[0-9a-f]{64}  slipcover_1.2.3_linux_amd64.tar.gz$`).MatchString(sums) {
		t.Errorf("sums: %s", sums)
	}
}

// This test is a program, too, of which its modules can be told.
func TestBill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := twice(t, func(r *release, _ string) error { return r.bill([]system{{"linux", "amd64", self}}) })
	var b bom
	if err := json.Unmarshal(files["slipcover_1.2.3.cdx.json"], &b); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(b.SerialNumber) {
		t.Errorf("serial number %s", b.SerialNumber)
	}
	if b.Format != "CycloneDX" || b.Metadata.Component.Version != "v1.2.3" || len(b.Components) == 0 || b.Components[0].Name != "std" {
		t.Errorf("%+v", b)
	}
}
