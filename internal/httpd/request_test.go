package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/httpd"
)

// api returns an API with all that it can have, and its log, audit log and metrics.
func api(t *testing.T) (a httpd.API, log *logs, audit string, reg *prometheus.Registry) {
	t.Helper()
	log, reg = &logs{}, prometheus.NewRegistry()
	metrics, err := httpd.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	audit = filepath.Join(t.TempDir(), "audit.log")
	file, err := httpd.OpenAudit(audit, log.logger(), reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return httpd.API{
		Name: "test", Log: log.logger(), Metrics: metrics, Audit: file,
		Broken: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) },
		TooMany: func(w http.ResponseWriter, _ *http.Request, a httpd.Allowance) {
			http.Error(w, fmt.Sprint("over ", a.Limit), http.StatusRequestEntityTooLarge)
		},
	}, log, audit, reg
}

func records(t *testing.T, path string) []httpd.AuditRecord {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []httpd.AuditRecord
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var r httpd.AuditRecord
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("line %q: %v", s.Text(), err)
		}
		all = append(all, r)
	}
	return all
}

func send(t *testing.T, method, url string, body io.Reader, header ...string) (reply, error) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text), resp.ProtoMajor, resp.TLS}, err
}

func TestRequest(t *testing.T) {
	a, log, audit, reg := api(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, r *http.Request) {
		q := httpd.Of(r.Context())
		q.User, q.Project = "ann", "shop"
		io.WriteString(w, q.ID)
	})
	mux.HandleFunc("POST /things", func(w http.ResponseWriter, r *http.Request) {
		q := httpd.Of(r.Context())
		q.User, q.UserID, q.Project, q.Role, q.Action, q.Target = "ann", "u1", "shop", "operator", "thing.create", "t1"
		w.WriteHeader(http.StatusAccepted)
		// Whoever sees the answer finds it in the audit log.
		if n := len(records(t, audit)); n != 1 {
			t.Errorf("%d records when the answer begins", n)
		}
	})
	mux.HandleFunc("DELETE /things/{id}", func(w http.ResponseWriter, r *http.Request) {
		httpd.Of(r.Context()).User = "ann"
		http.Error(w, "busy", http.StatusConflict)
	})
	mux.HandleFunc("PUT /nobody", func(http.ResponseWriter, *http.Request) {})
	url, _ := serve(t, httpd.Options{Handler: a.Handler(mux)})

	resp, err := send(t, "GET", url+"/things/1?secret=s3cr3t", nil, "X-Auth-Token", "t0ken", "User-Agent", "ag3nt", httpd.RequestIDHeader, "req-mine")
	id := resp.header.Get(httpd.RequestIDHeader)
	if err != nil || id != resp.body || !regexp.MustCompile(`^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("request id %q, in the context %q, %v", id, resp.body, err)
	}
	for _, c := range []struct{ method, path string }{{"POST", "/things"}, {"DELETE", "/things/2"}, {"PUT", "/nobody"}, {"GET", "/nowhere"}, {"BREW", "/things"}} {
		resp, err := send(t, c.method, url+c.path, nil)
		if err != nil || resp.header.Get(httpd.RequestIDHeader) == id {
			t.Errorf("%s %s: %v", c.method, c.path, err)
		}
	}
	await(t, func() bool { return strings.Count(log.String(), "msg=request") == 6 }) // they are written after the answer
	out := log.String()
	for _, want := range []string{
		`api=test method=GET route="GET /things/{id}" status=200`, "bytes=40", "request_id=" + id, "user=ann project=shop address=127.0.0.1",
		`method=DELETE route="DELETE /things/{id}" status=409`, `method=GET route="" status=404`, "method=other",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the log lacks %q:\n%s", want, out)
		}
	}
	for _, not := range []string{"s3cr3t", "t0ken", "nowhere"} {
		if strings.Contains(out, not) {
			t.Errorf("the log has %q:\n%s", not, out)
		}
	}

	got := records(t, audit)
	if len(got) != 2 {
		t.Fatalf("audit log: %+v", got)
	}
	if r := got[0]; r.User != "ann" || r.UserID != "u1" || r.Project != "shop" || r.Role != "operator" || r.Action != "thing.create" || r.Target != "t1" ||
		r.Outcome != "ok" || r.Status != 202 || r.Address != "127.0.0.1" || !strings.HasPrefix(r.RequestID, "req-") || time.Since(r.Time) > time.Minute {
		t.Errorf("audit log: %+v", r)
	}
	if r := got[1]; r.Action != "DELETE /things/{id}" || r.Target != "/things/2" || r.Outcome != "failed" || r.Status != 409 {
		t.Errorf("audit log: %+v", r)
	}

	page := scrape(t, httpd.MetricsHandler(reg, "", false))
	for _, want := range []string{
		`slipcover_http_requests_total{api="test",code="200",method="GET"} 1`,
		`slipcover_http_requests_total{api="test",code="202",method="POST"} 1`,
		`slipcover_http_requests_total{api="test",code="405",method="other"} 1`,
		`slipcover_http_request_duration_seconds_count{api="test"} 6`,
		`slipcover_http_in_flight_requests{api="test"} 0`,
		`slipcover_audit_failures_total 0`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("metrics lack %q:\n%s", want, page)
		}
	}
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return rec.Body.String()
}

func BenchmarkRequest(b *testing.B) {
	reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	metrics, err := httpd.NewMetrics(reg)
	if err != nil {
		b.Fatal(err)
	}
	audit, err := httpd.OpenAudit(filepath.Join(b.TempDir(), "audit.log"), log, reg)
	if err != nil {
		b.Fatal(err)
	}
	defer audit.Close()
	h := httpd.API{Log: log, Metrics: metrics, Audit: audit, Addresses: httpd.NewLimiter(1 << 30)}.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httpd.Of(r.Context()).User = "ann"
		ok(w, r)
	}))
	for _, method := range []string{"GET", "POST"} { // of which the second is in the audit log
		b.Run(method, func(b *testing.B) {
			for b.Loop() {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/", nil))
			}
		})
	}
}

func TestPanic(t *testing.T) {
	a, log, audit, _ := api(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /before", func(_ http.ResponseWriter, r *http.Request) {
		httpd.Of(r.Context()).User = "ann"
		panic("the roof")
	})
	mux.HandleFunc("POST /within", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half of ")
		http.NewResponseController(w).Flush()
		panic("the floor")
	})
	mux.HandleFunc("POST /abort", func(_ http.ResponseWriter, r *http.Request) {
		httpd.Of(r.Context()).User = "bob"
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("POST /fine", ok)
	url, _ := serve(t, httpd.Options{Handler: a.Handler(mux)})
	resp, err := send(t, "POST", url+"/before", nil)
	if err != nil || resp.status != 500 || strings.TrimSpace(resp.body) != "broken" {
		t.Errorf("before the answer: %v, %q, %v", resp, resp.body, err)
	}
	if got := records(t, audit); len(got) != 1 || got[0].Status != 500 || got[0].Outcome != "failed" {
		t.Errorf("audit log: %+v", got)
	}
	if resp, err := send(t, "POST", url+"/within", nil); err == nil {
		t.Errorf("half an answer looks whole: %q", resp.body)
	}
	if resp, err := send(t, "POST", url+"/abort", nil); err == nil {
		t.Errorf("a request that was given up got an answer: %q", resp.body)
	}
	if got := records(t, audit); len(got) != 2 || got[1].Status != 499 || got[1].User != "bob" {
		t.Errorf("audit log: %+v", got)
	}
	if resp, err := send(t, "POST", url+"/fine", nil); err != nil || resp.status != 200 {
		t.Errorf("the server doesn't go on: %v", err)
	}
	out := log.String()
	if !strings.Contains(out, "the roof") || !strings.Contains(out, "the floor") || !strings.Contains(out, "request_test.go") || strings.Count(out, `"handler panicked"`) != 2 {
		t.Errorf("the log: %s", out)
	}
}

func TestMaxBody(t *testing.T) {
	a, _, _, _ := api(t)
	url, _ := serve(t, httpd.Options{Handler: a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}))})
	for size, want := range map[int]int{1 << 20: 200, 1<<20 + 1: 413} {
		for _, body := range []io.Reader{bytes.NewReader(make([]byte, size)), io.MultiReader(bytes.NewReader(make([]byte, size)))} { // with a length, and in chunks
			if resp, err := send(t, "POST", url, body); err != nil || resp.status != want {
				t.Errorf("%d bytes: %v, %v, want %d", size, resp, err, want)
			}
		}
	}
}

func TestAddressLimit(t *testing.T) {
	a, log, _, _ := api(t)
	a.Addresses = httpd.NewLimiter(1)
	url, _ := serve(t, httpd.Options{Handler: a.Handler(http.HandlerFunc(ok))})
	for i, want := range []int{200, 413, 413} {
		resp, err := send(t, "GET", url, nil)
		if err != nil || resp.status != want {
			t.Fatalf("request %d: %v, %v", i, resp, err)
		}
		// A minute for one more, less what the test took.
		wait, _ := strconv.Atoi(resp.header.Get("Retry-After"))
		if want == 413 && (wait < 1 || wait > 60 || strings.TrimSpace(resp.body) != "over 1" || resp.header.Get(httpd.RequestIDHeader) == "") {
			t.Errorf("request %d: %v, %q", i, resp.header, resp.body)
		}
	}
	await(t, func() bool { return strings.Count(log.String(), "level=DEBUG msg=request") == 2 })
}

// Many callers share an address, behind a proxy: who is known is not held up by strangers
// who ask too often, and doesn't count among them.
func TestWhoIsKnownPassesTheLimitOfHisAddress(t *testing.T) {
	a, _, _, _ := api(t)
	a.Addresses = httpd.NewLimiter(1)
	known := func(r *http.Request) bool { return r.Header.Get("X-Auth-Token") == "good" }
	a.Known = known
	url, _ := serve(t, httpd.Options{Handler: a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		httpd.Of(r.Context()).User = "ann"
	}))})
	ask := func(token string, want int) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Auth-Token", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("token %s: got %d, want %d", token, resp.StatusCode, want)
		}
	}
	for range 3 {
		ask("good", 200)
	}
	ask("bad", 401)
	ask("bad", 413)
	ask("good", 200)
}

func TestLimiter(t *testing.T) {
	l, now := httpd.NewLimiter(60), time.Now()
	for i := range 60 {
		if a := l.AllowAt("a", now); !a.OK || a.Limit != 60 || a.Remaining != 59-i {
			t.Fatalf("request %d: %+v", i, a)
		}
	}
	for range 3 { // those that are refused don't count
		if a := l.AllowAt("a", now); a.OK || a.Wait != time.Second || a.Remaining != 0 {
			t.Fatalf("over the limit: %+v", a)
		}
	}
	if a := l.LookAt("a", now); a.OK || a.Wait != time.Second {
		t.Errorf("a look over the limit: %+v", a)
	}
	for range 2 {
		if a := l.LookAt("b", now); !a.OK || a.Remaining != 60 {
			t.Errorf("a look: %+v", a)
		}
	}
	if a := l.AllowAt("b", now); !a.OK {
		t.Errorf("another key: %+v", a)
	}
	if a := l.AllowAt("a", now.Add(time.Second)); !a.OK {
		t.Errorf("after the wait: %+v", a)
	}
	for i := range 2 * httpd.MaxBuckets {
		l.AllowAt(fmt.Sprint(i), now)
		if l.AllowAt("a", now).OK {
			t.Fatal("a key that is in use was forgotten")
		}
	}
	if l.Buckets() > httpd.MaxBuckets {
		t.Errorf("%d buckets", l.Buckets())
	}
	if httpd.NewLimiter(0) != nil || !httpd.NewLimiter(-1).Allow("a").OK {
		t.Error("no limit is a limit")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				l.Allow(fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "x": "x",
	} {
		if got := httpd.AddressKey(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestProxies(t *testing.T) {
	a := &httpd.API{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:99", []string{"198.51.100.1"}, "192.0.2.1"}, // no proxy of ours: it may say what it likes
		{"10.0.0.1:99", nil, "10.0.0.1"},
		{"10.0.0.1:99", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::1]:99", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:99", []string{"203.0.113.9, 198.51.100.1", "10.2.2.2"}, "198.51.100.1"}, // what the client wrote itself doesn't count
		{"10.0.0.1:99", []string{"nonsense"}, "10.0.0.1"},
		{"10.0.0.1:99", []string{"10.1.1.1"}, "10.1.1.1"},
		{"[2001:db8::1]:99", nil, "2001:db8::1"},
	} {
		if got := a.AddressOf(c.remote, c.forwarded...); got != c.want {
			t.Errorf("%s, %q: got %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	whole := `{"time":"2026-01-02T03:04:05Z","user":"ann","action":"a","outcome":"ok"}` + "\n"
	if err := os.WriteFile(path, []byte(whole+`{"time":"2026-01-0`), 0o600); err != nil { // a power cut
		t.Fatal(err)
	}
	var log logs
	reg := prometheus.NewRegistry()
	a, err := httpd.OpenAudit(path, log.logger(), reg)
	if err != nil {
		t.Fatal(err)
	}
	write := func(user string, n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() { a.Write(t.Context(), httpd.AuditRecord{User: user, Action: "x\ny", Outcome: "ok"}) })
		}
		wg.Wait()
	}
	write("bob", 20)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 23 || lines[0]+"\n" != whole || lines[1] != `{"time":"2026-01-0` || !strings.Contains(lines[2], `"user":"bob"`) {
		t.Fatalf("%d lines: %s", len(lines), text)
	}

	// As logrotate does it.
	old := path + ".1"
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	write("carl", 1)
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	write("dora", 1)
	if got := records(t, path); len(got) != 1 || got[0].User != "dora" {
		t.Errorf("the new file: %+v", got)
	}
	if text, _ := os.ReadFile(old); !strings.HasSuffix(string(text), "\n") || !strings.Contains(string(text), "carl") {
		t.Errorf("the old file: %s", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	write("emil", 1)
	if page := scrape(t, httpd.MetricsHandler(reg, "", false)); !strings.Contains(page, "slipcover_audit_failures_total 1") {
		t.Errorf("metrics: %s", page)
	}
	if out := log.String(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "user=emil") {
		t.Errorf("the log: %s", out)
	}
	var none *httpd.Audit
	none.Write(t.Context(), httpd.AuditRecord{})
	if none.Close() != nil || none.Reopen() != nil {
		t.Error("no audit log fails")
	}
	if _, err := httpd.OpenAudit(filepath.Join(t.TempDir(), "no", "audit.log"), log.logger(), prometheus.NewRegistry()); err == nil {
		t.Error("a folder that isn't there")
	}
}

// A full disk: the work goes on, and the failure is seen.
func TestAuditFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full")
	}
	var log logs
	reg := prometheus.NewRegistry()
	a, err := httpd.OpenAudit("/dev/full", log.logger(), reg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Write(t.Context(), httpd.AuditRecord{User: "ann", Action: "x"})
	if page := scrape(t, httpd.MetricsHandler(reg, "", false)); !strings.Contains(page, "slipcover_audit_failures_total 1") || !strings.Contains(log.String(), "no space") {
		t.Errorf("metrics: %s\nlog: %s", page, log.String())
	}
}

func TestHealth(t *testing.T) {
	mux := http.NewServeMux()
	var bad error
	mux.Handle("/healthz", httpd.Healthz())
	mux.Handle("/readyz", httpd.Readyz(slog.New(slog.DiscardHandler), "",
		httpd.Check{Name: "bus", Run: func(context.Context) error { return nil }},
		httpd.Check{Name: "keystone", Run: func(context.Context) error { return bad }}))
	url, _ := serve(t, httpd.Options{Handler: mux})
	if resp := get(t, http.DefaultClient, url+"/healthz"); resp.status != 200 || resp.body != "ok\n" {
		t.Errorf("%+v", resp)
	}
	if resp := get(t, http.DefaultClient, url+"/readyz"); resp.status != 200 || resp.body != `{"ready":true,"checks":{"bus":"ok","keystone":"ok"}}`+"\n" {
		t.Errorf("%+v", resp)
	}
}

func TestReadyzFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		var log bytes.Buffer
		z := httpd.Readyz(slog.New(slog.NewTextHandler(&log, nil)), "",
			httpd.Check{Name: "hangs", Run: func(ctx context.Context) error { time.Sleep(time.Minute); return nil }},
			httpd.Check{Name: "bad", Run: func(context.Context) error { runs++; return errors.New("connection refused") }},
			httpd.Check{Name: "good", Run: func(context.Context) error { return nil }})
		ask := func() *httptest.ResponseRecorder {
			rec := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/readyz", nil)
			r.RemoteAddr = "127.0.0.1:1"
			z.ServeHTTP(rec, r)
			return rec
		}
		begin := time.Now()
		rec := ask()
		if took := time.Since(begin); took != 5*time.Second || rec.Code != 503 ||
			rec.Body.String() != `{"ready":false,"checks":{"bad":"connection refused","good":"ok","hangs":"no answer within 5s"}}`+"\n" {
			t.Errorf("after %v: %d %s", took, rec.Code, rec.Body)
		}
		for range 10 {
			ask()
		}
		if runs != 1 {
			t.Errorf("the checks ran %d times at once", runs)
		}
		time.Sleep(time.Second)
		ask()
		if runs != 2 {
			t.Errorf("the checks ran %d times", runs)
		}
		if text := log.String(); strings.Count(text, "not ready") != 1 || !strings.Contains(text, "connection refused") {
			t.Errorf("the log: %s", text)
		}
		time.Sleep(2 * time.Minute) // until those that hang end
	})
}

// Strangers learn whether the server is ready, and not what it is made of.
func TestReadyzTellsStrangersNothing(t *testing.T) {
	for _, c := range []struct {
		name, token, remote string
		header              []string
		tells               bool
	}{
		{"this machine", "", "127.0.0.1:1", nil, true},
		{"another", "", "192.0.2.1:1", nil, false},
		{"another, through a proxy", "", "127.0.0.1:1", []string{"X-Forwarded-For", "192.0.2.1"}, false},
		{"an empty token", "", "192.0.2.1:1", []string{"Authorization", "Bearer "}, false},
		{"token", "secret", "192.0.2.1:1", []string{"Authorization", "Bearer secret"}, true},
		{"wrong token", "secret", "192.0.2.1:1", []string{"Authorization", "Bearer secrets"}, false},
	} {
		z := httpd.Readyz(slog.New(slog.DiscardHandler), c.token, httpd.Check{Name: "bus", Run: func(context.Context) error { return errors.New("connection refused") }})
		r := httptest.NewRequest(http.MethodGet, "/readyz", nil)
		r.RemoteAddr = c.remote
		if c.header != nil {
			r.Header.Set(c.header[0], c.header[1])
		}
		rec := httptest.NewRecorder()
		z.ServeHTTP(rec, r)
		want := `{"ready":false}` + "\n"
		if c.tells {
			want = `{"ready":false,"checks":{"bus":"connection refused"}}` + "\n"
		}
		if rec.Code != 503 || rec.Body.String() != want {
			t.Errorf("%s: got %d %s, want %s", c.name, rec.Code, rec.Body, want)
		}
	}
}

func TestMetricsAccess(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, c := range []struct {
		name, token string
		loopback    bool
		remote      string
		header      []string
		want        int
	}{
		{"open", "", false, "192.0.2.1:1", nil, 200},
		{"this machine", "", true, "127.0.0.1:1", nil, 200},
		{"another", "", true, "192.0.2.1:1", nil, 403},
		{"another, through a proxy", "", true, "127.0.0.1:1", []string{"X-Forwarded-For", "192.0.2.1"}, 403},
		{"token", "secret", true, "192.0.2.1:1", []string{"Authorization", "Bearer secret"}, 200},
		{"wrong token", "secret", true, "127.0.0.1:1", []string{"Authorization", "Bearer secrets"}, 401},
		{"no token", "secret", true, "127.0.0.1:1", nil, 401},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.RemoteAddr = c.remote
		if c.header != nil {
			r.Header.Set(c.header[0], c.header[1])
		}
		rec := httptest.NewRecorder()
		httpd.MetricsHandler(reg, c.token, c.loopback).ServeHTTP(rec, r)
		if rec.Code != c.want {
			t.Errorf("%s: got %d, want %d", c.name, rec.Code, c.want)
		}
	}
}
