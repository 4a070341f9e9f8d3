package replay_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestHistories lets a CouchDB that is there live through random histories, and follows its files
// through all compactions as backups would: what was known before is enough to store the new file
// so that it comes back byte for byte, or the file is not stored so, for a reason that is known.
func TestHistories(t *testing.T) {
	t.Parallel()
	couch := testenv.CouchDB(t, testenv.Options{})
	count := tally{}
	rounds := testenv.Rounds(3)
	if testing.Short() {
		rounds = 1
	}
	for n := range rounds {
		seed := uint64(time.Now().UnixNano())
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Logf("seed %d", seed)
			h := &history{T: t, couch: couch, rnd: rand.New(rand.NewPCG(seed, 1)), tally: count, name: fmt.Sprintf("history-%d", n)}
			h.run(n)
		})
	}
	for n := range testenv.Rounds(1) {
		seed := uint64(time.Now().UnixNano())
		t.Run(fmt.Sprintf("interrupted-%d", n), func(t *testing.T) {
			t.Logf("seed %d", seed)
			h := &history{T: t, couch: couch, rnd: rand.New(rand.NewPCG(seed, 1)), tally: count, name: fmt.Sprintf("interrupted-%d", n)}
			h.interrupted()
		})
	}
	for _, what := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%6d %s", count[what], what)
	}
}

// interrupted kills a server while it compacts, changes documents that it had copied, and lets it
// go on.
func (h *history) interrupted() {
	for key, values := range settings {
		h.set(key, values[0])
	}
	h.atts = h.rnd.IntN(2) * 5
	h.create()
	for range 3 {
		h.must(h.bulk(h.rnd, 300))
	}
	h.must(h.conflicts(h.rnd, 30))
	h.cut()
	h.kill()
	h.must(h.bulk(h.rnd, 50))
	if err := h.couch.Compact(h.name); err != nil {
		h.Fatal(err)
	}
	for _, c := range h.chains {
		h.follow(c, h.read(c.path))
	}
	h.do("DELETE", "", nil, nil)
}

func (h *history) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// tally counts what became of files.
type tally map[string]int

// history is a database and what happens to it.
type history struct {
	*testing.T
	couch *testenv.Couch
	rnd   *rand.Rand
	tally tally
	name  string

	partitioned bool
	docs        docSet
	atts        int    // of 100 documents have attachments
	chunkSize   string // btree_chunk_size
	deflate     bool
	taken       bool   // the compaction was interrupted: its scratch file is not known
	excuse      string // why a file may not be replayed
	chains      map[string]*chain
}

// chain is what backups know of a shard.
type chain struct {
	path  string
	known []byte
	copy  []byte // of the file at the newest cut
}

func (h *history) run(n int) {
	h.partitioned, h.atts = h.rnd.IntN(5) == 0, []int{0, 0, 3, 20}[h.rnd.IntN(4)]
	h.configure()
	h.create()
	for range 1 + h.rnd.IntN(3) {
		h.work(h.rnd, h.size())
	}
	for range 2 + h.rnd.IntN(3) {
		for range h.rnd.IntN(3) { // backups that no compaction follows
			h.cut()
			h.work(h.rnd, h.size()/4)
		}
		h.cut()
		if h.rnd.IntN(3) == 0 {
			h.configure()
		}
		for range h.rnd.IntN(3) {
			h.work(h.rnd, h.size()/4)
		}
		h.compact(n)
		if h.Failed() {
			return
		}
	}
	h.do("DELETE", "", nil, nil)
}

func (h *history) size() int { return []int{5, 100, 600, 1500}[h.rnd.IntN(4)] }

// settings are values that the configuration may have; the first is the default.
var settings = map[string][]string{
	"couchdb/btree_chunk_size":            {"1279", "1279", "1279", "777", "2048", "4096", "10000"},
	"couchdb/file_compression":            {"snappy", "snappy", "snappy", "snappy", "none", "none", "deflate_6"},
	"couchdb/write_xxhash_checksums":      {"true", "true", "false"},
	"database_compaction/doc_buffer_size": {"524288", "524288", "20000", "3000"},
}

func (h *history) configure() {
	h.deflate = false
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		values := settings[key]
		value := values[h.rnd.IntN(len(values))]
		h.set(key, value)
		if key == "couchdb/btree_chunk_size" {
			h.chunkSize = value
		}
		h.deflate = h.deflate || value == "deflate_6"
		h.Logf("%s = %s", key, value)
	}
	after := []string{"", "", "100000"}[h.rnd.IntN(3)]
	h.set("database_compaction/checkpoint_after", after)
	h.Logf("checkpoint_after = %s", after)
}

// set changes a setting; no value is the default.
func (h *history) set(key, value string) {
	var err error
	if value == "" {
		if err = h.couch.Delete("/_node/_local/_config/" + key); testenv.Status(err) == 404 {
			err = nil
		}
	} else {
		err = h.couch.Put("/_node/_local/_config/"+key, value, nil)
	}
	if err != nil {
		h.Fatal(err)
	}
}

func (h *history) create() {
	h.chains = map[string]*chain{}
	h.docs.prefix = ""
	path := fmt.Sprintf("?q=%d", 1+h.rnd.IntN(2))
	if h.partitioned {
		path += "&partitioned=true"
		h.docs.prefix = "part:"
	}
	h.do("PUT", path, nil, nil)
	names, err := h.couch.NodeShards(h.name)
	if err != nil {
		h.Fatal(err)
	}
	for _, name := range names {
		h.chains[name] = &chain{path: filepath.Join(h.couch.DataDir, filepath.FromSlash(name)+".couch")}
	}
}

// do is a request that must succeed.
func (h *history) do(method, path string, body, into any) {
	h.Helper()
	if err := h.couch.Do(h.Context(), method, "/"+h.name+path, body, into); err != nil {
		h.Fatal(err)
	}
}

// cut is a backup before a compaction: what is known follows the file, or is of a new one.
func (h *history) cut() {
	h.Helper()
	for _, c := range h.chains {
		is := h.read(c.path)
		f := atNewest(h, is)
		whole := knownBytes(h, is)
		if c.known != nil && bytes.HasPrefix(is, c.copy) {
			var out bytes.Buffer
			if err := openKnown(h, c.known).Extend(&out, f); err != nil {
				h.Fatalf("%s: %v", c.path, err)
			}
			if !bytes.Equal(out.Bytes(), whole) {
				h.save(c, is)
				h.Fatalf("%s: what was known was extended to %d bytes, others than the %d of all that is read", c.path, out.Len(), len(whole))
			}
			h.tally["known extended"]++
		}
		c.known = whole
		if h.rnd.IntN(2) == 0 { // some backups see what a server is just writing
			c.copy = is
		} else {
			c.copy = is[:newestEnd(h, f)]
		}
	}
}

func (h *history) read(path string) []byte {
	h.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		h.Fatal(err)
	}
	return b
}

// compact compacts the database in some way, and follows its files.
func (h *history) compact(n int) {
	h.excuse, h.taken = "", false
	switch {
	case h.deflate:
		h.excuse = "deflate"
	case h.chunkSize != "1279": // of small files it is hard to say; TestSettings has larger ones
		h.excuse = "chunk size"
	}
	var err error
	switch how := h.rnd.IntN(6); {
	case how < 2:
		err = h.couch.Compact(h.name)
	case how == 5 && (n%4 == 3 || testenv.Soak()):
		h.kill()
		if h.excuse = "killed"; h.rnd.IntN(2) == 0 { // which may purge: then it is not replayed
			h.work(h.rnd, 20)
		}
		err = h.couch.Compact(h.name)
	default:
		end := h.meanwhile()
		err = h.couch.Compact(h.name)
		end()
	}
	if err != nil {
		h.Fatal(err)
	}
	for _, c := range h.chains {
		if is := h.read(c.path); !bytes.HasPrefix(is, c.copy) {
			h.follow(c, is)
		} else {
			h.tally["not compacted"]++
		}
	}
}

var digits = regexp.MustCompile(`\d+`)

// follow stores a compacted file and makes it again.
func (h *history) follow(c *chain, is []byte) {
	h.Helper()
	h.tally["files"]++
	older := atNewest(h, c.copy)
	stream, r, err := encode(atNewest(h, is), openKnown(h, c.known))
	if errors.Is(err, replay.ErrNotReplayed) {
		h.tally["refused: "+digits.ReplaceAllString(err.Error(), "N")+" ["+h.excuse+"]"]++
		h.Logf("%s: %d bytes: %v", c.path, len(is), err)
		if h.excuse == "" {
			h.save(c, is)
			h.Errorf("%s: %v", c.path, err)
		}
		return
	}
	if err != nil {
		h.save(c, is)
		h.Fatalf("%s: %v", c.path, err)
	}
	h.Logf("%d bytes of stream for %d, %d passes, %d taken, %d new, %d corrections [%s]", len(stream), r.Info.Size, r.Info.Passes,
		r.Taken, r.New, r.Corrections, h.excuse)
	got, err := decode(stream, &older)
	if err != nil || !bytes.Equal(got, is[:r.Info.Size]) {
		h.save(c, is)
		h.Fatalf("%s: %d bytes instead of %d, or others: %v", c.path, len(got), r.Info.Size, err)
	}
	if r.Corrections == 0 {
		mustMerge(h, stream, older, got)
	}
	if testenv.Soak() {
		mustPython(h, stream, cut(h, c.copy), got)
	}
	if h.taken && h.excuse == "" {
		mustPython(h, stream, cut(h, c.copy), is[:r.Info.Size])
	}
	h.tally["replayed"]++
	h.tally["bytes"] += int(r.Info.Size)
	h.tally["bytes of streams"] += len(stream)
	h.tally["passes"] += r.Info.Passes
	if r.Corrections > 0 {
		h.tally["corrected ["+h.excuse+"]"]++
		if h.excuse == "" && !h.taken {
			h.save(c, is)
			h.Errorf("%s: %d corrections", c.path, r.Corrections)
		}
	}
}

// save keeps the files of a fault if the test has -artifacts.
func (h *history) save(c *chain, is []byte) {
	base := filepath.Join(h.ArtifactDir(), fmt.Sprintf("%s-%d-", h.name, time.Now().UnixNano()))
	for name, b := range map[string][]byte{"was": c.copy, "is": is, "known": c.known} {
		if err := os.WriteFile(base+name, b, 0o600); err != nil {
			h.Error(err)
		}
	}
	h.Logf("kept as %s*", base)
}
