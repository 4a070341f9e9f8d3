package couchfile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/testenv"
)

// answered is what a server said of one database.
type answered struct {
	Info struct {
		Docs     uint64 `json:"doc_count"`
		Deleted  uint64 `json:"doc_del_count"`
		External int64
		Props    map[string]any
		Q        int
	}
	AllDocs map[string]struct{ Doc any } `json:"all_docs"`
	Changes map[string][2]any
	Leaves  map[string][]any
	Atts    map[string][]any
	Views   map[string][2]any

	Security    []any          `json:"_security"`
	RevsLimit   []any          `json:"_revs_limit"`
	PurgesLimit []any          `json:"_purged_infos_limit"`
	LocalDocs   map[string]any `json:"_local_docs"`
}

// version is one of the other CouchDBs: its files, and what it said by database.
type version struct {
	name    string
	files   map[string][]byte
	answers map[string]*answered
}

// parsed holds what readVersion returned, by name.
var parsed sync.Map

func eachVersion(t *testing.T, fn func(t *testing.T, v *version)) {
	for _, name := range testenv.Versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := testenv.VersionFiles(t, name)
			read, _ := parsed.LoadOrStore(name, sync.OnceValues(func() (*version, error) { return readVersion(name, files) }))
			v, err := read.(func() (*version, error))()
			if err != nil {
				t.Fatal(err)
			}
			fn(t, v)
		})
	}
}

// readVersion reads what a server said, for all tests, which must not change it.
func readVersion(name string, files map[string][]byte) (*version, error) {
	v := &version{name: name, files: files, answers: map[string]*answered{}}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(files["answers.json"], &all); err != nil {
		return nil, err
	}
	for db, b := range all {
		if db == "_all_dbs" {
			continue
		}
		a := &answered{}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		if err := dec.Decode(a); err != nil {
			return nil, fmt.Errorf("answers on %s: %w", db, err)
		}
		v.answers[db] = a
	}
	if len(v.answers) < 15 {
		return nil, fmt.Errorf("answers on %d databases, want 15 or more", len(v.answers))
	}
	return v, nil
}

// shards opens a database's files.
func (v *version) shards(t *testing.T, db string) map[string]*couchfile.DB {
	t.Helper()
	out := map[string]*couchfile.DB{}
	for name, b := range v.files {
		m := shardPath.FindStringSubmatch(strings.TrimPrefix(name, "data/"))
		if m == nil || m[2] != db {
			continue
		}
		open, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[m[1]] = open
	}
	if q := v.answers[db].Info.Q; len(out) != q {
		t.Fatalf("%s: got %d shards, want %d", db, len(out), q)
	}
	return out
}

var plainInteger = regexp.MustCompile(`^-?\d+$`)

// plain is JSON as text that is the same for equal values: the recording printed again
// what it had parsed, with its own order of members and form of numbers.
func plain(t testing.TB, v any) string {
	t.Helper()
	if b, ok := v.([]byte); ok {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		v = nil
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
	}
	b, err := json.Marshal(sameNumbers(v))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if f, err := v.Float64(); err == nil && !plainInteger.MatchString(v.String()) {
			return strconv.FormatFloat(f, 'g', -1, 64)
		}
		return v.String()
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = sameNumbers(v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = sameNumbers(v[k])
		}
		return out
	}
	return v
}

// TestVersionsVerify reads every file that other CouchDBs wrote, all states of it.
func TestVersionsVerify(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		disk := map[string]int{"2.1": 6, "2.3": 7}[v.name]
		if disk == 0 {
			disk = 8
		}
		files, timed := 0, 0
		for name, b := range v.files {
			if !strings.HasSuffix(name, ".couch") && !strings.HasSuffix(name, ".view") {
				continue
			}
			files++
			s := couchfile.NewScanner(0)
			_, _ = s.Write(b)
			rep, err := couchfile.Verify(t.Context(), bytes.NewReader(b), int64(len(b)), couchfile.VerifyOptions{AllHeaders: true})
			if err != nil || !rep.OK() || len(s.Anomalies()) > 0 || !s.Synced() {
				t.Errorf("%s: %v, %+v, %v", name, err, rep, s.Anomalies())
				continue
			}
			if rep.Kind == couchfile.HeaderView {
				continue
			}
			if h := rep.Header; h.DiskVersion != disk || (h.TimeSeqPtr >= 0) != (v.name == "main" && h.UpdateSeq > 0) {
				t.Errorf("%s: disk version %d, time_seq at %d, update_seq %d", name, h.DiskVersion, h.TimeSeqPtr, h.UpdateSeq)
			}
			if rep.Header.TimeSeqPtr >= 0 {
				timed++
			}
		}
		if files < 40 || (timed > 20) != (v.name == "main") {
			t.Errorf("read %d files, %d with a time_seq", files, timed)
		}
	})
}

// TestVersionsLiveBytes holds what Verify calls live against the sizes of trees and
// documents that the file itself says: beside those there are the header and what it points
// to. It takes databases without attachments and superseded revisions.
func TestVersionsLiveBytes(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		for _, db := range []string{"manysmall", "again", "empty"} {
			for name, shard := range v.shards(t, db) {
				b := v.files["data/"+name+".couch"]
				rep, err := couchfile.Verify(t.Context(), bytes.NewReader(b), int64(len(b)), couchfile.VerifyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				info, err := shard.Info()
				if err != nil {
					t.Fatal(err)
				}
				h := shard.Header()
				want := info.ActiveSize + h.End - h.Offset
				for _, ptr := range []int64{h.SecurityPtr, h.PropsPtr, h.TimeSeqPtr} {
					want += pieceAt(b, ptr)
				}
				if rep.LiveBytes != want {
					t.Errorf("%s: %d live bytes, want %d: %+v", name, rep.LiveBytes, want, h)
				}
			}
		}
	})
}

// pieceAt is how many bytes the chunk at off takes; 0 if there is none.
func pieceAt(b []byte, off int64) int64 {
	if off < 0 {
		return 0
	}
	var word uint64
	at := off
	for range 4 {
		if at%couchfile.BlockSize == 0 {
			at++
		}
		word = word<<8 | uint64(b[at])
		at++
	}
	for left := word; left > 0; left-- {
		if at%couchfile.BlockSize == 0 {
			at++
		}
		at++
	}
	if at%couchfile.BlockSize == 0 { // the next block's marker counts
		at++
	}
	return at - off
}

// TestVersionsInfo compares counts, sizes, limits, security and props.
func TestVersionsInfo(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		for db, want := range v.answers {
			var docs, deleted uint64
			var external int64
			for name, shard := range v.shards(t, db) {
				info, err := shard.Info()
				if err != nil {
					t.Fatal(err)
				}
				docs, deleted, external = docs+info.DocCount, deleted+info.DeletedCount, external+info.ExternalSize
				v.limits(t, name, shard, want)
			}
			if docs != want.Info.Docs || deleted != want.Info.Deleted || external != want.Info.External {
				t.Errorf("%s: got %d, %d, %d, want %+v", db, docs, deleted, external, want.Info)
			}
		}
	})
}

func (v *version) limits(t *testing.T, name string, shard *couchfile.DB, want *answered) {
	t.Helper()
	h := shard.Header()
	if got := fmt.Sprint(h.RevsLimit); got != fmt.Sprint(want.RevsLimit[1]) {
		t.Errorf("%s: revs_limit %s, want %v", name, got, want.RevsLimit[1])
	}
	if got := fmt.Sprint(h.PurgeInfosLimit); v.name != "2.1" && got != fmt.Sprint(want.PurgesLimit[1]) {
		t.Errorf("%s: purged_infos_limit %s, want %v", name, got, want.PurgesLimit[1])
	}
	security, err := shard.Security()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := plain(t, []byte(security)), plain(t, want.Security[1]); got != want {
		t.Errorf("%s: security %s, want %s", name, got, want)
	}
	props, err := shard.Props()
	partitioned, err2 := shard.Partitioned()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if want := want.Info.Props["partitioned"] == true; partitioned != want || strings.Contains(string(props), `"partitioned":true`) != want {
		t.Errorf("%s: props %s, want partitioned %v", name, props, want)
	}
}

// noted is a database that the server itself wrote to once it had been asked about it.
const noted = "_global_changes"

// TestVersionsDocs compares the documents that are not deleted, and the changes.
func TestVersionsDocs(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		for db, want := range v.answers {
			if db == noted {
				continue
			}
			shards := v.shards(t, db)
			wantDocs, gotDocs := map[string]string{}, map[string]string{}
			for id, row := range want.AllDocs {
				wantDocs[id] = plain(t, row.Doc)
			}
			for id, text := range allDocs(t, shards) {
				gotDocs[id] = plain(t, []byte(text))
			}
			compareMaps(t, db+": document", gotDocs, wantDocs)

			wantChanges := map[string]string{}
			for id, c := range want.Changes {
				wantChanges[id] = fmt.Sprint(c[0], sorted(c[1].([]any)))
			}
			gotChanges := map[string]string{}
			for _, shard := range shards {
				for info, err := range shard.Changes(0, false) {
					if err != nil {
						t.Fatal(err)
					}
					var revs []any
					for _, l := range info.Leaves() {
						revs = append(revs, l.String())
					}
					gotChanges[info.ID] = fmt.Sprint(info.Deleted, sorted(revs))
				}
			}
			compareMaps(t, db+": change", gotChanges, wantChanges)
		}
	})
}

func sorted(list []any) []string {
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	slices.Sort(out)
	return out
}

// TestVersionsLeaves compares all leaf revisions with their histories, and all attachments.
func TestVersionsLeaves(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		attachments := 0
		for db, want := range v.answers {
			if db == noted {
				continue
			}
			wantLeaves, got := map[string]string{}, map[string]string{}
			for id, leaves := range want.Leaves {
				for _, l := range leaves {
					wantLeaves[id+" "+l.(map[string]any)["_rev"].(string)] = plain(t, l)
				}
			}
			for _, shard := range v.shards(t, db) {
				for info, err := range shard.Docs(couchfile.DocsOptions{Deleted: true}) {
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range info.Leaves() {
						b, err := shard.RevisionJSON(info, l, couchfile.DocOptions{Revs: true, AttEncodingInfo: true})
						if err != nil {
							t.Fatal(err)
						}
						key := info.ID + " " + l.String()
						got[key] = plain(t, b)
						attachments += sameAttachments(t, shard, info.ID, l, want.Atts)
					}
				}
			}
			compareMaps(t, db+": leaf", got, wantLeaves)
			if served := len(want.Atts); served > 0 && attachments < served {
				t.Errorf("%s: compared %d attachments so far, want %d more", db, attachments, served)
			}
		}
		if attachments < 300 {
			t.Errorf("compared %d attachments, want 300 or more", attachments)
		}
	})
}

// sameAttachments compares the attachments of a revision with those that were served.
func sameAttachments(t *testing.T, db *couchfile.DB, id string, rev couchfile.Revision, served map[string][]any) int {
	t.Helper()
	atts, err := db.Attachments(id, rev)
	if err != nil {
		t.Fatal(err)
	}
	for _, att := range atts {
		key := id + " " + rev.String() + " " + att.Name
		w := served[key]
		if w == nil {
			t.Errorf("attachment %q was never served", key)
			continue
		}
		stored, err := io.ReadAll(db.OpenStored(att))
		if err != nil {
			t.Fatal(err)
		}
		r, err := db.OpenDecoded(att)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(200, sha(decoded), len(decoded), att.ContentType, sha(stored), len(stored))
		if want := fmt.Sprint(w[:6]...); got != want {
			t.Errorf("attachment %q: got %s, want %s", key, got, want)
		}
	}
	return len(atts)
}

// TestVersionsLocalDocs compares local documents; 2.1 lists them without ids and revisions.
func TestVersionsLocalDocs(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		seen := 0
		for db, a := range v.answers {
			want, got := map[string]string{}, map[string]string{}
			for id, doc := range a.LocalDocs {
				want[id] = plain(t, withoutRev(doc.(map[string]any)))
				seen++
			}
			for id, text := range localDocs(t, v.shards(t, db), false, nil) {
				var body map[string]any
				dec := json.NewDecoder(strings.NewReader(text))
				dec.UseNumber()
				if err := dec.Decode(&body); err != nil {
					t.Fatal(err)
				}
				got[id] = plain(t, withoutRev(body))
			}
			compareMaps(t, db+": local document", got, want)
		}
		if seen < 40 {
			t.Errorf("compared %d local documents, want 40 or more", seen)
		}
	})
}

// withoutRev returns a document without its id and revision.
func withoutRev(doc map[string]any) any {
	doc = maps.Clone(doc)
	delete(doc, "_id")
	delete(doc, "_rev")
	return doc
}

// TestVersionsPurges reads the purges: the documents that they name are gone.
func TestVersionsPurges(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		purges := 0
		for db, a := range v.answers {
			for name, shard := range v.shards(t, db) {
				info, err := shard.Info()
				if err != nil {
					t.Fatal(err)
				}
				last := uint64(0)
				for p, err := range shard.Purges(0) {
					if err != nil {
						t.Fatal(err)
					}
					purges++
					if p.Seq <= last || len(p.Revs) == 0 || p.UUID == "" {
						t.Errorf("%s: %+v behind %d", name, p, last)
					}
					last = p.Seq
					if c := a.Changes[p.DocID]; slices.Contains(sorted(anyList(c[1])), p.Revs[0].String()) {
						t.Errorf("%s: %s of %q was purged and is in the changes", name, p.Revs[0], p.DocID)
					}
				}
				if info.PurgeSeq < last {
					t.Errorf("%s: purge_seq %d, want %d", name, info.PurgeSeq, last)
				}
			}
		}
		if (purges > 10) != (v.name != "2.1") {
			t.Errorf("read %d purges", purges)
		}
	})
}

func anyList(v any) []any {
	list, _ := v.([]any)
	return list
}

// TestVersionsViews finds the rows of each view that was asked in one index of all shards.
func TestVersionsViews(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *version) {
		found := 0
		for db, a := range v.answers {
			have := v.viewRows(t, db)
			for path, answer := range a.Views {
				if !strings.HasSuffix(path, "reduce=false") || strings.Contains(path, "_partition") || len(anyList(answer[1])) == 0 {
					continue
				}
				want := map[string]int{}
				for _, row := range anyList(answer[1]) {
					r := row.(map[string]any)
					want[plain(t, []any{r["id"], r["key"], r["value"]})]++
				}
				if !slices.ContainsFunc(have, func(got map[string]int) bool { return maps.Equal(got, want) }) {
					t.Errorf("%s: no index holds its %d rows", path, len(want))
				}
				found++
			}
		}
		if found < 20 {
			t.Errorf("looked for %d views, want 20 or more", found)
		}
	})
}

// viewRows returns the rows of each view of each index of a database, from all shards.
func (v *version) viewRows(t *testing.T, db string) []map[string]int {
	t.Helper()
	all := map[string]map[string]int{}
	for name, b := range v.files {
		dir, file, _ := strings.Cut(name, "_design/mrview/")
		m := shardPath.FindStringSubmatch(strings.TrimPrefix(dir, "data/.") + ".couch")
		if m == nil || m[2] != db || !strings.HasSuffix(file, ".view") {
			continue
		}
		view, err := couchfile.OpenView(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, tree := range view.Trees() {
			key := fmt.Sprint(file, i)
			if all[key] == nil {
				all[key] = map[string]int{}
			}
			for e, err := range tree.All(nil, false) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, row := range rowsOf(t, e) {
					all[key][row]++
				}
			}
		}
	}
	return slices.Collect(maps.Values(all))
}

// rowsOf returns the rows of an entry of a view: {key, id} => value, or {dups, values}; the
// key of a partition's view is {p, partition, key}.
//
// Source: CouchDB 3.5, src/couch_mrview/src/couch_mrview_util.erl, detuple_kvs.
func rowsOf(t *testing.T, e couchfile.Entry) []string {
	t.Helper()
	rest, ok := erlterm.TupleN(e.Key, 2)
	if !ok {
		t.Fatalf("key %x", e.Key)
	}
	key, rest, _ := erlterm.Next(rest)
	id, _, _ := erlterm.Binary(rest)
	if rest, ok := erlterm.TupleN(key, 3); ok {
		_, rest, _ = erlterm.Next(rest)
		_, key, _ = erlterm.Next(rest)
	}
	values := []erlterm.Term{e.Value}
	if rest, ok := erlterm.TupleN(e.Value, 2); ok && erlterm.IsAtom(rest, "dups") {
		values = nil
		_, rest, _ = erlterm.Next(rest)
		n, rest, _ := erlterm.List(rest)
		for range n {
			var v erlterm.Term
			v, rest, _ = erlterm.Next(rest)
			values = append(values, v)
		}
	}
	var out []string
	for _, v := range values {
		b := erlterm.AppendString([]byte("["), id)
		var err error
		if b, err = erlterm.AppendJSON(append(b, ','), key); err == nil {
			b, err = erlterm.AppendJSON(append(b, ','), v)
		}
		if err != nil {
			t.Fatalf("row of %s: %v", id, err)
		}
		out = append(out, plain(t, append(b, ']')))
	}
	return out
}
