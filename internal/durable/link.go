//go:build !windows

package durable

import (
	"errors"
	"io/fs"
	"os"
)

// linkNew renames by a second name, which fails if there is one already, and takes
// away the first.
func linkNew(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) && sameFile(from, to) {
		// Over NFS the answer to a link that was made can get lost; the second try
		// then finds our own.
		err = nil
	}
	if err != nil {
		return err
	}
	os.Remove(from) // both names are the whole file; this one is garbage by its name
	return nil
}

func sameFile(a, b string) bool {
	ai, err := os.Lstat(a)
	if err != nil {
		return false
	}
	bi, err := os.Lstat(b)
	return err == nil && os.SameFile(ai, bi)
}
