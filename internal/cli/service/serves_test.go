package service_test

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestServes: CouchDB's own replicator pulls a database out of a backup that the server has open, below the server's
// address, where it was deleted since; all that was written is there again.
func TestServes(t *testing.T) {
	t.Parallel()
	if _, missing := testenv.CouchDBBinary(); missing != "" {
		testenv.Missing(t, "couchdb", missing)
	}
	couch := testenv.CouchDB(t, testenv.Options{})
	if err := couch.Put("/orders?q=2", nil, nil); err != nil {
		t.Fatal(err)
	}
	load := couch.Load(testenv.LoadOptions{Databases: []string{"orders"}, Writers: 2, Duration: clitest.Patience, MaxWrites: 600, Deletes: 10, Seed: 11})
	t.Cleanup(func() { load.Stop() })
	load.Wait()
	cut := time.Now()
	dir := t.TempDir()
	p := serverOf(filepath.Join(dir, "state"))
	p.Env = append(p.Env, "SLIPCOVER_STATE_DIR="+p.state)
	startServer(t, p, "--with-agent", "--repo", filepath.Join(dir, "repo"), "--instance", "db1", "--data-dir", couch.DataDir)
	c := p.client(t)
	var backup struct{ Backup struct{ ID, Status string } }
	eventually(t, clitest.Patience, "a schedule is made", func() bool {
		status, _ := c.do("POST", "/slipcover/v1/schedules", map[string]any{"instance": "db1", "name": "s", "cron": "@yearly"}, nil)
		return status == 201
	})
	var list struct{ Schedules []struct{ ID string } }
	if _, err := c.do("GET", "/slipcover/v1/schedules", nil, &list); err != nil {
		t.Fatal(err)
	}
	eventually(t, clitest.Patience, "the agent is online, and backs up", func() bool {
		status, _ := c.do("POST", "/slipcover/v1/schedules/"+list.Schedules[0].ID+"/run", nil, &backup)
		return status/100 == 2
	})
	eventually(t, clitest.Patience, "the backup is made", func() bool {
		_, err := c.do("GET", "/slipcover/v1/backups/"+backup.Backup.ID, nil, &backup)
		return err == nil && backup.Backup.Status == "COMPLETED"
	})
	if err := couch.Delete("/orders"); err != nil { // what was lost
		t.Fatal(err)
	}

	var open struct {
		Serve    struct{ ID, URL, User string }
		Password string
	}
	if _, err := c.do("POST", "/slipcover/v1/backups/"+backup.Backup.ID+"/serve", nil, &open); err != nil {
		t.Fatal(err)
	}
	from, err := url.Parse(open.Serve.URL)
	if err != nil || !strings.HasPrefix(open.Serve.URL, p.url+"/slipcover/v1/serves/") {
		t.Fatalf("%q, %v", open.Serve.URL, err)
	}
	from.User = url.UserPassword(open.Serve.User, open.Password)
	to, err := url.Parse(couch.URL)
	if err != nil {
		t.Fatal(err)
	}
	to.User = url.UserPassword(couch.Admin, couch.Password)
	var done struct {
		OK      bool `json:"ok"`
		History []struct {
			Written int `json:"docs_written"`
			Failed  int `json:"doc_write_failures"`
		}
	}
	if err := couch.Post("/_replicate", map[string]any{"source": from.JoinPath("orders").String(), "target": to.JoinPath("orders").String(), "create_target": true}, &done); err != nil {
		t.Fatal(err)
	}
	if !done.OK || len(done.History) == 0 || done.History[0].Written == 0 || done.History[0].Failed > 0 {
		t.Errorf("%+v", done)
	}
	wrong, err := load.Journal.Compare(cut, couch.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range wrong {
		t.Error(line)
	}
	if _, err := c.do("DELETE", "/slipcover/v1/serves/"+open.Serve.ID, nil, nil); err != nil {
		t.Fatal(err)
	}
}
