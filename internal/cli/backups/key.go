package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/userfile"
)

func newKey(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Decide who can read a repository: list, add, remove, rotate, destroy keys",
		Long: `Say who can read a repository. Each instance's backups are encrypted to a key of its own, which is kept in the repository,
wrapped for all recipients. So recipients can come and go without any data being written again, and destroying an instance's
key makes its backups unreadable. See docs/keys.md.`,
	}
	core.AsGroup(c)
	c.AddCommand(newKeyList(env, g), newKeyAdd(env, g), newKeyRemove(env, g), newKeyRotate(env, g),
		newKeyDestroy(env, g), newKeyAccept(env, g), newKeyExport(env, g))
	return c
}

func newKeyList(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the recipients, and the keys of the instances",
		Long: `List the recipients, and the keys of the instances. It shows for how many recipients each key is wrapped; with an
identity or passphrase, for whom.`,
		Args: core.Arguments(0, 0, ""),
	}
	o.Flags(c.Flags(), "whose keys are listed (default: all)")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runKeyList(ctx, env, s, o)
	})
	return c
}

func runKeyList(ctx context.Context, env *core.Env, s *core.Settings, o *open.Options) error {
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	keys, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	if o.Instance != "" {
		keys.Instances = slices.DeleteFunc(keys.Instances,
			func(k repo.InstanceKeyInfo) bool { return k.Instance != o.Instance })
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, keys)
	}
	return printKeys(env.Stdout, keys)
}

func printKeys(w io.Writer, keys *repo.Keys) error {
	if len(keys.Recipients) == 0 {
		fmt.Fprintln(w, "the repository is not encrypted: it has no keys")
		return nil
	}
	var names []string
	for _, r := range keys.Recipients {
		names = append(names, r.Recipient)
		kept := ""
		if r.Passphrase {
			kept = "  under a passphrase"
		}
		fmt.Fprintf(w, "recipient  %s%s\n", core.Clean(r.Recipient), kept)
	}
	if len(keys.Instances) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, k := range keys.Instances {
		state := "in use"
		if k.Retired {
			state = "retired"
		}
		rows = append(rows, []string{k.Instance, k.Recipient, state, core.When(k.Wrapped), wrappedFor(k, names)})
	}
	return core.Table(w, []string{"INSTANCE", "KEY", "STATE", "STORED", "WRAPPED FOR"}, rows)
}

// wrappedFor says who opens a key, and where that isn't the repository's recipients.
func wrappedFor(k repo.InstanceKeyInfo, names []string) string {
	if !k.Opened {
		return core.Count(k.WrapCount, "recipient")
	}
	text := core.Count(len(k.Recipients), "recipient")
	for _, n := range names {
		if !slices.Contains(k.Recipients, n) {
			text += ", not " + n
		}
	}
	for _, n := range k.Recipients {
		if !slices.Contains(names, n) {
			text += ", also " + n
		}
	}
	return text
}

type keyAddOptions struct {
	initOptions        // what is added is said as for init
	newFile     string // with the passphrase to add
}

func newKeyAdd(env *core.Env, g *core.Global) *cobra.Command {
	o := &keyAddOptions{}
	c := &cobra.Command{
		Use:   "add [RECIPIENT...]",
		Short: "Let another recipient or a passphrase read all backups",
		Long: `Let more recipients, or a passphrase, read all backups, including those there are. It needs an identity or the passphrase
of someone who can read. Only the instances' keys are written again, no data.

  slipcover key add age1… --identity slipcover-identity.txt
  slipcover key add --new-passphrase --identity slipcover-identity.txt`,
		Args: core.Arguments(0, -1, "RECIPIENTs (age1…)"),
	}
	f := c.Flags()
	o.Place(f)
	f.StringArrayVar(&o.recipientFiles, "recipients-file", nil, "`FILE` with age recipients, one a line; may be repeated")
	f.BoolVar(&o.passphrase, "new-passphrase", false, "ask for a new passphrase, which reads all backups from now on")
	f.StringVar(&o.newFile, "new-passphrase-file", "", "`FILE` with such a passphrase")
	f.StringArrayVar(&o.Identities, "identity", nil,
		"`FILE` with the age identity that reads the repository; may be repeated")
	f.StringVar(&o.PassphraseFile, "passphrase-file", "", "`FILE` with the passphrase that reads the repository now")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
		return runKeyAdd(ctx, env, s, o, args)
	})
	return c
}

func runKeyAdd(ctx context.Context, env *core.Env, s *core.Settings, o *keyAddOptions, args []string) error {
	o.recipients = args
	add, err := o.allRecipients()
	if err != nil {
		return err
	}
	if asked := o.passphrase || o.newFile != ""; asked == (len(add) > 0) {
		return core.Usage("pass RECIPIENTs (age1…), --recipients-file, --new-passphrase or --new-passphrase-file: one kind at a time")
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Unlock(ctx); err != nil {
		return err
	}
	var res *repo.KeyChange
	if len(add) > 0 {
		res, err = r.AddRecipients(ctx, add...)
	} else {
		var p string
		if p, err = o.newPassphrase(env); err != nil {
			return err
		}
		res, err = r.AddPassphrase(ctx, p)
	}
	if err != nil {
		return err
	}
	env.Done("the keys were changed")
	if env.JSON {
		return core.PrintJSON(env.Stdout, res)
	}
	fmt.Fprintf(env.Stdout, "the repository has %s now; %s wrapped anew\n",
		core.Count(len(res.Recipients), "recipient"), core.Count(res.Wrapped, "key"))
	for _, name := range res.Direct {
		fmt.Fprintf(env.Stdout, "note: instance %s has data of an earlier version, encrypted to the recipients of then: who was added now can't read it\n", core.Clean(name))
	}
	printStrangers(env.Stdout, res)
	return nil
}

// newPassphrase reads the passphrase to add.
func (o *keyAddOptions) newPassphrase(env *core.Env) (string, error) {
	if o.newFile == "" {
		return o.askPassphrase(env, &core.Settings{})
	}
	p, err := userfile.ReadSecret(o.newFile)
	if err != nil {
		return "", core.FileError("read the new passphrase", err)
	}
	return p, plainPassphrase(p)
}

// plainPassphrase refuses blanks around a passphrase that is to be set: they get lost
// where it is copied, and whoever types it later doesn't know of them.
func plainPassphrase(p string) error {
	if p != strings.TrimSpace(p) {
		return core.Usage("the passphrase begins or ends with a blank, which is easily lost: take it away")
	}
	return nil
}

func printStrangers(w io.Writer, res *repo.KeyChange) {
	for _, name := range res.Strangers {
		fmt.Fprintf(w, "note: slipcover.json names %s, for whom not all keys are wrapped: add it if it is right, or remove it\n", core.Clean(name))
	}
	fmt.Fprintln(w, "On each node that backs up here, `slipcover key accept` or the setting recipients takes them over for its next key.")
}

type keyRemoveOptions struct {
	open.Options
	noRotate bool
}

func newKeyRemove(env *core.Env, g *core.Global) *cobra.Command {
	o := &keyRemoveOptions{}
	c := &cobra.Command{
		Use:   "remove RECIPIENT...",
		Short: "Take the right to read away from recipients or from a passphrase",
		Long: `Stop recipients from reading what is stored from now on. A passphrase is removed by its recipient, which "key list"
shows. It needs an identity or the passphrase of someone who stays. The keys of all instances are retired: each node makes a
new one at its next backup, once it has accepted the new recipients (key accept).

Somebody who has read a key before, or has an old copy of the repository, can still read what was there then. Only deleting
those backups, and the copies, ends that.`,
		Args: core.Arguments(1, -1, "at least one RECIPIENT (age1…)"),
	}
	f := c.Flags()
	o.Place(f)
	f.StringArrayVar(&o.Identities, "identity", nil,
		"`FILE` with the age identity that reads the repository; may be repeated")
	f.StringVar(&o.PassphraseFile, "passphrase-file", "", "`FILE` with the passphrase that reads the repository")
	f.BoolVar(&o.noRotate, "no-rotate", false, "let nodes go on using their keys, which the removed may have read")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
		return runKeyRemove(ctx, env, s, o, args)
	})
	return c
}

func runKeyRemove(ctx context.Context, env *core.Env, s *core.Settings, o *keyRemoveOptions, args []string) error {
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	res, err := r.RemoveRecipients(ctx, !o.noRotate, args...)
	if err != nil {
		return err
	}
	env.Done("the keys were changed")
	if env.JSON {
		return core.PrintJSON(env.Stdout, res)
	}
	fmt.Fprintf(env.Stdout, "the repository has %s now; %s wrapped anew, %d retired\n",
		core.Count(len(res.Recipients), "recipient"), core.Count(res.Wrapped, "key"), res.Retired)
	fmt.Fprintln(env.Stdout, "Who was removed and has read a key before, or has a copy of the repository, can still read what it could read then.")
	for _, name := range res.Direct {
		fmt.Fprintf(env.Stdout, "note: instance %s has data of an earlier version, encrypted to the recipients of then: who was removed can read it until it is deleted\n", core.Clean(name))
	}
	printStrangers(env.Stdout, res)
	return nil
}

func newKeyRotate(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make nodes use a new key from their next backup on",
		Long:  `Have nodes make a new key at their next backup. What is stored stays readable by the old ones. It needs no secret.`,
		Args:  core.Arguments(0, 0, ""),
	}
	o.Place(c.Flags())
	c.Flags().StringVar(&o.Instance, "instance", "", "`NAME` of the instance (default: all)")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runKeyRotate(ctx, env, s, o)
	})
	return c
}

func runKeyRotate(ctx context.Context, env *core.Env, s *core.Settings, o *open.Options) error {
	if o.Instance != "" && !manifest.ValidInstance(o.Instance) {
		return core.Usage("%q can't be the name of an instance", o.Instance)
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	if !r.Config().Encrypted() {
		return repo.ErrNotEncrypted
	}
	n, err := r.Retire(ctx, o.Instance)
	if err != nil {
		return err
	}
	env.Done("the keys were changed")
	if env.JSON {
		return core.PrintJSON(env.Stdout, struct {
			Retired int `json:"retired"`
		}{n})
	}
	fmt.Fprintf(env.Stdout, "retired %s\n", core.Count(n, "key"))
	return nil
}

type keyDestroyOptions struct {
	open.Options
	yes bool
}

func newKeyDestroy(env *core.Env, g *core.Global) *cobra.Command {
	o := &keyDestroyOptions{}
	c := &cobra.Command{
		Use:   "destroy --instance NAME",
		Short: "Make the backups of an instance unreadable for ever",
		Long: `Delete the keys of an instance: nobody can ever read its backups again. Other instances are not touched. A copy of the
repository, or a key that was exported, still works. Data of the first versions, which had no such keys, stays readable too;
with an identity this says whether there is any. At a terminal it asks first; otherwise --yes is needed.`,
		Args: core.Arguments(0, 0, ""),
	}
	o.Flags(c.Flags(), "whose backups nobody shall read")
	c.Flags().BoolVar(&o.yes, "yes", false, "destroy without asking")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runKeyDestroy(ctx, env, s, o)
	})
	return c
}

func runKeyDestroy(ctx context.Context, env *core.Env, s *core.Settings, o *keyDestroyOptions) error {
	if !manifest.ValidInstance(o.Instance) {
		return core.Usage("destroy needs --instance NAME, the one whose backups become unreadable")
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	if !r.Config().Encrypted() {
		return repo.ErrNotEncrypted
	}
	if err := o.ask(env); err != nil {
		return err
	}
	n := 0
	err = withLock(ctx, r.Repo, o.Instance, "destruction of keys", func(lock *repo.Lock) (err error) {
		n, err = r.DestroyKeys(ctx, lock)
		return err
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return core.Say(core.ErrMissing, "instance %s has no key in the repository", o.Instance)
	}
	direct := false
	if r.CanRead() {
		if direct, err = r.Direct(ctx, o.Instance); err != nil {
			return err
		}
	}
	env.Done("the keys were changed")
	if env.JSON {
		return core.PrintJSON(env.Stdout, struct {
			Destroyed int  `json:"destroyed"`
			Direct    bool `json:"direct"`
		}{n, direct})
	}
	fmt.Fprintf(env.Stdout, "destroyed %s of instance %s\n", core.Count(n, "key"), o.Instance)
	if direct {
		fmt.Fprintln(env.Stdout, "note: it has data of an earlier version, encrypted to the recipients of then, which stays readable until it is deleted")
	}
	return nil
}

func (o *keyDestroyOptions) ask(env *core.Env) error {
	if o.yes {
		return nil
	}
	if !env.StdinTerminal {
		return core.Usage("destroying needs --yes, since there is nobody to ask")
	}
	yes, err := core.Confirm(env, fmt.Sprintf("Make all backups of instance %s unreadable, for everyone and for ever?",
		o.Instance))
	if err == nil && !yes {
		err = errors.New("nothing was destroyed")
	}
	return err
}

func newKeyAccept(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "accept",
		Short: "On a node: accept the recipients that the repository has now",
		Long: `Accept the recipients that the repository names now, for the next key that this node makes. Run it on the node that backs up.
A node without the setting recipients takes those that it finds at its first backup, and no others until you run this.
Compare what it prints with what you expect: anybody who can write to the storage can write names there.`,
		Args: core.Arguments(0, 0, ""),
	}
	o.Place(c.Flags())
	c.Flags().StringVar(&o.Instance, "instance", "",
		"`NAME` of this node in the repository (default: the name of this machine)")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runKeyAccept(ctx, env, s)
	})
	return c
}

func runKeyAccept(ctx context.Context, env *core.Env, s *core.Settings) error {
	if len(s.Recipients) > 0 {
		return core.Usage("the setting recipients says whom this node accepts; change that")
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := s.Need("state_dir", "instance"); err != nil {
		return err
	}
	res, err := backup.AcceptRecipients(s.StateDir, r.Repo, s.Instance)
	if err != nil {
		return err
	}
	env.Done("the keys were changed")
	if env.JSON {
		return core.PrintJSON(env.Stdout, struct {
			Recipients []string `json:"recipients"`
			Before     []string `json:"before"`
		}{core.NonNil(res.Recipients), core.NonNil(res.Before)})
	}
	for _, n := range res.Recipients {
		mark := " "
		if !slices.Contains(res.Before, n) {
			mark = "+"
		}
		fmt.Fprintln(env.Stdout, mark, core.Clean(n))
	}
	for _, n := range res.Before {
		if !slices.Contains(res.Recipients, n) {
			fmt.Fprintln(env.Stdout, "-", core.Clean(n))
		}
	}
	fmt.Fprintf(env.Stdout, "this node accepts %s\n", core.Count(len(res.Recipients), "recipient"))
	return nil
}

func newKeyExport(env *core.Env, g *core.Global) *cobra.Command {
	o := &open.Options{}
	c := &cobra.Command{
		Use:   "export --instance NAME",
		Short: "Print the keys that read one instance and no other",
		Long: `Print the age identities of an instance's keys. In a file they serve as an --identity that reads the backups of that
instance and of no other, until it makes a new key. The age program itself opens the instance's segments with them.`,
		Args: core.Arguments(0, 0, ""),
	}
	o.Flags(c.Flags(), "whose keys they are")
	c.RunE = core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
		return runKeyExport(ctx, env, s, o)
	})
	return c
}

func runKeyExport(ctx context.Context, env *core.Env, s *core.Settings, o *open.Options) error {
	if !manifest.ValidInstance(o.Instance) {
		return core.Usage("export needs --instance NAME, the one whose keys are printed")
	}
	r, err := open.Repo(ctx, env, s, true)
	if err != nil {
		return err
	}
	defer r.Close()
	ids, err := r.ExportKeys(ctx, o.Instance)
	if err != nil {
		return err
	}
	var lines []string
	for _, id := range ids {
		lines = append(lines, id.String())
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, struct {
			Instance   string   `json:"instance"`
			Identities []string `json:"identities"`
		}{o.Instance, lines})
	}
	fmt.Fprintf(env.Stdout, "# Reads the backups of instance %s in %s\n%s\n", o.Instance, r.URL(),
		strings.Join(lines, "\n"))
	return nil
}
