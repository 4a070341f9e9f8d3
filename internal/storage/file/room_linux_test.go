package file_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/file"
)

func TestRoom(t *testing.T) {
	t.Parallel()
	s, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free, total, err := storage.Roomer(s).Room(context.Background())
	var want unix.Statfs_t
	if serr := unix.Statfs("/proc", &want); serr != nil || err != nil {
		t.Fatal(err, serr)
	}
	if free <= 0 || total < free {
		t.Errorf("%d of %d are free", free, total)
	}
	// A file system without room says so.
	none, err := file.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if free, total, err := none.Room(context.Background()); free != 0 || total != 0 || err != nil {
		t.Errorf("/proc: %d of %d, %v", free, total, err)
	}
}
