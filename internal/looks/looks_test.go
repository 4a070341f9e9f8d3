package looks_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/agent/agenttest"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/looks"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/testenv"
)

const (
	fixtures = "../../testdata/couchdb-3.5.0"
	project  = "acme"
)

// world is a server without a key and an agent with one, and beside them a server of the same catalog with the key.
type world struct {
	*servertest.World
	t        *testing.T
	dir      string
	identity *age.X25519Identity
	instance string
	backups  []string // ids in the catalog, the oldest first

	without, with *looks.Reader
	proxy         *proxy
	link          *bus.Link
	stop          func() // ends the agent
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld has data directories backed up, one after the other, as backups of one instance.
func newWorld(t *testing.T, change func(*agent.Options), dirs ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	var err error
	w.identity, err = age.GenerateX25519Identity()
	must(t, err)
	w.World = servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, server.Config{})
	w.join(change)
	w.backUp(dirs...)
	w.without, w.with = w.reader(nil), w.reader(w.identity)
	servertest.Eventually(t, "the catalog has the backups", func() bool {
		list, _ := w.Server.Backups(w.who(), server.BackupFilter{Instance: w.instance, Limit: 10})
		return len(list) == len(dirs)
	})
	return w
}

func (w *world) url() string { return "file://" + filepath.Join(w.dir, "repo") }

func (w *world) who() *access.Caller {
	return &access.Caller{UserID: "u", User: "test", Project: project, Role: access.Operator}
}

// open opens the repository with an identity, nil for none.
func (w *world) open(id *age.X25519Identity) (*repo.Repo, func(), error) {
	if id == nil {
		id, _ = age.GenerateX25519Identity()
	}
	return agenttest.Opener(w.url(), id)(context.Background(), agent.Open{})
}

func (w *world) reader(id *age.X25519Identity) *looks.Reader { return looks.New(w.set(id), w.Server) }

func (w *world) set(id *age.X25519Identity) *opened.Set {
	set, err := opened.New(opened.Options{Server: w.Server, Checker: w.Tokens, Most: 4, Version: "test", Log: w.Log,
		Repo: func(context.Context, *access.Caller, *job.Backup) (*repo.Repo, func(), error) { return w.open(id) }})
	must(w.t, err)
	return set
}

// join has an agent of the name db1 join, and runs it, if change doesn't say otherwise as one that reads for servers.
func (w *world) join(change func(*agent.Options)) {
	t := w.t
	keys := servertest.NewKeys(t)
	joined, err := w.Server.Join(t.Context(), server.Joining{Name: "db1", Project: project, PublicKey: keys.Public, Recipient: keys.Recipient(), Admin: true})
	must(t, err)
	w.instance = joined.Instance
	to, err := url.Parse(w.Bus.ClientURL())
	must(t, err)
	w.proxy = newProxy(t, to.Host)
	w.link = servertest.Dial(t, bus.LinkOptions{URL: "nats://" + w.proxy.addr, Agent: joined.AgentID, JWT: joined.JWT, Seed: keys.Seed})
	o := agent.Options{
		Dial: func(context.Context) (agent.Link, error) { return w.link, nil }, Version: "slipcover test", Host: "host1",
		StateDir: filepath.Join(w.dir, "state"), InstancesDir: filepath.Join(w.dir, "instances"), Log: w.Log,
		OpenRepo: agenttest.Opener(w.url(), w.identity), RepositoryURL: w.url(), CanRead: true, AcceptReads: true,
	}
	if change != nil {
		change(&o)
	}
	w.stop = servertest.Background(t, func(ctx context.Context) error { return agent.Run(ctx, o) })
	servertest.Eventually(t, "the agent says what it can", func() bool {
		of := w.Server.ReadingOf(w.instance)
		return of.Online && of.Reads == (o.AcceptReads && o.CanRead) && of.Key == o.CanRead
	})
}

func (w *world) backUp(dirs ...string) {
	t := w.t
	r, done, err := agenttest.Opener(w.url(), w.identity)(t.Context(), agent.Open{Make: true})
	must(t, err)
	t.Cleanup(done)
	var found []server.Found
	for _, data := range dirs {
		n, err := node.Locate(t.Context(), node.Options{DataDir: data})
		must(t, err)
		id := uuid.Must(uuid.NewV7()).String()
		res, err := backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "db1", StateDir: filepath.Join(w.dir, "backups"), Name: "b", Tool: "test",
			Labels: map[string]string{job.LabelBackup: id, job.LabelProject: project, job.LabelInstance: w.instance, job.LabelInstanceName: "db1"}})
		must(t, err)
		w.backups = append(w.backups, id)
		found = append(found, server.Found{Record: res.Record, Repository: job.Repository{URL: r.URL(), ID: r.Config().ID}})
	}
	_, err = server.Rebuild(t.Context(), w.Bus, "default", found)
	must(t, err)
}

// earlier is a copy of the fixture in which the database timeline is at an earlier point.
func earlier(t *testing.T) string {
	t.Helper()
	data := t.TempDir()
	must(t, os.CopyFS(data, os.DirFS(fixtures+"/data")))
	b, err := os.ReadFile(fixtures + "/expected/timeline/points/01.json")
	must(t, err)
	var p struct {
		Shards map[string]struct{ Sizes struct{ File int64 } } `json:"shard_info"`
	}
	must(t, json.Unmarshal(b, &p))
	for name, s := range p.Shards {
		must(t, os.Truncate(filepath.Join(data, filepath.FromSlash(name)+".couch"), s.Sizes.File))
	}
	return data
}

// proxy passes connections on, or holds back what they say.
type proxy struct {
	addr string
	mu   sync.Mutex
	held *sync.Cond
	hold bool
	said []byte // of both sides, at most some MB
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{addr: l.Addr().String()}
	p.held = sync.NewCond(&p.mu)
	t.Cleanup(func() { p.set(false); l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go p.pass(in, out)
			go p.pass(out, in)
		}
	}()
	return p
}

func (p *proxy) set(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = hold
	p.held.Broadcast()
}

// heard is what went over it.
func (p *proxy) heard() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.said)
}

func (p *proxy) pass(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.hold {
			p.held.Wait()
		}
		if len(p.said) < 4<<20 {
			p.said = append(p.said, buf[:n]...)
		}
		p.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// Whatever is looked at, an agent that has the key answers what a server with the key would, errors too.
func TestAgentAnswersAsServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, earlier(t), fixtures+"/data")
	ctx, who := t.Context(), w.who()
	first, second := states.State{Backup: w.backups[0]}, states.State{Backup: w.backups[1]}
	n := 0
	same := func(what string, ask func(*looks.Reader) (any, error)) {
		t.Helper()
		n++
		want, errWant := ask(w.with)
		got, errGot := ask(w.without)
		if errWant != nil || errGot != nil {
			var a, b *server.Error
			if !errors.As(errWant, &a) || !errors.As(errGot, &b) || a.Kind != b.Kind || a.Message != b.Message {
				t.Errorf("%s: the server says %v, and the agent %v", what, errWant, errGot)
			}
			return
		}
		x, err := json.Marshal(want)
		must(t, err)
		y, err := json.Marshal(got)
		must(t, err)
		if !bytes.Equal(x, y) {
			t.Errorf("%s: the server says\n%.2000s\nand the agent\n%.2000s", what, x, y)
		}
	}
	same("moments", func(r *looks.Reader) (any, error) {
		return r.Moments(ctx, who, w.instance, contents.MomentsQuery{Databases: "*"})
	})
	same("damage", func(r *looks.Reader) (any, error) { return r.DamageOf(ctx, who, w.instance) })
	same("a backup that isn't there", func(r *looks.Reader) (any, error) {
		return r.Databases(ctx, who, w.instance, states.State{Backup: "none"}, contents.DatabasesQuery{})
	})
	same("a moment before all", func(r *looks.Reader) (any, error) {
		return r.Databases(ctx, who, w.instance, states.State{At: time.Unix(1, 0)}, contents.DatabasesQuery{})
	})
	same("a selector that can't be read", func(r *looks.Reader) (any, error) {
		return r.Documents(ctx, who, w.instance, first, contents.DocumentsQuery{DB: "eight", Selector: `{"a":`})
	})
	same("a database that isn't there", func(r *looks.Reader) (any, error) { return r.Database(ctx, who, w.instance, first, "none") })
	for _, at := range []states.State{first, second, {Backup: "latest"}, {}} {
		same("databases", func(r *looks.Reader) (any, error) {
			return r.Databases(ctx, who, w.instance, at, contents.DatabasesQuery{Page: contents.Page{Limit: 500}})
		})
	}
	dbs, err := w.with.Databases(ctx, who, w.instance, second, contents.DatabasesQuery{Page: contents.Page{Limit: 500}})
	must(t, err)
	attachments := 0
	for _, db := range dbs.Databases {
		same(db.Name, func(r *looks.Reader) (any, error) { return r.Database(ctx, who, w.instance, second, db.Name) })
		same(db.Name+" changes", func(r *looks.Reader) (any, error) {
			return r.Changes(ctx, who, w.instance, contents.ChangesQuery{DB: db.Name, From: first, To: second, Page: contents.Page{Limit: 500}})
		})
		same(db.Name+" local", func(r *looks.Reader) (any, error) {
			return r.Documents(ctx, who, w.instance, second, contents.DocumentsQuery{DB: db.Name, Kind: "local"})
		})
		all := contents.DocumentsQuery{DB: db.Name, Deleted: true, Limit: 40}
		same(db.Name+" documents", func(r *looks.Reader) (any, error) { return r.Documents(ctx, who, w.instance, second, all) })
		list, err := w.with.Documents(ctx, who, w.instance, second, all)
		must(t, err)
		for i, d := range list.Documents {
			what := db.Name + "/" + d.ID
			same(what, func(r *looks.Reader) (any, error) { return r.Document(ctx, who, w.instance, second, db.Name, d.ID, "") })
			if i < 6 {
				same(what+" history", func(r *looks.Reader) (any, error) { return r.History(ctx, who, w.instance, db.Name, d.ID) })
				same(what+" diff", func(r *looks.Reader) (any, error) {
					return r.Diff(ctx, who, w.instance, db.Name, d.ID, contents.Place{At: first}, contents.Place{At: second})
				})
			}
			doc, err := w.with.Document(ctx, who, w.instance, second, db.Name, d.ID, "")
			must(t, err)
			for _, a := range doc.Attachments {
				attachments++
				same(what+"/"+a.Name, func(r *looks.Reader) (any, error) {
					var got []byte
					var is contents.Attachment
					err := r.AttachmentOf(ctx, who, w.instance, second, db.Name, d.ID, "", a.Name, func(x contents.Attachment, in io.Reader) (err error) {
						is = x
						got, err = io.ReadAll(in)
						return err
					})
					return []any{is, got}, err
				})
			}
		}
	}
	if n < 200 || attachments == 0 {
		t.Errorf("%d looks, %d attachments", n, attachments)
	}
	// Where a version is, is found again from what an agent says.
	h, err := w.without.History(ctx, who, w.instance, "timeline", firstChanged(t, w))
	must(t, err)
	for _, v := range h.Revisions {
		if v.Where() == (states.State{}) {
			t.Errorf("revision %s is nowhere", v.Rev)
		}
	}
}

func firstChanged(t *testing.T, w *world) string {
	t.Helper()
	c, err := w.without.Changes(t.Context(), w.who(), w.instance, contents.ChangesQuery{DB: "timeline", Kind: "changed",
		From: states.State{Backup: w.backups[0]}, To: states.State{Backup: w.backups[1]}})
	must(t, err)
	if len(c.Changes) == 0 {
		t.Fatal("nothing changed")
	}
	return c.Changes[0].ID
}

// refused asks for databases, and holds why they aren't shown, which it returns, against words.
func (w *world) refused(kind server.Kind, words ...string) *server.Error {
	w.t.Helper()
	_, err := w.without.Databases(w.t.Context(), w.who(), w.instance, states.State{}, contents.DatabasesQuery{})
	var e *server.Error
	if !errors.As(err, &e) || e.Kind != kind {
		w.t.Errorf("it is %v, of kind %d", err, kind)
		return nil
	}
	for _, x := range words {
		if !strings.Contains(e.Message, x) {
			w.t.Errorf("it lacks %q: %s", x, e.Message)
		}
	}
	return e
}

// The node decides: without its setting nothing is read, whatever a server says, and the server names the setting.
func TestNodeDecides(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *agent.Options) { o.AcceptReads = false }, fixtures+"/data")
	w.refused(server.Conflict, "this server has no key", "Its agent, db1, has one", "accept_reads: true", "identity_file", "all else works")
	_, err := w.Server.Look(t.Context(), w.instance, job.Look{Name: "databases", Query: json.RawMessage("{}")})
	if err == nil || !strings.Contains(err.Error(), "accept_reads") {
		t.Errorf("a server that asks all the same: %v", err)
	}
}

func TestAgentWithoutKey(t *testing.T) {
	t.Parallel()
	other, err := age.GenerateX25519Identity()
	must(t, err)
	w := newWorld(t, func(o *agent.Options) { o.CanRead = false }, fixtures+"/data")
	w.refused(server.Conflict, "this server has no key", "identity_file")
	w = newWorld(t, nil, fixtures+"/data")
	w.stop()
	w.join(func(o *agent.Options) { o.OpenRepo = agenttest.Opener(w.url(), other) })
	w.refused(server.Conflict, "The key of the agent of host1 doesn't read this backup either")
}

// An agent reads backups of its own instances, under their names, out of its own repositories.
func TestOwnInstancesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, fixtures+"/data")
	list, _ := w.Server.Backups(w.who(), server.BackupFilter{Instance: w.instance, Limit: 10})
	other := uuid.Must(uuid.NewV7()).String()
	for what, change := range map[string]func(*job.Backup){
		"another instance":       func(b *job.Backup) { b.Instance = other },
		"another's name":         func(b *job.Backup) { b.RepoName = "db2" },
		"another place":          func(b *job.Backup) { b.Repository.URL = "file://" + t.TempDir() },
		"an account":             func(b *job.Backup) { b.Repository.Storage = "https://swift.example/v1/AUTH_a" },
		"another repository":     func(b *job.Backup) { b.Repository.ID = other },
		"another's project":      func(b *job.Backup) { b.Project = "shop" },
		"no name of an instance": func(b *job.Backup) { b.RepoName = "../db1" },
	} {
		b := *list[0]
		change(&b)
		in, err := w.Server.Look(t.Context(), w.instance, job.Look{Name: "databases", Query: json.RawMessage("{}"), Backups: []*job.Backup{&b}})
		var e *server.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			in.Close()
		}
	}
	in, err := w.Server.Look(t.Context(), w.instance, job.Look{Name: "databases", Query: json.RawMessage("{}"), Backups: []*job.Backup{list[0]}})
	must(t, err)
	in.Close()
	if _, err := w.Server.Look(t.Context(), w.instance, job.Look{Name: "keys", Query: json.RawMessage("{}"), Backups: []*job.Backup{list[0]}}); err == nil || !strings.Contains(err.Error(), "doesn't know the look") {
		t.Errorf("a look that there isn't: %v", err)
	}
}

// What goes over the bus is sealed: nobody there reads a question or an answer.
func TestSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, fixtures+"/data")
	before := len(w.proxy.heard())
	dbs, err := w.without.Databases(t.Context(), w.who(), w.instance, states.State{}, contents.DatabasesQuery{Prefix: "conflic"})
	must(t, err)
	if len(dbs.Databases) == 0 {
		t.Fatal("no database")
	}
	heard := w.proxy.heard()[before:]
	if !bytes.Contains(heard, []byte("Slipcover-Piece")) || !bytes.Contains(heard, []byte("age-encryption.org")) {
		t.Error("the question and the answer went another way")
	}
	for _, word := range []string{"conflic", "databases", w.backups[0], "documents"} {
		if bytes.Contains(heard, []byte(word)) {
			t.Errorf("%q went in plain", word)
		}
	}
}

// Rights and the audit log are the server's, whoever reads.
func TestRightsAndAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, fixtures+"/data")
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany},
		admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", Serves: w.set(nil)}))
	get := func(role access.Role, project, what string) servertest.Answer {
		return servertest.Do(t, "GET", w.HTTP.URL+"/slipcover/v1/instances/"+w.instance+"/"+what, w.Token(project, role), "")
	}
	if a := get(access.Viewer, project, "documents?db=eight"); a.Status != 403 {
		t.Errorf("a viewer: %d %s", a.Status, a.Body)
	}
	if a := get(access.Operator, "shop", "documents?db=eight"); a.Status != 404 {
		t.Errorf("another project: %d %s", a.Status, a.Body)
	}
	if a := get(access.Viewer, project, "databases"); a.Status != 200 {
		t.Errorf("a viewer asks for databases: %d %s", a.Status, a.Body)
	}
	if a := get(access.Operator, project, "documents?db=eight"); a.Status != 200 {
		t.Errorf("an operator: %d %s", a.Status, a.Body)
	}
	if !strings.Contains(w.Audited(), `"documents.list"`) || !strings.Contains(w.Audited(), w.instance+"/eight") {
		t.Errorf("the audit log: %s", w.Audited())
	}
}

// An attachment of many MB comes whole, in bounded pieces; of an agent that is lost or silent meanwhile it ends in a sentence.
func TestLargeAttachment(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	must(t, c.Put("/large?q=1", nil, nil))
	data := make([]byte, 40<<20)
	_, _ = rand.Read(data)
	must(t, c.Put("/large/doc", map[string]any{"_attachments": map[string]any{"big": map[string]any{"content_type": "application/octet-stream", "data": data}}}, nil))
	w := newWorld(t, nil, c.DataDir)
	read := func(meanwhile func(in io.Reader) error) error {
		return w.without.AttachmentOf(t.Context(), w.who(), w.instance, states.State{}, "large", "doc", "", "big", func(_ contents.Attachment, in io.Reader) error {
			return meanwhile(in)
		})
	}
	must(t, read(func(in io.Reader) error {
		got, err := io.ReadAll(in)
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes", len(got))
		}
		return err
	}))
	lost := func(what string, lose func(), words string) *server.Error {
		t.Helper()
		began := time.Now()
		err := read(func(in io.Reader) error {
			if _, err := io.ReadFull(in, make([]byte, 1<<20)); err != nil {
				return err
			}
			lose()
			_, err := io.Copy(io.Discard, in)
			return err
		})
		var e *server.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, words) {
			t.Errorf("%s: %v", what, err)
		}
		if d := time.Since(began); d > 25*time.Second {
			t.Errorf("%s: after %v", what, d)
		}
		return e
	}
	silent := lost("silent", func() { w.proxy.set(true) }, "doesn't answer")
	if e := w.refused(server.Unavailable, "The agent db1", "doesn't answer"); e != silent { // it has said nothing since, and isn't asked again
		t.Errorf("a silent agent was asked again: %v", e)
	}
	w.proxy.set(false)
	servertest.Eventually(t, "the agent answers again", func() bool { return read(func(io.Reader) error { return nil }) == nil })
	lost("killed", func() { w.link.Close(); w.stop() }, "isn't connected")
	w.refused(server.Unavailable, "isn't connected")
}

// Many looks at once are answered or told to come again, and what is open is bounded.
func TestManyLooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, earlier(t), fixtures+"/data")
	var wait sync.WaitGroup
	var mu sync.Mutex
	fine := 0
	for i := range 60 {
		wait.Go(func() {
			d, err := w.without.Documents(t.Context(), w.who(), w.instance, states.State{Backup: w.backups[i%2]}, contents.DocumentsQuery{DB: "eight"})
			var e *server.Error
			if err != nil && (!errors.As(err, &e) || e.Kind != server.Unavailable && e.Kind != server.Busy) {
				t.Errorf("look %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil && len(d.Documents) > 0 {
				fine++
			}
		})
	}
	wait.Wait()
	if fine < 10 {
		t.Errorf("%d of 60 were answered", fine)
	}
	want, err := w.with.Moments(t.Context(), w.who(), w.instance, contents.MomentsQuery{})
	must(t, err)
	got, err := w.without.Moments(t.Context(), w.who(), w.instance, contents.MomentsQuery{})
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("moments are %+v, want %+v", got, want)
	}
}
