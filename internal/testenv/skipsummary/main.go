// Skipsummary prints which tests were skipped and why, from the file that
// SLIPCOVER_SKIP_LOG named during the test run.
package main

import (
	"fmt"
	"os"

	"github.com/slipcover/slipcover/internal/testenv"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: skipsummary FILE")
		os.Exit(2)
	}
	s, err := testenv.SkipSummary(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(s)
}
