package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ncw/swift/v2"

	"github.com/slipcover/slipcover/internal/storage"
)

// login gets tokens and remembers the newest.
type login struct {
	conn  *swift.Connection // nil if there is only a token; used by whoever holds turn
	fixed string            // storage URL of the environment, which goes before the server's
	turn  chan struct{}     // holds one element while somebody logs in

	mu  sync.Mutex
	now session // guarded by mu
}

// session is what a log-in gives.
type session struct {
	url, token string
	renewAt    time.Time // zero if the token's end isn't known
}

// newLogin reads the environment, in which parameters of the URL stand in for the
// variables of the same meaning. It doesn't use the network.
func newLogin(p place, getenv func(string) string, transport http.RoundTripper) (*login, error) {
	env := func(names ...string) string {
		for _, name := range names {
			if v := getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	l := &login{turn: make(chan struct{}, 1), fixed: strings.TrimRight(env("OS_STORAGE_URL", "SWIFT_STORAGE_URL"), "/")}
	if u, err := url.Parse(l.fixed); err != nil || l.fixed != "" && u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("OS_STORAGE_URL isn't a URL such as https://host/v1/AUTH_project")
	}
	token := env("OS_AUTH_TOKEN", "SWIFT_AUTH_TOKEN")
	if token != "" && l.fixed != "" {
		l.now = session{url: l.fixed, token: token}
	}
	conn, err := connection(p, env)
	switch {
	case err != nil && l.now.token != "":
		return l, nil // until the token ends
	case err != nil && token != "":
		return nil, errors.New("OS_AUTH_TOKEN needs OS_STORAGE_URL beside it")
	case err != nil:
		return nil, err
	}
	conn.UserAgent = userAgent
	conn.ConnectTimeout = p.timeout
	conn.Transport = logInTransport{transport}
	l.conn = conn
	return l, nil
}

// connection returns what the library needs to log in.
func connection(p place, env func(...string) string) (*swift.Connection, error) {
	first := func(param string, names ...string) string {
		if param != "" {
			return param
		}
		return env(names...)
	}
	if st := env("ST_AUTH"); isV1(first(p.authURL, "ST_AUTH")) && (st != "" || p.authURL != "") {
		c := &swift.Connection{AuthVersion: 1, AuthUrl: first(p.authURL, "ST_AUTH"),
			UserName: first(p.user, "ST_USER", "OS_USERNAME"), ApiKey: env("ST_KEY", "OS_PASSWORD")}
		if c.UserName == "" || c.ApiKey == "" {
			return nil, errors.New("the log-in needs ST_USER and ST_KEY beside ST_AUTH")
		}
		return c, nil
	}
	c := &swift.Connection{
		AuthUrl:                     first(p.authURL, "OS_AUTH_URL", "ST_AUTH"),
		UserName:                    first(p.user, "OS_USERNAME", "ST_USER"),
		ApiKey:                      env("OS_PASSWORD", "ST_KEY"),
		Domain:                      env("OS_USER_DOMAIN_NAME"),
		DomainId:                    env("OS_USER_DOMAIN_ID"),
		ApplicationCredentialId:     env("OS_APPLICATION_CREDENTIAL_ID"),
		ApplicationCredentialName:   env("OS_APPLICATION_CREDENTIAL_NAME"),
		ApplicationCredentialSecret: env("OS_APPLICATION_CREDENTIAL_SECRET"),
		Region:                      first(p.region, "OS_REGION_NAME"),
		Tenant:                      first(p.project, "OS_PROJECT_NAME", "OS_TENANT_NAME"),
		TenantDomain:                env("OS_PROJECT_DOMAIN_NAME"),
		TenantDomainId:              env("OS_PROJECT_DOMAIN_ID"),
		TrustId:                     env("OS_TRUST_ID"),
		EndpointType:                swift.EndpointType(strings.TrimSuffix(env("OS_INTERFACE", "OS_ENDPOINT_TYPE"), "URL")),
	}
	if p.user == "" {
		c.UserId = env("OS_USER_ID")
	}
	if p.project == "" {
		c.TenantId = env("OS_PROJECT_ID", "OS_TENANT_ID")
	}
	if err := complete(c); err != nil {
		return nil, err
	}
	c.AuthUrl, c.AuthVersion = keystone(c.AuthUrl, env("OS_IDENTITY_API_VERSION", "ST_AUTH_VERSION"))
	if c.Domain == "" && c.DomainId == "" && c.UserId == "" {
		c.DomainId = "default"
	}
	return c, nil
}

func isV1(authURL string) bool {
	u, err := url.Parse(authURL)
	if err != nil {
		return false
	}
	path := strings.TrimRight(u.Path, "/")
	return strings.HasSuffix(path, "/v1.0") || strings.HasSuffix(path, "/v1") || strings.HasSuffix(path, "/auth")
}

// complete says what is missing.
func complete(c *swift.Connection) error {
	credential := c.ApplicationCredentialId != "" || c.ApplicationCredentialName != ""
	switch {
	case c.AuthUrl == "":
		return errors.New("no log-in for Swift: set OS_AUTH_URL and the other OS_ variables of your project, or ST_AUTH, ST_USER and ST_KEY, or OS_STORAGE_URL and OS_AUTH_TOKEN")
	case credential && c.ApplicationCredentialSecret == "":
		return errors.New("the log-in needs OS_APPLICATION_CREDENTIAL_SECRET")
	case c.ApplicationCredentialId != "":
		return nil
	case c.UserName == "" && c.UserId == "":
		return errors.New("the log-in needs OS_USERNAME, or OS_APPLICATION_CREDENTIAL_ID")
	case credential:
		return nil
	case c.ApiKey == "":
		return errors.New("the log-in needs OS_PASSWORD")
	case c.Tenant == "" && c.TenantId == "" && c.TrustId == "":
		return errors.New("the log-in needs OS_PROJECT_NAME or OS_PROJECT_ID")
	}
	return nil
}

// keystone returns the URL with the version that the library expects in it, and the
// version. Variables of OpenStack often name the root.
func keystone(authURL, version string) (string, int) {
	trimmed := strings.TrimRight(authURL, "/")
	switch {
	case strings.HasSuffix(trimmed, "/v3"):
		return trimmed, 3
	case strings.HasSuffix(trimmed, "/v2.0"):
		return trimmed, 2
	case strings.HasPrefix(version, "2"):
		return trimmed + "/v2.0", 2
	}
	return trimmed + "/v3", 3
}

// session returns a token that isn't about to end.
func (l *login) session(ctx context.Context) (session, error) {
	now := l.current()
	if now.token != "" && (now.renewAt.IsZero() || time.Now().Before(now.renewAt)) {
		return now, nil
	}
	return l.renew(ctx, now)
}

func (l *login) current() session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// renew returns a session that is newer than old, and logs in if there is none.
func (l *login) renew(ctx context.Context, old session) (session, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return session{}, ctx.Err()
	}
	if now := l.current(); now.token != old.token {
		return now, nil // somebody else has, meanwhile
	}
	if l.conn == nil {
		return session{}, fmt.Errorf("%w: the token in OS_AUTH_TOKEN has ended or isn't for this storage URL; get a new one", storage.ErrDenied)
	}
	l.conn.UnAuthenticate()
	began := time.Now()
	if err := l.conn.Authenticate(ctx); err != nil {
		return session{}, l.failed(ctx, err)
	}
	now := session{url: strings.TrimRight(l.conn.StorageUrl, "/"), token: l.conn.AuthToken}
	if l.fixed != "" {
		now.url = l.fixed
	}
	if end := l.conn.Expires; !end.IsZero() {
		life := end.Sub(began)
		now.renewAt = began.Add(life - min(life/4, time.Minute))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = now
	return now, nil
}

// failed returns the error of a log-in. What the library says isn't in it where the
// server's own words could be.
func (l *login) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("log in at %s: %w", l.conn.AuthUrl, ctx.Err())
	}
	var answer *swift.Error
	status := -1
	if errors.As(err, &answer) {
		status = answer.StatusCode
	}
	var cause error
	unfit, syntax := (*storage.UnfitError)(nil), (*json.SyntaxError)(nil)
	switch {
	case errors.As(err, &unfit):
		cause = unfit
	case errors.As(err, &syntax):
		cause = &storage.UnfitError{Why: "what answers there is neither Keystone nor a v1 log-in: check the URL"}
	case errors.Is(err, storage.ErrUnavailable):
		cause = withoutURL(err)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		cause = fmt.Errorf("%w: the server refuses the user, password, project or application credential", storage.ErrDenied)
	case status == http.StatusNotFound:
		cause = errors.New("nothing answers there; is it the URL of Keystone or of a v1 log-in?")
	case status == http.StatusBadRequest:
		cause = errors.New("the server finds the request wrong; are the domain and the project set?")
	case status == 0:
		cause = fmt.Errorf("the server names no object store for the region %q and the interface %q", l.conn.Region, l.conn.EndpointType)
	case status > 0:
		cause = fmt.Errorf("%w: the server answers %d", storage.ErrUnavailable, status)
	default:
		cause = unavailable(ctx, err)
	}
	return fmt.Errorf("log in at %s: %w", l.conn.AuthUrl, cause)
}

func withoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// logInTransport makes answers that ask to come again later into errors that keep
// Retry-After, which the library doesn't.
type logInTransport struct{ next http.RoundTripper }

func (t logInTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil || kindOf(resp.StatusCode) != storage.ErrUnavailable { //nolint:errorlint // kindOf returns it bare
		return resp, err
	}
	text := message(resp)
	discard(resp)
	return nil, refused(resp, text)
}
