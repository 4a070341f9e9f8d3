package node_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

const sig = "32b884e1523e3dc8b0d023c694f8f08b"

func scan(t *testing.T, n *node.Node, o node.ScanOptions) *node.Listing {
	t.Helper()
	l, err := n.Scan(t.Context(), o)
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	return l
}

// text writes a listing one file a line: in the order of reading, then what is
// left out.
func text(l *node.Listing) string {
	var b strings.Builder
	for e := range l.All() {
		fmt.Fprintf(&b, "%s %s:%s", e.Kind, e.Root, e.Path)
		if e.DB != "" {
			fmt.Fprintf(&b, " db=%s", e.DB)
		}
		if e.Suffix != "" {
			fmt.Fprintf(&b, " %s%s", e.Range, e.Suffix)
		}
		if e.Source != "" {
			fmt.Fprintf(&b, " from %s", filepath.Base(e.Source))
		}
		b.WriteByte('\n')
	}
	for _, o := range l.LeftOut {
		fmt.Fprintf(&b, "out %s:%s %s\n", o.Root, o.Path, o.Reason)
	}
	return b.String()
}

func want(t *testing.T, got string, lines ...string) {
	t.Helper()
	if w := strings.Join(lines, "\n") + "\n"; got != w {
		t.Errorf("got\n%swant\n%s", got, w)
	}
}

// empty makes a tree of empty files.
func empty(t *testing.T, names ...string) string {
	t.Helper()
	files := map[string]string{}
	for _, n := range names {
		files[n] = ""
	}
	return tree(t, files)
}

func TestScanFixture(t *testing.T) {
	n := locate(t, node.Options{ConfigDir: fixture + "/etc", DataDir: fixture + "/data"})
	l := scan(t, n, node.ScanOptions{Indexes: true})
	var got, all []string
	for e := range l.All() {
		if e.Kind != manifest.Config {
			got = append(got, e.Path)
		}
		st, err := os.Stat(n.Path(e))
		if err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: %v", e.Path, err)
		}
	}
	must(t, filepath.WalkDir(fixture+"/data", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(fixture+"/data", p)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	}))
	slices.Sort(got)
	slices.Sort(all)
	if len(all) < 50 || !slices.Equal(got, all) {
		t.Errorf("found %d files, want %d:\n%s", len(got), len(all), text(l))
	}
	if len(l.LeftOut) != 0 || len(l.System) != 3 || len(l.Config) != 1 || len(l.Views) == 0 {
		t.Errorf("%d left out, %d system, %d config, %d views:\n%s", len(l.LeftOut), len(l.System), len(l.Config), len(l.Views), text(l))
	}
	if !slices.ContainsFunc(l.Shards, func(e node.Entry) bool { return e.DB == "team/a+b_$(c)-d/2026" }) {
		t.Error("the database with slashes is missing")
	}
}

func TestScanNamesEverything(t *testing.T) {
	dir := empty(t,
		"_dbs.couch", "_nodes.couch", "_users.couch", "old.couch", "sub/old.couch", "Copy of x.couch",
		"shards/00000000-7fffffff/db.1795334390.couch",
		"shards/00000000-7fffffff/db.1795334390.couch.compact.data",
		"shards/00000000-7fffffff/db.1795334390.couch.compact.meta",
		"shards/00000000-7fffffff/db.1795334390.couch.compact",
		"shards/00000000-7fffffff/gone.1795334390.20261122.133000.deleted.couch",
		"shards/00000000-7fffffff/team/a+b_$(c)-d.1795334390.couch",
		"shards/00000000-7fffffff/bad.1.couch",
		"shards/00000000-7fffffff/db.1795334390.couch.bak",
		"shards/not-a-range/db.1795334390.couch",
		".shards/00000000-7fffffff/db.1795334390_design/mrview/"+sig+".view",
		".shards/00000000-7fffffff/db.1795334390_design/mrview/"+sig+".compact.view",
		".shards/00000000-7fffffff/team/a+b_$(c)-d.1795334390_design/mrview/"+sig+".view",
		".shards/00000000-7fffffff/gone.20261122.133000.deleted.1795334390_design/mrview/"+sig+".view",
		".shards/00000000-7fffffff/db.1795334390_design/geo/x.geo",
		"._users_design/mrview/"+sig+".view",
		".sub/old_design/mrview/"+sig+".view",
		".old_design.20261122.133000.deleted/mrview/"+sig+".view",
		".delete/0123", ".recovery/x.couch", "ratio_dbs.smooshq", "ratio_dbs.smooshq.17.tmp",
		"nouveau/n@h/shards/00000000-7fffffff/db.1795334390/s/segments_1", "clouseau/x", "lost+found/", ".zfs/x",
		"elsewhere/index/segments_4", "elsewhere/index/write.lock", "notes.txt", "empty/",
	)
	l := scan(t, &node.Node{DataDir: dir, IndexDir: dir}, node.ScanOptions{Indexes: true})
	want(t, text(l),
		"view data:._users_design/mrview/"+sig+".view db=_users",
		"view data:.shards/00000000-7fffffff/db.1795334390_design/mrview/"+sig+".view db=db 00000000-7fffffff.1795334390",
		"view data:.shards/00000000-7fffffff/team/a+b_$(c)-d.1795334390_design/mrview/"+sig+".view db=team/a+b_$(c)-d 00000000-7fffffff.1795334390",
		"view data:.sub/old_design/mrview/"+sig+".view db=sub/old",
		"shard data:shards/00000000-7fffffff/db.1795334390.couch db=db 00000000-7fffffff.1795334390",
		"shard data:shards/00000000-7fffffff/team/a+b_$(c)-d.1795334390.couch db=team/a+b_$(c)-d 00000000-7fffffff.1795334390",
		"system data:_dbs.couch db=_dbs",
		"system data:_nodes.couch db=_nodes",
		"system data:_users.couch db=_users",
		"system data:old.couch db=old",
		"system data:sub/old.couch db=sub/old",
		"out data:.delete/ files that CouchDB is deleting",
		"out data:.old_design.20261122.133000.deleted/ deleted database, kept by enable_database_recovery",
		"out data:.recovery/ deleted database, kept by enable_database_recovery",
		"out data:.shards/00000000-7fffffff/db.1795334390_design/geo/x.geo not a file that CouchDB keeps here",
		"out data:.shards/00000000-7fffffff/db.1795334390_design/mrview/"+sig+".compact.view work file of a compaction",
		"out data:.shards/00000000-7fffffff/gone.20261122.133000.deleted.1795334390_design/ deleted database, kept by enable_database_recovery",
		"out data:.zfs/ belongs to the file system",
		"out data:Copy of x.couch not a name that CouchDB opens",
		"out data:clouseau/ search index, which is rebuilt from the databases",
		"out data:elsewhere/index/ search index, which is rebuilt from the databases",
		"out data:notes.txt not a file that CouchDB keeps here",
		"out data:nouveau/ search index, which is rebuilt from the databases",
		"out data:ratio_dbs.smooshq queue of the compaction daemon, which fills it again",
		"out data:ratio_dbs.smooshq.17.tmp queue of the compaction daemon, which fills it again",
		"out data:shards/00000000-7fffffff/bad.1.couch not a name that CouchDB opens",
		"out data:shards/00000000-7fffffff/db.1795334390.couch.bak not a file that CouchDB keeps here",
		"out data:shards/00000000-7fffffff/db.1795334390.couch.compact work file of a compaction",
		"out data:shards/00000000-7fffffff/db.1795334390.couch.compact.data work file of a compaction",
		"out data:shards/00000000-7fffffff/db.1795334390.couch.compact.meta work file of a compaction",
		"out data:shards/00000000-7fffffff/gone.1795334390.20261122.133000.deleted.couch deleted database, kept by enable_database_recovery",
		"out data:shards/not-a-range/db.1795334390.couch not a name that CouchDB opens",
	)
}

// A crash between deleting the old file of a compaction and renaming the new one
// leaves the database in <db>.couch.compact, which CouchDB then opens.
func TestScanFindsADatabaseThatACompactionHadNotRenamed(t *testing.T) {
	dir := empty(t, "_dbs.couch", "shards/00000000-ffffffff/db.1795334390.couch.compact", "shards/00000000-ffffffff/db.1795334390.couch.compact.meta")
	n := &node.Node{DataDir: dir, IndexDir: dir}
	l := scan(t, n, node.ScanOptions{})
	want(t, text(l),
		"shard data:shards/00000000-ffffffff/db.1795334390.couch db=db 00000000-ffffffff.1795334390 from db.1795334390.couch.compact",
		"system data:_dbs.couch db=_dbs",
		"out data:shards/00000000-ffffffff/db.1795334390.couch.compact.meta work file of a compaction",
	)
	if got := n.Path(&l.Shards[0]); got != filepath.Join(dir, "shards/00000000-ffffffff/db.1795334390.couch.compact") {
		t.Errorf("path to read = %q", got)
	}
}

func TestScanIndexDirectory(t *testing.T) {
	view := ".shards/00000000-ffffffff/db.1795334390_design/mrview/" + sig + ".view"
	shards := "shards/00000000-ffffffff/db.1795334390.couch"
	tests := []struct {
		name        string
		files       []string
		data, index string
		opts        node.ScanOptions
		want        []string
	}{
		{
			"beside the data", []string{"d/_dbs.couch", "d/" + shards, "d/" + view, "i/" + view, "i/x.txt", "i/shards/y.couch"}, "/d", "/i", node.ScanOptions{Indexes: true},
			[]string{
				"view index:" + view + " db=db 00000000-ffffffff.1795334390", "shard data:" + shards + " db=db 00000000-ffffffff.1795334390", "system data:_dbs.couch db=_dbs",
				"out data:.shards/ view index outside couchdb/view_index_dir, which CouchDB does not use",
				"out index:shards/ not a file that CouchDB keeps here", "out index:x.txt not a file that CouchDB keeps here",
			},
		},
		{
			"inside the data", []string{"_dbs.couch", "index/" + view}, "", "/index", node.ScanOptions{Indexes: true},
			[]string{"view index:" + view + " db=db 00000000-ffffffff.1795334390", "system data:_dbs.couch db=_dbs"},
		},
		{
			"around the data", []string{view, "data/_dbs.couch", "other/x.couch"}, "/data", "", node.ScanOptions{Indexes: true},
			[]string{"view index:" + view + " db=db 00000000-ffffffff.1795334390", "system data:_dbs.couch db=_dbs", "out index:other/ not a file that CouchDB keeps here"},
		},
		{
			"not there", []string{"data/_dbs.couch"}, "/data", "/none", node.ScanOptions{Indexes: true},
			[]string{"system data:_dbs.couch db=_dbs"},
		},
		{
			"not wanted", []string{"_dbs.couch", view, "._users_design/mrview/" + sig + ".view"}, "", "", node.ScanOptions{},
			[]string{"system data:_dbs.couch db=_dbs", "out data:._users_design/ view indexes are left out, as configured", "out data:.shards/ view indexes are left out, as configured"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := empty(t, tt.files...)
			want(t, text(scan(t, &node.Node{DataDir: root + tt.data, IndexDir: root + tt.index}, tt.opts)), tt.want...)
		})
	}
}

func TestScanLinks(t *testing.T) {
	const r = "00000000-ffffffff/"
	root := empty(t, "data/_dbs.couch", "data/a/", "data/b/", "disk/shards/"+r+"db.1795334390.couch", "disk/big.couch", "disk/shadow")
	for link, target := range map[string]string{
		"data/shards": "../disk/shards",
		"disk/shards/" + r + "big.1795334390.couch": "../../big.couch",
		"disk/shards/" + r + "bad.1795334390.couch": "../../shadow",
		"disk/shards/" + r + "nil.1795334390.couch": "nowhere.couch",
		"disk/shards/up": "../../disk",
		"data/up":        ".",
		"data/a/b":       "../b",
		"data/b/a":       "../a",
	} {
		must(t, os.Symlink(filepath.FromSlash(target), filepath.Join(root, link)))
	}
	want(t, text(scan(t, &node.Node{DataDir: root + "/data", IndexDir: root + "/data"}, node.ScanOptions{})),
		"shard data:shards/"+r+"big.1795334390.couch db=big 00000000-ffffffff.1795334390",
		"shard data:shards/"+r+"db.1795334390.couch db=db 00000000-ffffffff.1795334390",
		"system data:_dbs.couch db=_dbs",
		"out data:a/b/a symbolic link to a directory above it",
		"out data:b/a/b symbolic link to a directory above it",
		"out data:shards/"+r+"bad.1795334390.couch symbolic link to a file of another kind",
		"out data:shards/"+r+"nil.1795334390.couch symbolic link that leads nowhere",
		"out data:shards/up symbolic link to a directory above it",
		"out data:up symbolic link to a directory above it",
	)
}

func TestScanSockets(t *testing.T) {
	dir := empty(t, "_dbs.couch")
	l, err := net.Listen("unix", dir+"/s.couch")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	want(t, text(scan(t, &node.Node{DataDir: dir, IndexDir: dir}, node.ScanOptions{})),
		"system data:_dbs.couch db=_dbs", "out data:s.couch neither a file nor a directory")
}

func TestScanConfig(t *testing.T) {
	root := tree(t, release)
	other := tree(t, map[string]string{"x.ini": "[couchdb]\ndatabase_dir = " + root + "/data\n"})
	must(t, os.WriteFile(root+"/data/_dbs.couch", nil, 0o600))
	n := locate(t, node.Options{Getenv: env("COUCHDB_INI_FILES", root+"/etc/default.ini "+other+"/x.ini "+root+"/etc/default.ini")})
	outside := "_outside/" + strings.TrimLeft(strings.ReplaceAll(filepath.ToSlash(other), ":", ""), "/") + "/x.ini"
	want(t, text(scan(t, n, node.ScanOptions{})),
		"system data:_dbs.couch db=_dbs", "config etc:"+outside+" from x.ini", "config etc:default.ini", "config etc:vm.args")
}

func TestScanRefusesAnEmptyDirectory(t *testing.T) {
	for _, files := range [][]string{nil, {"data/_dbs.couch", "data/shards/00000000-ffffffff/x.1795334390.couch"}, {"00000000-ffffffff/x.1795334390.couch"}, {"shards/"}} {
		dir := empty(t, files...)
		if l, err := (&node.Node{DataDir: dir, IndexDir: dir}).Scan(t.Context(), node.ScanOptions{}); !errors.Is(err, node.ErrNoData) {
			t.Errorf("with %q: %+v, %v; want ErrNoData", files, l, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := (&node.Node{DataDir: dir, IndexDir: dir}).Scan(t.Context(), node.ScanOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestScanFailsOnAnUnreadableDirectory(t *testing.T) {
	dir := empty(t, "_dbs.couch", "shards/00000000-ffffffff/x.1795334390.couch")
	must(t, os.Chmod(dir+"/shards", 0))
	defer func() { must(t, os.Chmod(dir+"/shards", 0o700)) }()
	if _, err := os.ReadDir(dir + "/shards"); err == nil {
		t.Skip("this user reads everything")
	}
	_, err := (&node.Node{DataDir: dir, IndexDir: dir}).Scan(t.Context(), node.ScanOptions{})
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Scan = %v, want a permission error", err)
	}
}

// TestScanManyFiles holds what a listing keeps in memory, per file.
func TestScanManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("makes thousands of files")
	}
	const files = 5_000
	dir := empty(t, "_dbs.couch", "shards/00000000-ffffffff/")
	for i := range files {
		name := fmt.Sprintf("userdb-%032x.1795334390.couch", i)
		must(t, os.WriteFile(filepath.Join(dir, "shards/00000000-ffffffff", name), nil, 0o600))
	}
	n := &node.Node{DataDir: dir, IndexDir: dir}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l := scan(t, n, node.ScanOptions{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(l.Shards) != files {
		t.Fatalf("found %d shards, want %d", len(l.Shards), files)
	}
	perFile := float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / files
	t.Logf("%.0f bytes a file", perFile)
	if perFile > 350 {
		t.Errorf("a listing keeps %.0f bytes a file, want at most 350", perFile)
	}
	runtime.KeepAlive(l)
}
