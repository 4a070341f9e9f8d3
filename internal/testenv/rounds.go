package testenv

import (
	"os"
	"strconv"
	"testing"
)

// Rounds returns how often a test does what makes it surer with each time, such as
// kills at random moments: n, as many times as SLIPCOVER_ROUNDS says.
func Rounds(n int) int { return n * factor() }

// Computed returns how often a test repeats what one goroutine computes: Rounds(n), or few times with -short, as the
// race detector's run has it. That makes each time some ten times as dear, and finds in many what it finds in few.
func Computed(n, few int) int {
	if testing.Short() {
		n = few
	}
	return Rounds(n)
}

// Soak says whether SLIPCOVER_ROUNDS asks for more than a change must pass: then tests
// also do what they leave out since something else shows much the same.
func Soak() bool { return factor() > 1 }

func factor() int {
	n, err := strconv.Atoi(os.Getenv("SLIPCOVER_ROUNDS"))
	if err != nil {
		return 1
	}
	return max(n, 1)
}
