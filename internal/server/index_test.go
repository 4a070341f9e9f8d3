package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// The backups of an instance are those of all that are of it, in the same order, whatever comes, changes and goes.
func TestBackupsOfInstance(t *testing.T) {
	t.Parallel()
	w := servertest.New(t, bus.Options{}, server.Config{})
	table, err := w.Bus.Table(t.Context(), "backups")
	if err != nil {
		t.Fatal(err)
	}
	rnd, now := rand.New(rand.NewPCG(3, 4)), time.Now().UTC().Truncate(time.Second)
	for range 600 {
		id := fmt.Sprintf("0189aaaa-0000-7000-8000-%012d", rnd.IntN(80))
		if rnd.IntN(4) == 0 {
			_ = table.Delete(t.Context(), id, 0) // which may be gone
			continue
		}
		v, err := json.Marshal(job.Backup{ID: id, Project: "p", Instance: fmt.Sprint("i", rnd.IntN(3)), Status: job.BackupCompleted, Updated: now.Add(time.Duration(rnd.IntN(50)) * time.Second),
			Result: job.Result{Stored: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Put(t.Context(), id, v); err != nil {
			t.Fatal(err)
		}
	}
	last := job.Backup{ID: "0189aaaa-0000-7000-8000-999999999999", Project: "p", Instance: "i0", Status: job.BackupCompleted, Updated: now.Add(time.Hour)}
	v, _ := json.Marshal(last)
	if _, err := table.Put(t.Context(), last.ID, v); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the last one is there", func() bool {
		list, _ := w.Server.Backups(who("p"), server.BackupFilter{Limit: 1})
		return len(list) == 1 && list[0].ID == last.ID
	})
	all, _ := w.Server.Backups(who("p"), server.BackupFilter{Limit: 1000})
	if len(all) < 20 {
		t.Fatalf("%d backups", len(all))
	}
	for _, instance := range []string{"i0", "i1", "i2", "i3"} {
		var want []string
		for _, b := range all {
			if b.Instance == instance {
				want = append(want, b.ID)
			}
		}
		for _, limit := range []int{1000, 3} {
			var got []string
			list, more := w.Server.Backups(who("p"), server.BackupFilter{Instance: instance, Limit: limit})
			for _, b := range list {
				got = append(got, b.ID)
			}
			if !slices.Equal(got, want[:min(limit, len(want))]) || more != (len(want) > limit) {
				t.Errorf("%s by %d: %v, want %v", instance, limit, got, want)
			}
		}
	}
	if got, _ := w.Server.Backups(who("q"), server.BackupFilter{Instance: "i0", Limit: 10}); len(got) != 0 {
		t.Errorf("another project sees %d", len(got))
	}
}
