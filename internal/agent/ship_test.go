package agent_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/testenv"
)

// committed are the databases of a data directory up to their newest headers, as SHA-256.
func committed(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		if err != nil || d.IsDir() || filepath.Ext(p) != ".couch" || strings.HasPrefix(rel, ".") {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if h, err := couchfile.FindHeader(bytes.NewReader(b), int64(len(b))); err == nil {
			sum := sha256.Sum256(b[:h.End])
			out[filepath.ToSlash(rel)] = hex.EncodeToString(sum[:])
		}
		return nil
	}))
	return out
}

// shippedAll compares the newest moment with the node's files.
func (w *world) shippedAll(t *testing.T, dir string) {
	t.Helper()
	m, _, err := w.repo(t).At(t.Context(), nodeName, time.Now())
	must(t, err)
	want := committed(t, dir)
	for _, f := range m.Files {
		if f.Root != manifest.DataRoot || f.Kind == manifest.View {
			continue
		}
		if want[f.Path] != f.SHA256 {
			t.Errorf("%s is another one in the newest moment", f.Path)
		}
		delete(want, f.Path)
	}
	for p := range want {
		t.Errorf("%s is not in the newest moment", p)
	}
}

// An agent ships its node beside a backup and through a kill, from its next start on though no
// server answers, and no more once the server says so.
func TestAgentShips(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	c, load := writing(t)
	s, w := newServer(t), newWorld(t)
	last := s.child(w, c.DataDir)
	defer func() { last.end(syscall.SIGKILL) }()
	s.until("a hello", func() bool { return s.hellos > 0 })
	s.mu.Lock()
	s.reply.Ship = []job.Ship{{Instance: nodeID, RepoName: nodeName}}
	s.mu.Unlock()
	s.seen(nodeID, func(i job.Seen) bool { return i.Ship != nil && i.Ship.Error != "" })
	s.do(backupJob(t))
	well := func(i job.Seen) bool {
		return i.Ship != nil && i.Ship.Error == "" && !i.Ship.Shipped.IsZero() && !i.Ship.Chain.IsZero() && !i.Ship.Window.IsZero()
	}
	s.seen(nodeID, well)
	again := s.do(backupJob(t)) // from which it goes on
	last.end(syscall.SIGKILL)

	s.setAway(true)
	last = s.child(w, c.DataDir)
	load.Stop()
	stopped := time.Now()
	await(t, func() bool {
		list, err := ship.Reports(t.Context(), w.path("state"), time.Now())
		return err == nil && len(list) == 1 && list[0].Running && list[0].Shipped.After(stopped) && list[0].LagSeconds == 0
	})
	w.shippedAll(t, c.DataDir)

	s.setAway(false)
	s.seen(nodeID, func(i job.Seen) bool { return well(i) && i.Ship.Shipped.After(stopped) && i.Ship.LagSeconds == 0 })
	// A restore test of the backup tests what was shipped too, beside the CouchDB that it is of.
	spec := job.Spec{RepoName: nodeName, RepoID: again.Result.RepoID, Repository: *again.Repository, Moment: true}
	p := s.do(job.Job{Kind: job.KindProve, Spec: spec}).Proof
	if !p.OK || !p.Server || p.Compared == 0 || p.Moment.IsZero() || p.Problem != "" {
		t.Errorf("the test of the moment: %+v", p)
	}

	// A new instance of the moment has what was written after the backup that it rests on.
	copied := newID(t)
	t.Cleanup(func() { remove(t, w, copied) })
	of := spec
	of.Moment, of.At = false, time.Now()
	r := s.do(job.Job{Kind: job.KindCreate, Project: "p", Instance: copied, Spec: of})
	password := strings.TrimSpace(read(t, filepath.Join(w.path("instances"), copied, "admin-password")))
	same(t, &testenv.Client{URL: r.URL, Admin: "admin", Password: password}, load, stopped)
	if said := strings.Join(r.Result.Notes, "\n"); !strings.Contains(said, "it has the state of ") || !strings.Contains(said, ", the newest that was stored up to "+of.At.UTC().Format("2006-01-02 15:04:05 UTC")) {
		t.Errorf("of the moment it notes %q", said)
	}
	early := of
	early.At = time.Now().Add(-24 * time.Hour)
	s.fail(job.Job{Kind: job.KindCreate, Project: "p", Instance: newID(t), Spec: early}, repo.ErrNoMoment.Error())

	// Without a CouchDB to start, that moment is opened and asked, and held beside the running one all the same.
	last.end(syscall.SIGKILL)
	s.start(w, c.DataDir, func(o *agent.Options) { o.CouchDBBin = w.path("none") })
	s.seen(nodeID, well)
	p = s.do(job.Job{Kind: job.KindProve, Spec: spec}).Proof
	if !p.OK || p.Server || !p.Served || p.Compared == 0 || p.Moment.IsZero() || p.Problem != "" {
		t.Errorf("the test of the moment without a CouchDB: %+v", p)
	}

	s.mu.Lock()
	s.reply.Ship = nil
	s.mu.Unlock()
	s.seen(nodeID, func(i job.Seen) bool { return i.Ship == nil })
	list, err := ship.Reports(t.Context(), w.path("state"), time.Now())
	must(t, err)
	if list[0].Running {
		t.Error("it is still shipped")
	}
}

// By its settings alone an agent ships what it has, and says why it can't.
func TestAgentShipsBySettings(t *testing.T) {
	t.Parallel()
	s, w := newServer(t), newWorld(t)
	dir := copyFixture(t)
	a := s.start(w, dir, func(o *agent.Options) { o.Ship, o.RepositoryURL = true, "" })
	s.seen(nodeID, func(i job.Seen) bool {
		return i.Ship != nil && strings.Contains(i.Ship.Error, "give it the setting repository") && !i.Ship.ErrorSince.IsZero()
	})
	a.stop()
	a = s.start(w, dir, func(o *agent.Options) { o.Ship = true })
	s.do(backupJob(t))
	s.seen(nodeID, func(i job.Seen) bool { return i.Ship != nil && i.Ship.Error == "" && !i.Ship.Shipped.IsZero() })
	a.stop()

	// A server can't have it write elsewhere in its state.
	s.mu.Lock()
	s.reply.Ship = []job.Ship{{Instance: newID(t), RepoName: "../../etc"}}
	s.mu.Unlock()
	a = s.start(w, dir)
	s.seen(nodeID, func(i job.Seen) bool { return i.Ship == nil })
	if strings.Contains(a.said(), "etc") {
		t.Error("it was to ship ../../etc")
	}
}
