package core

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
)

// Each line of the table is reached by the errors that it is for, and none other.
func TestExitCodes(t *testing.T) {
	reached := map[int]bool{}
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{&storage.UnfitError{Why: "a page"}, 1},
		{&unwritten{syscall.ENOSPC}, 1},
		{node.ErrNotFound, 2},
		{restore.ErrOptions, 2},
		{backup.ErrOptions, 2},
		{repo.ErrLastRecipient, 2},
		{Usage("bad"), 2},
		{repo.ErrAmbiguous, 2},
		{backup.ErrDamaged, 3},
		{repo.ErrCorrupt, 4},
		{restore.ErrMismatch, 4},
		{couchfile.ErrNoHeader, 4},
		{storage.ErrNotExist, 4},
		{repo.ErrLocked, 5},
		{repo.ErrLockLost, 5},
		{repo.ErrNoBackup, 6},
		{repo.ErrNoRepository, 6},
		{couchfile.ErrNotFound, 6},
		{fs.ErrNotExist, 6},
		{repo.ErrWrongKey, 7},
		{repo.ErrKeyGone, 7},
		{repo.ErrRecipients, 7},
		{errors.Join(repo.ErrCorrupt, repo.ErrNoKey), 7},
		{backup.ErrPermission, 8},
		{storage.ErrDenied, 8},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}, 8},
		{storage.ErrFull, 9},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, 9},
		{storage.ErrUnavailable, 10},
		{storage.ErrNoPlace, 10},
		{storage.ErrRetained, 11},
		{repo.ErrPinned, 11},
		{backup.ErrOtherNode, 11},
		{restore.ErrNotEmpty, 11},
		{restore.ErrInUse, 11},
		{repo.ErrExists, 11},
		{Interrupted{os.Interrupt}, 130},
		{Interrupted{syscall.SIGTERM}, 143},
	} {
		err := test.err
		if err != nil {
			err = fmt.Errorf("do this: %w", err)
		}
		reached[test.want] = true
		if got := ExitOf(err).Code; got != test.want {
			t.Errorf("%v: exit code %d, want %d", err, got, test.want)
		}
	}
	for _, e := range exits {
		if !reached[e.Code] {
			t.Errorf("nothing leads to %d, %s", e.Code, e.name)
		}
		if !strings.Contains(ExitTable(), e.meaning) {
			t.Errorf("the help leaves out %d", e.Code)
		}
	}
}

func TestMask(t *testing.T) {
	if got, want := Mask("get http://admin:secret@localhost:5984/x: refused"), "get http://admin:***@localhost:5984/x: refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1<<20 - 1: "1.0 MiB", 5 << 40: "5.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
