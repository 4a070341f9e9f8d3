package testenv

import (
	"os"
	"strconv"
)

// Rounds returns how often a test does what makes it surer with each time, such as
// kills at random moments: n, as many times as SLIPCOVER_ROUNDS says.
func Rounds(n int) int { return n * factor() }

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
