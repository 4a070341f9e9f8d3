package backup_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// Whatever byte of the pin changes, it says what it said or is refused.
func TestPinOfAnotherByte(t *testing.T) {
	t.Parallel()
	e := newSmallEnv(t)
	e.run()
	path := e.stateFile("pin.json")
	pin, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Contains(pin, []byte(`"sha256"`)) {
		t.Fatalf("no checksum in %s", pin)
	}
	refused := 0
	for i := 0; i < len(pin); i += 5 {
		must(t, os.WriteFile(path, altered(pin, i), 0o600))
		res, err := backup.Run(t.Context(), e.options(e.store))
		if err != nil {
			refused++
			if !errors.Is(err, repo.ErrRecipients) || !strings.Contains(err.Error(), "slipcover key accept") {
				t.Errorf("byte %d: %v", i, err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, pin) {
			t.Errorf("byte %d: %v, and the pin is now %s", i, err, got)
		}
		e.check(res.Record)
	}
	if refused < len(pin)/5*8/10 {
		t.Errorf("%d of %d changes were refused", refused, len(pin)/5)
	}
}

// A pin without a checksum is accepted, and gets one.
func TestPinOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	e := newSmallEnv(t)
	e.run()
	path := e.stateFile("pin.json")
	sealed, err := os.ReadFile(path)
	must(t, err)
	var pin repo.KeyPin
	must(t, json.Unmarshal(sealed, &pin))
	old, err := json.MarshalIndent(pin, "", "  ")
	must(t, err)
	must(t, os.WriteFile(path, append(old, '\n'), 0o600))
	e.run()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, sealed) {
		t.Errorf("%v: the pin is %s", err, got)
	}
}

// A writer's key whose text changed is refused rather than another key.
func TestWriterKeyOfAnotherByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "writer.key")
	key, err := state.WriterKey(dir)
	must(t, err)
	text, err := os.ReadFile(path)
	must(t, err)
	for i := range text {
		must(t, os.WriteFile(path, altered(text, i), 0o600))
		if got, err := state.WriterKey(dir); err == nil && !got.Equal(key) {
			t.Errorf("byte %d: another key is believed", i)
		}
	}
	seed, _, _ := bytes.Cut(text, []byte{'\n'})
	must(t, os.WriteFile(path, append(seed, '\n'), 0o600)) // as earlier versions wrote it
	if got, err := state.WriterKey(dir); err != nil || !got.Equal(key) {
		t.Errorf("the old form: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%v: the old form became %s", err, got)
	}
}
