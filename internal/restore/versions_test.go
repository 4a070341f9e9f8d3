package restore_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestVersions backs up what other CouchDBs wrote, and brings it back byte by byte.
func TestVersions(t *testing.T) {
	for _, version := range testenv.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			data := testenv.VersionDir(t, version)
			r := openRepo(t, mem.New())
			rec := take(t, r, data, t.TempDir())
			if m := manifestOf(t, r, rec); len(m.Damage)+len(m.LeftOut) > 0 {
				t.Errorf("the backup finds %+v, and leaves out %+v", m.Damage, m.LeftOut)
			}
			to := filepath.Join(t.TempDir(), "data")
			res := files(t, restore.Options{Repo: r, Record: rec, To: to})
			if len(res.Problems)+len(res.Lost)+len(res.Dropped)+len(res.Damaged) > 0 {
				t.Errorf("%+v", res)
			}
			sameFiles(t, hashes(t, to), hashes(t, data))
			begunAnew(t, r, rec, data)
			renamedNode(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "data"), NodeName: "other@127.0.0.1"}, data)
			commands(t, restore.Options{Repo: r, Record: rec, To: filepath.Join(t.TempDir(), "one"), Databases: []string{"path/with+odd(name)$"}, As: "new"}, strings.HasPrefix(version, "2."))
		})
	}
}

// begunAnew restores with a new history, in the version that the shards are of.
func begunAnew(t *testing.T, r *repo.Repo, rec *manifest.Record, data string) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	res := files(t, restore.Options{Repo: r, Record: rec, To: to, History: restore.HistoryNew})
	uuids := beginsWith(t, r, rec, to)
	if !res.OK() || len(uuids) == 0 || res.History.Shards != len(uuids) {
		t.Errorf("%q, %d shards of %d", res.Problems, res.History.Shards, len(uuids))
	}
	for path := range uuids {
		was := openFile(t, filepath.Join(data, filepath.FromSlash(path))).Header()
		is := openFile(t, filepath.Join(to, filepath.FromSlash(path))).Header()
		if is.DiskVersion != was.DiskVersion || is.Checksum != was.Checksum || is.More != was.More || !reflect.DeepEqual(is.Epochs, was.Epochs) {
			t.Errorf("%s: the header is %+v, was %+v", path, is, was)
		}
	}
}

// renamedNode restores for another node's name. The maps then name that, and the CouchDB that
// wrote them can open them.
func renamedNode(t *testing.T, o restore.Options, data string) {
	t.Helper()
	files(t, o)
	was, is := openFile(t, filepath.Join(data, "_dbs.couch")), openFile(t, filepath.Join(o.To, "_dbs.couch"))
	before, after := was.Header(), is.Header()
	if after.DiskVersion != before.DiskVersion || after.Checksum != couchfile.MD5 {
		t.Errorf("the maps are of disk version %d with %v, want %d with MD5", after.DiskVersion, after.Checksum, before.DiskVersion)
	}
	if got, want := securityOf(t, is), securityOf(t, was); before.SecurityPtr >= 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("the maps' security is %v, want %v", got, want)
	}
	maps := 0
	for info, err := range is.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		doc, err := is.Doc(info.ID, couchfile.DocOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if m, ok, err := shard.ParseMap(doc); err != nil || ok && len(m.ByNode[o.NodeName]) == 0 {
			t.Errorf("%s, %v", doc, err)
		}
		maps++
	}
	if info, err := was.Info(); err != nil || maps != int(info.DocCount) {
		t.Errorf("%d maps, %v, want %d", maps, err, info.DocCount)
	}
}

func securityOf(t *testing.T, db *couchfile.DB) (v any) {
	t.Helper()
	b, err := db.Security()
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func openFile(t *testing.T, path string) *couchfile.DB {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return db
}

// commands restores a chosen database. The map goes to where the server of its kind takes it.
func commands(t *testing.T, o restore.Options, old bool) {
	t.Helper()
	res := files(t, o)
	want, other := "'http://127.0.0.1:5984/_node/_local/_dbs/new'", "/_node/_local"
	if old {
		want, other = "'http://127.0.0.1:5986/_dbs/new'", "/_membership"
		contains(t, res.Notes, "[httpd] port")
	}
	contains(t, res.Commands, want)
	contains(t, res.Notes, "GET "+other)
	if slices.ContainsFunc(res.Notes, func(s string) bool { return strings.Contains(s, "5986") }) != old {
		t.Errorf("%q", res.Notes)
	}
}
