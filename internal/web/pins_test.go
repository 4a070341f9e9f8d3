package web_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// pinning waits until no job is at work on a backup's pin, and the last one is known to be over, which it is after that.
func (w *world) pinning(id string) {
	w.t.Helper()
	servertest.Eventually(w.t, "the pin is as it was asked for", func() bool {
		b, err := w.Server.Backup(w.t.Context(), caller(), id)
		return err == nil && b.Pinning == "" && !slices.ContainsFunc(w.Server.Jobs(caller()), func(j *job.Job) bool { return j.Backup == id && !j.State.Ended() })
	})
}

// A backup is pinned for a reason, shown as pinned wherever it is, not deleted, and unpinned.
func TestPinPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play("db1")
	ids := p.history(4, 1)
	first := ids[1]
	home, path := "/instances/"+p.Instance, "/backups/"+first
	a := b.get(home)
	a.has(200, "More", "Prove now", "Pin…", "asks for the reason", "Restore to a new instance…", "Delete…", "Frees at most 33.6 MB")
	a.hasNot("ZgotmplZ", "<no value>", `href="#m-pin" data-a`)
	viewer := w.as(access.Viewer).get(home)
	viewer.has(200, "Recovery window")
	viewer.hasNot("popovertarget=\"more-")
	for _, path := range []string{path + "/pin", path + "/delete"} {
		w.as(access.Viewer).get(path).has(403)
	}
	w.as(access.Viewer).post(path+"/pin", "reason", "x").has(403)
	w.as(access.Viewer).post(path + "/unpin").has(403)

	b.get(path).has(200, "Pin…", "Delete…")
	b.get(path+"/pin").has(200, "Pin backup", "No retention and no deletion removes it", "it added 33.6 MB", "Why")
	b.post(path+"/pin", "reason", "  ").has(422, "Say why, in one line")
	b.follow(b.post(path+"/pin", "reason", evil)).has(200, "From now on nothing here deletes it", "It is being pinned", "Open the job")
	b.get(path+"/delete").has(200, "can't be deleted now", "Refused:", "is being pinned or unpinned")
	b.get(home).has(200, "It is being pinned: the job says how far that is", "Refused: it is pinned")
	b.get("/jobs").has(200, "Pin of a backup of db1")
	p.free <- job.Report{State: job.Done}
	w.pinning(first)

	for _, page := range []string{path, home, "/backups", "/space?i=" + p.Instance, path + "/delete"} {
		a := b.get(page)
		a.has(200, evil)
		a.hasNot("<script>alert", "<img src", "ZgotmplZ", "<no value>")
	}
	a = b.get(home)
	a.has(200, "pinned: "+evil, "Unpin", "Unpinned, retention decides about it again")
	if !strings.Contains(a.body, "4 backups, 1 with damage of the source, 1 pinned") {
		t.Error("who hears the time line isn't told of the pin")
	}
	if n := strings.Count(a.body, `href="#m-pin" data-a`); n != 1 {
		t.Errorf("%d signs of a pin are drawn, want 1", n)
	}
	a = b.get(path + "/delete")
	a.has(200, "can't be deleted now", "Refused:", "pinned and stays: "+evil, "Unpin nightly", "frees at most")
	a.hasNot(`name="word"`)
	b.post(path+"/delete", "word", "nightly").has(422, "pinned and stays")
	b.get(path).has(200, "Pinned since", "Nothing deletes it until it is unpinned", "Change the reason…")
	b.follow(b.post(path+"/unpin")).has(200, "is being unpinned")
	b.follow(b.post(path+"/unpin")).has(200, "try again when the job")
	p.free <- job.Report{State: job.Failed, Fault: "the storage says no"}
	w.pinning(first)
	b.get(path).has(200, "Pinned since")
	b.get("/jobs").has(200, "Unpin of a backup of db1", "the storage says no")
	b.post(path + "/unpin")
	p.free <- job.Report{State: job.Done}
	w.pinning(first)
	b.get(path).hasNot("Pinned since")
	b.get(path+"/delete").has(200, "Nothing depends on it", "Type nightly to go on")
	b.get("/backups/"+ids[3]+"/delete").has(200, "It is the newest good backup of db1", "Without it the one before")
	for _, action := range []string{"backup.pin", "backup.unpin"} {
		if !strings.Contains(w.Audited(), `"action":"`+action+`","target":"`+first+`","outcome":"ok"`) {
			t.Errorf("the audit log lacks %s of %s: %s", action, first, w.Audited())
		}
	}
}

// A set goes as a whole from its page, and not if one of its backups is pinned.
func TestSetDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	nodes := []string{"couchdb@a", "couchdb@b"}
	players := []*player{w.play("db1"), w.play("db2")}
	for n, p := range players {
		p.is(true, nodes[n], nodes...)
	}
	i, err := w.Server.CreateSet(t.Context(), caller(), server.NewSet{Cluster: "a", Name: "weekly"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range players {
		p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: p.Instance, Type: "full", Stored: 1 << 20}, Repository: &job.Repository{URL: "file:///backups", ID: "r1"}}
	}
	servertest.Eventually(t, "the set is whole", func() bool {
		i, err = w.Server.Set(t.Context(), caller(), i.ID)
		return err == nil && i.State == server.SetWhole
	})
	path, member := "/sets/"+i.ID, i.Backups[0]
	one := b.get("/backups/" + member.ID + "/delete")
	one.has(200, "can't be deleted now", "restored as one, and goes as one", "Delete its set…", "It is of the set weekly")
	b.get("/backups/"+member.ID+"/pin").has(200, "All of its set stays with it", "the 2 backups of weekly")
	if _, err := w.Server.Pin(t.Context(), caller(), member.ID, "before the upgrade"); err != nil {
		t.Fatal(err)
	}
	players[0].free <- job.Report{State: job.Done}
	w.pinning(member.ID)
	b.get(path).has(200, "Delete…", "pinned, so all of the set stays: before the upgrade")
	b.get(path+"/delete").has(200, "can't be deleted now", "before the upgrade", "Unpin "+member.Name)
	b.post(path+"/delete", "word", "weekly").has(422, "before the upgrade")
	if _, err := w.Server.Unpin(t.Context(), caller(), member.ID); err != nil {
		t.Fatal(err)
	}
	players[0].free <- job.Report{State: job.Done}
	w.pinning(member.ID)
	w.as(access.Viewer).get(path).hasNot("Delete…")
	w.as(access.Viewer).get(path + "/delete").has(403)
	b.get(path+"/delete").has(200, "All backups of the set weekly", "It is the only whole set of", "frees at most 2.10 MB", "Type weekly to go on")
	b.post(path+"/delete", "word", "week").has(422, "That is not the name of the set. Nothing was deleted.")
	b.follow(b.post(path+"/delete", "word", "weekly")).has(200, "The set weekly is being deleted.")
	if !strings.Contains(w.Audited(), `"action":"set.delete","target":"`+i.ID+`","outcome":"ok"`) {
		t.Errorf("audit log: %s", w.Audited())
	}
}

// What a node doesn't accept is closed before anything is asked of it, with how it is opened; of an agent that doesn't say it
// isn't.
func TestWhatNodesAccept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play("db1")
	said := 0
	says := func(up bool, restores *bool, writes bool) {
		t.Helper()
		said++
		h := job.Hello{Session: agentIs, Number: int64(said), Version: "slipcover test", Host: "h", Recipient: p.Recipient(), Restores: restores, Writes: writes,
			Repository: job.Repository{URL: "file:///backups", ID: "r1"}, CanRead: true, Instances: []job.Seen{{Up: up, Version: "3.5.0", Member: &job.Member{Node: "couchdb@a"}}}}
		if err := servertest.Ask(t.Context(), p.link, job.VerbHello, h, nil); err != nil {
			t.Fatal(err)
		}
	}
	says(false, nil, false)
	p.backup(func(r *job.Report) { r.Result.Node = "couchdb@a" })
	all := restorePath("of", p.Instance, "what", "all", "s", "latest")
	db := restorePath("of", p.Instance, "what", "db", "database", "orders", "s", "latest")
	const restores, writes, both = "set accept_restores: true in its slipcover.yml", "set accept_writes: true in its slipcover.yml", "set accept_restores: true and accept_writes: true in"
	for _, c := range []struct {
		name     string
		restores *bool
		writes   bool
		agents   string
		all, db  []string // that the pages have
		not      string
	}{
		{"unknown", nil, false, "it doesn’t say", nil, nil, "accept_restores: true"},
		{"nothing", new(false), false, "no restores, no writes", []string{restores, both}, []string{restores, both}, ""},
		{"restores", new(true), false, "accept_writes: true in its slipcover.yml would allow writes", []string{writes}, []string{writes}, restores},
		{"writes", new(false), true, "accept_restores: true in its slipcover.yml would allow restores", []string{restores}, []string{restores}, writes},
		{"both", new(true), true, "restores, writes", nil, nil, "in its slipcover.yml and start"},
	} {
		says(false, c.restores, c.writes)
		a := b.get(all)
		a.has(200, c.all...)
		says(true, c.restores, c.writes)
		d := b.get(db)
		d.has(200, c.db...)
		if c.not != "" {
			a.hasNot(c.not)
			d.hasNot(c.not)
		}
		b.get("/agents").has(200, c.agents)
		if t.Failed() {
			t.Fatalf("of a node that accepts %s", c.name)
		}
	}
}
