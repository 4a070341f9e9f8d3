package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/repo"
)

type copyOptions struct {
	open.Options
	from       string
	to         string
	last       int
	recipients []string
}

func newCopy(env *core.Env, g *core.Global) *cobra.Command {
	o := &copyOptions{}
	c := &cobra.Command{
		Use:   "copy [ID...]",
		Short: "Copy backups to another repository",
		Long: `Copy backups to another repository: all that it lacks, of every instance, oldest first; or the ones that you name. Nothing is
decrypted, and what is there already isn't sent again. A copy that was interrupted goes on where it stopped.

Unless you name backups, what was shipped between them comes along: all but the last hour or two, which stays behind until it is
rolled up.

  slipcover copy --from /backups --to s3://bucket/couchdb
  slipcover copy latest --from /backups --to s3://bucket/couchdb --instance db1

No key is needed if both repositories have the same recipients. With --identity the bytes are compared with the hashes that
the backup was made with, and the instance's key can be encrypted to other recipients, which --recipient must name:

  slipcover copy --from /backups --to /elsewhere --identity slipcover-identity.txt --recipient age1…

A node with the setting "repositories" copies each of its backups by itself.`,
		Args: core.Arguments(0, -1, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runCopy(ctx, env, s, o, args)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose backups to copy (default: all)")
	f.StringVar(&o.from, "from", "", "the repository to copy from, `URL` or folder (default: --repo)")
	f.StringVar(&o.to, "to", "", "the repository to copy to, `URL` or folder; init makes one")
	f.IntVar(&o.last, "last", 0, "only the newest `N` of each instance")
	f.StringArrayVar(&o.recipients, "recipient", nil,
		"age recipient (`age1…`) of the other repository who may read the copies; may be repeated")
	f.String("state-dir", "", "`DIR` with what the next incremental must know, if this is the node that made the backups")
	core.ProgressFlag(f)
	return c
}

func runCopy(ctx context.Context, env *core.Env, s *core.Settings, o *copyOptions, refs []string) error {
	src, dst, err := o.open(ctx, env, s)
	if err != nil {
		return err
	}
	defer src.Close()
	defer dst.Close()
	out := copyResult{From: src.URL(), To: dst.URL(), Backups: []copiedJSON{}}
	todo, already, err := o.choose(ctx, src.Repo, dst.Repo, refs)
	if err != nil {
		return err
	}
	out.Already = already
	p := &repo.CopyProgress{}
	stop := showCopying(env, s.Progress, p)
	defer stop()
	c := &backup.Copier{From: src.Repo, To: dst.Repo, StateDir: s.StateDir, Recipients: s.Recipients,
		Copy: repo.CopyOptions{Readers: slices.Concat(o.recipients, s.Recipients), Progress: p}}
	failed := explainCopy(c.All(ctx, todo))
	if len(refs) == 0 && (failed == nil || errors.Is(failed, repo.ErrCorrupt) || errors.Is(failed, repo.ErrNoBackup)) {
		var err error
		if out.Shipped, err = o.shipped(ctx, dst.Repo, src.Repo, repo.CopyShippedOptions{Readers: c.Copy.Readers, Progress: p}); failed == nil {
			failed = err
		}
	}
	stop()
	out.Backups, out.Already = copiesJSON(c.Done), out.Already+c.Already
	if len(c.Done)+len(out.Shipped) == 0 && failed != nil {
		return failed
	}
	if err := out.print(env); err != nil {
		return err
	}
	for _, n := range c.Notes {
		fmt.Fprintf(env.Stderr, "slipcover: warning: %s\n", core.Clean(n))
	}
	return failed
}

// shipped copies what was shipped of the instances whose backups are copied.
func (o *copyOptions) shipped(ctx context.Context, dst, src *repo.Repo, opts repo.CopyShippedOptions) (out []shippedJSON, err error) {
	instances := []string{o.Instance}
	if o.Instance == "" {
		if instances, err = src.ShippedInstances(ctx); err != nil {
			return nil, err
		}
	}
	for _, name := range instances {
		j, ierr := copyShipped(ctx, dst, src, name, opts)
		if ierr = explainCopy(ierr); ierr != nil && err == nil {
			err = ierr
		}
		if j.tells() {
			out = append(out, j)
		}
	}
	return out, err
}

// copyShipped copies what was shipped of an instance.
func copyShipped(ctx context.Context, dst, src *repo.Repo, instance string, opts repo.CopyShippedOptions) (shippedJSON, error) {
	res, err := repo.CopyShipped(ctx, dst, src, instance, opts)
	j := shippedJSON{Instance: instance, CopyShippedResult: res}
	if err != nil {
		j.Error = core.Mask(core.OneLine(err.Error()))
		err = fmt.Errorf("not all that was shipped of %s was copied: %w", instance, err)
	}
	return j, err
}

// showCopying shows the progress of copies until the returned function is called.
func showCopying(env *core.Env, mode string, p *repo.CopyProgress) (stop func()) {
	return core.StartProgress(env, mode, "copying", func() core.Reading {
		return core.Reading{Bytes: p.Bytes.Load(), BytesDone: p.Done.Load(), Stored: p.Sent.Load()}
	})
}

// open opens both repositories. Only the source is read from.
func (o *copyOptions) open(ctx context.Context, env *core.Env, s *core.Settings) (src, dst *open.Repository, err error) {
	if o.from != "" && o.Repo != "" {
		return nil, nil, core.Usage("--from and --repo both name the repository to copy from: pass one of them")
	}
	if o.to == "" {
		return nil, nil, core.Usage("pass --to: the repository to copy to; `slipcover init` makes one")
	}
	if o.last < 0 {
		return nil, nil, core.Usage("--last takes a number above 0")
	}
	from := s
	if o.from != "" {
		place, err := core.RepositoryURL(o.from)
		if err != nil {
			return nil, nil, err
		}
		from = s.At(place)
	}
	to, err := core.RepositoryURL(o.to)
	if err != nil {
		return nil, nil, err
	}
	if src, err = open.Repo(ctx, env, from, false); err != nil {
		return nil, nil, err
	}
	other := s.At(to)
	other.Identities, other.Passphrase = nil, ""
	if dst, err = open.Repo(ctx, env, other, false); err != nil {
		src.Close()
		return nil, nil, err
	}
	if src.Config().ID == dst.Config().ID { // there may be nothing to copy, which Copy would tell it by
		src.Close()
		dst.Close()
		return nil, nil, core.Usage("%s: %s", repo.ErrSame, dst.URL())
	}
	return src, dst, nil
}

// choose returns the backups to copy, oldest first, and how many others are in dst.
func (o *copyOptions) choose(
	ctx context.Context, src, dst *repo.Repo, refs []string,
) (todo []backup.ToCopy, already int, err error) {
	if len(refs) > 0 {
		for _, ref := range refs {
			rec, err := src.Find(ctx, o.Instance, ref)
			if err != nil {
				return nil, 0, err
			}
			if !slices.ContainsFunc(todo, func(b backup.ToCopy) bool { return b.ID == rec.ID }) {
				todo = append(todo, backup.ToCopy{Instance: rec.Instance, ID: rec.ID, Record: rec})
			}
		}
		newest.Sort(todo, func(b backup.ToCopy) newest.Backup { return repo.OrderOf(b.Record) })
		return todo, 0, nil
	}
	recs, bad, err := src.List(ctx, o.Instance)
	if err != nil {
		return nil, 0, err
	}
	if o.Instance != "" && len(recs)+len(bad) == 0 {
		return nil, 0, core.Say(core.ErrMissing, "there is no backup of instance %s in %s", o.Instance, src.URL())
	}
	has, _, err := dst.List(ctx, o.Instance)
	if err != nil {
		return nil, 0, err
	}
	there := map[manifest.BackupID]bool{}
	for _, rec := range has {
		there[rec.ID] = true
	}
	for _, rec := range lastOf(recs, o.last) {
		if there[rec.ID] {
			already++
			continue
		}
		todo = append(todo, backup.ToCopy{Instance: rec.Instance, ID: rec.ID, Record: rec})
	}
	for _, b := range bad {
		if o.last == 0 {
			todo = append(todo, backup.ToCopy{Instance: b.Instance, ID: b.ID, Err: b.Err})
		}
	}
	return todo, already, nil
}

// lastOf returns the newest n of each instance, all for 0, in the order of recs.
func lastOf(recs []*manifest.Record, n int) []*manifest.Record {
	if n == 0 {
		return recs
	}
	left := map[string]int{}
	var out []*manifest.Record
	for _, rec := range slices.Backward(recs) {
		if left[rec.Instance]++; left[rec.Instance] <= n {
			out = append(out, rec)
		}
	}
	slices.Reverse(out)
	return out
}

// explainCopy says what to do where that takes this program's flags.
func explainCopy(err error) error {
	switch {
	case errors.Is(err, repo.ErrMixed), errors.Is(err, repo.ErrSame), errors.Is(err, repo.ErrDirect):
		return core.Say(core.ErrUsage, "%s", err)
	case errors.Is(err, repo.ErrRecipients):
		return fmt.Errorf("%w; `slipcover copy --recipient` names them", err)
	}
	return err
}

// copyResult is what copy tells.
type copyResult struct {
	From    string       `json:"from"`
	To      string       `json:"to"`
	Backups []copiedJSON `json:"backups"`
	Already int          `json:"already"` // backups that were there
	// Shipped is what was copied of moments between backups, of instances that have any.
	Shipped []shippedJSON `json:"shipped,omitempty"`
}

// shippedJSON is what was copied of what was shipped of an instance.
type shippedJSON struct {
	Instance string `json:"instance"`
	repo.CopyShippedResult
	Error string `json:"error,omitempty"`
}

// tells reports whether there is anything to say.
func (s *shippedJSON) tells() bool {
	return s.Sent+s.There+s.Left > 0 || s.UpTo != nil || s.Error != ""
}

func (s *shippedJSON) text() string {
	text := ""
	switch {
	case s.Sent > 0:
		text = fmt.Sprintf("copied what was shipped of %s: %s sent, %s", s.Instance, core.Count(s.Sent, "object"), core.Size(s.SentBytes))
	case s.Error != "":
		text = fmt.Sprintf("what was shipped of %s was not copied", s.Instance)
	default:
		text = fmt.Sprintf("of what was shipped of %s nothing new is ready to be copied", s.Instance)
	}
	if s.UpTo != nil {
		text += "; moments up to " + s.UpTo.Format(time.RFC3339)
	}
	if s.Left > 0 {
		text += fmt.Sprintf("; to follow within an hour or two, when rolled up: %s", core.Count(s.Left, "object"))
	}
	return text
}

// copiedJSON is one backup that was copied, or could not be.
type copiedJSON struct {
	Instance string            `json:"instance"`
	ID       manifest.BackupID `json:"id"`
	Name     string            `json:"name"`
	repo.CopyResult
	Error string `json:"error,omitempty"`
}

func copiesJSON(list []backup.Copied) []copiedJSON {
	out := []copiedJSON{}
	for _, c := range list {
		j := copiedJSON{Instance: c.Instance, ID: c.ID, Name: c.Name, CopyResult: c.CopyResult}
		if c.Err != nil {
			j.Error = core.Mask(core.OneLine(c.Err.Error()))
		}
		out = append(out, j)
	}
	return out
}

func (c *copiedJSON) text() string {
	if c.Error != "" {
		return fmt.Sprintf("%s (%s) was not copied", c.ID, core.Clean(c.Name))
	}
	text := fmt.Sprintf("copied %s (%s): %s sent, %s", c.ID, core.Clean(c.Name), core.Count(c.Sent, "object"),
		core.Size(c.SentBytes))
	if c.There > 0 {
		text += fmt.Sprintf("; %s, %s, there already", core.Count(c.There, "object"), core.Size(c.ThereBytes))
	}
	return text
}

func (r *copyResult) print(env *core.Env) error {
	env.Done("the copies were made")
	if env.JSON {
		return core.PrintJSON(env.Stdout, r)
	}
	return r.printText(env.Stdout)
}

func (r *copyResult) printText(w io.Writer) error {
	for i := range r.Backups {
		fmt.Fprintln(w, r.Backups[i].text())
	}
	for i := range r.Shipped {
		fmt.Fprintln(w, core.Clean(r.Shipped[i].text()))
		for _, p := range r.Shipped[i].Problems {
			fmt.Fprintf(w, "problem: %s\n", core.Clean(p))
		}
	}
	var err error
	switch {
	case len(r.Backups) == 0 && r.Already == 0:
		_, err = fmt.Fprintf(w, "there is no backup in %s\n", r.From)
	case r.Already > 0:
		_, err = fmt.Fprintf(w, "%s of %s in %s already\n", core.Count(r.Already, "backup"), r.From, r.To)
	}
	return err
}
