//go:build !unix

package durable

import "os"

// TryLock locks nothing on this system.
func TryLock(*os.File) (locked bool) { return false }
