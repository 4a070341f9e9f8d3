package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/repo"
)

// A service makes its repository if there is none. Where it has found one before, there
// being none means that the disk isn't mounted, and a second one would be made in the
// empty directory. So the state directory remembers the id of each place's repository.

var knownMu sync.Mutex // guards the file

func knownFile(stateDir string) string { return filepath.Join(stateDir, "repositories.json") }

// knownRepositories reads ids by place, without secrets. A file that can't be read knows
// nothing.
func knownRepositories(stateDir string) map[string]string {
	known := map[string]string{}
	if b, err := os.ReadFile(knownFile(stateDir)); err == nil {
		_ = json.Unmarshal(b, &known)
	}
	return known
}

// knownRepository returns the id of the repository that was in the place of s; "" if none
// was seen.
func knownRepository(s *core.Settings) string {
	place, err := core.RepositoryURL(s.Repository)
	if err != nil {
		return ""
	}
	knownMu.Lock()
	defer knownMu.Unlock()
	return knownRepositories(s.StateDir)[core.Mask(place)]
}

// rememberRepository notes that the place of s has the repository of that id.
func rememberRepository(s *core.Settings, id string) error {
	place, err := core.RepositoryURL(s.Repository)
	if err != nil {
		return err
	}
	knownMu.Lock()
	defer knownMu.Unlock()
	known := knownRepositories(s.StateDir)
	if known == nil {
		known = map[string]string{}
	}
	if known[core.Mask(place)] == id {
		return nil
	}
	known[core.Mask(place)] = id
	if err := durable.MkdirAll(s.StateDir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(knownFile(s.StateDir), 0o600, func(w *os.File) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(known)
	})
}

// repositoryGone explains that a place has no repository any more.
func repositoryGone(s *core.Settings, id string, err error) error {
	if id == "" || !errors.Is(err, repo.ErrNoRepository) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("the repository %s was in %s and is not there now, so no other one is made in its place: mount its disk, or run `slipcover init --repo` for a new one (%w)",
		id, core.Mask(s.Repository), err)
}
