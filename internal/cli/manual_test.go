package cli

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/clitest"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

const manual = "../../docs/commands.md"

// TestManual holds docs/commands.md against the help texts; -update writes it.
func TestManual(t *testing.T) {
	env, _, _ := clitest.Env(t)
	var b strings.Builder
	b.WriteString("# Commands\n\nMade of the program's help by `go test ./internal/cli -run Manual -update`.\n")
	describe(&b, newRoot(env))
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(manual, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Error("docs/commands.md is not what the help says; go test ./internal/cli -run Manual -update writes it anew")
	}
}

func describe(b *strings.Builder, c *cobra.Command) {
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(b, "\n## %s\n\n```\n%s\n", c.CommandPath(), strings.TrimSpace(text))
	if c.Runnable() && !c.HasSubCommands() {
		fmt.Fprintf(b, "\nUsage: %s\n", c.UseLine())
	}
	if f := c.LocalFlags(); f.HasAvailableFlags() {
		fmt.Fprintf(b, "\n%s\n", strings.TrimRight(f.FlagUsages(), "\n"))
	}
	b.WriteString("```\n")
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			describe(b, sub)
		}
	}
}
