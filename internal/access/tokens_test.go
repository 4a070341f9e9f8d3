package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
)

// tables starts a NATS server. Each call of connect gives the table as another server
// of the service has it.
func tables(t testing.TB) (connect func() *bus.Table, srv *server.Server) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("NATS doesn't start")
	}
	return func() *bus.Table {
		b, err := bus.Open(t.Context(), bus.Options{URL: srv.ClientURL()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		table, err := b.Table(t.Context(), "tokens")
		if err != nil {
			t.Fatal(err)
		}
		return table
	}, srv
}

func TestTokens(t *testing.T) {
	connect, srv := tables(t)
	one, two := access.NewTokens(connect()), access.NewTokens(connect())
	ctx := t.Context()

	k, text, err := one.Create(ctx, access.Token{Name: "nightly", Role: access.Operator, Project: "shop", CreatedBy: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	hides(t, text.Reveal(), k, text, []any{&k, text})
	c, err := two.Check(ctx, text.Reveal())
	if err != nil || c.User != "nightly" || c.Project != "shop" || c.Role != access.Operator || c.TokenID != k.ID || c.Token != "" {
		t.Errorf("%+v, %v", c, err)
	}
	if !c.May(access.Viewer) || !c.May(access.Operator) || c.May(access.Admin) || c.May(0) {
		t.Errorf("an operator may not what it should")
	}
	list, err := one.List(ctx, "shop")
	if err != nil || len(list) != 1 || list[0].ID != k.ID || time.Since(list[0].LastUsed) > time.Minute || list[0].CreatedBy != "ann" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if list, err := one.List(ctx, "other"); err != nil || len(list) != 0 {
		t.Errorf("list of another project: %+v, %v", list, err)
	}

	// What is stored doesn't open anything.
	raw, key := connect(), "slc."+k.ID
	value, revision, err := raw.Get(ctx, key)
	if _, secret, _ := strings.Cut(strings.TrimPrefix(text.Reveal(), "slc_"), "_"); err != nil || bytes.Contains(value, []byte(secret)) {
		t.Errorf("stored: %s, %v", value, err)
	}
	// A second use within the hour isn't noted.
	if _, err := two.Check(ctx, text.Reveal()); err != nil {
		t.Error(err)
	}
	if _, now, _ := raw.Get(ctx, key); now != revision {
		t.Errorf("each use is written: revision %d, then %d", revision, now)
	}

	for _, bad := range []string{"", "x", text.Reveal() + "a", text.Reveal()[:40], strings.ToUpper(text.Reveal()),
		"slj" + text.Reveal()[3:], flip(text.Reveal(), len(text)-1), flip(text.Reveal(), 5), "slc_*_" + strings.Repeat("a", 26)} {
		if _, err := one.Check(ctx, bad); !errors.Is(err, access.ErrUnauthorized) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	if _, err := one.UseJoin(ctx, text.Reveal()); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("a caller's token lets an agent join: %v", err)
	}

	if err := two.Revoke(ctx, "other", k.ID); !errors.Is(err, access.ErrNoToken) {
		t.Errorf("revoked from another project: %v", err)
	}
	if err := two.Revoke(ctx, "shop", k.ID); err != nil {
		t.Error(err)
	}
	if _, err := one.Check(ctx, text.Reveal()); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("revoked: %v", err)
	}
	for _, id := range []string{k.ID, "", "*", ">", "a.b"} {
		if err := two.Revoke(ctx, "", id); !errors.Is(err, access.ErrNoToken) {
			t.Errorf("revoke %q: %v", id, err)
		}
	}
	if list, err := one.List(ctx, ""); err != nil || len(list) != 0 {
		t.Errorf("list: %+v, %v", list, err)
	}

	// Without the table nobody knows.
	_, text, err = one.Create(ctx, access.Token{Name: "x", Role: access.Viewer, Project: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	srv.Shutdown()
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := one.Check(short, text.Reveal()); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("with the table gone: %v", err)
	}
}

func flip(text string, i int) string {
	c := byte('a')
	if text[i] == c {
		c = 'b'
	}
	return text[:i] + string(c) + text[i+1:]
}

func TestTokenExpires(t *testing.T) {
	connect, _ := tables(t)
	tokens := access.NewTokens(connect())
	now := time.Now()
	tokens.SetNow(func() time.Time { return now })
	k, text, err := tokens.Create(t.Context(), access.Token{Name: "x", Role: access.Viewer, Project: "p", Expires: now.Add(3 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  error
	}{{0, nil}, {2 * time.Hour, nil}, {3*time.Hour - 1, nil}, {3 * time.Hour, access.ErrUnauthorized}} {
		now = k.Expires.Add(-3 * time.Hour).Add(c.after)
		if _, err := tokens.Check(t.Context(), text.Reveal()); !errors.Is(err, c.want) {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
	if list, err := tokens.List(t.Context(), "p"); err != nil || len(list) != 1 || list[0].LastUsed.Before(k.Created.Add(2*time.Hour-time.Second)) {
		t.Errorf("last use: %+v, %v", list, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	connect, _ := tables(t)
	tokens := access.NewTokens(connect())
	good := access.Token{Name: "x", Role: access.Viewer, Project: "p"}
	for name, spoil := range map[string]func(*access.Token){
		"no name":      func(k *access.Token) { k.Name = " " },
		"a line break": func(k *access.Token) { k.Name = "a\nb" },
		"long name":    func(k *access.Token) { k.Name = strings.Repeat("a", 256) },
		"no role":      func(k *access.Token) { k.Role = 0 },
		"high role":    func(k *access.Token) { k.Role = 4 },
		"no project":   func(k *access.Token) { k.Project = "" },
		"dots":         func(k *access.Token) { k.Project = ".." },
		"a path":       func(k *access.Token) { k.Project = "a/b" },
		"over already": func(k *access.Token) { k.Expires = time.Now().Add(-time.Second) },
	} {
		k := good
		spoil(&k)
		if _, _, err := tokens.Create(t.Context(), k); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, j := range []access.Join{{}, {Project: "p"}, {Agent: "n1"}, {Project: "p", Agent: "n1", Expires: time.Unix(1, 0)}} {
		if _, _, err := tokens.CreateJoin(t.Context(), j); err == nil {
			t.Errorf("join token %+v: taken", j)
		}
	}
}

// A join token that many use at once, on two servers, lets one agent in.
func TestJoinOnce(t *testing.T) {
	connect, _ := tables(t)
	servers := []*access.Tokens{access.NewTokens(connect()), access.NewTokens(connect())}
	const rounds, users = 50, 8
	for range rounds {
		j, text, err := servers[0].CreateJoin(t.Context(), access.Join{Project: "shop", Agent: "node1", CreatedBy: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		hides(t, text.Reveal(), j)
		var wg sync.WaitGroup
		var in, out atomic.Int32
		for i := range users {
			wg.Go(func() {
				got, err := servers[i%2].UseJoin(t.Context(), text.Reveal())
				switch {
				case err == nil && got.ID == j.ID && got.Agent == "node1" && got.Project == "shop" && !got.Used.IsZero():
					in.Add(1)
				case errors.Is(err, access.ErrUnauthorized):
					out.Add(1)
				default:
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		wg.Wait()
		if in.Load() != 1 || out.Load() != users-1 {
			t.Fatalf("%d came in, %d were refused, want 1 and %d", in.Load(), out.Load(), users-1)
		}
	}
	if list, err := servers[1].ListJoins(t.Context(), "shop"); err != nil || len(list) != rounds || list[0].Used.IsZero() {
		t.Errorf("%d join tokens are listed, %v", len(list), err)
	}
}

func TestJoinEnds(t *testing.T) {
	connect, _ := tables(t)
	tokens := access.NewTokens(connect())
	begin := time.Now().Truncate(time.Second)
	now := begin
	tokens.SetNow(func() time.Time { return now })
	_, late, err := tokens.CreateJoin(t.Context(), access.Join{Project: "p", Agent: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	revoked, text, err := tokens.CreateJoin(t.Context(), access.Join{Project: "p", Agent: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := tokens.RevokeJoin(t.Context(), "p", revoked.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.UseJoin(t.Context(), text.Reveal()); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("revoked: %v", err)
	}
	now = begin.Add(time.Hour)
	if _, err := tokens.UseJoin(t.Context(), late.Reveal()); !errors.Is(err, access.ErrUnauthorized) {
		t.Errorf("after an hour: %v", err)
	}
	now = begin.Add(26 * time.Hour)
	if _, _, err := tokens.CreateJoin(t.Context(), access.Join{Project: "p", Agent: "n3"}); err != nil {
		t.Fatal(err)
	}
	if list, err := tokens.ListJoins(t.Context(), ""); err != nil || len(list) != 1 || list[0].Agent != "n3" {
		t.Errorf("after a day: %+v, %v", list, err)
	}
}

func TestLogIn(t *testing.T) {
	connect, _ := tables(t)
	tokens := access.NewTokens(connect())
	_, text, err := tokens.Create(t.Context(), access.Token{Name: "trove", Role: access.Viewer, Project: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  string
		want error
	}{{text.Reveal(), nil}, {"", access.ErrUnauthorized}, {"wrong", access.ErrUnauthorized}} {
		r := httptest.NewRequest(http.MethodGet, "/auth/v1.0", nil)
		r.Header.Set("X-Auth-User", "anything")
		r.Header.Set("X-Auth-Key", c.key)
		caller, token, err := access.LogIn(r, tokens)
		if !errors.Is(err, c.want) || err == nil && (token != text || caller.Project != "shop") {
			t.Errorf("%+v, %v", caller, err)
		}
	}
}

func TestNone(t *testing.T) {
	c, err := access.None{}.Check(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.For("shop")
	if err != nil || got.Project != "shop" || got.Role != access.Admin || c.Project != "" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "..", "a/b", "a b", strings.Repeat("a", 65)} {
		if _, err := c.For(bad); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("project %q: %v", bad, err)
		}
	}
	if got := access.From(access.With(t.Context(), c)); got != c {
		t.Errorf("%+v", got)
	}
	if access.From(t.Context()).May(access.Viewer) {
		t.Errorf("nobody may look")
	}
}

func TestTokenOf(t *testing.T) {
	for _, c := range []struct{ header, value, want string }{
		{"X-Auth-Token", "a", "a"}, {"Authorization", "Bearer b", "b"}, {"Authorization", "bearer  c ", "c"},
		{"Authorization", "Basic dTpw", ""}, {"Authorization", "Bearer", ""}, {"Cookie", "d", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(c.header, c.value)
		if got := access.TokenOf(r); got != c.want {
			t.Errorf("%s: %s: got %q, want %q", c.header, c.value, got, c.want)
		}
	}
}

func TestRoles(t *testing.T) {
	for _, r := range []access.Role{access.Viewer, access.Operator, access.Admin} {
		if got, err := access.ParseRole(r.String()); err != nil || got != r {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	for _, name := range []string{"", "none", "Admin", "root"} {
		if r, err := access.ParseRole(name); err == nil {
			t.Errorf("%q is %v", name, r)
		}
	}
	if got := fmt.Sprint(access.Role(-1), access.Role(9)); got != "none none" {
		t.Error(got)
	}
}

// The text of a token is either the one that we would write, or none.
func FuzzParse(f *testing.F) {
	f.Add("slc", "slc_"+strings.Repeat("a", 12)+"_"+strings.Repeat("7", 26))
	f.Add("slj", "slj_"+strings.Repeat("z", 12)+"_"+strings.Repeat("2", 26))
	f.Add("slc", "slc__")
	f.Fuzz(func(t *testing.T, kind, text string) {
		id, secret, ok := access.Parse(kind, text)
		if ok && (kind+"_"+id+"_"+secret != text || len(id) != 12 || len(secret) != 26 || strings.ContainsAny(id+secret, "._ */>\x00")) {
			t.Errorf("%q of kind %q: %q, %q", text, kind, id, secret)
		}
	})
}
