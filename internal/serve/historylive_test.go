package serve_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// writer writes documents to a CouchDB as clients and replications do.
type writer struct {
	*testing.T
	live *testenv.Couch
	rnd  *rand.Rand
	n    int
}

func (w *writer) path(id string) string { return testenv.DBPath("d", id) }

func (w *writer) rev(id string) string {
	var doc struct {
		Rev string `json:"_rev"`
	}
	_ = w.live.Get(w.path(id), &doc)
	return doc.Rev
}

func (w *writer) put(id string) {
	w.n++
	doc := map[string]any{"n": w.n}
	if rev := w.rev(id); rev != "" {
		doc["_rev"] = rev
	}
	// A server is at odds with itself about a document some of whose leaves were purged.
	if err := w.live.Put(w.path(id), doc, nil); testenv.Status(err) != 409 {
		must(w, err)
	}
}

func (w *writer) remove(id string) {
	if rev := w.rev(id); rev != "" {
		must(w, w.live.Delete(w.path(id)+"?rev="+rev))
	}
}

// conflict writes a revision beside the newest one, as a replication does.
func (w *writer) conflict(id string) {
	w.n++
	rev, err := couchfile.ParseRev(w.rev(id))
	if err != nil {
		return
	}
	doc := map[string]any{"n": w.n, "_rev": fmt.Sprintf("%d-%032x", rev.Pos, w.n)}
	must(w, w.live.Put(w.path(id)+"?new_edits=false", doc, nil))
}

// resolve deletes the conflicts of a document.
func (w *writer) resolve(id string) {
	var doc struct {
		Conflicts []string `json:"_conflicts"`
	}
	_ = w.live.Get(w.path(id)+"?conflicts=true", &doc)
	for _, rev := range doc.Conflicts {
		must(w, w.live.Delete(w.path(id)+"?rev="+rev))
	}
}

func (w *writer) purge(id string, all bool) {
	var leaves []struct {
		OK struct {
			Rev string `json:"_rev"`
		} `json:"ok"`
	}
	if w.live.Get(w.path(id)+"?open_revs=all", &leaves) != nil || len(leaves) == 0 {
		return
	}
	var revs []string
	for _, l := range leaves {
		if l.OK.Rev != "" && (all || len(revs) == 0) {
			revs = append(revs, l.OK.Rev)
		}
	}
	if len(revs) > 0 {
		must(w, w.live.Post("/d/_purge", map[string]any{id: revs}, nil))
	}
}

var historyIDs = []string{"a", "b", "c", "d", "e", "calm"}

func (w *writer) step() {
	for range w.rnd.IntN(5) {
		id := historyIDs[w.rnd.IntN(len(historyIDs)-1)]
		switch k := w.rnd.IntN(20); {
		case k < 10:
			w.put(id)
		case k < 12:
			w.remove(id)
		case k < 15:
			w.conflict(id)
		case k < 17:
			w.resolve(id)
		default:
			w.purge(id, k > 17)
		}
	}
}

// held is what a state has of a document: leaves, the winner first, and revisions whose bodies are there. It opens the state as
// a client would that asks for it, and is told nothing by any other.
type held struct {
	at     time.Time
	backup manifest.BackupID
	uuid   string
	leaves []serve.LeafState
	bodies map[string]bool
	purged bool // as the database remembers
}

func heldBy(t *testing.T, r *repo.Repo, states []repo.DatabaseState, doc string) (out []held) {
	t.Helper()
	for _, s := range states {
		h := held{at: s.At.UTC(), bodies: map[string]bool{}}
		var m *manifest.Manifest
		var err error
		if s.Backup != nil {
			h.backup = s.Backup.ID
			m, err = r.Manifest(t.Context(), s.Backup)
		} else {
			m, _, err = r.At(t.Context(), "node1", s.At)
		}
		must(t, err)
		n, err := serve.OpenNode(t.Context(), r, m)
		must(t, err)
		d, err := n.Database("d")
		if errors.Is(err, serve.ErrNoDatabase) {
			n.Close()
			continue
		}
		must(t, err)
		db, err := d.Find(t.Context(), doc)
		must(t, err)
		h.uuid = db.Header().UUID
		info, err := db.DocInfo(doc)
		if err == nil {
			for _, l := range info.Leaves() {
				h.leaves = append(h.leaves, serve.LeafState{Rev: l.Rev.String(), Deleted: l.Deleted})
			}
			for _, x := range info.Revs {
				if x.Stored {
					h.bodies[x.Rev.String()] = true
					_, err := db.RevisionJSON(info, x, couchfile.DocOptions{})
					must(t, err)
				}
			}
		} else if !errors.Is(err, couchfile.ErrNotFound) {
			t.Fatal(err)
		}
		for p, err := range db.Purges(0) {
			must(t, err)
			h.purged = h.purged || p.DocID == doc
		}
		n.Close()
		out = append(out, h)
	}
	return out
}

// The history of each document is what every backup and moment has, each opened by itself: revisions that only one in the middle
// has, conflicts that came and went between two, purges of documents and of leaves, compactions, short histories, and a
// database that was made anew.
func TestHistoryIsWhatStatesHave(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	seed := testenv.Seed(t)
	for round := range testenv.Rounds(1) {
		holdHistory(t, live, rand.New(rand.NewPCG(seed, uint64(round))))
		must(t, live.Delete("/d"))
	}
}

func holdHistory(t *testing.T, live *testenv.Couch, rnd *rand.Rand) {
	must(t, live.Put("/d?q=1", nil, nil))
	state := t.TempDir()
	r := servetest.Init(t, mem.New())()
	clock := time.Now().Add(-100 * 24 * time.Hour)
	now := func() time.Time { clock = clock.Add(7 * time.Millisecond); return clock }
	var shipper *ship.Shipper
	defer func() {
		if shipper != nil {
			shipper.Close()
		}
	}()
	w := &writer{T: t, live: live, rnd: rnd}
	w.put("calm")
	for i := range 40 {
		switch {
		case i == 20:
			must(t, live.Delete("/d"))
			must(t, live.Put("/d?q=1", nil, nil))
			w.put("calm")
		case i == 28:
			must(t, live.Put("/d/_revs_limit", 3, nil))
		case rnd.IntN(5) == 0:
			must(t, live.Compact("d"))
		}
		w.step()
		clock = clock.Add(time.Hour)
		if i%3 == 1 && shipper != nil {
			shipper.Look(t.Context())
			must(t, shipper.Tick(t.Context()))
			continue
		}
		n, err := node.Locate(t.Context(), node.Options{DataDir: live.DataDir})
		must(t, err)
		_, err = backup.Run(t.Context(), backup.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Name: fmt.Sprint(i), Tool: "test", Tails: backup.Replay, Compaction: backup.Replay, Now: now})
		must(t, err)
		if shipper == nil {
			shipper, err = ship.Open(t.Context(), ship.Options{Repo: r, Node: n, Instance: "node1", StateDir: state, Tool: "test", Now: now})
			must(t, err)
		}
	}
	line, err := r.Timeline(t.Context(), "node1", "d")
	must(t, err)
	for _, doc := range historyIDs {
		want := heldBy(t, r, line.States, doc)
		got, err := serve.History(t.Context(), r, "node1", "d", doc)
		if errors.Is(err, couchfile.ErrNotFound) && !slices.ContainsFunc(want, func(h held) bool { return len(h.leaves) > 0 }) {
			continue
		}
		must(t, err)
		holdRevisions(t, doc, got.Revisions, want)
		holdStates(t, doc, got.States, want)
	}
}

func holdRevisions(t *testing.T, doc string, got []serve.DocRevision, want []held) {
	t.Helper()
	revs := map[string]serve.DocRevision{}
	for _, h := range want {
		for rev := range h.bodies {
			x, ok := revs[rev]
			if !ok {
				x.First = h.at
			}
			x.Last = h.at
			if h.backup != "" {
				x.From = h.backup
			}
			revs[rev] = x
		}
	}
	if len(got) != len(revs) {
		t.Errorf("%s: %d revisions, and files have %d", doc, len(got), len(revs))
	}
	for _, x := range got {
		is, ok := revs[x.Rev]
		if !ok || !x.First.Equal(is.First) || !x.Last.Equal(is.Last) || x.From != is.From {
			t.Errorf("%s: revision %+v, and files have it from %v to %v, %s (%t)", doc, x, is.First, is.Last, is.From, ok)
		}
		delete(revs, x.Rev)
	}
	for rev := range revs {
		t.Errorf("%s: revision %s is not told", doc, rev)
	}
}

func holdStates(t *testing.T, doc string, got []serve.DocState, want []held) {
	t.Helper()
	type state struct {
		purged      bool
		leaves      []serve.LeafState
		first, last time.Time
	}
	var states []state
	uuid := ""
	for _, h := range want {
		n := len(states)
		if len(h.leaves) == 0 && (n == 0 || h.uuid != uuid && !h.purged) {
			continue
		}
		uuid = h.uuid
		if n > 0 && states[n-1].purged == (len(h.leaves) == 0) && slices.Equal(states[n-1].leaves, h.leaves) {
			states[n-1].last = h.at
			continue
		}
		states = append(states, state{len(h.leaves) == 0, h.leaves, h.at, h.at})
	}
	var told []state
	for _, s := range got {
		x := state{purged: s.Kind == serve.DocPurged, first: s.First, last: s.Last}
		if !x.purged {
			x.leaves = append([]serve.LeafState{{Rev: s.Rev, Deleted: s.Kind == serve.DocDeleted}}, s.Leaves...)
		}
		told = append(told, x)
	}
	if len(told) != len(states) {
		t.Errorf("%s: %d states, and there are %d:\n%+v\n%+v", doc, len(told), len(states), told, states)
		return
	}
	for i := range told {
		a, b := told[i], states[i]
		if !b.purged && len(a.leaves) > 0 { // of changes between deletions the kind tells that it is changed
			a.leaves[0].Deleted = b.leaves[0].Deleted
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: state %d: %+v, and it was %+v", doc, i, a, b)
		}
	}
}
