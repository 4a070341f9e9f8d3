package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/repo"
)

// version is set by the linker in releases: -X …/internal/cli.version=1.2.3.
var version string

type versionReport struct {
	Version          string `json:"version"`
	Commit           string `json:"commit"`
	Modified         bool   `json:"modified"` // built from files that were not committed
	Go               string `json:"go"`
	Platform         string `json:"platform"`
	RepositoryFormat int    `json:"repository_format"`
}

func buildVersion() versionReport {
	v := versionReport{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, RepositoryFormat: repo.Format}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if v.Version == "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	return v
}

func toolVersion() string { return buildVersion().Version }

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
