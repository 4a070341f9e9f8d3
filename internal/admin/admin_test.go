package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

var discard = slog.New(slog.DiscardHandler)

const nobody = "01890000-0000-7000-8000-000000000000"

// TestRoles: each route is closed to the roles below the one that it needs and to those
// that have none, and what changes something needs an operator.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	roles := []access.Role{access.Viewer, access.Operator, access.Admin}
	tokens := map[access.Role]string{}
	for _, r := range roles {
		tokens[r] = w.Token(project, r)
	}
	for pattern, needs := range admin.Needs() {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.ReplaceAll(path, "{id}", nobody)
		if method != "GET" && needs < access.Operator {
			t.Errorf("%s changes something and needs only %s", pattern, needs)
		}
		for _, r := range roles {
			a := w.do(method, path, tokens[r], "")
			if refused := a.Status == 403; refused != (r < needs) {
				t.Errorf("%s as %s: got %d, needs %s", pattern, r, a.Status, needs)
			}
			if a.Status >= 500 {
				t.Errorf("%s as %s: %s", pattern, r, a.Body)
			}
		}
		w.refused(w.do(method, path, "", ""), 401, "unauthorized", "")
		w.refused(w.do(method, path+"?project=other", tokens[access.Operator], ""), 403, "forbidden", "Only administrators")
	}
}

func TestForms(t *testing.T) {
	w := newWorld(t)
	token := w.Token(project, access.Admin)
	for _, test := range []struct {
		name         string
		a            servertest.Answer
		status       int
		code, phrase string
	}{
		{"no path", w.do("GET", "/nothing", token, ""), 404, "not_found", "could not be found"},
		{"no path without a token", w.do("GET", "/nothing", "", ""), 401, "unauthorized", ""},
		{"an unclean path", w.do("GET", "//whoami", token, ""), 404, "not_found", ""},
		{"method", w.do("PUT", "/tokens", token, "{}"), 405, "method_not_allowed", "GET, HEAD, POST"},
		{"no body", w.do("POST", "/tokens", token, ""), 400, "invalid", "no body"},
		{"no JSON", w.do("POST", "/tokens", token, "{"), 400, "invalid", "not JSON"},
		{"null", w.do("POST", "/tokens", token, "null"), 400, "invalid", "JSON object"},
		{"a list", w.do("POST", "/tokens", token, "[]"), 400, "invalid", "JSON object"},
		{"two values", w.do("POST", "/tokens", token, "{}{}"), 400, "invalid", "more than one"},
		{"unknown field", w.do("POST", "/tokens", token, `{"rolle":"viewer"}`), 400, "invalid", `unknown field "rolle"`},
		{"a field's type", w.do("POST", "/tokens", token, `{"name":7}`), 400, "invalid", "name must be text, not a number"},
		{"a field's value", w.do("POST", "/tokens", token, `{"expires_in":"7 days"}`), 400, "invalid", "no length of time: write it as"},
		{"form", w.do("POST", "/tokens", token, `{}`, "Content-Type", "text/plain"), 415, "unsupported_media_type", ""},
		{"large", w.do("POST", "/tokens", token, `{"name":"`+strings.Repeat("a", 1<<16)+`"}`), 413, "over_limit", "larger than 65536"},
		{"another site's page", w.do("POST", "/tokens", token, `{}`, "Origin", "https://evil.example"), 403, "forbidden", "other sites"},
		{"an id that is none", w.do("GET", "/schedules/..%2f..%00", token, ""), 404, "not_found", ""},
		{"a project that is none", w.do("GET", "/schedules?project=a%20b", token, ""), 400, "invalid", "project"},
	} {
		t.Run(test.name, func(t *testing.T) { w.refused(test.a, test.status, test.code, test.phrase) })
	}
	a := w.do("GET", "/whoami", token, "")
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get(httpd.RequestIDHeader) == "" {
		t.Errorf("header: %v", a.Header)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	root := w.Token(project, access.Admin)
	var made struct {
		Token struct {
			ID, Name, Role, Project string
			Created                 time.Time
			Expires                 time.Time
		}
		Secret string
	}
	w.into(w.do("POST", "/tokens", root, `{"name":"ci","role":"operator","project":"shop","expires_in":"90d"}`), 201, "", &made)
	k := made.Token
	if k.Name != "ci" || k.Role != "operator" || k.Project != "shop" || k.Expires.Sub(k.Created).Round(time.Minute) != 90*24*time.Hour {
		t.Errorf("made %+v", made)
	}
	var who struct {
		User, Project, Role, Auth string
		TokenID                   string `json:"token_id"`
	}
	w.into(w.do("GET", "/whoami", made.Secret, ""), 200, "", &who)
	if who.User != "ci" || who.Project != "shop" || who.Role != "operator" || who.TokenID != k.ID || who.Auth != "token" {
		t.Errorf("who am I: %+v", who)
	}
	list := w.do("GET", "/tokens?project=shop", root, "")
	if !strings.Contains(list.Body, k.ID) || strings.Contains(list.Body, made.Secret[16:]) || strings.Contains(list.Body, project) {
		t.Errorf("list: %s", list.Body)
	}
	w.refused(w.do("DELETE", "/tokens/"+k.ID+"?project=other", root, ""), 404, "not_found", "")
	w.refused(w.do("DELETE", "/tokens/"+nobody, root, ""), 404, "not_found", "")
	if a := w.do("DELETE", "/tokens/"+k.ID, root, ""); a.Status != 204 || a.Body != "" {
		t.Errorf("revoke: %d %s", a.Status, a.Body)
	}
	w.refused(w.do("GET", "/whoami", made.Secret, ""), 401, "unauthorized", "revoked")

	for body, want := range map[string]string{
		`{"name":"x"}`:                                     "needs a role",
		`{"role":"viewer"}`:                                "needs a name",
		`{"name":"x","role":"root"}`:                       "needs a role",
		`{"name":"x","role":"viewer","project":"a/b"}`:     "No project",
		`{"name":"x","role":"viewer","expires_in":"-1h"}`:  "no length of time",
		`{"name":"x","role":"viewer","expires_in":"1y6m"}`: "no length of time",
	} {
		w.refused(w.do("POST", "/tokens", root, body), 400, "invalid", want)
	}
	lines := strings.Split(strings.TrimSpace(w.Audited()), "\n")
	var first httpd.AuditRecord
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Action != "token.create" || first.Target != k.ID || first.User != "test" || first.Outcome != "ok" {
		t.Errorf("audit: %s, %v", lines[0], err)
	}
	if strings.Contains(w.Audited()+w.Logged(), made.Secret[16:]) {
		t.Error("a token is in a log")
	}
}

func TestKeystonesTokensAreKeystones(t *testing.T) {
	w := newWorld(t, func(o *admin.Options) { o.Auth = "keystone" })
	root := w.Token(project, access.Admin)
	for _, a := range []servertest.Answer{w.do("GET", "/tokens", root, ""), w.do("POST", "/tokens", root, "{}"), w.do("DELETE", "/tokens/x", root, "")} {
		w.refused(a, 501, "unsupported", "Keystone")
	}
	w.joinToken(root, "db1") // these are ours all the same
}

func TestNoLogIn(t *testing.T) {
	w := newWorld(t, func(o *admin.Options) { o.Checker, o.Auth = access.None{}, "none" })
	for want, a := range map[string]servertest.Answer{"default": w.do("GET", "/whoami", "", ""), "shop": w.do("GET", "/whoami?project=shop", "", ""),
		"header": w.do("GET", "/whoami", "", "", "X-Project-Id", "header")} {
		var who struct{ Project, Role string }
		if w.into(a, 200, "", &who); who.Project != want || who.Role != "admin" {
			t.Errorf("got %+v, want %s", who, want)
		}
	}
}

func TestJoin(t *testing.T) {
	to := []string{"age1z5xphhwcaug5n38vyg40nqdc23ffl6cu6v8qj5pz4wdr2f47fuysypkakq"}
	w := newWorld(t, func(o *admin.Options) { o.Recipients = func() []string { return to } })
	operator := w.Token(project, access.Operator)
	p := w.play(operator, "db1") // dials with what it got
	if !slices.Equal(p.Recipients, to) {
		t.Errorf("joined with the recipients %q", p.Recipients)
	}
	if p.Name != "db1" || p.Project != project || p.NATSURL != w.Bus.ClientURL() {
		t.Errorf("joined as %+v", p.node)
	}
	var agents []struct {
		ID, Name, Project, Version string
		Online                     bool
		Instances                  []struct {
			ID, Name string
			Up       bool
		}
	}
	list := w.do("GET", "/agents", operator, "")
	w.into(list, 200, "agents", &agents)
	if len(agents) != 1 || agents[0].ID != p.AgentID || !agents[0].Online || len(agents[0].Instances) != 1 || agents[0].Instances[0].ID != p.Instance || !agents[0].Instances[0].Up {
		t.Errorf("agents: %s", list.Body)
	}
	if strings.Contains(list.Body, p.Public) {
		t.Error("the list shows an agent's key")
	}
	if w.into(w.do("GET", "/agents", w.Token("other", access.Operator), ""), 200, "agents", &agents); len(agents) != 0 {
		t.Errorf("another project sees %+v", agents)
	}
	root := w.Token("other", access.Admin)
	if w.into(w.do("GET", "/agents", root, ""), 200, "agents", &agents); len(agents) != 1 {
		t.Errorf("an administrator sees %+v", agents)
	}
	w.refused(w.do("DELETE", "/agents/"+p.AgentID+"?project=third", root, ""), 404, "not_found", "")
	if a := w.do("DELETE", "/agents/"+p.AgentID, root, ""); a.Status != 204 {
		t.Errorf("remove: %d %s", a.Status, a.Body)
	}
	w.refused(w.do("DELETE", "/agents/"+p.AgentID, root, ""), 404, "not_found", "")
	servertest.Eventually(t, "its credentials are worth nothing", func() bool { return p.greet(t.Context()) != nil })
	if !strings.Contains(w.Audited(), `"agent.join","target":"`+p.AgentID) {
		t.Errorf("audit: %s", w.Audited())
	}
}

func TestJoinTokens(t *testing.T) {
	w := newWorld(t)
	operator, root := w.Token(project, access.Operator), w.Token("root", access.Admin)
	w.refused(w.do("POST", "/join-tokens", operator, `{"name":"db1","project":"other"}`), 403, "forbidden", "Only administrators")
	for _, name := range []string{"", "a/b", "-x", strings.Repeat("a", 64)} {
		w.refused(w.do("POST", "/join-tokens", operator, fmt.Sprintf(`{"name":%q}`, name)), 400, "invalid", "needs a name")
	}
	var made struct {
		Token struct {
			ID, Agent, Project string
			Created, Expires   time.Time
		} `json:"join_token"`
		Secret string
	}
	w.into(w.do("POST", "/join-tokens", root, `{"name":"db1","project":"acme","expires_in":"30m"}`), 201, "", &made)
	if k := made.Token; k.Agent != "db1" || k.Project != project || k.Expires.Sub(k.Created).Round(time.Minute) != 30*time.Minute {
		t.Errorf("made %+v", made)
	}
	if a := w.do("GET", "/join-tokens", operator, ""); !strings.Contains(a.Body, made.Token.ID) || strings.Contains(a.Body, made.Secret[16:]) {
		t.Errorf("list: %s", a.Body)
	}
	w.refused(w.do("DELETE", "/join-tokens/"+made.Token.ID, w.Token("other", access.Operator), ""), 404, "not_found", "")
	if a := w.do("DELETE", "/join-tokens/"+made.Token.ID, operator, ""); a.Status != 204 {
		t.Errorf("revoke: %d %s", a.Status, a.Body)
	}
	w.refused(w.do("POST", "/join", "", newNode(t).request(made.Secret)), 401, "unauthorized", "make a new one")
}

// TestJoinRefusesBeforeTheTokenIsUsed: what can't succeed doesn't cost a token.
func TestJoinRefusesBeforeTheTokenIsUsed(t *testing.T) {
	w := newWorld(t)
	token := w.joinToken(w.Token(project, access.Operator), "db1")
	good := newNode(t)
	key, recipient := good.Public, good.Recipient()
	for body, want := range map[string]string{
		`{"public_key":"` + key + `","recipient":"` + recipient + `"}`:                                    "token is missing",
		`{"token":"` + token + `","recipient":"` + recipient + `"}`:                                       "public_key must be",
		`{"token":"` + token + `","public_key":"` + key + `"}`:                                            "recipient must be",
		`{"token":"` + token + `","public_key":"` + key + `","recipient":"` + recipient + `","hello":[]}`: "hello must be a JSON object, not a list",
		`{"token":"` + token + `","name":"x"}`:                                                            `unknown field "name"`,
	} {
		w.refused(w.do("POST", "/join", "", body), 400, "invalid", want)
	}
	w.refused(w.do("GET", "/join", "", ""), 401, "unauthorized", "")
	w.into(w.do("POST", "/join", "", good.request(token)), 201, "", good)
	again := newNode(t)
	again.Public = good.Public
	w.refused(w.do("POST", "/join", "", again.request(w.joinToken(w.Token(project, access.Operator), "db2"))), 409, "conflict", "make a new key")
}

func TestJoinWhereTheBusIsClosed(t *testing.T) {
	w := newWorld(t, func(o *admin.Options) { o.NATSURL = "" })
	w.refused(w.do("POST", "/join-tokens", w.Token(project, access.Operator), `{"name":"db1"}`), 409, "conflict", "nats_listen")
	w.refused(w.do("POST", "/join", "", newNode(t).request("slj_x_y")), 409, "conflict", "nats_listen")
}

// TestOneJoinWins: of many who use one token at once one wins, and who asks again with
// its key gets the same answer, as if the first had been lost.
func TestOneJoinWins(t *testing.T) {
	w := newWorld(t)
	token := w.joinToken(w.Token(project, access.Operator), "db1")
	nodes := make([]*node, 8)
	answers := make([]servertest.Answer, len(nodes))
	second := world{World: &servertest.World{}, t: t} // another process of the service
	second.HTTP = httptest.NewServer(admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, NATSURL: w.Bus.ClientURL(), Log: discard}))
	defer second.HTTP.Close()
	at := []*world{w, &second}
	var done sync.WaitGroup
	for i := range nodes {
		nodes[i] = newNode(t)
		done.Go(func() { answers[i] = at[i%2].do("POST", "/join", "", nodes[i].request(token)) })
	}
	done.Wait()
	won := slices.IndexFunc(answers, func(a servertest.Answer) bool { return a.Status == 201 })
	if won < 0 {
		t.Fatalf("none won: %+v", answers)
	}
	for i, a := range answers {
		if i != won {
			w.refused(a, 401, "unauthorized", "used already")
		}
	}
	if again := at[won%2].do("POST", "/join", "", nodes[won].request(token)); again.Status != 201 || again.Body != answers[won].Body {
		t.Errorf("again: %d %s, want %s", again.Status, again.Body, answers[won].Body)
	}
	if n := len(w.Server.Agents()); n != 1 {
		t.Errorf("%d agents", n)
	}
	// Of a server that was started anew the answer is lost, and it says so.
	fresh := admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, NATSURL: "nats://h:1", Log: discard})
	w.HTTP.Config.Handler = fresh
	w.refused(w.do("POST", "/join", "", newNode(t).request(token)), 401, "unauthorized", "used already")
	w.refused(w.do("POST", "/join", "", nodes[won].request(token)), 409, "conflict", "make a new key")
	// A new token and key replace the agent that nobody became, with its instance kept.
	n := newNode(t)
	w.into(w.do("POST", "/join", "", n.request(w.joinToken(w.Token(project, access.Admin), "db1"))), 201, "", n)
	var first node
	w.into(answers[won], 201, "", &first)
	if n.Instance != first.Instance || n.AgentID == first.AgentID || len(w.Server.Agents()) != 1 {
		t.Errorf("joined again as %+v, before %+v; %d agents", n, first, len(w.Server.Agents()))
	}
}

// TestOnlyAdministratorsReplaceAgents: who takes the place of an agent gets what callers let
// that use, so a member of its project can't, by a token of before it came either.
func TestOnlyAdministratorsReplaceAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	operator, root := w.Token(project, access.Operator), w.Token(project, access.Admin)
	early := w.joinToken(operator, "db1")
	p := w.play(operator, "db1")
	stays := func(why string) {
		t.Helper()
		agents := w.Server.Agents()
		if len(agents) != 1 || agents[0].ID != p.AgentID {
			t.Fatalf("%s: the agents are %+v, want %s", why, agents, p.AgentID)
		}
		who := &access.Caller{Project: project}
		if i, err := w.Server.Instance(t.Context(), who, p.Instance); err != nil || i.Agent != p.AgentID {
			t.Fatalf("%s: its instance is %+v, %v", why, i, err)
		}
		if err := p.greet(t.Context()); err != nil {
			t.Fatalf("%s: it isn't heard any more: %v", why, err)
		}
	}
	w.refused(w.do("POST", "/join-tokens", operator, `{"name":"db1"}`), 409, "conflict", "only an administrator")
	w.refused(w.do("POST", "/join", "", newNode(t).request(early)), 409, "conflict", "only an administrator")
	stays("after a member's tokens")
	for _, line := range []string{`"action":"join_token.create","target":"db1","outcome":"failed","status":409`,
		`"action":"agent.join","target":"db1","outcome":"failed","status":409`} {
		if !strings.Contains(w.Audited(), line) {
			t.Errorf("no %s in the audit log: %s", line, w.Audited())
		}
	}

	n := newNode(t)
	w.into(w.do("POST", "/join", "", n.request(w.joinToken(root, "db1"))), 201, "", n)
	if n.Instance != p.Instance || n.AgentID == p.AgentID {
		t.Errorf("by an administrator's token: %+v, want the instance %s", n, p.Instance)
	}
}

// TestAgentsOfCallersSwiftAreOfAdministrators: an agent is let into the accounts of all
// callers that have it do something.
func TestAgentsOfCallersSwiftAreOfAdministrators(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	operator, root := w.Token(project, access.Operator), w.Token(project, access.Admin)
	early := w.joinToken(operator, "db1")
	own, err := server.New(t.Context(), server.Config{Bus: w.Bus, Log: w.Log, OwnSwift: true})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Background(t, own.Run)
	if err := own.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.HTTP.Config.Handler = admin.New(admin.Options{Server: own, Checker: w.Tokens, Tokens: w.Tokens, NATSURL: w.Bus.ClientURL(), Log: discard})
	w.refused(w.do("POST", "/join-tokens", operator, `{"name":"db2"}`), 403, "forbidden", "only an administrator")
	w.refused(w.do("POST", "/join", "", newNode(t).request(early)), 403, "forbidden", "only an administrator")
	n := newNode(t)
	w.into(w.do("POST", "/join", "", n.request(w.joinToken(root, "db1"))), 201, "", n)
	if agents := own.Agents(); len(agents) != 1 || agents[0].ID != n.AgentID {
		t.Errorf("agents: %+v", agents)
	}
}

// TestJoinGoesOn: a client that hangs up doesn't stop a join halfway.
func TestJoinGoesOn(t *testing.T) {
	w := newWorld(t)
	n := newNode(t)
	request := n.request(w.joinToken(w.Token(project, access.Operator), "db1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "POST", "/slipcover/v1/join", strings.NewReader(request))
	r.Header.Set("Content-Type", "application/json")
	w.HTTP.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	if agents := w.Server.Agents(); len(agents) != 1 || agents[0].PublicKey != n.Public {
		t.Fatalf("agents: %+v", agents)
	}
	w.into(w.do("POST", "/join", "", request), 201, "", n)
}

// TestNATSAddress: a server that listens everywhere is reached where the agent found it.
func TestNATSAddress(t *testing.T) {
	for _, test := range []struct{ nats, url, want string }{
		{"tls://0.0.0.0:4222", "", "tls://127.0.0.1:4222"},
		{"tls://[::]:4222", "https://backup.example:8779", "tls://backup.example:4222"},
		{"nats://a:1, nats://b:2", "https://backup.example", "nats://a:1,nats://b:2"},
	} {
		w := newWorld(t, func(o *admin.Options) { o.NATSURL, o.URL, o.CA = test.nats, test.url, "PEM" })
		n := newNode(t)
		w.into(w.do("POST", "/join", "", n.request(w.joinToken(w.Token(project, access.Operator), "db1"))), 201, "", n)
		if n.NATSURL != test.want || n.NATSCA != "PEM" {
			t.Errorf("%s: got %s, want %s", test.nats, n.NATSURL, test.want)
		}
	}
}

type schedule struct {
	ID, Project, Instance, Name, Cron, Jitter, Window, Heartbeat string
	InstanceName                                                 string `json:"instance_name"`
	TimeZone                                                     string `json:"time_zone"`
	ProveCron                                                    string `json:"prove_cron"`
	Enabled                                                      bool
	CatchUp                                                      bool `json:"catch_up"`
	Keep                                                         job.Keep
	Next, ProveNext                                              time.Time
}

func TestSchedules(t *testing.T) {
	w := newWorld(t)
	operator := w.Token(project, access.Operator)
	p := w.play(operator, "db1")
	var s schedule
	w.into(w.do("POST", "/schedules", operator, `{"instance":"db1","name":"nightly","cron":"30 2 * * *","time_zone":"Europe/Berlin","jitter":"15m","window":"1h30m",
		"catch_up":true,"keep":{"last":7,"within":"30d"},"prove_cron":"@weekly","heartbeat":"https://hc.example/ping/1"}`), 201, "schedule", &s)
	if s.Instance != p.Instance || s.InstanceName != "db1" || s.Jitter != "15m" || s.Window != "1h30m" || !s.Enabled || !s.CatchUp || s.Keep.Last != 7 || s.Next.IsZero() {
		t.Errorf("made %+v", s)
	}
	path := "/schedules/" + s.ID
	var changed schedule
	w.into(w.do("PATCH", path, operator, `{"keep":{"daily":14},"window":"0","enabled":false}`), 200, "schedule", &changed)
	if changed.Keep != (job.Keep{Last: 7, Daily: 14, Within: "30d"}) || changed.Window != "0s" || changed.Enabled || !changed.Next.IsZero() || changed.Cron != s.Cron || changed.Jitter != "15m" {
		t.Errorf("changed to %+v", changed)
	}
	w.into(w.do("GET", path, w.Token(project, access.Viewer), ""), 200, "schedule", &changed)
	if changed.Heartbeat != "***" {
		t.Errorf("a viewer sees the heartbeat %s", changed.Heartbeat)
	}
	for body, want := range map[string]string{
		`{"cron":"61 * * * *"}`:           "cron",
		`{"instance":"db1"}`:              "unknown field",
		`{"keep":{"last":-1}}`:            "retention",
		`{"keep":{"within":"x"}}`:         "retention",
		`{"keep":{"last":"all"}}`:         "keep.last must be a whole number, not text",
		`{"keep":{"nightly":1}}`:          "unknown field",
		`{"jitter":"400h"}`:               "Jitter",
		`{"jitter":15}`:                   "jitter must be text, not a number",
		`{"time_zone":"Berlin","name":1}`: "name must be text",
		`{"heartbeat":"ftp://x"}`:         "heartbeat",
		`{"name":""}`:                     "name",
		`{"time_zone":"Berlin"}`:          "zone",
	} {
		w.refused(w.do("PATCH", path, operator, body), 400, "invalid", want)
	}
	for body, want := range map[string]string{
		`{"name":"x","cron":"@daily"}`:      "instance is missing",
		`{"instance":"db1","name":"x"}`:     "cron",
		`{"instance":"db1","cron":"@daily"`: "not JSON",
	} {
		w.refused(w.do("POST", "/schedules", operator, body), 400, "invalid", want)
	}
	w.refused(w.do("POST", "/schedules", operator, `{"instance":"db9","name":"x","cron":"@daily"}`), 404, "not_found", "db9")

	// What is another project's isn't there, whatever is asked.
	other := w.Token("other", access.Operator)
	w.refused(w.do("POST", "/schedules", other, `{"instance":"`+p.Instance+`","name":"x","cron":"@daily"}`), 404, "not_found", "")
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		w.refused(w.do(method, path, other, `{"name":"x"}`), 404, "not_found", s.ID)
	}
	w.refused(w.do("POST", path+"/run", other, ""), 404, "not_found", "")
	var list []schedule
	if w.into(w.do("GET", "/schedules", other, ""), 200, "schedules", &list); list == nil || len(list) != 0 {
		t.Errorf("another project sees %+v", list)
	}
	root := w.Token("other", access.Admin)
	if w.into(w.do("GET", "/schedules?project=acme&instance=db1", root, ""), 200, "schedules", &list); len(list) != 1 {
		t.Errorf("an administrator sees %+v", list)
	}
	w.refused(w.do("GET", "/schedules?instance=nosuch", operator, ""), 404, "not_found", "nosuch")

	if a := w.do("DELETE", path, operator, ""); a.Status != 204 {
		t.Errorf("delete: %d %s", a.Status, a.Body)
	}
	w.refused(w.do("GET", path, operator, ""), 404, "not_found", "")
}

func TestBackups(t *testing.T) {
	w := newWorld(t)
	operator, viewer, other := w.Token(project, access.Operator), w.Token(project, access.Viewer), w.Token("other", access.Admin)
	p := w.play(operator, "db1")
	var s schedule
	w.into(w.do("POST", "/schedules", operator, `{"instance":"db1","name":"nightly","cron":"@daily"}`), 201, "schedule", &s)
	type backup struct {
		ID, Name, Status, Job, Instance string
		RepoID                          string `json:"repo_id"`
		SizeBytes                       int64  `json:"size_bytes"`
		StoredBytes                     int64  `json:"stored_bytes"`
		Progress                        *struct {
			BytesDone   int64 `json:"bytes_done"`
			StoredBytes int64 `json:"stored_bytes"`
		}
		Notes []string
		Proof *job.Proof
	}
	var b backup
	w.into(w.do("POST", "/schedules/"+s.ID+"/run", operator, ""), 202, "backup", &b)
	if !strings.HasPrefix(b.Name, "nightly ") || b.Instance != p.Instance {
		t.Errorf("run: %+v", b)
	}
	w.refused(w.do("POST", "/schedules/"+s.ID+"/run", operator, ""), 422, "busy", "")
	w.refused(w.do("POST", "/backups/"+b.ID+"/prove", operator, ""), 409, "conflict", "")
	path := "/backups/" + b.ID
	servertest.Eventually(t, "progress is shown", func() bool {
		w.into(w.do("GET", path, viewer, ""), 200, "backup", &b)
		return b.Progress != nil && b.Progress.BytesDone == 40 && b.Progress.StoredBytes == 10
	})
	var jobs []struct {
		ID, Kind, State, Backup string
		Progress                struct {
			BytesDone int64 `json:"bytes_done"`
		}
	}
	list := w.do("GET", "/jobs", viewer, "")
	w.into(list, 200, "jobs", &jobs)
	if len(jobs) != 1 || jobs[0].ID != b.Job || jobs[0].Kind != "backup" || jobs[0].State != "running" || jobs[0].Progress.BytesDone != 40 || strings.Contains(list.Body, "spec") {
		t.Errorf("jobs: %s", list.Body)
	}
	p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: "r-1", Size: 1000, Stored: 300, Notes: []string{"n"}}, Repository: &job.Repository{ID: "r1", URL: "file:///backups"}}
	servertest.Eventually(t, "the backup is complete", func() bool {
		b = backup{}
		w.into(w.do("GET", path, viewer, ""), 200, "backup", &b)
		return b.Status == "COMPLETED"
	})
	if b.SizeBytes != 1000 || b.StoredBytes != 300 || b.RepoID != "r-1" || b.Progress != nil || !slices.Equal(b.Notes, []string{"n"}) {
		t.Errorf("completed: %+v", b)
	}
	var id string
	w.into(w.do("POST", path+"/prove", operator, ""), 202, "job", &id)
	p.free <- job.Report{State: job.Failed, Fault: "it doesn't", Proof: &job.Proof{At: time.Now(), Problem: "it doesn't", Documents: 7}}
	var j struct{ State, Fault string }
	servertest.Eventually(t, "the test has ended", func() bool {
		w.into(w.do("GET", "/jobs/"+id, viewer, ""), 200, "job", &j)
		return j.State == "failed"
	})
	if w.into(w.do("GET", path, viewer, ""), 200, "backup", &b); b.Proof == nil || b.Proof.OK || b.Proof.Problem != "it doesn't" || j.Fault != "it doesn't" {
		t.Errorf("proof: %+v, job %+v", b.Proof, j)
	}
	for _, ask := range []struct{ method, path string }{{"GET", path}, {"POST", path + "/prove"}, {"GET", "/jobs/" + id}} {
		w.refused(w.do(ask.method, ask.path, other, ""), 404, "not_found", "")
	}
	if w.into(w.do("GET", "/jobs", other, ""), 200, "jobs", &jobs); len(jobs) != 0 {
		t.Errorf("another project sees %+v", jobs)
	}
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t, func(o *admin.Options) { o.Callers = httpd.NewLimiter(2) })
	token := w.Token(project, access.Viewer)
	a := w.do("GET", "/whoami", token, "")
	if a.Status != 200 {
		t.Errorf("within the limit: got %d", a.Status)
	}
	for n := 0; a.Status == 200 && n < 100; n++ { // each 30 s that this takes allow one more
		a = w.do("GET", "/whoami", token, "")
	}
	w.refused(a, http.StatusTooManyRequests, "too_many_requests", "try again")
	if a.Header.Get("Retry-After") == "" {
		t.Errorf("header: %v", a.Header)
	}
}

func TestLength(t *testing.T) {
	for text, want := range map[string]string{"15m": "15m", "1h30m": "1h30m", "90s": "1m30s", "12h": "12h", "1d": "24h", "2w": "336h", "1y": "8760h", "1d12h": "36h",
		"0": "0s", "0s": "0s", "1h": "1h", "10h10m0s": "10h10m", "500ms": "500ms", "100m": "1h40m"} {
		var l admin.Length
		if err := l.UnmarshalText([]byte(text)); err != nil || l.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, l, err, want)
		}
		var again admin.Length
		if err := again.UnmarshalText([]byte(l.String())); err != nil || again != l {
			t.Errorf("%s: reads back as %s, %v", text, again, err)
		}
	}
	for _, text := range []string{"", "1", "-1h", "1y6m", "x", "1h 30m", "9999999999h", "200y"} {
		var l admin.Length
		if err := l.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q reads as %s", text, l)
		}
	}
}

// An agent that joined by half of a catalog could get another project's name.
func TestNothingIsAnsweredBeforeTheCatalogIsRead(t *testing.T) {
	w := newWorld(t)
	token := w.Token(project, access.Admin)
	n := newNode(t)
	join := n.request(w.joinToken(token, "db1"))
	unread, err := server.New(t.Context(), server.Config{Bus: w.Bus, Log: w.Log})
	if err != nil {
		t.Fatal(err)
	}
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany}, admin.New(admin.Options{Server: unread, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, NATSURL: w.Bus.ClientURL()}))
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/agents", ""},
		{"POST", "/join", join},
		{"DELETE", "/schedules/x", ""},
	} {
		a := w.do(r.method, r.path, token, r.body)
		w.refused(a, 503, "unavailable", "reading its catalog")
		if a.Header.Get("Retry-After") != "1" {
			t.Errorf("%s %s: %v", r.method, r.path, a.Header)
		}
	}
	servertest.Background(t, unread.Run)
	if err := unread.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.into(w.do("GET", "/agents", token, ""), 200, "", nil)
	w.into(w.do("POST", "/join", "", join), 201, "", n) // the token is good still
}

// TestWithoutNATS: what can't be looked up or stored now can be asked for later.
func TestWithoutNATS(t *testing.T) {
	cluster := bustest.Start(t, 1, func(int, *nats.Options) {})
	w := &world{World: servertest.New(t, bus.Options{URL: cluster.URL()}, server.Config{}), t: t}
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany}, admin.New(admin.Options{Server: w.Server, Checker: access.None{}, Tokens: w.Tokens, Log: w.Log}))
	cluster.Stop(0)
	w.refused(w.do("POST", "/tokens", "", `{"name": "ci", "role": "viewer"}`), 503, "unavailable", "try again later")
}
