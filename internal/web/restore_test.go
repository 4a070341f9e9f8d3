package web_test

import (
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/web"
)

// is says a hello in which the player is a node of a cluster whose CouchDB runs, or doesn't.
func (p *player) is(up bool, node string, nodes ...string) {
	p.w.t.Helper()
	member := &job.Member{Node: node, Nodes: nodes, MapUUID: node}
	if err := servertest.Ask(p.w.t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, CanCreate: true, Moments: true, FreeBytes: 1 << 40,
		Instances: []job.Seen{{Up: up, Version: "3.5.0", Member: member}}}, nil); err != nil {
		p.w.t.Fatal(err)
	}
}

// field is the value of a hidden field.
func (a *shown) field(name string) string {
	a.t.Helper()
	m := regexp.MustCompile(`<input type="hidden" name="` + name + `" value="([^"]*)"`).FindStringSubmatch(a.body)
	if m == nil {
		a.t.Fatalf("there is no field %s: %s", name, a.body)
	}
	return html.UnescapeString(m[1])
}

// shownIn are the hidden fields of the form that confirms a plan, with more behind them.
func shownIn(a *shown, more ...string) (out []string) {
	_, form, _ := strings.Cut(a.body, `<form class="confirm`)
	form, _, _ = strings.Cut(form, "</form>")
	for _, m := range regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(form, -1) {
		if m[1] != "plan" || !slices.Contains(more, "plan") {
			out = append(out, m[1], html.UnescapeString(m[2]))
		}
	}
	return append(out, more...)
}

func restorePath(pairs ...string) string {
	v := url.Values{}
	for n := 0; n < len(pairs); n += 2 {
		v.Add(pairs[n], pairs[n+1])
	}
	return "/restore?" + v.Encode()
}

// A node comes back as a new instance: each step by its address, what is closed with why and the command, and nothing begins
// before the name is typed.
func TestRestoreToANewInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	b.get("/restore").has(200, "There is nothing to restore yet")
	p := w.play(`db1"><b>`)
	b.get(restorePath("of", p.Instance, "what", "all", "s", "latest")).has(200, "Nothing of", "is stored yet")
	backup := p.backup(func(r *job.Report) { r.Result.Damage = 2 })

	a := b.get("/restore")
	a.has(200, "Restore: what", "One database", "Documents")
	a.hasNot(`db1"><b>`, "ZgotmplZ", "<no value>")
	b.get(restorePath("of", p.Instance, "what", "db", "database", "")).has(200, "Name the database.")
	b.get(restorePath("of", p.Instance, "what", "db", "database", "UP")).has(200, "CouchDB gives no database such a name.")
	b.get(restorePath("of", "0189aaaa-0000-7000-8000-000000000000")).has(404)
	docs := b.get(restorePath("of", p.Instance, "what", "docs", "database", "orders", "s", backup))
	if to := docs.header.Get("Location"); docs.status != 303 || to != "/instances/"+p.Instance+"/moment?db=orders&s="+backup {
		t.Errorf("documents lead to %d %s", docs.status, to)
	}

	a = b.get(restorePath("of", p.Instance, "what", "all"))
	a.has(200, "Restore: when", "Recovery window", "Restore it…", "nightly")
	a.hasNot(`db1"><b>`, "ZgotmplZ", "<no value>", "style=")
	if !strings.Contains(a.body, "s="+backup) || a.field("what") != "all" {
		t.Error("a backup can't be chosen with the choices before")
	}
	b.get(restorePath("of", p.Instance, "what", "all", "s", p.Instance)).has(200, "That is no backup of", "that can be restored.")
	b.get(restorePath("of", p.Instance, "what", "all", "s", "tomorrow-ish")).has(200, "Restore: when", "is neither a backup nor a time")
	b.get(restorePath("of", p.Instance, "what", "all", "s", time.Now().Add(-100*24*time.Hour).UTC().Format(time.RFC3339))).has(200, "Nothing is stored of that moment")

	b.follow(b.get("/backups/"+backup+"/restore")).has(200, "Restore: the plan", "stays as it is")
	w.as(access.Viewer).get("/backups/" + backup + "/restore").has(403)
	place := restorePath("of", p.Instance, "what", "all", "s", backup)
	a = b.get(place)
	a.has(200, "Restore: where", "As a new instance", "In place of", "give it the setting node_name", "Choose where to")
	a.hasNot("<form class=\"confirm")
	b.get(place+"&where=place").has(200, "That is closed")

	plan := place + "&where=new&name=" + url.QueryEscape(evil)
	a = b.get(plan)
	a.has(200, "Restore: the plan", "Nothing has been done yet", "2 findings", "Its replications stay off", "stays as it is", "Type the new instance’s name, "+evil, "free")
	a.hasNot("<script>alert", "<img src", "ZgotmplZ")
	b.get(plan+"&volume=1").has(200, "The backup needs 2 GB, and the volume has 1.")
	if n := len(w.Server.Instances(caller(), false)); n != 1 {
		t.Fatalf("there are %d instances after looking", n)
	}
	b.post(plan, shownIn(a, "word", "yes")...).has(422, "That is not the new instance’s name. Nothing was begun.")
	b.post(plan+"&volume=1", "word", evil).has(422, "Nothing was begun.")
	b.post("/restore", "word", evil).has(422, "Choose first what is restored")
	w.as(access.Viewer).get(plan).has(403)
	w.as(access.Viewer).post(plan, "word", evil).has(403)
	stranger := w.open()
	stranger.signIn(w.Token("other", access.Operator))
	stranger.get(plan).has(404)
	stranger.post(plan, "word", evil).has(404)
	b.post(plan, "word", evil).has(422, "The plan was older than 15 min and was made anew. Nothing was begun.", "Now: From: the backup of")
	b.follow(b.post(plan, shownIn(a, "word", evil)...)).has(200, "is being made", "Restore to the new instance "+evil, "If you cancel", "Log", "Asked for by test.", "It waits for the agent db1")
	if !strings.Contains(w.Audited(), `"action":"instance.create","target":"`) || !strings.Contains(w.Audited(), `"outcome":"ok"`) {
		t.Errorf("audit log: %s", w.Audited())
	}

}

// A moment between backups becomes an instance of its own, and is had by commands where the service has no way, which the page says.
func TestRestoreAMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play("db1")
	p.history(3, 0)
	if _, err := w.Server.SetShipping(t.Context(), caller(), p.Instance, true, "7d"); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	if err := p.greet(t.Context(), &job.Shipping{Shipped: now, Chain: now.Add(-30 * time.Hour), Window: now.Add(-30 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	exact := now.Add(-25 * time.Hour).Truncate(time.Second).Format(time.RFC3339)
	b.get(restorePath("of", p.Instance, "what", "all", "s", exact)).has(200, "As a new instance", "give it the setting node_name")
	// What was taken in meanwhile from another node is shown here, and no moment of this one is behind it.
	taken, err := w.Server.AdoptBackup(t.Context(), caller(), server.Adoption{Name: "a", Location: "file:///backups/backups/db7/01890000-0000-7000-8000-000000000000/manifest.json.zst.age"})
	if err != nil {
		t.Fatal(err)
	}
	other := now.Add(-25*time.Hour - time.Minute)
	p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: taken.RepoID, Type: "full", Started: &other, Finished: &other}, Repository: &job.Repository{URL: "file:///backups", ID: "r1"}}
	servertest.Eventually(t, "it is taken in", func() bool {
		b, err := w.Server.Backup(t.Context(), caller(), taken.ID)
		return err == nil && b.Status == job.BackupRestored && b.Instance == p.Instance
	})
	plan := restorePath("of", p.Instance, "what", "all", "where", "new", "s", exact)
	a := b.get(plan)
	a.has(200, "Restore: the plan", "exact to the second", "and what was shipped behind it", "stays as it is")
	b.follow(b.post(plan, shownIn(a, "word", "db1-copy")...)).has(200, "is being made", "Restore to the new instance db1-copy")
	made := slices.DeleteFunc(w.Server.Instances(caller(), false), func(i *job.Instance) bool { return !i.Made })
	if len(made) != 1 || made[0].RestoredAt.Format(time.RFC3339) != exact || made[0].RestoredFrom == "" || made[0].RestoredFrom == taken.ID {
		t.Errorf("made: %+v", made)
	}
	b.get(restorePath("of", p.Instance, "what", "all", "where", "new", "s", now.Add(-40*time.Hour).Format(time.RFC3339))).has(200, "It is not to the second.", "Nothing was shipped of")
	a = b.get("/instances/" + p.Instance)
	if !strings.Contains(a.body, `href="/restore?of=`+p.Instance+`"`) || !strings.Contains(html.UnescapeString(a.body), `data-at="/restore?of=`+p.Instance+`&s="`) {
		t.Errorf("the instance page doesn't lead to the wizard: %s", a.body)
	}
	// An agent of a version before would restore the backup.
	if err := servertest.Ask(t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(), CanRead: true, CanCreate: true, FreeBytes: 1 << 40,
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, Instances: []job.Seen{{Up: true, Version: "3.5.0", Ship: &job.Shipping{Shipped: now, Chain: now.Add(-30 * time.Hour), Window: now.Add(-30 * time.Hour)}}}}, nil); err != nil {
		t.Fatal(err)
	}
	b.get(plan).has(200, "That is closed", "No agent that is online and has that repository makes instances of moments", "slipcover create db1-copy --instance", "--at "+exact)
	b.post(plan, "word", "db1-copy").has(422, "That is closed")
}

// together lets the players take a step of a restore, and holds which one it is.
func together(t *testing.T, players ...*player) {
	t.Helper()
	for _, p := range players {
		p.free <- job.Report{State: job.Done, Result: &job.Result{Notes: []string{evil}}}
	}
}

// playCluster joins the agents of a cluster's nodes, each with a backup.
func (w *world) playCluster(nodes ...string) (players []*player) {
	w.t.Helper()
	for n, node := range nodes {
		p := w.play(fmt.Sprintf("db%d", n+1))
		p.is(true, node, nodes...)
		p.backup()
		players = append(players, p)
	}
	return players
}

// A database of a cluster comes into it again beside what is there, by the agents of all nodes.
func TestRestoreADatabaseBeside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	players := w.playCluster("couchdb@a", "couchdb@b")
	clusters := w.Server.Clusters(caller(), false)
	if len(clusters) != 1 {
		t.Fatalf("there are %d clusters", len(clusters))
	}
	key := "cluster/" + project + "/" + clusters[0].Name
	b.get("/restore").has(200, "the cluster "+clusters[0].Name+", 2 nodes")
	b.get(restorePath("of", players[0].Instance, "what", "db", "database", "orders", "s", "latest")).has(200, "is one node of a cluster, and has not every range", "Take it out of the cluster")
	b.get(restorePath("of", key, "what", "docs", "database", "orders")).has(200, "choose one of the cluster’s instances", "Restore: what")
	b.get(restorePath("of", key, "what", "db", "database", "orders")).has(200, "Restore: when", "the newest good backup of each node")
	place := restorePath("of", key, "what", "db", "database", "orders", "s", "newest")
	b.get(place).has(200, "In place of the database orders Closed: Of a cluster’s nodes some would answer out of the old files for a while")
	b.get(place+"&where=beside&as=_users").has(200, "is a system database")
	b.get(place+"&where=beside&as=UP").has(200, "CouchDB gives no database such a name")
	plan := place + "&where=beside&as=orders-then"
	a := b.get(plan)
	a.has(200, "Restore: the plan", "The database orders of "+clusters[0].Name, "on couchdb@a, couchdb@b", "Type the new database’s name, orders-then", "there as a whole or not at all", "accept_restores")
	text := a.field("plan")
	b.post(plan, shownIn(a, "word", "orders")...).has(422, "That is not the new database’s name. Nothing was begun.")
	if again := b.post(plan, shownIn(a, "word", "orders")...); again.field("plan") != text {
		t.Error("another plan is shown than was read")
	}
	b.post(plan, shownIn(a, "plan", "x: 1", "word", "orders-then")...).has(422, "Nothing was begun.")
	if n := len(w.Server.Restores(caller())); n > 0 {
		t.Fatalf("%d restores were begun", n)
	}
	begun := b.post(plan, shownIn(a, "plan", strings.ReplaceAll(text, "\n", "\r\n"), "word", "orders-then")...)
	to := begun.header.Get("Location")
	b.follow(begun).has(200, "The restore was begun.", "Restore of orders as orders-then", "Looking whether it can be done", "Nothing is written yet", "couchdb@a", "db1")
	r := w.Server.Restores(caller())[0]
	if r.DB != "orders" || r.As != "orders-then" || strings.Contains(r.Plan, "\r") || r.Plan != text {
		t.Errorf("it is %+v", r)
	}
	if !strings.Contains(w.Audited(), `"action":"restore.start","target":"`+r.ID+`","outcome":"ok"`) {
		t.Errorf("audit log: %s", w.Audited())
	}
	b.get("/jobs").has(200, "Restore of orders-then on couchdb@a: looking whether it can be done")
	servertest.Eventually(t, "a step says how far it is", func() bool { return strings.Contains(b.get(to).body, "<title>40 %: Restore of orders as orders-then") })
	together(t, players...)
	servertest.Eventually(t, "the files are made", func() bool { return strings.Contains(b.get(to).text(), "Copying files, 40 %") })
	b.get(to).has(200, "If you cancel, the files go again on all nodes", "Cancel…", "Log", "Asked for by test.", "Restoring files: couchdb@a by the agent db1, couchdb@b by the agent db2.")
	w.as(access.Viewer).get(to).hasNot("Cancel…")
	together(t, players[0])
	players[1].free <- job.Report{State: job.Failed, Fault: evil}
	together(t, players...) // they take it away
	servertest.Eventually(t, "it fails", func() bool { return strings.Contains(b.get(to).body, "Begin it again") })
	a = b.get(to)
	a.has(200, "Failed", "Nothing of the database is left in the cluster", evil)
	a.hasNot("<script>alert", "<img src")
	w.as(access.Viewer).get(to).hasNot("Begin it again")
	w.as(access.Viewer).post(to + "/again").has(403)
	w.as(access.Viewer).post(to + "/cancel").has(403)
	b.follow(b.post(to+"/cancel")).has(200, "can't be cancelled. It has ended already.")
	b.follow(b.post(to+"/again")).has(200, "It was begun again.", "attempt 2")
	b.get(to+"/cancel").has(200, "Cancel: Restore of orders as orders-then", "Nothing is written yet, and nothing will be if you cancel.", "Let it go on")
	b.follow(b.post(to+"/cancel")).has(200, "It is being cancelled.", "Cancelled by test. Nothing was written.", "It was cancelled", "Begin it again", "couchdb@a failed: cancelled by test.")
	if !strings.Contains(w.Audited(), `"action":"restore.cancel"`) {
		t.Errorf("audit log: %s", w.Audited())
	}
	stranger := w.open()
	stranger.signIn(w.Token("other", access.Operator))
	stranger.get(to).has(404)
	stranger.post(to + "/again").has(404)
	stranger.post(to + "/cancel").has(404)
	stranger.get(to + "/cancel").has(404)
	stranger.get(place).has(404)
}

// A cluster comes back onto other nodes, by a plan that is made here or by one of the reader's own.
func TestRestoreACluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	players := w.playCluster("couchdb@a", "couchdb@b")
	cluster := w.Server.Clusters(caller(), false)[0].Name
	lone := w.play("lone")
	b.get("/").has(200, cluster+" cluster of 2. No backup of all nodes at one moment yet. Back up the cluster now", "Single nodes")
	w.as(access.Viewer).get("/").hasNot("Back up the cluster now")
	w.as(access.Viewer).post("/clusters/" + project + "/" + cluster + "/backup").has(403)
	b.post("/clusters/other/" + cluster + "/backup").has(404)
	b.post("/clusters/" + project + "/nothing/backup").has(404)
	b.get("/?q="+cluster+"+couchdb").has(200, "Nothing is found for")
	b.get("/?q=lone").hasNot("Single nodes", "Back up the cluster now")
	set, err := w.Server.CreateSet(t.Context(), caller(), server.NewSet{Cluster: cluster, Name: evil})
	if err != nil {
		t.Fatal(err)
	}
	key := "cluster/" + project + "/" + cluster
	ofSet := restorePath("of", key, "what", "all", "s", set.ID)
	b.get(ofSet).has(200, "Restore: when", "No node of "+cluster+" can be had back so")
	end := time.Now().UTC()
	players[0].free <- job.Report{State: job.Done, Result: &job.Result{RepoID: set.Backups[0].ID, Size: 1 << 30, Started: &end, Finished: &end}, Repository: &job.Repository{URL: "file:///backups", ID: "r1"}}
	players[1].free <- job.Report{State: job.Failed, Fault: evil}
	servertest.Eventually(t, "the set is made", func() bool { return w.Server.Sets(caller(), server.SetFilter{})[0].State == server.SetPartial })
	a := b.get(restorePath("of", key, "what", "all"))
	a.has(200, "Partial", "couchdb@b: it failed: "+evil, "the newest good backup of each node")
	a.hasNot("<script>alert", "<img src", "ZgotmplZ")
	b.get(ofSet).has(200, "Restore: where")
	a = b.get("/sets/" + set.ID)
	a.has(200, evil, "Partial", "Failed it failed: "+evil, "Nodes with a backup 1 of 2", "Restore…", "db1")
	a.hasNot("<script>alert", "<img src", "ZgotmplZ")
	stranger := w.open()
	stranger.signIn(w.Token("other", access.Operator))
	stranger.get("/sets/" + set.ID).has(404)
	stranger.post("/clusters/" + project + "/" + cluster + "/backup").has(404)
	a = b.get("/")
	a.has(200, "Newest set:", "Partial", "couchdb@b: it failed: "+evil)
	a.hasNot("<script>alert", "<img src")
	b.get("/instances/"+players[0].Instance).has(200, "Sets of the cluster "+cluster, "Partial")
	b.get("/instances/" + lone.Instance).hasNot("Sets of the cluster")

	begun := b.post("/clusters/" + project + "/" + cluster + "/backup")
	b.follow(begun).has(200, "The backup of all nodes was begun.", "Being made", "0 of 2")
	if !strings.Contains(w.Audited(), `"action":"cluster.backup","target":"`+cluster+`","outcome":"ok"`) {
		t.Errorf("audit log: %s", w.Audited())
	}
	b.follow(b.post("/clusters/"+project+"/"+cluster+"/backup")).has(200, "can be backed up now")
	for _, p := range players {
		p.free <- job.Report{State: job.Failed, Fault: "why"}
	}

	place := restorePath("of", key, "what", "all", "s", "newest")
	b.get(place).has(200, "No agent can take it", "db1: CouchDB runs there", "A new instance is one node", "Closed: CouchDB on db1 is running. Stop it there, then this opens by itself.")
	until := b.stream(place)
	until("No agent can take it")
	for _, name := range []string{"new1", "new2"} {
		w.play(name).idle()
	}
	until("as many as there were; all together")
	if lone.is(true, "couchdb@lone", "couchdb@lone"); len(w.Server.Clusters(caller(), false)) != 1 {
		t.Error("a node that is alone is a cluster")
	}
	onto := func(agents ...string) string {
		return place + "&where=onto&nodename=couchdb%40c&nodeagent=" + agents[0] + "&nodename=&nodeagent=" + agents[1]
	}
	b.get(place+"&where=onto").has(200, "db1 (CouchDB runs there)", "Choose the agent that restores couchdb@a.")
	b.get(onto("new1", "new1")).has(200, "The agent new1 can be one node only.")
	b.get(onto("new1", "db2")).has(200, "Refused: db2 can’t take it: CouchDB runs there.")
	b.get(onto("new1", "<b>")).has(200, "There is no agent <b>.")
	a = b.get(ofSet + strings.TrimPrefix(onto("new1", "new2"), place))
	a.has(200, "Not every node comes back.", "couchdb@b: it failed")
	a.hasNot("<script>alert")
	good := onto("new1", "new2")
	a = b.get(good)
	a.has(200, "The data directories of couchdb@c, couchdb@b", "Every replication and phone starts over.", "accept_restores", "Type the name of what is restored, "+cluster)
	begun = b.post(good, shownIn(a, "word", cluster)...)
	b.follow(begun).has(200, "Restore of "+cluster, "Onto 2 nodes", "new1", "new2", "name: couchdb@c", "as: couchdb@a")
	if r := w.Server.Restores(caller())[0]; r.DB != "" || r.Nodes[0].AgentName != "new1" || r.Nodes[1].AgentName != "new2" {
		t.Errorf("it is %+v", r)
	}
	b.get("/restore").has(200, "Restores by several agents", "Restore of "+cluster)

	// By a plan of the reader's own: shown first, then begun.
	paste := place + "&where=plan"
	b.get(paste).has(200, "slipcover cluster plan --out plan.yml", "Agents, one a line")
	b.post(paste, "plan", "x: 1", "agents", "").has(422, "The plan can't be carried out")
	own := strings.ReplaceAll(a.field("plan"), "couchdb@c", "couchdb@d")
	b.post(paste, "plan", own, "agents", "couchdb@d").has(422, "Write each agent as NODE=AGENT")
	b.post(paste, "plan", own, "agents", "couchdb@d=new1\ncouchdb@b=new2").has(422, "couchdb@d, by the agent new1, in the place of couchdb@a", "Type "+cluster+" to confirm")
	b.post(paste, "plan", own, "agents", "couchdb@d=new1", "word", cluster).has(422, "The plan's node couchdb@b has no agent")
	b.follow(b.post(paste, "plan", own, "agents", "couchdb@d=new1\ncouchdb@b=new2", "word", cluster)).has(200, "The restore was begun.", "name: couchdb@d")
}

// idle says a hello of a machine on which no CouchDB runs.
func (p *player) idle() {
	p.w.t.Helper()
	if err := servertest.Ask(p.w.t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(),
		Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, Instances: []job.Seen{{}}}, nil); err != nil {
		p.w.t.Fatal(err)
	}
}

// A database of a CouchDB that runs and is alone is exchanged, and all of one that is stopped; each is closed while the other is open.
func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play("lone")
	p.is(true, "couchdb@lone", "couchdb@lone")
	p.backup()
	db := restorePath("of", p.Instance, "what", "db", "database", "orders", "s", "latest") + "&where=place"
	all := restorePath("of", p.Instance, "what", "all", "s", "latest") + "&where=place"
	b.get(all).has(200, "That is closed", "Closed: CouchDB on lone is running. Stop it there, then this opens by itself.")
	a := b.get(db)
	a.has(200, "Restore: the plan", "In place of the database orders of lone", "of changes leave orders.", "accept_restores and accept_writes", "Confirm: exchange the living database orders")
	if !strings.Contains(a.body, `<form class="confirm" `) {
		t.Error("what takes something living away looks calm")
	}
	b.post(db, shownIn(a, "word", "lone")...).has(422, "That is not the database’s name. Nothing was begun.")
	begun := b.post(db, shownIn(a, "word", "orders")...)
	b.follow(begun).has(200, "Restore in place of orders")
	if r := w.Server.Restores(caller())[0]; !r.Replace || r.DB != "orders" || r.As != "orders" || r.Nodes[0].AgentName != "lone" {
		t.Errorf("it is %+v", r)
	}
	p.is(false, "couchdb@lone", "couchdb@lone")
	b.get(db).has(200, "That is closed", "CouchDB does not answer on lone")
	a = b.get(all)
	a.has(200, "In place of what is in the data directories of couchdb@lone", "DATA.before-TIME", "Confirm: exchange all of lone")
	b.follow(b.post(all, shownIn(a, "word", "lone")...)).has(200, "Restore in place of lone", "Onto 1 node")
	if r := w.Server.Restores(caller())[0]; !r.Replace || r.DB != "" {
		t.Errorf("it is %+v", r)
	}
}

// A plan can be confirmed for 15 minutes. Later, or when another backup is the newest, it is made anew, and says what changed.
func TestAPlanHasAnEnd(t *testing.T) {
	t.Parallel()
	var late atomic.Int64
	w := newWorld(t, func(o *web.Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) } })
	b := w.as(access.Operator)
	p := w.play("db1")
	p.backup()
	plan := restorePath("of", p.Instance, "what", "all", "s", "latest", "where", "new", "name", "copy")
	began := time.Now()
	first := b.get(plan)
	made, err := strconv.ParseInt(first.field("made"), 10, 64)
	if at := time.Unix(made, 0); err != nil || at.Before(began.Truncate(time.Second)) || at.After(time.Now()) {
		t.Errorf("it was made at %v, %v", at, err)
	}
	first.has(200, "The plan holds until "+time.Unix(made, 0).Add(15*time.Minute).Format("15:04"))
	late.Store(int64(16 * time.Minute))
	a := b.post(plan, shownIn(first, "word", "copy")...)
	a.has(422, "The plan was older than 15 min and was made anew. Nothing was begun.", "Nothing that it says has changed meanwhile.")

	// Another backup, with damage.
	p.backup(func(r *job.Report) { r.Result.Damage = 1 })
	a = b.post(plan, shownIn(a, "word", "copy")...)
	a.has(422, "Another backup is the newest by now", "Now: The backup holds damage of its source: 1 finding.")
	a.hasNot("No longer: The backup holds damage")
	for what, made := range map[string]string{"nothing": "", "words": "soon", "a time to come": fmt.Sprint(time.Now().Add(time.Hour).Unix())} {
		if got := b.post(plan, "made", made, "backup", a.field("backup"), "seen", evil, "word", "copy"); got.status != 422 || !strings.Contains(got.text(), "No longer: "+evil) {
			t.Errorf("made at %s: %d %s", what, got.status, got.text())
		} else {
			got.hasNot("<script>alert")
		}
	}
	if n := len(w.Server.Instances(caller(), false)); n != 1 {
		t.Fatalf("%d instances", n)
	}
	b.follow(b.post(plan, shownIn(a, "word", "copy")...)).has(200, "is being made")
}

// What stands in the way is said for each place: too little room, another repository, an agent that is silent.
func TestRestoreStandsInTheWay(t *testing.T) {
	t.Parallel()
	var later atomic.Int64
	began := time.Now()
	w := newWorldOf(t, server.Config{Quota: job.Quota{Instances: -1, Backups: -1, Volumes: -1}, Watch: func() time.Duration { return time.Since(began) + time.Duration(later.Load()) }})
	b := w.as(access.Operator)
	p := w.play("db1")
	p.is(false, "couchdb@a", "couchdb@a")
	id := p.backup()
	hello := func(p *player, free int64, repo string) {
		t.Helper()
		if err := servertest.Ask(t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(), CanRead: true, CanCreate: true, Moments: true, FreeBytes: free,
			Repository: job.Repository{URL: "file:///elsewhere", ID: repo}, Instances: []job.Seen{{Member: &job.Member{Node: "couchdb@a", Nodes: []string{"couchdb@a"}, MapUUID: "a"}}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	place := restorePath("of", p.Instance, "what", "all", "s", id)
	other := w.play("other")
	hello(other, 1<<40, "r2")
	hello(p, 1<<30, "r1")
	a := b.get(place + "&where=new")
	a.has(200, "Refused before anything was written. 2.15 GB needed on db1, 1.07 GB free. Free 1.07 GB there, or choose another agent.")
	a.hasNot("<form class=\"confirm")
	b.post(place+"&where=new", "word", "db1-copy").has(422, "Refused before anything was written.", "Nothing was begun.")
	b.get(place+"&where=onto&nodeagent=other").has(200, "Refused: other can’t take it: it has another repository.")
	b.post(place+"&where=onto&nodeagent=other", "word", "db1").has(422, "Nothing was begun.")
	if n := len(w.Server.Restores(caller())); n > 0 {
		t.Errorf("%d restores were begun", n)
	}
	later.Store(int64(time.Hour))
	b.get(place).has(200, "No agent can take it: db1: it is silent; other: it is silent.", "No agent that is online and has that repository makes instances", "The agent of db1 is silent: start it, then this opens by itself.")
}
