package testenv

import (
	"os"
	"strconv"
	"testing"
	"time"
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

// Seed returns what the random numbers of a test begin with, and logs it: SLIPCOVER_SEED, or another one each time if Soak, else
// always the same. What random requests find goes into no change's way by chance, and a failure can be had again.
func Seed(t TB) uint64 {
	t.Helper()
	seed := uint64(1)
	if Soak() {
		seed = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv("SLIPCOVER_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SLIPCOVER_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("SLIPCOVER_SEED=%d", seed)
	return seed
}

func factor() int {
	n, err := strconv.Atoi(os.Getenv("SLIPCOVER_ROUNDS"))
	if err != nil {
		return 1
	}
	return max(n, 1)
}
