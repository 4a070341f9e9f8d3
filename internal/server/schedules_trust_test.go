package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// cloud is a server whose callers are those of a real Keystone, with an agent of the
// project demo, and the accounts of a real Swift.
type cloud struct {
	*service
	*player
	t        *testing.T
	keystone *testenv.KeystoneServer
	front    *testenv.Front // before Keystone
	check    *access.Keystone
	beats    chan string // paths that were asked for as heartbeats
	beat     string      // URL
	box      string      // container
}

func startCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, beats: make(chan string, 100), box: "box-" + strings.ToLower(rand.Text())}
	_, c.keystone = testenv.SwiftKeystone(t)
	c.front = testenv.NewFront(t, c.keystone.URL)
	c.check = c.checker("")
	hc := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.beats <- r.URL.Path }))
	t.Cleanup(hc.Close)
	c.beat = hc.URL + "/ping"
	c.service = start(t, openBus(t), server.Config{OwnSwift: true, Container: c.box, Keystone: c.check, LocalHeartbeats: true})
	c.player = join(t, c.service, "db1", c.keystone.Vars["DEMO_PROJECT_ID"])
	return c
}

// checker asks Keystone each time.
func (c *cloud) checker(region string) *access.Keystone {
	c.t.Helper()
	k, err := access.NewKeystone(access.KeystoneOptions{URL: c.front.URL, CacheFor: -1, Region: region,
		Service: access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}})
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

// as logs in.
func (c *cloud) as(vars map[string]string) *access.Caller {
	c.t.Helper()
	token, _ := c.keystone.Token(c.t, vars)
	who, err := c.check.Check(c.t.Context(), token)
	if err != nil {
		c.t.Fatal(err)
	}
	return who
}

func (c *cloud) create(who *access.Caller, s job.Schedule) *job.Schedule {
	c.t.Helper()
	s.Name, s.Instance, s.Enabled, s.Heartbeat = "nightly", c.node, true, c.beat
	if s.Cron == "" {
		s.Cron = "@daily"
	}
	made, err := c.CreateSchedule(c.t.Context(), who, &s)
	if err != nil {
		c.t.Fatal(err)
	}
	if made.Trust == "" {
		c.t.Fatal("the schedule has no trust")
	}
	return made
}

// schedule reads the schedule.
func (c *cloud) schedule(s *job.Schedule) *job.Schedule {
	c.t.Helper()
	s, err := c.Schedule(c.t.Context(), &access.Caller{Project: s.Project}, s.ID)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// due lets time pass until a second after a schedule is due, and looks.
func (c *cloud) due(s *job.Schedule) error {
	c.t.Helper()
	c.pass(c.schedule(s).Next.Sub(c.now()) + time.Second)
	return c.look()
}

func (c *cloud) look() error {
	c.t.Helper()
	c.hello()
	return c.Tick(c.t.Context())
}

// fires is due, and does the backup that begins.
func (c *cloud) fires(s *job.Schedule, repoID string) *job.Job {
	c.t.Helper()
	if err := c.due(s); err != nil {
		c.t.Fatal(err)
	}
	return c.backsUp(repoID)
}

func (c *cloud) backsUp(repoID string) *job.Job {
	c.t.Helper()
	j := c.do(job.KindBackup, made(repoID))
	c.beats1("/ping")
	return j
}

func (c *cloud) beats1(want string) {
	c.t.Helper()
	select {
	case got := <-c.beats:
		if got != want {
			c.t.Errorf("heartbeat %s, want %s", got, want)
		}
	case <-time.After(servertest.Patience):
		c.t.Fatalf("no heartbeat, want %s", want)
	}
}

// tokenOf is what only the agent reads of a job.
func (c *cloud) tokenOf(j *job.Job) string {
	c.t.Helper()
	r, err := age.Decrypt(bytes.NewReader(j.Spec.Sealed), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatal(err)
	}
	var secrets job.Secrets
	if err := json.Unmarshal(text, &secrets); err != nil {
		c.t.Fatal(err)
	}
	return secrets.Token
}

// swift asks Swift with the token of a job for something in the container of the job.
func (c *cloud) swift(j *job.Job, method, object string, want int) {
	c.t.Helper()
	container, ok := strings.CutPrefix(j.Spec.Repository.URL, "swift://")
	if account := c.keystone.Vars["DEMO_PROJECT_ID"]; !ok || !strings.HasSuffix(j.Spec.Repository.Storage, "/v1/AUTH_"+account) {
		c.t.Fatalf("a job of the kind %s is of the repository %+v, want one in the account of %s", j.Kind, j.Spec.Repository, account)
	}
	a := servertest.Do(c.t, method, j.Spec.Repository.Storage+"/"+container+object, c.tokenOf(j), "", "Content-Length", "0")
	a.Into(c.t, want, "", nil)
}

// A scheduled backup goes to the account of the project, and so does what keeps it in
// order, whoever made the schedule being away.
func TestScheduleActsByTrust(t *testing.T) {
	c := startCloud(t)
	giver := c.as(c.keystone.Vars)
	s := c.create(giver, job.Schedule{Keep: job.Keep{Last: 1}, ProveCron: "0 12 * * *"})
	c.keystone.Revoke(t, giver.Token.Reveal()) // the trust needs no token of the giver's

	first := c.fires(s, "r1")
	if token := c.tokenOf(first); token == "" || token == giver.Token.Reveal() {
		t.Errorf("the agent got the token %.10q…", token)
	}
	if want := "swift://" + c.box; first.Spec.Repository.URL != want {
		t.Errorf("the backup goes to %s, want %s", first.Spec.Repository.URL, want)
	}
	name := "/trust-" + first.ID
	c.swift(first, http.MethodPut, "", http.StatusCreated)
	c.swift(first, http.MethodPut, name, http.StatusCreated)

	c.pass(c.schedule(s).ProveNext.Sub(c.now()) + time.Second)
	if err := c.look(); err != nil {
		t.Fatal(err)
	}
	proof := c.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: c.now(), OK: true, Documents: 1}})
	c.swift(proof, http.MethodHead, name, http.StatusOK)
	c.beats1("/ping")
	if _, err := c.UpdateSchedule(t.Context(), giver, s.ID, func(s *job.Schedule) error { s.ProveCron = ""; return nil }); err != nil {
		t.Fatal(err)
	}

	c.fires(s, "r2")
	c.fires(s, "r3") // r1 stays, since it was proven last
	gone := c.do(job.KindDeleteBackup, job.Report{State: job.Done})
	if gone.Spec.RepoID != "r2" {
		t.Errorf("retention removes %s, want r2", gone.Spec.RepoID)
	}
	c.swift(gone, http.MethodDelete, name, http.StatusNoContent)
	page, _ := c.Backups(giver, server.BackupFilter{Limit: 10})
	if len(page) != 2 || page[0].RepoID != "r3" || page[1].RepoID != "r1" || page[0].Repository.Storage == "" {
		t.Errorf("left: %+v", page)
	}
	if s := c.schedule(s); s.Missed+s.Skipped > 0 {
		t.Errorf("schedule: %+v", s)
	}
}

// administrator makes a user who is one in the project demo.
func (c *cloud) administrator() (vars map[string]string) {
	c.t.Helper()
	vars, user := c.keystone.NewUser(c.t, "demo")
	path := "/projects/" + c.keystone.Vars["DEMO_PROJECT_ID"] + "/users/" + user + "/roles/" + c.keystone.Role(c.t, "admin")
	c.keystone.Admin(c.t, http.MethodPut, path, nil, nil)
	return vars
}

// lends asks for a backup and returns the token that the agent gets for it, and its roles.
func (c *cloud) lends(s *service, who *access.Caller) (token, roles string) {
	c.t.Helper()
	if _, err := s.CreateBackup(c.t.Context(), who, server.NewBackup{Name: "n", Instance: c.node}); err != nil {
		c.t.Fatal(err)
	}
	j := c.do(job.KindBackup, made("r-"+strconv.FormatInt(time.Now().UnixNano(), 36)))
	c.swift(j, http.MethodPut, "/lent-"+j.ID, http.StatusCreated)
	token = c.tokenOf(j)
	var of struct{ Roles []struct{ Name string } }
	servertest.Do(c.t, http.MethodGet, c.keystone.URL+"/v3/auth/tokens", token, "", "X-Subject-Token", token).Into(c.t, http.StatusOK, "token", &of)
	var names []string
	for _, r := range of.Roles {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return token, strings.Join(names, " ")
}

// No agent is given the role of an administrator, whoever asks and whatever Keystone allows:
// what he needs of Swift he is lent, or the job is refused.
func TestAgentsGetNoAdministratorsToken(t *testing.T) {
	c := startCloud(t)
	vars := c.administrator()
	boss, demo := c.as(vars), c.as(c.keystone.Vars)
	if boss.Role != access.Admin || demo.Role != access.Operator {
		t.Fatalf("callers: %v, %v", boss, demo)
	}
	servertest.Do(t, http.MethodPut, demo.SwiftURL+"/"+c.box, demo.Token.Reveal(), "", "Content-Length", "0").Into(t, http.StatusCreated, "", nil)
	for _, who := range []*access.Caller{boss, demo} {
		if token, roles := c.lends(c.service, who); token == who.Token.Reveal() || roles != "member reader" {
			t.Errorf("%v: the agent has the roles %q; his own token: %t", who, roles, token == who.Token.Reveal())
		}
	}
	ask := func(s *service, who *access.Caller) error {
		_, err := s.CreateBackup(t.Context(), who, server.NewBackup{Name: "n", Instance: c.node})
		return err
	}
	limited := func(roles ...string) *service {
		k, err := access.NewKeystone(access.KeystoneOptions{URL: c.front.URL, CacheFor: -1, SwiftRoles: roles,
			Service: access.ServiceUser{User: "trove", Password: "trove-key", Project: "service"}})
		if err != nil {
			t.Fatal(err)
		}
		return start(t, c.bus, server.Config{OwnSwift: true, Container: c.box, Keystone: k})
	}
	strange, alone := limited("nosuchrole"), start(t, c.bus, server.Config{OwnSwift: true, Container: c.box})
	for _, s := range []*service{strange, alone} { // which hear of the agent late
		servertest.Eventually(t, "the agent is known", func() bool { return len(s.Agents()) == 1 })
		c.hello()
	}
	credential := c.byCredential(vars)
	for name, refused := range map[string]struct {
		s    *service
		who  *access.Caller
		text string
	}{
		"by an application credential": {c.service, credential, "not with an application credential"},
		"without such a role":          {strange, boss, "swift_roles"},
		"without a service user":       {alone, boss, "keystone_user"},
	} {
		if err := ask(refused.s, refused.who); kindOf(err) != server.Forbidden || !strings.Contains(err.Error(), refused.text) {
			t.Errorf("%s: %v, want Forbidden with %q", name, err, refused.text)
		}
	}
	if token, _ := c.lends(alone, demo); token != demo.Token.Reveal() { // there is nothing less
		t.Error("without a service user a member's token isn't used")
	}

	// A schedule of before has a trust with that role, until it is updated.
	wide := limited("admin")
	s, err := wide.CreateSchedule(t.Context(), boss, &job.Schedule{Name: "x", Instance: c.node, Enabled: true, Cron: "@daily"})
	if err != nil {
		t.Fatal(err)
	}
	now, err := c.UpdateSchedule(t.Context(), boss, s.ID, func(s *job.Schedule) error { s.Jitter = time.Minute; return nil })
	if err != nil || now.Trust == s.Trust {
		t.Fatalf("updated: %+v, %v", now, err)
	}
	if by, err := c.check.ByTrust(t.Context(), now.Trust); err != nil || by.Role != access.Operator {
		t.Errorf("by the trust: %v, %v", by, err)
	}
}

// When who made a schedule is gone, it says so, until another one takes it over.
func TestScheduleTrustIsRenewed(t *testing.T) {
	c := startCloud(t)
	vars, user := c.keystone.NewUser(t, "demo")
	s := c.create(c.as(vars), job.Schedule{})
	c.fires(s, "r1")

	c.keystone.Admin(t, http.MethodPatch, "/users/"+user, map[string]any{"user": map[string]any{"enabled": false}}, nil)
	if err := c.due(s); err != nil {
		t.Errorf("a trust that isn't honoured is no fault of the server's: %v", err)
	}
	c.beats1("/ping/fail")
	got := c.schedule(s)
	if !strings.Contains(got.Last.Outcome, "make the schedule again") || got.Last.Backup != "" {
		t.Errorf("outcome: %+v", got.Last)
	}
	another := c.as(c.keystone.Vars)
	if page, _ := c.Backups(another, server.BackupFilter{Limit: 10}); len(page) != 1 {
		t.Errorf("%d backups, want the first one", len(page))
	}

	// An application credential can't take it over, but may disable it.
	switchTo := func(enabled bool) func(*job.Schedule) error {
		return func(s *job.Schedule) error { s.Enabled = enabled; return nil }
	}
	credential := c.byCredential(c.keystone.Vars)
	if _, err := c.UpdateSchedule(t.Context(), credential, s.ID, switchTo(true)); kindOf(err) != server.Forbidden {
		t.Errorf("taken over by an application credential: %v", err)
	}
	off, err := c.UpdateSchedule(t.Context(), credential, s.ID, switchTo(false))
	if err != nil || off.Enabled || off.Trust != s.Trust {
		t.Errorf("disabled: %+v, %v", off, err)
	}
	on, err := c.UpdateSchedule(t.Context(), another, s.ID, switchTo(true))
	if err != nil || !on.Enabled || on.Trust == s.Trust || on.Trust == "" {
		t.Fatalf("taken over: %+v, %v", on, err)
	}
	c.fires(s, "r2")
	same, err := c.UpdateSchedule(t.Context(), credential, s.ID, func(s *job.Schedule) error { s.Trust, s.Jitter = "stolen", time.Minute; return nil })
	if err != nil || same.Trust != on.Trust || same.Jitter != time.Minute {
		t.Errorf("an update while the trust is good: %+v, %v", same, err)
	}
}

func (c *cloud) byCredential(vars map[string]string) *access.Caller {
	c.t.Helper()
	vars = c.keystone.ApplicationCredential(c.t, vars, "schedule-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	body := map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"application_credential"},
		"application_credential": map[string]any{"id": vars["OS_APPLICATION_CREDENTIAL_ID"], "secret": vars["OS_APPLICATION_CREDENTIAL_SECRET"]}}}}
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := servertest.Do(c.t, http.MethodPost, c.keystone.URL+"/v3/auth/tokens", "", string(text))
	a.Into(c.t, http.StatusCreated, "", nil)
	who, err := c.check.Check(c.t.Context(), a.Header.Get("X-Subject-Token"))
	if err != nil {
		c.t.Fatal(err)
	}
	return who
}

// While Keystone is down a firing waits, and a restore test too.
func TestScheduleWhileKeystoneIsDown(t *testing.T) {
	c := startCloud(t)
	giver := c.as(c.keystone.Vars)
	s := c.create(giver, job.Schedule{Keep: job.Keep{Last: 9}, ProveCron: "@daily", Window: time.Hour})
	c.front.Down()
	if err := c.due(s); err == nil {
		t.Error("nothing is said of a Keystone that is down")
	}
	if err := c.look(); err == nil { // one thing at a time is asked of what is down
		t.Error("the restore test isn't due")
	}
	waiting := c.schedule(s)
	if waiting.Last.Outcome != "starting" || waiting.ProveNext.Sub(waiting.Last.Due) > 10*time.Minute {
		t.Fatalf("the firing doesn't wait: %+v", waiting)
	}
	for range 3 { // it isn't tried each second
		if err := c.look(); err != nil {
			t.Errorf("tried again at once: %v", err)
		}
	}
	c.pass(3 * time.Minute)
	if err := c.look(); err == nil {
		t.Error("it isn't tried again")
	}
	c.front.Up()
	c.pass(3 * time.Minute)
	if err := c.look(); err != nil {
		t.Fatal(err)
	}
	if j := c.backsUp("r1"); j.Backup != waiting.Last.Backup {
		t.Errorf("backup %s, want that of the firing, %s", j.Backup, waiting.Last.Backup)
	}

	// Beyond the window it is too late.
	c.front.Down()
	if err := c.due(s); err == nil {
		t.Error("nothing is said of a Keystone that is down")
	}
	c.pass(2 * time.Hour)
	_ = c.look() // the restore test is tried again
	c.beats1("/ping/fail")
	if got := c.schedule(s); got.Missed != 1 || !strings.HasPrefix(got.Last.Outcome, "missed") {
		t.Errorf("beyond the window: %+v", got)
	}

	// Without one it is when the next is due.
	if _, err := c.UpdateSchedule(t.Context(), giver, s.ID, func(s *job.Schedule) error { s.Enabled = false; return nil }); err != nil {
		t.Fatal(err)
	}
	c.front.Up()
	s = c.create(giver, job.Schedule{})
	c.front.Down()
	if err := c.due(s); err == nil {
		t.Error("nothing is said of a Keystone that is down")
	}
	c.front.Up()
	if err := c.due(s); err != nil {
		t.Fatal(err)
	}
	c.beats1("/ping/fail") // of the one before
	c.backsUp("r2")
	if got := c.schedule(s); got.Missed != 1 || got.Last.Outcome != "started" {
		t.Errorf("at the next one: %+v", got)
	}
}

func TestScheduleWithoutTrust(t *testing.T) {
	c := startCloud(t)
	n := &job.Schedule{Name: "x", Instance: c.node, Enabled: true, Cron: "@daily"}
	_, err := c.CreateSchedule(t.Context(), c.byCredential(c.keystone.Vars), n)
	if kindOf(err) != server.Forbidden || !strings.Contains(err.Error(), "application credential") {
		t.Errorf("by an application credential: %v", err)
	}
	nowhere := *c.as(c.keystone.Vars)
	nowhere.SwiftURL = ""
	if _, err := c.CreateSchedule(t.Context(), &nowhere, n); kindOf(err) != server.NotFound {
		t.Errorf("without an object store: %v", err)
	}
	c.front.Down()
	if _, err := c.CreateSchedule(t.Context(), &access.Caller{Project: nowhere.Project, Token: "x", SwiftURL: "http://127.0.0.1:1"}, n); kindOf(err) != server.Unavailable {
		t.Errorf("with Keystone down: %v", err)
	}
	if list := c.Schedules(&nowhere, ""); len(list) > 0 {
		t.Errorf("there are schedules: %+v", list)
	}
}

// A trust ends with its schedule, unless work goes on by it.
func TestScheduleTrustEnds(t *testing.T) {
	c := startCloud(t)
	giver := c.as(c.keystone.Vars)
	honoured := func(s *job.Schedule) bool {
		_, err := c.check.ByTrust(t.Context(), s.Trust)
		return err == nil
	}
	ends := func(how string, s *job.Schedule, end func(ctx context.Context) error) {
		t.Helper()
		if !honoured(s) {
			t.Fatalf("%s: the trust has ended before", how)
		}
		if err := end(t.Context()); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		servertest.Eventually(t, how+": the trust ends", func() bool { return !honoured(s) })
	}
	s := c.create(giver, job.Schedule{})
	ends("deleted", s, func(ctx context.Context) error { return c.DeleteSchedule(ctx, giver, s.ID) })

	s = c.create(giver, job.Schedule{})
	if err := c.due(s); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteSchedule(t.Context(), giver, s.ID); err != nil {
		t.Fatal(err)
	}
	j := c.do(job.KindBackup, made("r1"))
	c.swift(j, http.MethodPut, "", http.StatusCreated) // by a token that has to be good
	if b, err := c.Backup(t.Context(), giver, j.Backup); err != nil || b.Status != job.BackupCompleted {
		t.Errorf("the backup that was at work: %+v, %v", b, err)
	}
	if !honoured(s) {
		t.Error("the trust ended under a backup")
	}

	s = c.create(giver, job.Schedule{})
	ends("instance deleted", s, func(ctx context.Context) error { return c.DeleteInstance(ctx, giver, c.node) })
}
