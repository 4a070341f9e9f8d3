package cdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cdk"
	"github.com/slipcover/slipcover/internal/testenv"
)

// proxy stands between a store and its emulator.
type proxy struct {
	// fault, if set, answers in place of next, which is the emulator.
	fault    atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
	requests atomic.Int64
}

// startBehindProxy starts c's emulator and leads the environment through a proxy.
func (c cloud) startBehindProxy(t *testing.T) *proxy {
	t.Helper()
	c.start(t)
	name := "STORAGE_EMULATOR_HOST"
	if c.name == "azure" {
		name = "AZURE_STORAGE_DOMAIN"
	}
	next := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: os.Getenv(name)})
	next.ErrorLog = log.New(io.Discard, "", 0) // it breaks on purpose
	p := &proxy{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		if fault := p.fault.Load(); fault != nil {
			(*fault)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Setenv(name, server.Listener.Addr().String())
	return p
}

func (p *proxy) set(fault func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	p.requests.Store(0)
	if fault == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&fault)
}

// everyMethod returns the errors of all methods.
func everyMethod(ctx context.Context, s storage.Store, key storage.Key) map[string]error {
	_, getErr := get(ctx, s, key)
	_, statErr := s.Stat(ctx, key)
	return map[string]error{
		"put":           put(ctx, s, key, "x"),
		"put if absent": s.Put(ctx, key, strings.NewReader("x"), storage.PutOptions{IfAbsent: true}),
		"get":           getErr,
		"get nothing":   s.Get(ctx, key, 0, 0, func(io.Reader) error { return nil }),
		"stat":          statErr,
		"list":          s.List(ctx, "", func(storage.Info) error { return nil }),
		"delete":        s.Delete(ctx, key),
	}
}

// Each call is one request, whatever the service answers: retries are for the wrapper.
func TestAnswers(t *testing.T) {
	tests := []struct {
		status int
		after  string
		body   string // of Google; Azure's code is in code
		code   string
		want   error
		wait   time.Duration
	}{
		{503, "7", "", "ServerBusy", storage.ErrUnavailable, 7 * time.Second},
		{503, "", "", "ServerBusy", storage.ErrUnavailable, 0},
		{500, "", "", "InternalError", storage.ErrUnavailable, 0},
		{504, "", "", "", storage.ErrUnavailable, 0},
		{429, "3", `{"error":{"code":429,"message":"slow down"}}`, "TooManyRequests", storage.ErrUnavailable, 3 * time.Second},
		{408, "", "", "", storage.ErrUnavailable, 0},
		{403, "", `{"error":{"code":403,"message":"no rights","errors":[{"reason":"forbidden"}]}}`, "AuthorizationFailure", storage.ErrDenied, 0},
		{401, "", "", "NoAuthenticationInformation", storage.ErrDenied, 0},
		{404, "", `{"error":{"code":404,"message":"The specified bucket does not exist."}}`, "ContainerNotFound", storage.ErrUnavailable, 0},
	}
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			for _, tt := range tests {
				t.Run(fmt.Sprint(tt.status, tt.after), func(t *testing.T) {
					p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
						io.Copy(io.Discard, r.Body)
						if tt.after != "" {
							w.Header().Set("Retry-After", tt.after)
						}
						w.Header().Set("x-ms-error-code", tt.code)
						w.WriteHeader(tt.status)
						io.WriteString(w, tt.body)
					})
					defer p.set(nil)
					errs := everyMethod(t.Context(), s, "a")
					for name, err := range errs {
						if !errors.Is(err, tt.want) || errors.Is(err, storage.ErrNotExist) {
							t.Errorf("%s: got %v, want %v", name, err, tt.want)
						}
						if got := storage.RetryAfter(err); got != tt.wait {
							t.Errorf("%s: wait %v, want %v", name, got, tt.wait)
						}
						if strings.Contains(fmt.Sprint(err), "\n") {
							t.Errorf("%s: more than one line: %v", name, err)
						}
					}
					// For "not found" Google's service doesn't say of what: one look more.
					most := int64(len(errs))
					if tt.status == 404 {
						most *= 2
					}
					if got := p.requests.Load(); got > most {
						t.Errorf("%d requests for %d calls", got, len(errs))
					}
				})
			}
		})
	}
}

func TestRetained(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			p.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("x-ms-error-code", "BlobImmutableDueToPolicy")
				w.WriteHeader(map[string]int{"gcs": 403, "azure": 409}[c.name])
				io.WriteString(w, `{"error":{"code":403,"message":"kept until 2030","errors":[{"reason":"retentionPolicyNotMet"}]}}`)
			})
			for name, err := range map[string]error{"put": put(t.Context(), s, "a", "x"), "delete": s.Delete(t.Context(), "a")} {
				if !errors.Is(err, storage.ErrRetained) {
					t.Errorf("%s: got %v, want ErrRetained", name, err)
				}
			}
		})
	}
}

// recorder keeps an answer, to change it.
func change(next http.Handler, w http.ResponseWriter, r *http.Request, do func(body []byte) []byte) {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	w.Write(do(rec.Body.Bytes())) // less than the length that was promised cuts the connection
}

// A body that is cut or changed on the way is ErrUnavailable, and isn't asked for
// again behind the reader's back.
func TestBrokenBodies(t *testing.T) {
	const size = 1 << 20
	tests := []struct {
		name   string
		change func(body []byte) []byte
	}{
		{"cut at once", func([]byte) []byte { return nil }},
		{"cut in the middle", func(b []byte) []byte { return b[:len(b)/2] }},
		{"changed", func(b []byte) []byte {
			b[len(b)/2] ^= 1
			return b
		}},
	}
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			ctx := t.Context()
			if err := s.Put(ctx, "a", bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), size/16)), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) { change(next, w, r, tt.change) })
					defer p.set(nil)
					for _, swallow := range []bool{false, true} {
						p.requests.Store(0)
						err := s.Get(ctx, "a", 0, -1, func(r io.Reader) error {
							n, err := io.Copy(io.Discard, r)
							if err == nil {
								t.Errorf("the reader ended after %d bytes without an error", n)
							}
							if swallow {
								return nil
							}
							return err
						})
						if !errors.Is(err, storage.ErrUnavailable) {
							t.Errorf("get, error swallowed %v: got %v, want ErrUnavailable", swallow, err)
						}
						if n := p.requests.Load(); n != 1 {
							t.Errorf("%d requests, want 1", n)
						}
					}
				})
			}
			if got, err := get(ctx, s, "a"); err != nil || len(got) != size {
				t.Errorf("get when nothing is broken: got %d bytes, %v", len(got), err)
			}
		})
	}
}

// What is changed on its way to the service is refused by it.
func TestChangedUpload(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return // the connection of a put that was given up
				}
				r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(body, []byte("12345678"), []byte("12340678"), 1)))
				next.ServeHTTP(w, r)
			})
			if err := put(t.Context(), s, "a", "12345678"); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("put: got %v, want ErrUnavailable", err)
			}
			p.set(nil)
			if got, err := get(t.Context(), s, "a"); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("get after it: got %q, %v, want ErrNotExist", got, err)
			}
		})
	}
}

// A put that fails or is cancelled while it is being sent changes nothing.
func TestCutUpload(t *testing.T) {
	const size = 8 << 20
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			if err := put(t.Context(), s, "a", "old"); err != nil {
				t.Fatal(err)
			}
			// The service sees the first half, then the connection breaks.
			p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, size/2), brokenReader{}))
				next.ServeHTTP(w, r)
			})
			if err := s.Put(t.Context(), "a", bytes.NewReader(make([]byte, size)), storage.PutOptions{}); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("put that is cut: got %v, want ErrUnavailable", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				io.ReadFull(r.Body, make([]byte, size/2))
				cancel()
				next.ServeHTTP(w, r)
			})
			if err := s.Put(ctx, "a", bytes.NewReader(make([]byte, size)), storage.PutOptions{}); !errors.Is(err, context.Canceled) {
				t.Errorf("put that is cancelled: got %v, want context.Canceled", err)
			}
			// A body that fails when it is read the second time, to be sent.
			p.set(nil)
			fails := &failsLater{size: size, good: size + size/2}
			if err := s.Put(t.Context(), "a", fails, storage.PutOptions{}); !errors.Is(err, errBody) || errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("put of a body that fails: got %v, want its error", err)
			}
			if got, err := get(t.Context(), s, "a"); err != nil || got != "old" {
				t.Errorf("after them: got %d bytes, %v, want the old ones", len(got), err)
			}
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

var errBody = errors.New("the body is broken")

// failsLater is a body that fails once good bytes were read, in one or more passes.
type failsLater struct{ size, good int64 }

func (b *failsLater) Size() int64 { return b.size }

func (b *failsLater) ReadAt(p []byte, _ int64) (int, error) {
	if b.good -= int64(len(p)); b.good < 0 {
		return 0, errBody
	}
	return len(p), nil
}

// More objects than a page has, and a name that isn't a key among them.
func TestPages(t *testing.T) {
	const n = 1203
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			s := c.create(t, c.url(c.newPlace(), "/p"))
			var g errgroup.Group
			g.SetLimit(8)
			for i := range n {
				g.Go(func() error { return put(t.Context(), s, storage.Key("k/"+strconv.Itoa(i)), "x") })
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			p.set(nil)
			seen := map[storage.Key]bool{}
			last := storage.Key("")
			err := s.List(t.Context(), "k/", func(i storage.Info) error {
				if i.Key <= last {
					t.Errorf("%s behind %s", i.Key, last)
				}
				last = i.Key
				seen[i.Key] = true
				return nil
			})
			if err != nil || len(seen) != n {
				t.Errorf("list: got %d objects, %v, want %d", len(seen), err, n)
			}
			if got := p.requests.Load(); got != 2 {
				t.Errorf("list took %d requests, want 2", got)
			}
		})
	}
}

// A bucket that goes away is not an empty storage, and "not there" is said of objects
// only while it is there.
func TestPlaceGone(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			p := c.startBehindProxy(t)
			place := c.newPlace()
			s := c.create(t, c.url(place, ""))
			p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.URL.Path = strings.Replace(r.URL.Path, place, "nosuchplace", 1)
				next.ServeHTTP(w, r)
			})
			for name, err := range everyMethod(t.Context(), s, "a") {
				// Azure's emulator checks the signature, which has the container's name.
				if want := storage.ErrUnavailable; !errors.Is(err, want) && (c.name == "gcs" || !errors.Is(err, storage.ErrDenied)) {
					t.Errorf("%s: got %v, want %v", name, err, want)
				}
			}
		})
	}
}

func TestRefusedKeys(t *testing.T) {
	for _, c := range clouds() {
		t.Run(c.name, func(t *testing.T) {
			c.start(t)
			s := c.create(t, c.url(c.newPlace(), ""))
			for _, key := range []storage.Key{"a../b", ".../b", "a__0x2f__b"} {
				for name, err := range everyMethod(t.Context(), s, key) {
					if name != "list" && (err == nil || errors.Is(err, storage.ErrNotExist)) {
						t.Errorf("%s %s: got %v, want an error about the key", name, key, err)
					}
				}
			}
			err := s.Put(t.Context(), "a", strings.NewReader("x"), storage.PutOptions{RetainUntil: time.Now().Add(time.Hour)})
			if err == nil || !strings.Contains(err.Error(), "retention policy") {
				t.Errorf("put with a date: got %v, want that it isn't supported", err)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	noAzure(t)
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
	tests := []struct{ url, want string }{
		{"gs://", "names no bucket"},
		{"gs://key:secret@bucket", "holds no log-in"},
		{"gs://bucket?private_key_path=secret", `no parameter "private_key_path"; it can have anonymous`},
		{"gs://bucket?anonymous=perhaps", "is true or false"},
		{"gs://bucket?anonymous=true&anonymous=false", "more than once"},
		{"gs://bucket/a b", "can't have"},
		{"gs://bucket/a../b", "can't have"},
		{"gs://bucket#secret", "not a URL of a storage"},
		{"gs://bucket:443/secret", "names no bucket"},
		{"azblob://key:secret@container", "holds no log-in"},
		{"azblob://container?sig=secret", `no parameter "sig"; it can have storage_account, domain, protocol, localemu`},
		{"azblob://container", "AZURE_STORAGE_ACCOUNT or add ?storage_account="},
		{"azblob://container?storage_account=a&protocol=ftp", "http or https"},
		{"azblob://container?storage_account=a&localemu=perhaps", "true or false"},
		{"azblob://container?%zz=secret", "can't be read"},
	}
	for _, tt := range tests {
		open := cdk.OpenGCS
		if strings.HasPrefix(tt.url, "az") {
			open = cdk.OpenAzure
		}
		s, err := open(t.Context(), tt.url, cdk.Options{Create: true})
		if err == nil {
			s.Close()
			t.Errorf("%s: opened, want an error", tt.url)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %q, want %q and no secret", tt.url, err, tt.want)
		}
	}
}

func TestGCSCredentials(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
	_, err := cdk.OpenGCS(t.Context(), "gs://bucket", cdk.Options{})
	if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "GOOGLE_APPLICATION_CREDENTIALS") {
		t.Errorf("no credentials: got %v, want ErrDenied and what to set", err)
	}
	t.Setenv("STORAGE_EMULATOR_HOST", testenv.GCS(t))
	t.Setenv("GOOGLE_CLOUD_PROJECT", "")
	_, err = cdk.OpenGCS(t.Context(), "gs://none", cdk.Options{Create: true})
	if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "GOOGLE_CLOUD_PROJECT") {
		t.Errorf("create without a project: got %v, want what to set", err)
	}
}

// The ways to log in at Azure, and what none of them may show.
func TestAzureCredentials(t *testing.T) {
	startAzurite(t)
	c := clouds()[1]
	account, key, domain := os.Getenv("AZURE_STORAGE_ACCOUNT"), os.Getenv("AZURE_STORAGE_KEY"), os.Getenv("AZURE_STORAGE_DOMAIN")
	place := c.newPlace()
	c.create(t, c.url(place, ""))
	conn := "DefaultEndpointsProtocol=http;AccountName=" + account + ";AccountKey=" + key + ";BlobEndpoint=http://" + domain + "/" + account
	token := sasToken(t, account, key, domain, place)
	const wrong = "sv=2022-11-02&ss=b&srt=sco&sp=rl&se=2030-01-01T00:00:00Z&sig=c2VjcmV0"
	tests := []struct {
		name, url string
		env       map[string]string
		kind      error // nil = opens or want
		want      string
	}{
		{"account and key in the environment", "azblob://" + place, map[string]string{"ACCOUNT": account, "KEY": key, "DOMAIN": domain, "PROTOCOL": "http"}, nil, ""},
		{"place in the URL", "azblob://" + place + "?protocol=http&localemu=true&domain=" + domain, map[string]string{"ACCOUNT": account, "KEY": key}, nil, ""},
		{"connection string", "azblob://" + place, map[string]string{"CONNECTION_STRING": conn}, nil, ""},
		{"connection string and a place", "azblob://" + place + "?protocol=http", map[string]string{"CONNECTION_STRING": conn}, nil, "no parameters"},
		{"broken connection string", "azblob://" + place, map[string]string{"CONNECTION_STRING": "AccountKey=c2VjcmV0"}, nil, "can't be read"},
		{"another key", "azblob://" + place, map[string]string{"ACCOUNT": account, "KEY": "c2VjcmV0", "DOMAIN": domain, "PROTOCOL": "http"}, storage.ErrDenied, "403"},
		{"not a key", "azblob://" + place, map[string]string{"ACCOUNT": account, "KEY": "c2VjcmV0!"}, nil, "is not an account's key"},
		{"token", "azblob://" + place, map[string]string{"ACCOUNT": account, "SAS_TOKEN": token, "DOMAIN": domain, "PROTOCOL": "http"}, nil, ""},
		{"wrong token", "azblob://" + place, map[string]string{"ACCOUNT": account, "SAS_TOKEN": wrong, "DOMAIN": domain, "PROTOCOL": "http"}, storage.ErrDenied, "403"},
		{"token and a place", "azblob://" + place + "?domain=evil.example", map[string]string{"ACCOUNT": account, "SAS_TOKEN": wrong}, nil, "no parameters"},
		{"token, nobody there", "azblob://" + place, map[string]string{"ACCOUNT": account, "SAS_TOKEN": "?" + wrong, "DOMAIN": "127.0.0.1:1", "PROTOCOL": "http"}, storage.ErrUnavailable, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noAzure(t)
			for name, value := range tt.env {
				t.Setenv("AZURE_STORAGE_"+name, value)
			}
			s, err := cdk.OpenAzure(t.Context(), tt.url, cdk.Options{})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := put(t.Context(), s, "a", "x"); err != nil {
					t.Error(err)
				}
				s.Close()
				return
			}
			if err == nil {
				s.Close()
				t.Fatal("opened, want an error")
			}
			if !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("got %v, want %q and %v", err, tt.want, tt.kind)
			}
			for _, secret := range []string{"c2VjcmV0", "sig=", key} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
		})
	}
}

// sasToken returns a token with the rights that docs/clouds.md names.
func sasToken(t *testing.T, account, key, domain, place string) string {
	t.Helper()
	cred, err := container.NewSharedKeyCredential(account, key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential("http://"+domain+"/"+account+"/"+place, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	rights := sas.ContainerPermissions{Read: true, Create: true, Write: true, Delete: true, List: true}
	signed, err := client.GetSASURL(rights, time.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(signed, "?")
	return token
}

// An account that lists in another order is refused: the repository relies on it. The
// CDK itself sorts each page of Google's.
func TestListOrder(t *testing.T) {
	c := clouds()[1]
	p := c.startBehindProxy(t)
	s := c.create(t, c.url(c.newPlace(), ""))
	for _, key := range []storage.Key{"k/aaa", "k/bbb"} {
		if err := put(t.Context(), s, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		change(next, w, r, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("k/aaa"), []byte("k/ccc")) })
	})
	err := s.List(t.Context(), "", func(storage.Info) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "hierarchical namespace") {
		t.Errorf("got %v, want an error about the order", err)
	}
}
