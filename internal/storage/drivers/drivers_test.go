package drivers_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
)

func TestOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	dir := t.TempDir()
	t.Chdir(dir)
	for _, url := range []string{dir, "file://" + dir, "FILE://" + dir, ".", dir + "/", dir + "/../" + filepath.Base(dir)} {
		s, err := drivers.Open(t.Context(), url, drivers.Options{})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got, want := s.URL(), "file://"+dir; got != want {
			t.Errorf("%s: opened %s, want %s", url, got, want)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", url, err)
		}
	}
}

func TestCreate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	dir := t.TempDir()
	t.Chdir(dir)
	for _, url := range []string{"a/b", "./c:d", "./s3:x", "e:", "file://" + dir + "/f/g"} {
		if s, err := drivers.Open(t.Context(), url, drivers.Options{}); !errors.Is(err, storage.ErrUnavailable) || s != nil {
			t.Errorf("%s isn't there: got %v, %v, want ErrUnavailable", url, s, err)
		}
		s, err := drivers.Open(t.Context(), url, drivers.Options{Create: true})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		s.Close()
		if s, err = drivers.Open(t.Context(), url, drivers.Options{}); err != nil {
			t.Errorf("%s was created: %v", url, err)
		} else {
			s.Close()
		}
	}
}

func TestRefused(t *testing.T) {
	tests := []struct{ url, want string }{
		{"", "no storage given; write /path, file:///path"},
		{"ftp://key:secret@host/x", `there is no storage of kind "ftp"; write /path, file:///path`},
		{"ftp:secret", `there is no storage of kind "ftp"`},
		{"s3://key:secret@bucket/x", "an s3 URL holds no keys"},
		{"s3:secret", "is written s3://bucket/prefix"},
		{"mem://", `there is no storage of kind "mem"`},
		{"https://user:secret@host", `there is no storage of kind "https"`},
		{"file:/path", "is written file:///path"},
		{"file:path", "is written file:///path"},
		{"file://path", "with three slashes"},
		{"file://localhost/path", "with three slashes"},
		{"file:///path?create=1", "has parameters"},
		{"a\x00b", "zero byte"},
	}
	for _, tt := range tests {
		s, err := drivers.Open(t.Context(), tt.url, drivers.Options{Create: true})
		if err == nil || s != nil {
			t.Errorf("%q: got %v, want an error", tt.url, s)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %q, want %q", tt.url, err, tt.want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows a secret: %q", tt.url, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := drivers.Open(ctx, t.TempDir(), drivers.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
