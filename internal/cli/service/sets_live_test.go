package service_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/admin"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A cluster that is written to is backed up as one set by its agents, at one moment; without one of them in part, which is
// made up for when it is back; and comes back from the first set alone. A schedule keeps and deletes sets as wholes.
func TestSetOfARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two clusters")
	}
	t.Parallel()
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 2})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Nodes[0].Put("/d", nil, nil))
	var ahead, silent atomic.Int64 // of the server's clock, and of its watch
	began := time.Now()
	w := servertest.New(t, bus.Options{Listen: "127.0.0.1:0"}, server.Config{Offline: time.Hour, Sweep: time.Second,
		Now:   func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Watch: func() time.Duration { return time.Since(began) + time.Duration(silent.Load()) }})
	w.Serve(httpd.API{Name: "admin", Broken: admin.Broken, TooMany: admin.TooMany},
		admin.New(admin.Options{Server: w.Server, Checker: w.Tokens, Tokens: w.Tokens, Log: w.Log, Auth: "token", NATSURL: w.Bus.ClientURL()}))
	dir := t.TempDir()
	repo := filepath.Join(dir, "repo")
	env := []string{"SLIPCOVER_SERVER_URL=" + w.HTTP.URL, "SLIPCOVER_TOKEN=" + w.Token("p", access.Operator), "SLIPCOVER_REPOSITORY=file://" + repo, "SLIPCOVER_STATE_DIR=" + filepath.Join(dir, "state")}
	exits := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := slipcover(t, env, args...)
		if code != want {
			t.Fatalf("%q: exit code %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out
	}
	set := func(code int, args ...string) (s struct {
		ID, State string
		Spread    float64 `json:"spread_seconds"`
		Members   []struct{ Node, Backup, Status, Lacks string }
	}) {
		t.Helper()
		text := exits(code, append(args, "--json")...)
		must(json.Unmarshal([]byte(text), &struct{ Set any }{&s}))
		return s
	}
	exits(0, "init", "--no-encryption")
	var agents []*process
	for i, n := range c.Nodes {
		words := strings.Fields(exits(0, "token", "join", "--name", fmt.Sprintf("db%d", i+1)))
		agents = append(agents, startAgent(t, []string{"SLIPCOVER_STATE_DIR=" + filepath.Join(dir, fmt.Sprint("agent", i)), "SLIPCOVER_DATA_DIR=" + n.DataDir,
			"SLIPCOVER_REPOSITORY=file://" + repo, "SLIPCOVER_CLUSTER=prod"}, words[2:]...))
	}
	online := func(want int) {
		t.Helper()
		servertest.Eventually(t, fmt.Sprintf("%d agents are online", want), func() bool {
			list := w.Server.Clusters(&access.Caller{Project: "p"}, false)
			n := 0
			for _, of := range list {
				for _, node := range of.Nodes {
					if node.Online {
						n++
					}
				}
			}
			return n == want && len(list) == 1 && len(list[0].Nodes) == 3
		})
	}
	online(3)

	writing := c.Write("d", 5*time.Millisecond, 100)
	before := len(writing.Acknowledged())
	first := set(0, "backup", "create", "--cluster", "prod", "--name", "by hand")
	if len(writing.Acknowledged()) == before {
		t.Error("nothing was written meanwhile: this proves less")
	}
	if first.State != "whole" || len(first.Members) != 3 || first.Spread > 10 {
		t.Errorf("the set: %+v", first)
	}
	t.Logf("%d documents before; the backups began within %.3f s", before, first.Spread)

	agents[2].stop()
	silent.Add(int64(time.Hour)) // after which those that are there are heard again, however busy the machine is
	online(2)
	partial := set(4, "backup", "create", "--cluster", "prod")
	if partial.State != "partial" || partial.Members[2].Lacks != "its agent is not online" || partial.Members[1].Status != "COMPLETED" {
		t.Errorf("without a node: %+v", partial)
	}
	agents[2].Args = []string{"agent"} // it has joined
	agents[2].Start()
	servertest.Eventually(t, "the set is completed", func() bool { return set(0, "sets", "show", partial.ID).State == "whole" })
	writing.Stop()
	acknowledged := writing.Acknowledged()

	// By a schedule: the older set goes whole, and those by hand stay.
	soon := fmt.Sprintf("%d * * * *", (time.Now().UTC().Minute()+30)%60) // and not by itself meanwhile
	exits(0, "schedule", "create", "--cluster", "prod", "--name", "hourly", "--cron", soon, "--keep-last", "1")
	scheduled := func() (out []*server.SetInfo) {
		for _, i := range w.Server.Sets(&access.Caller{Project: "p"}, server.SetFilter{}) {
			if i.Schedule != "" {
				out = append(out, i)
			}
		}
		return out
	}
	gone := ""
	for range 2 {
		ahead.Add(int64(time.Hour))
		servertest.Eventually(t, "a scheduled set is whole, and alone", func() bool {
			list := scheduled()
			return len(list) == 1 && list[0].State == server.SetWhole && list[0].ID != gone
		})
		if list := scheduled(); gone == "" {
			gone = list[0].ID
		}
	}
	var list struct {
		Backups []struct{ Labels map[string]string }
	}
	must(json.Unmarshal([]byte(exits(0, "backup", "list", "--json")), &list))
	of := map[string]int{}
	for _, b := range list.Backups {
		of[b.Labels[job.LabelSet]]++
	}
	if want := map[string]int{first.ID: 3, partial.ID: 3, scheduled()[0].ID: 3}; fmt.Sprint(of) != fmt.Sprint(want) {
		t.Errorf("the repository has %v, want %v", of, want)
	}

	// From the first set, and no later backup.
	c.Stop()
	names := []string{"n1@127.0.0.51", "n2@127.0.0.52", "n3@127.0.0.53"}
	plan := filepath.Join(dir, "plan.yml")
	exits(0, "cluster", "plan", "--set", first.ID, "--nodes", strings.Join(names, ","), "--out", plan)
	var nodes []testenv.NodeOptions
	for _, name := range names {
		to := filepath.Join(dir, name)
		exits(0, "restore", "--plan", plan, "--as-node", name, "--to", to)
		nodes = append(nodes, testenv.NodeOptions{NodeName: name, DataDir: to})
	}
	copied := testenv.StartCluster(t, nodes)
	copied.InStep("d")
	var all struct{ Rows []struct{ ID string } }
	must(copied.Nodes[0].Get("/d/_all_docs", &all))
	var ids []string
	for _, row := range all.Rows {
		ids = append(ids, row.ID)
	}
	for _, id := range acknowledged[:before] {
		if !slices.Contains(ids, id) {
			t.Fatalf("%s is missing, which was acknowledged before the set began", id)
		}
	}
	if len(ids) >= len(acknowledged) {
		t.Errorf("%d documents came back, of %d: not those of the first set", len(ids), len(acknowledged))
	}
}
