package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

const grownIndex = ".shards/00000000-ffffffff/grow.1767225600_design/mrview/56a570104134560a5213586522b333da.view"

// index puts an index in its place, as another file.
func (e *env) index(b []byte) {
	e.t.Helper()
	path := filepath.Join(e.data, grownIndex)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// newestHeader is that of a file.
func newestHeader(t testing.TB, b []byte) couchfile.RawHeader {
	t.Helper()
	h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// compactedIndex is what CouchDB makes of an index with another couchdb/btree_chunk_size.
func compactedIndex(t testing.TB, b []byte) []byte {
	t.Helper()
	h := newestHeader(t, b)
	out := &buffer{}
	f := couchwriter.NewFile(out, out, 0, h.Checksum)
	states, err := couchwriter.CompactView(f, bytes.NewReader(b), int64(len(b)), h, couchwriter.ViewOptions{Functions: [][]string{{"_stats"}, {"_count"}}, ChunkSize: 4000})
	if err != nil {
		t.Fatal(err)
	}
	term, err := couchwriter.ViewHeader(h.Term, states)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Header(term); err != nil {
		t.Fatal(err)
	}
	return out.b
}

// buffer is a file in memory.
type buffer struct{ b []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.b = append(b.b, p...)
	return len(p), nil
}

func (b *buffer) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(b.b).ReadAt(p, off) }

// restoredIndex restores a backup, verifies it, and returns the index.
func (e *env) restoredIndex(store storage.Store, rec *manifest.Record) []byte {
	e.t.Helper()
	dir := filepath.Join(e.t.TempDir(), "data")
	res, err := restore.Files(e.t.Context(), restore.Options{Repo: e.repo(store), Record: rec, To: dir})
	if err != nil {
		e.t.Fatal(err)
	}
	if len(res.Damaged) > 0 {
		e.t.Errorf("restore: damaged %v", res.Damaged)
	}
	report, err := restore.Verify(e.t.Context(), restore.VerifyOptions{Repo: e.repo(store), Record: rec})
	if err != nil || !report.OK() {
		e.t.Errorf("verify: %v %+v", err, report)
	}
	b, err := os.ReadFile(filepath.Join(dir, grownIndex))
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

// TestViewReplays backs an index of each release up before and after compactions and restores
// each backup, the last one also after those before were removed.
func TestViewReplays(t *testing.T) {
	t.Parallel()
	for _, version := range testenv.GrownVersions {
		if version != "3.5.0" && testing.Short() {
			continue // their files differ, not what is done with them
		}
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testViewReplays(t, version)
		})
	}
}

func testViewReplays(t *testing.T, version string) {
	t.Helper()
	e := newReplayEnv(t)
	e.stage(version, "2-grown")
	grown, compacted := testenv.GrownFile(t, version, "2-grown", ".view"), testenv.GrownFile(t, version, "3-compacted", ".view")
	onward := bytes.Clone(compacted) // the server writes another header behind it
	out := &buffer{b: onward}
	f := couchwriter.NewFile(out, out, int64(len(onward)), newestHeader(t, compacted).Checksum)
	if _, err := f.Header(newestHeader(t, compacted).Term); err != nil {
		t.Fatal(err)
	}
	stages := [][]byte{grown, compacted, out.b, compactedIndex(t, compacted)}
	depths := []int{0, 1, 1, 2}
	var recs []*manifest.Record
	for i, b := range stages {
		if i != 2 {
			e.index(b)
		} else {
			e.grow(grownIndex, b[len(compacted):])
		}
		if i == 1 {
			e.stage(version, "3-compacted") // the index is not newer than its shard
		}
		res := e.run(replaying)
		m := e.check(res.Record)
		f := fileOf(t, m, grownIndex)
		if got := manifest.Depth(f.Replays); got != depths[i] {
			t.Errorf("stage %d: %d replays, want %d; notes %v", i, got, depths[i], res.Notes)
		}
		if i > 0 && f.Replays[0].Kind != manifest.ViewReplay {
			t.Errorf("stage %d: a replay of kind %s", i, f.Replays[0].Kind)
		}
		if i == 3 && res.Record.AddedBytes > 3000 {
			t.Errorf("%d bytes were stored for a compaction alone", res.Record.AddedBytes)
		}
		recs = append(recs, res.Record)
	}
	for i, rec := range recs {
		want := stages[i]
		if !bytes.Equal(want[:newestHeader(t, want).End], e.restoredIndex(e.store, rec)) {
			t.Errorf("stage %d is restored as another file", i)
		}
	}
	e.prune(recs[:3])
	if !bytes.Equal(stages[3], e.restoredIndex(e.store, recs[3])) {
		t.Error("without the backups before it the last one restores another file")
	}
}

// TestViewStoredWhole holds when a compacted index is stored as it is: what is remembered of it
// is damaged, or it is none that a compaction makes. What is remembered is less than 2 % of it.
func TestViewStoredWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage bool
		edit   func(b []byte) []byte
		note   string
	}{
		"damaged memory": {damage: true, note: "can't be read"},
		"not compacted": {edit: func(b []byte) []byte {
			for i := 8 << 10; i < 150<<10; i += 7 {
				if i%4096 != 0 {
					b[i] ^= 1
				}
			}
			return b
		}, note: "was stored as it is, not as a replay"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newReplayEnv(t)
			e.stage("3.5.0", "3-compacted")
			grown := testenv.GrownFile(t, "3.5.0", "2-grown", ".view")
			e.index(grown)
			e.run(replaying)
			e.lookAtMemory(c.damage, len(grown)/50)
			is := bytes.Clone(testenv.GrownFile(t, "3.5.0", "3-compacted", ".view"))
			if c.edit != nil {
				is = c.edit(is)
			}
			e.index(is)
			res := e.run(replaying)
			if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
			if c.edit == nil && len(fileOf(t, e.check(res.Record), grownIndex).Replays) > 0 {
				t.Error("it is stored as a replay")
			}
		})
	}
}

// lookAtMemory damages what is remembered, and looks at the size of what is of the index.
func (e *env) lookAtMemory(damage bool, most int) {
	e.t.Helper()
	found := false
	for _, p := range e.knownFiles() {
		b, err := os.ReadFile(p)
		if err != nil {
			e.t.Fatal(err)
		}
		if bytes.HasPrefix(b, []byte("CouchKNV")) {
			found = true
			if len(b) > most {
				e.t.Errorf("%d bytes are remembered of the index", len(b))
			}
		}
		if b[len(b)/2] ^= 1; damage {
			if err := os.WriteFile(p, b, 0o600); err != nil {
				e.t.Fatal(err)
			}
		}
	}
	if !found {
		e.t.Error("nothing is remembered of the index")
	}
}
