package backups_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/testenv"
)

// liveFor is how long the live round lasts, if by then enough went well.
var liveFor = time.Duration(testenv.Rounds(15)) * time.Second

// Backups of a CouchDB with writers at work, to a Swift that does harm at random,
// while another process prunes by way of a bad connection of its own: every backup
// that is listed in the end restores, and the last has what was acknowledged.
func TestRemoteLive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	live := testenv.CouchDB(t, testenv.Options{})
	databases := []string{"orders", "notes"}
	for _, db := range databases {
		if err := live.Put(testenv.DBPath(db)+"?q=2", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	k, s := startSwift(t), newSource(t, 1<<20)
	node := *s
	node.data = live.DataDir
	tr := newTrial(t, k, &node, s.empty)
	tr.retryFor = "1m"
	second := testenv.NewFront(t, k.server)
	const seed = 7
	tr.front.Set(random(seed))
	second.Set(random(seed + 1))
	load := live.Load(testenv.LoadOptions{Databases: databases, Writers: 2, Duration: 10 * time.Minute, Pause: 20 * time.Millisecond, Seed: seed})

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	began := time.Now()
	pruner := &command{source: &node, repo: k.url(second.URL, tr.container, ""), state: t.TempDir(), retryFor: "1m", process: true}
	var prunes atomic.Int64
	var last atomic.Value // what a command said that didn't go well
	last.Store("")
	var others sync.WaitGroup
	others.Go(func() {
		for wait(ctx, 2*time.Second) {
			out := pruner.run(t.Context(), "prune", "--keep-last", "2")
			if worked(t, out, "prune") {
				prunes.Add(1)
			} else {
				last.Store(out.stderr)
			}
		}
	})
	backups := 0
	for (time.Since(began) < liveFor || backups < 3 || prunes.Load() < 2) && wait(ctx, time.Second) {
		out := tr.run(t.Context(), "backup", "create")
		if worked(t, out, "backup") {
			backups++
		} else {
			last.Store(out.stderr)
		}
	}
	cancel()
	others.Wait()
	journal := load.Stop()
	harmed := len(tr.front.Seen()) + len(second.Seen())
	tr.front.Set(nil)
	tr.retryFor = "5m" // longer than a claim stands in the way
	tr.must(t, "backup", "create")
	for _, err := range journal.Errors() {
		t.Errorf("the load met an error: %v", err)
	}
	if backups < 2 || prunes.Load() < 1 { // two claims may stand in the way for minutes, again and again
		t.Errorf("only %d backups and %d prunes went well; the last that didn't: %s", backups, prunes.Load(), last.Load())
	}

	var list struct {
		Backups []struct {
			ID      string
			Started time.Time
		}
	}
	if err := json.Unmarshal([]byte(tr.must(t, "backup", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	newest, dir := time.Time{}, ""
	for _, b := range list.Backups {
		to := filepath.Join(t.TempDir(), "data")
		if out := tr.run(t.Context(), "restore", b.ID, "--to", to, "--identity", tr.identity); out.code != 0 {
			t.Errorf("restore %s: code %d: %s", b.ID, out.code, out.stderr)
		}
		if b.Started.After(newest) {
			newest, dir = b.Started, to
		}
	}
	tr.clean(t, len(list.Backups))
	restored := testenv.CouchDB(t, testenv.Options{DataDir: dir})
	wrong, err := journal.Compare(newest, restored.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range wrong[:min(10, len(wrong))] {
		t.Error(line)
	}
	t.Logf("%d backups, %d prunes, %d listed, %d requests under faults, %d acknowledged writes, %d wrong", backups+1, prunes.Load(), len(list.Backups), harmed, len(journal.Writes()), len(wrong))
}

// wait waits, or returns false if ctx is done.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// worked reports whether a command went well. It may be that another one had the
// lock, or that the storage was away for longer than a command tries: an answer lost
// at both sides' put of a lock leaves two claims, which Swift's driver respects for
// two minutes.
func worked(t *testing.T, out output, what string) bool {
	t.Helper()
	const locked, unavailable = 5, 10
	if out.code != 0 && out.code != locked && out.code != unavailable {
		t.Errorf("%s: code %d: %s", what, out.code, out.stderr)
	}
	return out.code == 0
}

// random does harm to one request in ten.
func random(seed uint64) testenv.Harm {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(int, *http.Request) testenv.Fault {
		switch r.IntN(60) {
		case 0:
			return testenv.Answer(503)
		case 1:
			return testenv.HangUp
		case 2:
			return testenv.LoseAnswer
		case 3:
			return testenv.CutUpload(r.Int64N(1000))
		case 4:
			return testenv.CutDownload(r.Int64N(1000))
		case 5:
			return testenv.StallDownload(0)
		}
		return nil
	}
}
