package trove_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/agent/agenttest"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/trove"
)

// machine is where an agent runs: its folders, and a CouchDB that was there before.
type machine struct {
	w         *world
	dir       string
	couch     *testenv.Couch
	project   string
	name, id  string // of the node's instance
	restarted string // a file that is there after a restart of the node
}

// machine starts an agent for the CouchDB, whose node has the name.
func (w *world) machine(name, project string, couch *testenv.Couch, reader *age.X25519Identity, repository string) *machine {
	w.t.Helper()
	m := &machine{w: w, dir: w.t.TempDir(), couch: couch, project: project, name: name}
	m.restarted = filepath.Join(m.dir, "restarted")
	seed, public, err := bus.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	joined, err := w.Server.Join(w.t.Context(), server.Joining{Name: name, Project: project, Admin: true, PublicKey: public, Hello: job.Hello{Session: "none", Address: "127.0.0.1"}})
	if err != nil {
		w.t.Fatal(err)
	}
	m.id = joined.Instance
	link, err := bus.Dial(w.t.Context(), bus.LinkOptions{InProcess: w.Bus, Agent: joined.AgentID, JWT: joined.JWT, Seed: seed})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { // after the agent's end
		made, err := os.ReadDir(filepath.Join(m.dir, "instances"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Error(err)
		}
		for _, d := range made {
			if err := restore.Remove(context.Background(), filepath.Join(m.dir, "instances", d.Name())); err != nil && !errors.Is(err, restore.ErrNoInstance) {
				w.t.Error(err)
			}
		}
	})
	servertest.Background(w.t, func(ctx context.Context) error {
		return agent.Run(ctx, agent.Options{
			Dial: func(context.Context) (agent.Link, error) { return link, nil }, Version: "slipcover test", Host: name, Address: "127.0.0.1", StateDir: filepath.Join(m.dir, "state"), InstancesDir: filepath.Join(m.dir, "instances"),
			Locate: func(ctx context.Context) (*node.Node, error) {
				return node.Locate(ctx, node.Options{DataDir: couch.DataDir})
			},
			CouchURL: couch.URL, RestartCommand: "touch " + m.restarted,
			OpenRepo: agenttest.Opener(repository, reader), RepositoryURL: repository, CanRead: true, Backup: backup.Options{Parallel: 2}, Log: w.Log,
		})
	})
	servertest.Eventually(w.t, "the agent sees its node", func() bool {
		i, err := w.Server.Instance(w.t.Context(), &access.Caller{Project: project}, m.id)
		return err == nil && w.Server.Live(i).Up && w.Server.Live(i).UsedBytes > 0
	})
	return m
}

// caller is for asking the server itself.
func (m *machine) caller() *access.Caller { return &access.Caller{Project: m.project} }

// backed waits until a backup has ended well and its instance is free.
func (m *machine) backed(t *testing.T, id string) *job.Backup {
	t.Helper()
	var b *job.Backup
	await(t, "the backup is done", func() (err error) {
		if b, err = m.w.Server.Backup(t.Context(), m.caller(), id); err != nil {
			return err
		}
		if b.Status.Running() {
			return errors.New("it is " + string(b.Status))
		}
		i, err := m.w.Server.Instance(t.Context(), m.caller(), b.Instance)
		if err == nil && i.Task != "" {
			err = fmt.Errorf("busy with %s", i.Task)
		}
		return err
	})
	if !b.Status.Usable() {
		t.Fatalf("backup %s: %s: %s", b.Name, b.Status, b.Fault)
	}
	if b.Repository.Storage == "" { // a repository that was made just now
		await(t, "the agent tells its repository", func() error {
			for _, a := range m.w.Server.Agents() {
				if a.Name == m.name && a.Hello.Repository.ID == b.Repository.ID {
					return nil
				}
			}
			return errors.New("it doesn't")
		})
	}
	return b
}

// active waits until an instance is.
func (m *machine) active(t *testing.T, id string) *job.Instance {
	t.Helper()
	var i *job.Instance
	await(t, "the instance is active", func() (err error) {
		if i, err = m.w.Server.Instance(t.Context(), m.caller(), id); err != nil {
			return err
		}
		if i.Status == job.InstanceFailed {
			t.Fatalf("instance %s failed: %+v", i.Name, i.Fault)
		}
		if i.Shown() != job.InstanceActive {
			return errors.New("it is " + string(i.Shown()))
		}
		if l := m.w.Server.Live(i); !l.Up || !l.CanRestart {
			return errors.New("the agent doesn't say so yet")
		}
		return nil
	})
	return i
}

// gone waits until an instance is.
func (m *machine) gone(t *testing.T, id string) {
	t.Helper()
	await(t, "the instance is gone", func() error {
		if i, err := m.w.Server.Instance(t.Context(), m.caller(), id); err == nil {
			return errors.New("it is " + string(i.Shown()))
		}
		return nil
	})
}

func await(t *testing.T, what string, not func() error) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := not()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not in 5 minutes: %s: %v", what, err)
		}
	}
}

const (
	documents = 200
	ordersDB  = "orders"
)

// same compares an instance that was made from a backup with what the node has.
func (m *machine) same(t *testing.T, i *job.Instance) {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(m.dir, "instances", i.ID, "admin-password"))
	if err != nil {
		t.Fatal(err)
	}
	c := &testenv.Client{URL: i.URL, Admin: "admin", Password: strings.TrimSpace(string(password))}
	var got, want json.RawMessage
	if err := errors.Join(c.Get("/orders/_all_docs?include_docs=true", &got), m.couch.Get("/orders/_all_docs?include_docs=true", &want)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || bytes.Count(got, []byte(`"total"`)) != documents {
		t.Errorf("the new instance has %d bytes of documents, the node %d", len(got), len(want))
	}
}

// fill gives a CouchDB what is backed up.
func fill(t *testing.T, c *testenv.Couch) {
	t.Helper()
	var docs []any
	for n := range documents {
		docs = append(docs, map[string]any{"_id": fmt.Sprintf("order-%04d", n), "total": n})
	}
	for _, err := range []error{c.Put("/"+ordersDB+"?q=2", nil, nil), c.Put("/invoices?q=1", nil, nil), c.Post("/"+ordersDB+"/_bulk_docs", map[string]any{"docs": docs}, nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// strand is a client with a log-in, and what came of its commands, line by line.
type strand struct {
	t       *testing.T
	title   string
	program *testenv.Preloaded
	options []string // that are the same for all commands
	shown   string   // the program in the table
	env     []string

	rows  []string
	names []string // pairs of an id and a name for it
	after func()   // what is left to do when all other strands have ended
}

// name gives an id, which is another one in each run, a name in the table.
func (s *strand) name(id, name string) { s.names = append(s.names, id, "<"+name+">") }

func (s *strand) plain(text string) string { return strings.NewReplacer(s.names...).Replace(text) }

func (s *strand) note(args []string, outcome string) {
	s.rows = append(s.rows, s.plain(s.shown+" "+strings.Join(args, " "))+"\n    "+s.plain(outcome))
}

func (s *strand) run(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return s.program.Run(s.env, append(slices.Clone(s.options), args...)...)
}

// ok runs a command that must end well, and returns what it printed.
func (s *strand) ok(args ...string) string {
	s.t.Helper()
	out, errs, code := s.run(args...)
	if code != 0 {
		s.t.Fatalf("%s %s: exit code %d\n%s\n%s", s.shown, strings.Join(args, " "), code, out, errs)
	}
	return out
}

// does runs a command whose output is of no use.
func (s *strand) does(args ...string) {
	s.t.Helper()
	s.ok(args...)
	s.note(args, "ok")
}

// refused runs a command that must end with exit code 1 and a message.
func (s *strand) refused(want string, args ...string) {
	s.t.Helper()
	out, errs, code := s.run(args...)
	if code != 1 || !strings.Contains(errs, want) {
		s.t.Errorf("%s %s: exit code %d, want 1 and %q\n%s\n%s", s.shown, strings.Join(args, " "), code, want, out, errs)
	}
	s.note(args, "refused: "+want)
}

// pick is what of an object stands in the table.
func pick(o map[string]any, fields string) string {
	var out []string
	for _, f := range strings.Split(fields, ",") {
		v, ok := o[f]
		if !ok {
			v = "(no " + f + ")"
		}
		out = append(out, fmt.Sprint(v))
	}
	return strings.Join(out, " ")
}

// show runs a command that prints an object.
func (s *strand) show(fields string, args ...string) map[string]any {
	s.t.Helper()
	o := map[string]any{}
	if out := s.ok(args...); json.Unmarshal([]byte(out), &o) != nil {
		s.t.Fatalf("%s %s: no object: %s", s.shown, strings.Join(args, " "), out)
	}
	s.note(args, "ok: "+pick(o, fields))
	return o
}

// list runs a command that prints a list of objects.
func (s *strand) list(fields string, args ...string) []map[string]any {
	s.t.Helper()
	var list []map[string]any
	if out := s.ok(args...); json.Unmarshal([]byte(out), &list) != nil {
		s.t.Fatalf("%s %s: no list: %s", s.shown, strings.Join(args, " "), out)
	}
	var rows []string
	for _, o := range list {
		rows = append(rows, pick(o, fields))
	}
	if len(rows) == 0 {
		rows = append(rows, "none")
	}
	s.note(args, "ok: "+strings.Join(rows, "; "))
	return list
}

// begins runs a command that prints a new object, and gives its id a name.
func (s *strand) begins(name, fields string, args ...string) (id string) {
	s.t.Helper()
	o := map[string]any{}
	out := s.ok(args...)
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		s.t.Fatalf("%s: %v: %s", args, err, out)
	}
	id, _ = o["id"].(string)
	if !uuids.MatchString(id) {
		s.t.Fatalf("%s: no id in %s", args, out)
	}
	switch o["status"] { // how far it is by now is left to chance
	case "NEW", "BUILDING", "COMPLETED", "RESTORED", "BUILD", "ACTIVE":
	default:
		s.t.Errorf("%s: status %v", args, o["status"])
	}
	s.name(id, name)
	s.note(args, "ok: "+pick(o, fields))
	return id
}

// limits runs a command that prints the first of the limits as an object or table, and
// the others as a list.
func (s *strand) limits(args ...string) {
	s.t.Helper()
	out := s.ok(args...)
	var rates []map[string]any
	if err := json.Unmarshal([]byte(out[max(strings.LastIndex(out, "\n["), 0):]), &rates); err != nil || !strings.Contains(out, "max_backups") || len(rates) != 5 {
		s.t.Errorf("%s: %v in %s", args, err, out)
	}
	s.note(args, "ok: absolute limits and 5 rates")
}

// TestStockClients runs the clients that people have, unchanged, against the API with
// real agents, a real CouchDB, Swift and Keystone behind it. What came of each command is
// testdata/clients.txt.
func TestStockClients(t *testing.T) {
	if testing.Short() {
		t.Skip("runs clients that take seconds each")
	}
	clients := []string{"troveclient", "openstackclient.shell", "openstackclient.common", "openstackclient.api", "osc_lib", "keystoneauth1", "keystoneclient.v3", "cliff", "openstack.config"}
	troveClient, openstackClient := testenv.Preload(t, "trove", clients...), testenv.Preload(t, "openstack", clients...)
	swift, keystone := testenv.SwiftKeystone(t)
	couch := testenv.CouchDB(t, testenv.Options{})
	fill(t, couch)
	reader, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	checker, err := access.NewKeystone(access.KeystoneOptions{URL: keystone.URL})
	if err != nil {
		t.Fatal(err)
	}
	demo := keystone.Vars["DEMO_PROJECT_ID"]
	quota := job.Quota{Instances: 20, Backups: 100, Volumes: 100}
	cloud := newWorld(t, func(c *server.Config, o *trove.Options) {
		c.OwnSwift, c.Recipients, c.Quota = true, []string{reader.Recipient().String()}, quota
		o.Checker, o.Keystone, o.URL, o.Callers = checker, keystone.URL+"/v3", "", httpd.NewLimiter(6000)
	})
	cloud.listen(fmt.Sprintf("127.0.0.1:%d", keystone.TrovePort), cloud.HTTP.Config.Handler)
	alone := newWorld(t, func(c *server.Config, o *trove.Options) {
		c.Quota, o.URL, o.Callers = quota, "", httpd.NewLimiter(6000)
	})
	open := httptest.NewServer(trove.New(trove.Options{Server: alone.Server, Checker: access.None{}, Log: alone.Log}))
	t.Cleanup(open.Close)
	repository := "file://" + filepath.Join(t.TempDir(), "repo")

	user := func(name, project string) (env []string) {
		for k, v := range keystone.User(name, project) {
			if strings.HasPrefix(k, "OS_") {
				env = append(env, k+"="+v)
			}
		}
		return env
	}
	own := alone.Token(project, access.Operator)
	endpoint := alone.HTTP.URL + "/v1.0/" + project
	type client struct {
		s    *strand
		run  func(*strand, *machine)
		node func() *machine
	}
	strands := []client{
		{&strand{title: "trove, with Keystone", program: troveClient, options: []string{"--json"}, shown: "trove", env: user("demo", "demo")},
			func(s *strand, m *machine) { troveWithKeystone(s, m, user("admin", "admin")) },
			func() *machine { return cloud.machine("trove-db", demo, couch, reader, "") }},
		{&strand{title: "openstack, with Keystone", program: openstackClient, shown: "openstack", env: user("demo", "demo")},
			func(s *strand, m *machine) { openstackWithKeystone(s, m, keystone, swift, user("admin", "admin")) },
			func() *machine { return cloud.machine("os-db", demo, couch, reader, "") }},
		{&strand{title: "gophercloud, with Keystone", shown: "gophercloud"},
			func(s *strand, m *machine) { gophercloudRun(s, m, keystoneService(s.t, keystone)) },
			func() *machine { return cloud.machine("go-db", demo, couch, reader, "") }},
		{&strand{title: "trove, with a token of our own and the log-in of version 1", program: troveClient, options: []string{"--json"}, shown: "trove",
			env: []string{"OS_AUTH_URL=" + alone.HTTP.URL + "/auth/v1.0", "OS_USERNAME=joe", "OS_PASSWORD=" + own, "OS_PROJECT_NAME=" + project, "TROVE_BYPASS_URL=" + endpoint}},
			troveAlone, func() *machine { return alone.machine("trove1-db", project, couch, reader, repository) }},
		{&strand{title: "openstack, with a token of our own", program: openstackClient, shown: "openstack",
			env: []string{"OS_AUTH_TYPE=admin_token", "OS_ENDPOINT=" + endpoint, "OS_TOKEN=" + own}},
			openstackAlone, func() *machine { return alone.machine("os1-db", project, couch, reader, repository) }},
		{&strand{title: "openstack, without any token", program: openstackClient, shown: "openstack",
			env: []string{"OS_AUTH_TYPE=none", "OS_ENDPOINT=" + open.URL + "/v1.0/" + project}},
			openstackAlone, func() *machine { return alone.machine("os2-db", project, couch, reader, repository) }},
		{&strand{title: "gophercloud, with a token of our own", shown: "gophercloud"},
			func(s *strand, m *machine) { gophercloudRun(s, m, tokenService(endpoint, own)) },
			func() *machine { return alone.machine("go1-db", project, couch, reader, repository) }},
	}
	machines := make([]*machine, len(strands))
	for n, c := range strands {
		machines[n] = c.node()
	}
	t.Run("strands", func(t *testing.T) {
		for n, c := range strands {
			t.Run(c.s.title, func(t *testing.T) {
				t.Parallel()
				c.s.t = t
				c.s.name(machines[n].id, machines[n].name)
				c.s.name(demo, "demo")
				c.run(c.s, machines[n])
			})
		}
	})
	for _, c := range strands {
		if c.s.after != nil && !t.Failed() {
			c.s.t = t
			c.s.after()
		}
	}
	if t.Failed() {
		return
	}
	if slices.ContainsFunc(strands, func(c client) bool { return len(c.s.rows) == 0 }) {
		return // some were left out by -run
	}
	var text strings.Builder
	text.WriteString("# What the stock clients were asked, and how it ended; TestStockClients writes it with -update.\n")
	for _, c := range strands {
		fmt.Fprintf(&text, "\n## %s\n\n%s\n", c.s.title, strings.Join(c.s.rows, "\n"))
	}
	golden(t, "clients.txt", text.String())
}

// listen serves the API at an address, too.
func (w *world) listen(address string, h http.Handler) {
	w.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	w.t.Cleanup(s.Close)
}

// as runs commands as another user.
func (s *strand) as(who string, env []string, commands func()) {
	was, shown := s.env, s.shown
	s.env, s.shown = env, who+": "+s.shown
	commands()
	s.env, s.shown = was, shown
}

func troveWithKeystone(s *strand, m *machine, admin []string) {
	t := s.t
	s.quiet("list")
	s.show("name,status,datastore,datastore_version,flavor,ip", "show", m.name)
	s.show("id,name", "show", m.id)
	s.list("id,name", "flavor-list")
	s.show("id,name", "flavor-show", "1")
	s.list("name", "datastore-list")
	s.show("name", "datastore-show", "couchdb")
	version, _ := s.list("name", "datastore-version-list", "couchdb")[0]["id"].(string)
	s.name(version, "id of 3.5")
	s.show("name", "datastore-version-show", "3.5", "--datastore", "couchdb")
	s.list("id,name", "flavor-list", "--datastore_type", "couchdb", "--datastore_version_id", version)
	s.limits("limit-list")
	s.list("name", "database-list", m.name)

	nightly := s.begins("nightly", "name,description", "backup-create", m.name, "nightly", "--description", "the first")
	m.backed(t, nightly)
	noon := s.begins("noon", "name,parent_id", "backup-create", m.name, "noon", "--parent", nightly)
	m.backed(t, noon)
	eve := s.begins("eve", "name,parent_id", "backup-create", m.id, "eve", "--incremental")
	m.backed(t, eve)
	mine := func(list []map[string]any) {
		for _, b := range list {
			if b["instance_id"] == m.id && b["status"] != "COMPLETED" {
				t.Errorf("%v", b)
			}
		}
	}
	mine(s.quiet("backup-list"))
	mine(s.quiet("backup-list", "--limit", "1"))
	mine(s.quiet("backup-list", "--limit", "1", "--marker", "1"))
	mine(s.quiet("backup-list", "--datastore", "couchdb"))
	s.list("name,status", "backup-list-instance", m.name)
	got := s.show("name,status,size,description,datastore", "backup-show", "nightly")
	if at, _ := got["locationRef"].(string); !regexp.MustCompile(`/v1/AUTH_` + m.project + `/database_backups/`).MatchString(at) {
		t.Errorf("locationRef %q", at)
	}

	copied := s.begins("copy", "name", "create", "trove-copy", "1", "--size", "2", "--backup", "nightly", "--datastore", "couchdb", "--datastore_version", "3.5", "--availability_zone", m.name)
	m.same(t, m.active(t, copied))
	s.show("name,status,volume", "show", "trove-copy")
	s.does("restart", "trove-copy")
	m.same(t, m.active(t, copied))
	s.does("restart", m.name)
	m.active(t, m.id)
	if _, err := os.Stat(m.restarted); err != nil {
		t.Error(err)
	}
	s.does("reset-status", "trove-copy")
	s.does("delete", "trove-copy")
	m.gone(t, copied)
	s.refused("No instance with a name or ID of 'trove-copy' exists", "show", "trove-copy")
	scratch := s.begins("scratch", "name", "create", "trove-scratch", "node", "--size", "1", "--availability_zone", m.name)
	m.active(t, scratch)
	s.does("force-delete", "trove-scratch")
	m.gone(t, scratch)
	s.refusedAnyhow("update", m.name, "--name", "other") // broken in this client: no request is sent

	s.does("backup-delete", "nightly")
	s.refused("No backup with a name or ID of 'noon' exists", "backup-show", "noon") // its child

	s.refused("HTTP 501", "user-list", m.name)
	s.refused("HTTP 501", "root-show", m.name)
	s.refused("HTTP 501", "resize-volume", m.name, "3")
	s.refused("HTTP 501", "configuration-list")
	s.refused("HTTP 501", "cluster-list")
	s.refused("HTTP 501", "create", "trove-x", "1", "--size", "1", "--databases", "orders")
	s.refused("HTTP 404", "create", "trove-x", "1", "--size", "1", "--datastore", "mysql")
	s.refused("HTTP 413", "create", "trove-x", "1", "--size", "1000")
	s.refused("HTTP 403", "quota-show", m.project)
	s.as("admin", admin, func() {
		s.list("resource,limit", "quota-show", "another")
		s.show("backups", "quota-update", "another", "backups", "60")
		s.list("resource,limit", "quota-show", "another")
	})
}

// quiet runs a command whose list depends on what others do.
func (s *strand) quiet(args ...string) []map[string]any {
	s.t.Helper()
	var list []map[string]any
	if out := s.ok(args...); json.Unmarshal([]byte(out), &list) != nil {
		s.t.Fatalf("%s %s: no list: %s", s.shown, strings.Join(args, " "), out)
	}
	s.note(args, "ok")
	return list
}

// refusedAnyhow runs a command that can't work, whatever the server does.
func (s *strand) refusedAnyhow(args ...string) {
	s.t.Helper()
	if out, errs, code := s.run(args...); code == 0 {
		s.t.Errorf("%s: it works: %s %s", args, out, errs)
	}
	s.note(args, "broken in the client")
}

func openstackWithKeystone(s *strand, m *machine, keystone *testenv.KeystoneServer, swift *testenv.SwiftServer, admin []string) {
	t := s.t
	j := func(args ...string) []string { return append(args, "-f", "json") }
	s.quiet(j("database", "instance", "list")...)
	s.show("name,status,datastore,datastore_version,flavor,volume,ip,public,region", j("database", "instance", "show", m.name)...)
	s.show("name", j("database", "instance", "show", m.id)...)
	s.list("ID,Name", j("database", "flavor", "list")...)
	s.show("id,name", j("database", "flavor", "show", "1")...)
	s.list("Name", j("datastore", "list")...)
	s.show("name", j("datastore", "show", "couchdb")...)
	versions := s.list("Name,Version", j("datastore", "version", "list", "couchdb")...)
	version, _ := versions[0]["ID"].(string)
	s.name(version, "id of 3.5")
	s.show("name", j("datastore", "version", "show", "3.5", "--datastore", "couchdb")...)
	s.show("name", j("datastore", "version", "show", version)...)
	s.limits(j("database", "limit", "list")...)
	s.list("Name", j("database", "db", "list", m.name)...)

	nightly := s.begins("os-nightly", "name,datastore,datastore_version", j("database", "backup", "create", "os-nightly", "-i", m.id, "--description", "the first")...)
	first := m.backed(t, nightly)
	noon := s.begins("os-noon", "name,parent_id", j("database", "backup", "create", "os-noon", "-i", m.name, "--parent", nightly)...)
	m.backed(t, noon)
	eve := s.begins("os-eve", "name,parent_id", j("database", "backup", "create", "os-eve", "-i", m.id, "--incremental")...)
	m.backed(t, eve)
	apart := s.begins("os-apart", "name", j("database", "backup", "create", "os-apart", "-i", m.id, "--swift-container", "apart")...)
	if b := m.backed(t, apart); !strings.HasPrefix(b.Location(), swift.URL+"/v1/AUTH_"+m.project+"/apart/") {
		t.Errorf("it is at %s", b.Location())
	}
	s.list("Name,Status", j("database", "backup", "list", "-i", m.id)...)
	s.list("Name", j("database", "backup", "list", "-i", m.name, "--limit", "2")...)
	s.list("Name", j("database", "backup", "list", "-i", m.id, "--limit", "2", "--marker", "2", "--datastore", "couchdb")...)
	s.list("Name", j("database", "backup", "list", "instance", m.name)...)
	s.show("name,status,size,description,datastore,datastore_version", j("database", "backup", "show", "os-nightly")...)

	copied := s.begins("os-copy", "name,volume", j("database", "instance", "create", "os-copy", "--flavor", "node", "--size", "2", "--backup", "os-nightly",
		"--datastore", "couchdb", "--datastore-version", "3.5", "--availability-zone", m.name)...)
	m.same(t, m.active(t, copied))
	s.does("database", "instance", "restart", "os-copy")
	m.same(t, m.active(t, copied))
	s.does("database", "instance", "reset", "status", "os-copy")
	s.does("database", "instance", "update", "os-copy", "--name", "os-renamed")
	s.show("name,status", j("database", "instance", "show", "os-renamed")...)
	s.does("database", "instance", "delete", "os-renamed")
	m.gone(t, copied)
	s.refused("No instance with a name or ID of 'os-renamed' exists", "database", "instance", "show", "os-renamed")
	scratch := s.begins("os-scratch", "name", j("database", "instance", "create", "os-scratch", "--flavor", "1", "--size", "1", "--availability-zone", m.name)...)
	m.active(t, scratch)
	s.does("database", "instance", "delete", "--force", scratch)
	m.gone(t, scratch)

	s.show("project_id,instance_id,backend,swift_container", j("database", "backup", "strategy", "create", "--instance-id", m.id, "--swift-container", "elsewhere")...)
	s.list("Instance ID,Swift Container", j("database", "backup", "strategy", "list", "--instance-id", m.id)...)
	there := s.begins("os-there", "name", j("database", "backup", "create", "os-there", "-i", m.id)...)
	if b := m.backed(t, there); !strings.Contains(b.Location(), "/elsewhere/") {
		t.Errorf("it is at %s", b.Location())
	}
	s.does("database", "backup", "strategy", "delete", "--instance-id", m.id)
	s.list("Instance ID", j("database", "backup", "strategy", "list", "--instance-id", m.id)...)

	token, _ := keystone.Token(t, keystone.User("demo", "demo"))
	s.name(token, "token")
	s.as("with a token", []string{"OS_AUTH_URL=" + keystone.Vars["OS_AUTH_URL"], "OS_AUTH_TYPE=token", "OS_TOKEN=" + token, "OS_PROJECT_NAME=demo", "OS_PROJECT_DOMAIN_ID=default",
		"OS_REGION_NAME=RegionOne", "OS_IDENTITY_API_VERSION=3"}, func() { s.show("name", j("database", "instance", "show", m.name)...) })
	s.as("admin", admin, func() {
		s.quiet(j("database", "instance", "list", "--all-projects")...)
		s.quiet(j("database", "backup", "list", "--all-projects", "--limit", "1")...)
		s.quiet(j("database", "backup", "list", "--project-id", m.project, "--limit", "1")...)
		s.list("Resource,Limit", j("database", "quota", "show", "other")...)
		s.show("volumes", j("database", "quota", "update", "other", "volumes", "30")...)
		s.list("Resource,Limit", j("database", "quota", "show", "other")...)
		s.refused("No instance with a name or ID of", "database", "instance", "show", m.id) // of another project
	})
	s.refused("HTTP 403", "database", "backup", "list", "--all-projects")
	s.refused("HTTP 501", "database", "user", "list", m.name)
	s.refused("HTTP 501", "database", "instance", "resize", "volume", m.name, "3")

	// An adopted backup is put down to any node of the project, whose list shows it.
	s.after = func() {
		s.name(first.Location(), "location of os-nightly")
		adopted := s.begins("os-adopted", "name", j("database", "backup", "create", "os-adopted", "--restore-from", first.Location(),
			"--restore-datastore-version", version, "--restore-size", "1")...)
		m.backed(s.t, adopted)
		s.show("name,status,size", j("database", "backup", "show", "os-adopted")...)
		s.does("database", "backup", "delete", "os-nightly", there, "os-apart", adopted)
		s.list("Name,Parent ID", j("database", "backup", "list", "-i", m.id)...)
	}
}

// troveAlone and openstackAlone are the commands with which people without Keystone
// live; the others send the same requests as with it.
func troveAlone(s *strand, m *machine) {
	s.show("name,status", "show", m.name)
	nightly := s.begins("nightly", "name", "backup-create", m.name, "t1-nightly")
	m.backed(s.t, nightly)
	s.list("name,status,size", "backup-list-instance", m.name)
	copied := s.begins("copy", "name", "create", "t1-copy", "1", "--size", "2", "--backup", "t1-nightly", "--availability_zone", m.name)
	m.same(s.t, m.active(s.t, copied))
	s.list("name", "database-list", "t1-copy")
	s.does("delete", "t1-copy")
	m.gone(s.t, copied)
	s.does("backup-delete", nightly)
	s.list("name", "backup-list-instance", m.name)
	s.limits("limit-list")
	was := s.env
	s.env = append(slices.Clone(was), "OS_PASSWORD=slc_wrong")
	s.refusedAnyhow("list")
	s.rows[len(s.rows)-1] = "trove list, with a wrong token\n    refused"
	s.env = was
}

func openstackAlone(s *strand, m *machine) {
	name := func(rest string) string { return m.name + rest }
	s.show("name,status", "database", "instance", "show", m.name, "-f", "json")
	nightly := s.begins("nightly", "name", "database", "backup", "create", name("-nightly"), "-i", m.id, "-f", "json")
	m.backed(s.t, nightly)
	s.list("Name,Status", "database", "backup", "list", "-i", m.id, "-f", "json")
	copied := s.begins("copy", "name", "database", "instance", "create", name("-copy"), "--flavor", "1", "--size", "2", "--backup", name("-nightly"), "--availability-zone", m.name, "-f", "json")
	m.same(s.t, m.active(s.t, copied))
	s.list("Name", "database", "db", "list", name("-copy"), "-f", "json")
	s.does("database", "instance", "delete", copied)
	m.gone(s.t, copied)
	s.does("database", "backup", "delete", nightly)
	s.list("Name", "database", "backup", "list", "-i", m.id, "-f", "json")
}
