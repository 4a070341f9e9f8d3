package service

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/httpd"
)

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
		env, _, errs := clitest.Env(t)
		env.Environ = []string{"HOME=" + dir, "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=" + test.url, "SLIPCOVER_STATE_DIR=" + dir, "SLIPCOVER_TOKEN=" + test.token}
		g := &core.Global{}
		s, err := g.Load(env, &cobra.Command{})
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
		{"nothing", empty, "", "", 1}, // it isn't trusted, which asking again doesn't change
		{"another fingerprint", own, pem, strings.Repeat("0", 64), 10},
		{"no fingerprint", own, pem, "00", 2},
		{"no certificates", own, file + ".none", "", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &core.Settings{Config: &config.Config{ServerURL: server.URL, StateDir: test.state, CAFile: test.caFile}}
			c, err := newServiceClient(s, test.fingerprint)
			if err == nil {
				err = c.call(t.Context(), http.MethodPost, "join", joinRequest{}, nil)
			}
			if got := core.ExitOf(err).Code; got != test.code {
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
	c, err := newServiceClient(&core.Settings{Config: &config.Config{ServerURL: server.URL, StateDir: t.TempDir()}}, "")
	if err != nil {
		t.Fatal(err)
	}
	var m membership
	if err := c.join(t.Context(), joinRequest{Token: "slj"}, &m); err != nil || m.AgentID != "a" || len(bodies) != 2 || bodies[0] != bodies[1] {
		t.Errorf("%+v, %v, asked %q", m, err, bodies)
	}
}
