package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// helloOf is a hello of a node of a cluster.
func (p *player) helloOf(node, cluster string, nodes ...string) {
	p.t.Helper()
	p.said++
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, CanRead: true, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"},
		Instances: []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0", Member: &job.Member{Node: node, Nodes: nodes, Cluster: cluster, MapUUID: p.id}}}})
}

// three are the agents of the nodes of a cluster.
type three struct {
	s       *service
	players []*player
}

var nodeNames = []string{"couchdb@a", "couchdb@b", "couchdb@c"}

func joinThree(t *testing.T, s *service, project string) *three {
	t.Helper()
	c := &three{s: s}
	for n := range nodeNames {
		c.players = append(c.players, join(t, s, fmt.Sprintf("%s-db%d", project, n+1), project))
	}
	c.hello(0, 1, 2)
	return c
}

func (c *three) hello(which ...int) {
	for _, n := range which {
		c.players[n].helloOf(nodeNames[n], "", nodeNames...)
	}
}

// does ends the next backups of some nodes.
func (c *three) does(tag string, which ...int) {
	c.s.t.Helper()
	for _, n := range which {
		c.players[n].do(job.KindBackup, made(fmt.Sprintf("%s-%d", tag, n)))
	}
}

func (c *three) set(id string) *server.SetInfo {
	c.s.t.Helper()
	i, err := c.s.Set(c.s.t.Context(), who(c.project()), id)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return i
}

func (c *three) project() string {
	return c.s.Agents()[0].Project
}

func (c *three) sweep() {
	c.s.t.Helper()
	if err := c.s.Sweep(c.s.t.Context()); err != nil {
		c.s.t.Fatal(err)
	}
}

// A set is of all nodes of the cluster at once, as a whole in lists and for deletion.
func TestSetOfACluster(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	list := s.Clusters(me, false)
	if len(list) != 1 || list[0].Name != "a" || len(list[0].Nodes) != 3 || !list[0].Nodes[2].Online || list[0].Newest != nil {
		t.Fatalf("clusters: %+v", list)
	}
	if _, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "elsewhere", Name: "n"}); kindOf(err) != server.NotFound || !strings.Contains(err.Error(), "there are a") {
		t.Errorf("a cluster of another name: %v", err)
	}
	if _, err := s.CreateSet(ctx, who("q"), server.NewSet{Cluster: "a", Name: "n"}); kindOf(err) != server.NotFound || strings.Contains(err.Error(), "there are") {
		t.Errorf("another project's cluster: %v", err)
	}
	i, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "n"})
	if err != nil || i.State != server.SetRunning {
		t.Fatalf("set: %+v, %v", i, err)
	}
	if _, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "again"}); kindOf(err) != server.Busy {
		t.Errorf("a second one at once: %v, want Busy", err)
	}
	for n, p := range c.players {
		j := p.do(job.KindBackup, made(fmt.Sprintf("r%d", n)))
		if j.Spec.Labels[job.LabelSet] != i.ID || j.Spec.Labels[job.LabelCluster] != "a" || !strings.Contains(j.Spec.Description, nodeNames[n]) {
			t.Errorf("job: %+v", j.Spec)
		}
		if state := c.set(i.ID).State; (state == server.SetWhole) != (n == 2) {
			t.Errorf("after %d: %s", n+1, state)
		}
	}
	if list := s.Clusters(me, false); list[0].Whole == nil || list[0].Whole.ID != i.ID {
		t.Errorf("the newest whole set: %+v", list[0])
	}
	i = c.set(i.ID)
	if err := s.DeleteBackup(ctx, me, i.Backups[1].ID); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), i.ID) {
		t.Errorf("one backup of it alone: %v, want Conflict", err)
	}
	if err := s.DeleteSet(ctx, who("q"), i.ID); kindOf(err) != server.NotFound {
		t.Errorf("another's set: %v", err)
	}
	if err := s.DeleteSet(ctx, me, i.ID); err != nil {
		t.Fatal(err)
	}
	if state := c.set(i.ID).State; state != server.SetGoing {
		t.Errorf("while it goes: %s", state)
	}
	for _, p := range c.players {
		p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	}
	c.sweep()
	if _, err := s.Set(ctx, me, i.ID); kindOf(err) != server.NotFound {
		t.Errorf("a set that is gone: %v", err)
	}
	if page, _ := s.Backups(me, server.BackupFilter{Limit: 10}); len(page) > 0 {
		t.Errorf("left: %+v", page)
	}
}

// A node that is down or busy makes the set partial, with the reason, and its backup counts for the set when it comes.
func TestSetIsCompleted(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "by hand", Instance: c.players[1].node}); err != nil {
		t.Fatal(err)
	}
	s.pass(5 * time.Minute)
	c.hello(0, 1) // not the third
	i, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if i.Lacks(0) != "" || i.Lacks(1) != "it was busy" || i.Lacks(2) != "its agent is not online" {
		t.Errorf("members: %+v", i.Members)
	}
	c.does("r", 0)
	if state := c.set(i.ID).State; state != server.SetPartial {
		t.Errorf("one of three: %s", state)
	}
	c.sweep()
	c.players[1].do(job.KindBackup, made("hand"))
	c.sweep() // the second is free
	c.does("r", 1)
	if i := c.set(i.ID); i.State != server.SetPartial || i.Usable() != 2 {
		t.Errorf("two of three: %+v", i)
	}
	c.hello(2)
	c.sweep()
	c.sweep()
	c.does("r", 2)
	if i := c.set(i.ID); i.State != server.SetWhole || i.Backups[2].ID == i.Backups[0].ID || i.Lacks(2) != "" {
		t.Errorf("all three: %+v", i)
	}

	// One that was followed by another stays as it is, and so does one of yesterday.
	s.pass(5 * time.Minute)
	c.hello(0, 1)
	older, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "older"})
	if err != nil {
		t.Fatal(err)
	}
	c.does("o", 0, 1)
	newer, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "newer"})
	if err != nil {
		t.Fatal(err)
	}
	c.does("n", 0, 1)
	s.pass(25 * time.Hour)
	c.hello(0, 1, 2)
	c.sweep()
	for _, id := range []string{older.ID, newer.ID} {
		if i := c.set(id); i.State != server.SetPartial || i.Backups[2] != nil {
			t.Errorf("it was completed: %+v", i)
		}
	}
	// Of a partial one each backup may go by itself, and isn't made again.
	if err := s.DeleteBackup(ctx, me, c.set(newer.ID).Backups[0].ID); err != nil {
		t.Error(err)
	}
	c.players[0].do(job.KindDeleteBackup, job.Report{State: job.Done})
	s.pass(2 * time.Minute)
	c.hello(0, 1, 2)
	c.sweep()
	if i := c.set(newer.ID); i.Backups[0] != nil || i.Lacks(0) != "it was deleted" {
		t.Errorf("a deleted backup: %+v", i)
	}
}

// All are away: the schedule waits. Then sets come and go as wholes, the heartbeat tells only of whole ones that all is well,
// and with one node down for good the last whole set stays.
func TestClusterSchedule(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{LocalHeartbeats: true})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	beats := make(chan string, 100)
	hc := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { beats <- r.URL.Path }))
	defer hc.Close()
	beat := func(want string) {
		t.Helper()
		select {
		case got := <-beats:
			if got != want {
				t.Errorf("heartbeat %s, want %s", got, want)
			}
		case <-time.After(servertest.Patience):
			t.Errorf("no heartbeat, want %s", want)
		}
	}
	if _, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Cluster: "z", Enabled: true, Cron: "@hourly"}); kindOf(err) != server.NotFound {
		t.Errorf("a schedule of no cluster: %v", err)
	}
	hourly := fmt.Sprintf("%d * * * *", s.now().Add(30*time.Minute).UTC().Minute()) // long after the agents were heard of
	sch, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Cluster: "a", Enabled: true, Cron: hourly, Keep: job.Keep{Last: 1}, Heartbeat: hc.URL + "/ping"})
	if err != nil {
		t.Fatal(err)
	}
	fire := func(online ...int) string {
		t.Helper()
		now, err := s.Schedule(ctx, me, sch.ID)
		if err != nil {
			t.Fatal(err)
		}
		s.pass(now.Next.Sub(s.now()) + time.Second)
		c.hello(online...)
		if err := s.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		now, _ = s.Schedule(ctx, me, sch.ID)
		return now.Last.Backup
	}
	first := fire()
	if now, _ := s.Schedule(ctx, me, sch.ID); !strings.HasPrefix(now.Last.Outcome, "waiting") {
		t.Errorf("all are away: %+v", now.Last)
	}
	c.hello(0, 1, 2)
	if err := s.Tick(ctx); err != nil {
		t.Fatal(err)
	}
	c.does("s0", 0, 1, 2)
	beat("/ping")
	if i := c.set(first); i.State != server.SetWhole || i.Schedule != sch.ID {
		t.Errorf("the first: %+v", i)
	}
	for n := range 3 { // one node is down
		id := fire(0, 1)
		c.does(fmt.Sprintf("p%d", n), 0, 1)
		beat("/ping/fail")
		if i := c.set(id); i.State != server.SetPartial {
			t.Errorf("without a node: %+v", i)
		}
		if n > 0 { // the partial one before goes, whole
			for _, k := range []int{0, 1} {
				c.players[k].do(job.KindDeleteBackup, job.Report{State: job.Done})
			}
			c.sweep()
		}
	}
	if list := s.Sets(me, server.SetFilter{Cluster: "a"}); len(list) != 2 || list[1].ID != first {
		t.Errorf("the last whole set went: %+v", list)
	}
	last := c.set(s.Sets(me, server.SetFilter{})[0].ID)
	c.hello(2) // it is back, within its firing
	c.sweep()
	c.does("late", 2)
	beat("/ping")
	if i := c.set(last.ID); i.State != server.SetWhole {
		t.Errorf("completed: %+v", i)
	}
	for n, p := range c.players { // now the first one may go
		if n == 2 { // but one of it is pinned
			p.do(job.KindDeleteBackup, job.Report{State: job.Failed, Fault: "pinned", Kept: true})
			continue
		}
		p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	}
	c.sweep()
	if i := c.set(first); i.State != server.SetGoing || i.Usable() != 1 {
		t.Errorf("a set that went in part: %+v", i)
	}
	// It is tried again at the next retention.
	fire(0, 1, 2)
	c.does("s2", 0, 1, 2)
	beat("/ping")
	gone := map[string]bool{}
	for n := range 2 {
		gone[c.players[n].do(job.KindDeleteBackup, job.Report{State: job.Done}).Spec.RepoID] = true
	}
	for range 2 {
		gone[c.players[2].do(job.KindDeleteBackup, job.Report{State: job.Done}).Spec.RepoID] = true
	}
	c.sweep()
	if list := s.Sets(me, server.SetFilter{}); len(list) != 1 || list[0].State != server.SetWhole || !gone["s0-2"] {
		t.Errorf("left: %+v, gone %v", list, gone)
	}
	// A schedule of a cluster outlives its nodes' agents, and says what is wrong.
	for _, p := range c.players {
		if err := s.RemoveAgent(ctx, p.id); err != nil {
			t.Fatal(err)
		}
	}
	c.sweep()
	fire()
	if now, err := s.Schedule(ctx, me, sch.ID); err != nil || !strings.Contains(now.Last.Outcome, "cluster") {
		t.Errorf("without agents: %+v, %v", now, err)
	}
	beat("/ping/fail")
}

// The restore tests of a cluster's schedule are of each backup of its newest whole set.
func TestClusterProof(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	whole, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "whole"})
	if err != nil {
		t.Fatal(err)
	}
	c.does("w", 0, 1, 2)
	s.pass(5 * time.Minute)
	c.hello(0, 1)
	if _, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "partial"}); err != nil {
		t.Fatal(err)
	}
	c.does("p", 0, 1)
	at := s.now().Add(25 * time.Hour).UTC()
	sch, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Cluster: "a", Enabled: true, Cron: "0 0 1 1 *", ProveCron: fmt.Sprintf("%d %d %d * *", at.Minute(), at.Hour(), at.Day())})
	if err != nil {
		t.Fatal(err)
	}
	s.pass(sch.ProveNext.Sub(s.now()) + time.Second)
	c.hello(0, 1, 2)
	if err := s.Tick(ctx); err != nil {
		t.Fatal(err)
	}
	for n, p := range c.players {
		j := p.do(job.KindProve, job.Report{State: job.Done, Proof: &job.Proof{At: s.now(), OK: true, Databases: 1}})
		if j.Backup != c.set(whole.ID).Backups[n].ID {
			t.Errorf("tested: %+v", j)
		}
	}
	if !c.set(whole.ID).Proven() {
		t.Error("the whole set isn't proven")
	}
}

// A server that dies at any write of a set's beginning leaves nothing that isn't ended or gone on with by another.
func TestSetOfADeadServer(t *testing.T) {
	t.Parallel()
	errDead := errors.New("dead")
	for _, table := range []string{"sets", "instances", "backups", "jobs"} {
		for nth := range 3 {
			for _, stored := range []bool{false, true} {
				if table == "sets" && nth > 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s %d %v", table, nth, stored), func(t *testing.T) {
					t.Parallel()
					b := openBus(t)
					other := start(t, b, server.Config{})
					c := joinThree(t, other, "p")
					var dead atomic.Bool
					var armed atomic.Bool
					writes := 0
					dying := startOver(t, b, server.Config{}, func(name string, t server.Table) server.Table {
						return &mortal{Table: t, dead: &dead, write: func(store func() error) error {
							if !armed.Load() {
								return store()
							}
							if dead.Load() {
								return errDead
							}
							if name != table {
								return store()
							}
							if writes++; writes-1 < nth {
								return store()
							}
							dead.Store(true)
							if stored {
								return errors.Join(store(), errDead)
							}
							return errDead
						}}
					})
					servertest.Eventually(t, "it knows the cluster", func() bool {
						list := dying.Clusters(who("p"), false)
						return len(list) == 1 && len(list[0].Nodes) == 3 && list[0].Nodes[0].Online && list[0].Nodes[1].Online && list[0].Nodes[2].Online
					})
					armed.Store(true)
					_, _ = dying.CreateSet(t.Context(), who("p"), server.NewSet{Cluster: "a", Name: "n"})
					if !dead.Load() {
						t.Fatal("it didn't die")
					}
					dying.stop()
					hears(t, other)
					for range 20 {
						other.pass(10 * time.Second)
						c.hello(0, 1, 2)
						c.sweep()
					}
					list := other.Sets(who("p"), server.SetFilter{})
					if len(list) == 0 { // nobody was told that there is one
						if table != "sets" || stored {
							t.Fatal("the set is gone")
						}
					} else {
						// What a backup began whose job never was fails; all others are made.
						for n, p := range c.players {
							if b := c.set(list[0].ID).Backups[n]; b == nil {
								t.Errorf("%s was not begun: %q", nodeNames[n], list[0].Lacks(n))
							} else if b.Status != job.BackupFailed {
								p.do(job.KindBackup, made(fmt.Sprintf("r%d", n)))
							}
						}
						if i := c.set(list[0].ID); i.State == server.SetRunning {
							t.Errorf("it never ends: %+v", i)
						}
					}
					// Nothing is held: the next one is whole.
					c.hello(0, 1, 2)
					next, err := other.CreateSet(t.Context(), who("p"), server.NewSet{Cluster: "a", Name: "next"})
					if err != nil {
						t.Fatal(err)
					}
					c.does("next", 0, 1, 2)
					if i := c.set(next.ID); i.State != server.SetWhole {
						t.Errorf("the next: %+v", i)
					}
				})
			}
		}
	}
}

// mortal is a table of a server that dies at one of its writes.
type mortal struct {
	server.Table
	dead  *atomic.Bool
	write func(store func() error) error
}

func (m *mortal) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	err = m.write(func() (err error) { rev, err = m.Table.Create(ctx, key, value); return err })
	return rev, err
}

func (m *mortal) Update(ctx context.Context, key string, value []byte, rev uint64) (now uint64, err error) {
	err = m.write(func() (err error) { now, err = m.Table.Update(ctx, key, value, rev); return err })
	return now, err
}

func (m *mortal) Delete(ctx context.Context, key string, rev uint64) error {
	return m.write(func() error { return m.Table.Delete(ctx, key, rev) })
}

// Two servers fire one set.
func TestSetFiresOnceWithTwoServers(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s1, s2 := start(t, b, server.Config{}), start(t, b, server.Config{})
	c := joinThree(t, s1, "p")
	sch, err := s1.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Cluster: "a", Enabled: true, Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the other server knows all", func() bool {
		list := s2.Clusters(who("p"), false)
		return len(s2.Schedules(who("p"), "")) == 1 && len(list) == 1 && len(list[0].Nodes) == 3
	})
	d := sch.Next.Sub(s1.now()) + time.Second
	s1.pass(d)
	s2.pass(d)
	for _, s := range []*service{s1, s2} {
		for _, p := range c.players { // both hear them
			p.helloOf(nodeNames[indexOf(c, p)], "", nodeNames...)
		}
		if err := s.Tick(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []*service{s1, s2} {
		hears(t, s)
		if list := s.Sets(who("p"), server.SetFilter{}); len(list) != 1 {
			t.Errorf("%d sets of one firing", len(list))
		}
	}
	page, _ := s1.Backups(who("p"), server.BackupFilter{Limit: 10})
	for _, s := range []*service{s1, s2} {
		c.hello(0, 1, 2)
		if err := s.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
	}
	hears(t, s1)
	if again, _ := s1.Backups(who("p"), server.BackupFilter{Limit: 10}); len(again) > 3 || len(page) == 0 {
		t.Errorf("%d and then %d backups of one firing", len(page), len(again))
	}
}

func indexOf(c *three, p *player) int {
	for n, o := range c.players {
		if o == p {
			return n
		}
	}
	return -1
}

// Two clusters whose nodes have the same names are not taken for one; the setting tells them apart, and so do projects. A
// quota counts all of a set before any of it begins.
func TestClustersAreToldApart(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c, copied := joinThree(t, s, "p"), []*player{}
	for n := range nodeNames {
		copied = append(copied, join(t, s, fmt.Sprintf("copy%d", n), "p"))
		copied[n].helloOf(nodeNames[n], "", nodeNames...)
	}
	ctx, me := t.Context(), who("p")
	list := s.Clusters(me, false)
	if len(list) != 1 || list[0].Unclear == "" {
		t.Fatalf("clusters: %+v", list)
	}
	if _, err := s.CreateSet(ctx, me, server.NewSet{Cluster: list[0].Name, Name: "n"}); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "setting cluster") {
		t.Errorf("which cluster? %v", err)
	}
	for n, p := range copied {
		p.helloOf(nodeNames[n], "copy", nodeNames...)
	}
	if list = s.Clusters(me, false); len(list) != 2 || list[0].Name != "a" || list[1].Name != "copy" || list[0].Unclear != "" {
		t.Fatalf("clusters: %+v", list)
	}
	if err := s.SetQuota(ctx, me, "p", "backups", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "copy", Name: "n"}); kindOf(err) != server.OverQuota {
		t.Errorf("over the quota: %v", err)
	}
	if page, _ := s.Backups(me, server.BackupFilter{Limit: 10}); len(page) > 0 {
		t.Errorf("some began: %+v", page)
	}
	// A node of another project's is none of ours: the set is without it, and says no more than that.
	if err := s.SetQuota(ctx, me, "p", "backups", 9); err != nil {
		t.Fatal(err)
	}
	theirs := join(t, s, "theirs", "q")
	theirs.helloOf("couchdb@d", "", append([]string{"couchdb@d"}, nodeNames...)...)
	for n, p := range c.players {
		p.helloOf(nodeNames[n], "", append(append([]string{}, nodeNames...), "couchdb@d")...)
	}
	i, err := s.CreateSet(ctx, me, server.NewSet{Cluster: "a", Name: "n"})
	if err != nil || len(i.Members) != 4 || i.Members[3].Instance != "" || !strings.Contains(i.Lacks(3), "no instance of the project") {
		t.Errorf("a set beside another project's node: %+v, %v", i, err)
	}
}
