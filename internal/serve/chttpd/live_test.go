package chttpd_test

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a server and a backup of it, which must answer alike.
type pair struct {
	t      testing.TB
	live   *testenv.Couch
	node   *serve.Node // the backup
	url    string      // where it is served
	client *http.Client
	asked  map[string]int // by form
	unlike int
}

// both starts a server, lets fill write to it, and serves a backup of it.
func both(t testing.TB, fill func(*testenv.Couch)) *pair {
	t.Helper()
	live := testenv.CouchDB(t, testenv.Options{Config: map[string]map[string]string{
		"query_server_config": {"commit_freq": "0"}, "replicator": {"startup_jitter": "1"},
		"chttpd_auth":         {"secret": crand.Text(), "iterations": "2000"}, // or who logs in first at the same moment makes one secret each
		"chttpd_auth_lockout": {"mode": "off"},
		"couchdb":             {"users_db_security_editable": "true"},
		"admins":              {"older": adminOfOld("old password")},
	}})
	fill(live)
	indexed(t, live)
	p := newPair(t, live)
	p.backUp()
	p.url = p.serve(chttpd.OneUser{Name: live.Admin, Password: live.Password})
	return p
}

// indexed waits for the indexes that CouchDB builds by itself, some seconds after a change (ken): each leaves a local document in its
// database.
func indexed(t testing.TB, live *testenv.Couch) {
	t.Helper()
	var dbs []string
	must(t, live.Get("/_all_dbs", &dbs))
	for _, db := range dbs {
		var list struct {
			Rows []struct {
				ID  string
				Doc struct{ Views map[string]any }
			}
		}
		must(t, live.Get(testenv.DBPath(db)+"/_design_docs?include_docs=true", &list))
		for _, row := range list.Rows {
			for end := time.Now().Add(30 * time.Second); len(row.Doc.Views) > 0 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				var info struct {
					Index struct {
						Running bool                `json:"updater_running"`
						Pending struct{ Total int } `json:"updates_pending"`
					} `json:"view_index"`
				}
				must(t, live.Get(docPath(db, row.ID)+"/_info", &info))
				if !info.Index.Running && info.Index.Pending.Total == 0 {
					break
				}
			}
		}
	}
}

// backUp backs the server up, with its ini file.
func (p *pair) backUp() {
	p.t.Helper()
	ini, err := os.ReadFile(p.live.ConfigFile())
	must(p.t, err)
	etc := p.t.TempDir()
	must(p.t, os.WriteFile(filepath.Join(etc, "local.ini"), ini, 0o600))
	r, m := servetest.BackupOf(p.t, mem.New(), node.Options{DataDir: p.live.DataDir, ConfigDir: etc})
	p.node = servetest.Open(p.t, r, m)
}

func newPair(t testing.TB, live *testenv.Couch) *pair {
	return &pair{t: t, live: live, asked: map[string]int{}, client: &http.Client{
		// CouchDB answers some requests twice, so no connection is used again.
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// serve serves the backup until the test ends.
func (p *pair) serve(auth chttpd.Auth) (url string) {
	done := make(chan struct{})
	s := httptest.NewServer(chttpd.New(context.Background(), p.node, chttpd.Options{Auth: auth, Done: done}))
	p.t.Cleanup(func() {
		close(done) // feeds that wait
		s.Close()
	})
	return s.URL
}

// ask is a request.
type ask struct {
	method, path, body string // GET if empty
	header             map[string]string
	unordered          bool // rows come in any order, as those of several shards do
}

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
}

func (p *pair) do(base string, a ask) reply {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), cmp.Or(a.method, http.MethodGet), base+a.path, strings.NewReader(a.body))
	must(p.t, err)
	if a.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.SetBasicAuth(p.live.Admin, p.live.Password)
	for k, v := range a.header {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := p.client.Do(req)
	must(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		b = append(b, "(cut off: "+err.Error()+")"...)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

var (
	boundaries = regexp.MustCompile(`boundary="?([-0-9a-f]{32,34})"?`)
	sequences  = regexp.MustCompile(`"(\d+-g[0-9A-Za-z_-]{10,})"`)
	tags       = regexp.MustCompile(`(?m)^Etag: .*\n`)
	lengths    = regexp.MustCompile(`(?m)^Content-Length: .*\n`)
	refs       = regexp.MustCompile(`,"ref":\d+`) // of a line in the server's log
	bookmarks  = regexp.MustCompile(`"bookmark": "[^"]*"`)
	rowSeqs    = regexp.MustCompile(`"seq":\[[^\]]*\]|"seq":null|"last_seq":\[[^\]]*\]|id: \[[^\]]*\]`)
)

// normal takes out of a body what no two servers have alike: boundaries, and how sequences are packed.
func (r reply) normal() string {
	body := r.body
	for _, m := range boundaries.FindAllStringSubmatch(r.header.Get("Content-Type")+"\n"+body, -1) {
		body = strings.ReplaceAll(body, strings.TrimLeft(m[1], "-"), "BOUNDARY")
	}
	body = bookmarks.ReplaceAllStringFunc(refs.ReplaceAllString(body, ""), inflated)
	return sequences.ReplaceAllStringFunc(body, func(s string) string {
		list, err := sequence.Unpack(s)
		if err != nil {
			return s
		}
		slices.SortFunc(list, func(a, b sequence.Shard) int { return a.Range.Compare(b.Range) })
		return fmt.Sprintf("%+v", list)
	})
}

// inflated is a bookmark whose term isn't compressed.
func inflated(s string) string {
	b, err := base64.RawURLEncoding.DecodeString(strings.Trim(strings.TrimPrefix(s, `"bookmark": `), `"`))
	if err != nil || len(b) < 6 || b[1] != 80 {
		return fmt.Sprintf("%x", b)
	}
	z, err := zlib.NewReader(bytes.NewReader(b[6:]))
	if err != nil {
		return s
	}
	b, err = io.ReadAll(z)
	if err != nil {
		return s
	}
	return fmt.Sprintf("83%x", b)
}

// compared are the headers that clients go by.
var compared = []string{"Content-Type", "Etag", "Cache-Control", "Accept-Ranges", "Content-Range", "Content-Encoding", "Allow", "Location", "Content-Security-Policy", "Content-Length"}

func (r reply) heads(base string) string {
	var b strings.Builder
	for _, h := range compared {
		v := boundaries.ReplaceAllString(strings.ReplaceAll(r.header.Get(h), base, "BASE"), "boundary=BOUNDARY")
		if h == "Content-Length" && (v == "0" || sequences.MatchString(r.body)) { // a HEAD's is 0 where a GET has none
			continue
		}
		if v != "" {
			fmt.Fprintf(&b, "%s: %s\n", h, v)
		}
	}
	return b.String()
}

// same asks both and compares.
func (p *pair) same(a ask) {
	p.t.Helper()
	if a.method == "" {
		a.method = http.MethodGet
	}
	want, got := p.do(p.live.URL, a), p.do(p.url, a)
	wantText, gotText := want.normal(), got.normal()
	wantHead, gotHead := want.heads(p.live.URL), got.heads(p.url)
	path, _, _ := strings.Cut(a.path, "?")
	if refs.MatchString(want.body) || want.status >= 500 || strings.HasSuffix(path, "/_bulk_get") || strings.Count(path, "/") == 1 { // may be long, and has sequences
		wantHead, gotHead = lengths.ReplaceAllString(wantHead, ""), lengths.ReplaceAllString(gotHead, "")
	}
	for _, s := range []string{"/_changes", "/_all_dbs", "/_dbs_info", "/_local/"} { // tags of Erlang's terms
		if strings.Contains(path, s) {
			wantHead, gotHead = tags.ReplaceAllString(wantHead, ""), tags.ReplaceAllString(gotHead, "")
		}
	}
	if strings.Contains(a.path, "feed=eventsource") { // the last line break may come after the end of the answer
		wantText, gotText = strings.TrimRight(wantText, "\n"), strings.TrimRight(gotText, "\n")
	}
	if strings.Contains(path, "sharded/_find") { // how many a shard has looked at by then is chance
		wantText, gotText = strings.Replace(wantText, manyExamined, "", 1), strings.Replace(gotText, manyExamined, "", 1)
	}
	if strings.Contains(a.path, "timeout=") { // an empty line says that the next row took longer than that
		wantText, gotText = emptyLines.ReplaceAllString(wantText, "\n"), emptyLines.ReplaceAllString(gotText, "\n")
	}
	if a.unordered {
		wantText, gotText = sorted(wantText), sorted(gotText)
	}
	p.asked[form(a)]++
	if want.status == got.status && wantText == gotText && wantHead == gotHead {
		return
	}
	if p.unlike++; p.unlike <= 20 {
		p.t.Errorf("%s %s %s %v\nserver: %d\n%s%s\nbackup: %d\n%s%s", a.method, a.path, a.body, a.header,
			want.status, wantHead, clip(wantText, gotText), got.status, gotHead, clip(gotText, wantText))
	}
}

var emptyLines = regexp.MustCompile(`\n{2,}`)

const manyExamined = `\nThe number of documents examined is high in proportion to the number of results returned. Consider adding a more specific index to improve this.`

// clip shows a text around where it begins to differ from another.
func clip(s, other string) string {
	i := 0
	for i < len(s) && i < len(other) && s[i] == other[i] {
		i++
	}
	return fmt.Sprintf("…%q (%d bytes)", s[max(0, i-200):min(len(s), i+300)], len(s))
}

// sorted are the rows of an answer in the order of their texts, without their sequences.
func sorted(text string) string {
	rows := strings.FieldsFunc(rowSeqs.ReplaceAllString(text, "SEQ"), func(c rune) bool { return c == '\r' || c == '\n' })
	for i := range rows {
		rows[i] = strings.TrimSuffix(rows[i], ",")
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// form is the kind of a request: its path without names.
func form(a ask) string {
	path, _, _ := strings.Cut(a.path, "?")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, s := range parts {
		if !strings.HasPrefix(s, "_") && s != "queries" {
			parts[i] = "*"
		}
	}
	return a.method + " /" + strings.Join(parts, "/")
}

func (p *pair) report() {
	p.t.Helper()
	n := 0
	var lines []string
	for f, k := range p.asked {
		n += k
		lines = append(lines, fmt.Sprintf("%6d %s", k, f))
	}
	slices.Sort(lines)
	p.t.Logf("%d requests compared, %d unlike\n%s", n, p.unlike, strings.Join(lines, "\n"))
}

// oddIDs are ids that need care in URLs and in JSON.
var oddIDs = []string{
	"a b", "a+b", "a%2Fb", "a/b", "ü", "日本", "e\u0301", "\U0001F600", "q\"uote", "back\\slash", "x\u0001y", "Z", "0", "~", "a&b=c", "a?b", "a#b", "tab\tt", "{}",
}

// fill writes databases of all kinds.
func fill(t testing.TB, rnd *rand.Rand) func(*testenv.Couch) {
	return func(live *testenv.Couch) {
		for _, db := range []string{"plain?q=1", "sharded?q=3", "parted?q=2&partitioned=true", "empty?q=2", "sl%2Fash+$(x)-1?q=1"} {
			must(t, live.Put("/"+strings.ReplaceAll(db, "+", "%2B"), nil, nil))
		}
		for _, db := range []string{"plain", "sharded", "parted", "sl/ash+$(x)-1"} {
			fillDB(t, live, db, rnd)
		}
	}
}

// value is any JSON value.
func value(rnd *rand.Rand, depth int) any {
	switch n := rnd.IntN(9); {
	case n == 0:
		return rnd.IntN(1000) - 500
	case n == 1:
		return rnd.Float64() * 1e6
	case n == 2:
		return strings.Repeat("text ü ", rnd.IntN(20))
	case n == 3:
		return nil
	case n == 4:
		return rnd.IntN(2) == 0
	case n == 5 && depth < 3:
		list := []any{}
		for range rnd.IntN(4) {
			list = append(list, value(rnd, depth+1))
		}
		return list
	case n == 6 && depth < 3:
		return map[string]any{"k": value(rnd, depth+1), "l": rnd.IntN(10)}
	case n == 7:
		return json.RawMessage("12345678901234567890123")
	}
	return json.RawMessage("1.0e-9")
}

func fillDB(t testing.TB, live *testenv.Couch, db string, rnd *rand.Rand) {
	t.Helper()
	var list []string
	for i := range 60 {
		if db == "parted" {
			list = append(list, fmt.Sprintf("p%d:doc%d", i%4, i))
		} else {
			list = append(list, fmt.Sprintf("doc%03d", i))
		}
	}
	if db != "parted" {
		list = append(list, oddIDs...)
	}
	revs := map[string]string{}
	for range 3 {
		for _, id := range list {
			if rnd.IntN(3) == 0 && revs[id] != "" {
				continue
			}
			doc := map[string]any{"a": value(rnd, 0), "b": value(rnd, 0), "n": rnd.IntN(20), "type": pick(rnd, []string{"x", "y", "z"})}
			if rnd.IntN(5) == 0 {
				doc["_attachments"] = map[string]any{
					"text.txt":     map[string]any{"content_type": "text/plain", "data": []byte(strings.Repeat("some text ", rnd.IntN(300)))},
					"bin/data.bin": map[string]any{"content_type": "application/octet-stream", "data": random(rnd, rnd.IntN(5000))},
				}
			}
			if revs[id] != "" {
				doc["_rev"] = revs[id]
			}
			var res struct {
				Rev string `json:"rev"`
			}
			must(t, live.Put(testenv.DBPath(db, id), doc, &res))
			revs[id] = res.Rev
		}
	}
	for i, id := range list {
		if rnd.IntN(6) > 0 {
			continue
		}
		if i%2 == 0 {
			must(t, live.Delete(testenv.DBPath(db, id)+"?rev="+revs[id]))
			continue
		}
		pos, _, _ := strings.Cut(revs[id], "-")
		n, err := strconv.Atoi(pos)
		must(t, err)
		for k := range 1 + rnd.IntN(2) { // conflicts, deleted ones among them
			doc := map[string]any{"_id": id, "conflict": k, "_revisions": map[string]any{"start": n + 1, "ids": []string{hex(rnd), hex(rnd)}}}
			if rnd.IntN(3) == 0 {
				doc["_deleted"] = true
			} else if rnd.IntN(2) == 0 { // an attachment without a position in the history
				doc["_attachments"] = map[string]any{"late.txt": map[string]any{"content_type": "text/plain", "data": []byte("late")}}
			}
			must(t, live.Post(testenv.DBPath(db, "_bulk_docs"), map[string]any{"new_edits": false, "docs": []any{doc}}, nil))
		}
	}
	if db != "parted" {
		view := map[string]any{"map": "function(doc){emit(doc.n, null)}", "reduce": "_count"}
		must(t, live.Put(testenv.DBPath(db)+"/_design/views", map[string]any{"language": "javascript", "views": map[string]any{"by_n": view}}, nil))
		must(t, live.Put(testenv.DBPath(db)+"/_design/other", map[string]any{"filters": map[string]any{"f": "function(doc){return true}"}}, nil))
	}
	index := map[string]any{"index": map[string]any{"fields": []string{"n", "type"}}, "name": "nt", "ddoc": "mango"}
	must(t, live.Post(testenv.DBPath(db)+"/_index", index, nil))
	for i := range 5 {
		must(t, live.Put(testenv.DBPath(db)+fmt.Sprintf("/_local/loc%d", i), map[string]any{"n": i}, nil))
	}
	must(t, live.Put(testenv.DBPath(db)+"/_security", map[string]any{
		"admins": map[string]any{"names": []string{"bob"}, "roles": []string{}}, "members": map[string]any{"names": []string{}, "roles": []string{"staff"}},
	}, nil))
	must(t, live.Put(testenv.DBPath(db)+"/_revs_limit", 77, nil))
	for _, id := range list {
		if rnd.IntN(12) == 0 {
			must(t, live.Post(testenv.DBPath(db, "_purge"), map[string]any{id: []string{revs[id]}}, nil))
		}
	}
	if db != "parted" {
		must(t, live.Get(testenv.DBPath(db)+"/_design/views/_view/by_n?limit=0&reduce=false", nil))
	}
}

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func hex(rnd *rand.Rand) string { return fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()) }

func pick[T any](rnd *rand.Rand, list []T) T { return list[rnd.IntN(len(list))] }

func js(v any) string {
	b, _ := json.Marshal(v) // texts and lists
	return string(b)
}

// doc is what the server says of a document.
type doc struct {
	id                 string
	leaves, revs, atts []string
}

// changed is a document in a feed, with its leaves.
type changed struct {
	ID      string `json:"id"`
	Changes []struct {
		Rev string `json:"rev"`
	} `json:"changes"`
}

// feed lists the leaves of all documents that the server's database has, deleted ones too.
func (p *pair) feed(db string) []changed {
	p.t.Helper()
	var feed struct {
		Results []changed `json:"results"`
	}
	must(p.t, p.live.Get(testenv.DBPath(db)+"/_changes?style=all_docs", &feed))
	return feed.Results
}

// docs lists all documents that a database has, deleted ones too, with their revisions.
func (p *pair) docs(db string) []doc {
	p.t.Helper()
	var out []doc
	for _, r := range p.feed(db) {
		d := doc{id: r.ID}
		for _, c := range r.Changes {
			d.leaves = append(d.leaves, c.Rev)
			var full struct {
				Revisions struct {
					Start int      `json:"start"`
					IDs   []string `json:"ids"`
				} `json:"_revisions"`
				Attachments map[string]any `json:"_attachments"`
			}
			must(p.t, p.live.Get(docPath(db, r.ID)+"?revs=true&rev="+c.Rev, &full))
			for i, id := range full.Revisions.IDs {
				d.revs = append(d.revs, fmt.Sprintf("%d-%s", full.Revisions.Start-i, id))
			}
			for name := range full.Attachments {
				d.atts = append(d.atts, name)
			}
		}
		slices.Sort(d.atts)
		d.atts = slices.Compact(d.atts)
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b doc) int { return strings.Compare(a.id, b.id) })
	return out
}

// docPath is a document's path; that of a design document has its slash.
func docPath(db, id string) string {
	if name, ok := strings.CutPrefix(id, "_design/"); ok {
		return testenv.DBPath(db) + "/_design/" + url.PathEscape(name)
	}
	return testenv.DBPath(db, id)
}

// query makes a query string of some of these parameters, each with one of its values.
func query(rnd *rand.Rand, most int, params map[string][]string) string {
	names := make([]string, 0, len(params))
	for n := range params {
		names = append(names, n)
	}
	slices.Sort(names)
	rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var out []string
	for _, n := range names[:rnd.IntN(min(most, len(names))+1)] {
		out = append(out, n+"="+url.QueryEscape(pick(rnd, params[n])))
	}
	if len(out) == 0 {
		return ""
	}
	return "?" + strings.Join(out, "&")
}

// A backup answers as the server does: all forms of requests, then random ones.
func TestAnswersAsServer(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(testenv.Seed(t), 13))
	p := both(t, fill(t, rnd))
	defer p.report()
	for _, path := range []string{
		"/_up", "/_all_dbs", "/_all_dbs?limit=2&skip=1", "/_all_dbs?descending=true", "/_all_dbs?startkey=%22p%22&endkey=%22r%22", "/_dbs_info", "/_session",
		"/_membership", "/_active_tasks", "/nosuch", "/nosuch/_all_docs", "/nosuch/doc", "/NoSuch",
	} {
		p.same(ask{path: path})
	}
	p.same(ask{method: "POST", path: "/_dbs_info", body: `{"keys":["plain","nosuch"]}`})
	p.same(ask{method: "POST", path: "/_dbs_info", body: `{}`})
	for _, db := range []string{"plain", "sharded", "parted", "empty", "sl/ash+$(x)-1"} {
		p.fixed(db)
		p.random(db, rnd)
	}
	for _, path := range []string{
		"/p1", "/p1/_all_docs", "/nosuch/_all_docs", "/_x/_all_docs", "", "/p1/_nothing", "/p1/_all_docs?partition=p2", "/p1/_all_docs?startkey=%22p1:doc2%22", "/nosuch",
	} {
		p.same(ask{path: "/parted/_partition" + path})
		p.same(ask{path: "/plain/_partition" + path})
	}
}

// fixed asks what needs no names.
func (p *pair) fixed(db string) {
	base := testenv.DBPath(db)
	for _, path := range []string{
		"", "/_security", "/_revs_limit", "/_purged_infos_limit", "/_purged_infos", "/_shards", "/_shards/doc001", "/_design_docs", "/_local_docs", "/_local_docs?include_docs=true",
		"/_design_docs?include_docs=true", "/_local/loc1", "/_local/nosuch", "/_local", "/_local/", "/_local/a/b", "/_design/views", "/_design%2fviews", "/_design/nosuch",
		"/_design/nosuch/_view/x", "/_design/views/nosuch.txt", "/_nothing", "/_missing_revs", "/_bulk_get", "/_bulk_docs", "/_changes?feed=nosuch", "/_changes?since=x",
		"/_changes?filter=_nosuch", "/_changes?heartbeat=x", "/_changes?heartbeat=0", "/_changes?seq_interval=0", "/_index", "/_index?limit=1&skip=1", "/_index?limit=0", "/_find", "/_explain", "/_all_docs?limit=x", "/_all_docs?keys=5", "/_all_docs?key=%22",
		"/_all_docs?update_seq=true", "/_all_docs/queries",
	} {
		p.same(ask{path: base + path})
		p.same(ask{method: "HEAD", path: base + path})
	}
	for _, path := range []string{"/_revs_diff", "/_missing_revs", "/_bulk_get", "/_all_docs", "/_changes", "/_all_docs/queries"} {
		p.same(ask{method: "POST", path: base + path, body: `[]`})
		p.same(ask{method: "POST", path: base + path, body: `{"x`})
		p.same(ask{method: "POST", path: base + path, body: `{}`, header: map[string]string{"Content-Type": "text/plain"}, unordered: true})
	}
	p.same(ask{method: "POST", path: base + "/_ensure_full_commit", body: "{}"})
	for _, path := range []string{"/_all_docs", "/_design/views/_view/by_n", "/_changes", "/_find", "/_revs_diff", "/_shards", "/_security"} {
		p.same(ask{method: "TRACE", path: base + path})
	}
}

// find asks for documents by a selector that no index of the database is for.
func (p *pair) find(base string, rnd *rand.Rand) {
	p.t.Helper()
	clause := pick(rnd, []string{`"type":"x"`, `"a":{"$gt":100}`, `"b":{"$exists":true}`, `"_id":{"$gt":"doc0"}`, `"_id":{"$in":["doc001","doc002"]}`, `"$or":[{"type":"y"},{"n":3}]`, `"a":{"$regex":"^t"}`,
		`"a":{"$nosuch":1}`, `"type":{"$ne":"z"},"a":{"$type":"number"}`})
	body := `{"use_index":"_all_docs","selector":{` + clause + `}`
	for _, more := range []string{`"limit":3`, `"skip":2`, `"fields":["_id","n","a.k"]`, `"execution_stats":false`, `"sort":[{"_id":"desc"}]`, `"sort":["_id"]`, `"conflicts":true`, `"limit":"x"`, `"bookmark":"nil"`} {
		if rnd.IntN(5) == 0 {
			body += "," + more
		}
	}
	p.same(ask{method: "POST", path: base + "/_find", body: body + "}"})
}

var accepts = []string{"", "application/json", "*/*", "multipart/related", "multipart/mixed", "text/plain", "application/json;q=0.5,multipart/*"}

// random asks for what the database has in random ways.
func (p *pair) random(db string, rnd *rand.Rand) {
	docs := p.docs(db)
	base := testenv.DBPath(db)
	names := []string{`"p1:"`, `"p2:doc10"`, `"p1:zz"`, `"_design/none"`}
	bounds := []string{`"doc010"`, `"a"`, `"zzz"`, `"nosuch"`, `"_design/"`, `5`, `null`, `{}`, `""`}
	for _, d := range docs {
		names = append(names, js(d.id))
	}
	keys := append(slices.Clone(names), bounds...)
	several := db == "sharded" || db == "parted" || db == "empty"
	listing := map[string][]string{
		"limit": {"0", "1", "5", "1000"}, "skip": {"0", "1", "7", "1000"}, "descending": {"true", "false"}, "include_docs": {"true", "false"}, "conflicts": {"true"}, "startkey": keys,
		"endkey": keys, "start_key": keys, "inclusive_end": {"false", "true"}, "key": keys, "update_seq": {"true"}, "attachments": {"true"}, "att_encoding_info": {"true"},
		"sorted": {"true"}, "reduce": {"false", "true"}, "startkey_docid": {"doc020"}, "endkey_docid": {"doc040"},
	}
	keyed := map[string][]string{"limit": {"0", "2"}, "skip": {"1"}, "descending": {"true"}, "include_docs": {"true"}, "conflicts": {"true"}, "update_seq": {"true"}}
	feeding := map[string][]string{
		"limit": {"0", "1", "10", "1000"}, "descending": {"true"}, "style": {"all_docs", "main_only"}, "include_docs": {"true"}, "conflicts": {"true"}, "attachments": {"true"},
		"filter": {"_design", "_doc_ids"}, "doc_ids": {`["doc001","doc002","nosuch","p1:doc1"]`, `[]`, `5`}, "feed": {"normal", "longpoll", "continuous", "eventsource"},
		"timeout": {"100"}, "seq_interval": {"1", "3"}, "since": {"0", "now"},
	}
	if several { // the order of several shards is nobody's
		delete(feeding, "limit")
		delete(feeding, "seq_interval")
		delete(feeding, "descending")
	}
	viewing := map[string][]string{
		"limit": {"0", "1", "5"}, "skip": {"0", "3"}, "descending": {"true"}, "include_docs": {"true"}, "startkey": {"3", "null", `"x"`}, "endkey": {"9", `{}`}, "key": {"5", "17"}, "keys": {"[3,4,99]"},
		"reduce": {"false", "true"}, "group": {"true"}, "group_level": {"1", "0"}, "update_seq": {"true"}, "conflicts": {"true"}, "update": {"false"}, "stable": {"true"}, "inclusive_end": {"false"},
	}
	for range testenv.Computed(60, 10) {
		if db != "parted" && db != "empty" {
			p.same(ask{path: base + "/_design/views/_view/" + pick(rnd, []string{"by_n", "by_n", "by_n", "nosuch"}) + query(rnd, 4, viewing)})
			p.same(ask{method: "POST", path: base + "/_design/views/_view/by_n" + query(rnd, 2, viewing), body: pick(rnd, []string{`{"keys":[1,2]}`, `{"key":3}`, `{"startkey":4,"limit":2,"reduce":false}`, `{}`})})
			p.same(ask{method: "POST", path: base + "/_design/views/_view/by_n/queries", body: `{"queries":[{"keys":[1,3],"reduce":false},{"group":true,"limit":3},{}]}`})
			p.find(base, rnd)
		}
		op := pick(rnd, []string{"/_all_docs", "/_all_docs", "/_design_docs", "/_local_docs"})
		p.same(ask{path: base + op + query(rnd, 5, listing)})
		list := "[" + pick(rnd, names) + "," + pick(rnd, names) + "," + pick(rnd, names) + "]"
		p.same(ask{method: "POST", path: base + op + query(rnd, 3, keyed), body: `{"keys":` + list + `}`})
		p.same(ask{method: "POST", path: base + op, body: `{"limit":3,"skip":` + strconv.Itoa(rnd.IntN(4)) + `,"start_key":` + pick(rnd, keys) + `}`})
		p.same(ask{method: "POST", path: base + op + "/queries", body: `{"queries":[{"limit":2},{"startkey":` + pick(rnd, keys) + `,"limit":3,"include_docs":true},{"keys":["p1:doc1","_design/x"]}]}`})
		ask := ask{path: base + "/_changes" + query(rnd, 4, feeding), unordered: several}
		if !strings.Contains(ask.path, "feed=") || strings.Contains(ask.path, "feed=normal") || strings.Contains(ask.path, "timeout") {
			p.same(ask)
		}
	}
	if len(docs) == 0 {
		return
	}
	nosuch := "nosuch"
	if db == "parted" {
		nosuch = "p1:nosuch"
	}
	reading := map[string][]string{
		"revs": {"true"}, "revs_info": {"true"}, "conflicts": {"true"}, "deleted_conflicts": {"true"}, "local_seq": {"true"}, "meta": {"true"}, "latest": {"true"}, "deleted": {"true"},
		"attachments": {"true", "false"}, "att_encoding_info": {"true"},
	}
	for range testenv.Computed(150, 20) {
		d, e := pick(rnd, docs), pick(rnd, docs)
		reading["rev"] = append(slices.Clone(d.revs), "1-abc", "x", "5-"+hex(rnd))
		reading["open_revs"] = []string{"all", js(d.leaves), js([]string{pick(rnd, d.revs), "9-" + hex(rnd)}), "[]"}
		reading["atts_since"] = []string{js(d.revs), js([]string{pick(rnd, d.revs)}), "[]"}
		id := d.id
		if rnd.IntN(20) == 0 {
			id = nosuch
		}
		path := docPath(db, id)
		method := pick(rnd, []string{"GET", "GET", "GET", "GET", "GET", "HEAD"})
		head := map[string]string{"Accept": pick(rnd, accepts)}
		if rnd.IntN(4) == 0 {
			head["If-None-Match"] = `"` + pick(rnd, d.leaves) + `"`
		}
		p.same(ask{method: method, path: path + query(rnd, 4, reading), header: head})
		if len(d.atts) > 0 {
			head := map[string]string{
				"Accept-Encoding": pick(rnd, []string{"", "gzip", "identity", "gzip;q=0", "deflate, gzip"}),
				"Range":           pick(rnd, []string{"", "", "bytes=0-9", "bytes=5-", "bytes=-7", "bytes=0-", "bytes=0-3,8-9", "bytes=9999999-", "bytes=7-2", "x"}),
			}
			p.same(ask{method: method, path: path + "/" + pick(rnd, append(d.atts, "nosuch")) + query(rnd, 1, map[string][]string{"rev": d.leaves}), header: head})
		}
		p.same(ask{method: "POST", path: base + pick(rnd, []string{"/_revs_diff", "/_missing_revs"}), body: js(map[string][]string{d.id: {pick(rnd, d.revs), "9-" + hex(rnd)}})})
		bulk := []any{
			map[string]any{"id": d.id}, map[string]any{"id": e.id, "rev": pick(rnd, e.revs)}, map[string]any{"id": nosuch},
			map[string]any{"id": d.id, "rev": pick(rnd, d.leaves), "atts_since": []string{pick(rnd, d.revs)}}, map[string]any{"id": "_y"}, map[string]any{"rev": "x"},
			map[string]any{"id": e.id, "rev": "zzz"}, map[string]any{"id": e.id, "rev": "7-" + hex(rnd)}, 5,
		}
		rnd.Shuffle(len(bulk), func(i, j int) { bulk[i], bulk[j] = bulk[j], bulk[i] })
		options := query(rnd, 2, map[string][]string{"revs": {"true"}, "attachments": {"true"}, "latest": {"true"}, "rev": {"x"}})
		p.same(ask{method: "POST", path: base + "/_bulk_get" + options, body: js(map[string]any{"docs": bulk[:1+rnd.IntN(4)]}), header: map[string]string{"Accept": pick(rnd, accepts)}})
	}
}
