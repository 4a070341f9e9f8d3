package swift_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/swift"
	"github.com/slipcover/slipcover/internal/testenv"
)

// front is a proxy before a real Swift that does as the test says and notes
// requests.
type front struct {
	*httptest.Server
	pass func(http.ResponseWriter, *http.Request) // to Swift

	mu       sync.Mutex
	requests []string                                     // guarded by mu
	fault    func(w http.ResponseWriter, r *http.Request) // guarded by mu; nil passes all on
}

// newFront returns the proxy and the variables of a log-in through it.
func newFront(t *testing.T) (*front, map[string]string) {
	t.Helper()
	s := testenv.Swift(t)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	f := &front{pass: proxy.ServeHTTP}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.Path)
		fault := f.fault
		f.mu.Unlock()
		if fault == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		fault(w, r)
	}))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	vars := map[string]string{"ST_AUTH": f.URL + "/auth/v1.0", "ST_USER": s.Vars["ST_USER"], "ST_KEY": s.Vars["ST_KEY"],
		"OS_STORAGE_URL": strings.Replace(s.Vars["SWIFT_STORAGE_URL"], s.URL, f.URL, 1)}
	return f, vars
}

func (f *front) set(fault func(w http.ResponseWriter, r *http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.requests = fault, nil
}

// refuse answers requests with a query by a status, and passes others on.
func (f *front) refuse(query string, status int) {
	f.set(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, query) {
			w.WriteHeader(status)
			return
		}
		f.pass(w, r)
	})
}

func (f *front) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func get(t *testing.T, s storage.Store, key storage.Key) (string, error) {
	t.Helper()
	var got []byte
	err := s.Get(t.Context(), key, 0, -1, func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	return string(got), err
}

func put(t *testing.T, s storage.Store, key storage.Key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(body), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

var isNew = storage.PutOptions{IfAbsent: true}

// A put of a segment of the repository is one request, and so is a get.
func TestRequests(t *testing.T) {
	t.Parallel()
	f, vars := newFront(t)
	s := open(t, newContainer(), vars)
	body := bytes.NewReader(make([]byte, 2<<20))
	f.set(nil)
	if err := s.Put(t.Context(), "a", body, isNew); err != nil {
		t.Fatal(err)
	}
	if got := f.seen(); len(got) != 1 {
		t.Errorf("put: got the requests %q, want one", got)
	}
	f.set(nil)
	if _, err := get(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	if got := f.seen(); len(got) != 1 {
		t.Errorf("get: got the requests %q, want one", got)
	}
	if err := s.Put(t.Context(), "small", strings.NewReader("x"), isNew); err != nil {
		t.Fatal(err)
	}
	if got := len(f.seen()); got != 1+4 {
		t.Errorf("put of a small body if absent: got %d requests, want claim, list, put, release: %q", got-1, f.seen())
	}
	var keys []storage.Key
	for _, c := range "bcdefghij" {
		put(t, s, storage.Key(c), "x")
		keys = append(keys, storage.Key(c))
	}
	f.set(nil)
	if err := s.DeleteAll(t.Context(), append(keys, "none")); err != nil {
		t.Fatal(err)
	}
	if got := f.seen(); len(got) != 2 || !strings.HasPrefix(got[1], "POST ") { // the first is /info
		t.Errorf("delete of 10 objects: got the requests %q, want /info and one more", got)
	}
	left := 0
	if err := s.List(t.Context(), "", func(storage.Info) error { left++; return nil }); err != nil || left != 2 {
		t.Errorf("list: got %d objects, %v, want 2", left, err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	f, vars := newFront(t)
	s := open(t, newContainer(), vars)
	put(t, s, "a", "body")
	tests := []struct {
		status int
		body   string
		header http.Header
		want   error
		after  time.Duration
	}{
		{429, "", http.Header{"Retry-After": {"7"}}, storage.ErrUnavailable, 7 * time.Second},
		{498, "", nil, storage.ErrUnavailable, 0},
		{503, "", http.Header{"Retry-After": {"3"}}, storage.ErrUnavailable, 3 * time.Second},
		{503, "", http.Header{"Retry-After": {"Mon, 02 Jan 2006 15:04:15 GMT"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}}, storage.ErrUnavailable, 10 * time.Second},
		{500, "", nil, storage.ErrUnavailable, 0},
		{403, "", nil, storage.ErrDenied, 0},
		{401, "", nil, storage.ErrDenied, 0},
		{507, "", nil, storage.ErrFull, 0},
		{413, "Upload exceeds quota.", nil, storage.ErrFull, 0},
	}
	for _, tt := range tests {
		f.set(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/auth") {
				f.pass(w, r)
				return
			}
			for k, v := range tt.header {
				w.Header()[k] = v
			}
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		})
		_, getErr := get(t, s, "a")
		_, statErr := s.Stat(t.Context(), "a")
		for name, err := range map[string]error{
			"put":        s.Put(t.Context(), "a", strings.NewReader("x"), storage.PutOptions{}),
			"put new":    s.Put(t.Context(), "b", strings.NewReader("x"), isNew),
			"get":        getErr,
			"stat":       statErr,
			"delete":     s.Delete(t.Context(), "a"),
			"delete all": s.DeleteAll(t.Context(), []storage.Key{"a", "b"}),
			"list":       s.List(t.Context(), "", func(storage.Info) error { return nil }),
		} {
			if !errors.Is(err, tt.want) || storage.RetryAfter(err) != tt.after {
				if tt.status == 413 && name != "put" && name != "put new" || tt.status == 403 && name == "delete all" {
					continue // isn't said to it
				}
				t.Errorf("%d, %s: got %v, after %v, want %v, %v", tt.status, name, err, storage.RetryAfter(err), tt.want, tt.after)
			}
		}
	}
	f.set(nil)
	if got, err := get(t, s, "a"); err != nil || got != "body" {
		t.Errorf("after the faults: got %q, %v", got, err)
	}
}

func TestCutInTheMiddle(t *testing.T) {
	t.Parallel()
	f, vars := newFront(t)
	s := open(t, newContainer(), vars)
	put(t, s, "a", strings.Repeat("x", 3<<20))
	f.set(func(w http.ResponseWriter, r *http.Request) {
		f.pass(&cutWriter{ResponseWriter: w, left: 1 << 20}, r)
	})
	_, err := get(t, s, "a")
	if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, io.EOF) {
		t.Errorf("an answer that is cut: got %v, want ErrUnavailable", err)
	}
	swallow := func(r io.Reader) error { io.Copy(io.Discard, r); return nil }
	if err := s.Get(t.Context(), "a", 0, -1, swallow); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("an answer that is cut, and fn says nothing: got %v, want ErrUnavailable", err)
	}
	f.set(func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		panic(http.ErrAbortHandler)
	})
	if err := s.Put(t.Context(), "b", bytes.NewReader(make([]byte, 3<<20)), isNew); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a put that is cut: got %v, want ErrUnavailable", err)
	}
	f.set(nil)
	if _, err := s.Stat(t.Context(), "b"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("after a put that was cut: got %v, want ErrNotExist", err)
	}
}

// cutWriter ends the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

// A byte that is changed on the way is noticed, both ways.
func TestChangedOnTheWay(t *testing.T) {
	t.Parallel()
	f, vars := newFront(t)
	s := open(t, newContainer(), vars)
	put(t, s, "a", "body")
	f.set(func(w http.ResponseWriter, r *http.Request) { f.pass(flipWriter{w}, r) })
	if got, err := get(t, s, "a"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("get: got %q, %v, want ErrUnavailable", got, err)
	}
	f.set(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(text) > 0 {
			text[0] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		f.pass(w, r)
	})
	if err := s.Put(t.Context(), "b", strings.NewReader("body"), isNew); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("put: got %v, want ErrUnavailable", err)
	}
	f.set(nil)
	if _, err := s.Stat(t.Context(), "b"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("what was changed on the way was stored: %v", err)
	}
	// A server that says it stored something else.
	f.set(func(w http.ResponseWriter, r *http.Request) {
		sum := md5.Sum([]byte("other"))
		w.Header().Set("Etag", hex.EncodeToString(sum[:]))
		w.WriteHeader(http.StatusCreated)
	})
	if err := s.Put(t.Context(), "c", strings.NewReader("body"), storage.PutOptions{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("put that is answered with another checksum: got %v, want ErrUnavailable", err)
	}
}

type flipWriter struct{ http.ResponseWriter }

func (w flipWriter) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	q[0] ^= 1
	return w.ResponseWriter.Write(q)
}

func TestStall(t *testing.T) {
	f, vars := newFront(t)
	s := open(t, newContainer()+"?timeout=10s", vars)
	put(t, s, "a", "body")
	release := make(chan struct{})
	defer close(release)
	f.set(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	if _, err := get(t, s, "a"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("get from a server that stalls: got %v, want ErrUnavailable", err)
	}
	// The body is read slowly, for longer than the timeout as a whole.
	f.set(func(w http.ResponseWriter, r *http.Request) {
		r.Body = io.NopCloser(&slowReader{r: r.Body})
		f.pass(w, r)
	})
	if err := s.Put(t.Context(), "b", bytes.NewReader(make([]byte, 16<<20)), isNew); err != nil {
		t.Errorf("put that goes slowly: %v", err)
	}
}

// slowReader gives 1 MiB each 700 ms.
type slowReader struct {
	r    io.Reader
	left int
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.left <= 0 {
		time.Sleep(700 * time.Millisecond) // a slow server is what is tested
		s.left = 1 << 20
	}
	n, err := s.r.Read(p)
	s.left -= n
	return n, err
}

func TestTokenEnds(t *testing.T) {
	t.Parallel()
	server := testenv.StartSwift(t, testenv.SwiftOptions{}) // others must keep their tokens
	s := open(t, newContainer(), server.Vars)
	put(t, s, "a", "body")
	// Swift refuses before it has the body, and its answer and the end of the
	// connection come in either order.
	for i := range 40 {
		server.ForgetTokens(t)
		if err := s.Put(t.Context(), storage.Key(fmt.Sprint("b", i)), bytes.NewReader(make([]byte, 2<<20)), isNew); err != nil {
			t.Errorf("put %d with a token that has ended: %v", i, err)
		}
	}
	server.ForgetTokens(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := get(t, s, "a"); err != nil || got != "body" {
				t.Errorf("get with a token that has ended: got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
}

func TestTokenRevoked(t *testing.T) {
	server, k := testenv.SwiftKeystone(t)
	token, _ := k.Token(t, k.Vars)
	storageURL := server.URL + "/v1/AUTH_" + k.Vars["DEMO_PROJECT_ID"]
	bare := map[string]string{"OS_AUTH_TOKEN": token, "OS_STORAGE_URL": storageURL}
	both := map[string]string{"OS_AUTH_TOKEN": token, "OS_STORAGE_URL": storageURL}
	for name, v := range k.Vars {
		both[name] = v
	}
	k.Revoke(t, token) // before Swift has seen it
	if _, err := swift.Open(t.Context(), newContainer(), swift.Options{Create: true, Getenv: getenv(bare)}); !errors.Is(err, storage.ErrDenied) || strings.Contains(err.Error(), token) {
		t.Errorf("a token that was revoked: got %v, want ErrDenied", err)
	}
	s := open(t, newContainer(), both)
	put(t, s, "a", "body")
}

func TestDenied(t *testing.T) {
	server, k := testenv.SwiftKeystone(t)
	mine, container := k.Vars, newContainer()
	put(t, open(t, container, mine), "a", "body")
	other := k.User("other", "other")
	other["OS_STORAGE_URL"] = server.URL + "/v1/AUTH_" + k.Vars["DEMO_PROJECT_ID"]
	wrong := k.User("demo", "demo")
	wrong["OS_PASSWORD"] = "not-it"
	for name, vars := range map[string]map[string]string{"user of another project": other, "wrong password": wrong, "reader": k.User("backup-only", "demo")} {
		_, err := swift.Open(t.Context(), container, swift.Options{Getenv: getenv(vars)})
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", name, err)
		}
		if err != nil && strings.Contains(err.Error(), vars["OS_PASSWORD"]) {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

// What docs/swift.md says of users of other projects.
func TestRules(t *testing.T) {
	server, k := testenv.SwiftKeystone(t)
	url := newContainer()
	put(t, open(t, url+"?segment_size=1MiB", k.Vars), "a", "body")
	other := k.User("other", "other")
	_, user := k.Token(t, other)
	rule := k.Vars["OTHER_PROJECT_ID"] + ":" + user
	container := strings.TrimPrefix(url, "swift://")
	for _, name := range []string{container, container + "_segments"} {
		command(t, append(k.Env(), "ST_AUTH_VERSION=3"), "post", name, "--read-acl", rule, "--write-acl", rule)
	}
	other["OS_STORAGE_URL"] = server.URL + "/v1/AUTH_" + k.Vars["DEMO_PROJECT_ID"]
	s, err := swift.Open(t.Context(), url+"?segment_size=1MiB", swift.Options{Getenv: getenv(other)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := get(t, s, "a"); err != nil || got != "body" {
		t.Errorf("get: got %q, %v", got, err)
	}
	if err := s.Put(t.Context(), "b", strings.NewReader("x"), isNew); err != nil {
		t.Errorf("put if absent: %v", err)
	}
	if err := s.Put(t.Context(), "c", bytes.NewReader(make([]byte, 3<<20)), isNew); err != nil {
		t.Errorf("put of a large object: %v", err)
	}
	if err := s.DeleteAll(t.Context(), []storage.Key{"a", "b", "c"}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := s.List(t.Context(), "", func(i storage.Info) error { return errors.New(string(i.Key)) }); err != nil {
		t.Errorf("list after delete: %v", err)
	}
}

func TestContainerGone(t *testing.T) {
	t.Parallel()
	vars := testenv.Swift(t).Vars
	url := newContainer()
	if _, err := swift.Open(t.Context(), url, swift.Options{Getenv: getenv(vars)}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("open of what isn't there: got %v, want ErrUnavailable", err)
	}
	s := open(t, url, vars)
	command(t, testenv.Swift(t).Env(), "delete", strings.TrimPrefix(url, "swift://"))
	_, getErr := get(t, s, "a")
	for name, err := range map[string]error{
		"get":        getErr,
		"put":        s.Put(t.Context(), "a", strings.NewReader("x"), storage.PutOptions{}),
		"put new":    s.Put(t.Context(), "a", strings.NewReader("x"), isNew),
		"delete":     s.Delete(t.Context(), "a"),
		"delete all": s.DeleteAll(t.Context(), []storage.Key{"a", "b"}),
		"list":       s.List(t.Context(), "", func(storage.Info) error { return nil }),
	} {
		if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	server := testenv.Swift(t)
	url := newContainer()
	s := open(t, url, server.Vars)
	command(t, server.Env(), "post", "-m", "quota-bytes: 10", strings.TrimPrefix(url, "swift://"))
	if err := s.Put(t.Context(), "a", strings.NewReader("more than ten"), storage.PutOptions{}); !errors.Is(err, storage.ErrFull) {
		t.Errorf("over the quota: got %v, want ErrFull", err)
	}
}

// Two stores have nothing in common but the server.
func TestIfAbsentOfTwoStores(t *testing.T) {
	t.Parallel()
	vars := testenv.Swift(t).Vars
	url := newContainer()
	stores := []*swift.Store{open(t, url, vars), open(t, url, vars)}
	for round := range 20 {
		errs := make([]error, len(stores))
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				<-start
				errs[i] = s.Put(t.Context(), storage.Key("k/"+string(rune('a'+round))), strings.NewReader("x"), isNew)
			})
		}
		close(start)
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, storage.ErrExist) {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d puts won", round, won)
		}
	}
}

// pattern is a Body of any size that takes no memory.
type pattern int64

func (p pattern) Size() int64 { return int64(p) }

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	b = b[:min(int64(len(b)), int64(p)-off)]
	for i := range b {
		b[i] = byte((off + int64(i)) >> 12)
	}
	return len(b), nil
}

func TestMemory(t *testing.T) {
	s := open(t, newContainer()+"?segment_size=64MiB", testenv.Swift(t).Vars)
	const size = 1 << 30
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.Put(t.Context(), "a", pattern(size), isNew); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
		t.Errorf("a put of 1 GiB allocated %d bytes, want at most 32 MiB", got)
	}
	info, err := s.Stat(t.Context(), "a")
	if err != nil || info.Size != size {
		t.Errorf("stat: got %d bytes, %v", info.Size, err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}
