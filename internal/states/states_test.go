package states_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/states"
)

// What was looked into stays open for a while, and no longer; when it may not be read any more it is closed at once.
func TestCloses(t *testing.T) {
	t.Parallel()
	r, m := servetest.Backup(t, "../../testdata/couchdb-3.5.0/data")
	var held, gone atomic.Int32
	set := states.New(states.Options{Most: 2, Readable: func(*job.Backup) bool { return gone.Load() == 0 }})
	of := &states.Shelf{Backups: []*job.Backup{{ID: "b1", RepoName: m.Instance, Result: job.Result{RepoID: string(m.ID)}}},
		Open: func(context.Context, *job.Backup) (*repo.Repo, func(), error) {
			held.Add(1)
			return r, func() { held.Add(-1) }, nil
		}}
	look := func(q states.State) (*states.View, error) { return set.View(t.Context(), of, q) }
	open := func(q states.State) *states.View {
		t.Helper()
		v, err := look(q)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	is := func(what string, n int, repos int32) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); set.Len() != n || held.Load() != repos; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %d states and %d repositories are open", what, set.Len(), held.Load())
			}
		}
	}
	one, two := open(states.State{Backup: "b1"}), open(states.State{})
	if len(one.Node.Databases()) == 0 || one.Backup == nil || two.Backup != nil {
		t.Errorf("views %+v, %+v", one, two)
	}
	var busy *refusal.Error
	if _, err := look(states.State{At: time.Now()}); !errors.As(err, &busy) || busy.Kind != refusal.Busy {
		t.Errorf("a third: %v", err)
	}
	two.Close()
	open(states.State{At: time.Now()}).Close() // takes its place
	is("two", 2, 1)
	set.Look(time.Now().Add(time.Hour))
	is("the one that is looked at", 1, 1)
	one.Close()
	set.Look(time.Now().Add(time.Minute))
	is("after a minute", 1, 1)
	set.Look(time.Now().Add(time.Hour))
	is("idle", 0, 0)
	open(states.State{Backup: "b1"}).Close()
	gone.Store(1)
	set.Look(time.Now())
	is("of a backup that was deleted", 0, 1)
	set.End()
	is("the end", 0, 0)
	if _, err := look(states.State{}); !errors.As(err, &busy) || busy.Kind != refusal.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}
