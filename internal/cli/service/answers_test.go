package service_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
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
		{"not JSON", 200, `hello`, 1, "sent something other than JSON, which no Slipcover server does: check server_url"},
		{"cut JSON", 200, `{"agents": [`, 1, "sent something other than JSON"},
		{"nothing", 200, ``, 1, "sent an empty answer"},
		{"a log-in page", 200, `<!DOCTYPE html><title>Log in</title>`, 1, "sent a web page"},
		{"other fields", 200, `{"agents": "none"}`, 1, "isn't what this version of Slipcover expects: check that server_url"},
		{"a list", 200, `[]`, 1, "isn't what this version of Slipcover expects"},
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
			env, out, errs := clitest.Env(t)
			env.Environ = []string{"HOME=" + t.TempDir(), "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=" + s.URL, "SLIPCOVER_STATE_DIR=" + t.TempDir()}
			code := cli.Run(context.Background(), env, []string{"agents", "list"})
			if strings.Contains(errs.String(), "json:") || strings.Contains(errs.String(), "Go ") {
				t.Errorf("it speaks of Go: %s", errs)
			}
			if code != test.code || !strings.Contains(errs.String(), test.want) || strings.Count(errs.String(), "\n") != 1 || out.Len() != 0 {
				t.Errorf("exit code %d, want %d: %s%s, want %s", code, test.code, out, errs, test.want)
			}
		})
	}
}
