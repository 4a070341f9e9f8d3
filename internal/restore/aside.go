package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/slipcover/slipcover/internal/durable"
)

// MayGoAside returns the error that Aside would, as far as that is known before.
func MayGoAside(ctx context.Context, dir string) error {
	if err := inUse(ctx, dir); err != nil {
		return err
	}
	a, aerr := deviceOf(dir)
	b, berr := deviceOf(filepath.Dir(dir))
	if err := errors.Join(aerr, berr); err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("%s: %w", dir, ErrMounted)
	}
	return nil
}

// Aside gives a directory of a CouchDB that is stopped another name beside it, and makes an empty one in its place, with
// the same rights and the owner. It returns ErrInUse if a CouchDB has it open, and ErrMounted if it is a volume of its own, which has no
// other place on its disk.
//
//	rename(DIR, TO), fsync(parent)
//	mkdir(DIR), chown, fsync(parent)
//
// When the power goes in between, DIR isn't there: a restore makes it.
func Aside(ctx context.Context, dir, to, owner string) error {
	own, _, err := parseOwner(owner)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := MayGoAside(ctx, dir); err != nil {
		return err
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already, and what is in %s was to get that name", to, dir)
	}
	err = os.Rename(dir, to)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("%s: %w (%w)", dir, ErrMounted, err)
	}
	if err != nil {
		return err
	}
	if err := inUse(ctx, to); err != nil { // it was started just now
		return errors.Join(err, os.Rename(to, dir))
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := durable.Mkdir(dir, info.Mode().Perm()); err != nil {
		return err
	}
	return own.path(dir)
}
