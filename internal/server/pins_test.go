package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// pinned is how a backup is pinned: its reason, and whether a job is at work on that.
func (s *service) pinned(id string) (reason string, pinning bool) {
	s.t.Helper()
	b, err := s.Backup(s.t.Context(), who("p"), id)
	if err != nil {
		s.t.Fatal(err)
	}
	if b.Pin != nil {
		reason = b.Pin.Reason
	}
	return reason, b.Pinning != ""
}

// A backup is held from the request on, until it is unpinned: what would delete it is refused, with the way.
func TestPin(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	parent := backUp(t, s, p, "p", "r1", server.NewBackup{})
	b := backUp(t, s, p, "p", "r2", server.NewBackup{Parent: parent.ID})
	for _, reason := range []string{"", " ", "two\nlines", strings.Repeat("x", 201)} {
		if _, err := s.Pin(ctx, me, b.ID, reason); kindOf(err) != server.Invalid {
			t.Errorf("for the reason %q: %v", reason, err)
		}
	}
	if _, err := s.Pin(ctx, who("q"), b.ID, "x"); kindOf(err) != server.NotFound {
		t.Errorf("another project's: %v", err)
	}
	kept := func(kind server.Kind, words string) {
		t.Helper()
		for _, id := range []string{parent.ID, b.ID} { // which goes with what it was made of
			if err := s.DeleteBackup(ctx, me, id); kindOf(err) != kind || !strings.Contains(fmt.Sprint(err), words) {
				t.Errorf("deleting %s: %v, want %q", id, err, words)
			}
		}
	}
	id, err := s.Pin(ctx, me, b.ID, "legal hold")
	if err != nil {
		t.Fatal(err)
	}
	kept(server.Busy, id)
	if _, err := s.Unpin(ctx, me, b.ID); kindOf(err) != server.Busy {
		t.Errorf("unpinned while it is being pinned: %v", err)
	}
	if j := p.do(job.KindPin, job.Report{State: job.Done}); j.ID != id || j.Spec.Pin.Reason != "legal hold" || s.now().Sub(j.Spec.Pin.Since) > time.Second || j.Spec.RepoID != "r2" || j.By != "u" {
		t.Errorf("the job: %+v", j)
	}
	kept(server.Conflict, "pinned and stays: legal hold. If it shall go, unpin it first: \"slipcover unpin "+b.ID)

	if _, err := s.Pin(ctx, me, b.ID, "another reason"); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindPin, job.Report{State: job.Failed, Fault: "the storage says no"})
	if reason, pinning := s.pinned(b.ID); reason != "legal hold" || pinning {
		t.Errorf("after a pin that failed: %q, %v", reason, pinning)
	}
	if _, err := s.Unpin(ctx, me, b.ID); err != nil {
		t.Fatal(err)
	}
	if reason, _ := s.pinned(b.ID); reason == "" {
		t.Error("unpinned before the agent said so")
	}
	p.do(job.KindUnpin, job.Report{State: job.Failed, Fault: "the storage says no"})
	if reason, pinning := s.pinned(b.ID); reason != "legal hold" || pinning {
		t.Errorf("after an unpin that failed: %q, %v", reason, pinning)
	}
	for range 2 { // also if there is none
		if _, err := s.Unpin(ctx, me, b.ID); err != nil {
			t.Fatal(err)
		}
		p.do(job.KindUnpin, job.Report{State: job.Done})
		if reason, pinning := s.pinned(b.ID); reason != "" || pinning {
			t.Errorf("unpinned: %q, %v", reason, pinning)
		}
	}
	if err := s.DeleteBackup(ctx, me, parent.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(ctx, me, b.ID, "too late"); kindOf(err) != server.NotFound {
		t.Errorf("pinned while it is being deleted: %v", err)
	}
	for range 2 {
		p.do(job.KindDeleteBackup, job.Report{State: job.Failed, Fault: "half of it is gone"})
	}
	if _, err := s.Pin(ctx, me, b.ID, "too late"); kindOf(err) != server.Conflict {
		t.Errorf("pinned when a part of it is gone: %v", err)
	}
}

// Retention keeps what is pinned, and what is being pinned, says so before, and counts it for the rules like all others.
func TestRetentionHonoursPins(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	byHand := backUp(t, s, p, "p", "hand", server.NewBackup{})
	c, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@hourly", Keep: job.Keep{Last: 1}})
	if err != nil {
		t.Fatal(err)
	}
	first := s.fire(p, c, "r1")
	if _, err := s.Pin(ctx, me, first, "legal hold"); err != nil {
		t.Fatal(err)
	}
	retained := func(id string) server.Retained {
		t.Helper()
		lists, rest, err := s.InstanceRetention(ctx, me, p.node)
		if err != nil {
			t.Fatal(err)
		}
		all := append(slices.Clone(lists[0].Backups), rest...)
		return all[slices.IndexFunc(all, func(r server.Retained) bool { return r.Backup.ID == id })]
	}
	if r := retained(first); !r.Stays || !slices.Contains(r.Reasons, "pinned") {
		t.Errorf("while it is being pinned: %+v", r)
	}
	p.do(job.KindPin, job.Report{State: job.Done})
	if _, err := s.Pin(ctx, me, byHand.ID, "the first"); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindPin, job.Report{State: job.Done})
	if r := retained(byHand.ID); !r.Stays || r.Reasons[0] != "pinned: the first" || len(r.Reasons) != 2 {
		t.Errorf("made by hand: %+v", r)
	}
	second := s.fire(p, c, "r2")
	if r := retained(first); !r.Stays || !slices.Equal(r.Reasons, []string{"pinned: legal hold"}) {
		t.Errorf("pinned: %+v", r)
	}
	if r := retained(second); r.Stays {
		t.Errorf("after the next one it stays: %+v", r)
	}
	s.fire(p, c, "r3")
	if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); j.Backup != second {
		t.Errorf("%s went, want %s", j.Backup, second)
	}
	if _, err := s.Unpin(ctx, me, first); err != nil {
		t.Fatal(err)
	}
	if r := retained(first); !r.Stays {
		t.Errorf("while it is being unpinned: %+v", r)
	}
	p.do(job.KindUnpin, job.Report{State: job.Done})
	if r := retained(first); r.Stays {
		t.Errorf("unpinned: %+v", r)
	}
	p.start(s.bus, "s2") // a player does ten jobs
	s.fire(p, c, "r4")
	gone := []string{p.do(job.KindDeleteBackup, job.Report{State: job.Done}).Backup, p.do(job.KindDeleteBackup, job.Report{State: job.Done}).Backup}
	if !slices.Contains(gone, first) {
		t.Errorf("gone are %q, and not %s", gone, first)
	}
}

// A set stays as a whole if one of its backups is pinned.
func TestPinnedSetStays(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	c := joinThree(t, s, "p")
	ctx, me := t.Context(), who("p")
	cron := fmt.Sprintf("%d * * * *", s.now().Add(30*time.Minute).UTC().Minute())
	sch, err := s.CreateSchedule(ctx, me, &job.Schedule{Name: "h", Cluster: "a", Enabled: true, Cron: cron, Keep: job.Keep{Last: 1}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	fire := func() *server.SetInfo {
		t.Helper()
		now, err := s.Schedule(ctx, me, sch.ID)
		if err != nil {
			t.Fatal(err)
		}
		s.pass(now.Next.Sub(s.now()) + time.Second)
		c.hello(0, 1, 2)
		if err := s.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		n++
		c.does(fmt.Sprint("s", n), 0, 1, 2)
		now, _ = s.Schedule(ctx, me, sch.ID)
		return c.set(now.Last.Backup)
	}
	first := fire()
	member := first.Backups[1]
	if _, err := s.Pin(ctx, me, member.ID, "before the upgrade"); err != nil {
		t.Fatal(err)
	}
	c.players[1].do(job.KindPin, job.Report{State: job.Done})
	dry := func(set string) (stays int, reasons []string) {
		t.Helper()
		r, err := s.ScheduleRetention(ctx, me, sch.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.Backups {
			if b.Backup.Set == set && b.Stays {
				stays, reasons = stays+1, b.Reasons
			}
		}
		return stays, reasons
	}
	want := "pinned: its backup of " + first.Members[1].Node + ", before the upgrade"
	if stays, why := dry(first.ID); stays != 3 || !slices.Contains(why, want) {
		t.Errorf("%d of 3 stay, %q; want %q", stays, why, want)
	}
	second := fire()
	if err := s.DeleteSet(ctx, me, first.ID); kindOf(err) != server.Conflict || !strings.Contains(err.Error(), "before the upgrade") {
		t.Errorf("deleting the set: %v", err)
	}
	if i := c.set(first.ID); i.State != server.SetWhole || i.Going != 0 {
		t.Errorf("the set afterwards: %+v", i)
	}
	fire()
	for _, p := range c.players {
		if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); !strings.HasPrefix(j.Spec.RepoID, "s2") {
			t.Errorf("%s went, which isn't of the set %s", j.Spec.RepoID, second.ID)
		}
	}
	c.sweep()

	c.players[1].start(s.bus, "s2") // a player does ten jobs
	c.hello(0, 1, 2)

	// Unpinned it goes, and one that turns out to be pinned meanwhile keeps what is there.
	if _, err := s.Unpin(ctx, me, member.ID); err != nil {
		t.Fatal(err)
	}
	c.players[1].do(job.KindUnpin, job.Report{State: job.Done})
	if stays, _ := dry(first.ID); stays != 0 {
		t.Errorf("unpinned, %d stay", stays)
	}
	if err := s.DeleteSet(ctx, me, first.ID); err != nil {
		t.Fatal(err)
	}
	c.players[0].do(job.KindDeleteBackup, job.Report{State: job.Done})
	c.players[1].do(job.KindDeleteBackup, job.Report{State: job.Failed, Fault: "pinned", Kept: true, Pin: &job.Pin{Reason: "by hand", Since: s.now()}})
	c.players[2].do(job.KindDeleteBackup, job.Report{State: job.Done})
	for range 2 {
		c.sweep()
	}
	if stays, why := dry(first.ID); stays != 1 || !slices.Contains(why, "pinned: its backup of "+first.Members[1].Node+", by hand") {
		t.Errorf("what is left of it: %d, %q", stays, why)
	}
	fire() // retention leaves it alone
	for _, p := range c.players {
		if j := p.do(job.KindDeleteBackup, job.Report{State: job.Done}); !strings.HasPrefix(j.Spec.RepoID, "s3") {
			t.Errorf("%s went", j.Spec.RepoID)
		}
	}
	if _, err := s.Unpin(ctx, me, member.ID); err != nil {
		t.Fatal(err)
	}
	c.players[1].do(job.KindUnpin, job.Report{State: job.Done})
	c.sweep()
	c.players[1].do(job.KindDeleteBackup, job.Report{State: job.Done})
	c.sweep()
	if _, err := s.Set(ctx, me, first.ID); kindOf(err) != server.NotFound {
		t.Errorf("the set is still there: %v", err)
	}
}

// What others pinned and unpinned in the repository comes with backups, with a deletion that is refused, with what is taken in,
// and with a rebuild.
func TestPinsOfOthers(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	first := backUp(t, s, p, "p", "r1", server.NewBackup{})
	at := func(ago time.Duration) time.Time { return s.now().Add(-ago) }
	next := func(repoID string, pins map[string]job.Pin) {
		t.Helper()
		if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: repoID, Instance: p.node}); err != nil {
			t.Fatal(err)
		}
		r := made(repoID)
		r.Pins = pins
		p.do(job.KindBackup, r)
		p.hello()
	}
	is := func(when, want string) {
		t.Helper()
		if got, _ := s.pinned(first.ID); got != want {
			t.Errorf("%s: pinned is %q, want %q", when, got, want)
		}
	}
	next("r2", map[string]job.Pin{"r1": {Reason: "by\nhand", Since: at(time.Hour)}, "of nobody": {Reason: "x"}})
	is("pinned by others", "by hand")
	if err := s.DeleteBackup(ctx, me, first.ID); kindOf(err) != server.Conflict {
		t.Errorf("deleting it: %v", err)
	}
	next("r3", nil)
	is("of an agent that doesn't say", "by hand")
	next("r4", map[string]job.Pin{"r1": {Reason: "another", Since: at(time.Hour)}})
	is("pinned anew", "another")
	next("r5", map[string]job.Pin{})
	is("unpinned by others", "")
	many := map[string]job.Pin{"r1": {Reason: "x"}}
	for n := range 1000 {
		many[fmt.Sprint(n)] = job.Pin{}
	}
	next("r6", many)
	is("of an agent that tells more than is believed", "")

	if err := s.DeleteBackup(ctx, me, first.ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindDeleteBackup, job.Report{State: job.Failed, Kept: true, Fault: "the backup is pinned: hold", Pin: &job.Pin{Reason: "hold", Since: at(0)}})
	is("refused by the repository", "hold")
	if _, err := s.Unpin(ctx, me, first.ID); err != nil {
		t.Fatal(err)
	}
	d, _ := p.next()
	next("r7", map[string]job.Pin{"r1": {Reason: "found before"}}) // says nothing of what is at work
	is("while it is being unpinned", "hold")
	if v := p.report(job.Report{Job: d.Job, State: job.Done}); v != job.Go {
		t.Fatal(v)
	}
	is("unpinned", "")
}

// A pin that was asked for while a backup was made is not taken away by what that found before.
func TestPinBesideABackup(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	first := backUp(t, s, p, "p", "r1", server.NewBackup{})
	if _, err := s.CreateBackup(ctx, me, server.NewBackup{Name: "n", Instance: p.node}); err != nil {
		t.Fatal(err)
	}
	d, reply := p.next() // it looks for pins, and finds none
	if reply.Verdict != job.Go {
		t.Fatal(reply.Verdict)
	}
	s.pass(time.Second)
	if _, err := s.Pin(ctx, me, first.ID, "now"); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindPin, job.Report{State: job.Done})
	r := made("r2")
	r.Job, r.Pins = d.Job, map[string]job.Pin{}
	if v := p.report(r); v != job.Go {
		t.Fatal(v)
	}
	if got, _ := s.pinned(first.ID); got != "now" {
		t.Errorf("pinned is %q", got)
	}
}

// Another server has the backup pinned as this one: a restart of either changes nothing.
func TestPinAndServersThatDie(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	p := join(t, s, "db1", "p")
	ctx, me := t.Context(), who("p")
	backup := backUp(t, s, p, "p", "r1", server.NewBackup{})
	id, err := s.Pin(ctx, me, backup.ID, "legal hold")
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	again := start(t, b, server.Config{})
	if _, pinning := again.pinned(backup.ID); !pinning {
		t.Error("a server that starts anew doesn't know that it is being pinned")
	}
	if err := again.DeleteBackup(ctx, me, backup.ID); kindOf(err) != server.Busy {
		t.Errorf("it deletes it: %v", err)
	}
	p.start(b, "s2")
	if j := p.do(job.KindPin, job.Report{State: job.Done}); j.ID != id {
		t.Errorf("the job is %s, want %s", j.ID, id)
	}
	if reason, pinning := again.pinned(backup.ID); reason != "legal hold" || pinning {
		t.Errorf("pinned: %q, %v", reason, pinning)
	}

	// A server that dies after it held the backup and before the job was stored.
	held, err := again.Backup(ctx, me, backup.ID)
	if err != nil {
		t.Fatal(err)
	}
	doc := *held
	doc.Pin, doc.Pinning = nil, "0199aaaa-0000-7000-8000-000000000001"
	table, err := b.Table(ctx, "backups")
	if err != nil {
		t.Fatal(err)
	}
	put(t, table, doc.ID, doc)
	await := func(want bool) {
		t.Helper()
		servertest.Eventually(t, "the server sees it", func() bool { _, pinning := again.pinned(backup.ID); return pinning == want })
	}
	await(true)
	if err := again.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	await(true) // the other server may be at it
	again.pass(2 * time.Minute)
	if err := again.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	await(false)

	// The agent is lost when it has pinned it: that is believed when it is back.
	if _, err := again.Pin(ctx, me, backup.ID, "later"); err != nil {
		t.Fatal(err)
	}
	d, reply := p.next()
	if reply.Verdict != job.Go {
		t.Fatal(reply.Verdict)
	}
	again.pass(30 * 24 * time.Hour)
	if err := again.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if reason, pinning := again.pinned(backup.ID); reason != "" || pinning {
		t.Errorf("of a lost agent: %q, %v", reason, pinning)
	}
	if v := p.report(job.Report{Job: d.Job, State: job.Done}); v != job.Stop {
		t.Errorf("the verdict is %s", v)
	}
	if reason, _ := again.pinned(backup.ID); reason != "later" {
		t.Errorf("it is pinned, and the catalog says %q", reason)
	}
}

func TestRebuiltPin(t *testing.T) {
	t.Parallel()
	r := &manifest.Record{}
	r.ID, r.Instance, r.Name, r.Started, r.Finished = "0199aaaa-0000-7000-8000-000000000001", "db1", "n", time.Now().UTC(), time.Now().UTC()
	b := openBus(t)
	found := []server.Found{{Record: r, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"}, Pin: &job.Pin{Reason: "two\nlines", Since: time.Now()}}}
	if _, err := server.Rebuild(t.Context(), b, "p", found); err != nil {
		t.Fatal(err)
	}
	s := start(t, b, server.Config{})
	if reason, _ := s.pinned(string(r.ID)); reason != "two lines" {
		t.Errorf("pinned is %q", reason)
	}
}
