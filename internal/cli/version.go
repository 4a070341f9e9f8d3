package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newVersion(env *core.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit, Go version and repository format",
		Args:  core.Arguments(0, 0, ""),
		RunE:  func(*cobra.Command, []string) error { return runVersion(env) },
	}
}

func runVersion(env *core.Env) error {
	v := core.BuildVersion()
	if env.JSON {
		return core.PrintJSON(env.Stdout, v)
	}
	commit := v.Commit
	if v.Modified {
		commit += " and changes"
	}
	fmt.Fprintf(env.Stdout, "slipcover %s\n", v.Version)
	return core.Facts(env.Stdout, []core.Fact{
		{"commit", commit}, {"go", v.Go}, {"platform", v.Platform}, {"repository format", fmt.Sprint(v.RepositoryFormat)},
	})
}
