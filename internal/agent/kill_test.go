package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/testenv"
)

const childEnv = "SLIPCOVER_TEST_AGENT"

// TestMain runs an agent instead of the tests when a test asks for it.
func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := runChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childSpec is what an agent in a process of its own must know.
type childSpec struct{ URL, JWT, Seed, Dir, Identity, Data, HookBefore string }

func runChild(text string) error {
	var c childSpec
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	id, err := age.ParseX25519Identity(c.Identity)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	link, err := bus.Dial(ctx, bus.LinkOptions{URL: c.URL, Agent: agentID, JWT: c.JWT, Seed: c.Seed, AckWait: 3 * time.Second, Log: log})
	if err != nil {
		return err
	}
	w := &world{c.Dir, id}
	o := w.options(link, c.Data, log)
	o.HookBefore = c.HookBefore
	return agent.Run(ctx, o)
}

// child is an agent in a process of its own.
type child struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func (s *server) child(w *world, dataDir string, hookBefore ...string) *child {
	s.t.Helper()
	seed, public, err := bus.NewKey()
	if err != nil {
		s.t.Fatal(err)
	}
	jwt, err := s.bus.Issue(s.t.Context(), agentID, public)
	if err != nil {
		s.t.Fatal(err)
	}
	spec, err := json.Marshal(childSpec{s.bus.ClientURL(), jwt, seed, w.dir, w.identity.String(), dataDir, strings.Join(hookBefore, "")})
	if err != nil {
		s.t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	c.cmd.Stderr = &c.out
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *child) end(sig os.Signal) {
	_ = c.cmd.Process.Signal(sig)
	_ = c.cmd.Wait()
}

// Agents are killed at random moments of backups. Each job ends once, and of each
// backup there is one record, which restores.
func TestKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	rounds := testenv.Rounds(3)
	c, _ := writing(t)
	s, w := newServer(t), newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed of the kills %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	// How long a job takes from its claim, undisturbed.
	last := s.child(w, c.DataDir)
	defer func() { last.end(syscall.SIGKILL) }()
	first := backupJob(t)
	began := time.Now()
	s.do(first)
	span := time.Since(began)
	last.end(syscall.SIGTERM)

	jobs := []job.Job{first}
	kills, attempts := 0, map[int]int{}
	for range rounds {
		j := backupJob(t)
		jobs = append(jobs, j)
		id := s.submit(j)
		for n := 1 + rnd.IntN(3); n > 0 && !s.ended(id); n-- {
			before := s.attempts(id)
			last = s.child(w, c.DataDir)
			s.until("a claim", func() bool { return s.jobs[id].Attempt > before || s.jobs[id].State.Ended() })
			time.Sleep(time.Duration(rnd.Int64N(int64(span)))) // the moment of the kill
			last.end(syscall.SIGKILL)
			kills++
		}
		last = s.child(w, c.DataDir)
		if r := s.end(id); r.State != job.Done {
			t.Fatalf("%s\n%s", r.Fault, last.out.String())
		}
		attempts[s.attempts(id)]++
		last.end(syscall.SIGTERM)
	}
	t.Logf("%d kills in %d rounds; a job takes %v; rounds by attempts %v", kills, rounds, span, attempts)

	last = s.child(w, c.DataDir) // takes what is still in the queue
	s.until("an empty agent", func() bool { return s.hello.Session != "" && len(s.hello.Running) == 0 })
	r := w.repo(t)
	s.mu.Lock()
	for id, ends := range s.ends {
		if len(ends) != 1 {
			t.Errorf("job %s ended %d times", id, len(ends))
		}
	}
	s.mu.Unlock()
	for _, j := range jobs {
		verify(t, r, j.Backup)
	}
	rep, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(rep.Problems) > 0 || rep.Backups != len(jobs) {
		t.Errorf("check: %v %+v, want %d backups", err, rep, len(jobs))
	}
}

// Agents are killed while they make instances of a backup: each is made once, runs, and
// has all databases; the password that was made up for it is the one that is noted.
func TestKilledCreate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGKILL")
	}
	rounds := testenv.Rounds(1)
	c, load := writing(t)
	s, w := newServer(t), newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed of the kills %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	last := s.child(w, c.DataDir)
	defer func() { last.end(syscall.SIGKILL) }()
	cut := time.Now()
	b := s.do(backupJob(t))
	load.Stop()
	last.end(syscall.SIGTERM)
	kills := 0
	for range rounds {
		id := newID(t)
		dir := filepath.Join(w.path("instances"), id)
		t.Cleanup(func() { remove(t, w, id) })
		work := s.submit(job.Job{Kind: job.KindCreate, Instance: id, Spec: job.Spec{RepoName: nodeName, RepoID: b.Result.RepoID, Repository: *b.Repository}})
		for n := 1 + rnd.IntN(3); n > 0 && !s.ended(work); n-- {
			before := s.attempts(work)
			last = s.child(w, c.DataDir)
			s.until("a claim", func() bool { return s.jobs[work].Attempt > before || s.jobs[work].State.Ended() })
			time.Sleep(time.Duration(rnd.Int64N(int64(1200 * time.Millisecond)))) // the moment of the kill
			last.end(syscall.SIGKILL)
			kills++
		}
		last = s.child(w, c.DataDir)
		r := s.end(work)
		if r.State != job.Done {
			t.Fatalf("%s\n%s", r.Fault, last.out.String())
		}
		password := strings.TrimSpace(read(t, filepath.Join(dir, "admin-password")))
		same(t, &testenv.Client{URL: r.URL, Admin: "admin", Password: password}, load, cut)
		s.do(job.Job{Kind: job.KindDeleteInstance, Instance: id})
		last.end(syscall.SIGTERM)
		if left, err := os.ReadDir(filepath.Join(w.path("state"), "agent", "secrets")); err != nil || len(left) > 0 {
			t.Errorf("secrets left: %v %v", left, err)
		}
	}
	t.Logf("%d kills in %d rounds", kills, rounds)
	if left, err := os.ReadDir(w.path("instances")); err != nil || len(left) > 0 {
		t.Errorf("instances left: %v %v", left, err)
	}
}

func (s *server) ended(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id].State.Ended()
}

func (s *server) attempts(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id].Attempt
}
