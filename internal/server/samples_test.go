package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// tellsRooms says a hello with the room of a repository and of a copy.
func (p *player) tellsRooms(rooms ...job.Room) {
	p.said++
	ask[job.HelloReply](p, job.VerbHello, job.Hello{Session: p.session, Number: p.said, CanRead: true, Repository: job.Repository{ID: "repo-1", URL: "file:///backups"},
		Instances: []job.Seen{{Instance: p.node, Up: true, Version: "3.5.0"}}, Rooms: rooms})
}

func (s *service) sweep(t *testing.T) {
	t.Helper()
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What is stored is noted day by day, so that the growth has what was deleted since; and what was before the first note is told
// by what is still stored.
func TestGrowth(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{Sweep: 24 * 365 * time.Hour})
	p := join(t, s, "db1", "p")
	one := backUp(t, s, p, "p", "one", server.NewBackup{})
	if space, _ := s.Space(who("p"), false); !space.Since.IsZero() || space.Stored != 300 {
		t.Errorf("before the first note: %+v", space)
	}
	s.sweep(t)
	for range 9 {
		s.pass(24 * time.Hour)
		p.hello()
		s.sweep(t)
		s.sweep(t) // and no second time on one day
	}
	backUp(t, s, p, "p", "two", server.NewBackup{})
	s.pass(24 * time.Hour)
	p.hello()
	s.sweep(t)
	if err := s.DeleteBackup(t.Context(), who("p"), one.ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	s.pass(24 * time.Hour)
	p.hello()
	s.sweep(t)
	space, times := s.Space(who("p"), false)
	if len(space.Instances) != 1 || space.Since.IsZero() {
		t.Fatalf("%+v", space)
	}
	i := space.Instances[0]
	most, last := int64(0), i.Points[len(times)-1]
	for _, n := range i.Points {
		most = max(most, n)
	}
	if most != 600 || last != 300 || space.Stored != 300 || i.Points[3] != 300 {
		t.Errorf("the points are %v, want up to 600 and 300 at last: %+v", i.Points, space)
	}
	if others, _ := s.Space(who("q"), false); len(others.Instances) != 0 || !others.Since.IsZero() {
		t.Errorf("another project sees %+v", others)
	}
	again := start(t, b, server.Config{Sweep: 24 * 365 * time.Hour}) // another server knows it, too
	again.pass(11 * 24 * time.Hour)
	if space, _ := again.Space(who("p"), false); space.Since.IsZero() || space.Instances[0].Points[3] != 300 {
		t.Errorf("another server: %+v", space.Instances[0])
	}
	// All of them go, and in the end the instance with them.
	list, _ := s.Backups(who("p"), server.BackupFilter{Limit: 10})
	if err := s.DeleteBackup(t.Context(), who("p"), list[0].ID); err != nil {
		t.Fatal(err)
	}
	p.do(job.KindDeleteBackup, job.Report{State: job.Done})
	for _, days := range []int{1, 1, 900, 7, 7} {
		s.pass(time.Duration(days) * 24 * time.Hour)
		s.sweep(t)
		if space, _ := s.Space(who("p"), false); (len(space.Instances) == 1) != (days == 1) || space.Stored != 0 {
			t.Errorf("%d days after: %d instances store %d", days, len(space.Instances), space.Stored)
		}
	}
}

// When a repository is full is told by how its free room went in the last weeks, and not before anything is known of that. Samples
// know their day only: where a server takes them late in a day it says up to 7 % too little.
func TestRooms(t *testing.T) {
	for hour, least := range map[int]int64{0: 1990, 23: 1860} { // thousandths of a GB that go each day, of 2 GB
		t.Run(fmt.Sprintf("%d h", hour), func(t *testing.T) {
			t.Parallel()
			testRooms(t, time.Duration(hour)*time.Hour, least)
		})
	}
}

func testRooms(t *testing.T, hour time.Duration, least int64) {
	reg := prometheus.NewPedanticRegistry()
	s := start(t, openBus(t), server.Config{Sweep: 24 * 365 * time.Hour, Metrics: reg})
	midnight := s.now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	s.pass(midnight.Add(hour).Sub(s.now()))
	p := join(t, s, "db1", "p")
	const gb = int64(1) << 30
	vault := func(free, total int64) []job.Room {
		return []job.Room{{URL: "file:///backups", Repository: "repo-1", FreeBytes: 500 * gb, TotalBytes: 1000 * gb}, {URL: "file:///mnt/vault", Copy: true, FreeBytes: free, TotalBytes: total},
			{URL: "file:///bad", FreeBytes: 2, TotalBytes: 1}, {URL: "file:///none"}}
	}
	first := func() *server.RoomInfo {
		t.Helper()
		list := s.Rooms(who("p"), false)
		if len(list) != 2 {
			t.Fatalf("%d rooms", len(list))
		}
		return list[0]
	}
	free := 30 * gb
	for n := range 8 {
		p.tellsRooms(vault(free, 200*gb)...)
		s.sweep(t)
		switch r := first(); {
		case n < 3 && !r.Full.IsZero():
			t.Errorf("after %d days it is foretold: %+v", n, r)
		case n == 7:
			days := r.Full.Sub(s.now()).Hours() / 24
			if r.URL != "file:///mnt/vault" || !r.Copy || r.Free != free || r.Total != 200*gb || days < 7.9 || days > 8.7 || r.Grows < least*gb/1000 || r.Grows > 2010*gb/1000 || !r.Online || len(r.Agents) != 1 || r.Agents[0] != "db1" {
				t.Errorf("%.1f days are left: %+v", days, r)
			}
		}
		if n < 7 {
			s.pass(24 * time.Hour)
			free -= 2 * gb
		}
	}
	if list := s.Rooms(who("p"), false); !list[1].Full.IsZero() || list[1].Grows != 0 || list[1].Repository != "repo-1" {
		t.Errorf("what stays as it is: %+v", list[1])
	}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, f := range all {
		told[f.GetName()] = len(f.GetMetric())
	}
	if told["slipcover_room_free_bytes"] != 2 || told["slipcover_room_total_bytes"] != 2 || told["slipcover_room_full_seconds"] != 1 {
		t.Errorf("metrics: %v", told)
	}
	if len(s.Rooms(who("q"), false)) != 0 || len(s.Rooms(who("q"), true)) != 2 {
		t.Error("another project sees it, or an administrator doesn't")
	}
	p.tellsRooms(vault(free+800*gb, 1000*gb)...) // a larger disk counts from now on
	for _, r := range s.Rooms(who("p"), false) {
		if !r.Full.IsZero() {
			t.Errorf("a larger disk: %+v", r)
		}
	}
}
