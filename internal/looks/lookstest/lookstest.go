// Package lookstest gives the tests of looks into backups a server that has something to look into.
package lookstest

import (
	"context"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// Cluster are the nodes of servetest.Cluster, known to a server: instances db1 to db3 of the cluster prod, each with a backup in
// a repository of its own, the first ones of them; of the others there is none.
type Cluster struct {
	// Fail is the error of opening a repository.
	Fail error

	t     servertest.TB
	repos map[string]*repo.Repo
}

// NewCluster returns one without backups.
func NewCluster(t servertest.TB) *Cluster { return &Cluster{t: t, repos: map[string]*repo.Repo{}} }

// Set is what the server has open of it.
func (k *Cluster) Set(w *servertest.World) *opened.Set {
	k.t.Helper()
	set, err := opened.New(opened.Options{Server: w.Server, Checker: w.Tokens, Most: 4, Version: "test", Log: w.Log,
		Repo: func(_ context.Context, _ *access.Caller, b *job.Backup) (*repo.Repo, func(), error) {
			return k.repos[b.RepoName], func() {}, k.Fail
		}})
	must(k.t, err)
	return set
}

// Fill lets the agents join a project, and adds the backups of the first so many nodes to the catalog.
func (k *Cluster) Fill(w *servertest.World, project string, backups int) {
	t, ctx := k.t, k.t.Context()
	t.Helper()
	var found []server.Found
	for i, dir := range servetest.Cluster(t) {
		name := []string{"db1", "db2", "db3"}[i]
		keys := servertest.NewKeys(t)
		joined, err := w.Server.Join(ctx, server.Joining{Name: name, Project: project, PublicKey: keys.Public, Recipient: keys.Recipient(), Admin: true})
		must(t, err)
		link := servertest.Dial(t, bus.LinkOptions{URL: w.Bus.ClientURL(), Agent: joined.AgentID, JWT: joined.JWT, Seed: keys.Seed})
		servertest.Eventually(t, "a hello is answered", func() bool {
			return servertest.Ask(ctx, link, job.VerbHello, job.Hello{Session: "s1", Version: "test", Recipient: keys.Recipient(), Repository: job.Repository{URL: "mem://" + name},
				Instances: []job.Seen{{Up: true, Version: "3.5.0", Member: &job.Member{Node: servetest.ClusterNodes[i], Nodes: servetest.ClusterNodes, Cluster: "prod", MapUUID: name}}}}, nil) == nil
		})
		if i >= backups {
			continue
		}
		r := servetest.Init(t, mem.New())()
		k.repos[name] = r
		at, err := node.Locate(ctx, node.Options{DataDir: dir, NodeName: servetest.ClusterNodes[i]})
		must(t, err)
		res, err := backup.Run(ctx, backup.Options{Repo: r, Node: at, Instance: name, StateDir: t.TempDir(), Name: "nightly", Tool: "test",
			Labels: map[string]string{job.LabelBackup: uuid.Must(uuid.NewV7()).String(), job.LabelProject: project, job.LabelInstance: joined.Instance, job.LabelInstanceName: name}})
		must(t, err)
		found = append(found, server.Found{Record: res.Record, Repository: job.Repository{URL: r.URL(), ID: r.Config().ID}})
	}
	_, err := server.Rebuild(ctx, w.Bus, "default", found)
	must(t, err)
	who := &access.Caller{User: "test", Project: project, Role: access.Operator}
	for _, f := range found {
		servertest.Eventually(t, "the catalog has the backups", func() bool {
			_, err := w.Server.Backup(ctx, who, f.Record.Labels[job.LabelBackup])
			return err == nil
		})
	}
}

func must(t servertest.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}
