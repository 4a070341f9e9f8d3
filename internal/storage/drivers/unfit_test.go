package drivers_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/storage/retry"
)

// overHTTP are storages whose server is at a URL, with the variables that they need.
// Swift is also asked with a token, past the log-in.
var overHTTP = []struct {
	name, ca string
	place    func(t *testing.T, at *url.URL) string
}{
	{"s3", "AWS_CA_BUNDLE", func(t *testing.T, at *url.URL) string {
		t.Setenv("AWS_ACCESS_KEY_ID", "a")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
		return "s3://bucket/x?region=r&endpoint=" + url.QueryEscape(at.String())
	}},
	{"swift's log-in", "OS_CACERT", func(t *testing.T, at *url.URL) string {
		for _, name := range []string{"OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"} {
			t.Setenv(name, "x")
		}
		return "swift://container/x?auth_url=" + url.QueryEscape(at.String()+"/v3")
	}},
	{"swift", "OS_CACERT", func(t *testing.T, at *url.URL) string {
		t.Setenv("OS_STORAGE_URL", at.String()+"/v1/AUTH_x")
		t.Setenv("OS_AUTH_TOKEN", "token")
		return "swift://container/x"
	}},
	{"gs", "SSL_CERT_FILE", func(t *testing.T, at *url.URL) string {
		t.Setenv("STORAGE_EMULATOR_HOST", at.String())
		return "gs://bucket/x"
	}},
	{"azblob", "SSL_CERT_FILE", func(t *testing.T, at *url.URL) string {
		for name, v := range map[string]string{"ACCOUNT": "account", "KEY": "a2V5", "DOMAIN": at.Host, "PROTOCOL": at.Scheme, "IS_LOCAL_EMULATOR": "true"} {
			t.Setenv("AZURE_STORAGE_"+name, v)
		}
		return "azblob://container/x"
	}},
}

// What answers isn't the storage that was meant: told at once, as what it is.
func TestUnfit(t *testing.T) {
	page := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, "<!doctype html>\n<html><head><title>Sign in &amp;\n enjoy</title>")
		}
	}
	plain := httptest.NewServer(page(200))
	defer plain.Close()
	missing := httptest.NewServer(page(404))
	defer missing.Close()
	busy := httptest.NewServer(page(503))
	defer busy.Close()
	secure := httptest.NewUnstartedServer(page(200))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	ssh := banner(t, "SSH-2.0-Test\r\n")
	alert := banner(t, "\x15\x03\x01\x00\x02\x02\x16")

	tests := []struct {
		name, at, want string
	}{
		{"a page", plain.URL, `answers with a web page (200 OK, "Sign in & enjoy")`},
		{"a page for what isn't there", missing.URL, `answers with a web page (404 Not Found, "Sign in & enjoy")`},
		{"TLS to what has none", strings.Replace(plain.URL, "http:", "https:", 1), "speaks plain HTTP, not TLS: write http://"},
		{"no TLS to Go's", strings.Replace(secure.URL, "https:", "http:", 1), "speaks TLS: write https://"},
		{"no TLS to others'", "http://" + alert, "speaks TLS: write https://"},
		{"a certificate that isn't known", secure.URL, "isn't trusted"},
		{"another protocol", "http://" + ssh, "doesn't speak HTTP: check"},
		{"TLS to another protocol", "https://" + ssh, "doesn't speak TLS: check"},
	}
	for _, tt := range tests {
		for _, d := range overHTTP {
			t.Run(tt.name+"/"+d.name, func(t *testing.T) {
				at, err := url.Parse(tt.at)
				if err != nil {
					t.Fatal(err)
				}
				place := d.place(t, at)
				tries := 0
				err = retry.Do(t.Context(), retry.Options{}, "open", func() error {
					tries++
					s, err := drivers.Open(t.Context(), place, drivers.Options{})
					if err == nil {
						return s.Close()
					}
					if tries > 1 {
						return errors.New("it was tried again")
					}
					return err
				})
				unfit := (*storage.UnfitError)(nil)
				if !errors.As(err, &unfit) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), at.Host) {
					t.Fatalf("got %v (%T), want an UnfitError: %s %s", err, err, at.Host, tt.want)
				}
				for _, kind := range []error{storage.ErrUnavailable, storage.ErrDenied, storage.ErrNotExist} {
					if errors.Is(err, kind) {
						t.Errorf("%v: is %q", err, kind)
					}
				}
				if tt.name == "a certificate that isn't known" && !strings.Contains(err.Error(), d.ca) {
					t.Errorf("got %v, want how to trust it: %s", err, d.ca)
				}
			})
		}
	}
	for _, d := range overHTTP {
		t.Run("a page of what is busy/"+d.name, func(t *testing.T) {
			at, _ := url.Parse(busy.URL)
			if _, err := drivers.Open(t.Context(), d.place(t, at), drivers.Options{}); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
}

// A certificate is trusted by the variable that the storage's other tools know.
func TestTrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amz-Request-Id", "1")
		w.Header().Set("X-Trans-Id", "1")
		w.WriteHeader(http.StatusForbidden)
	}))
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	file, empty := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "empty.pem")
	for name, text := range map[string][]byte{
		file: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), empty: []byte("no certificate"),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at, _ := url.Parse(server.URL)
	for _, d := range overHTTP {
		if d.ca == "SSL_CERT_FILE" {
			continue // Go reads that once in a process
		}
		t.Run(d.name, func(t *testing.T) {
			place := d.place(t, at)
			for name, want := range map[string]string{file: storage.ErrDenied.Error(), empty: "has no certificate", filepath.Join(dir, "gone"): "read the certificates that " + d.ca} {
				t.Setenv(d.ca, name)
				if _, err := drivers.Open(t.Context(), place, drivers.Options{}); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s=%s: got %v, want %q", d.ca, name, err, want)
				}
			}
		})
	}
}

// A right that is missing is named.
func TestDenied(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v3") {
			w.Header().Set("X-Subject-Token", "t")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"token":{"catalog":[{"type":"object-store","endpoints":[{"interface":"public","url":"http://%s/v1/AUTH_x"}]}]}}`, r.Host)
			return
		}
		if r.Header.Get("X-Ms-Version") != "" {
			w.Header().Set("X-Ms-Error-Code", "AuthorizationPermissionMismatch")
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	at, _ := url.Parse(server.URL)
	want := map[string]string{
		"s3": "s3:GetBucketVersioning", "swift": "X-Container-Read", "swift's log-in": "X-Container-Read", "gs": "storage.objects.list", "azblob": "Storage Blob Data Reader",
	}
	for _, d := range overHTTP {
		t.Run(d.name, func(t *testing.T) {
			_, err := drivers.Open(t.Context(), d.place(t, at), drivers.Options{})
			if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), want[d.name]) {
				t.Errorf("got %v, want ErrDenied and %s", err, want[d.name])
			}
		})
	}
}

// banner returns the address of a server that says one thing to whoever has asked.
func banner(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Read(make([]byte, 64<<10))
				io.WriteString(c, text)
			}()
		}
	}()
	return l.Addr().String()
}
