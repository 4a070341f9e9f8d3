package bus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/bus/bustest"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("BUS_TEST_WRITE_IN"); dir != "" {
		fmt.Println(writeForEver(dir, os.Getenv("BUS_TEST_ROUND")))
		os.Exit(1)
	}
	if dir := os.Getenv("BUS_TEST_ENQUEUE_IN"); dir != "" {
		fmt.Println(enqueueForEver(dir, os.Getenv("BUS_TEST_LISTEN"), os.Getenv("BUS_TEST_ROUND")))
		os.Exit(1)
	}
	if url := os.Getenv("BUS_TEST_LINKS"); url != "" {
		if err := waitForJobs(url); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeForEver prints what was acknowledged, a line each, until it is killed.
func writeForEver(dir, round string) error {
	ctx := context.Background()
	b, err := bus.Open(ctx, bus.Options{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	tab, err := b.Table(ctx, "things")
	if err != nil {
		return err
	}
	rev, err := tab.Put(ctx, "counter-"+round, []byte("0"))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(what, name string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, name)
	}
	errs := make(chan error)
	for w := range 3 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%s-%d-%d", round, w, n)
				if _, err := tab.Create(ctx, name, []byte("value of "+name)); err != nil {
					errs <- err
				}
				say("key", name)
				if err := b.Enqueue(ctx, "node", name); err != nil {
					errs <- err
				}
				say("job", name)
			}
		}()
	}
	go func() {
		for n := 1; ; n++ {
			if rev, err = tab.Update(ctx, "counter-"+round, []byte(strconv.Itoa(n)), rev); err != nil {
				errs <- err
			}
			say("count", strconv.Itoa(n))
		}
	}()
	go func() {
		for n := 0; ; n++ {
			agent := fmt.Sprintf("agent-%s-%d", round, n)
			_, public, err := bus.NewKey()
			if err == nil {
				_, err = b.Issue(ctx, agent, public)
			}
			if err == nil {
				err = b.RemoveAgent(ctx, agent)
			}
			if err != nil {
				errs <- err
			}
			say("revoked", public)
		}
	}()
	return <-errs
}

func TestKilled(t *testing.T) {
	t.Parallel()
	rounds := testenv.Rounds(4)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	counts := map[string]int{}
	keys, jobs, revoked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "BUS_TEST_WRITE_IN="+dir, "BUS_TEST_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		left := 1 + random.IntN(400)
		for s := bufio.NewScanner(out); s.Scan(); {
			what, name, ok := strings.Cut(s.Text(), " ")
			switch {
			case what == "key" && ok:
				keys[name] = true
			case what == "job":
				jobs[name] = true
			case what == "revoked":
				revoked[name] = true
			case what == "count":
				counts[strconv.Itoa(round)], _ = strconv.Atoi(name)
			default:
				t.Fatalf("the child says %q", s.Text())
			}
			if left--; left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if left > 0 {
			t.Fatalf("round %d: the child ended by itself", round)
		}
		checkAll(t, dir, counts, keys, jobs, revoked)
	}
	t.Logf("%d kills: %d entries, %d jobs, %d revocations were acknowledged and there", rounds, len(keys), len(jobs), len(revoked))
}

func checkAll(t *testing.T, dir string, counts map[string]int, keys, jobs, revoked map[string]bool) {
	t.Helper()
	ctx := t.Context()
	b, err := bus.Open(ctx, bus.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	for name := range keys {
		if v, _, err := tab.Get(ctx, name); err != nil || string(v) != "value of "+name {
			t.Errorf("entry %s: %q, %v", name, v, err)
		}
	}
	for round, n := range counts {
		v, _, err := tab.Get(ctx, "counter-"+round)
		if got, _ := strconv.Atoi(string(v)); err != nil || got < n {
			t.Errorf("counter %s: %q, %v; %d was acknowledged", round, v, err, n)
		}
	}
	js, err := jetstream.New(b.Conn())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "SLIPCOVER_JOBS")
	if err != nil {
		t.Fatal(err)
	}
	for name := range jobs {
		if _, err := stream.GetLastMsgForSubject(ctx, "slipcover.jobs.node."+name); err != nil {
			t.Errorf("job %s: %v", name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "revoked.json"))
	if err != nil && len(revoked) > 0 {
		t.Fatal(err)
	}
	for public := range revoked {
		if !strings.Contains(string(text), public) {
			t.Errorf("%s is not revoked", public)
		}
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	o := bus.Options{Dir: filepath.Join(t.TempDir(), "deep", "bus"), Listen: "127.0.0.1:0"}
	b := open(t, o)
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	rev, err := tab.Create(ctx, "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	good, bad := join(t, b, "good"), join(t, b, "bad")
	if err := b.Enqueue(ctx, "good", "job"); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveAgent(ctx, "bad"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keys.json", "revoked.json"} {
		info, err := os.Stat(filepath.Join(o.Dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info, err)
		}
	}

	b = open(t, o)
	if tab, err = b.Table(ctx, "things"); err != nil {
		t.Fatal(err)
	}
	if v, r, err := tab.Get(ctx, "k"); string(v) != "v" || r != rev || err != nil {
		t.Errorf("after the restart: got %q, %d, %v", v, r, err)
	}
	good.URL, bad.URL = b.ClientURL(), b.ClientURL()
	l := dial(t, good)
	job := make(chan string)
	run(t, func(ctx context.Context) error {
		return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
			_ = d.Done(ctx)
			job <- d.Job
		})
	})
	if got := <-job; got != "job" {
		t.Errorf("got job %q", got)
	}
	if _, err := bus.Dial(ctx, bad); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("dial of a removed agent: got %v, want ErrRefused", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	// State without its keys is not opened as an empty one.
	if err := os.Remove(filepath.Join(o.Dir, "keys.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Open(ctx, o); err == nil || !strings.Contains(err.Error(), "keys.json") {
		t.Errorf("open without the keys: got %v", err)
	}
}

// TestRemovedStaysOut removes an agent by a clock that is behind the one that its user
// was signed by.
func TestRemovedStaysOut(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	o := bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	b := open(t, o)
	bad := join(t, b, "bad")
	if err := b.RemoveAgent(ctx, "bad"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.Dir, "revoked.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`:\d+`).ReplaceAll(text, []byte(":1000000000"))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, o)
	bad.URL = b.ClientURL()
	if _, err := bus.Dial(ctx, bad); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("dial of a removed agent: got %v, want ErrRefused", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	taken := open(t, bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	_, port, _ := strings.Cut(strings.TrimPrefix(taken.ClientURL(), "nats://"), ":")
	nothing := filepath.Join(t.TempDir(), "nothing")
	if err := os.WriteFile(nothing, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o     bus.Options
		want  string
		waits bool // for what may come yet
	}{
		"no folder":        {o: bus.Options{}, want: "folder"},
		"port in use":      {o: bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:" + port}, want: "in use"},
		"bad port":         {o: bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1:x"}, want: "not a number"},
		"no port":          {o: bus.Options{Dir: t.TempDir(), Listen: "127.0.0.1"}, want: "missing port"},
		"no seed":          {o: bus.Options{URL: taken.ClientURL(), AccountSeed: nothing}, want: "begins with SA"},
		"no such seed":     {o: bus.Options{URL: taken.ClientURL(), AccountSeed: nothing + "x"}, want: "no such file"},
		"bad credentials":  {o: bus.Options{URL: taken.ClientURL(), Creds: nothing}, want: "nothing"},
		"no credentials":   {o: bus.Options{URL: taken.ClientURL()}, want: bus.ErrRefused.Error()},
		"nobody is there":  {o: bus.Options{URL: "nats://127.0.0.1:1"}, want: "no servers", waits: true},
		"not even an URL":  {o: bus.Options{URL: "nats://%%"}, want: "URL", waits: true},
		"folder is a file": {o: bus.Options{Dir: nothing}, want: "a file has that name"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if c.waits {
				ctx, cancel = context.WithTimeout(t.Context(), 700*time.Millisecond)
				defer cancel()
			}
			_, err := bus.Open(ctx, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
	}
}

// TestConcurrentUpdates has many count up one entry, by its revision.
func TestConcurrentUpdates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := open(t, bus.Options{Dir: t.TempDir()})
	tab, err := b.Table(ctx, "things")
	if err != nil {
		t.Fatal(err)
	}
	const workers, each = 8, 25
	created := make(chan bool, workers)
	revs := make(chan uint64, workers*each)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			_, err := tab.Create(ctx, "n", []byte("0"))
			created <- err == nil
			if err != nil && !errors.Is(err, bus.ErrExists) {
				t.Error(err)
			}
			for done := 0; done < each; {
				v, rev, err := tab.Get(ctx, "n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(v))
				rev, err = tab.Update(ctx, "n", []byte(strconv.Itoa(n+1)), rev)
				if errors.Is(err, bus.ErrConflict) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				revs <- rev
				done++
			}
		})
	}
	wg.Wait()
	close(created)
	close(revs)
	first := 0
	for ok := range created {
		if ok {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d have created the entry", first)
	}
	var all []uint64
	for r := range revs {
		all = append(all, r)
	}
	slices.Sort(all)
	if v, _, err := tab.Get(ctx, "n"); err != nil || string(v) != strconv.Itoa(workers*each) || len(slices.Compact(all)) != workers*each {
		t.Errorf("counted to %s, %v, with %d revisions; want %d", v, err, len(all), workers*each)
	}
}

// enqueueForEver prints each job that was acknowledged, until it is killed.
func enqueueForEver(dir, listen, round string) error {
	ctx := context.Background()
	b, err := bus.Open(ctx, bus.Options{Dir: dir, Listen: listen, AckWait: time.Second})
	if err != nil {
		return err
	}
	if err := b.AddAgent(ctx, "a"); err != nil {
		return err
	}
	for n := 0; ; n++ {
		job := fmt.Sprintf("%s-%d", round, n)
		if err := b.Enqueue(ctx, "a", job); err != nil {
			return err
		}
		fmt.Println("job", job)
		time.Sleep(time.Millisecond) // the agent should keep up
	}
}

// TestServerKilledUnderAgent kills the server while an agent runs its jobs: each one
// that was acknowledged runs, and what the agent is done with doesn't stay.
func TestServerKilledUnderAgent(t *testing.T) {
	t.Parallel()
	rounds := testenv.Rounds(2)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx := t.Context()
	o := bus.Options{Dir: t.TempDir(), Listen: fmt.Sprint("127.0.0.1:", bustest.FreePorts(t, 1)[0]), AckWait: time.Second}
	b := open(t, o)
	lo := join(t, b, "a")
	lo.AckWait = o.AckWait
	l := dial(t, lo)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ran := map[string]int{}
	var notDone atomic.Int64
	for range 2 {
		run(t, func(ctx context.Context) error {
			return l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) {
				mu.Lock()
				ran[d.Job]++
				mu.Unlock()
				short, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				if err := d.Done(short); err != nil {
					notDone.Add(1)
				}
			})
		})
	}
	acked := map[string]bool{}
	for round := range rounds {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "BUS_TEST_ENQUEUE_IN="+o.Dir, "BUS_TEST_LISTEN="+o.Listen, "BUS_TEST_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		left := 100 + random.IntN(500)
		for s := bufio.NewScanner(out); s.Scan(); {
			job, ok := strings.CutPrefix(s.Text(), "job ")
			if !ok {
				t.Fatalf("the child says %q", s.Text())
			}
			acked[job] = true
			if left--; left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
	}
	b = open(t, o)
	expectEmpty(t, b)
	mu.Lock()
	defer mu.Unlock()
	again := 0
	for job := range acked {
		if ran[job] == 0 {
			t.Errorf("job %s was acknowledged and never ran", job)
		}
		again += max(0, ran[job]-1)
	}
	t.Logf("%d kills: %d jobs were acknowledged and ran, %d of them again; %d were not confirmed as done", rounds, len(acked), again, notDone.Load())
}
