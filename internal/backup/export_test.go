package backup

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipcover/slipcover/internal/state"
)

// SetBoot makes id the id of this start of the machine, for the rest of the test.
func SetBoot(t testing.TB, id string) {
	t.Helper()
	old := state.BootFile
	state.BootFile = filepath.Join(t.TempDir(), "boot_id")
	t.Cleanup(func() { state.BootFile = old })
	if err := os.WriteFile(state.BootFile, []byte(id+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadsState reports whether the text of a state is believed.
func ReadsState(text []byte, repoID string) bool {
	_, err := state.Decode(bytes.NewReader(text), repoID)
	return err == nil
}
