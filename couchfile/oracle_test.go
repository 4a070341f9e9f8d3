package couchfile_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// database is one database of the fixtures: its shards, open.
type database struct {
	name   string
	folder string
	shards map[string]*couchfile.DB // "shards/<range>/<name>.<stamp>" to file
}

// databases opens all clustered databases of the fixtures.
func databases(t *testing.T) []database {
	t.Helper()
	var folders map[string]string
	loadJSON(t, &folders, "expected", "_folder_names.json")
	var out []database
	for name, folder := range folders {
		out = append(out, database{name, folder, openShards(t, name)})
	}
	if len(out) != 25 {
		t.Fatalf("got %d databases, want 25", len(out))
	}
	slices.SortFunc(out, func(a, b database) int { return strings.Compare(a.name, b.name) })
	return out
}

var shardPath = regexp.MustCompile(`^(shards/[0-9a-f-]{17}/(.*)\.\d{10})\.couch$`)

func openShards(t *testing.T, name string) map[string]*couchfile.DB {
	t.Helper()
	shards := map[string]*couchfile.DB{}
	base := filepath.Join(fixtures, "data")
	for _, path := range fixtureFiles(t) {
		rel, err := filepath.Rel(base, path)
		if err != nil {
			t.Fatal(err)
		}
		m := shardPath.FindStringSubmatch(filepath.ToSlash(rel))
		if m == nil || m[2] != name {
			continue
		}
		db, err := couchfile.Open(load(t, path))
		if err != nil {
			t.Fatal(err)
		}
		shards[m[1]] = db
	}
	return shards
}

func forEachDatabase(t *testing.T, fn func(t *testing.T, d database)) {
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) { fn(t, d) })
	}
}

var paddedExponent = regexp.MustCompile(`([0-9]e[+-])0([0-9][,\]}])`)

// compact is a recorded answer without spaces. The recording printed again
// what it had parsed, so that 1e-7 stands there as 1e-07; all other text is
// the server's.
func compact(t testing.TB, b []byte) string {
	t.Helper()
	var buf bytes.Buffer
	if err := json.Compact(&buf, b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("e-0")) && !bytes.Contains(b, []byte("e+0")) {
		return buf.String()
	}
	return paddedExponent.ReplaceAllString(buf.String(), "$1$2")
}

type row struct {
	ID    string
	Key   string
	Value struct{ Rev string }
	Doc   json.RawMessage
}

type rows struct{ Rows []row }

// docTexts maps the ids of an answer to the text of the documents.
func (r rows) docTexts(t testing.TB) map[string]string {
	out := map[string]string{}
	for _, row := range r.Rows {
		out[row.ID] = compact(t, row.Doc)
	}
	return out
}

func compareMaps(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if got[k] != want[k] {
			t.Errorf("%s %q: got %s, want %s", what, k, clip(got[k]), clip(want[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; !ok {
			t.Errorf("%s %q: got %s, want none", what, k, clip(got[k]))
		}
	}
}

func clip(s string) string {
	if len(s) > 400 {
		return s[:400] + "..."
	}
	return s
}

func allDocs(t testing.TB, shards map[string]*couchfile.DB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, db := range shards {
		for info, err := range db.Docs(couchfile.DocsOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			b, err := db.Doc(info.ID, couchfile.DocOptions{Conflicts: true})
			if err != nil {
				t.Fatal(err)
			}
			out[info.ID] = compact(t, b)
		}
	}
	return out
}

func TestOracleDocs(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, d database) {
		var want rows
		loadJSON(t, &want, "expected", d.folder, "all_docs.json")
		compareMaps(t, "document", allDocs(t, d.shards), want.docTexts(t))
	})
}

func TestOracleLeaves(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, d database) {
		var want map[string][]struct{ OK json.RawMessage }
		switch d.name {
		case "batches", "bigdoc", "empty", "_replicator":
			return // not recorded
		}
		loadJSON(t, &want, "expected", d.folder, "leaf_revisions.json")
		wantTexts, got := map[string]string{}, map[string]string{}
		for id, leaves := range want {
			var texts []string
			for _, l := range leaves {
				texts = append(texts, compact(t, l.OK))
			}
			slices.Sort(texts)
			wantTexts[id] = strings.Join(texts, "\n")
		}
		opts := couchfile.DocOptions{Revs: true, AttEncodingInfo: true}
		for _, db := range d.shards {
			for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
				if err != nil {
					t.Fatal(err)
				}
				var texts []string
				for _, l := range info.Leaves() {
					b, err := db.RevisionJSON(info, l, opts)
					if err != nil {
						t.Fatal(err)
					}
					texts = append(texts, compact(t, b))
				}
				slices.Sort(texts)
				got[info.ID] = strings.Join(texts, "\n")
			}
		}
		compareMaps(t, "leaves of", got, wantTexts)
	})
}

type changes struct {
	Results []struct {
		ID      string
		Deleted bool
		Changes []struct{ Rev string }
	}
}

// texts maps ids to deleted or not, the winner, and the other leaves.
func (c changes) texts() map[string]string {
	out := map[string]string{}
	for _, r := range c.Results {
		var revs []string
		for _, ch := range r.Changes {
			revs = append(revs, ch.Rev)
		}
		out[r.ID] = fmt.Sprint(r.Deleted, revs)
	}
	return out
}

func allChanges(t testing.TB, shards map[string]*couchfile.DB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, db := range shards {
		last := uint64(0)
		for info, err := range db.Changes(0, false) {
			if err != nil {
				t.Fatal(err)
			}
			if info.UpdateSeq <= last {
				t.Errorf("update_seq %d comes behind %d", info.UpdateSeq, last)
			}
			last = info.UpdateSeq
			var revs []string
			for _, l := range info.Leaves() {
				revs = append(revs, l.String())
			}
			out[info.ID] = fmt.Sprint(info.Deleted, revs)
		}
	}
	return out
}

func TestOracleChanges(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, d database) {
		var want changes
		loadJSON(t, &want, "expected", d.folder, "changes.json")
		compareMaps(t, "change", allChanges(t, d.shards), want.texts())
	})
}

// localDocs maps ids to texts. A system document is in every shard, each with
// its own state, and the server's answer is one of them: then so is the text.
func localDocs(t testing.TB, shards map[string]*couchfile.DB, system bool, want map[string]string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, db := range shards {
		for doc, err := range db.LocalDocs("") {
			if err != nil {
				t.Fatal(err)
			}
			hidden := strings.HasPrefix(doc.ID, "_local/purge-") || strings.HasPrefix(doc.ID, "_local/shard-sync-")
			if hidden && !system {
				continue
			}
			b, err := doc.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if text := compact(t, b); out[doc.ID] == "" || text == want[doc.ID] {
				out[doc.ID] = text
			}
		}
	}
	return out
}

func TestOracleLocalDocs(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, d database) {
		for file, system := range map[string]bool{"local_docs.json": false, "local_docs_system.json": true} {
			var want rows
			loadJSON(t, &want, "expected", d.folder, file)
			compareMaps(t, file, localDocs(t, d.shards, system, want.docTexts(t)), want.docTexts(t))
		}
	})
}

type attInfo struct {
	ContentType   string `json:"content_type"`
	RevPos        uint64
	Digest        string
	Length        int64
	EncodedLength int64  `json:"encoded_length"`
	ServedBytes   int64  `json:"served_bytes"`
	ServedSHA     string `json:"served_sha256"`
	PlainSHA      string `json:"plain_sha256"`
	Encoding      string
}

func TestOracleAttachments(t *testing.T) {
	seen := 0
	forEachDatabase(t, func(t *testing.T, d database) {
		var want map[string]map[string]map[string]attInfo
		if _, err := os.Stat(filepath.Join(fixtures, "expected", d.folder, "attachments.json")); err != nil {
			return
		}
		loadJSON(t, &want, "expected", d.folder, "attachments.json")
		for _, db := range d.shards {
			for info, err := range db.Docs(couchfile.DocsOptions{Deleted: true}) {
				if err != nil {
					t.Fatal(err)
				}
				for _, leaf := range info.Leaves() {
					atts, err := db.Attachments(info.ID, leaf)
					if err != nil {
						t.Fatal(err)
					}
					if w := want[info.ID][leaf.String()]; len(atts) != len(w) {
						t.Errorf("%s %s: got %d attachments, want %d", info.ID, leaf, len(atts), len(w))
					}
					for _, att := range atts {
						seen++
						checkAttachment(t, db, att, want[info.ID][leaf.String()][att.Name])
					}
				}
			}
		}
	})
	if seen < 10 {
		t.Errorf("compared %d attachments, want 10 or more", seen)
	}
}

func checkAttachment(t *testing.T, db *couchfile.DB, att couchfile.Attachment, want attInfo) {
	t.Helper()
	if att.ContentType != want.ContentType || att.RevPos != want.RevPos || att.Digest() != want.Digest || att.Length != want.Length {
		t.Errorf("%s: got %+v, want %+v", att.Name, att, want)
	}
	stored, err := io.ReadAll(db.OpenStored(att))
	if err != nil {
		t.Fatal(err)
	}
	if want.EncodedLength != 0 && int64(len(stored)) != want.EncodedLength {
		t.Errorf("%s: got %d stored bytes, want %d", att.Name, len(stored), want.EncodedLength)
	}
	r, err := db.OpenDecoded(att)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if sha(plain) != want.PlainSHA {
		t.Errorf("%s: got SHA-256 %s of %d bytes, want %s", att.Name, sha(plain), len(plain), want.PlainSHA)
	}
	if sha(stored) != want.ServedSHA && sha(plain) != want.ServedSHA {
		t.Errorf("%s: neither stored nor decoded bytes are what was served", att.Name)
	}
	if att.Encoding == "gzip" {
		zr, err := gzip.NewReader(bytes.NewReader(stored))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := io.ReadAll(zr); err != nil || !bytes.Equal(again, plain) {
			t.Errorf("%s: stored bytes do not decode to the attachment: %v", att.Name, err)
		}
	}
}

func sha(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

type shardInfo struct {
	DocCount     uint64 `json:"doc_count"`
	DelCount     uint64 `json:"doc_del_count"`
	UpdateSeq    uint64 `json:"update_seq"`
	PurgeSeq     uint64 `json:"purge_seq"`
	CompactedSeq uint64 `json:"compacted_seq"`
	DiskVersion  int    `json:"disk_format_version"`
	UUID         string
	Sizes        struct{ Active, External, File int64 }
	Props        json.RawMessage
}

func checkInfo(t *testing.T, name string, db *couchfile.DB, want shardInfo) {
	t.Helper()
	got, err := db.Info()
	if err != nil {
		t.Fatal(err)
	}
	w := couchfile.Info{
		DocCount: want.DocCount, DeletedCount: want.DelCount, UpdateSeq: want.UpdateSeq, PurgeSeq: want.PurgeSeq,
		CompactedSeq: want.CompactedSeq, DiskVersion: want.DiskVersion, UUID: want.UUID,
		FileSize: want.Sizes.File, ActiveSize: want.Sizes.Active, ExternalSize: want.Sizes.External,
	}
	if got != w {
		t.Errorf("info of %s: got %+v, want %+v", name, got, w)
	}
	props, err := db.Props()
	if err != nil {
		t.Fatal(err)
	}
	if want := compact(t, want.Props); string(props) != want && want != `{"partitioned":true}` {
		t.Errorf("props of %s: got %s, want %s", name, props, want)
	}
	partitioned, err := db.Partitioned()
	if err != nil || partitioned != strings.Contains(string(want.Props), "true") {
		t.Errorf("%s: got partitioned %v, %v, props are %s", name, partitioned, err, want.Props)
	}
	if n, err := db.CountChanges(0); err != nil || n != want.DocCount+want.DelCount {
		t.Errorf("%s: got %d changes, %v, want %d", name, n, err, want.DocCount+want.DelCount)
	}
}

func TestOracleInfo(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, d database) {
		var want map[string]shardInfo
		loadJSON(t, &want, "expected", d.folder, "shard_info.json")
		if len(want) != len(d.shards) {
			t.Errorf("got %d shards, want %d", len(d.shards), len(want))
		}
		for name, db := range d.shards {
			checkInfo(t, name, db, want[name])
		}
		var limits struct {
			Revs  uint64 `json:"revs_limit"`
			Purge uint64 `json:"purged_infos_limit"`
		}
		loadJSON(t, &limits, "expected", d.folder, "limits.json")
		security, err := os.ReadFile(filepath.Join(fixtures, "expected", d.folder, "security.json"))
		if err != nil {
			t.Fatal(err)
		}
		for name, db := range d.shards {
			if h := db.Header(); h.RevsLimit != limits.Revs || h.PurgeInfosLimit != limits.Purge {
				t.Errorf("limits of %s: got %d, %d, want %+v", name, h.RevsLimit, h.PurgeInfosLimit, limits)
			}
			if h := db.Header(); len(h.Epochs) != 1 || h.Epochs[0].Node != "couchdbfix@127.0.0.1" {
				t.Errorf("epochs of %s: got %v", name, h.Epochs)
			}
			got, err := db.Security()
			if err != nil || string(got) != compact(t, security) {
				t.Errorf("security of %s: got %s, %v, want %s", name, got, err, security)
			}
		}
	})
}

func TestOracleShardMap(t *testing.T) {
	db, err := couchfile.Open(load(t, filepath.Join(fixtures, "data", "_dbs.couch")))
	if err != nil {
		t.Fatal(err)
	}
	var want rows
	loadJSON(t, &want, "expected", "_dbs_all_docs.json")
	compareMaps(t, "shard map", allDocs(t, map[string]*couchfile.DB{"": db}), want.docTexts(t))
	for _, d := range databases(t) {
		b, err := os.ReadFile(filepath.Join(fixtures, "expected", d.folder, "shard_map.json"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := db.Doc(d.name, couchfile.DocOptions{})
		if err != nil || string(got) != compact(t, b) {
			t.Errorf("shard map of %s: got %s, %v, want %s", d.name, got, err, b)
		}
	}
	nodes, err := couchfile.Open(load(t, filepath.Join(fixtures, "data", "_nodes.couch")))
	if err != nil {
		t.Fatal(err)
	}
	var wantNodes rows
	loadJSON(t, &wantNodes, "expected", "_nodes_all_docs.json")
	compareMaps(t, "node", allDocs(t, map[string]*couchfile.DB{"": nodes}), wantNodes.docTexts(t))
}

// Each recorded step of timeline follows from the header that it names.
func TestOracleTimeline(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(fixtures, "expected", "timeline", "points", "*.json"))
	if err != nil || len(paths) != 9 {
		t.Fatalf("got %d points, %v, want 9", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var want struct {
				ShardInfo map[string]shardInfo `json:"shard_info"`
				AllDocs   rows                 `json:"all_docs"`
				Changes   changes
				LocalDocs rows `json:"local_docs"`
				Security  json.RawMessage
			}
			loadJSON(t, &want, "expected", "timeline", "points", filepath.Base(path))
			shards := map[string]*couchfile.DB{}
			for name, info := range want.ShardInfo {
				shards[name] = openPoint(t, name, info.Sizes.File)
				checkInfo(t, name, shards[name], info)
				got, err := shards[name].Security()
				if err != nil || string(got) != compact(t, want.Security) {
					t.Errorf("security of %s: got %s, %v, want %s", name, got, err, want.Security)
				}
			}
			compareMaps(t, "document", allDocs(t, shards), want.AllDocs.docTexts(t))
			compareMaps(t, "change", allChanges(t, shards), want.Changes.texts())
			compareMaps(t, "local document", localDocs(t, shards, false, nil), want.LocalDocs.docTexts(t))
		})
	}
}

// openPoint opens a shard at the point of its history that ends at end.
func openPoint(t *testing.T, name string, end int64) *couchfile.DB {
	t.Helper()
	r, size := load(t, filepath.Join(fixtures, "data", name+".couch"))
	points, err := couchfile.Points(r, size)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(points, func(p couchfile.Point) bool { return p.End == end })
	if i < 0 || !points[i].History {
		t.Fatalf("%s: no point of history ends at %d", name, end)
	}
	db, err := couchfile.OpenAt(r, size, points[i].Header)
	if err != nil {
		t.Fatal(err)
	}
	return db
}
