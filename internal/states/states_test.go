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

// A moment that was found by a later time is the same one by its own, as pages link to it: it is opened once.
func TestMomentOpenedOnce(t *testing.T) {
	t.Parallel()
	r, m := servetest.Backup(t, "../../testdata/couchdb-3.5.0/data")
	set := states.New(states.Options{Most: 10})
	of := &states.Shelf{Backups: []*job.Backup{{ID: "b1", RepoName: m.Instance, Result: job.Result{RepoID: string(m.ID)}}},
		Open: func(context.Context, *job.Backup) (*repo.Repo, func(), error) { return r, func() {}, nil }}
	open := func(q states.State) *states.View {
		t.Helper()
		v, err := set.View(t.Context(), of, q)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		return v
	}
	for round := range 2 { // the second time after all was closed
		found := open(states.State{At: time.Now()})
		again := open(states.State{At: found.Taken})
		if again.Node != found.Node || !again.Taken.Equal(found.Taken) || set.Len() != 1 {
			t.Errorf("round %d: %d states are open, of %s and %s", round, set.Len(), found.Taken, again.Taken)
		}
		if _, err := again.Node.Database("timeline"); err != nil {
			t.Error(err)
		}
		other := open(states.State{Backup: "b1"})
		if other.Node == found.Node || other.Backup == nil || set.Len() != 2 {
			t.Errorf("round %d: the backup is %+v, of %d states", round, other, set.Len())
		}
		if _, err := set.View(t.Context(), of, states.State{At: found.Taken.Add(-time.Nanosecond)}); err == nil {
			t.Error("before the backup there is a state")
		}
		found.Close()
		again.Close()
		set.Look(time.Now().Add(time.Hour))
		if set.Len() != 1 {
			t.Errorf("%d states are open, want the backup's", set.Len())
		}
		own := open(states.State{At: found.Taken})
		if own.Node == found.Node || !own.Taken.Equal(found.Taken) {
			t.Error("a state that was closed is shown")
		}
		own.Close()
		other.Close()
		set.Look(time.Now().Add(time.Hour))
	}
}
