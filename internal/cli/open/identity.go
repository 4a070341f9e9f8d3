package open

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/userfile"
)

// readIdentities reads files of age identities, as age-keygen writes them.
func readIdentities(files []string) ([]age.Identity, error) {
	var out []age.Identity
	for _, name := range files {
		f, err := userfile.Read(name)
		if err != nil {
			return nil, core.FileError("read identity", err)
		}
		if f.Binary {
			return nil, core.Usage("%s is not a text file, as an age identity is", name)
		}
		if strings.HasPrefix(f.Text, "age-encryption.org/") || strings.HasPrefix(f.Text, "-----BEGIN AGE") {
			return nil, core.Usage("%s is encrypted itself: decrypt it with age first", name)
		}
		var lines []string // without the blanks that copying brings along
		for line := range strings.Lines(f.Text) {
			lines = append(lines, strings.TrimSpace(line))
		}
		ids, err := age.ParseIdentities(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil {
			// age's own text could quote the line, which may be the secret.
			return nil, core.Usage("%s holds no age identity: a line AGE-SECRET-KEY-1… is expected", name)
		}
		out = append(out, ids...)
	}
	return out, nil
}

// RecipientsOf returns those of the X25519 identities of files.
func RecipientsOf(files []string) (list []string, err error) {
	ids, err := readIdentities(files)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if x, ok := id.(*age.X25519Identity); ok {
			list = append(list, x.Recipient().String())
		}
	}
	return list, nil
}

// NewIdentity writes a new identity to a file that isn't there, with a line that says what it reads, and returns its recipient.
func NewIdentity(env *core.Env, file, what string) (string, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	err = durable.WriteNewFile(file, 0o600, func(w *os.File) error {
		_, err := fmt.Fprintf(w, "# Reads the Slipcover repository %s\n# created: %s\n# public key: %s\n%s\n",
			what, env.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
		return err
	})
	if errors.Is(err, fs.ErrExist) {
		return "", core.Say(core.ErrTarget, "%s is there already and is not replaced, as it may be the only key of another repository: pass --identity-out with another name", file)
	}
	if err != nil {
		return "", fmt.Errorf("write the identity: %w", err)
	}
	return id.Recipient().String(), nil
}
