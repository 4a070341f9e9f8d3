package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed static
var staticFiles embed.FS

const staticPrefix = "/static/"

// static serves the files of the dashboard under names that change with what is in them,
// so that browsers keep them for good.
type static struct {
	files map[string]staticFile // by path below staticPrefix: HASH/NAME
	urls  map[string]string     // by name
}

type staticFile struct {
	kind         string
	plain, small []byte // small is compressed
}

func newStatic() (*static, error) {
	s := &static{map[string]staticFile{}, map[string]string{}}
	entries, err := fs.ReadDir(staticFiles, "static")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		kind := ""
		switch path.Ext(name) {
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".css":
			kind = "text/css; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		default:
			continue // a licence is for those who read the source
		}
		text, err := staticFiles.ReadFile("static/" + name)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		_, _ = z.Write(text) // into memory
		_ = z.Close()
		sum := sha256.Sum256(text)
		at := hex.EncodeToString(sum[:6]) + "/" + name
		s.files[at] = staticFile{kind, text, b.Bytes()}
		s.urls[name] = staticPrefix + at
	}
	return s, nil
}

// url is where a file is; a name that there isn't is a fault of a template.
func (s *static) url(name string) (string, error) {
	u := s.urls[name]
	if u == "" {
		return "", fmt.Errorf("no static file %q", name)
	}
	return u, nil
}

// ServeHTTP serves a file.
func (s *static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := s.files[strings.TrimPrefix(r.URL.Path, staticPrefix)]
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; sandbox") // of the file as a page of its own
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Cache-Control", "no-store")
		http.Error(w, "There is no such file: load the page again.", http.StatusNotFound)
		return
	}
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Type", f.kind)
	h.Set("Vary", "Accept-Encoding")
	body := f.plain
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = f.small
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // who went away needs no answer
	}
}
