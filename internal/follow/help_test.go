package follow_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/follow"
)

// want is what shipping wants to know of.
func want(path string, dir bool) bool {
	if dir {
		return !strings.HasPrefix(filepath.Base(path), ".")
	}
	return filepath.Ext(path) == ".couch" || filepath.Ext(path) == ".ini"
}

func start(t *testing.T, opts follow.Options) *follow.Follower {
	t.Helper()
	return startWith(t, follow.New, opts)
}

func startPolling(t *testing.T, opts follow.Options) *follow.Follower {
	t.Helper()
	return startWith(t, follow.NewPolling, opts)
}

type opener func(context.Context, follow.Options) (*follow.Follower, error)

func startWith(t *testing.T, open opener, opts follow.Options) *follow.Follower {
	t.Helper()
	if opts.Want == nil {
		opts.Want = want
	}
	f, err := open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if got := f.Take(); len(got) != 0 {
		t.Fatalf("told after New: %q", got)
	}
	return f
}

const patience = time.Minute

// await takes until all paths were told, and returns all that was.
func await(t *testing.T, f *follow.Follower, paths ...string) map[string]bool {
	t.Helper()
	told := map[string]bool{}
	deadline := time.After(patience)
	for {
		missing := slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return told[p] })
		if len(missing) == 0 {
			return told
		}
		select {
		case <-f.Changed():
		case <-deadline:
			t.Fatalf("not told: %q; told: %v; %+v", missing, told, f.Status())
		}
		take(t, f, told)
	}
}

func take(t *testing.T, f *follow.Follower, told map[string]bool) {
	t.Helper()
	paths := f.Take()
	if !slices.IsSorted(paths) || len(slices.Compact(slices.Clone(paths))) != len(paths) {
		t.Errorf("not sorted, or not once each: %q", paths)
	}
	for _, p := range paths {
		told[p] = true
	}
}

// awaitStatus waits until the status is as it must be.
func awaitStatus(t *testing.T, f *follow.Follower, what string, ok func(follow.Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(f.Status()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, f.Status())
		}
	}
}

// exactly waits until all paths were told, and until everything is told that happened so
// far: of one change several events may come. Nothing else may be told.
func exactly(t *testing.T, f *follow.Follower, dir string, paths ...string) {
	t.Helper()
	told := await(t, f, paths...)
	maps.Copy(told, settle(t, f, dir))
	for p := range told {
		if !slices.Contains(paths, p) && !isMark(p) {
			t.Errorf("%s was told, which didn't change; %q did", p, paths)
		}
	}
}

// settle waits until all is told that happened so far, and returns it. Events come in
// their order, and folders that were made at a time are looked at in the order of their
// names.
func settle(t *testing.T, f *follow.Follower, dir string) map[string]bool {
	t.Helper()
	if f.Status().Polling != "" {
		told := map[string]bool{}
		if _, err := f.All(t.Context()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		take(t, f, told)
		return told
	}
	last := mkdir(t, dir, fmt.Sprintf("zz%d", settled.Add(1)))
	mark := write(t, last, markName)
	told := await(t, f, mark)
	remove(t, last)
	take(t, f, told)
	return told
}

const markName = "settled.couch"

func isMark(path string) bool { return filepath.Base(path) == markName }

var settled atomic.Int64

func mkdir(t *testing.T, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// write appends to a file, which it makes, with the folders that it is in.
func write(t *testing.T, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	mkdir(t, filepath.Dir(p))
	file, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = file.WriteString("a document\n")
		err = firstError(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
