package testenv

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Preloaded runs a program that is written in Python, such as an OpenStack client, as
// often as one likes, and loads it once: that is most of what a call costs.
type Preloaded struct {
	t   TB
	dir string
	in  io.WriteCloser

	mu      sync.Mutex
	calls   int                 // guarded by mu
	waiting map[string]chan int // guarded by mu; by the id of a call, gets its exit code
	ended   chan struct{}       // closed when the process that has it loaded has ended
}

// Preload loads a program, which is missing if it isn't in PATH, and all modules of
// packages. It ends with the test.
func Preload(t TB, name string, packages ...string) *Preloaded {
	t.Helper()
	program := Tool(t, name)
	script, err := scripts.ReadFile("scripts/preload")
	if err != nil {
		t.Fatalf("preload %s: %v", name, err)
	}
	p := &Preloaded{t: t, dir: t.TempDir(), waiting: map[string]chan int{}, ended: make(chan struct{})}
	cmd := exec.Command("/usr/bin/python3", append([]string{"-c", string(script), program}, packages...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "LC_ALL=C.UTF-8"}
	log := &strings.Builder{}
	cmd.Stderr = log
	ownGroup(cmd)
	out, err := cmd.StdoutPipe()
	if err == nil {
		p.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("preload %s: %v", name, err)
	}
	ready := make(chan struct{})
	go p.read(out, ready)
	t.Cleanup(func() {
		_ = p.in.Close() // it ends with it
		<-p.ended
		_ = cmd.Wait()
	})
	select {
	case <-ready:
	case <-p.ended:
		t.Fatalf("preload %s: it ended: %s", name, log)
	}
	return p
}

// read tells calls of their ends.
func (p *Preloaded) read(out io.Reader, ready chan struct{}) {
	defer close(p.ended)
	for s := bufio.NewScanner(out); s.Scan(); {
		id, code, ok := strings.Cut(s.Text(), " ")
		if !ok {
			close(ready)
			continue
		}
		n, err := strconv.Atoi(code)
		if err != nil {
			n = -1
		}
		p.mu.Lock()
		p.waiting[id] <- n
		delete(p.waiting, id)
		p.mu.Unlock()
	}
}

// Run calls the program with nothing but these variables, beside PATH, HOME and LC_ALL.
// It waits for five minutes at most.
func (p *Preloaded) Run(env []string, args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	vars := map[string]string{"PATH": os.Getenv("PATH"), "HOME": p.dir, "LC_ALL": "C.UTF-8"}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	end := make(chan int, 1)
	p.mu.Lock()
	p.calls++
	id := strconv.Itoa(p.calls)
	p.waiting[id] = end
	file := func(kind string) string { return filepath.Join(p.dir, id+"."+kind) }
	line, err := json.Marshal(map[string]any{"id": id, "argv": args, "env": vars, "out": file("out"), "err": file("err")})
	if err == nil {
		_, err = p.in.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		p.t.Fatalf("call %q: %v", args, err)
	}
	select {
	case code = <-end:
	case <-p.ended:
		p.t.Fatalf("call %q: the process that has the program loaded has ended", args)
	case <-time.After(5 * time.Minute):
		p.t.Fatalf("call %q: not in 5 minutes", args)
	}
	return p.output(file("out")), p.output(file("err")), code
}

func (p *Preloaded) output(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return string(b)
}
