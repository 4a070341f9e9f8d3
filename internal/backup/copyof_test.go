package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

func copying(o *backup.Options) { o.Compaction = backup.Copy }

// attachedEnv is an env with a database that has attachments, written as CouchDB does.
type attachedEnv struct {
	*env
	rnd *rand.Rand
	n   int
}

func newAttachedEnv(t *testing.T, e *env) *attachedEnv {
	t.Helper()
	e.data = t.TempDir()
	a := &attachedEnv{env: e, rnd: rand.New(rand.NewPCG(7, 7))}
	must(t, os.MkdirAll(filepath.Dir(a.path()), 0o755))
	f, err := os.Create(a.path())
	must(t, err)
	defer f.Close()
	g, err := couchgen.Create(f, couchgen.Options{AttachmentChunk: 9000})
	must(t, err)
	for range 120 {
		a.add(g)
	}
	must(t, g.Commit())
	return a
}

func (a *attachedEnv) path() string { return filepath.Join(a.data, grownShard) }

func (a *attachedEnv) add(g *couchgen.Generator) {
	a.t.Helper()
	data := make([]byte, a.rnd.IntN(60_000))
	for i := range data {
		data[i] = byte(a.rnd.Uint32())
	}
	a.n++
	_, err := g.Put(couchgen.Doc{ID: fmt.Sprintf("%04d", (a.n*7919)%9973), Body: couchgen.Object{{Key: "n", Value: a.n}},
		Attachments: []couchgen.Attachment{{Name: "a", Type: "image/png", Data: data}}})
	must(a.t, err)
}

// grow updates some documents, which keep their attachments, and adds one.
func (a *attachedEnv) grow() {
	a.t.Helper()
	f, err := os.OpenFile(a.path(), os.O_RDWR, 0)
	must(a.t, err)
	defer f.Close()
	g, err := couchgen.Reopen(f, couchgen.Options{AttachmentChunk: 9000})
	must(a.t, err)
	for range 20 {
		_, err := g.Put(couchgen.Doc{ID: fmt.Sprintf("%04d", ((1+a.rnd.IntN(a.n))*7919)%9973), Body: couchgen.Object{{Key: "again", Value: a.rnd.IntN(100)}}, KeepAttachments: true})
		must(a.t, err)
	}
	a.add(g)
	must(a.t, g.Commit())
}

// memoryFile is what a compaction writes to.
type memoryFile struct{ bytes.Buffer }

func (m *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(p, off)
}

// compact puts what CouchDB's compaction makes of the shard in its place.
func (a *attachedEnv) compact() {
	a.t.Helper()
	b := a.bytes()
	in := bytes.NewReader(b)
	head, err := couchfile.FindHeader(in, in.Size())
	must(a.t, err)
	src, err := couchwriter.OpenSource(in, in.Size(), head)
	must(a.t, err)
	out := &memoryFile{}
	c := couchwriter.NewCompaction(couchwriter.NewFile(out, out, 0, head.Checksum), nil,
		couchwriter.CompactionOptions{Release: couchwriter.Release30, DefaultSecurity: erlterm.Term{erlterm.TagNil}})
	must(a.t, errors.Join(c.Pass(src, 0), c.Swap(src)))
	a.put(out.Bytes(), true)
}

func (a *attachedEnv) bytes() []byte {
	a.t.Helper()
	b, err := os.ReadFile(a.path())
	must(a.t, err)
	return b
}

// reads compares what a Reader gives in places of the shard with the file.
func (a *attachedEnv) reads(store storage.Store, rec *manifest.Record, want []byte) {
	a.t.Helper()
	r := a.repo(store)
	m, err := r.Manifest(a.t.Context(), rec)
	must(a.t, err)
	rd := r.NewReader(m, nil)
	rd.Scratch = filepath.Join(a.t.TempDir(), "none") // which isn't there: nothing is built
	in := rd.ReaderAt(a.t.Context(), fileOf(a.t, m, grownShard))
	for range 100 {
		off := a.rnd.IntN(len(want))
		got := make([]byte, min(len(want)-off, 1+a.rnd.IntN(30_000)))
		if n, err := in.ReadAt(got, int64(off)); n < len(got) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want[off:off+n]) {
			a.t.Fatalf("%d bytes at %d: %d, %v", len(got), off, n, err)
		}
	}
	rd.Close()
}

// TestCopies backs a database with attachments up through many compactions, restores each
// backup and reads it in place, the last also after the others were removed, and out of a
// copy that was made without a key. After some copies that rest on each other a file is
// stored whole.
func TestCopies(t *testing.T) {
	t.Parallel()
	a := newAttachedEnv(t, newEnv(t))
	var recs []*manifest.Record
	var files [][]byte
	backUp := func() *manifest.Record {
		rec := a.run(copying).Record
		recs, files = append(recs, rec), append(files, a.bytes())
		return rec
	}
	backUp()
	deepest := 0
	for i := range 10 {
		a.grow()
		if i%2 == 0 {
			backUp()
		}
		a.compact()
		rec := backUp()
		f := fileOf(t, a.check(rec), grownShard)
		depth := manifest.Depth(f.Replays)
		deepest = max(deepest, depth)
		if depth > 0 && (f.Replays[0].Kind != manifest.CopyReplay || rec.AddedBytes > f.Size/10) {
			t.Errorf("compaction %d: a %s, and %d bytes were stored of %d", i, f.Replays[0].Kind, rec.AddedBytes, f.Size)
		}
		if n := len(a.knownFiles()); n != 1 {
			t.Errorf("the node remembers %d files", n)
		}
	}
	if deepest != 8 {
		t.Errorf("%d copies rest on each other, want 8 at most", deepest)
	}
	for i, rec := range recs {
		if i == 3 || i == len(recs)-4 || i == len(recs)-1 {
			if !bytes.Equal(files[i], a.restored(a.store, rec)) {
				t.Errorf("backup %d restores another file", i)
			}
		}
		a.reads(a.store, rec, files[i])
	}
	last := len(recs) - 5 // with the most copies
	other := mem.New()
	_, err := repo.Init(t.Context(), other, repo.InitOptions{Recipients: []string{a.identity.Recipient().String()}})
	must(t, err)
	key := a.identity
	a.identity = nil
	_, err = repo.Copy(t.Context(), a.repo(other), a.repo(a.store), recs[last], repo.CopyOptions{})
	must(t, err)
	a.prune(append(recs[:last:last], recs[last+1:]...))
	a.identity = key
	for _, store := range []storage.Store{a.store, other} {
		if !bytes.Equal(files[last], a.restored(store, recs[last])) {
			t.Error("without the other backups it restores another file")
		}
	}
}

// TestNothingToCopy holds when a compacted file is stored whole, and what the settings are
// to each other.
func TestNothingToCopy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after func(*backup.Options)
		edit          func(t *testing.T, a *attachedEnv)
		want          manifest.ReplayKind
	}{
		"known":                     {before: copying, after: copying, want: manifest.CopyReplay},
		"asked for whole":           {before: copying, after: func(o *backup.Options) { o.Compaction = backup.Whole }},
		"asked for a replay":        {before: copying, after: replaying},
		"asked for a replay before": {before: replaying, after: copying},
		"turned on":                 {before: copying, after: replaying, edit: func(_ *testing.T, a *attachedEnv) { a.run(replaying) }, want: manifest.CompactionReplay},
		"forgotten": {before: copying, after: copying, edit: func(t *testing.T, a *attachedEnv) {
			for _, p := range a.knownFiles() {
				must(t, os.Remove(p))
			}
		}},
		"damaged": {before: copying, after: copying, edit: func(t *testing.T, a *attachedEnv) {
			for _, p := range a.knownFiles() {
				b, err := os.ReadFile(p)
				must(t, err)
				b[len(b)/2] ^= 1
				must(t, os.WriteFile(p, b, 0o600))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttachedEnv(t, newEnv(t))
			a.run(c.before)
			if c.edit != nil {
				c.edit(t, a)
			}
			a.compact()
			rec := a.run(c.after).Record
			var got manifest.ReplayKind
			if f := fileOf(t, a.check(rec), grownShard); len(f.Replays) > 0 {
				got = f.Replays[0].Kind
			}
			if got != c.want {
				t.Errorf("stored as %q, want %q", got, c.want)
			}
			if !bytes.Equal(a.bytes(), a.restored(a.store, rec)) {
				t.Error("it restores another file")
			}
		})
	}
}

// TestCopiesAndReplays rests a replay on a copy, tails that are replays on a copy, and a copy
// on what is in front of such tails.
func TestCopiesAndReplays(t *testing.T) {
	t.Parallel()
	a := newAttachedEnv(t, newEnv(t))
	tails := func(o *backup.Options) { o.Tails = backup.Replay }
	a.run(copying, tails)
	for i, want := range []manifest.ReplayKind{manifest.CopyReplay, manifest.CopyReplay, manifest.CompactionReplay, ""} {
		a.compact()
		opts := copying
		if i == 2 {
			opts = replaying
		}
		rec := a.run(opts, tails).Record
		f := fileOf(t, a.check(rec), grownShard)
		if want == "" != (len(f.Replays) == 0) || want != "" && f.Replays[0].Kind != want {
			t.Errorf("compaction %d: %d replays, want a %q", i, len(f.Replays), want)
		}
		if !bytes.Equal(a.bytes(), a.restored(a.store, rec)) {
			t.Errorf("compaction %d: another file is restored", i)
		}
		a.grow()
		if i == 1 { // so that documents are known
			opts = replaying
		}
		rec = a.run(opts, tails).Record
		if !bytes.Equal(a.bytes(), a.restored(a.store, rec)) {
			t.Errorf("grown after compaction %d: another file is restored", i)
		}
	}
}

// TestDamagedCopy flips a byte of each segment that a copy needs: a restore tells it, and
// what isn't hit can be had.
func TestDamagedCopy(t *testing.T) {
	t.Parallel()
	a := newAttachedEnv(t, newEnv(t))
	a.run(copying)
	a.compact()
	rec := a.run(copying).Record
	whole := a.bytes()
	var keys []storage.Key
	must(t, a.store.List(t.Context(), "segments/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	if len(keys) != 2 {
		t.Fatalf("%d segments, want 2", len(keys))
	}
	for i, key := range keys {
		var good []byte
		must(t, a.store.Get(t.Context(), key, 0, -1, func(r io.Reader) (err error) { good, err = io.ReadAll(r); return err }))
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		must(t, a.store.Put(t.Context(), key, bytes.NewReader(bad), storage.PutOptions{}))
		report, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: a.repo(a.store), Record: rec})
		if err != nil || report.OK() {
			t.Errorf("%s damaged: verify says %v, %v", key, report, err)
		}
		r := a.repo(a.store)
		m, err := r.Manifest(t.Context(), rec)
		must(t, err)
		rd := r.NewReader(m, nil)
		had := int64(0)
		lost, err := rd.Salvage(t.Context(), fileOf(t, m, grownShard), false, func(off int64, b []byte) error {
			if had += int64(len(b)); !bytes.Equal(b, whole[off:off+int64(len(b))]) {
				t.Errorf("%s damaged: wrong bytes at %d", key, off)
			}
			return nil
		})
		if err != nil || had+lost != int64(len(whole)) || lost == 0 || i == 0 && had < lost {
			t.Errorf("%s damaged: %d bytes could be had, %d not, of %d: %v", key, had, lost, len(whole), err)
		}
		rd.Close()
		must(t, a.store.Put(t.Context(), key, bytes.NewReader(good), storage.PutOptions{}))
	}
}

// TestCopyByHand restores a copy of a copy with stock tools.
func TestCopyByHand(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "age", "zstd", "jq", "dd", "sha256sum", "python3"} {
		testenv.Tool(t, tool)
	}
	a := newAttachedEnv(t, newFileEnv(t))
	dir := t.TempDir()
	key := filepath.Join(dir, "key.txt")
	must(t, os.WriteFile(key, []byte(a.identity.String()+"\n"), 0o600))
	a.run(copying)
	for range 2 {
		a.grow()
		a.compact()
		a.run(copying)
	}
	a.grow()
	a.run(copying)
	program, err := filepath.Abs("../../docs/replay.py")
	must(t, err)
	printed := testenv.Shell(t, testenv.PageBlocks(t, byHand, "```sh"), "REPO="+a.store.URL()[len("file://"):], "KEY="+key, "INSTANCE=node1", "DB=grow", "OUT="+filepath.Join(dir, "out"), "REPLAY="+program)
	got, err := os.ReadFile(filepath.Join(dir, "out", grownShard))
	if err != nil || !bytes.Equal(got, a.bytes()) {
		t.Errorf("another file: %v\n%s", err, printed)
	}
}

// TestCopiesLive backs up what a CouchDB that is there compacts, attachments and all,
// several times in a row.
func TestCopiesLive(t *testing.T) {
	t.Parallel()
	live := testenv.CouchDB(t, testenv.Options{})
	must(t, live.Put("/grow?q=1", nil, nil))
	e := newLiveEnv(t, live.DataDir)
	rnd := rand.New(rand.NewPCG(3, 3))
	data := make([]byte, 60_000)
	for i := range 60 {
		for j := range data {
			data[j] = byte(rnd.Uint32())
		}
		must(t, live.Put(fmt.Sprintf("/grow/%08x", rnd.Uint32()), map[string]any{"n": i,
			"_attachments": map[string]any{"a": map[string]any{"content_type": "image/png", "data": data[:rnd.IntN(len(data))]}}}, nil))
	}
	e.run(copying)
	names, err := live.NodeShards("grow")
	if err != nil || len(names) != 1 {
		t.Fatalf("shards %v, %v", names, err)
	}
	path := names[0] + ".couch"
	for round := range 3 {
		must(t, live.Put(fmt.Sprintf("/grow/new%d", round), map[string]any{"n": round}, nil))
		must(t, live.Compact("grow"))
		rec := e.run(copying).Record
		f := fileOf(t, e.check(rec), path)
		if len(f.Replays) != 1 || manifest.Depth(f.Replays) != round+1 || rec.AddedBytes > f.Size/4 {
			t.Errorf("round %d: %d replays, and %d bytes were stored of %d", round, len(f.Replays), rec.AddedBytes, f.Size)
		}
		dir := filepath.Join(t.TempDir(), "data")
		_, err := restore.Files(t.Context(), restore.Options{Repo: e.repo(e.store), Record: rec, To: dir})
		must(t, err)
		got, errGot := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		want, errWant := os.ReadFile(filepath.Join(live.DataDir, filepath.FromSlash(path)))
		if must(t, errors.Join(errGot, errWant)); !bytes.HasPrefix(want, got) || len(want)-len(got) > 8192 {
			t.Errorf("round %d: another file is restored", round)
		}
	}
}
