package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/userfile"
)

// defaultIdentity is where init puts a new identity.
const defaultIdentity = "slipcover-identity.txt"

type initOptions struct {
	open.Options
	recipients     []string
	recipientFiles []string
	passphrase     bool
	identityOut    string
	noEncryption   bool
}

func newInit(env *core.Env, g *core.Global) *cobra.Command {
	o := &initOptions{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a repository, and the key that reads it",
		Long: `Make a repository. Everything in it is encrypted with age. Writing backups needs no secret; reading them needs the
identity (a file with AGE-SECRET-KEY-1…) or the passphrase, and without it nobody can read anything, ever.

  slipcover init --repo /backups                           a new identity, in slipcover-identity.txt
  slipcover init --repo /backups --recipient age1…         keys that you have; age and age-keygen make them
  slipcover init --repo /backups --passphrase              asks for a passphrase, which unlocks a key kept in the repository
  slipcover init --repo /backups --no-encryption           whoever can read the storage can read the databases`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runInit(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Place(f)
	f.StringArrayVar(&o.recipients, "recipient", nil, "age recipient (`age1…`) who can read the backups; may be repeated")
	f.StringArrayVar(&o.recipientFiles, "recipients-file", nil, "`FILE` with age recipients, one a line; may be repeated")
	f.BoolVar(&o.passphrase, "passphrase", false, "ask for a passphrase that reads the backups")
	f.StringVar(&o.PassphraseFile, "passphrase-file", "", "`FILE` with a passphrase that reads the backups")
	f.StringVar(&o.identityOut, "identity-out", "",
		"`FILE` for the new identity (default "+defaultIdentity+"); one that is there is not replaced")
	f.BoolVar(&o.noEncryption, "no-encryption", false, "encrypt nothing")
	return c
}

// given reports whether the flags say how to encrypt.
func (o *initOptions) given() bool {
	return len(o.recipients)+len(o.recipientFiles) > 0 || o.passphrase || o.PassphraseFile != "" || o.identityOut != "" || o.noEncryption
}

type initResult struct {
	Repository repositoryJSON `json:"repository"`
	// IdentityFile is the file that the new identity was written to.
	IdentityFile string `json:"identity_file,omitempty"`
	// Passphrase says that the repository keeps an identity under a passphrase.
	Passphrase bool `json:"passphrase"`
}

type repositoryJSON struct {
	URL        string    `json:"url"`
	ID         string    `json:"id"`
	Format     int       `json:"format"`
	Created    time.Time `json:"created"`
	Encryption string    `json:"encryption"`
	Recipients []string  `json:"recipients"`
}

func runInit(ctx context.Context, env *core.Env, s *core.Settings, o *initOptions) error {
	if o.noEncryption && (len(o.recipients)+len(o.recipientFiles) > 0 || o.passphrase || o.PassphraseFile != "" || o.identityOut != "") {
		return core.Usage("--no-encryption goes with no recipient, passphrase or identity")
	}
	if o.passphrase && o.PassphraseFile != "" {
		return core.Usage("--passphrase and --passphrase-file: pass one of them")
	}
	if !o.given() && s.Passphrase == "" && env.StdinTerminal {
		if err := o.choose(env); err != nil {
			return err
		}
	}
	store, err := open.Store(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	switch _, err := repo.Open(ctx, store, repo.Options{}); { // before a key is made for nothing
	case err == nil:
		return fmt.Errorf("%s: %w", store.URL(), repo.ErrExists)
	case !errors.Is(err, repo.ErrNoRepository):
		return err
	}
	opts := repo.InitOptions{}
	if opts.Recipients, err = o.allRecipients(); err != nil {
		return err
	}
	if opts.Passphrase, err = o.askPassphrase(env, s); err != nil {
		return err
	}
	res := initResult{Passphrase: opts.Passphrase != ""}
	if !o.noEncryption && (o.identityOut != "" || len(opts.Recipients) == 0 && opts.Passphrase == "") {
		o.identityOut = cmp.Or(o.identityOut, defaultIdentity)
		recipient, err := open.NewIdentity(env, o.identityOut, store.URL())
		if err != nil {
			return err
		}
		opts.Recipients = append(opts.Recipients, recipient)
		res.IdentityFile = o.identityOut
	}
	c, err := repo.Init(ctx, store, opts)
	if err != nil {
		return err
	}
	env.Done("repository %s was made%s", c.ID, res.keyPlace())
	res.Repository = repositoryJSON{store.URL(), c.ID, c.Format, c.Created, c.Encryption, core.NonNil(c.Recipients)}
	return res.print(env)
}

// choose asks how to encrypt, at a terminal where no flag says it.
func (o *initOptions) choose(env *core.Env) error {
	fmt.Fprint(env.Stderr, `Backups are encrypted to a key that only reading needs, and without
which nobody, you neither, can ever read them; choose one:

  1  make a new key and write it to `+defaultIdentity+`
  2  use a passphrase
  3  encrypt nothing
  q  stop; --recipient age1… takes a key that you have

Choice: `)
	line, err := core.ReadLine(env.Stdin)
	if err != nil {
		return err
	}
	switch line {
	case "1":
		o.identityOut = defaultIdentity
	case "2":
		o.passphrase = true
	case "3":
		o.noEncryption = true
	default:
		return core.Usage("nothing was made: pass --identity-out FILE, --recipient age1…, --passphrase or --no-encryption")
	}
	return nil
}

func (o *initOptions) allRecipients() ([]string, error) {
	lists := []string{strings.Join(o.recipients, "\n")}
	for _, name := range o.recipientFiles {
		text, err := userfile.ReadText(name)
		if err != nil {
			return nil, core.FileError("read recipients", err)
		}
		lists = append(lists, text)
	}
	var out []string
	for _, text := range lists {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if strings.HasPrefix(line, "AGE-SECRET-KEY-") {
				return nil, core.Usage("that is an identity, the secret half: pass its recipient (age1…); age-keygen -y FILE prints it")
			}
			if _, err := age.ParseX25519Recipient(line); err != nil {
				return nil, core.Usage("%q is not an age recipient (age1…)", line)
			}
			out = append(out, line)
		}
	}
	if len(out) == 0 && len(o.recipients)+len(o.recipientFiles) > 0 {
		return nil, core.Usage("the recipients files hold no recipient (age1…)")
	}
	return out, nil
}

func (o *initOptions) askPassphrase(env *core.Env, s *core.Settings) (string, error) {
	if s.Passphrase != "" && (o.passphrase || o.PassphraseFile != "" || !o.given()) {
		return s.Passphrase.Reveal(), plainPassphrase(s.Passphrase.Reveal())
	}
	if !o.passphrase {
		return "", nil
	}
	if !env.StdinTerminal {
		return "", core.Usage("--passphrase asks at a terminal, and there is none: pass --passphrase-file FILE")
	}
	p, err := env.ReadPassword("Passphrase for the repository: ")
	if err != nil {
		return "", err
	}
	again, err := env.ReadPassword("The same again: ")
	if err != nil {
		return "", err
	}
	if p == "" || p != again {
		return "", core.Usage("the passphrase is empty, or the two are not the same; nothing was made")
	}
	return p, plainPassphrase(p)
}

// keyPlace says where the new key is, if there is one.
func (r *initResult) keyPlace() string {
	if r.IdentityFile == "" {
		return ""
	}
	return " and its key is in " + r.IdentityFile
}

func (r *initResult) print(env *core.Env) error {
	if env.JSON {
		return core.PrintJSON(env.Stdout, r)
	}
	w := env.Stdout
	fmt.Fprintf(w, "made repository %s in %s\n", r.Repository.ID, r.Repository.URL)
	switch {
	case r.IdentityFile != "":
		path := r.IdentityFile
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		fmt.Fprintf(w, "\nThe key that reads it is in %s\nKeep a copy away from this machine and from the storage. Without it nothing can be read, by anyone.\nMaking backups does not need it.\n", path)
	case r.Passphrase:
		fmt.Fprintln(w, "\nIts key is kept in the repository, under your passphrase. Keep that: without it nothing can be read, by anyone.\nMaking backups does not need it.")
	case r.Repository.Encryption == "none":
		fmt.Fprintln(w, "\nIt is not encrypted: whoever can read the storage can read the databases. Passwords and secrets in CouchDB's ini files are left out of its backups.")
	default:
		fmt.Fprintf(w, "\nIt is encrypted to %s. Keep the identities: without them nothing can be read, by anyone.\nMaking backups does not need them.\n", strings.Join(r.Repository.Recipients, ", "))
	}
	return nil
}
