package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// small makes a data directory with the node's own databases and one shard.
func small(t *testing.T, names map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	for to, from := range names {
		b, err := os.ReadFile(filepath.Join(fixture, from))
		if err != nil {
			t.Fatal(err)
		}
		mkfile(t, filepath.Join(dir, to), string(b))
	}
	return dir
}

// Databases of a CouchDB 1.x have no shards by design: nothing is wrong with them.
func TestCouchDB1(t *testing.T) {
	t.Parallel()
	data := small(t, map[string]string{"attach.couch": "data/shards/00000000-7fffffff/localdocs.1795334388.couch", "team/x.couch": "data/_users.couch", "_users.couch": "data/_users.couch"})
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	if rec.DatabaseCount != 3 || rec.Status != manifest.Completed {
		t.Errorf("record: %+v", rec)
	}
	contains(t, manifestOf(t, r, rec).Notes, "CouchDB 1.x")
	dir := filepath.Join(t.TempDir(), "out")
	res := files(t, restore.Options{Repo: r, Record: rec, To: dir})
	sameFiles(t, hashes(t, dir), wanted(t, r, rec))
	slices.Sort(res.Databases)
	if !res.OK() || strings.Join(res.Databases, " ") != "_users attach team/x" {
		t.Errorf("result: %+v", res)
	}
	contains(t, res.Notes, "/_node/_local/NAME")
	rep, err := restore.Trial(t.Context(), restore.TrialOptions{Repo: r, Record: rec, Parent: t.TempDir()})
	if err != nil || !rep.OK() || rep.Verify == nil {
		t.Errorf("trial: %v, %+v", err, rep)
	}

	data = small(t, map[string]string{"attach.couch": "data/_users.couch", "_nodes.couch": "data/_nodes.couch"})
	r = openRepo(t, mem.New())
	rec = take(t, r, data, t.TempDir())
	if res := files(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "out")}); res.OK() || rec.DatabaseCount != 0 {
		t.Errorf("a later CouchDB without its shard map: %+v", res)
	}
}

// Configuration comes back byte for byte under its name, whatever that is.
func TestOddConfiguration(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("other systems have no such names")
	}
	data := small(t, map[string]string{"_nodes.couch": "data/_nodes.couch", "_users.couch": "data/_users.couch"})
	etc := t.TempDir()
	want := map[string]string{
		"local.ini":                     "\xef\xbb\xbf; with a byte order mark\r\n[couchdb]\r\ndatabase_dir = " + data + "\r\n",
		"local.d/10:admin.ini":          "[log]\r\nlevel = debug\r\n",
		"local.d/10%3Aadmin.ini":        "[log]\nlevel = info\n",
		"local.d/caf\xe9.ini":           "[log]\nfile = /caf\xe9/\xff\n",
		"local.d/back\\slash.ini":       "; no line end",
		"local.d/new\nline.ini":         "",
		"local.d/Größe \u202e x.ini":    "[a]\nb = ö\n",
		"local.d/it's \"quoted\" $.ini": "[a]\nb=c\n",
	}
	for name, text := range want {
		mkfile(t, filepath.Join(etc, name), text)
	}
	outside := mkfile(t, filepath.Join(t.TempDir(), "el:se\xff.ini"), "[couchdb]\ndatabase_dir = "+data+"\n")
	n, err := node.Locate(t.Context(), node.Options{Usual: []string{t.TempDir()}, Getenv: func(k string) string {
		return map[string]string{"COUCHDB_INI_FILES": filepath.Join(etc, "local.ini") + " " + filepath.Join(etc, "local.d") + " " + outside}[k]
	}})
	if err != nil {
		t.Fatal(err)
	}
	want["_outside"+outside] = "[couchdb]\ndatabase_dir = " + data + "\n"
	r := encryptedRepo(t, mem.New())
	state := t.TempDir()
	takeNode(t, r, n, state)
	rec := takeNode(t, r, n, state)
	if rec.AddedBytes != 0 {
		t.Errorf("the second backup added %d bytes", rec.AddedBytes)
	}
	to := filepath.Join(t.TempDir(), "etc")
	files(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "out"), ConfigTo: to})
	got := 0
	for name, text := range want {
		if b, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(b) != text {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
	for range hashes(t, to) {
		got++
	}
	if got != len(want) {
		t.Errorf("%d files, want %d", got, len(want))
	}
}

// Who restores indexes is told where CouchDB will look for them.
func TestIndexDirOfTheConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, index := copyFixture(t), filepath.Join(dir, "index")
	if err := os.MkdirAll(index, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(data, ".shards"), filepath.Join(index, ".shards")); err != nil {
		t.Fatal(err)
	}
	mkfile(t, filepath.Join(dir, "etc", "local.ini"), "[couchdb]\ndatabase_dir = "+data+"\nview_index_dir = "+index+"\n")
	n, err := node.Locate(context.Background(), node.Options{ConfigDir: filepath.Join(dir, "etc")})
	if err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, mem.New())
	rec := takeNode(t, r, n, t.TempDir())
	o := restore.Options{Repo: r, Record: rec, To: filepath.Join(dir, "a")}
	contains(t, files(t, o).Notes, "restore with --index-to "+index)
	if err := os.RemoveAll(index); err != nil {
		t.Fatal(err)
	}
	o.To, o.IndexTo = filepath.Join(dir, "b"), index
	if res := files(t, o); strings.Contains(strings.Join(res.Notes, "\n"), "--index-to") {
		t.Errorf("notes: %q", res.Notes)
	}
}

// A backup of a damaged source that the backup didn't see restores exactly what was
// there, and verify says so.
func TestVerifyOfDamageThatTheBackupDidNotSee(t *testing.T) {
	t.Parallel()
	data := small(t, map[string]string{"attach.couch": "damaged/bitflip-attachment.couch"})
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	rep := verify(t, restore.VerifyOptions{Repo: r, Record: rec})
	if !rep.OK() || rep.New == 0 || rep.Unsound() != 0 || rep.Findings[0].Cause != restore.Source || rep.Findings[0].Known {
		t.Errorf("report: %+v", rep)
	}
}
