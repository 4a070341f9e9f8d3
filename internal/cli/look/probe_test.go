package look_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Ctrl-C in the middle of a probe leaves nothing in the storage.
func TestProbeInterrupted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be sent Ctrl-C alone on Windows")
	}
	dir := t.TempDir()
	env := core.SystemEnv()
	var stdout, stderr bytes.Buffer
	env.Stdout, env.Stderr = &stdout, &stderr
	env.Environ = []string{"SLIPCOVER_CONFIG=" + os.DevNull, "HOME=" + t.TempDir()}
	code := make(chan int, 1)
	go func() { code <- cli.Run(context.Background(), env, []string{"probe", dir, "--size", "64MiB"}) }()
	for objects(t, dir) == 0 {
		select {
		case c := <-code:
			t.Fatalf("ended with code %d: %s", c, stderr.String())
		case <-time.After(time.Millisecond):
		}
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if c := <-code; c != 130 {
		t.Errorf("ended with code %d: %s", c, stderr.String())
	}
	if n := objects(t, dir); n != 0 {
		t.Errorf("%d objects are left", n)
	}
	if want := "slipcover: stopped by SIGINT: what the probe put is removed\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
	if out := stdout.String(); strings.Contains(out, "does what a repository needs") || !strings.Contains(out, "clean up") {
		t.Errorf("printed %q", out)
	}
}

// The whole contract on a real Swift, and nothing is left there either.
func TestProbeSwift(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute")
	}
	for name, value := range testenv.Swift(t).Vars {
		t.Setenv(name, value)
	}
	store, err := drivers.Open(t.Context(), "swift://probe", drivers.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	env := core.SystemEnv()
	var stdout, stderr bytes.Buffer
	env.Stdout, env.Stderr = &stdout, &stderr
	env.Environ = append(testenv.Environ(), "SLIPCOVER_CONFIG="+os.DevNull)
	if c := cli.Run(t.Context(), env, []string{"probe", "swift://probe/below?timeout=10m", "--size", "32MiB"}); c != 0 {
		t.Errorf("ended with code %d: %s", c, stderr.String())
	}
	t.Logf("\n%s", stdout.String())
	err = store.List(t.Context(), "", func(info storage.Info) error {
		t.Errorf("%s is left", info.Key)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func objects(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return nil // what is removed meanwhile isn't there
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
