package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/localhost"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/web"
)

// serviceClient speaks to a server's own API, which docs/service-api.md describes.
type serviceClient struct {
	base  string // URL, without a slash at its end
	token config.Secret
	http  *http.Client
}

const (
	serviceTimeout = time.Minute
	maxAnswer      = 64 << 20 // bytes; a job takes some 500
)

// newServiceClient returns a client of the server at server_url. With a fingerprint it
// trusts the authority that has it and no other; else those of ca_file, or those of the
// system and that of a server on this machine.
func newServiceClient(s *core.Settings, fingerprint string) (*serviceClient, error) {
	u, err := url.Parse(s.ServerURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, core.Usage("server_url must be the URL of a server, such as https://backup.example:8779")
	}
	var t *tls.Config
	switch {
	case fingerprint != "" && u.Scheme != "https":
		return nil, core.Usage("--ca-fingerprint is for a server that speaks TLS: the URL must begin with https://, and it is %s", s.ServerURL)
	case fingerprint != "":
		if t, err = httpd.ClientTLS(fingerprint); err != nil {
			return nil, core.Usage("%s", err)
		}
	default:
		t = &tls.Config{MinVersion: tls.VersionTLS12}
		if t.RootCAs, err = serviceCAs(s, u); err != nil {
			return nil, err
		}
	}
	return &serviceClient{base: strings.TrimSuffix(s.ServerURL, "/"), http: &http.Client{
		Timeout:   serviceTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: localhost.Dialer(&net.Dialer{}), TLSClientConfig: t, ForceAttemptHTTP2: true, IdleConnTimeout: serviceTimeout},
		// A redirect would carry the token to where nobody said that it goes.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// serviceCAs are the authorities of ca_file, or else those of the system; and if the server
// may be the one of this state_dir, its own. Nil is the system's.
func serviceCAs(s *core.Settings, u *url.URL) (*x509.CertPool, error) {
	pool, err := readCAs(s.CAFile)
	if err != nil || !onThisMachine(u) {
		return pool, err
	}
	own, err := os.ReadFile(filepath.Join(s.StateDir, "ca.crt"))
	if err != nil || s.StateDir == "" {
		return pool, nil //nolint:nilerror // there is none, or it is another user's
	}
	if pool == nil {
		if pool, err = x509.SystemCertPool(); err != nil {
			pool = x509.NewCertPool()
		}
	}
	pool.AppendCertsFromPEM(own)
	return pool, nil
}

func onThisMachine(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return localhost.Is(u.Hostname()) || ip != nil && ip.IsLoopback()
}

// serviceCommand is the RunE of a command that speaks to a server. Of its flags only
// those of serviceFlags are settings: others may have a setting's name and mean the
// service, as --instance and --keep-last do.
func serviceCommand(env *core.Env, g *core.Global, run func(ctx context.Context, c *serviceClient, s *core.Settings, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		only := &cobra.Command{}
		for _, name := range []string{"server-url", "ca-file", "token-file", "progress"} {
			if flag := cmd.Flags().Lookup(name); flag != nil {
				its := *flag
				its.Annotations = nil // those of commands that speak to a server now and then, see core.OwnFlags
				only.Flags().AddFlag(&its)
			}
		}
		s, err := g.Load(env, only)
		if err != nil {
			return err
		}
		c, err := newServiceClient(s, "")
		if err != nil {
			return err
		}
		if c.token, err = callerToken(env, s); err != nil {
			return err
		}
		return run(cmd.Context(), c, s, args)
	}
}

func serviceFlags(f *pflag.FlagSet) { core.ServerFlags(f) }

func projectFlag(f *pflag.FlagSet, project *string, what string) {
	f.StringVar(project, "project", "", "`ID` of the project "+what+" (default: that of the token)")
}

// callerToken is the token of the settings, or the one that a server on this machine
// made at its first start; "" if there is none.
func callerToken(env *core.Env, s *core.Settings) (config.Secret, error) {
	u, err := url.Parse(s.ServerURL)
	if err != nil {
		return "", err
	}
	if s.Token != "" {
		if u.Scheme == "http" && !onThisMachine(u) {
			fmt.Fprintf(env.Stderr, "slipcover: warning: the token goes to %s in the clear; use https\n", u.Host)
		}
		return s.Token, nil
	}
	if !onThisMachine(u) || s.StateDir == "" {
		return "", nil
	}
	b, err := os.ReadFile(adminTokenFile(s))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	return config.Secret(strings.TrimSpace(string(b))), err
}

// call asks the server. in, if not nil, is sent as JSON; the answer is read into out,
// if that isn't nil. Errors are of the kinds that exit codes go by.
func (c *serviceClient) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if resp.StatusCode >= 300 {
		return c.refusal(resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	return c.decode(text, out)
}

// send sends a request; in, if not nil, is its body as JSON.
func (c *serviceClient) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+"/slipcover/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("X-Auth-Token", c.token.Reveal())
	}
	r.Header.Set("User-Agent", "slipcover/"+core.ToolVersion())
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

// decode reads the answer to what was asked into out. What doesn't fit was sent by another
// program, or by a Slipcover of another version.
func (c *serviceClient) decode(text []byte, out any) error {
	err := json.Unmarshal(text, out)
	if err == nil {
		return nil
	}
	if fit := (*json.UnmarshalTypeError)(nil); errors.As(err, &fit) {
		return fmt.Errorf("the answer of %s isn't what this version of Slipcover expects: check that server_url is that of a Slipcover server, and compare its version with `slipcover version` here", c.base)
	}
	what := "something other than JSON"
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		what = "an empty answer"
	case strings.HasPrefix(http.DetectContentType(text), "text/html"):
		what = "a web page"
	}
	return fmt.Errorf("%s sent %s, which no Slipcover server does: check server_url, and whether a proxy or a log-in page stands in between", c.base, what)
}

func (c *serviceClient) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if at, bad := url.Parse(c.base); bad == nil {
		if why := (web.Service{Name: "Slipcover", CA: "ca_file"}).Why(at.Host, err); why != "" {
			return fmt.Errorf("the server at %s: %s", c.base, why)
		}
	}
	return core.Say(storage.ErrUnavailable, "the server at %s can't be reached: %s", c.base, err)
}

// refusal makes an error of an answer that is one.
func (c *serviceClient) refusal(status int, text []byte) error {
	var e struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(text, &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
		if status == http.StatusBadRequest && bytes.Contains(text, []byte("HTTP request to an HTTPS server")) { // net/http's
			return core.Usage("%s speaks TLS: server_url must begin with https://", c.base)
		}
		kind := errors.New("not a server of ours")
		if status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
			kind = storage.ErrUnavailable
		}
		return core.Say(kind, "%s answers %d, and not as a Slipcover server does: is server_url right?", c.base, status)
	}
	message := core.Clean(lower(e.Error.Message))
	if status == http.StatusUnauthorized && c.token == "" && e.Error.Code == "unauthorized" && !strings.Contains(message, "join") {
		message = "the server wants a token: set token_file; a new server's is admin-token in its state_dir"
	}
	return core.Say(kindOfStatus(status), "%s", message)
}

func kindOfStatus(status int) error {
	switch status {
	case http.StatusBadRequest:
		return core.ErrUsage
	case http.StatusUnauthorized, http.StatusForbidden:
		return fs.ErrPermission
	case http.StatusNotFound:
		return core.ErrMissing
	case http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return core.ErrTarget
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return storage.ErrUnavailable
	}
	return errors.New("refused")
}

// lower makes a sentence of the server's one of ours.
func lower(message string) string {
	message = strings.TrimSuffix(message, ".")
	if len(message) > 1 && message[1] >= 'a' && message[1] <= 'z' {
		message = strings.ToLower(message[:1]) + message[1:]
	}
	return message
}

// inProject adds the project to a path, if one is named.
func inProject(path, project string) string {
	if project == "" {
		return path
	}
	return path + "?project=" + url.QueryEscape(project)
}

// show prints the server's answer to a GET: as it is, or by the function, which gets it
// read into a T.
func show[T any](ctx context.Context, env *core.Env, c *serviceClient, path string, print func(*T) error) error {
	return request[T](ctx, env, c, http.MethodGet, path, nil, nil, print)
}

// request is show for any method, with a body if in isn't nil. Where it changes something,
// done says what, for the case that the output can't be written.
func request[T any](
	ctx context.Context, env *core.Env, c *serviceClient, method, path string, in any, done func(*T) string, print func(*T) error,
) error {
	var text json.RawMessage
	if err := c.call(ctx, method, path, in, &text); err != nil {
		return err
	}
	v := new(T)
	if err := c.decode(text, v); err != nil {
		return err
	}
	if done != nil {
		env.Done("%s", done(v))
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, text)
	}
	return print(v)
}

// remove sends a DELETE and tells what was done.
func (c *serviceClient) remove(ctx context.Context, env *core.Env, path, id, done, text string) error {
	if err := c.call(ctx, http.MethodDelete, path, nil, nil); err != nil {
		return err
	}
	env.Done("%s", text)
	if env.JSON {
		return core.PrintJSON(env.Stdout, map[string]string{done: id})
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}

// moment prints a time for a table; "" if it is none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return core.When(t)
}

// joinRequest is what an agent says to join.
type joinRequest struct {
	Token     string    `json:"token"`
	PublicKey string    `json:"public_key"`
	Recipient string    `json:"recipient"`
	Hello     job.Hello `json:"hello"`
}

// join uses up a join token; the answer is read into out. An answer that is lost can be
// had again with the same request, so it is asked for a few times.
func (c *serviceClient) join(ctx context.Context, q joinRequest, out any) error {
	for try := 1; ; try++ {
		err := c.call(ctx, http.MethodPost, "join", q, out)
		if err == nil || !errors.Is(err, storage.ErrUnavailable) || try == 5 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}
