package service_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/testenv"
)

// ended waits until a process ends by itself, and returns its exit code and its log.
func (p *process) ended() (code int, log string) {
	p.t.Helper()
	select {
	case <-p.Gone:
	case <-time.After(clitest.Patience):
		p.t.Errorf("%v does not end", p.Args)
		p.Kill()
	}
	b, err := os.ReadFile(p.Log)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.Cmd.ProcessState.ExitCode(), string(b)
}

// TestServerEndsWhenItsAgentCannotStart: what fails inside a server that serves already
// ends it, and is told.
func TestServerEndsWhenItsAgentCannotStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProcess(t, []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")},
		"server", "--listen", fmt.Sprintf("127.0.0.1:%d", clitest.FreePort(t)), "--with-agent", "--repo", filepath.Join(file, "repo"))
	p.Start()
	code, log := p.ended()
	if code <= 0 || !strings.Contains(log, "serving") || !strings.Contains(log, "slipcover: ") || !strings.Contains(log, filepath.Join(file, "repo")) {
		t.Errorf("it ended with code %d:\n%s", code, log)
	}
}

// slipcover runs a command as an operator would, and returns what it prints, first its
// standard output.
func slipcover(t *testing.T, env []string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := exec.Command("slipcover", args...)
	cmd.Env = append(testenv.Environ(), append([]string{"SLIPCOVER_CONFIG=" + os.DevNull}, env...)...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	var bad *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &bad) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// authority makes one in a folder, and a certificate of this machine that it has signed.
func authority(t *testing.T, dir string) (ca, cert string) {
	t.Helper()
	a, err := httpd.OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = a.Certificate("127.0.0.1", "localhost"); err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(ca, a.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca, cert
}

// TestAgentOfNATSCluster: with a NATS cluster, an agent connects by the certificate of the
// cluster, or by none, whatever that of the API is.
func TestAgentOfNATSCluster(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			dir := t.TempDir()
			apiCA, apiCert := authority(t, filepath.Join(dir, "api"))
			port := clitest.FreePort(t)
			env := []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state"), "SLIPCOVER_TLS_CERT=" + apiCert, "SLIPCOVER_TLS_KEY=" + apiCert,
				fmt.Sprintf("SLIPCOVER_PUBLIC_URL=https://localhost:%d", port)}
			natsCA, natsCert := authority(t, filepath.Join(dir, "nats"))
			cluster := bustest.Start(t, 1, func(_ int, o *nats.Options) {
				if pair, err := tls.LoadX509KeyPair(natsCert, natsCert); err != nil {
					t.Fatal(err)
				} else if secure {
					o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
				}
			})
			env = append(env, "SLIPCOVER_NATS_URL="+cluster.URL())
			if secure {
				env = append(env, "SLIPCOVER_CA_FILE="+natsCA)
			}
			p := newProcess(t, env, "server", "--listen", fmt.Sprintf("127.0.0.1:%d", port))
			p.Start()
			t.Cleanup(p.stop)
			agent := p.join(fmt.Sprintf("https://127.0.0.1:%d", port), apiCA, filepath.Join(dir, "agent"))
			if !slices.Contains(agent.Args, fmt.Sprintf("https://localhost:%d", port)) {
				t.Errorf("public_url is not where the node is sent to: %s", agent.Args[:4])
			}
			agent.says("a server answers")
		})
	}
}

// aRecipient is one whose identity nobody needs here.
const aRecipient = "age1z5xphhwcaug5n38vyg40nqdc23ffl6cu6v8qj5pz4wdr2f47fuysypkakq"

// join starts an agent by what "token join" prints, once the server can be asked.
func (p *process) join(url, ca, dir string) *process {
	p.t.Helper()
	var command string
	eventually(p.t, clitest.Patience, "a join token is made", func() bool {
		p.lives()
		var code int
		command, _, code = slipcover(p.t, append(p.Env, "SLIPCOVER_SERVER_URL="+url, "SLIPCOVER_CA_FILE="+ca), "token", "join", "--name", "db1")
		return code == 0
	})
	words := strings.Fields(command)
	if i := slices.Index(words, "ca.crt"); i > 0 {
		words[i] = ca
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "shards"), 0o700); err != nil { // an agent that could back up nothing doesn't join
		p.t.Fatal(err)
	}
	return startAgent(p.t, []string{"SLIPCOVER_STATE_DIR=" + dir, "SLIPCOVER_INSTANCE=db1", "SLIPCOVER_DATA_DIR=" + data,
		"SLIPCOVER_REPOSITORY=file://" + filepath.Join(dir, "repo"), "SLIPCOVER_RECIPIENTS=" + aRecipient}, words[2:]...)
}

// says waits until a process has written something to its log.
func (p *process) says(what string) {
	p.t.Helper()
	eventually(p.t, clitest.Patience, fmt.Sprintf("%v says %q", p.Args, what), func() bool {
		b, err := os.ReadFile(p.Log)
		if err == nil && strings.Contains(string(b), what) {
			return true
		}
		p.lives()
		return false
	})
}

// lives fails the test if a process has ended.
func (p *process) lives() {
	p.t.Helper()
	select {
	case <-p.Gone:
		p.t.Fatalf("%v ended with code %d", p.Args, p.Cmd.ProcessState.ExitCode())
	default:
	}
}

// TestServersNeedOneKey: where several servers may be one service, backups in callers'
// accounts must not depend on which of them is asked.
func TestServersNeedOneKey(t *testing.T) {
	refused(t, "recipients", "SLIPCOVER_AUTH=keystone", "SLIPCOVER_KEYSTONE_URL=http://127.0.0.1:1/v3", "SLIPCOVER_NATS_URL=nats://127.0.0.1:1")
}

// TestServerWithoutItsFiles: settings that name files which aren't there are for a person to
// correct, and systemd is not to start the server again.
func TestServerWithoutItsFiles(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	refused(t, "tls_cert", "SLIPCOVER_TLS_CERT="+none, "SLIPCOVER_TLS_KEY="+none)
	for _, key := range []string{"ca_file", "nats_creds", "nats_account_seed"} {
		refused(t, key, "SLIPCOVER_NATS_URL=nats://127.0.0.1:1", "SLIPCOVER_"+strings.ToUpper(key)+"="+none)
	}
}

// refused expects a server to end with exit code 2 and a sentence that names a setting.
func refused(t *testing.T, setting string, env ...string) {
	t.Helper()
	p := newProcess(t, append([]string{"SLIPCOVER_STATE_DIR=" + filepath.Join(t.TempDir(), "state"), "SLIPCOVER_LISTEN=127.0.0.1:0"}, env...), "server")
	p.Start()
	code, log := p.ended()
	if code != 2 || !strings.Contains(log, setting) || strings.Count(log, "\n") != 1 {
		t.Errorf("with %v it ended with code %d:\n%s", env, code, log)
	}
}

// TestServerWithoutTLS looks at what a server serves that has no certificate.
func TestServerWithoutTLS(t *testing.T) {
	dir, at := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", clitest.FreePort(t))
	p := newProcess(t, []string{"SLIPCOVER_STATE_DIR=" + dir}, "server", "--listen", at)
	p.url, p.state = "http://"+at, dir
	p.Start()
	t.Cleanup(p.stop)
	p.waitReady()
	token := p.client(t).token
	get := func(path string) (status int, header http.Header, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Auth-Token", token)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header, string(b)
	}
	for path, says := range map[string]string{
		"/v1.0/default//backups":      "itemNotFound",
		"/v1.0/default/./backups":     "itemNotFound",
		"//v1.0/default/backups":      "itemNotFound",
		"//healthz":                   "itemNotFound",
		"/slipcover/v1//agents":       "not_found",
		"/slipcover/v1/agents/../me/": "not_found",
		"/slipcover/v1":               "not_found",
	} {
		if status, header, body := get(path); status != http.StatusNotFound || header.Get(httpd.RequestIDHeader) == "" || !strings.Contains(body, says) {
			t.Errorf("%s: %d, %v, %s", path, status, header, body)
		}
	}
	for path, says := range map[string]string{
		"/v1.0/default/backups": "backups", "/slipcover/v1/agents": "agents", "/healthz": "ok", "/readyz": "ready", "/metrics": "slipcover_build_info",
	} {
		if status, _, body := get(path); status != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d, %s", path, status, body)
		}
	}
	if _, _, body := get("/metrics"); strings.Contains(body, "slipcover_certificate_expiry") {
		t.Error("a certificate that isn't there has an end, which an alert would tell of for ever")
	}
}
