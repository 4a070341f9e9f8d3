package cli

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/httpd"
)

// TestServiceAnswers: what comes back is told in one sentence and with the right exit
// code, whoever it is that answers.
func TestServiceAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		code   int
		want   string
	}{
		{"bad value", 400, `{"error":{"code":"invalid","message":"The body is no good."}}`, 2, "the body is no good"},
		{"no token", 401, `{"error":{"code":"unauthorized","message":"The token is missing."}}`, 8, "set token_file"},
		{"role", 403, `{"error":{"code":"forbidden","message":"No."}}`, 8, "no"},
		{"not there", 404, `{"error":{"code":"not_found","message":"Resource x cannot be found."}}`, 6, "resource x cannot be found"},
		{"conflict", 409, `{"error":{"code":"conflict","message":"It is there."}}`, 11, "it is there"},
		{"quota", 413, `{"error":{"code":"over_limit","message":"Too many."}}`, 11, "too many"},
		{"busy", 422, `{"error":{"code":"busy","message":"Instance db1 is busy."}}`, 11, "instance db1 is busy"},
		{"rate", 429, `{"error":{"code":"too_many_requests","message":"Wait."}}`, 10, "wait"},
		{"internal", 500, `{"error":{"code":"internal","message":"Internal error."}}`, 1, "internal error"},
		{"not for us", 501, `{"error":{"code":"unsupported","message":"Tokens are Keystone's here."}}`, 1, "tokens are Keystone's here"},
		{"down", 503, `{"error":{"code":"unavailable","message":"Later."}}`, 10, "later"},
		{"a proxy", 502, `<html>`, 10, "is server_url right?"},
		{"Trove", 404, `{"itemNotFound":{"message":"x"}}`, 1, "is server_url right?"},
		{"TLS", 400, "Client sent an HTTP request to an HTTPS server.\n", 2, "server_url must begin with https://"},
		{"a redirect", 302, ``, 1, "is server_url right?"},
		{"not JSON", 200, `hello`, 1, "doesn't answer as a Slipcover server"},
		{"control characters", 400, `{"error":{"code":"invalid","message":"A\u001b[31mb"}}`, 2, `\x1b[31m`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Auth-Token") != "" || strings.HasPrefix(r.URL.Path, "/elsewhere") {
					t.Errorf("%s with %v", r.URL, r.Header)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			defer s.Close()
			env, out, errs := testEnv(t)
			env.Environ = []string{"HOME=" + t.TempDir(), "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=" + s.URL, "SLIPCOVER_STATE_DIR=" + t.TempDir()}
			code := Run(context.Background(), env, []string{"agents", "list"})
			if code != test.code || !strings.Contains(errs.String(), test.want) || strings.Count(errs.String(), "\n") != 1 || out.Len() != 0 {
				t.Errorf("exit code %d, want %d: %s%s, want %s", code, test.code, out, errs, test.want)
			}
		})
	}
}

// TestCallersToken: the token of this machine's server goes to this machine only.
func TestCallersToken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin-token"), []byte("slc_own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ url, token, want, warning string }{
		{"http://127.0.0.1:1", "", "slc_own", ""},
		{"https://localhost:1", "", "slc_own", ""},
		{"http://[::1]:1", "slc_other", "slc_other", ""},
		{"https://backup.example", "", "", ""},
		{"https://127.0.0.1.example", "", "", ""},
		{"https://backup.example", "slc_other", "slc_other", ""},
		{"http://backup.example", "slc_other", "slc_other", "in the clear"},
	} {
		env, _, errs := testEnv(t)
		env.Environ = []string{"HOME=" + dir, "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=" + test.url, "SLIPCOVER_STATE_DIR=" + dir, "SLIPCOVER_TOKEN=" + test.token}
		g := &globalOptions{}
		s, err := g.load(env, newRoot(env))
		if err != nil {
			t.Fatal(err)
		}
		got, err := callerToken(env, s)
		if err != nil || got.Reveal() != test.want || strings.Contains(errs.String(), "in the clear") != (test.warning != "") {
			t.Errorf("%s: %s, %v, %s; want %s", test.url, got.Reveal(), err, errs, test.want)
		}
	}
}

// TestServiceTLS: a server's own authority is known by its fingerprint, by ca_file, or by
// the state_dir of this machine's server; otherwise it isn't trusted.
func TestServiceTLS(t *testing.T) {
	ca, err := httpd.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file, err := ca.Certificate("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"agent_id":"a"}`)) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	defer server.Close()
	own, empty := t.TempDir(), t.TempDir()
	pem := filepath.Join(own, "ca.crt")
	if err := os.WriteFile(pem, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, state, caFile, fingerprint string
		code                             int
	}{
		{"fingerprint", empty, "", ca.Fingerprint(), 0},
		{"ca_file", empty, pem, "", 0},
		{"state_dir", own, "", "", 0},
		{"nothing", empty, "", "", 10},
		{"another fingerprint", own, pem, strings.Repeat("0", 64), 10},
		{"no fingerprint", own, pem, "00", 2},
		{"no certificates", own, file + ".none", "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &settings{Config: &config.Config{ServerURL: server.URL, StateDir: test.state, CAFile: test.caFile}}
			c, err := newServiceClient(s, test.fingerprint)
			if err == nil {
				err = c.call(t.Context(), http.MethodPost, "join", joinRequest{}, nil)
			}
			if got := exitOf(err).code; got != test.code {
				t.Errorf("exit code %d, want %d: %v", got, test.code, err)
			}
		})
	}
}

// TestJoinAsksAgain: a lost answer is asked for again, with the same request.
func TestJoinAsksAgain(t *testing.T) {
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if bodies = append(bodies, string(b)); len(bodies) == 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(`{"agent_id":"a"}`))
	}))
	defer server.Close()
	c, err := newServiceClient(&settings{Config: &config.Config{ServerURL: server.URL, StateDir: t.TempDir()}}, "")
	if err != nil {
		t.Fatal(err)
	}
	var m membership
	if err := c.join(t.Context(), joinRequest{Token: "slj"}, &m); err != nil || m.AgentID != "a" || len(bodies) != 2 || bodies[0] != bodies[1] {
		t.Errorf("%+v, %v, asked %q", m, err, bodies)
	}
}

// TestShownURLsHaveNoPassword: nor tokens, of which NATS takes some.
func TestShownURLsHaveNoPassword(t *testing.T) {
	for _, args := range [][]string{{"config", "show"}, {"config", "show", "--json"}} {
		env, out, errs := testEnv(t)
		env.Environ = []string{"HOME=" + t.TempDir(), "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=https://u:hunter2@h",
			"SLIPCOVER_NATS_URL=nats://u:hunter2@n1:4222, tls://hunter2@n2:4222,nats://u:hunter2@3@n3:4222"}
		if code := Run(context.Background(), env, args); code != 0 {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		if text := out.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "nats://***@n1:4222, tls://***@n2:4222,nats://***@n3:4222") || !strings.Contains(text, "https://***@h") {
			t.Error(text)
		}
	}
}
