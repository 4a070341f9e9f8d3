package server_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// What an agent says is kept in bounds.
func TestAnAgentThatLies(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p, other := join(t, s, "db1", "p"), join(t, s, "db2", "q")
	long := strings.Repeat("x\x1b[2J\n", 10000)
	h := job.Hello{Session: p.session, Host: long, Version: long, Address: long, Recipient: long, FreeBytes: -1, Repository: job.Repository{URL: long, ID: "repo-1", Storage: long}}
	for range 2000 {
		h.Instances = append(h.Instances, job.Seen{Instance: other.node, Up: true, Version: "evil", UsedBytes: 7})
	}
	h.Instances[0].Instance, h.Instances[0].Version, h.Instances[0].UsedBytes = p.node, "3.5.0'; DROP", -5
	ask[job.HelloReply](p, job.VerbHello, h)
	h.Session = "s2"
	p.session = "s2"
	ask[job.HelloReply](p, job.VerbHello, h)
	var a job.Agent
	get(t, b, "agents", p.id, &a)
	if len(a.Hello.Host) > 300 || strings.ContainsAny(a.Hello.Host, "\x1b\n") || len(a.Hello.Instances) > 1000 || a.Recipient != p.key.Recipient().String() || a.Hello.FreeBytes != 0 {
		t.Errorf("stored of a hello: host of %d bytes, %d instances, recipient %.20s, %d bytes free", len(a.Hello.Host), len(a.Hello.Instances), a.Recipient, a.Hello.FreeBytes)
	}
	i, err := s.Instance(t.Context(), who("q"), other.node)
	if err != nil || i.CouchDBVersion == "evil" || s.Live(i).UsedBytes == 7 {
		t.Errorf("another's instance: %+v, %v", i, err)
	}
	if len(s.Datastores()[0].Versions) != 1 {
		t.Errorf("versions: %+v", s.Datastores()[0].Versions)
	}
	for range 3 {
		if _, err := s.CreateBackup(t.Context(), who("p"), server.NewBackup{Name: "n", Instance: p.node}); err != nil {
			t.Fatal(err)
		}
		d, _ := p.next()
		r := made("r1")
		r.Job, r.Result.Size, r.Result.Stored, r.At.Bytes = d.Job, math.MinInt64, math.MaxInt64, -1
		r.Result.LocationRef, r.CouchDBVersion, r.Repository.Storage = long, long[:90], "https://elsewhere"
		for range 200 {
			r.Result.Notes = append(r.Result.Notes, long[:1500])
		}
		if v := p.report(r); v != job.Go {
			t.Fatal(v)
		}
	}
	page, _ := s.Backups(who("p"), server.BackupFilter{Limit: 1})
	switch got := page[0]; {
	case got.Status != job.BackupCompleted, got.Size != 0, got.Stored < 0, len(got.Notes) > 50, len(got.Notes[0]) > 1000, strings.ContainsAny(got.Notes[0]+got.LocationRef, "\x1b\n"),
		len(got.LocationRef) > 4096, got.CouchDBVersion != i.CouchDBVersion && got.CouchDBVersion != "3.5.0", got.Repository.Storage != "":
		t.Errorf("stored of a report: %+v", got)
	}
}

// What is stored under a name is of the project whose node has or had it.
func TestStoredBackupsOfOtherProjects(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	join(t, s, "db2", "q")
	const id = "0199aaaa-0000-7000-8000-000000000001"
	ctx := t.Context()
	adoption := server.Adoption{Name: "n", Location: "file:///backups/backups/db1/" + id + "/manifest.json.zst.age"}
	if _, err := s.AdoptBackup(ctx, who("q"), adoption); kindOf(err) != server.NotFound {
		t.Errorf("a backup of another project's node: %v, want NotFound", err)
	}
	mine := backUp(t, s, p, "p", id, server.NewBackup{})
	again, err := s.AdoptBackup(ctx, who("p"), adoption)
	if err != nil {
		t.Fatal(err)
	}
	p.do(job.KindAdopt, made(id))
	if err := s.DeleteBackup(ctx, who("p"), again.ID); err != nil { // of two of one stored backup
		t.Fatal(err)
	}
	for _, j := range s.Jobs(who("p")) {
		if j.Kind == job.KindDeleteBackup {
			t.Errorf("what another backup needs is removed: %+v", j)
		}
	}
	if err := s.DeleteInstance(ctx, who("p"), p.node); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AdoptBackup(ctx, who("q"), adoption); kindOf(err) != server.NotFound {
		t.Errorf("a backup of another project: %v, want NotFound", err)
	}
	if _, err := s.Join(ctx, server.Joining{Name: "db1", Project: "q", PublicKey: "UX"}); kindOf(err) != server.Conflict {
		t.Errorf("a node by the name of another project's backups: %v, want Conflict", err)
	}
	if err := s.DeleteBackup(ctx, who("p"), mine.ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	for _, bad := range []string{"../db1/" + id, "db9/../db1/" + id, "db1/r1", "db1/" + strings.ToUpper(id)} {
		adoption.Location = "file:///backups/backups/" + bad + "/manifest.json.zst"
		if _, err := s.AdoptBackup(ctx, who("q"), adoption); kindOf(err) != server.Invalid {
			t.Errorf("%s: %v, want Invalid", bad, err)
		}
	}
}

// A stored backup is looked for where its node's agent keeps its own: a folder of one name is
// on each machine.
func TestAdoptionAsksTheAgentThatHasTheBackup(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	agents := map[string]*player{}
	for _, name := range []string{"db1", "db2", "db3", "db4", "db5", "db6"} {
		agents[name] = join(t, s, name, "p")
	}
	adopts := func(name string) string {
		t.Helper()
		b, err := s.AdoptBackup(t.Context(), who("p"), server.Adoption{Name: "n", Location: "file:///backups/backups/" + name + "/" + uuid.Must(uuid.NewV7()).String() + "/manifest.json.zst.age"})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range s.Jobs(who("p")) {
			if j.Backup == b.ID {
				return j.Agent
			}
		}
		t.Fatalf("no job for %s", b.ID)
		return ""
	}
	for name, p := range agents {
		if got := adopts(name); got != p.id {
			t.Errorf("a backup of %s is looked for by the agent %s, want %s", name, got, p.id)
		}
	}
	if got := adopts("gone"); got != agents["db1"].id {
		t.Errorf("a backup of a node that is gone is looked for by the agent %s, want the first, %s", got, agents["db1"].id)
	}
}

// Who is no administrator takes the place of no agent: not of one that is offline, not of one
// whose node was let go, and of two that join at once, at two servers, one is let in.
func TestMembersReplaceNoAgent(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	var late lags
	s1, s2 := start(t, b, server.Config{}), startOver(t, b, server.Config{}, late.wrap)
	ctx := t.Context()
	joining := func(admin bool) server.Joining {
		keys := servertest.NewKeys(t)
		return server.Joining{Name: "db1", Project: "p", PublicKey: keys.Public, Recipient: keys.Recipient(), Admin: admin}
	}
	is := func(s *service, want, why string) {
		t.Helper()
		if l := s.Agents(); len(l) != 1 || l[0].ID != want {
			t.Errorf("%s: the agents are %+v, want %s", why, l, want)
		}
	}
	release := late.hold(t)
	first, err := s1.Join(ctx, joining(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s2.Join(ctx, joining(false)); kindOf(err) != server.Conflict {
		t.Errorf("at a server that doesn't know yet: %v, want Conflict", err)
	}
	release()
	for _, s := range []*service{s1, s2} {
		hears(t, s)
		is(s, first.AgentID, "after two joins")
	}
	if _, err := s1.Join(ctx, joining(false)); kindOf(err) != server.Conflict { // it never said hello
		t.Errorf("in the place of one that is offline: %v, want Conflict", err)
	}
	if err := s1.DeleteInstance(ctx, who("p"), first.Instance); err != nil {
		t.Fatal(err)
	}
	if _, err := s1.Join(ctx, joining(false)); kindOf(err) != server.Conflict {
		t.Errorf("in the place of one whose node was let go: %v, want Conflict", err)
	}
	is(s1, first.AgentID, "after the refusals")
	again, err := s1.Join(ctx, joining(true))
	if err != nil {
		t.Fatal(err)
	}
	is(s1, again.AgentID, "by an administrator")
	if err := s1.RemoveAgent(ctx, again.AgentID); err != nil {
		t.Fatal(err)
	}
	if _, err := s1.Join(ctx, joining(false)); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
}

// Of two projects that join a node by one name at once, at two servers, one gets it.
func TestOneNameForTwoProjects(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	var late lags
	s1, s2 := start(t, b, server.Config{}), startOver(t, b, server.Config{}, late.wrap)
	late.hold(t)
	_, public, err := bus.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	join(t, s1, "db1", "p")
	if _, err := s2.Join(t.Context(), server.Joining{Name: "db1", Project: "q", PublicKey: public}); kindOf(err) != server.Conflict {
		t.Errorf("%v, want Conflict", err)
	}
	servertest.Eventually(t, "no agent is left", func() bool { return len(s1.Agents()) == 1 })
}
