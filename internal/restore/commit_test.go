package restore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// step is what the server said of timeline after one step of its growth.
type step struct {
	seqs  map[shard.Range]uint64
	sizes map[string]int64 // of the shards' files up to the last commit, by path
}

func timeline(t testing.TB) (steps []step) {
	t.Helper()
	list, err := filepath.Glob(fixture + "/expected/timeline/points/*.json")
	if err != nil || len(list) != 9 {
		t.Fatal(list, err)
	}
	for _, name := range list {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Shards map[string]struct {
				UpdateSeq uint64 `json:"update_seq"`
				Sizes     struct{ File int64 }
			} `json:"shard_info"`
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		s := step{map[shard.Range]uint64{}, map[string]int64{}}
		for name, info := range doc.Shards {
			n, err := shard.ParsePath(name + ".couch")
			if err != nil {
				t.Fatal(err)
			}
			s.seqs[n.Range], s.sizes[n.Path()] = info.UpdateSeq, info.Sizes.File
		}
		steps = append(steps, s)
	}
	return steps
}

// restored restores a moment and holds the shards of timeline against a step.
func restored(t *testing.T, r *repo.Repo, m *manifest.Manifest, moment *repo.Moment, s step) string {
	t.Helper()
	to := t.TempDir()
	res := files(t, restore.Options{Repo: r, Record: moment.Base, Moment: m, To: to, History: restore.HistoryKept})
	if !res.OK() {
		t.Errorf("%v %v", res.Problems, res.Damaged)
	}
	for path, size := range s.sizes {
		got, err := os.ReadFile(filepath.Join(to, path))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(fixture, "data", path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[:size]) {
			t.Errorf("%s has %d bytes, want %d", path, len(got), size)
		}
	}
	return to
}

// TestAtSequence: each step that the server told of timeline comes back out of one backup, by its sequences.
func TestAtSequence(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	for i, s := range timeline(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			m, moment, err := r.AtCommit(t.Context(), "db1", time.Time{}, repo.Commit{DB: "timeline", Seqs: s.seqs})
			if err != nil {
				t.Fatal(err)
			}
			restored(t, r, m, moment, s)
			for _, x := range moment.Shards {
				if n, _ := shard.ParsePath(x.Path); n.DB == "timeline" && (x.UpdateSeq != s.seqs[n.Range] || x.Size != s.sizes[x.Path]) {
					t.Errorf("it is told as %+v", x)
				}
			}
			if moment.Base.ID != rec.ID || m.ID == rec.ID && i < 8 {
				t.Errorf("it is called %s, a moment of %s", m.ID, moment.Base.ID)
			}
		})
	}
}

// grow makes the shards of timeline as they were after a step.
func grow(t *testing.T, data string, s step) {
	t.Helper()
	for path, size := range s.sizes {
		b, err := os.ReadFile(filepath.Join(fixture, "data", path))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(data, path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err == nil && info.Size() > size {
			err = f.Truncate(size)
		} else if err == nil {
			_, err = f.WriteAt(b[info.Size():size], info.Size())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAtSequenceShipped: sequences find the moment that was shipped, and what lies between two.
func TestAtSequenceShipped(t *testing.T) {
	t.Parallel()
	steps := timeline(t)
	data, state := copyFixture(t), t.TempDir()
	grow(t, data, steps[0])
	r := encryptedRepo(t, mem.New())
	take(t, r, data, state)
	n, err := node.Locate(t.Context(), node.Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	var times []time.Time
	for _, k := range []int{2, 3, 6, 8} {
		grow(t, data, steps[k])
		s, err := ship.Open(t.Context(), ship.Options{Repo: r, Node: n, Instance: "db1", StateDir: state, Tool: "test"}) // it looks at all files
		if err == nil {
			err = errors.Join(s.Tick(t.Context()), s.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Now())
		time.Sleep(2 * time.Millisecond)
	}
	for i, want := range steps {
		m, moment, err := r.AtCommit(t.Context(), "db1", time.Time{}, repo.Commit{DB: "timeline", Seqs: want.seqs})
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		restored(t, r, m, moment, want)
	}
	for i, k := range []int{2, 3, 6, 8} {
		m, moment, err := r.At(t.Context(), "db1", times[i])
		if err != nil {
			t.Fatal(err)
		}
		restored(t, r, m, moment, steps[k])
		_, before, err := r.AtCommit(t.Context(), "db1", times[i], repo.Commit{DB: "timeline", Seqs: steps[8].seqs})
		if err != nil || before.Tick != moment.Tick {
			t.Errorf("up to step %d: %+v, %v", k, before, err)
		}
	}
}

// TestBeforeChange: the state before a document changed last, or was deleted.
func TestBeforeChange(t *testing.T) {
	t.Parallel()
	r, _ := fixtureBackup(t)
	changed, deleted := 0, 0
	for _, path := range []string{"shards/00000000-7fffffff/timeline.1795334426.couch", "shards/80000000-ffffffff/timeline.1795334426.couch"} {
		last := open(t, filepath.Join(fixture, "data", path))
		for doc, err := range last.Docs(couchfile.DocsOptions{Deleted: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if doc.Winner().Rev.Pos == 1 || changed > 6 && !doc.Winner().Deleted || deleted > 2 {
				continue
			}
			m, moment, err := r.AtCommit(t.Context(), "db1", time.Time{}, repo.Commit{DB: "timeline", Doc: doc.ID})
			if err != nil {
				t.Fatalf("%s: %v", doc.ID, err)
			}
			to := t.TempDir()
			files(t, restore.Options{Repo: r, Record: moment.Base, Moment: m, To: to, Databases: []string{"timeline"}, KeepSuffix: true, History: restore.HistoryKept})
			was, err := open(t, filepath.Join(to, path)).DocInfo(doc.ID)
			if err != nil || was.UpdateSeq >= doc.UpdateSeq || was.Winner().Deleted && doc.Winner().Deleted {
				t.Errorf("%s: %+v, %v", doc.ID, was, err)
			}
			if changed++; doc.Winner().Deleted {
				deleted++
			}
		}
	}
	if changed < 4 || deleted == 0 {
		t.Errorf("%d changed and %d deleted documents were tried", changed, deleted)
	}
}

func open(t *testing.T, path string) *couchfile.DB {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestNoCommit: what can't be had back is told, and nothing else given for it.
func TestNoCommit(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	full := shard.Range{}
	half := shard.Range{End: 0x7fffffff}
	for name, x := range map[string]struct {
		at   time.Time
		want repo.Commit
		text string
	}{
		"which shard":   {want: repo.Commit{DB: "timeline", Seqs: map[shard.Range]uint64{full: 3}}, text: "00000000-7fffffff, 80000000-ffffffff"},
		"no such shard": {want: repo.Commit{DB: "timeline", Seqs: map[shard.Range]uint64{{End: 5}: 3}}, text: "no shard 00000000-00000005"},
		"another copy":  {want: repo.Commit{DB: "timeline", Seqs: map[shard.Range]uint64{half: 3}, UUIDs: map[shard.Range]string{half: "0000"}}, text: "another copy"},
		"no database":   {want: repo.Commit{DB: "nosuch", Doc: "a"}, text: `database "nosuch"`},
		"no document":   {want: repo.Commit{DB: "timeline", Doc: "nosuch"}, text: `no document "nosuch"`},
		"compacted":     {want: repo.Commit{DB: "compacted", Seqs: map[shard.Range]uint64{half: 1}}, text: "compacted since"},
		"too early":     {at: rec.Started.Add(-time.Hour), want: repo.Commit{DB: "timeline", Doc: "a"}, text: "no moment"},
		"purged":        {want: repo.Commit{DB: "purged", Doc: purgedDoc(t)}, text: "was purged"},
	} {
		_, _, err := r.AtCommit(t.Context(), "db1", x.at, x.want)
		if !errors.Is(err, repo.ErrNoCommit) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: %v, want %q", name, err, x.text)
		}
	}
}

// purgedDoc is a document of which nothing is left but that it was purged.
func purgedDoc(t *testing.T) string {
	t.Helper()
	list, _ := filepath.Glob(fixture + "/data/shards/*/purged.*.couch")
	for _, path := range list {
		db := open(t, path)
		for p, err := range db.Purges(0) {
			if err != nil {
				t.Fatal(err)
			}
			n, _ := shard.ParsePath("shards/" + filepath.Base(filepath.Dir(path)) + "/" + filepath.Base(path))
			if _, err := db.DocInfo(p.DocID); errors.Is(err, couchfile.ErrNotFound) && n.Range.Contains(shard.Hash(p.DocID, false)) {
				return p.DocID
			}
		}
	}
	t.Fatal("there is none")
	return ""
}
