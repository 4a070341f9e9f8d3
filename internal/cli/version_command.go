package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newVersion(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit, Go version and repository format",
		Args:  arguments(0, 0, ""),
		RunE:  func(*cobra.Command, []string) error { return runVersion(env) },
	}
}

func runVersion(env *Env) error {
	v := buildVersion()
	if env.json {
		return printJSON(env.Stdout, v)
	}
	commit := v.Commit
	if v.Modified {
		commit += " and changes"
	}
	fmt.Fprintf(env.Stdout, "slipcover %s\n", v.Version)
	return facts(env.Stdout, []fact{
		{"commit", commit}, {"go", v.Go}, {"platform", v.Platform}, {"repository format", fmt.Sprint(v.RepositoryFormat)},
	})
}
