package backup_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// timeline is a file of a database as it was, and two commits of the same length
// and header of which either may have come next.
type timeline struct{ base, first, second []byte }

// newTimeline makes a file of about size bytes.
func newTimeline(t *testing.T, size int64, local bool) timeline {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.couch")
	opts := couchgen.Options{Compression: couchgen.None, NodeLocal: local}
	put := func(g *couchgen.Generator, id, text string) {
		_, err := g.Put(couchgen.Doc{ID: id, Body: couchgen.Object{{Key: "text", Value: text}}})
		must(t, err)
	}
	f, err := os.Create(path)
	must(t, err)
	g, err := couchgen.Create(f, opts)
	must(t, err)
	for i := 0; g.Size() < size; i++ {
		put(g, fmt.Sprintf("doc%06d", i), strings.Repeat("x", 2000))
		must(t, g.Commit())
	}
	must(t, f.Close())
	next := func(text string) []byte {
		copied := filepath.Join(t.TempDir(), "f.couch")
		b, err := os.ReadFile(path)
		must(t, errors.Join(err, os.WriteFile(copied, b, 0o600)))
		f, err := os.OpenFile(copied, os.O_RDWR, 0)
		must(t, err)
		g, err := couchgen.Reopen(f, opts)
		must(t, err)
		put(g, "payment", text)
		must(t, errors.Join(g.Commit(), f.Close()))
		b, err = os.ReadFile(copied)
		must(t, err)
		return b
	}
	tl := timeline{first: next("777 to Alice"), second: next("111 to Clara")}
	tl.base, err = os.ReadFile(path)
	must(t, err)
	if bytes.Equal(tl.first, tl.second) || !bytes.Equal(newest(t, tl.first), newest(t, tl.second)) {
		t.Fatal("the two commits differ in length or header, or don't differ at all")
	}
	return tl
}

// newest returns the raw bytes of the newest header.
func newest(t *testing.T, b []byte) []byte {
	t.Helper()
	raw, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	return raw.Raw
}

// indexTimeline makes the timelines out of a real index, of which a byte of a tree
// node is another one.
func indexTimeline(t *testing.T, e *env) (path string, tl timeline) {
	t.Helper()
	for _, f := range e.couchFiles() {
		if strings.HasSuffix(f, ".view") {
			path = f
		}
	}
	b, err := os.ReadFile(filepath.Join(e.data, path))
	must(t, err)
	raw, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	other := bytes.Clone(b)
	other[raw.Offset-3000] ^= 1
	return path, timeline{b[:raw.Offset], b, other}
}

// The heart of an incremental: whatever comes back in time, and by whichever way, the
// next backup holds what is there now, for each kind of file and of each size.
func TestAnotherTimeline(t *testing.T) {
	t.Parallel()
	ways := map[string]func(t *testing.T, path string, tl timeline){
		"power cut": func(t *testing.T, path string, tl timeline) {
			must(t, os.Truncate(path, int64(len(tl.base))))
			writeInPlace(t, path, tl.second)
		},
		"older copy put back": func(t *testing.T, path string, tl timeline) {
			must(t, os.Remove(path))
			must(t, errors.Join(os.WriteFile(path, tl.base, 0o644), os.WriteFile(path, tl.second, 0o644)))
		},
		"with its times": func(t *testing.T, path string, tl timeline) {
			info, err := os.Stat(path)
			must(t, err)
			writeInPlace(t, path, tl.second)
			must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
	}
	for name, way := range ways {
		for kind, size := range map[string]int64{"shard": 20_000, "large shard": 1_500_000, "_dbs.couch": 20_000, "index": 0} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				e := newEnv(t)
				path := "shards/00000000-7fffffff/timeline2.1795334999.couch"
				var tl timeline
				switch kind {
				case "index":
					path, tl = indexTimeline(t, e)
				case "_dbs.couch":
					path = kind
					fallthrough
				default:
					tl = newTimeline(t, size, kind == "_dbs.couch")
				}
				full := filepath.Join(e.data, path)
				must(t, os.WriteFile(full, tl.first, 0o644))
				e.run()
				way(t, full, tl)
				res := e.run()
				e.check(res.Record) // its files are those of the directory
				notes := strings.Join(res.Notes, "\n")
				if res.Record.AddedBytes != int64(len(tl.second)) || !strings.Contains(notes, "went back in time") || !strings.Contains(notes, path) {
					t.Errorf("added %d of %d bytes; notes: %s", res.Record.AddedBytes, len(tl.second), notes)
				}
			})
		}
	}
}

// A file at rest is one at rest: another device number or inode, a chmod and a start
// of the machine make it be read, and not stored.
func TestSameBytesAreNotStoredAgain(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(t *testing.T, path string)
		note string
	}{
		"moved": {func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			must(t, errors.Join(err, os.WriteFile(path+"x", b, 0o644), os.Rename(path+"x", path)))
		}, "on another device or inode than before"},
		"times": {func(t *testing.T, path string) { must(t, os.Chtimes(path, fixedTime, fixedTime)) }, "times went back"},
		"boot":  {func(t *testing.T, _ string) { backup.SetBoot(t, "two") }, "the machine was started anew"},
		"mode":  {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o600)) }, "their times changed and their sizes did not"},
	} {
		t.Run(name, func(t *testing.T) {
			backup.SetBoot(t, "one")
			e := newEnv(t)
			first := e.run()
			test.edit(t, filepath.Join(e.data, batches))
			res := e.run()
			if res.Record.AddedBytes != 0 || res.Record.ReadBytes == 0 {
				t.Errorf("read %d bytes, stored %d", res.Record.ReadBytes, res.Record.AddedBytes)
			}
			if name == "boot" && res.Record.ReadBytes < first.Record.SizeBytes {
				t.Errorf("read %d of %d bytes", res.Record.ReadBytes, first.Record.SizeBytes)
			}
			if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, test.note) {
				t.Errorf("notes: %q, want %q", notes, test.note)
			}
			e.check(res.Record)
			if again := e.run(); again.Record.ReadBytes != 0 || len(again.Notes) > 0 {
				t.Errorf("then: read %d bytes, notes %q", again.Record.ReadBytes, again.Notes)
			}
		})
	}
}

// A change far before the cut of a large file is found when there is a reason to
// read all of it.
func TestChangeFarBeforeTheCut(t *testing.T) {
	for name, test := range map[string]struct {
		edit  func(t *testing.T, path string)
		opts  func(*backup.Options)
		found bool
	}{
		"no reason": {},
		"prove":     {opts: func(o *backup.Options) { o.Prove = true }, found: true},
		"interval":  {opts: func(o *backup.Options) { o.ProveInterval = time.Nanosecond }, found: true},
		"not yet":   {opts: func(o *backup.Options) { o.ProveInterval = time.Hour }},
		"boot":      {edit: func(t *testing.T, _ string) { backup.SetBoot(t, "two") }, found: true},
		"times":     {edit: func(t *testing.T, path string) { must(t, os.Chtimes(path, fixedTime, fixedTime)) }, found: true},
		"inode": {edit: func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			must(t, errors.Join(err, os.WriteFile(path+"x", b, 0o644), os.Rename(path+"x", path)))
		}, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			backup.SetBoot(t, "one")
			e := newSmallEnv(t)
			const shard = "shards/00000000-7fffffff/timeline2.1795334999.couch"
			path := filepath.Join(e.data, shard)
			tl := newTimeline(t, 1_500_000, false)
			must(t, os.WriteFile(path, tl.base, 0o644))
			e.run()
			changed := bytes.Clone(tl.first)
			changed[5000] ^= 1
			writeInPlace(t, path, changed)
			if test.edit != nil {
				test.edit(t, path)
			}
			res := e.run(func(o *backup.Options) {
				if test.opts != nil {
					test.opts(o)
				}
			})
			if found := strings.Contains(strings.Join(res.Notes, "\n"), "went back in time"); found != test.found {
				t.Errorf("found %v, want %v; notes %q", found, test.found, res.Notes)
			}
			if test.found {
				e.check(res.Record)
			} else if most := int64(len(tl.first)-len(tl.base)) + 300<<10; res.Record.ReadBytes > most {
				t.Errorf("read %d bytes, want at most %d", res.Record.ReadBytes, most)
			}
		})
	}
}

// A compaction, also one that had nothing to do, is no going back.
func TestCompactionIsNoRollback(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.run()
	const compacted = "shards/00000000-7fffffff/compacted.1795334420.couch"
	b, err := os.ReadFile(filepath.Join(fixtures, "data", batches))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(e.data, compacted+"x"), b, 0o644)) // another file of another uuid
	must(t, os.Rename(filepath.Join(e.data, compacted+"x"), filepath.Join(e.data, compacted)))
	if res := e.run(); strings.Contains(strings.Join(res.Notes, "\n"), "back in time") || res.Record.AddedBytes != int64(len(b)) {
		t.Errorf("added %d bytes, notes %q", res.Record.AddedBytes, res.Notes)
	}
}

// editState changes the text of the state of node1.
func (e *env) editState(edit func([]byte) []byte) {
	e.t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		e.t.Fatal(err)
	}
	defer z.Close()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		e.t.Fatal(err)
	}
	b, err := os.ReadFile(e.stateFile("state.jsonl.zst"))
	if err == nil {
		b, err = z.DecodeAll(b, nil)
	}
	if err == nil {
		err = os.WriteFile(e.stateFile("state.jsonl.zst"), w.EncodeAll(edit(b), nil), 0o600)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// A state whose text is changed isn't believed, so what comes of it restores.
func TestStateOfAnotherByte(t *testing.T) {
	t.Parallel()
	e := newSmallEnv(t)
	first := e.run()
	whole, err := os.ReadFile(e.stateFile("state.jsonl.zst"))
	must(t, err)
	var text []byte
	e.editState(func(b []byte) []byte { text = b; return b })
	if res := e.run(); res.Record.Parent != first.Record.ID || res.Record.ReadBytes != 0 || len(res.Notes) > 0 {
		t.Fatalf("as it was: parent %q, read %d, notes %q", res.Record.Parent, res.Record.ReadBytes, res.Notes)
	}
	repoID := e.repo(e.store).Config().ID
	for i := range text { // the reader alone, since a backup takes its time
		if backup.ReadsState(altered(text, i), repoID) {
			t.Errorf("byte %d: the state is believed", i)
		}
	}
	e.identity = nil // as on a node: without a state it is a full backup
	zr, err := zstd.NewReader(nil)
	must(t, err)
	defer zr.Close()
	for i := 0; i < len(whole); i += len(whole) / 10 {
		if same, err := zr.DecodeAll(altered(whole, i), nil); err == nil && bytes.Equal(same, text) {
			continue // some bits of a frame say nothing
		}
		must(t, os.WriteFile(e.stateFile("state.jsonl.zst"), altered(whole, i), 0o600))
		if res := e.run(); res.Record.Type != manifest.Full || !strings.Contains(strings.Join(res.Notes, "\n"), "can't be used") {
			t.Fatalf("byte %d of the file: %s, notes %q", i, res.Record.Type, res.Notes)
		}
	}
}

// The state of a version without a checksum serves once all files are proven.
func TestStateOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.run()
	e.editState(func(b []byte) []byte {
		b = b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1] // its last line is the checksum
		b = bytes.Replace(b, []byte(`{"format":2`), []byte(`{"format":1,"proved":"2026-11-28T18:00:00Z"`), 1)
		return regexp.MustCompile(`,"hash_at":\d+|,"proven":\d+|,"boot":"[^"]*"`).ReplaceAll(b, nil)
	})
	res := e.run()
	if r := res.Record; r.Parent != first.Record.ID || r.ReadBytes < r.SizeBytes || r.AddedBytes != 0 || !strings.Contains(strings.Join(res.Notes, "\n"), "a version that proved less") {
		t.Errorf("parent %q, read %d of %d, added %d, notes %q", r.Parent, r.ReadBytes, r.SizeBytes, r.AddedBytes, res.Notes)
	}
	e.check(res.Record)
	if again := e.run(); again.Record.ReadBytes != 0 || len(again.Notes) > 0 {
		t.Errorf("then: read %d, notes %q", again.Record.ReadBytes, again.Notes)
	}
}

// A real CouchDB loses its last commits, goes on with others of the same length, and
// the next backup has those, in shards, in the shard map and in indexes.
func TestLiveBackInTime(t *testing.T) {
	t.Parallel()
	const databases = 12
	live := testenv.CouchDB(t, testenv.Options{})
	db := func(i int, parts ...string) string { return testenv.DBPath(fmt.Sprintf("pay%02d", i), parts...) }
	view := func(i int) { must(t, live.Get(db(i, "_design/d")+"/_view/v", nil)) }
	put := func(sign, amount string) {
		for i := range databases {
			must(t, live.Put(db(i, "p4"), json.RawMessage(fmt.Sprintf(`{"to":"%x","amount":%s}`, sha256.Sum256([]byte(sign+db(i))), amount)), nil))
			view(i)
		}
		must(t, live.Put(testenv.DBPath("made-"+strings.Repeat(sign, 8))+"?q=1", nil, nil))
	}
	for i := range databases {
		must(t, live.Put(db(i)+"?q=1", nil, nil))
		must(t, live.Put(db(i, "_design/d"), map[string]any{"views": map[string]any{"v": map[string]string{"map": "function(d){emit(d._id,d.amount)}"}}}, nil))
		view(i)
	}
	live.Stop() // so that indexes are on the disk
	e := newLiveEnv(t, live.DataDir)
	sizes := map[string]int64{}
	for _, f := range e.couchFiles() {
		info, err := os.Stat(filepath.Join(e.data, f))
		must(t, err)
		sizes[f] = info.Size()
	}
	live.Start()
	put("a", "777")
	live.Stop()
	was := e.check(e.run().Record)
	for _, f := range e.couchFiles() {
		if size, ok := sizes[f]; ok {
			must(t, os.Truncate(filepath.Join(e.data, f), size))
		} else {
			must(t, os.Remove(filepath.Join(e.data, f)))
		}
	}
	live.Start()
	put("b", "888")
	live.Stop()
	res := e.run()
	is := e.check(res.Record)
	alike := map[manifest.Kind]int{} // files that their headers don't tell apart
	for _, f := range is.Files {
		for _, old := range was.Files {
			if old.Path == f.Path && old.Root == f.Root && old.Header != nil && f.Header != nil && old.Header.SHA256 == f.Header.SHA256 && old.SHA256 != f.SHA256 {
				alike[f.Kind]++
			}
		}
	}
	t.Logf("files whose headers are alike: %v", alike) // some of the shards, as compression has it
	if !strings.Contains(strings.Join(res.Notes, "\n"), "went back in time") {
		t.Errorf("notes: %q", res.Notes)
	}
}
