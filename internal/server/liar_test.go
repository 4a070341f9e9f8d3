package server_test

import (
	"math"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// What an agent says is kept in bounds.
func TestAnAgentThatLies(t *testing.T) {
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
	if len(s.Datastore().Versions) != 1 {
		t.Errorf("versions: %+v", s.Datastore().Versions)
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
