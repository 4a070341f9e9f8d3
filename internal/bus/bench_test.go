package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
)

func openB(b *testing.B) *bus.Bus {
	b.Helper()
	s, err := bus.Open(context.Background(), bus.Options{Dir: b.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// parallel runs fn n times in all, by 1 and by 32 at a time.
func parallel(b *testing.B, fn func(s *bus.Bus) func(n int) error) {
	for _, workers := range []int{1, 32} {
		b.Run(fmt.Sprint("workers=", workers), func(b *testing.B) {
			do := fn(openB(b))
			var n atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						if err := do(int(i)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

func BenchmarkCreate(b *testing.B) {
	value := make([]byte, 500)
	parallel(b, func(s *bus.Bus) func(int) error {
		t, err := s.Table(context.Background(), "things")
		if err != nil {
			b.Fatal(err)
		}
		return func(n int) error { _, err := t.Create(context.Background(), strconv.Itoa(n), value); return err }
	})
}

func BenchmarkEnqueue(b *testing.B) {
	parallel(b, func(s *bus.Bus) func(int) error {
		return func(n int) error {
			return s.Enqueue(context.Background(), "agent-"+strconv.Itoa(n%1000), "job-"+strconv.Itoa(n))
		}
	})
}

// BenchmarkWatch reads a table of b.N entries.
func BenchmarkWatch(b *testing.B) {
	s := openB(b)
	t, err := s.Table(context.Background(), "things")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < b.N; i += 32 {
				if _, err := t.Put(context.Background(), strconv.Itoa(i), make([]byte, 500)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ResetTimer()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	_ = t.Watch(ctx, func(c bus.Change) {
		if c.Ready {
			b.StopTimer()
			cancel()
			return
		}
		n++
	})
	if n != b.N {
		b.Errorf("saw %d of %d entries", n, b.N)
	}
}

// BenchmarkLinks says what 1,000 agents that wait for jobs cost the server and, in
// another process, themselves; and how long a job for each takes.
func BenchmarkLinks(b *testing.B) {
	const links = 1000
	ctx := context.Background()
	for b.Loop() {
		s := openB(b)
		before := resident()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "BUS_TEST_LINKS="+s.ClientURL())
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		began := time.Now()
		for n := range links {
			agent := "agent-" + strconv.Itoa(n)
			seed, public, err := bus.NewKey()
			if err != nil {
				b.Fatal(err)
			}
			if err := s.AddAgent(ctx, agent); err != nil {
				b.Fatal(err)
			}
			jwt, err := s.Issue(ctx, agent, public)
			if err != nil {
				b.Fatal(err)
			}
			fmt.Fprintln(in, agent, jwt, seed)
			lines.Scan()
		}
		b.ReportMetric(time.Since(began).Seconds()*1000/links, "ms/join")
		b.ReportMetric(float64(resident()-before)/links/1024, "server-KiB/link")
		began = time.Now()
		for n := range links {
			if err := s.Enqueue(ctx, "agent-"+strconv.Itoa(n), "job"); err != nil {
				b.Fatal(err)
			}
		}
		for range links {
			lines.Scan()
		}
		b.ReportMetric(links/time.Since(began).Seconds(), "jobs/s")
		b.ReportMetric(float64(resident())/1024/1024, "server-MiB")
		in.Close()
		lines.Scan()
		kib, _ := strconv.ParseFloat(lines.Text(), 64)
		b.ReportMetric(kib/links, "KiB/link")
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// waitForJobs links the agents that it reads and prints each job that is done; at
// the end of the input it prints how many KiB they take.
func waitForJobs(url string) error {
	ctx := context.Background()
	before := resident()
	s := bufio.NewScanner(os.Stdin)
	for s.Scan() {
		f := strings.Fields(s.Text())
		l, err := bus.Dial(ctx, bus.LinkOptions{URL: url, Agent: f[0], JWT: f[1], Seed: f[2]})
		if err != nil {
			return err
		}
		go func() {
			_ = l.Jobs(ctx, func(ctx context.Context, d *bus.Delivery) { fmt.Println(d.Job, d.Done(ctx)) })
		}()
		go func() {
			_ = l.Answer(ctx, func(context.Context, []byte) ([]byte, error) { return nil, nil })
		}()
		fmt.Println(f[0])
	}
	fmt.Println((resident() - before) / 1024)
	return s.Err()
}

// resident is the memory of this process in bytes; 0 where it isn't known.
func resident() int {
	runtime.GC()
	text, _ := os.ReadFile("/proc/self/statm")
	var size, pages int
	_, _ = fmt.Sscan(string(text), &size, &pages)
	return pages * os.Getpagesize()
}
