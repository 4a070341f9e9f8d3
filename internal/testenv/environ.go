package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// storageVariables begin the names of what storages read in the environment.
var storageVariables = []string{"AWS_", "OS_", "ST_", "SWIFT_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST"}

// A test must reach no storage of whoever runs it, nor fail because of how theirs is set
// up: what they have in the environment for it is gone before the first test. Programs
// that tests run get what the tests say.
func init() {
	if name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"); !strings.HasSuffix(name, ".test") {
		return
	}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if slices.ContainsFunc(storageVariables, func(p string) bool { return strings.HasPrefix(name, p) }) {
			_ = os.Unsetenv(name) // it fails for no name that exists
		}
	}
}
