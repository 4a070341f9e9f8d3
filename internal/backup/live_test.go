package backup_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/testenv"
)

// liveRounds is how often the live test backs up and restores.
var liveRounds = testenv.Rounds(5)

var liveDatabases = []string{"orders", "team/notes", "users-1"}

// Backups of a real CouchDB with writers at work, compactions, and databases that
// come and go: each is restored, served by another CouchDB, and compared document
// by document with what was acknowledged before it began.
func TestLive(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	live := testenv.CouchDB(t, testenv.Options{})
	for _, db := range liveDatabases {
		must(t, live.Put(testenv.DBPath(db)+"?q=2", nil, nil))
		must(t, live.Put(testenv.DBPath(db, "_design/d"), map[string]any{"views": map[string]any{"v": map[string]string{"map": "function(d){emit(d._id,1)}", "reduce": "_count"}}}, nil))
	}
	e := newLiveEnv(t, live.DataDir)
	load := live.Load(testenv.LoadOptions{Databases: liveDatabases, Writers: 3, Duration: 10 * time.Minute, MaxWrites: 2000, Pause: 80 * time.Millisecond, Seed: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() { compactions(ctx, live) })
	others.Go(func() { comingAndGoing(ctx, live) })

	var total backup.Progress
	incrementals := 0
	for round := range liveRounds {
		_ = live.Get(testenv.DBPath(liveDatabases[round%3], "_design/d")+"/_view/v", nil) // so there are indexes
		opts := e.options(e.store)
		opts.Progress = &total
		opts.Full, opts.Compaction, opts.Tails = round%4 == 0, backup.Replay, backup.Replay
		res, err := backup.Run(t.Context(), opts)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if res.Record.Status != manifest.Completed {
			t.Fatalf("round %d: %s: %+v", round, res.Record.Status, res.Damage)
		}
		if res.Record.Type == manifest.Incremental {
			incrementals++
		}
		compareRestored(t, e, res.Record, load.Journal, round)
	}
	cancel()
	others.Wait()
	journal := load.Stop()
	for _, err := range journal.Errors() {
		t.Errorf("the load met an error: %v", err)
	}
	t.Logf("%d rounds, %d incremental, %d acknowledged writes", liveRounds, incrementals, len(journal.Writes()))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLiveEnv(t *testing.T, data string) *env {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	s, err := file.Open(t.TempDir())
	must(t, err)
	_, err = repo.Init(t.Context(), s, repo.InitOptions{Recipients: []string{id.Recipient().String()}})
	must(t, err)
	return &env{t: t, data: data, state: t.TempDir(), store: s, identity: id}
}

// compactions compacts databases and their indexes, one after the other.
func compactions(ctx context.Context, c *testenv.Couch) {
	for i := 0; ctx.Err() == nil; i++ {
		db := liveDatabases[i%len(liveDatabases)]
		_ = c.Compact(db)
		_ = c.Post(testenv.DBPath(db)+"/_compact/d", struct{}{}, nil)
		pause(ctx, 300*time.Millisecond)
	}
}

// comingAndGoing creates databases, writes to them and deletes them.
func comingAndGoing(ctx context.Context, c *testenv.Couch) {
	for i := 0; ctx.Err() == nil; i++ {
		db := fmt.Sprintf("brief-%d", i%5)
		_ = c.Put(testenv.DBPath(db)+"?q=2", nil, nil)
		for k := range 5 {
			_ = c.Put(testenv.DBPath(db, fmt.Sprintf("doc%d", k)), map[string]int{"i": i}, nil)
		}
		pause(ctx, 50*time.Millisecond)
		_ = c.Delete(testenv.DBPath(db))
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// compareRestored restores a backup, has a CouchDB serve it, and holds it against
// what was acknowledged.
func compareRestored(t *testing.T, e *env, rec *manifest.Record, journal *testenv.Journal, round int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	res, err := restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: rec, To: dir})
	if err != nil {
		t.Fatalf("round %d: restore: %v", round, err)
	}
	if len(res.Problems)+len(res.Damaged) > 0 {
		t.Errorf("round %d: restore: problems %v, damaged %v", round, res.Problems, res.Damaged)
	}
	report, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: e.repo(e.store), Record: rec})
	if err != nil || !report.OK() {
		t.Errorf("round %d: verify: %v %+v", round, err, report)
	}
	sub := &stopped{TB: t}
	restored := testenv.CouchDB(sub, testenv.Options{DataDir: dir})
	defer restored.Stop()
	wrong, err := journal.Compare(rec.Started, restored.State)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	for i, line := range wrong {
		if i == 10 {
			t.Fatalf("round %d: and %d more", round, len(wrong)-i)
		}
		t.Errorf("round %d: %s", round, line)
	}
	// Every view must agree with the documents that its server serves.
	for _, db := range liveDatabases {
		var view struct {
			Rows []struct{ Value int }
		}
		var info struct {
			Docs int `json:"doc_count"`
		}
		must(t, restored.Get(testenv.DBPath(db, "_design/d")+"/_view/v", &view))
		must(t, restored.Get(testenv.DBPath(db), &info))
		if len(view.Rows) == 1 && view.Rows[0].Value != info.Docs-1 || len(view.Rows) == 0 && info.Docs > 1 {
			t.Errorf("round %d: %s: the view counts %v, the database has %d documents and the design document", round, db, view.Rows, info.Docs-1)
		}
	}
	t.Logf("round %d: %s, %d files, %d left out, %d bytes of %d read, %d of them new", round, rec.Type, rec.FileCount, rec.LeftOutCount, rec.ReadBytes, rec.SizeBytes, rec.AddedBytes)
}

// stopped is a test whose servers are stopped by who started them.
type stopped struct{ testing.TB }

// SIGKILL at any moment leaves what was acknowledged in the next backup.
func TestLiveKilledServer(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	must(t, live.Put("/orders?q=2", nil, nil))
	e := newLiveEnv(t, live.DataDir)
	load := live.Load(testenv.LoadOptions{Databases: []string{"orders"}, Writers: 3, Duration: time.Minute, Seed: 2})
	for round := range 3 {
		time.Sleep(time.Duration(200+100*round) * time.Millisecond)
		live.Kill()
		rec := e.run().Record // of a server that is down, with torn tails
		compareDead(t, e, rec, load.Journal)
		live.Start()
		compareDead(t, e, e.run().Record, load.Journal)
	}
	load.Stop()
}

// compareDead reads a backup's shards where they are stored, without a server.
func compareDead(t *testing.T, e *env, rec *manifest.Record, journal *testenv.Journal) {
	t.Helper()
	r := e.repo(e.store)
	m, err := r.Manifest(t.Context(), rec)
	must(t, err)
	rd := r.NewReader(m, nil)
	var dbs []*couchfile.DB
	for _, f := range m.Files {
		if f.Kind == manifest.Shard && f.Header != nil {
			db, err := couchfile.Open(rd.ReaderAt(t.Context(), f), f.Size)
			must(t, err)
			dbs = append(dbs, db)
		}
	}
	missing := 0
	for _, w := range journal.Writes() {
		if w.DB != "orders" || !w.Acked.Before(rec.Started) {
			continue
		}
		found := false
		for _, db := range dbs {
			info, err := db.DocInfo(w.ID)
			if err != nil {
				continue
			}
			rev, err := couchfile.ParseRev(w.Rev)
			must(t, err)
			_, ok := info.Revision(rev)
			found = found || ok
		}
		if !found {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("backup %s lacks %d acknowledged writes", rec.ID.Short(), missing)
	}
}
