package restore

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestUnusableIndexes(t *testing.T) {
	t.Parallel()
	head := func(update, purge uint64) *manifest.Header {
		return &manifest.Header{UpdateSeq: update, PurgeSeq: purge}
	}
	const sig = "_design/mrview/0123456789abcdef0123456789abcdef.view"
	databases := map[string]*manifest.File{
		"shards/00000000-7fffffff/team/db.1795334388.couch": {Header: head(10, 2)},
		"shards/00000000-7fffffff/bad.1795334388.couch":     {},
		"_users.couch": {Header: head(3, 0)},
	}
	tests := []struct {
		name, path string
		header     *manifest.Header
		want       string // part of the reason, "" for none
	}{
		{"behind", ".shards/00000000-7fffffff/team/db.1795334388" + sig, head(9, 2), ""},
		{"level", ".shards/00000000-7fffffff/team/db.1795334388" + sig, head(10, 2), ""},
		{"ahead", ".shards/00000000-7fffffff/team/db.1795334388" + sig, head(11, 2), "update_seq 11"},
		{"purges ahead", ".shards/00000000-7fffffff/team/db.1795334388" + sig, head(10, 3), "purge_seq 3"},
		{"another suffix", ".shards/00000000-7fffffff/team/db.1795334389" + sig, head(1, 0), "not in the backup"},
		{"headerless shard", ".shards/00000000-7fffffff/bad.1795334388" + sig, head(1, 0), "no valid header"},
		{"headerless index", ".shards/00000000-7fffffff/team/db.1795334388" + sig, nil, "no valid header"},
		{"node-local", "._users" + sig, head(3, 0), ""},
		{"node-local ahead", "._users" + sig, head(4, 0), "ahead"},
		{"no index", ".shards/x.view", head(1, 0), "names no database"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := unusable(&manifest.File{Path: tt.path, Header: tt.header}, databases)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	tests := []struct {
		glob, name string
		want       bool
	}{
		{"orders", "orders", true},
		{"orders", "orders2", false},
		{"*", "team/a", true},
		{"team/*", "team/a/b", true},
		{"user-?", "user-a", true},
		{"user-?", "user-ab", false},
		{"user-[ab]", "user-b", true},
		{"user-[ab]", "user-c", false},
		{"[!h]*", "orders", true},
		{"[!h]*", "house", false},
		{"[^h]*", "orders", true},
		{"[^h]*", "house", false},
		{"[!a-m]*", "orders", true},
		{"[!a-m]*", "attach", false},
		{"x[]a]", "xa", true},
		{"x[!]a]", "xa", false},
		{"x[!]a]", "xb", true},
		{"x[$(]y", "x(y", true},
		{"a+b_$(c)", "a+b_$(c)", true},
		{"_users", "_users", true},
	}
	for _, tt := range tests {
		g, err := parseGlob(tt.glob)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.match(tt.name); got != tt.want {
			t.Errorf("%q matches %q: got %v", tt.glob, tt.name, got)
		}
	}
	for _, bad := range []string{"a[b", "[", "[!", "[]", "[!]", "[b-a]"} {
		if _, err := parseGlob(bad); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	g, _ := parseGlob("ordesr*")
	if got := strings.Join(near(g, []string{"orders", "old-orders", "people", "zebra"}), " "); got != "orders" {
		t.Errorf("near: %s", got)
	}
}

func TestGap(t *testing.T) {
	t.Parallel()
	r := func(list ...string) (out []shard.Range) {
		for _, s := range list {
			x, err := shard.ParseRange(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x)
		}
		return out
	}
	tests := []struct {
		ranges []shard.Range
		hash   uint32
		gap    bool
	}{
		{r("00000000-ffffffff"), 0, false},
		{r("00000000-7fffffff", "80000000-ffffffff"), 0, false},
		{r("00000000-7fffffff"), 0x80000000, true},
		{r("80000000-ffffffff"), 0, true},
		{nil, 0, true},
	}
	for _, tt := range tests {
		if hash, ok := gap(tt.ranges); ok != tt.gap || ok && hash != tt.hash {
			t.Errorf("%v: got %08x, %v", tt.ranges, hash, ok)
		}
	}
}

// The map of a database that had copies elsewhere names this node only, and keeps what a later
// CouchDB put there.
func TestNewMapOfACluster(t *testing.T) {
	t.Parallel()
	doc := `{"_id":"db","_rev":"3-a","shard_suffix":[46,49,55,57,53,51,51,52,51,56,56],
		"changelog":[["add","00000000-7fffffff","a@h"],["add","00000000-7fffffff","b@h"],["add","80000000-ffffffff","b@h"]],
		"by_node":{"a@h":["00000000-7fffffff"],"b@h":["00000000-7fffffff","80000000-ffffffff"]},
		"by_range":{"00000000-7fffffff":["a@h","b@h"],"80000000-ffffffff":["b@h"]},
		"props":{"partitioned":true,"hash":["couch_partition","hash",[]],"auto_purge":{"deleted_document_ttl":3600}},"later":{"a":[1]}}`
	m, ok, err := shard.ParseMap([]byte(doc))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	b, err := shard.Map{DB: "db2", Suffix: ".1900000000", ByNode: map[string][]shard.Range{"b@h": m.ByNode["b@h"]}}.Document([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_id":"db2","by_node":{"b@h":["00000000-7fffffff","80000000-ffffffff"]},"by_range":{"00000000-7fffffff":["b@h"],"80000000-ffffffff":["b@h"]},` +
		`"changelog":[["add","00000000-7fffffff","b@h"],["add","80000000-ffffffff","b@h"]],"later":{"a":[1]},` +
		`"props":{"partitioned":true,"hash":["couch_partition","hash",[]],"auto_purge":{"deleted_document_ttl":3600}},"shard_suffix":[46,49,57,48,48,48,48,48,48,48,48]}` + "\n"
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	var again map[string]any
	if err := json.Unmarshal(b, &again); err != nil {
		t.Error(err)
	}
}

func TestInUse(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("known on Linux only")
	}
	dir := t.TempDir()
	if err := inUse(context.Background(), dir); err != nil {
		t.Errorf("an idle directory: %v", err)
	}
	f, err := os.Create(filepath.Join(dir, "x.couch"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := inUse(context.Background(), dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "x.couch open") {
		t.Errorf("an open file: %v", err)
	}
}

func TestTwoRestoresIntoOneDirectory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no locks on Windows")
	}
	dir := t.TempDir()
	o := Options{To: dir}
	m := &manifest.Manifest{}
	k := markOf(&o, m)
	a, b := newTargets(&o), newTargets(&o)
	if err := a.mark(&k, owner{}); err != nil {
		t.Fatal(err)
	}
	if err := b.mark(&k, owner{}); !errors.Is(err, ErrInUse) {
		t.Errorf("second: %v", err)
	}
	a.close()
	if err := b.mark(&k, owner{}); err != nil {
		t.Errorf("after the first ended: %v", err)
	}
	b.close()
}

// TestStoredState finds the oldest bytes of a database that no replay makes, whatever rests on what.
func TestStoredState(t *testing.T) {
	t.Parallel()
	stored := []manifest.Extent{{Seg: 3, At: 7, N: 100}, {Seg: 4, N: 50}}
	replay := manifest.Extent{Seg: -1, N: 1000}
	older := &manifest.Older{Extents: stored, Size: 150}
	compacted := &manifest.Replay{Older: older}
	again := &manifest.Replay{Older: &manifest.Older{Extents: []manifest.Extent{replay, stored[0]}, Replays: []*manifest.Replay{compacted}}}
	for name, f := range map[string]*manifest.File{
		"stored":          {Extents: stored},
		"a tail":          {Extents: append(slices.Clone(stored), replay), Replays: []*manifest.Replay{{}}},
		"compacted":       {Extents: []manifest.Extent{replay, stored[1]}, Replays: []*manifest.Replay{compacted}},
		"compacted twice": {Extents: []manifest.Extent{replay}, Replays: []*manifest.Replay{again}},
	} {
		if got := storedState(f); !slices.Equal(got.Extents, stored) || got.Size != 150 {
			t.Errorf("%s: %d bytes, %v", name, got.Size, got.Extents)
		}
	}
	bare := &manifest.File{Extents: []manifest.Extent{replay}, Replays: []*manifest.Replay{{}}}
	if got := storedState(bare); got != bare {
		t.Errorf("what rests on nothing: %v", got)
	}
}

func TestRenamedArgs(t *testing.T) {
	t.Parallel()
	const now = "# By Slipcover: the node's name in the restored cluster, and that cluster's own cookie.\n"
	for old, want := range map[string]string{
		"":                               "",
		"+K true\n-name a@b -smp auto":   "+K true\n-smp auto\n",
		"-setcookie\n  monster\n+Bd\n":   "+Bd\n",
		"# -name x@y\n-sname a@b # me\n": "# -name x@y\n# me\n",
		"-kernel x '\"a  b\"'":           "-kernel x '\"a  b\"'\n",

		"-name \"a@b\"\n-setcookie 'my cookie' # its\n-setcookie x\\#y -foo 'q#q'\n": "# its\n-foo 'q#q'\n",
		"-setcookie a#b\n-name\n# of it\na@b\n+K true":                               "#b\n# of it\n+K true\n",
		"-setcookie -kernel x 1\n":                                                   "-kernel x 1\n",
	} {
		if got := string(renamedArgs([]byte(old), "c@d.example", "C")); got != want+now+"-name c@d.example\n-setcookie C\n" {
			t.Errorf("%q became\n%s", old, got)
		}
	}
	if got := string(renamedArgs([]byte("-name a@b\n-extra x -name y\n"), "c@d.example", "C")); got != now+"-name c@d.example\n-setcookie C\n-extra x -name y\n" {
		t.Errorf("behind -extra are no flags: %s", got)
	}
	if got := string(renamedArgs(nil, "c@d", "C")); got != now+"-sname c@d\n-setcookie C\n" {
		t.Errorf("a short name: %s", got)
	}
}

// A vm.args is taken apart as CouchDB's Erlang does it, which shows the words that it makes of one.
func TestArgWords(t *testing.T) {
	t.Parallel()
	couch, missing := testenv.CouchDBBinary()
	if missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
	root := filepath.Dir(filepath.Dir(couch))
	found, err := filepath.Glob(filepath.Join(root, "erts-*", "bin", "erlexec"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	text := "# -no no\n-name \"a@b c\" # tail\n-setcookie 'my \"c\"#'\n\t-a abc#def\n-b x\\#y\\ z \\\\ \\'\n-c \"a\\\" 'a\\' a\"\"b \"q\"'r's\r\n-d 1"
	file := filepath.Join(t.TempDir(), "vm.args")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), found[0], "-begin", "-args_file", file, "-emu_args_exit")
	c.Env = append(os.Environ(), "ROOTDIR="+root, "BINDIR="+filepath.Dir(found[0]), "EMU=beam", "PROGNAME=erl")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var want, got []string
	inside := false
	for _, w := range strings.Split(string(out), "\n") {
		if inside && w == "--" { // behind a file's words
			break
		}
		if inside {
			want = append(want, w)
		}
		inside = inside || w == "-begin"
	}
	for _, w := range argWords([]byte(text)) {
		got = append(got, w.text)
	}
	if len(want) < 15 || !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q\n%s", got, want, out)
	}
}

// A removal that is stopped leaves nothing that is taken for a whole instance.
func TestStoppedRemoval(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "instance")
	in, err := claim(dir, card{Name: "stopped"})
	if err != nil {
		t.Fatal(err)
	}
	if err := in.writeState(state{Complete: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(in.path("etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.remove(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if st, err := in.readState(); err != nil || st.Complete {
		t.Errorf("it looks whole: %+v, %v", st, err)
	}
	in.release()
	if err := Remove(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
