//go:build !linux

package restore

import (
	"errors"
	"fmt"
)

// process is known by its number alone, which is too little to signal it later.
type process struct {
	PID         int
	Start, Boot string
}

func processOf(pid int) process { return process{PID: pid} }

func (p process) alive(string) (bool, error) {
	return false, fmt.Errorf("tell whether process %d is still the one that was started: %w on this system", p.PID, errors.ErrUnsupported)
}
