package cli

import (
	"runtime"
	"runtime/debug"

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
