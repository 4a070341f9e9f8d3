package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// What the dry run says will go is what goes, firing by firing, and what it says stays stays.
func TestRetentionDryRun(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	byHand := backUp(t, s, p, "p", "hand", server.NewBackup{})
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "0 */9 * * *", Keep: job.Keep{Last: 2, Daily: 2}})
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for n := range 5 { // a player does ten jobs
		dry, err := s.ScheduleRetention(t.Context(), who("p"), c.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		var goes, stays []string
		for _, b := range dry.Backups {
			switch {
			case b.Stays:
				stays = append(stays, b.Backup.ID)
			case len(b.Missed) == 0:
				t.Errorf("%s goes and it isn't said which rule leaves it: %v", b.Backup.ID, b.Reasons)
			default:
				goes = append(goes, b.Backup.ID)
			}
		}
		if count, bytes := dry.Frees(); count != len(goes) || bytes < 0 {
			t.Errorf("frees %d backups, want %d", count, len(goes))
		}
		for range 2 { // the second time it is known
			if space, _ := s.Space(who("p"), false); space.Goes != len(goes) || len(goes) > 0 && space.Frees == 0 {
				t.Errorf("firing %d: the space page says %d go, %d bytes; the dry run %d", n, space.Goes, space.Frees, len(goes))
			}
		}
		id := s.fire(p, c, fmt.Sprint("r", n))
		var deleted []string
		for range goes {
			deleted = append(deleted, p.do(job.KindDeleteBackup, job.Report{State: job.Done}).Backup)
		}
		gone += len(goes)
		slices.Sort(goes)
		slices.Sort(deleted)
		if !slices.Equal(goes, deleted) {
			t.Fatalf("firing %d: deleted %v, the dry run said %v", n, deleted, goes)
		}
		left, _ := s.Backups(who("p"), server.BackupFilter{Limit: 100, Schedule: c.ID})
		var ids []string
		for _, b := range left {
			ids = append(ids, b.ID)
		}
		stays = append(stays, id)
		slices.Sort(ids)
		slices.Sort(stays)
		if !slices.Equal(ids, stays) {
			t.Fatalf("firing %d: left are %v, the dry run said %v", n, ids, stays)
		}
	}
	if gone == 0 {
		t.Error("nothing ever went")
	}
	lists, rest, err := s.InstanceRetention(t.Context(), who("p"), p.node)
	if err != nil || len(lists) != 1 || len(rest) != 1 || rest[0].Backup.ID != byHand.ID || !rest[0].Stays {
		t.Errorf("of the instance: %+v, %+v, %v", lists, rest, err)
	}
}

// Rules that are only proposed tell their effect, and change nothing.
func TestRetentionProposed(t *testing.T) {
	t.Parallel()
	s := start(t, openBus(t), server.Config{})
	p := join(t, s, "db1", "p")
	c, err := s.CreateSchedule(t.Context(), who("p"), &job.Schedule{Name: "h", Instance: p.node, Enabled: true, Cron: "@daily"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		s.fire(p, c, fmt.Sprint("r", n))
	}
	all, err := s.ScheduleRetention(t.Context(), who("p"), c.ID, nil)
	if n, _ := all.Frees(); err != nil || n != 0 || len(all.Backups) != 4 || all.Backups[0].Reasons[0] == "" {
		t.Errorf("without a rule: %+v, %v", all, err)
	}
	some, err := s.ScheduleRetention(t.Context(), who("p"), c.ID, &job.Keep{Daily: 2})
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := some.Frees(); n != 3 { // the next one and the newest are the two days
		t.Errorf("daily 2 would free %d backups, want 3", n)
	}
	for _, b := range some.Backups {
		if !b.Stays && !strings.Contains(strings.Join(b.Missed, "; "), "2 newer days are kept") {
			t.Errorf("%s goes because %v, %v", b.Backup.ID, b.Reasons, b.Missed)
		}
	}
	if _, err := s.ScheduleRetention(t.Context(), who("p"), c.ID, &job.Keep{Last: -1}); kindOf(err) != server.Invalid {
		t.Errorf("a negative number: %v", err)
	}
	if _, err := s.ScheduleRetention(t.Context(), who("q"), c.ID, nil); kindOf(err) != server.NotFound {
		t.Errorf("another project's schedule: %v", err)
	}
	if left, _ := s.Backups(who("p"), server.BackupFilter{Limit: 100}); len(left) != 4 {
		t.Errorf("%d backups are left of 4", len(left))
	}
}
