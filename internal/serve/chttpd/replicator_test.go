package chttpd_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/testenv"
)

// patience is how long something may take that must come.
const patience = 2 * time.Minute

// end is one end of a replication.
func end(base, db, user, password string) map[string]any {
	return map[string]any{"url": base + testenv.DBPath(db), "auth": map[string]any{"basic": map[string]any{"username": user, "password": password}}}
}

// pulled is what CouchDB says of a replication.
type pulled struct {
	NoChanges bool `json:"no_changes"`
	History   []struct {
		StartLastSeq     any   `json:"start_last_seq"`
		EndLastSeq       any   `json:"end_last_seq"`
		DocsRead         int   `json:"docs_read"`
		DocsWritten      int   `json:"docs_written"`
		DocWriteFailures int   `json:"doc_write_failures"`
		MissingFound     int   `json:"missing_found"`
		BulkGetDocs      int64 `json:"bulk_get_docs"`
	} `json:"history"`
}

// pull has the server pull a database out of what is served at a URL.
//
// A replication that is asked for while the one before it ends is not begun by CouchDB, and never answered
// (couch_replicator_scheduler.erl, add_job), so the server must have forgotten that first.
func (p *pair) pull(from, db, to string) (pulled, error) {
	p.t.Helper()
	p.wait("the end of the replication before", func() bool {
		var list struct {
			Jobs []struct {
				Database *string `json:"database"` // of its document, nil if it has none
			} `json:"jobs"`
		}
		must(p.t, p.live.Get("/_scheduler/jobs", &list))
		for _, j := range list.Jobs {
			if j.Database == nil {
				return false
			}
		}
		return true
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var res pulled
	err := p.live.Do(ctx, http.MethodPost, "/_replicate", map[string]any{
		"source": end(from, db, p.live.Admin, p.live.Password), "target": end(p.live.URL, to, p.live.Admin, p.live.Password),
	}, &res)
	return res, err
}

// content is all that a database holds, deleted documents and attachments too: each leaf by id and revision.
func (p *pair) content(db string) map[string]string {
	p.t.Helper()
	docs := []any{}
	for _, r := range p.feed(db) {
		for _, c := range r.Changes {
			docs = append(docs, map[string]string{"id": r.ID, "rev": c.Rev})
		}
	}
	var answer []byte
	must(p.t, p.live.Post(testenv.DBPath(db)+"/_bulk_get?revs=true&attachments=true", map[string]any{"docs": docs}, &answer))
	v, err := ejson.Parse(answer)
	must(p.t, err)
	results, _ := v.(ejson.Object).Get("results")
	out := map[string]string{}
	for _, r := range results.(ejson.Array) {
		list, _ := r.(ejson.Object).Get("docs")
		ok, has := list.(ejson.Array)[0].(ejson.Object).Get("ok")
		if !has {
			p.t.Fatalf("%s: %s", db, ejson.Append(nil, r))
		}
		id, _ := ok.(ejson.Object).Get("_id")
		rev, _ := ok.(ejson.Object).Get("_rev")
		out[fmt.Sprintf("%s %s", id, rev)] = string(ejson.Append(nil, ok))
	}
	return out
}

// equal holds what two databases hold against each other.
func (p *pair) equal(want, got map[string]string) {
	p.t.Helper()
	for k, w := range want {
		if g, ok := got[k]; !ok || g != w {
			p.t.Errorf("%s is %s, and not %s", k, clip(g, w), clip(w, g))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			p.t.Errorf("%s came from nowhere", k)
		}
	}
}

func (p *pair) wait(what string, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s did not come", what)
		}
	}
}

// restarted serves the backup with handlers that can be replaced, as by a program that is started anew at the same address.
type restarted struct{ atomic.Pointer[chttpd.Handler] }

func (r *restarted) ServeHTTP(w http.ResponseWriter, hr *http.Request) { r.Load().ServeHTTP(w, hr) }

// Clients that know nothing of Slipcover use a backup as they use the server that it is of.
func TestClients(t *testing.T) {
	t.Parallel()
	p := both(t, func(live *testenv.Couch) {
		fill(t, rand.New(rand.NewPCG(testenv.Seed(t), 17)))(live)
		addUsers(t, live)
	})
	for _, c := range []struct {
		name string
		use  func(*testing.T, *pair)
	}{
		{"replicator", replicator}, {"continuous", continuous}, {"pouchdb", pouchDB}, {"nano", nano}, {"kivik", kivik}, {"couchbackup", couchbackup}, {"users", backupUsers}, {"fauxton", fauxton},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			of := *p
			of.t = t
			c.use(t, &of)
		})
	}
}

// CouchDB's own replicator pulls databases of all kinds: what comes is what the server has.
func replicator(t *testing.T, p *pair) {
	anew := func() *chttpd.Handler {
		return chttpd.New(context.Background(), p.node, chttpd.Options{Auth: chttpd.OneUser{Name: p.live.Admin, Password: p.live.Password}})
	}
	var r restarted
	r.Store(anew())
	s := httptest.NewServer(&r)
	t.Cleanup(s.Close)
	for db, made := range map[string]string{"plain": "q=1", "sharded": "q=2", "parted": "q=2&partitioned=true", "empty": "q=1", "sl/ash+$(x)-1": "q=3"} {
		want := p.content(db)
		to := "to-" + strings.NewReplacer("+", "", "$", "").Replace(db)
		must(t, p.live.Put(testenv.DBPath(to)+"?"+made, nil, nil))
		first, err := p.pull(s.URL, db, to)
		must(t, err)
		p.equal(want, p.content(to))
		if len(want) == 0 {
			continue
		}
		if h := first.History[0]; h.DocsWritten != len(want) || h.DocWriteFailures != 0 || h.BulkGetDocs == 0 {
			t.Errorf("%s: of %d leaves: %+v", db, len(want), h)
		}
		// It goes on from its checkpoint: what was purged since doesn't come back.
		purged := slices.Sorted(maps.Keys(want))[len(want)/2]
		id, rev, _ := cutLast(purged)
		must(t, p.live.Post(testenv.DBPath(to, "_purge"), map[string]any{id: []string{rev}}, nil))
		second, err := p.pull(s.URL, db, to)
		must(t, err)
		if _, has := p.content(to)[purged]; has || !second.NoChanges {
			t.Errorf("%s: a second pull did not go on from its checkpoint: %+v", db, second)
		}
		// A serve that was started anew has none.
		r.Store(anew())
		third, err := p.pull(s.URL, db, to)
		must(t, err)
		if h := third.History[0]; third.NoChanges || h.DocsWritten != 1 || h.StartLastSeq != float64(0) && h.StartLastSeq != "0" {
			t.Errorf("%s: a pull without checkpoint: %+v", db, third)
		}
		p.equal(want, p.content(to))
	}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	return s[:max(i, 0)], s[i+1:], i >= 0
}

// Replications that go on wait at a backup for changes that never come, and end when they are told to.
func continuous(t *testing.T, p *pair) {
	dbs := []string{"plain", "sharded", "parted"}
	for _, db := range dbs {
		must(t, p.live.Put(testenv.DBPath("on-"+db)+map[bool]string{true: "?q=2&partitioned=true", false: "?q=2"}[db == "parted"], nil, nil))
		must(t, p.live.Put("/_replicator/"+db, map[string]any{
			"source": end(p.url, db, p.live.Admin, p.live.Password), "target": end(p.live.URL, "on-"+db, p.live.Admin, p.live.Password), "continuous": true,
		}, nil))
	}
	for _, db := range dbs {
		want := p.content(db)
		p.wait("all of "+db, func() bool { return len(p.content("on-"+db)) == len(want) })
		p.equal(want, p.content("on-"+db))
	}
	var doc struct {
		State string `json:"state"`
		Info  struct {
			Failures int    `json:"doc_write_failures"`
			Through  string `json:"through_seq"`
		} `json:"info"`
		Errors int `json:"error_count"`
	}
	for _, db := range dbs {
		must(t, p.live.Get("/_scheduler/docs/_replicator/"+db, &doc))
		if doc.State != "running" || doc.Errors > 0 || doc.Info.Failures > 0 {
			t.Errorf("%s: %+v", db, doc)
		}
		var got struct {
			Rev string `json:"_rev"`
		}
		must(t, p.live.Get("/_replicator/"+db, &got))
		must(t, p.live.Delete("/_replicator/"+db+"?rev="+url.QueryEscape(got.Rev)))
	}
	// What ends writes its checkpoint, so that both ends have one.
	for _, db := range dbs {
		p.wait("the checkpoint of "+db, func() bool { return p.checkpoints(p.url, db) > 0 && p.checkpoints(p.live.URL, "on-"+db) > 0 })
	}
}

// checkpoints counts those of replications that a database has.
func (p *pair) checkpoints(base, db string) (n int) {
	p.t.Helper()
	c := p.live.Client
	c.URL = base
	var list struct {
		Rows []struct {
			ID string `json:"id"`
		} `json:"rows"`
	}
	must(p.t, c.Get(testenv.DBPath(db, "_local_docs"), &list))
	for _, r := range list.Rows {
		if id := strings.TrimPrefix(r.ID, "_local/"); len(id) >= 32 && !strings.Contains(id, "-") {
			n++
		}
	}
	return n
}

// BenchmarkPull has CouchDB pull a database of small documents out of a live server, which is itself, and out of a backup of it.
func BenchmarkPull(b *testing.B) {
	const docs = 10_000
	p := both(b, func(live *testenv.Couch) {
		must(b, live.Put("/bench?q=2", nil, nil))
		for i := 0; i < docs; i += 1000 {
			var list []any
			for k := range 1000 {
				list = append(list, map[string]any{"_id": fmt.Sprintf("doc%06d", i+k), "n": k, "text": strings.Repeat("some text ", 30)})
			}
			must(b, live.Post("/bench/_bulk_docs", map[string]any{"docs": list}, nil))
		}
	})
	for name, from := range map[string]string{"live": p.live.URL, "backup": p.url} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n++
				to := fmt.Sprintf("to-%s-%d", name, n)
				must(b, p.live.Put("/"+to+"?q=2", nil, nil))
				res, err := p.pull(from, "bench", to)
				must(b, err)
				if got := res.History[0].DocsWritten; got != docs {
					b.Fatalf("%d documents came", got)
				}
			}
			b.ReportMetric(float64(docs*n)/b.Elapsed().Seconds(), "docs/s")
		})
	}
}
