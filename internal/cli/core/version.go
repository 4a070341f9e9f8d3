package core

import (
	"runtime"
	"runtime/debug"

	"github.com/slipcover/slipcover/internal/repo"
)

// version is set by the linker in releases: -X …/internal/cli/core.version=1.2.3.
var version string

// Build is which program this is, and what it was built of.
type Build struct {
	Version          string `json:"version"`
	Commit           string `json:"commit"`
	Modified         bool   `json:"modified"` // built from files that were not committed
	Go               string `json:"go"`
	Platform         string `json:"platform"`
	RepositoryFormat int    `json:"repository_format"`
}

// BuildVersion is what the linker and the build's own record say.
func BuildVersion() Build {
	v := Build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		RepositoryFormat: repo.Format}
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

// ToolVersion is the version alone, "devel" if there is none.
func ToolVersion() string { return BuildVersion().Version }
