package file_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipcover/slipcover/internal/storage"
)

// mount gives a file system of its own of 1 MiB, or skips.
func mount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("slipcover-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("can't mount a tmpfs, which takes root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFull(t *testing.T) {
	root := mount(t)
	s := open(t, root)
	ctx := t.Context()
	mustPut(t, s, "old")
	body := strings.Repeat("x", 300<<10)
	var err error
	stored := 0
	for ; stored < 10; stored++ {
		if err = put(ctx, s, storage.Key(fmt.Sprintf("d/%d", stored)), body); err != nil {
			break
		}
	}
	if !errors.Is(err, storage.ErrFull) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("put on a full disk: got %v, want ErrFull with its cause", err)
	}
	for _, opts := range []storage.PutOptions{{}, {IfAbsent: true}} {
		if err := s.Put(ctx, "e/new", strings.NewReader(body), opts); !errors.Is(err, storage.ErrFull) {
			t.Errorf("put %+v: got %v, want ErrFull", opts, err)
		}
	}
	if err := put(ctx, s, "old", body); !errors.Is(err, storage.ErrFull) {
		t.Errorf("replace: got %v, want ErrFull", err)
	}
	if got, err := get(ctx, s, "old"); got != "old" || err != nil {
		t.Errorf("after a replace that found no room: got %q, %v", got, err)
	}
	keys, err := list(ctx, s, "")
	if err != nil || len(keys) != stored+1 {
		t.Errorf("list: got %q, %v, want %d objects", keys, err, stored+1)
	}
	for _, name := range names(t, root) {
		if strings.Contains(name, ".tmp-") {
			t.Errorf("left behind: %s", name)
		}
	}
	if err := s.Delete(ctx, "d/0"); err != nil {
		t.Errorf("delete on a full disk: %v", err)
	}
	if err := put(ctx, s, "d/new", body); err != nil {
		t.Errorf("put when there is room again: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	root := mount(t)
	s := open(t, root)
	mustPut(t, s, "a/b")
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	errs := everyMethod(t.Context(), s, "a/b")
	reads := []string{"get", "stat", "list", "list prefix", "delete none"}
	wantAll(t, errs, storage.ErrDenied, reads...)
	wantAll(t, errs, unix.EROFS, reads...)
	for _, name := range reads {
		if errs[name] != nil {
			t.Errorf("%s on a read-only disk: %v", name, errs[name])
		}
	}
}

func TestUnmounted(t *testing.T) {
	root := mount(t)
	s := open(t, root)
	mustPut(t, s, "a/b")
	if err := unix.Unmount(root, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmount beside an open Store: got %v, want EBUSY", err)
	}
	if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantAll(t, everyMethod(t.Context(), s, "a/b"), storage.ErrUnavailable)
	if got := names(t, root); len(got) > 0 {
		t.Errorf("written below the bare mount point: %q", got)
	}
	// Another disk in its place.
	if err := unix.Mount("slipcover-test", root, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	wantAll(t, everyMethod(t.Context(), s, "a/b"), storage.ErrUnavailable)
	if got := names(t, root); len(got) > 0 {
		t.Errorf("written to another disk: %q", got)
	}
}

func TestDenied(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may do anything; see TestReadOnly")
	}
	root := t.TempDir()
	s := open(t, root)
	mustPut(t, s, "a/b")
	if err := os.Chmod(root+"/a", 0o000); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(root+"/a", 0o700) })
	_, statErr := s.Stat(t.Context(), "a/b")
	_, getErr := get(t.Context(), s, "a/b")
	_, listErr := list(t.Context(), s, "")
	wantAll(t, map[string]error{
		"put": put(t.Context(), s, "a/c", "x"), "stat": statErr, "get": getErr, "list": listErr, "delete": s.Delete(t.Context(), "a/b"),
	}, storage.ErrDenied)
}
