package agent_test

import (
	"errors"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
)

// A server that was taken over has a node back up under another one's name: the node
// refuses while there are backups of that other one. Once the server has had these deleted,
// it doesn't; then the other node notices at its next backup.
func TestAnotherNodesName(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	s.start(w, copyFixture(t))
	s.do(backupJob(t)) // makes the repository
	other := w.path("other")
	if _, err := couchgen.DataDir(other, couchgen.OneShard(64<<10)); err != nil {
		t.Fatal(err)
	}
	n, err := node.Locate(t.Context(), node.Options{DataDir: other})
	if err != nil {
		t.Fatal(err)
	}
	victim := func() (*backup.Result, error) {
		return backup.Run(t.Context(), backup.Options{Repo: w.repo(t), Node: n, Instance: "node2", StateDir: w.path("state2")})
	}
	res, err := victim()
	if err != nil {
		t.Fatal(err)
	}
	forged := func() job.Job {
		j := backupJob(t)
		j.Spec.RepoName = "node2"
		return j
	}
	s.fail(forged(), "the newest backup of node2 is of another CouchDB")
	s.do(job.Job{Kind: job.KindDeleteBackup, Spec: job.Spec{RepoName: "node2", RepoID: string(res.Record.ID)}})
	s.do(forged())
	if _, err := victim(); !errors.Is(err, backup.ErrOtherNode) {
		t.Errorf("the next backup of node2: got %v, want ErrOtherNode", err)
	}
}
