package restore_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

func TestWholeNode(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "to", "data")
	var p restore.Progress
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, Progress: &p})
	want := wanted(t, r, rec)
	sameFiles(t, hashes(t, dir), want)
	if !res.OK() || len(res.Warnings) > 0 || len(res.Dropped) > 0 {
		t.Errorf("result: %+v", res)
	}
	if int(res.Files) != len(want) || res.Bytes != rec.SizeBytes || p.Bytes.Load() != rec.SizeBytes || res.KeptFiles != 0 {
		t.Errorf("got %d files of %d bytes, want %d of %d", res.Files, res.Bytes, len(want), rec.SizeBytes)
	}
	if len(res.Databases) != 25 {
		t.Errorf("%d databases: %q", len(res.Databases), res.Databases)
	}
}

// Who is told that all is there is told before the marker goes, with what is wrong, and may have the restore go on later.
func TestWholeIsTold(t *testing.T) {
	t.Parallel()
	data := copyFixture(t)
	lost := ""
	for p := range hashes(t, data) {
		if strings.HasPrefix(p, "shards/") && strings.HasSuffix(p, ".couch") && (lost == "" || p < lost) {
			lost = p
		}
	}
	if err := os.Remove(filepath.Join(data, lost)); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	marker := filepath.Join(dir, restore.MarkerName)
	told, later := 0, errors.New("later")
	o := restore.Options{Repo: r, Record: rec, To: dir, Whole: func(res *restore.Result) error {
		if _, err := os.Stat(marker); err != nil || res.OK() {
			t.Errorf("the marker: %v; the result %+v", err, res)
		}
		if told++; told == 1 {
			return later
		}
		return nil
	}}
	if _, err := restore.Files(t.Context(), o); !errors.Is(err, later) {
		t.Errorf("got %v", err)
	}
	if res := files(t, o); told != 2 || !res.Continued {
		t.Errorf("told %d times, %+v", told, res)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the marker is there: %v", err)
	}
}

func TestRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := t.TempDir()
	note := filepath.Join(dir, "note.txt")
	if err := os.WriteFile(note, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Files(t.Context(), restore.Options{Repo: r, Record: rec, To: dir}); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("not empty: got %v", err)
	}
	if got := hashes(t, dir); len(got) != 1 {
		t.Errorf("a refused restore left %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, restore.MarkerName), []byte(`{"backup":"another"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Files(t.Context(), restore.Options{Repo: r, Record: rec, To: dir}); !errors.Is(err, restore.ErrUnfinished) {
		t.Errorf("another's marker: got %v", err)
	}
}

func TestDelta(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "data")
	o := restore.Options{Repo: r, Record: rec, To: dir}
	files(t, o)
	want := wanted(t, r, rec)

	write := func(rel, s string) string {
		p := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	m := manifestOf(t, r, rec)
	var shards []string
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, "shards/") {
			shards = append(shards, f.Path)
		}
	}
	grown, flipped, gone := filepath.Join(dir, shards[0]), filepath.Join(dir, shards[1]), filepath.Join(dir, shards[2])
	if f, err := os.OpenFile(grown, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else {
		f.WriteString("more")
		f.Close()
	}
	b, _ := os.ReadFile(flipped)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(flipped, b, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(gone)
	stray := write("shards/00000000-7fffffff/newer.1800000000.couch", "x")
	write("shards/00000000-7fffffff/newer.1800000000.couch.compact.data", "x")
	write(".shards/00000000-7fffffff/newer.1800000000_design/mrview/0123456789abcdef0123456789abcdef.view", "x")
	write("shards/00000000-7fffffff/.tmp-ABC~", "x")
	write("shards/00000000-7fffffff/README", "mine")
	write("nouveau/a/segment", "mine")

	if _, err := restore.Files(t.Context(), o); !errors.Is(err, restore.ErrNotEmpty) {
		t.Fatalf("without Delta: got %v", err)
	}
	o.Delta = true
	res := files(t, o)
	contains(t, res.LeftAlone, filepath.Join(dir, "nouveau"))
	contains(t, res.LeftAlone, "README")
	contains(t, res.Removed, stray)
	if len(res.LeftAlone) != 2 || len(res.Removed) != 3 {
		t.Errorf("left alone %q, removed %q", res.LeftAlone, res.Removed)
	}
	if got := res.Files - res.KeptFiles; got != 3 { // the three shards
		t.Errorf("%d files written, want 3", got)
	}
	got := hashes(t, dir)
	delete(got, filepath.FromSlash("shards/00000000-7fffffff/README"))
	delete(got, filepath.FromSlash("nouveau/a/segment"))
	delete(got, filepath.FromSlash(".shards/00000000-7fffffff/newer.1800000000_design/mrview"))
	sameFiles(t, got, want)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	var dir string
	var err error
	for range 20 { // it may be done before who cancels has had a turn
		ctx, cancel := context.WithCancel(t.Context())
		var p restore.Progress
		dir = filepath.Join(t.TempDir(), "data")
		go func() {
			for p.FilesDone.Load() < 5 {
				runtime.Gosched()
			}
			cancel()
		}()
		if _, err = restore.Files(ctx, restore.Options{Repo: r, Record: rec, To: dir, Progress: &p}); err != nil {
			break
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want a cancel", err)
	}
	if got := hashes(t, dir); got[restore.MarkerName] == "" || got["_dbs.couch"] != "" {
		t.Errorf("after the cancel: %v", got)
	}
}

func TestStorageErrorsAtEachRead(t *testing.T) {
	t.Parallel()
	store := mem.New()
	r := openRepo(t, store)
	rec := take(t, r, copyFixture(t), t.TempDir())
	broken := errors.New("the network is down")
	for n := 1; ; n++ {
		f := faulty.New(store, func(op faulty.Op) faulty.Action { return faulty.At(n, faulty.Fail(broken))(op) })
		fr, err := repo.Open(t.Context(), f, repo.Options{})
		if err != nil {
			continue // that read failed
		}
		dir := filepath.Join(t.TempDir(), "data")
		_, err = restore.Files(t.Context(), restore.Options{Repo: fr, Record: rec, To: dir})
		if err == nil {
			if f.Reached() {
				continue // read ahead, and read again
			}
			sameFiles(t, hashes(t, dir), wanted(t, r, rec))
			return
		}
		if !errors.Is(err, broken) {
			t.Fatalf("read %d: %v", n, err)
		}
		if _, serr := os.Stat(filepath.Join(dir, "_dbs.couch")); serr == nil {
			t.Errorf("read %d: a failed restore looks whole", n)
		}
		if n > 200 {
			t.Fatal("no end of reads")
		}
	}
}

func TestChosenDatabases(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "out")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir, Databases: []string{"viewed", "team/*"}})
	if len(res.Databases) != 2 || !res.OK() || res.Suffix == "" {
		t.Fatalf("result: %+v", res)
	}
	got := hashes(t, dir)
	var shards, views int
	for p := range got {
		p = filepath.ToSlash(p)
		switch {
		case strings.HasPrefix(p, "shards/"):
			shards++
			if !strings.HasSuffix(p, res.Suffix+".couch") {
				t.Errorf("%s has the old suffix", p)
			}
		case strings.HasPrefix(p, ".shards/"):
			views++
			if !strings.Contains(p, res.Suffix+"_design/mrview/") {
				t.Errorf("%s has the old suffix", p)
			}
		}
	}
	if shards != 4 || views == 0 || got["_dbs.couch"] != "" || got[restore.MarkerName] != "" {
		t.Errorf("%d shards, %d views in %v", shards, views, got)
	}
	b, err := os.ReadFile(filepath.Join(dir, "shard-maps", "viewed.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		ID      string              `json:"_id"`
		Rev     string              `json:"_rev"`
		Suffix  []rune              `json:"shard_suffix"`
		ByNode  map[string][]string `json:"by_node"`
		ByRange map[string][]string `json:"by_range"`
		Props   map[string]any      `json:"props"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.ID != "viewed" || doc.Rev != "" || string(doc.Suffix) != res.Suffix || len(doc.ByNode[nodeName]) != len(doc.ByRange) || doc.Props == nil {
		t.Errorf("map: %s", b)
	}
	contains(t, res.Commands, "shard-maps/team%2Fa%2Bb_%24%28c%29-d%2F2026.json")
}

func TestNoSuchDatabase(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir := filepath.Join(t.TempDir(), "out")
	_, err := restore.Files(t.Context(), restore.Options{Repo: r, Record: rec, To: dir, Databases: []string{"viewd"}})
	if !errors.Is(err, restore.ErrNoSuchDB) || !strings.Contains(err.Error(), "viewed") {
		t.Errorf("error: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
}

func TestIndexDirectory(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	dir, index := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "index")
	files(t, restore.Options{Repo: r, Record: rec, To: dir, IndexTo: index})
	got := hashes(t, dir)
	for p, h := range hashes(t, index) {
		if !strings.HasPrefix(p, ".shards") {
			t.Errorf("%s is among the indexes", p)
		}
		got[p] = h
	}
	sameFiles(t, got, wanted(t, r, rec))
}
