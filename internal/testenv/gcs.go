package testenv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// cacheDir is where the emulators are kept once they are built.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "slipcover-test")
	return dir, os.MkdirAll(dir, 0o755)
}

// lastLine returns the end of what a program said, for a reason to skip.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// emulator is a program that serves HTTP on loopback until the test ends.
type emulator struct {
	process *process
	log     string // path
}

// startEmulator starts what command makes for a free port, and waits until it
// answers at all. Another process may take the port first, so it tries again.
func startEmulator(t TB, name string, command func(port int) *exec.Cmd) (port int) {
	t.Helper()
	log := filepath.Join(t.TempDir(), name+".log")
	var err error
	for range 3 {
		if port, err = FreePort(); err != nil {
			break
		}
		var f *os.File
		if f, err = os.Create(log); err != nil {
			break
		}
		cmd := command(port)
		cmd.Stdout, cmd.Stderr = f, f
		var p *process
		p, err = startProcess(cmd)
		f.Close()
		if err != nil {
			break
		}
		e := &emulator{p, log}
		if err = e.waitUp(fmt.Sprintf("http://127.0.0.1:%d/", port)); err == nil {
			t.Cleanup(func() { e.end(t, name) })
			return port
		}
		p.kill()
	}
	out, _ := os.ReadFile(log)
	t.Fatalf("start %s: %v\n%s", name, err, out)
	return 0
}

func (e *emulator) end(t TB, name string) {
	e.process.stop(5 * time.Second)
	if t.Failed() {
		out, _ := os.ReadFile(e.log)
		t.Logf("end of the log of %s:\n%s", name, out[max(0, len(out)-4<<10):])
	}
}

func (e *emulator) waitUp(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close() // whatever it answers
		}
		select {
		case <-e.process.done:
			return fmt.Errorf("it ended while starting: %v", e.process.err)
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// GCS starts fake-gcs-server, in the version of internal/devtools/fakegcs/go.mod,
// which it builds at the first use, and returns what STORAGE_EMULATOR_HOST must be.
// It keeps objects in memory.
func GCS(t TB) (host string) {
	t.Helper()
	binary, err := buildProgram("fakegcs", "github.com/fsouza/fake-gcs-server")
	if err != nil {
		Missing(t, "gcs", err.Error())
	}
	port := startEmulator(t, "fake-gcs-server", func(port int) *exec.Cmd {
		return exec.Command(binary, "-scheme", "http", "-host", "127.0.0.1", "-port", fmt.Sprint(port),
			"-backend", "memory", "-log-level", "error", "-public-host", fmt.Sprintf("127.0.0.1:%d", port))
	})
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// buildProgram builds a package of the module internal/devtools/DIR, unless it was built before from the same versions and
// files, and returns the program's path.
func buildProgram(dir, pkg string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	module := filepath.Join(filepath.Dir(file), "..", "devtools", dir)
	own, err := filepath.Glob(filepath.Join(module, "*.go"))
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, from := range append(own, filepath.Join(module, "go.sum")) {
		b, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		sum.Write(b)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, fmt.Sprintf("%s-%x", dir, sum.Sum(nil)))
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	temp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	built := filepath.Join(temp, dir)
	cmd := exec.Command("go", "build", "-o", built, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s can't be built: %w: %s", dir, err, lastLine(out))
	}
	return binary, os.Rename(built, binary)
}

// Kustomize returns the path of kustomize, in the version of internal/devtools/kustomize/go.mod, which is built at the first use.
func Kustomize(t TB) string {
	t.Helper()
	binary, err := buildProgram("kustomize", "sigs.k8s.io/kustomize/kustomize/v5")
	if err != nil {
		Missing(t, "kustomize", err.Error())
	}
	return binary
}

// Kivik returns the path of the program internal/devtools/kivik, which reads databases with the Go client of that name, and
// is built at the first use.
func Kivik(t TB) string {
	t.Helper()
	binary, err := buildProgram("kivik", ".")
	if err != nil {
		Missing(t, "kivik", err.Error())
	}
	return binary
}
