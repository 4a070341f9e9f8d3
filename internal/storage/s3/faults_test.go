package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/s3"
	"github.com/slipcover/slipcover/internal/testenv"
)

// hook stands between the driver and the real server, which is next.
type hook func(w http.ResponseWriter, r *http.Request, next http.Handler)

// between returns the server as it is seen through what hook holds when a request
// comes; nil lets it pass.
func between(t *testing.T, server *testenv.S3Server) (*testenv.S3Server, *atomic.Pointer[hook]) {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	next := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}, ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
		panic(http.ErrAbortHandler)
	}}
	current := &atomic.Pointer[hook]{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := current.Load(); h != nil {
			(*h)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	seen := *server
	seen.Endpoint = front.URL
	return &seen, current
}

// answer is a server's error.
func answer(status int, code, message string, header ...string) hook {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if code != "" && r.Method != http.MethodHead {
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
		}
	}
}

func TestAnswers(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	front, now := between(t, server)
	s := open(t, bucketURL(front, newBucket()))
	defer s.Close()
	if err := put(s, "a", "body", storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	all := []error{storage.ErrNotExist, storage.ErrExist, storage.ErrFull, storage.ErrDenied, storage.ErrUnavailable, storage.ErrRetained}
	tests := []struct {
		name  string
		hook  hook
		want  error // nil = none of the contract's
		after time.Duration
		text  string // not of a HEAD, whose answer has none
	}{
		{"slow down", answer(503, "SlowDown", "Please reduce your request rate.", "Retry-After", "7"), storage.ErrUnavailable, 7 * time.Second, "reduce your request rate. (SlowDown)"},
		{"too many", answer(429, "", ""), storage.ErrUnavailable, 0, ""},
		{"internal", answer(500, "InternalError", "We encountered an internal error."), storage.ErrUnavailable, 0, "(InternalError)"},
		{"gateway", answer(502, "", ""), storage.ErrUnavailable, 0, "502 Bad Gateway"},
		{"damaged on the way", answer(400, "BadDigest", "The Content-MD5 you specified did not match."), storage.ErrUnavailable, 0, "(BadDigest)"},
		{"quota", answer(403, "QuotaExceeded", "too much"), storage.ErrFull, 0, "too much (QuotaExceeded)"},
		{"full", answer(507, "XMinioStorageFull", "no space"), storage.ErrFull, 0, "no space"},
		{"denied", answer(403, "AccessDenied", "Access Denied."), storage.ErrDenied, 0, "Access Denied. (AccessDenied)"},
		{"key expired", answer(400, "ExpiredToken", "The provided token has expired."), storage.ErrDenied, 0, "has expired"},
		{"unauthorized", answer(401, "", ""), storage.ErrDenied, 0, ""},
		{"bucket gone", answer(404, "NoSuchBucket", "gone"), storage.ErrUnavailable, 0, "there is no bucket"},
		{"clock", answer(403, "RequestTimeTooSkewed", "The difference is too large.", "Date", time.Now().Add(-2*time.Hour).UTC().Format(http.TimeFormat)),
			storage.ErrDenied, 0, "the clock of this machine and the storage's differ by 2h0m0s, more than the storage allows: set the clock right"},
		{"archived", answer(403, "InvalidObjectState", "no"), nil, 0, "archive class"},
		{"region", answer(301, "PermanentRedirect", "go away", "X-Amz-Bucket-Region", "eu-west-9"), nil, 0, "write region=eu-west-9"},
		{"page of a proxy", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(503)
			io.WriteString(w, "<html>\n<body>\x1b[31m"+strings.Repeat("down ", 500))
		}, storage.ErrUnavailable, 0, "<html> <body>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now.Store(&tt.hook)
			defer now.Store(nil)
			_, statErr := s.Stat(t.Context(), "a")
			_, getErr := get(s, "a")
			for op, err := range map[string]error{
				"put": put(s, "a", "other", storage.PutOptions{}), "get": getErr, "stat": statErr, "delete": s.Delete(t.Context(), "a"),
				"delete many": s.DeleteAll(t.Context(), []storage.Key{"a"}),
				"list":        s.List(t.Context(), "", func(storage.Info) error { return nil }),
			} {
				if err == nil {
					t.Errorf("%s: no error", op)
					continue
				}
				if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b") {
					t.Errorf("%s: not one line: %q", op, err)
				}
				if op == "stat" {
					continue
				}
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%s: got %q, want %q", op, err, tt.text)
				}
				for _, kind := range all {
					if got := errors.Is(err, kind); got != (kind == tt.want) {
						t.Errorf("%s: %v: is %q: %v", op, err, kind, got)
					}
				}
				if got := storage.RetryAfter(err); got != tt.after {
					t.Errorf("%s: retry after %v, want %v", op, got, tt.after)
				}
			}
			// A HEAD has the status alone, which says enough of what may pass.
			if tt.want == storage.ErrUnavailable && tt.name != "damaged on the way" && !errors.Is(statErr, storage.ErrUnavailable) {
				t.Errorf("stat: got %v, want ErrUnavailable", statErr)
			}
		})
	}
	if got, err := get(s, "a"); got != "body" || err != nil {
		t.Errorf("afterwards: got %q, %v", got, err)
	}
}

// record lets the real server answer, and keeps that.
func record(r *http.Request, next http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	next.ServeHTTP(w, r)
	return w
}

// replay sends what the server answered, with another body.
func replay(w http.ResponseWriter, from *httptest.ResponseRecorder, body []byte) {
	for k, v := range from.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(from.Code)
	w.Write(body)
}

// without hides a header from the real server, as one that doesn't know it.
func without(server *testenv.S3Server, name string) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del(name)
		r.Header.Del("Authorization")
		next.ServeHTTP(w, signer.SignV4(*r, server.AccessKey, server.SecretKey, "", server.Region))
	}
}

func TestDamage(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	front, now := between(t, server)
	bucket := newBucket()
	s := open(t, bucketURL(front, bucket)) // a busy machine may be slower than the other's timeout
	defer s.Close()
	hasty := open(t, bucketURL(front, bucket, "timeout=1s"))
	defer hasty.Close()
	body := strings.Repeat("0123456789", 100_000)
	if err := put(s, "a", body, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	cut := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		whole := record(r, next)
		replay(w, whole, whole.Body.Bytes()[:whole.Body.Len()/2])
		panic(http.ErrAbortHandler)
	}
	hang := func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	reset := func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }
	header := func(name, value string) hook {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			whole := record(r, next)
			whole.Header().Set(name, value)
			replay(w, whole, whole.Body.Bytes())
		}
	}
	whole := func() error { _, err := get(s, "a"); return err }
	part := func() error {
		return s.Get(t.Context(), "a", 10, 500_000, func(r io.Reader) error { _, err := io.ReadAll(r); return err })
	}
	putOther := func() error { return put(s, "b", body, storage.PutOptions{}) }
	tests := []struct {
		name string
		hook hook
		do   func() error
		want string
		kind error
	}{
		{"get is cut", cut, whole, "the connection ended 500000 bytes early", storage.ErrUnavailable},
		{"range is cut", cut, part, "the connection ended 250000 bytes early", storage.ErrUnavailable},
		{"one bit differs", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			whole := record(r, next)
			p := bytes.Clone(whole.Body.Bytes())
			p[777_777] ^= 1
			replay(w, whole, p)
		}, whole, "the bytes that came (MD5 ", storage.ErrUnavailable},
		{"range is ignored", without(server, "Range"), part, "the whole object instead of a range", nil},
		{"another range", header("Content-Range", "bytes 0-499999/1000000"), part, "another range", nil},
		{"shorter range", header("Content-Range", "bytes 10-499/1000000"), part, "another range", nil},
		{"get hangs", hang, func() error { _, err := get(hasty, "a"); return err }, "i/o timeout", storage.ErrUnavailable},
		{"put hangs", hang, func() error { return put(hasty, "b", body, storage.PutOptions{}) }, "i/o timeout", storage.ErrUnavailable},
		{"put is reset", reset, putOther, "", storage.ErrUnavailable},
		{"list is cut", cut, func() error { return s.List(t.Context(), "", func(storage.Info) error { return nil }) }, "EOF", storage.ErrUnavailable},
		{"other bytes are stored", header("ETag", `"0123456789abcdef0123456789abcdef"`), putOther, "the server has other bytes", storage.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now.Store(&tt.hook)
			defer now.Store(nil)
			err := tt.do()
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, storage.ErrUnavailable) != (tt.kind != nil) {
				t.Errorf("got %v, want %q of the kind %v", err, tt.want, tt.kind)
			}
		})
	}
	// A reader that fails says so to its user, and Get says it even if he doesn't.
	h := hook(cut)
	now.Store(&h)
	var readErr error
	err := s.Get(t.Context(), "a", 0, -1, func(r io.Reader) error {
		_, readErr = io.Copy(io.Discard, r)
		return nil
	})
	if readErr == nil || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a get that is cut: the reader's error is %v, Get's %v", readErr, err)
	}
}

func TestRefusedConnection(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	clearEnv(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
	_, err := s3.Open(t.Context(), "s3://bucket?endpoint="+gone.URL, s3.Options{})
	if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("got %v", err)
	}
}

func TestConditions(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	front, now := between(t, server)
	bucket := newBucket()
	plain := bucketURL(front, bucket)
	absent := storage.PutOptions{IfAbsent: true}
	open(t, plain).Close()

	ignore := without(server, "If-None-Match")
	refuse := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("If-None-Match") != "" {
			answer(501, "NotImplemented", "no")(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
	for name, h := range map[string]hook{"ignores": ignore, "refuses": refuse} {
		t.Run("server "+name+" the condition", func(t *testing.T) {
			now.Store(&h)
			defer now.Store(nil)
			s := open(t, plain)
			defer s.Close()
			if err := put(s, storage.Key(name), "mine", storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := put(s, storage.Key(name), "other", absent); !errors.Is(err, storage.ErrExist) {
				t.Errorf("put over what is there: got %v, want ErrExist", err)
			}
			if err := put(s, "new-"+storage.Key(name), "other", absent); err == nil || !strings.Contains(err.Error(), "add if_absent=check") {
				t.Errorf("put of a new one: got %v, want advice", err)
			}
			if got, err := get(s, storage.Key(name)); got != "mine" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			s = open(t, plain+"&if_absent=check")
			defer s.Close()
			if err := put(s, "check-"+storage.Key(name), "mine", absent); err != nil {
				t.Errorf("if_absent=check: %v", err)
			}
			if err := put(s, "check-"+storage.Key(name), "mine", absent); !errors.Is(err, storage.ErrExist) {
				t.Errorf("if_absent=check, again: got %v", err)
			}
		})
	}

	s := open(t, plain)
	defer s.Close()
	if err := put(s, "first", "x", absent); err != nil { // after it the server is known
		t.Fatal(err)
	}
	lose := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodPut {
			next.ServeHTTP(w, r)
			return
		}
		record(r, next)
		panic(http.ErrAbortHandler)
	})
	now.Store(&lose)
	if err := put(s, "lost", "mine", absent); err != nil {
		t.Errorf("put whose answer is lost: %v", err)
	}
	for _, body := range []string{"else", "something else"} {
		if err := put(s, "lost", body, absent); !errors.Is(err, storage.ErrExist) {
			t.Errorf("put of %q whose refusal is lost: got %v, want ErrExist", body, err)
		}
	}
	conflict := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			answer(409, "ConditionalRequestConflict", "conflict")(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
	now.Store(&conflict)
	if err := put(s, "lost", "else", absent); !errors.Is(err, storage.ErrExist) {
		t.Errorf("conflict over what is there: got %v, want ErrExist", err)
	}
	if err := put(s, "none", "else", absent); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("conflict over nothing: got %v, want ErrUnavailable", err)
	}
}

// What an operation costs, once a Store is open and knows the server.
func TestRequests(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	front, now := between(t, server)
	s := open(t, bucketURL(front, newBucket(), "part_size=5MiB"))
	defer s.Close()
	if err := put(s, "first", "x", storage.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	count := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		n.Add(1)
		next.ServeHTTP(w, r)
	})
	now.Store(&count)
	large := strings.Repeat("large", 3<<20) // 15 MiB
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		want int64
		do   func() error
	}{
		{"put", 1, func() error { return put(s, "a", "a", storage.PutOptions{}) }},
		{"put if absent", 1, func() error { return put(s, "b", "b", storage.PutOptions{IfAbsent: true}) }},
		{"put in 3 parts", 5, func() error { return put(s, "c", large, storage.PutOptions{}) }},
		{"put in 3 parts if absent", 7, func() error { return put(s, "d", large, storage.PutOptions{IfAbsent: true}) }},
		{"get", 1, func() error { _, err := get(s, "c"); return err }},
		{"stat", 1, func() error { _, err := s.Stat(ctx, "a"); return err }},
		{"list", 1, func() error { return s.List(ctx, "", func(storage.Info) error { return nil }) }},
		{"delete", 1, func() error { return s.Delete(ctx, "a") }},
		{"delete many", 1, func() error { return s.DeleteAll(ctx, []storage.Key{"b", "c", "d"}) }},
	} {
		n.Store(0)
		if err := tt.do(); err != nil || n.Load() != tt.want {
			t.Errorf("%s: %d requests, want %d; %v", tt.name, n.Load(), tt.want, err)
		}
	}
}

// A put that fails leaves no parts behind.
func TestAbort(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	front, now := between(t, server)
	bucket := newBucket()
	s := open(t, bucketURL(front, bucket, "part_size=5MiB"))
	defer s.Close()
	large := strings.Repeat("large", 3<<20)
	for name, fails := range map[string]func(*http.Request) bool{
		"a part":   func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" },
		"the last": func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") },
	} {
		// Parts that are under way may be stored by the server after it has removed the
		// upload, so the one that fails does so after the other two.
		parts := make(chan bool, 3)
		h := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			isPart := r.URL.Query().Has("partNumber")
			if fails(r) {
				for range 2 {
					if isPart {
						<-parts
					}
				}
				answer(503, "SlowDown", "slow")(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
			if isPart {
				parts <- true
			}
		})
		now.Store(&h)
		if err := put(s, "a", large, storage.PutOptions{}); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s fails: got %v", name, err)
		}
		for left := range client(t, server).ListIncompleteUploads(t.Context(), bucket, "", true) {
			t.Errorf("%s fails: left %+v", name, left)
		}
		if _, err := get(s, "a"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s fails: get: %v, want ErrNotExist", name, err)
		}
	}
}
