package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// PageBlocks returns the blocks of a page, in Markdown, whose first line is fence.
func PageBlocks(t testing.TB, page, fence string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	in := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.TrimSpace(line) == fence:
			in = true
		case strings.HasPrefix(line, "```"):
			in = false
		case in:
			out.WriteString(line)
		}
	}
	return out.String()
}

// Shell runs a script that must end well, with variables beside those of this process, and returns what it printed.
func Shell(t testing.TB, script string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-eu", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v in\n%s\nwhich printed\n%s", err, script, out)
	}
	return string(out)
}
