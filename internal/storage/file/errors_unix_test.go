//go:build !windows

package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
)

func TestKinds(t *testing.T) {
	tests := map[error]error{
		syscall.ENOSPC:         storage.ErrFull,
		syscall.EDQUOT:         storage.ErrFull,
		syscall.EACCES:         storage.ErrDenied,
		syscall.EPERM:          storage.ErrDenied,
		syscall.EROFS:          storage.ErrDenied,
		syscall.ENXIO:          storage.ErrUnavailable,
		syscall.ESTALE:         storage.ErrUnavailable,
		syscall.ENOTCONN:       storage.ErrUnavailable,
		syscall.EIO:            nil,
		syscall.ENOENT:         nil, // only the caller knows what isn't there
		storage.ErrUnavailable: nil, // already
	}
	for cause, want := range tests {
		err := wrap("put a", fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: "/x", Err: cause}))
		if !errors.Is(err, cause) {
			t.Errorf("%v: lost in %v", cause, err)
		}
		for _, kind := range []error{storage.ErrFull, storage.ErrDenied, storage.ErrUnavailable} {
			if got := errors.Is(err, kind); got != (kind == want || kind == cause) {
				t.Errorf("%v: is %q: %v", cause, kind, got)
			}
		}
	}
	// A full disk under the body is not a full storage.
	if err := wrap("put a", &storage.BodyError{Err: syscall.ENOSPC}); errors.Is(err, storage.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error of a body: got %v", err)
	}
}
