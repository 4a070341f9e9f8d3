package core

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
)

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{Usage("bad"), 2},
		{repo.ErrAmbiguous, 2},
		{backup.ErrDamaged, 3},
		{repo.ErrCorrupt, 4},
		{restore.ErrMismatch, 4},
		{couchfile.ErrNoHeader, 4},
		{repo.ErrLocked, 5},
		{repo.ErrNoBackup, 6},
		{repo.ErrNoRepository, 6},
		{couchfile.ErrNotFound, 6},
		{fs.ErrNotExist, 6},
		{repo.ErrWrongKey, 7},
		{errors.Join(repo.ErrCorrupt, repo.ErrNoKey), 7},
		{backup.ErrPermission, 8},
		{storage.ErrDenied, 8},
		{storage.ErrFull, 9},
		{storage.ErrUnavailable, 10},
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
		if got := ExitOf(err).Code; got != test.want {
			t.Errorf("%v: exit code %d, want %d", err, got, test.want)
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
