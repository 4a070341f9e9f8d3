//go:build unix

package service

import (
	"os"
	"os/signal"
	"syscall"
)

// hangUps tells of each SIGHUP, which then no longer ends the process.
func hangUps() <-chan os.Signal {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	return ch
}
