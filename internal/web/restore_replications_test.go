package web_test

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// replicate adds documents of replications to a data directory.
func replicate(t *testing.T, data string, docs map[string]map[string]any) {
	t.Helper()
	for id, body := range docs {
		shard := "00000000-7fffffff"
		if crc32.ChecksumIEEE([]byte(id)) > 0x7fffffff {
			shard = "80000000-ffffffff"
		}
		path, err := filepath.Glob(filepath.Join(data, "shards", shard, "_replicator.*.couch"))
		if err != nil || len(path) != 1 {
			t.Fatalf("the shard of _replicator: %v, %v", path, err)
		}
		f, err := os.OpenFile(path[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		g, err := couchgen.Reopen(f, couchgen.Options{})
		if err == nil {
			_, err = g.Put(couchgen.Doc{ID: id, Body: body})
		}
		if err == nil {
			err = g.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A plan names the replications of its backup that are about what is restored: as a source or target, by its name or at the end of a URL.
func TestPlanNamesReplications(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(data, os.DirFS(fixtures+"/data")); err != nil {
		t.Fatal(err)
	}
	replicate(t, data, map[string]map[string]any{
		"out":      {"source": "timeline", "target": "https://jan:pw@branch.example/timeline-copy", "continuous": true},
		"in":       {"source": map[string]any{"url": "https://branch.example:6984/timeline/"}, "target": "https://db.example/elsewhere"},
		"another":  {"source": "http://db.example/my-timeline", "target": "timeline2"},
		"in-team":  {"source": "http://db.example/team%2Fone", "target": map[string]any{"url": "http://db.example/x"}},
		"<b>team'": {"source": "team/one", "target": "x"},
		"no":       {"a": "timeline"},
	})
	s := newShelf(t, data)
	b := s.as(access.Operator)
	of := func(db string) string {
		return restorePath("of", s.instance, "what", "db", "database", db, "s", s.backups[0], "where", "beside")
	}
	p := s.play("db1")
	p.is(true, "couchdb@other")
	for db, want := range map[string]string{"timeline": "2 replications (in, out) of the backup are about timeline.", "team/one": "2 replications (<b>team', in-team) of the backup are about team/one.", "attach": "No replication of the backup is about attach."} {
		a := b.get(of(db))
		if a.has(200, "Restore: "); strings.Contains(a.text(), "Closed: ") && !strings.Contains(a.text(), "the plan") {
			t.Fatalf("it is closed: %s", a.text())
		}
		a.has(200, want)
		a.hasNot("<b>team", "jan:pw")
	}
	if !strings.Contains(s.Audited(), `"action":"documents.list","target":"`+s.instance+`/_replicator`) {
		t.Errorf("the audit log doesn't say that they were looked at: %s", s.Audited())
	}
	if err := servertest.Ask(t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Recipient: p.Recipient(), Repository: job.Repository{ID: s.repo.Config().ID}, CanRead: true, CanCreate: true,
		FreeBytes: 1 << 40}, nil); err != nil {
		t.Fatal(err)
	}
	a := b.get(restorePath("of", s.instance, "what", "all", "s", s.backups[0], "where", "new"))
	a.has(200, "5 replications (<b>team', another, in, in-team, out) of the backup stay off")
}
