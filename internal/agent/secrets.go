package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
)

// maxSealed bounds what is unsealed, in bytes.
const maxSealed = 64 << 10

// Recipient is what servers seal secrets for the agent of a state directory to. Its
// identity is made if there is none yet.
func Recipient(stateDir string) (string, error) {
	dir := filepath.Join(stateDir, "agent")
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	id, err := loadIdentity(filepath.Join(dir, identityName))
	if err != nil {
		return "", err
	}
	return id.Recipient().String(), nil
}

const identityName = "identity.txt"

// loadIdentity reads the agent's age identity, and makes it at the first start.
func loadIdentity(path string) (*age.X25519Identity, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeIdentity(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's identity: %w", err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil { // whose text could quote it
		return nil, fmt.Errorf("%s holds no age identity: remove it, and the agent makes another one", path)
	}
	return id, nil
}

// makeIdentity makes the identity. Of two processes that do, one wins.
func makeIdentity(path string) (*age.X25519Identity, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	err = durable.WriteNewFile(path, 0o600, line(id.String()))
	if errors.Is(err, fs.ErrExist) {
		return loadIdentity(path)
	}
	if err != nil {
		return nil, fmt.Errorf("store the agent's identity: %w", err)
	}
	return id, nil
}

// writeSecret writes a line that only the agent's user may read.
func writeSecret(path, text string) error { return durable.WriteFile(path, 0o600, line(text)) }

// line writes a line into a file.
func line(text string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := io.WriteString(f, text+"\n")
		return err
	}
}

// unseal opens the secrets of a job; there are none in nil.
func (a *agent) unseal(sealed []byte) (job.Secrets, error) {
	var s job.Secrets
	if len(sealed) == 0 {
		return s, nil
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), a.identity)
	if err != nil {
		return s, fmt.Errorf("the secrets of this job are encrypted to another agent's key: request it again: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxSealed))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil { // whose text could quote them
		return job.Secrets{}, errors.New("the secrets of this job can't be read: request it again")
	}
	return s, nil
}
