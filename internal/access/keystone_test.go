package access_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/testenv"
)

// both runs a test with a service user and without.
func both(t *testing.T, test func(t *testing.T, k *testenv.KeystoneServer, front *testenv.Front, o access.KeystoneOptions)) {
	k := testenv.Keystone(t)
	for _, c := range []struct {
		name string
		user access.ServiceUser
	}{
		{"as itself", access.ServiceUser{}},
		{"service user", access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			front := testenv.NewFront(t, k.URL)
			test(t, k, front, access.KeystoneOptions{URL: front.URL, Service: c.user})
		})
	}
}

func newKeystone(t *testing.T, o access.KeystoneOptions) *access.Keystone {
	t.Helper()
	k, err := access.NewKeystone(o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// clock is a Keystone's from now on. It stands still until it is moved, so that it doesn't
// matter how long anything takes.
type clock struct{ at atomic.Int64 }

func newClock(k *access.Keystone) *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	k.SetNow(func() time.Time { return time.Unix(0, c.at.Load()) })
	return c
}

func (c *clock) add(d time.Duration) { c.at.Add(int64(d)) }

// asked counts the questions about tokens, and the log-ins.
func asked(f *testenv.Front) (gets, posts int) {
	for _, s := range f.Seen() {
		switch s.Method {
		case http.MethodGet:
			gets++
		case http.MethodPost:
			posts++
		}
	}
	return gets, posts
}

func TestKeystoneCallers(t *testing.T) {
	both(t, func(t *testing.T, k *testenv.KeystoneServer, _ *testenv.Front, o access.KeystoneOptions) {
		c := newKeystone(t, o)
		for _, who := range []struct {
			user, project string
			role          access.Role
		}{
			{"demo", "demo", access.Operator},
			{"backup-only", "demo", access.Viewer},
			{"other", "other", access.Operator},
			{"admin", "admin", access.Admin},
		} {
			token, id := k.Token(t, k.User(who.user, who.project))
			got, err := c.Check(t.Context(), token)
			if err != nil {
				t.Fatalf("%s: %v", who.user, err)
			}
			if got.User != who.user || got.UserID != id || got.ProjectName != who.project || got.Role != who.role || got.Token.Reveal() != token {
				t.Errorf("%s: got %+v", who.user, got)
			}
			if left := time.Until(got.Expires); left < 23*time.Hour || left > 24*time.Hour {
				t.Errorf("%s: expires %v", who.user, got.Expires)
			}
			if want := "/v1/AUTH_" + got.Project; !strings.HasSuffix(got.SwiftURL, want) || got.Project == "" {
				t.Errorf("%s: Swift at %q, want …%s", who.user, got.SwiftURL, want)
			}
		}

		for _, roles := range [][]string{nil, {"READER"}, {"admin"}} { // without such a role, with one, with another's
			o.ContentsRoles = roles
			token, _ := k.Token(t, k.User("backup-only", "demo"))
			got, err := newKeystone(t, o).Check(t.Context(), token)
			if err != nil || got.Role != access.Viewer || got.MayRead() != (roles != nil && roles[0] == "READER") {
				t.Errorf("with %v: %+v, %v", roles, got, err)
			}
		}

		vars := k.ApplicationCredential(t, k.User("demo", "demo"), "access-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		token := credentialToken(t, k, vars)
		got, err := c.Check(t.Context(), token)
		if err != nil || got.Project != k.Vars["DEMO_PROJECT_ID"] || got.Role != access.Operator {
			t.Errorf("application credential: %+v, %v", got, err)
		}
		if _, err := got.For(k.Vars["OTHER_PROJECT_ID"]); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("a URL of another project: %v", err)
		}
		if same, err := got.For(k.Vars["DEMO_PROJECT_ID"]); err != nil || same != got {
			t.Errorf("a URL of its own project: %v", err)
		}
	})
}

func credentialToken(t *testing.T, k *testenv.KeystoneServer, vars map[string]string) string {
	t.Helper()
	return logIn(t, k, map[string]any{"identity": map[string]any{"methods": []string{"application_credential"},
		"application_credential": map[string]any{"id": vars["OS_APPLICATION_CREDENTIAL_ID"], "secret": vars["OS_APPLICATION_CREDENTIAL_SECRET"]}}})
}

func logIn(t *testing.T, k *testenv.KeystoneServer, auth map[string]any) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"auth": auth})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(k.URL+"/v3/auth/tokens", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("log in: %s: %s", resp.Status, text)
	}
	return resp.Header.Get("X-Subject-Token")
}

func TestKeystoneRefuses(t *testing.T) {
	both(t, func(t *testing.T, k *testenv.KeystoneServer, front *testenv.Front, o access.KeystoneOptions) {
		unscoped := logIn(t, k, map[string]any{"scope": "unscoped", "identity": map[string]any{"methods": []string{"password"},
			"password": map[string]any{"user": map[string]any{"name": "demo", "password": "demo-key", "domain": map[string]any{"id": "default"}}}}})
		member, _ := k.Token(t, k.Vars)
		revoked, _ := k.Token(t, k.Vars)
		k.Revoke(t, revoked)

		o.Roles = map[string]access.Role{"ADMIN": access.Admin}
		c := newKeystone(t, o)
		newClock(c)
		for _, test := range []struct {
			name, token string
			want        error
			asks        int
		}{
			{"none", "", access.ErrUnauthorized, 0},
			{"not a header", "a\nb", access.ErrUnauthorized, 0},
			{"a heap", strings.Repeat("a", 9<<10), access.ErrUnauthorized, 0},
			{"no token at all", "nosuchtoken", access.ErrUnauthorized, 1},
			{"revoked", revoked, access.ErrUnauthorized, 1},
			{"unscoped", unscoped, access.ErrForbidden, 1},
			{"no role of ours", member, access.ErrForbidden, 1},
		} {
			_, _ = c.Check(t.Context(), unscoped) // so that the service user has logged in
			front.Set(nil)
			for range 3 { // a bad token isn't asked about again at once
				_, err := c.Check(t.Context(), test.token)
				if !errors.Is(err, test.want) {
					t.Errorf("%s: got %v, want %v", test.name, err, test.want)
				}
				if test.token != "" && strings.Contains(fmt.Sprintf("%+v", err), test.token) {
					t.Errorf("%s: the error shows the token: %v", test.name, err)
				}
			}
			if gets, _ := asked(front); gets > test.asks {
				t.Errorf("%s: Keystone was asked %d times, want %d", test.name, gets, test.asks)
			}
		}
		admin, _ := k.Token(t, k.User("admin", "admin"))
		if got, err := c.Check(t.Context(), admin); err != nil || got.Role != access.Admin {
			t.Errorf("role names have no case: %+v, %v", got, err)
		}
	})
}

func TestKeystoneCache(t *testing.T) {
	both(t, func(t *testing.T, k *testenv.KeystoneServer, front *testenv.Front, o access.KeystoneOptions) {
		token, _ := k.Token(t, k.Vars)
		o.CacheFor = 2 * time.Second
		c := newKeystone(t, o)
		clock := newClock(c)

		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := c.Check(t.Context(), token); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if gets, posts := asked(front); gets != 1 || posts > 1 {
			t.Errorf("20 checks at once asked %d times and logged in %d times", gets, posts)
		}

		// A revoked token ends with the time of the cache.
		k.Revoke(t, token)
		clock.add(o.CacheFor - 1)
		if _, err := c.Check(t.Context(), token); err != nil {
			t.Errorf("a remembered answer ended: %v", err)
		}
		clock.add(1)
		if _, err := c.Check(t.Context(), token); !errors.Is(err, access.ErrUnauthorized) {
			t.Errorf("after %v: %v", o.CacheFor, err)
		}
	})
}

func TestKeystoneDown(t *testing.T) {
	both(t, func(t *testing.T, k *testenv.KeystoneServer, front *testenv.Front, o access.KeystoneOptions) {
		known, _ := k.Token(t, k.Vars)
		unknown, _ := k.Token(t, k.User("other", "other"))
		o.CacheFor = 2 * time.Second
		c := newKeystone(t, o)
		clock := newClock(c)
		if _, err := c.Check(t.Context(), known); err != nil {
			t.Fatal(err)
		}
		front.Down()
		clock.add(o.CacheFor - 1)
		if _, err := c.Check(t.Context(), known); err != nil {
			t.Errorf("a remembered answer ended: %v", err)
		}
		if _, err := c.Check(t.Context(), unknown); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("with Keystone down: %v", err)
		}
		clock.add(1)
		if _, err := c.Check(t.Context(), known); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("after %v: %v", o.CacheFor, err)
		}
		front.Up()
		for _, token := range []string{known, unknown} { // that Keystone was down isn't remembered
			if _, err := c.Check(t.Context(), token); err != nil {
				t.Error(err)
			}
		}
		// As a proxy before it answers, and with a body that shows the token.
		front.Set(func(_ int, r *http.Request) testenv.Fault {
			return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				http.Error(w, "no server for "+r.Header.Get("X-Subject-Token"), http.StatusBadGateway)
			}
		})
		another, _ := k.Token(t, k.User("other", "other"))
		if _, err := c.Check(t.Context(), another); !errors.Is(err, access.ErrUnavailable) || strings.Contains(fmt.Sprintf("%+v %#v", err, err), another) {
			t.Errorf("bad gateway: %+v", err)
		}
	})
}

// What isn't an answer of Keystone's says nothing about the token.
func TestNotKeystone(t *testing.T) {
	k := testenv.Keystone(t)
	token, _ := k.Token(t, k.Vars)
	front := testenv.NewFront(t, k.URL)
	checker := newKeystone(t, access.KeystoneOptions{URL: front.URL})
	for _, text := range []string{"", "{}", "[]", "null", `"x"`, `{"token": null}`, `{"token": []}`, `{"token": {}}`, `{"token": {"expires_at": "soon"}}`,
		`{"token": {"expires_at": "2999-01-01T00:00:00Z", "user": {"id": 7}}}`, "<html>", `{"token": {"roles": {}}}`} {
		front.Set(func(int, *http.Request) testenv.Fault {
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { io.WriteString(w, text) }
		})
		if c, err := checker.Check(t.Context(), token); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("answer %q: %v, %v", text, c, err)
		}
	}
	// A redirect isn't followed: tokens would go where nobody said.
	front.Set(func(int, *http.Request) testenv.Fault {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, k.URL+r.URL.Path, http.StatusFound)
		}
	})
	if c, err := checker.Check(t.Context(), token); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("redirect: %v, %v", c, err)
	}
	front.Set(nil)
	if _, err := checker.Check(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func BenchmarkCheck(b *testing.B) {
	k := testenv.Keystone(b)
	token, _ := k.Token(b, k.Vars)
	for name, o := range map[string]access.KeystoneOptions{"cached": {URL: k.URL, CacheFor: time.Hour}, "asked": {URL: k.URL, CacheFor: -1}} {
		b.Run("keystone/"+name, func(b *testing.B) {
			c, err := access.NewKeystone(o)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := c.Check(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("own", func(b *testing.B) {
		connect, _ := tables(b)
		tokens := access.NewTokens(connect())
		_, text, err := tokens.Create(b.Context(), access.Token{Name: "x", Role: access.Viewer, Project: "p"})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := tokens.Check(b.Context(), text.Reveal()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// An answer isn't kept beyond the token's end. Keystone's tokens live for a day, so
// the end is moved on the way.
func TestKeystoneExpiry(t *testing.T) {
	k := testenv.Keystone(t)
	token, _ := k.Token(t, k.Vars)
	front := testenv.NewFront(t, k.URL)
	end := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
	front.Set(func(int, *http.Request) testenv.Fault {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			body := regexp.MustCompile(`"expires_at": "[^"]*"`).ReplaceAllString(rec.Body.String(),
				`"expires_at": "`+end.UTC().Format("2006-01-02T15:04:05.000000Z")+`"`)
			w.WriteHeader(rec.Code)
			_, _ = io.WriteString(w, body)
		}
	})
	c := newKeystone(t, access.KeystoneOptions{URL: front.URL})
	for _, at := range []struct {
		before time.Duration
		want   error
	}{{2 * time.Second, nil}, {1, nil}, {0, access.ErrUnauthorized}} {
		c.SetNow(func() time.Time { return end.Add(-at.before) })
		if got, err := c.Check(t.Context(), token); !errors.Is(err, at.want) || err == nil && !got.Expires.Equal(end) {
			t.Errorf("%v before its end: %+v, %v", at.before, got, err)
		}
	}
}

func TestServiceUser(t *testing.T) {
	k := testenv.Keystone(t)
	front := testenv.NewFront(t, k.URL)
	o := access.KeystoneOptions{URL: front.URL, CacheFor: -1, Service: access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}}
	c := newKeystone(t, o)
	token, _ := k.Token(t, k.Vars)

	var mu sync.Mutex
	own := ""
	front.Set(func(_ int, r *http.Request) testenv.Fault {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet {
			own = r.Header.Get("X-Auth-Token")
		}
		return nil
	})
	if _, err := c.Check(t.Context(), token); err != nil || own == "" || own == token {
		t.Fatalf("%v", err)
	}
	k.Revoke(t, own)
	front.Set(nil)
	var wg sync.WaitGroup
	for i := range 4 { // different tokens at once: still one log-in
		token, _ := k.Token(t, k.Vars)
		wg.Go(func() {
			if _, err := c.Check(t.Context(), token); err != nil {
				t.Errorf("check %d after the own token ended: %v", i, err)
			}
		})
	}
	wg.Wait()
	if _, posts := asked(front); posts != 1 {
		t.Errorf("logged in %d times", posts)
	}

	// With an application credential.
	vars := k.ApplicationCredential(t, k.User("trove", "service"), "own-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	o.Service = access.ServiceUser{CredentialID: vars["OS_APPLICATION_CREDENTIAL_ID"], CredentialSecret: "wrong"}
	front.Set(nil)
	c = newKeystone(t, o)
	newClock(c)
	for range 3 {
		_, err := c.Check(t.Context(), token)
		if !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("wrong secret: %v", err)
		}
	}
	if _, posts := asked(front); posts != 1 {
		t.Errorf("a refused log-in was tried %d times at once", posts)
	}
	o.Service.CredentialSecret = config.Secret(vars["OS_APPLICATION_CREDENTIAL_SECRET"])
	if _, err := newKeystone(t, o).Check(t.Context(), token); err != nil {
		t.Errorf("application credential: %v", err)
	}

	// One that may not check tokens.
	o.Service = access.ServiceUser{User: "demo", Password: "demo-key", Project: "demo"}
	other, _ := k.Token(t, k.User("other", "other"))
	if _, err := newKeystone(t, o).Check(t.Context(), other); !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "service user") {
		t.Errorf("service user without a role: %v", err)
	}
}

func TestSwiftEndpoint(t *testing.T) {
	k := testenv.Keystone(t)
	token, _ := k.Token(t, k.Vars)
	for _, c := range []struct {
		region, face string
		there        bool
	}{
		{"", "", true}, {"RegionOne", "internalURL", true}, {"RegionOne", "admin", true}, {"elsewhere", "public", false},
	} {
		got, err := newKeystone(t, access.KeystoneOptions{URL: k.URL + "/v3/", Region: c.region, Interface: c.face}).Check(t.Context(), token)
		if err != nil || (got.SwiftURL != "") != c.there {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}

func TestKeystoneOptions(t *testing.T) {
	for _, o := range []access.KeystoneOptions{
		{}, {URL: "keystone:5000"}, {URL: "http://k", Interface: "inside"},
		{URL: "http://k", Service: access.ServiceUser{User: "trove", Password: "x"}},
		{URL: "http://k", Service: access.ServiceUser{User: "trove", Project: "service", CredentialID: "x"}},
	} {
		if _, err := access.NewKeystone(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestNothingShowsToken(t *testing.T) {
	k := testenv.Keystone(t)
	token, _ := k.Token(t, k.Vars)
	checker := newKeystone(t, access.KeystoneOptions{URL: k.URL, Service: access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}})
	c, err := checker.Check(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	hides(t, token, c, *c, []*access.Caller{c})
}

// hides fails if any way to print one of the values shows the secret.
func hides(t *testing.T, secret string, values ...any) {
	t.Helper()
	for _, v := range values {
		var logged bytes.Buffer
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "v", v)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out := logged.String() + string(text)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			out += fmt.Sprintf(verb, v)
		}
		if strings.Contains(out, secret) || strings.Contains(out, fmt.Sprintf("%x", secret)) {
			t.Errorf("%T shows its secret: %s", v, out)
		}
	}
}
