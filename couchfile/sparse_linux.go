package couchfile

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// Whence values of lseek(2).
const (
	seekData = 3
	seekHole = 4
)

func fileData(f *os.File, off int64) (from, to int64, ok bool) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, 0, false
	}
	defer func() { _, _ = f.Seek(at, io.SeekStart) }() // where it was
	from, err = f.Seek(off, seekData)
	if errors.Is(err, syscall.ENXIO) { // only a hole is left
		end, err := f.Seek(0, io.SeekEnd)
		return end, end, err == nil && end >= off
	}
	if err != nil {
		return 0, 0, false
	}
	to, err = f.Seek(from, seekHole)
	return from, to, err == nil
}
