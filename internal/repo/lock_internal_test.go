package repo

import (
	"fmt"
	"os"
	"testing"
)

func TestStartIn(t *testing.T) {
	const rest = " 1 1 1 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 1 0 4711 0"
	for stat, want := range map[string]string{
		"7 (slipcover) S" + rest:             "4711",
		"7 (slipcover) T" + rest:             "4711",
		"7 (slipcover) Z" + rest:             "",
		"7 (slipcover) X" + rest:             "",
		"7 (slipcover) x" + rest:             "",
		"7 (a) Z b) R" + rest:                "4711",
		"7 (slipcover) S 1 1 1":              "",
		"":                                   "",
		"7 (" + fmt.Sprint(os.Getpid()) + "": "",
	} {
		if got := startIn(stat); got != want {
			t.Errorf("%q: %q, want %q", stat, got, want)
		}
	}
}
