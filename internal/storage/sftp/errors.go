package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	"github.com/pkg/sftp"

	"github.com/slipcover/slipcover/internal/storage"
)

// diagnose finds out what is behind a failure of which the server says no more.
func (s *Store) diagnose(c *conn, err error) error {
	var status *sftp.StatusError
	if !errors.As(err, &status) {
		return err
	}
	disk, statErr := c.StatVFS(s.root)
	const readOnly = 1 // SSH_FXE_STATVFS_ST_RDONLY
	switch {
	case statErr != nil:
		return err
	case disk.Flag&readOnly != 0:
		return fmt.Errorf("%w: the disk is read-only: %w", storage.ErrDenied, err)
	case disk.Bavail == 0 || disk.Files > 0 && disk.Favail == 0:
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	return err
}

// fail is wrap for an error of a call on c. A connection that was lost is then known
// to be dead, so that the next call connects anew.
func (c *conn) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(kindOf(err), storage.ErrUnavailable) {
		drop(c.ssh)
		<-c.dead
	}
	return wrap(what, err)
}

// wrap says what was being done, and which of the contract's errors it is.
func wrap(what string, err error) error {
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kindOf returns the contract's error for err; nil if there is none, or if it is
// an error of the contract already or not of the storage.
func kindOf(err error) error {
	for _, known := range []error{
		storage.ErrNotExist, storage.ErrExist, storage.ErrFull, storage.ErrDenied, storage.ErrUnavailable, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return nil
		}
	}
	if be := (*storage.BodyError)(nil); errors.As(err, &be) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return storage.ErrDenied
	}
	var status *sftp.StatusError
	switch {
	case errors.As(err, &status) || errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, io.ErrUnexpectedEOF), isNet(err):
		return storage.ErrUnavailable
	}
	return nil
}

// isNet reports whether err is one of the connection.
func isNet(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF)
}
