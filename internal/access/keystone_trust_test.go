package access_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/testenv"
)

// trustWorld is a Keystone behind a front, asked by a service user.
type trustWorld struct {
	t     *testing.T
	real  *testenv.KeystoneServer
	front *testenv.Front
	*access.Keystone
}

func newTrustWorld(t *testing.T, o access.KeystoneOptions) *trustWorld {
	t.Helper()
	k := testenv.Keystone(t)
	w := &trustWorld{t: t, real: k, front: testenv.NewFront(t, k.URL)}
	o.URL, o.Service = w.front.URL, access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}
	w.Keystone = newKeystone(t, o)
	return w
}

// caller logs in.
func (w *trustWorld) caller(vars map[string]string) *access.Caller {
	w.t.Helper()
	token, _ := w.real.Token(w.t, vars)
	return w.of(token)
}

func (w *trustWorld) of(token string) *access.Caller {
	w.t.Helper()
	c, err := w.Check(w.t.Context(), token)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *trustWorld) trust(c *access.Caller) string {
	w.t.Helper()
	id, err := w.Trust(w.t.Context(), c)
	if err != nil || id == "" {
		w.t.Fatalf("trust: %q, %v", id, err)
	}
	return id
}

func TestTrust(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{})
	clock := newClock(w.Keystone)
	for _, who := range []struct{ user, project string }{{"demo", "demo"}, {"admin", "admin"}} {
		giver := w.caller(w.real.User(who.user, who.project))
		id := w.trust(giver)
		w.front.Set(nil)
		first, err := w.ByTrust(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: by the trust: %v", who.user, err)
		}
		if first.Project != giver.Project || first.SwiftURL != giver.SwiftURL || first.Role != access.Operator || first.User != "trove" ||
			first.Token == giver.Token || time.Until(first.Expires) < 23*time.Hour {
			t.Errorf("%s: by the trust: %+v, Swift at %q until %v", who.user, first, first.SwiftURL, first.Expires)
		}
		for range 3 {
			if c, err := w.ByTrust(t.Context(), id); err != nil || c.Token != first.Token || c.Role != access.Operator {
				t.Errorf("%s: again: %+v, %v", who.user, c, err)
			}
		}
		if gets, posts := asked(w.front); gets > 1 || posts != 1 {
			t.Errorf("%s: asked %d times and logged in %d times, want at most 1 and 1", who.user, gets, posts)
		}
		hides(t, first.Token.Reveal(), first)

		// It is asked about as callers' are, and another one comes when a quarter of its day
		// is over.
		for _, after := range []struct {
			time        time.Duration
			gets, posts int
		}{{5 * time.Hour, 1, 0}, {2 * time.Hour, 0, 1}} {
			clock.add(after.time)
			w.front.Set(nil)
			c, err := w.ByTrust(t.Context(), id)
			if err != nil {
				t.Fatalf("%s: %v later: %v", who.user, after.time, err)
			}
			if gets, posts := asked(w.front); gets != after.gets || posts != after.posts || (c.Token == first.Token) != (posts == 0) {
				t.Errorf("%s: %v later: asked %d times and logged in %d times, want %d and %d", who.user, after.time, gets, posts, after.gets, after.posts)
			}
		}
		clock.add(-7 * time.Hour)

		// Its giver ends it.
		if err := w.Untrust(t.Context(), giver, id); err != nil {
			t.Error(err)
		}
		if err := w.Untrust(t.Context(), giver, id); err != nil {
			t.Errorf("untrust again: %v", err)
		}
	}
}

// rolesOf asks Keystone for the roles of a token.
func (w *trustWorld) rolesOf(token config.Secret) (names []string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.real.URL+"/v3/auth/tokens", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", token.Reveal())
	r.Header.Set("X-Subject-Token", token.Reveal())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token struct{ Roles []struct{ Name string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	for _, role := range a.Token.Roles {
		names = append(names, role.Name)
	}
	slices.Sort(names)
	return names
}

// What an agent is lent has no role of an administrator's, ends, and is good for nothing
// here; one caller's is the same for a day.
func TestLend(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{})
	clock := newClock(w.Keystone)
	for _, who := range []struct{ user, project string }{{"demo", "demo"}, {"admin", "admin"}} {
		c := w.caller(w.real.User(who.user, who.project))
		token, err := w.Lend(t.Context(), c)
		if err != nil {
			t.Fatalf("%s: %v", who.user, err)
		}
		if got, want := w.rolesOf(token), []string{"member", "reader"}; !slices.Equal(got, want) { // member implies reader
			t.Errorf("%s: lent the roles %v of %v, want %v", who.user, got, w.rolesOf(c.Token), want)
		}
		hides(t, token.Reveal(), c)
		if c, err := w.Check(t.Context(), token.Reveal()); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("%s: an agent may ask as %v, %v", who.user, c, err)
		}
		var trusts atomic.Int32
		w.front.Set(func(_ int, r *http.Request) testenv.Fault {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/OS-TRUST/trusts") {
				trusts.Add(1)
			}
			return nil
		})
		another := w.caller(w.real.User(who.user, who.project))
		for range 3 {
			if again, err := w.Lend(t.Context(), another); err != nil || again != token {
				t.Errorf("%s: lent another token, %v", who.user, err)
			}
		}
		clock.add(7 * time.Hour) // by the same trust there is another token
		later, err := w.Lend(t.Context(), another)
		if err != nil || later == token || trusts.Load() != 0 {
			t.Errorf("%s: hours later: %d more trusts, and the same token or %v", who.user, trusts.Load(), err)
		}
		clock.add(6 * time.Hour)
		if _, err := w.Lend(t.Context(), another); err != nil || trusts.Load() != 1 {
			t.Errorf("%s: half a day later: %d more trusts, want 1; %v", who.user, trusts.Load(), err)
		}
		clock.add(-13 * time.Hour)
		lent := &access.Caller{Token: later, Lent: true}
		if same, err := w.Lend(t.Context(), lent); err != nil || same != later {
			t.Errorf("%s: what is lent isn't lent on: %v", who.user, err)
		}
	}
	reader := w.caller(w.real.User("backup-only", "demo"))
	if _, err := w.Lend(t.Context(), reader); !errors.Is(err, access.ErrNoSwiftRole) || !errors.Is(err, access.ErrForbidden) {
		t.Errorf("without such a role: %v", err)
	}
	for name, roles := range map[string][]string{"READER": {"reader"}, "admin": {"admin", "member", "reader"}} {
		k := newKeystone(t, access.KeystoneOptions{URL: w.front.URL, Service: access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"},
			SwiftRoles: []string{name, "nosuchrole"}})
		token, err := k.Lend(t.Context(), w.caller(w.real.User("admin", "admin")))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := w.rolesOf(token); !slices.Equal(got, roles) {
			t.Errorf("%s: lent the roles %v, want %v", name, got, roles)
		}
	}
}

// What the giver may no more, the trust may no more.
func TestTrustEnds(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{CacheFor: -1})
	untrust := func(c *access.Caller, ids []string) {
		for _, id := range ids {
			if err := w.Untrust(t.Context(), c, id); err != nil {
				t.Error(err)
			}
		}
	}
	for what, test := range map[string]struct {
		end   func(giver *access.Caller, user string, trusts []string)
		again func(user string) // nil: it doesn't come back
	}{
		"user disabled": {
			func(_ *access.Caller, user string, _ []string) { w.enable(user, false) },
			func(user string) { w.enable(user, true) },
		},
		"user deleted": {func(_ *access.Caller, user string, _ []string) {
			w.real.Admin(t, http.MethodDelete, "/users/"+user, nil, nil)
		}, nil},
		"role taken away": {
			func(_ *access.Caller, user string, _ []string) {
				w.real.Admin(t, http.MethodDelete, w.role(user), nil, nil)
			},
			func(user string) { w.real.Admin(t, http.MethodPut, w.role(user), nil, nil) },
		},
		"ended by the giver": {func(giver *access.Caller, _ string, ids []string) { untrust(giver, ids) }, nil},
		// who is an administrator here
		"ended by the service user": {func(_ *access.Caller, _ string, ids []string) { untrust(&access.Caller{}, ids) }, nil},
	} {
		vars, user := w.real.NewUser(t, "demo")
		giver := w.caller(vars)
		kept, fresh := w.trust(giver), w.trust(giver) // of one the token is there already
		if _, err := w.ByTrust(t.Context(), kept); err != nil {
			t.Fatalf("%s: before: %v", what, err)
		}
		test.end(giver, user, []string{kept, fresh})
		for name, id := range map[string]string{"with a token": kept, "without": fresh} {
			if c, err := w.ByTrust(t.Context(), id); !errors.Is(err, access.ErrNoTrust) {
				t.Errorf("%s, %s: %v, %v", what, name, c, err)
			}
		}
		if test.again == nil {
			continue
		}
		test.again(user)
		if _, err := w.ByTrust(t.Context(), kept); err != nil {
			t.Errorf("%s, and back: %v", what, err)
		}
	}
	if c, err := w.ByTrust(t.Context(), "nosuchtrust"); !errors.Is(err, access.ErrNoTrust) {
		t.Errorf("no such trust: %v, %v", c, err)
	}
}

func (w *trustWorld) enable(user string, yes bool) {
	w.real.Admin(w.t, http.MethodPatch, "/users/"+user, map[string]any{"user": map[string]any{"enabled": yes}}, nil)
}

// role is the path of a user's role in the project demo.
func (w *trustWorld) role(user string) string {
	return "/projects/" + w.real.Vars["DEMO_PROJECT_ID"] + "/users/" + user + "/roles/" + w.real.Role(w.t, "member")
}

func TestTrustRefused(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{CacheFor: -1})
	demo := w.caller(w.real.Vars)
	vars := w.real.ApplicationCredential(t, w.real.Vars, "trust-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if id, err := w.Trust(t.Context(), w.of(credentialToken(t, w.real, vars))); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("by an application credential: %q, %v", id, err)
	}
	id := w.trust(demo)
	by, err := w.ByTrust(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := w.Trust(t.Context(), by); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("by a trust: %q, %v", id, err)
	}
	ended := w.caller(w.real.Vars)
	w.real.Revoke(t, ended.Token.Reveal())
	if id, err := w.Trust(t.Context(), ended); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("with a revoked token: %q, %v", id, err)
	}

	// A service user that is no administrator can't end what others gave.
	plain := newKeystone(t, access.KeystoneOptions{URL: w.front.URL, Service: access.ServiceUser{User: "backup-only", Password: "backup-only-key", Project: "demo"}})
	other := w.caller(w.real.User("other", "other"))
	if err := plain.Untrust(t.Context(), other, id); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("untrust by another: %v", err)
	}
	if err := plain.Untrust(t.Context(), demo, id); err != nil {
		t.Errorf("untrust by its giver: %v", err)
	}
}

// Of a Keystone that is down nothing is concluded, and of an own log-in that is wrong.
func TestTrustUnavailable(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{CacheFor: -1})
	demo := w.caller(w.real.Vars)
	kept, fresh := w.trust(demo), w.trust(demo)
	if _, err := w.ByTrust(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	isDown := func(what string) {
		t.Helper()
		for _, id := range []string{kept, fresh} {
			if c, err := w.ByTrust(t.Context(), id); !errors.Is(err, access.ErrUnavailable) || errors.Is(err, access.ErrNoTrust) {
				t.Errorf("%s: %v, %v", what, c, err)
			}
		}
		if id, err := w.Trust(t.Context(), demo); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%s: made %q, %v", what, id, err)
		}
		if err := w.Untrust(t.Context(), demo, kept); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%s: ended, %v", what, err)
		}
	}
	w.front.Down()
	isDown("down")
	w.front.Up()
	w.front.Set(func(int, *http.Request) testenv.Fault { return testenv.Answer(http.StatusBadGateway) })
	isDown("bad gateway")
	// As if the password had just been changed: only log-ins are refused.
	w.front.Set(func(_ int, r *http.Request) testenv.Fault {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/auth/tokens") {
			return testenv.Answer(http.StatusUnauthorized)
		}
		return nil
	})
	if c, err := w.ByTrust(t.Context(), fresh); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("password changed: %v, %v", c, err)
	}
	w.front.Set(nil)
	for _, id := range []string{kept, fresh} {
		if _, err := w.ByTrust(t.Context(), id); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	for _, id := range []string{kept, fresh, url.PathEscape("no such trust")} {
		if err := w.Untrust(t.Context(), demo, id); err != nil {
			t.Errorf("untrust %s: %v", id, err)
		}
	}
}

// A token of the service user's that Keystone doesn't take any more is replaced.
func TestTrustOwnTokenEnds(t *testing.T) {
	w := newTrustWorld(t, access.KeystoneOptions{CacheFor: -1})
	own := ""
	w.front.Set(func(_ int, r *http.Request) testenv.Fault {
		if r.Method == http.MethodGet {
			own = r.Header.Get("X-Auth-Token")
		}
		return nil
	})
	demo := w.caller(w.real.Vars)
	w.front.Set(nil)
	w.real.Revoke(t, own)
	id := w.trust(demo)
	if _, err := w.ByTrust(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := w.Untrust(t.Context(), &access.Caller{}, id); err != nil {
		t.Error(err)
	}
}
