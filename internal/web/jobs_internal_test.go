package web

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
)

// A job that works is never shown as done, whatever its bytes are.
func TestProgressOfJob(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 10, 1, 40, 0, time.UTC)
	c := &call{Site: &Site{o: Options{Now: func() time.Time { return now }}}}
	for _, x := range []struct {
		state   job.State
		kind    job.Kind
		at      job.Progress
		percent int
		text    string
	}{
		{job.Queued, job.KindBackup, job.Progress{}, 0, "not begun; it begins by itself as soon as the agent has time"},
		{job.Running, job.KindBackup, job.Progress{Files: 4, FilesDone: 4, Bytes: 400_000_000, BytesDone: 100_000_000}, 25, "25 %, 100 of 400 MB, 1.00 MB/s, 5 min left, file 4 of 4"},
		{job.Running, job.KindBackup, job.Progress{Files: 4, FilesDone: 4, Bytes: 400_000_000, BytesDone: 399_999_999}, 99, "99 %, 400 of 400 MB, 4.00 MB/s, file 4 of 4"},
		{job.Running, job.KindBackup, job.Progress{Files: 4, FilesDone: 4, Bytes: 400_000_000, BytesDone: 400_000_000}, 99, "99 %, 400 of 400 MB, 4.00 MB/s, file 4 of 4, all stored; its record and its copies follow"},
		{job.Running, job.KindBackup, job.Progress{Files: 4, FilesDone: 4}, 99, "99 %, file 4 of 4, all stored; its record and its copies follow"},
		{job.Running, job.KindProve, job.Progress{Bytes: 100, BytesDone: 100}, 99, "99 %, 100 of 100 B, 1 B/s, all read back; what it holds is tested"},
		{job.Running, job.KindRestore, job.Progress{Bytes: 100, BytesDone: 100}, 99, "99 %, 100 of 100 B, 1 B/s, all written; the last steps follow"},
		{job.Done, job.KindBackup, job.Progress{Bytes: 100, BytesDone: 100}, 0, ""},
	} {
		p := c.progress(&job.Job{Kind: x.kind, State: x.state, At: x.at, Created: now.Add(-100 * time.Second)}, "Backup of shop")
		if p.Percent != x.percent || p.Text != x.text {
			t.Errorf("%s %s %+v: %d, %q, want %d, %q", x.kind, x.state, x.at, p.Percent, p.Text, x.percent, x.text)
		}
	}
}
