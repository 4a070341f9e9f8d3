// Package testenv gives tests real servers and tools, found at run time. There
// are no build tags: what is missing is skipped, with a message that says what
// it was.
//
// Environment:
//
//	COUCHDB_BIN          the program bin/couchdb of a CouchDB 3.x release
//	SLIPCOVER_MUST_RUN   comma-separated names ("couchdb,age") that may not be
//	                     skipped: a test that lacks one fails
//	SLIPCOVER_ROUNDS     how many times the usual rounds of what makes a test surer
//	                     with each; with more than 1 they also do all of what is
//	                     much the same; see Rounds and Soak
//	SLIPCOVER_SKIP_LOG   file to which each skip appends a line, for SkipSummary
package testenv

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// TB is what the helpers need of a test. *testing.T and *testing.B have it;
// programs that are not tests, such as a soak run, make their own.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// Missing skips the test because what is not there, or fails it if
// SLIPCOVER_MUST_RUN lists what. It does not return.
func Missing(t TB, what, reason string) {
	t.Helper()
	if MustRun(what) {
		t.Fatalf("%s may not be skipped (SLIPCOVER_MUST_RUN): %s", what, reason)
	}
	if path := os.Getenv("SLIPCOVER_SKIP_LOG"); path != "" {
		if err := appendLine(path, what+"\t"+t.Name()+"\t"+reason); err != nil {
			t.Logf("skip log: %v", err)
		}
	}
	t.Skipf("needs %s: %s", what, reason)
}

// MustRun says whether SLIPCOVER_MUST_RUN lists what.
func MustRun(what string) bool {
	return slices.Contains(strings.FieldsFunc(os.Getenv("SLIPCOVER_MUST_RUN"), func(r rune) bool {
		return r == ',' || r == ' '
	}), what)
}

// Environ is os.Environ without Slipcover's own variables, which are for the tests or
// for whoever runs them.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SLIPCOVER_") })
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.ReplaceAll(line, "\n", " ") + "\n")
	return errors.Join(err, f.Close())
}

// Tool returns the path of a program, or of the first one for several; all of
// them must be there.
func Tool(t TB, names ...string) string {
	t.Helper()
	first := ""
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			Missing(t, name, "not in PATH")
		}
		first = cmp.Or(first, path)
	}
	return first
}

// SkipSummary reads a skip log and says how many tests were skipped for want of
// what, such as
//
//	12 tests skipped
//	   9 needs couchdb: no /opt/couchdb/bin/couchdb, COUCHDB_BIN not set
//	   3 needs age: not in PATH
//
// A missing log means that nothing was skipped.
func SkipSummary(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "no tests skipped\n", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	counts := map[string]int{}
	total := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		what, rest, _ := strings.Cut(s.Text(), "\t")
		_, reason, _ := strings.Cut(rest, "\t")
		counts["needs "+what+": "+reason]++
		total++
	}
	if total == 0 {
		return "no tests skipped\n", nil
	}
	var reasons []string
	for r := range counts {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b))
	})
	var out strings.Builder
	fmt.Fprintf(&out, "%d tests skipped\n", total)
	for _, r := range reasons {
		fmt.Fprintf(&out, "%4d %s\n", counts[r], r)
	}
	return out.String(), nil
}
