package service_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// tokenCache is for how long the server of these tests believes an answer of Keystone.
const tokenCache = time.Second

// cloud is a host whose callers have tokens of Keystone and accounts of Swift.
type cloud struct {
	*onehost
	swift       *testenv.SwiftServer
	keystone    *testenv.KeystoneServer
	demo, other *caller
}

// TestServiceKeystone is the life of the backups of a project of OpenStack: they go to its
// own account of Swift, nobody else sees them, new CouchDBs are made of them, also after
// the server has lost all that it had.
func TestServiceKeystone(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Keystone, a Swift and some CouchDBs")
	}
	c := &cloud{}
	c.swift, c.keystone = testenv.SwiftKeystone(t)
	c.onehost = startHost(t)
	c.hide("the service user's password", "trove-key")
	c.serve([]string{"SLIPCOVER_KEYSTONE_URL=" + c.keystone.URL, "SLIPCOVER_KEYSTONE_USER=trove", "SLIPCOVER_KEYSTONE_PASSWORD=trove-key",
		"SLIPCOVER_TOKEN_CACHE=" + tokenCache.String()}, "--auth", "keystone", "--agent-project", c.keystone.Vars["DEMO_PROJECT_ID"])
	c.demo, c.other = c.as("demo", "demo"), c.as("other", "other")
	c.demo.findNode()

	parent, child, cut := c.ownSwift(t)
	c.killed(t, &child)
	c.unlimited(c.demo)
	c.tenants(t, &parent)
	c.opened(t, &parent)
	c.revoked(t)
	c.copies(t, &child, cut)
	c.strategies(t)
	c.scheduled(t)
	c.deleted(t, &parent, &child)
	c.disaster(t)
	c.noSecrets()
}

// as logs in.
func (c *cloud) as(user, project string) *caller {
	c.t.Helper()
	token, _ := c.keystone.Token(c.t, c.keystone.User(user, project))
	c.hide("a password", user+"-key")
	return c.caller(token, c.keystone.Vars[strings.ToUpper(project)+"_PROJECT_ID"])
}

// account is the URL of a project's Swift account.
func (c *cloud) account(who *caller) string { return c.swift.URL + "/v1/AUTH_" + who.project }

// objects lists a container.
func (c *cloud) objects(who *caller, container, prefix string) (names []string) {
	c.t.Helper()
	status, body := fetch(c.t, c.account(who)+"/"+url.PathEscape(container)+"?limit=10000&prefix="+prefix, who.token)
	if status/100 != 2 {
		c.t.Fatalf("list %s: %d %s", container, status, body)
	}
	return strings.Fields(string(body))
}

// ownSwift makes a backup and one on it, and looks at all that is told of them.
func (c *cloud) ownSwift(t *testing.T) (parent, child stored, cut time.Time) {
	began := time.Now()
	id, _ := c.demo.back(map[string]any{"description": "the first"})
	half := c.demo.halfway(id)
	t.Logf("halfway: %d of %d bytes done, %d stored", half.Progress.BytesDone, half.Progress.Bytes, half.Progress.Stored)
	var shown struct{ Instance struct{ Status string } }
	if c.demo.ask(http.MethodGet, "/instances/"+c.node, nil, http.StatusOK, &shown); shown.Instance.Status != "BACKUP" {
		t.Errorf("the instance is %s while it is backed up", shown.Instance.Status)
	}
	c.demo.ask(http.MethodPost, "/backups", map[string]any{"backup": map[string]any{"name": "too many", "instance": c.node}}, http.StatusUnprocessableEntity, nil)
	c.demo.ask(http.MethodDelete, "/backups/"+id, nil, http.StatusUnprocessableEntity, nil)
	parent = c.demo.done(id, "COMPLETED")
	t.Logf("the first backup: %d bytes, %d stored, in %v", parent.SizeBytes, parent.Stored, time.Since(began).Round(time.Millisecond))
	c.grow(1)
	id, cut = c.demo.back(map[string]any{"incremental": 1})
	child = c.demo.done(id, "COMPLETED")
	if child.Parent != parent.ID || child.ParentID != parent.ID || child.Type != "incremental" || parent.Parent != "" || parent.Type != "full" {
		t.Errorf("of %s the child is %s, %s, a child of %q, %q", parent.ID, child.ID, child.Type, child.Parent, child.ParentID)
	}
	if child.Stored*2 > parent.Stored || child.SizeBytes <= parent.SizeBytes {
		t.Errorf("the child added %d bytes, its parent %d, of %d and %d", child.Stored, parent.Stored, child.SizeBytes, parent.SizeBytes)
	}
	for _, b := range []*stored{&parent, &child} {
		if want := c.account(c.demo) + "/database_backups/backups/node1/" + b.RepoID + "/"; !strings.HasPrefix(b.LocationRef, want) || b.Location != b.LocationRef {
			t.Errorf("locationRef: %q, want %s…", b.LocationRef, want)
		}
		status, body := fetch(t, b.LocationRef, c.demo.token)
		if sum := sha256.Sum256(body); status != http.StatusOK || hex.EncodeToString(sum[:]) != b.Checksum {
			t.Errorf("%s: %d, %d bytes, which have not the checksum %s", b.LocationRef, status, len(body), b.Checksum)
		}
		if status, _ := fetch(t, b.LocationRef, c.other.token); status != http.StatusForbidden {
			t.Errorf("%s with the token of another project: %d", b.LocationRef, status)
		}
		if b.Size == nil || *b.Size <= 0 || b.SizeBytes < 6e6 || b.Started.IsZero() || !b.Finished.After(b.Started) {
			t.Errorf("size %v, %d bytes, from %v to %v", b.Size, b.SizeBytes, b.Started, b.Finished)
		}
	}
	return parent, child, cut
}

// killed kills the server in the middle of a backup. The next start has the caller's token
// only as it was sealed for the agent.
func (c *cloud) killed(t *testing.T, parent *stored) {
	t.Helper()
	c.grow(4)
	id, _ := c.demo.back(map[string]any{"incremental": 1})
	c.demo.halfway(id)
	c.server.Kill()
	began := time.Now()
	c.begin(c.demo)
	if b := c.demo.done(id, "COMPLETED"); b.Parent != parent.ID {
		t.Errorf("backup %+v, want a child of %s", b, parent.ID)
	}
	t.Logf("killed, and complete %v after the next start", time.Since(began).Round(time.Millisecond))
}

// tenants looks at the backup as those who may not: a user of another project, and one of
// the project who may only read.
func (c *cloud) tenants(t *testing.T, b *stored) {
	t.Helper()
	if ids := c.other.list(); len(ids) > 0 {
		t.Errorf("another project sees %v", ids)
	}
	var instances struct{ Instances []any }
	if c.other.ask(http.MethodGet, "/instances", nil, http.StatusOK, &instances); len(instances.Instances) > 0 {
		t.Errorf("another project sees %v", instances)
	}
	restoreIt := map[string]any{"instance": map[string]any{"name": "theft", "flavorRef": "1", "volume": map[string]any{"size": 1}, "restorePoint": map[string]any{"backupRef": b.ID}}}
	takeIt := map[string]any{"backup": map[string]any{"name": "theft", "restore_from": map[string]any{"remote_location": b.LocationRef}}}
	backIt := map[string]any{"backup": map[string]any{"name": "theft", "instance": c.node}}
	for _, test := range []struct {
		method, path string
		body         any
		want         int
	}{
		{http.MethodGet, "/backups/" + b.ID, nil, http.StatusNotFound},
		{http.MethodDelete, "/backups/" + b.ID, nil, http.StatusNotFound},
		{http.MethodGet, "/slipcover/v1/backups/" + b.ID, nil, http.StatusNotFound},
		{http.MethodPost, "/slipcover/v1/backups/" + b.ID + "/prove", nil, http.StatusNotFound},
		{http.MethodPost, "/slipcover/v1/backups/" + b.ID + "/serve", nil, http.StatusNotFound},
		{http.MethodGet, "/instances/" + c.node, nil, http.StatusNotFound},
		{http.MethodDelete, "/instances/" + c.node, nil, http.StatusNotFound},
		{http.MethodGet, "/instances/" + c.node + "/backups", nil, http.StatusNotFound},
		{http.MethodPost, "/instances", restoreIt, http.StatusNotFound},
		{http.MethodPost, "/backups", takeIt, http.StatusNotFound},
		{http.MethodPost, "/backups", backIt, http.StatusNotFound},
		{http.MethodGet, "/v1.0/" + c.demo.project + "/backups/" + b.ID, nil, http.StatusForbidden},
		{http.MethodGet, "/v1.0/" + c.demo.project + "/backups", nil, http.StatusForbidden},
		{http.MethodPost, "/v1.0/" + c.demo.project + "/backups", backIt, http.StatusForbidden},
	} {
		c.other.ask(test.method, test.path, test.body, test.want, nil)
	}
	reader := c.as("backup-only", "demo")
	reader.ask(http.MethodGet, "/backups/"+b.ID, nil, http.StatusOK, nil)
	reader.ask(http.MethodDelete, "/backups/"+b.ID, nil, http.StatusForbidden, nil)
	reader.ask(http.MethodPost, "/backups", backIt, http.StatusForbidden, nil)
	nobody := c.caller("gAAAAAB-no-such-token", c.demo.project)
	nobody.ask(http.MethodGet, "/backups", nil, http.StatusUnauthorized, nil)
}

// opened has the server read a backup in the caller's account with his token, until that counts no more.
func (c *cloud) opened(t *testing.T, b *stored) {
	t.Helper()
	d := c.as("demo", "demo")
	path := "/slipcover/v1/backups/" + b.ID + "/serve"
	c.as("backup-only", "demo").ask(http.MethodPost, path, nil, http.StatusForbidden, nil)
	var open struct {
		Serve    struct{ ID, URL, User string }
		Password string
	}
	d.ask(http.MethodPost, path, nil, http.StatusCreated, &open)
	c.hide("the password of what is open", open.Password)
	read := &testenv.Client{URL: strings.TrimSuffix(open.Serve.URL, "/"), Admin: open.Serve.User, Password: open.Password}
	var info struct {
		Docs int `json:"doc_count"`
	}
	if err := read.Get(testenv.DBPath(liveDatabases[0]), &info); err != nil || info.Docs == 0 {
		t.Errorf("%+v, %v", info, err)
	}
	var list struct{ Serves []any }
	if c.other.ask(http.MethodGet, "/slipcover/v1/serves", nil, http.StatusOK, &list); len(list.Serves) > 0 {
		t.Errorf("another project sees %v", list)
	}
	c.other.ask(http.MethodDelete, "/slipcover/v1/serves/"+open.Serve.ID, nil, http.StatusNotFound, nil)
	c.keystone.Revoke(t, d.token)
	eventually(t, clitest.Patience, "it ends with its token", func() bool { return read.Get("/_all_dbs", nil) != nil })
}

// revoked measures for how long a token goes on that Keystone has revoked.
func (c *cloud) revoked(t *testing.T) {
	t.Helper()
	d := c.as("demo", "demo")
	d.ask(http.MethodGet, "/backups", nil, http.StatusOK, nil)
	c.keystone.Revoke(t, d.token)
	began, took := time.Now(), time.Duration(0)
	eventually(t, clitest.Patience, "the token is refused", func() bool {
		asked := time.Since(began) // before the server looks at its clock
		status, _ := d.try(http.MethodGet, "/backups", nil, nil)
		if status != http.StatusUnauthorized {
			took = asked
		}
		return status == http.StatusUnauthorized
	})
	t.Logf("a revoked token was good for %v, with a token_cache of %v", took.Round(time.Millisecond), tokenCache)
	if took > tokenCache+time.Second {
		t.Errorf("a revoked token was good for %v", took)
	}
}

// copies makes a CouchDB of a backup, backs that up, deletes it, and makes another one of
// the backup, which outlives what it is of.
func (c *cloud) copies(t *testing.T, b *stored, cut time.Time) {
	t.Helper()
	m := c.demo.create(b.ID)
	c.has(m, cut)
	if err := m.Put(testenv.DBPath(liveDatabases[0], "only in the copy"), map[string]any{"n": 7}, nil); err != nil {
		t.Fatal(err)
	}
	id, _ := c.demo.back(map[string]any{"instance": m.id})
	c.demo.done(id, "COMPLETED")
	c.demo.free(m)
	var of struct{ Backups []struct{ ID string } }
	if c.demo.ask(http.MethodGet, "/instances/"+m.id+"/backups", nil, http.StatusOK, &of); len(of.Backups) != 1 || of.Backups[0].ID != id {
		t.Errorf("backups of the deleted instance: %v, want %s", of, id)
	}
	again := c.demo.create(id)
	var doc struct{ N int }
	if err := again.Get(testenv.DBPath(liveDatabases[0], "only in the copy"), &doc); err != nil || doc.N != 7 {
		t.Errorf("the copy of the copy has %v, %v", doc, err)
	}
	c.demo.free(again)
	c.demo.ask(http.MethodDelete, "/backups/"+id, nil, http.StatusAccepted, nil)
	c.settled()
	for _, name := range c.objects(c.demo, "database_backups", "backups/copy-") {
		if strings.Contains(name, "/manifest") { // an emptied record stays, so that its id is not used again
			t.Errorf("of the deleted backup of a deleted instance is left: %s", name)
		}
	}
}

// settled waits until no job is at work, and checks that none has failed.
func (c *cloud) settled() {
	c.t.Helper()
	var got struct {
		Jobs []struct{ Kind, State, Fault string }
	}
	eventually(c.t, clitest.Patience, "the jobs end", func() bool {
		c.demo.ask(http.MethodGet, "/slipcover/v1/jobs", nil, http.StatusOK, &got)
		for _, j := range got.Jobs {
			if j.State == "failed" {
				c.t.Fatalf("a job of the kind %s failed: %s", j.Kind, j.Fault)
			}
			if j.State != "done" {
				return false
			}
		}
		return true
	})
}

// strategies stores backups in containers of the caller's choice.
func (c *cloud) strategies(t *testing.T) {
	t.Helper()
	const mine, named = "nightly backups", "weekly-backups"
	strange := map[string]any{"backup": map[string]any{"name": "no", "instance": c.node, "swift_container": "100%"}}
	c.demo.ask(http.MethodPost, "/backups", strange, http.StatusBadRequest, nil)
	strategy := map[string]any{"backup_strategy": map[string]any{"instance_id": c.node, "swift_container": mine}}
	c.demo.ask(http.MethodPost, "/backup_strategies", strategy, http.StatusAccepted, nil)
	first, _ := c.demo.back(nil)
	a := c.demo.done(first, "COMPLETED")
	second, _ := c.demo.back(map[string]any{"swift_container": named})
	b := c.demo.done(second, "COMPLETED")
	for container, got := range map[string]*stored{mine: &a, named: &b} {
		if want := c.account(c.demo) + "/" + url.PathEscape(container) + "/"; !strings.HasPrefix(got.LocationRef, want) {
			t.Errorf("locationRef: %q, want %s…", got.LocationRef, want)
		}
		if status, _ := fetch(t, got.LocationRef, c.demo.token); status != http.StatusOK {
			t.Errorf("%s: %d", got.LocationRef, status)
		}
	}
	c.demo.ask(http.MethodDelete, "/backup_strategies?instance_id="+c.node, nil, http.StatusAccepted, nil)
	for _, id := range []string{first, second} {
		c.demo.ask(http.MethodDelete, "/backups/"+id, nil, http.StatusAccepted, nil)
	}
	c.settled()
	for _, container := range []string{mine, named} {
		if left := c.objects(c.demo, container, "segments/"); len(left) > 0 {
			t.Errorf("segments are left in %s: %v", container, left)
		}
	}
}

// scheduled lets a schedule fire, whose maker isn't there: its backup and its restore test,
// of the newest backup of before, have to do with the project's account.
func (c *cloud) scheduled(t *testing.T) {
	t.Helper()
	before := c.demo.list()
	maker := c.as("demo", "demo")
	var made struct{ Schedule struct{ ID string } }
	maker.ask(http.MethodPost, "/slipcover/v1/schedules", map[string]any{"instance": c.node, "name": "each minute", "cron": "* * * * *", "prove_cron": "* * * * *"},
		http.StatusCreated, &made)
	schedule := "/slipcover/v1/schedules/" + made.Schedule.ID
	c.keystone.Revoke(t, maker.token)
	var fired struct {
		Schedule struct {
			Last struct{ Backup, Outcome string }
		}
	}
	eventually(t, clitest.Patience, "the schedule fires", func() bool {
		c.demo.ask(http.MethodGet, schedule, nil, http.StatusOK, &fired)
		return fired.Schedule.Last.Outcome != "" && fired.Schedule.Last.Outcome != "starting"
	})
	if fired.Schedule.Last.Outcome != "started" {
		t.Fatalf("the schedule: %+v", fired)
	}
	b := c.demo.done(fired.Schedule.Last.Backup, "COMPLETED")
	if want := c.account(c.demo) + "/database_backups/backups/node1/" + b.RepoID + "/"; !strings.HasPrefix(b.LocationRef, want) {
		t.Errorf("locationRef: %q, want %s…", b.LocationRef, want)
	}
	if status, _ := fetch(t, b.LocationRef, c.demo.token); status != http.StatusOK {
		t.Errorf("%s: %d", b.LocationRef, status)
	}
	// Which backup was the newest then, depends on how fast the one of the schedule was.
	eventually(t, clitest.Patience, "a restore test ends", func() bool {
		for _, id := range c.demo.list() {
			var tested struct {
				Backup struct {
					Proof struct {
						OK      bool
						Problem string
					}
				}
			}
			c.demo.ask(http.MethodGet, "/slipcover/v1/backups/"+id, nil, http.StatusOK, &tested)
			if tested.Backup.Proof.Problem != "" {
				t.Fatalf("the restore test of %s: %+v", id, tested)
			}
			if tested.Backup.Proof.OK {
				return true
			}
		}
		return false
	})
	c.demo.ask(http.MethodPatch, schedule, map[string]any{"enabled": false}, http.StatusOK, nil)
	eventually(t, clitest.Patience, "no backup of the schedule is about to begin", func() bool {
		c.demo.ask(http.MethodGet, schedule, nil, http.StatusOK, &fired)
		return fired.Schedule.Last.Outcome != "starting"
	})
	c.settled()
	c.demo.ask(http.MethodDelete, schedule, nil, http.StatusNoContent, nil)
	for _, id := range c.demo.list() { // it may have fired again
		if !slices.Contains(before, id) {
			c.demo.ask(http.MethodDelete, "/backups/"+id, nil, http.StatusAccepted, nil)
		}
	}
	c.settled()
}

// deleted deletes a backup, and with it the one on it.
func (c *cloud) deleted(t *testing.T, parent, child *stored) {
	t.Helper()
	before := c.objects(c.demo, "database_backups", "segments/")
	c.demo.ask(http.MethodDelete, "/backups/"+parent.ID, nil, http.StatusAccepted, nil)
	for _, b := range []*stored{parent, child} {
		c.demo.ask(http.MethodGet, "/backups/"+b.ID, nil, http.StatusNotFound, nil)
	}
	c.settled()
	if ids := c.demo.list(); len(ids) > 0 {
		t.Errorf("these are left: %v", ids)
	}
	after := c.objects(c.demo, "database_backups", "")
	t.Logf("%d segments before, and after: %v", len(before), after)
	if left := c.objects(c.demo, "database_backups", "segments/"); len(before) == 0 || len(left) > 0 {
		t.Errorf("segments are left: %v", left)
	}
	for _, b := range []*stored{parent, child} {
		if status, _ := fetch(t, b.LocationRef, c.demo.token); status != http.StatusNotFound {
			t.Errorf("%s: %d", b.LocationRef, status)
		}
	}
}

// disaster takes the server's state away, but for a copy of the key that reads: once the
// caller takes in his backup himself, and once the catalog is built anew.
func (c *cloud) disaster(t *testing.T) {
	t.Helper()
	first, _ := c.demo.back(nil)
	c.demo.done(first, "COMPLETED")
	id, cut := c.demo.back(map[string]any{"incremental": 1, "description": "the last before it"})
	c.demo.done(id, "COMPLETED")
	want := []stored{c.demo.backup(first), c.demo.backup(id)}

	node := c.node
	c.lose()
	c.begin(c.demo)
	if ids := c.demo.list(); len(ids) > 0 || c.node != node {
		t.Fatalf("the new server has backups %v and the instance %s, which was %s", ids, c.node, node)
	}
	last := want[1]
	var got struct{ Backup struct{ ID string } }
	c.demo.ask(http.MethodPost, "/backups", map[string]any{"backup": map[string]any{"name": "taken in", "restore_from": map[string]any{
		"remote_location": last.LocationRef, "size": 1}}}, http.StatusAccepted, &got)
	in := c.demo.done(got.Backup.ID, "RESTORED")
	if in.LocationRef != last.LocationRef || in.Checksum != last.Checksum || in.SizeBytes != last.SizeBytes || in.RepoID != last.RepoID {
		t.Errorf("taken in: %+v, was %+v", in, last)
	}
	m := c.demo.create(in.ID)
	c.has(m, cut)
	c.demo.free(m)

	c.lose()
	rebuild := func() (n struct{ Backups, Known, Instances int }) {
		t.Helper()
		out := c.slipcover([]string{"OS_STORAGE_URL=" + c.account(c.demo), "OS_AUTH_TOKEN=" + c.demo.token}, "server", "rebuild", "--repo", "swift://database_backups",
			"--swift-account", c.account(c.demo), "--json")
		if err := json.Unmarshal([]byte(out), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := rebuild(); n.Backups != 2 || n.Instances != 1 || n.Known != 0 {
		t.Errorf("rebuilt: %+v", n)
	}
	if n := rebuild(); n.Backups != 0 || n.Instances != 0 || n.Known != 2 {
		t.Errorf("rebuilt again: %+v", n)
	}
	c.begin(c.demo)
	if c.node != node {
		t.Errorf("the instance is %s, was %s", c.node, node)
	}
	if ids := c.demo.list(); !slices.Equal(ids, sorted(first, id)) {
		t.Errorf("the catalog has %v, want %s and %s", ids, first, id)
	}
	if ids := c.other.list(); len(ids) > 0 {
		t.Errorf("another project sees %v", ids)
	}
	for _, b := range want {
		got := c.demo.backup(b.ID)
		got.Created, got.Updated, b.Created, b.Updated = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if *got.Size != *b.Size {
			t.Errorf("size %v, was %v", *got.Size, *b.Size)
		}
		if got.Size, b.Size = nil, nil; got != b {
			t.Errorf("rebuilt:\n%+v, was\n%+v", got, b)
		}
	}
	m = c.demo.create(id)
	c.has(m, cut)
	c.demo.free(m)
	next, _ := c.demo.back(map[string]any{"incremental": 1})
	if b := c.demo.done(next, "COMPLETED"); b.Parent != id {
		t.Errorf("the next one is the child of %q, want %s", b.Parent, id)
	}
	c.demo.ask(http.MethodDelete, "/backups/"+first, nil, http.StatusAccepted, nil)
	c.settled()
	if left := c.objects(c.demo, "database_backups", "segments/"); len(left) > 0 {
		t.Errorf("segments are left: %v", left)
	}
}

// lose ends the server and takes its state away. Its key is where the operator keeps it.
func (c *cloud) lose() {
	c.t.Helper()
	c.noSecrets()
	c.end()
	kept := filepath.Join(c.t.TempDir(), "identity.txt")
	if b, err := os.ReadFile(filepath.Join(c.server.state, "identity.txt")); err == nil {
		if err := os.WriteFile(kept, b, 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.server.Env = append(c.server.Env, "SLIPCOVER_IDENTITY_FILE="+kept)
	}
	if err := os.RemoveAll(c.server.state); err != nil {
		c.t.Fatal(err)
	}
}

func sorted(ids ...string) []string { return slices.Sorted(slices.Values(ids)) }

// TestServiceDies kills a server with its agent, whose callers have tokens of its own, in
// the middle of backups, and ends it there in order: each backup completes after the next
// start, and restores.
func TestServiceDies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some CouchDBs")
	}
	h := startHost(t)
	repository := filepath.Join(t.TempDir(), "repo")
	h.serve(nil, "--repo", repository)
	admin := h.caller(h.server.client(t).token, "default")
	admin.findNode()
	viewer, operator := h.token(admin, "viewer"), h.token(admin, "operator")
	h.joinTokens(admin)
	begin := map[string]any{"backup": map[string]any{"name": "no", "instance": h.node}}
	viewer.ask(http.MethodPost, "/backups", begin, http.StatusForbidden, nil)
	viewer.ask(http.MethodGet, "/slipcover/v1/tokens", nil, http.StatusForbidden, nil)
	operator.ask(http.MethodGet, "/slipcover/v1/tokens", nil, http.StatusForbidden, nil)

	whole, cut := operator.back(nil)
	operator.done(whole, "COMPLETED")
	copied := operator.create(whole)
	h.has(copied, cut)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, how := range []string{"SIGKILL", "SIGTERM", "SIGKILL"} {
		h.grow(5)
		id, cut := operator.back(map[string]any{"incremental": 1})
		operator.halfway(id)
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond) // to end it at any moment
		if b := operator.backup(id); b.Status != "BUILDING" {
			t.Errorf("the backup is %s too early for this test", b.Status)
		}
		if how == "SIGKILL" {
			h.server.Kill()
		} else {
			h.end()
		}
		began := time.Now()
		h.begin(operator)
		up := time.Since(began)
		b := operator.done(id, "COMPLETED")
		t.Logf("%s: up again after %v, the backup complete after %v", how, up.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		if b.Parent != whole || b.SizeBytes < 11e6 {
			t.Errorf("backup %+v, want a child of %s", b, whole)
		}
		whole = id
		m := operator.create(id)
		h.has(m, cut)
		operator.free(m)
	}
	if err := copied.Get("/_up", nil); err != nil {
		t.Errorf("the instance of before does not answer: %v", err)
	}
	operator.free(copied)
	if ids := viewer.list(); len(ids) != 4 {
		t.Errorf("backups: %v, want 4", ids)
	}
	out := h.slipcover([]string{"SLIPCOVER_PROGRESS=none"}, "check", "--repo", repository)
	t.Log(strings.TrimSpace(out))
	h.noSecrets()
}

// token makes a token of a role.
func (h *onehost) token(admin *caller, role string) *caller {
	h.t.Helper()
	var got struct{ Secret string }
	admin.ask(http.MethodPost, "/slipcover/v1/tokens", map[string]any{"name": "a " + role, "role": role}, http.StatusCreated, &got)
	return h.caller(got.Secret, admin.project)
}

// joinTokens makes a token to join with, and tries to use another one.
func (h *onehost) joinTokens(admin *caller) {
	h.t.Helper()
	var got struct{ Secret string }
	admin.ask(http.MethodPost, "/slipcover/v1/join-tokens", map[string]any{"name": "node2"}, http.StatusCreated, &got)
	h.hide("a join token", got.Secret)
	wrong := got.Secret[:len(got.Secret)-1] + "x"
	if wrong == got.Secret { // it is one of 32 letters
		wrong = got.Secret[:len(got.Secret)-1] + "y"
	}
	h.hide("a wrong join token", wrong)
	if status, err := admin.try(http.MethodPost, "/slipcover/v1/join", map[string]any{"token": wrong, "public_key": "U", "recipient": "age1", "hello": map[string]any{}}, nil); status/100 != 4 {
		h.t.Errorf("a wrong join token: %d, %v", status, err)
	}
}
