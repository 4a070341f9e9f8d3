package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// places are the setting repository and those of repositories, in their order.
type places struct {
	settings *core.Settings
	list     []*open.Place
	used     *open.Place // where the backup was made
	notes    []string
	progress repo.CopyProgress
}

// openPlaces opens the repositories of a node. Those that can't be opened don't
// stop a backup, as long as there is another one; but what is wrong with the first
// one, other than that it can't be reached, does.
func openPlaces(ctx context.Context, env *core.Env, s *core.Settings) (*places, error) {
	p := &places{settings: s}
	seen := map[string]bool{}
	for i, url := range append([]string{s.Repository}, s.Repositories...) {
		if url != "" {
			var err error
			if url, err = core.RepositoryURL(url); err != nil {
				p.close()
				return nil, err
			}
		}
		q := open.PlaceOf(ctx, env, s.At(url), seen)
		if q == nil {
			continue
		}
		if q.Err != nil && (ctx.Err() != nil || i == 0 && (len(s.Repositories) == 0 || !errors.Is(q.Err, storage.ErrUnavailable))) {
			p.close()
			return nil, q.Err
		}
		p.list = append(p.list, q)
	}
	for _, q := range p.list {
		if q.Err == nil {
			return p, nil
		}
	}
	return nil, p.list[0].Err
}

func (p *places) close() {
	for _, q := range p.list {
		q.Close()
	}
}

// others returns the repositories beside q that can be used.
func (p *places) others(q *open.Place) []*open.Place {
	var out []*open.Place
	for _, o := range p.list {
		if o != q && o.Err == nil {
			out = append(out, o)
		}
	}
	return out
}

// nameInstance gives the instance the name that the backups of this CouchDB have, if
// none is set.
func (p *places) nameInstance(ctx context.Context, n *node.Node) error {
	s := p.settings
	if s.Origin("instance") != "host name" {
		return nil
	}
	for _, q := range p.list {
		if q.Err != nil {
			continue
		}
		name, why, err := backup.DefaultInstance(ctx, q.Repo, s.StateDir, n, s.Instance)
		if err != nil {
			return err
		}
		if s.Instance = name; why != "" {
			p.notes = append(p.notes, fmt.Sprintf("the instance is named %s: %s. Set instance to keep it", name, why))
		}
		return nil
	}
	return nil
}

// backup makes a backup in the first repository that can be reached.
func (p *places) backup(ctx context.Context, opts backup.Options) (*backup.Result, error) {
	var first error
	for _, q := range p.list {
		if q.Err != nil {
			continue
		}
		p.catchUp(ctx, q)
		opts.Repo, opts.Copies = q.Repo, nil
		for _, o := range p.others(q) {
			opts.Copies = append(opts.Copies, o.Repo)
		}
		res, err := backup.Run(ctx, opts)
		if err == nil {
			p.used = q
			res.Notes = append(res.Notes, p.notes...)
			return res, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil || !errors.Is(err, storage.ErrUnavailable) {
			return nil, err
		}
		q.Err = err
	}
	return nil, first
}

// catchUp copies to q what was backed up elsewhere while q was away, so that the
// new backup builds on it. That it can't is no reason to make no backup.
func (p *places) catchUp(ctx context.Context, q *open.Place) {
	for _, o := range p.others(q) {
		if _, err := p.copyNewer(ctx, o, q, ""); err != nil {
			p.notes = append(p.notes, fmt.Sprintf("%s has backups that %s lacks: %s", o.URL, q.URL,
				core.OneLine(err.Error())))
		}
	}
}

// copyNewer copies what to lacks, see Copier.Newer.
func (p *places) copyNewer(ctx context.Context, from, to *open.Place, must manifest.BackupID) ([]copiedJSON, error) {
	s := p.settings
	c := &backup.Copier{From: from.Repo, To: to.Repo, StateDir: s.StateDir, Recipients: s.Recipients,
		Copy: repo.CopyOptions{Readers: s.Recipients, Progress: &p.progress}}
	err := explainCopy(c.Newer(ctx, s.Instance, must))
	p.notes = append(p.notes, c.Notes...)
	return copiesJSON(c.Done), err
}

// copy copies a backup that was made to all other repositories, tells about it in
// out, and returns an error that says where the backup is missing.
func (p *places) copy(ctx context.Context, env *core.Env, res *backup.Result, out *backupResult) error {
	if len(p.list) == 1 {
		return nil
	}
	out.Repository = p.used.URL
	p.notes = nil
	stop := showCopying(env, p.settings.Progress, &p.progress)
	defer stop()
	var missing []string
	var kind error
	for _, q := range p.list {
		if q == p.used {
			continue
		}
		c := copyJSON{Repository: q.URL, Copied: []copiedJSON{}}
		err := q.Err
		if err == nil {
			c.Copied, err = p.copyNewer(ctx, p.used, q, res.Record.ID)
		}
		if c.Copied = core.NonNil(c.Copied); err != nil {
			c.Error = core.Mask(core.OneLine(err.Error()))
			missing = append(missing, fmt.Sprintf("%s lacks it (%s)", q.URL, c.Error))
			if kind == nil {
				kind = err
			}
		}
		if c.Complete = err == nil; c.Complete {
			if err = p.copyShipped(ctx, q, &c); err != nil {
				missing = append(missing, fmt.Sprintf("%s lacks what was shipped before it (%s)", q.URL, c.Error))
				kind = cmp.Or(kind, err)
			}
		}
		out.Copies = append(out.Copies, c)
	}
	out.Notes = append(out.Notes, p.notes...)
	var sig core.Interrupted
	switch {
	case kind == nil:
		return nil
	case errors.As(context.Cause(ctx), &sig):
		return fmt.Errorf("%w: the backup is complete in %s, and the next run copies it", sig, p.used.URL)
	}
	return core.Say(kind, "the backup is complete in %s, but %s; the next run tries again", p.used.URL,
		strings.Join(missing, ", "))
}

// copyShipped copies what was shipped to another repository, behind the newest that it has of it.
func (p *places) copyShipped(ctx context.Context, to *open.Place, c *copyJSON) error {
	s := p.settings
	j, err := copyShipped(ctx, to.Repo, p.used.Repo, s.Instance, repo.CopyShippedOptions{Readers: s.Recipients, Newer: true, Progress: &p.progress})
	if c.Error = j.Error; j.tells() {
		c.Shipped = &j
	}
	return err
}

// copyJSON is what backup create tells of a further repository.
type copyJSON struct {
	Repository string       `json:"repository"`
	Complete   bool         `json:"complete"` // it has the new backup, and all since its newest
	Copied     []copiedJSON `json:"copied"`
	Shipped    *shippedJSON `json:"shipped,omitempty"` // what was copied of moments between backups, if there are any
	Error      string       `json:"error,omitempty"`
}

func (c *copyJSON) fact() core.Fact {
	if !c.Complete {
		return core.Fact{"missing in", c.Repository}
	}
	var sent, there int
	var bytes int64
	for _, b := range c.Copied {
		sent += b.Sent
		there += b.There
		bytes += b.SentBytes
	}
	text := fmt.Sprintf("%s: %s, %s sent", c.Repository, core.Count(sent, "object"), core.Size(bytes))
	if len(c.Copied) > 1 {
		text += fmt.Sprintf(", for %s", core.Count(len(c.Copied), "backup"))
	}
	if there > 0 {
		text += fmt.Sprintf("; %d there already", there)
	}
	if c.Shipped != nil && c.Shipped.Sent > 0 {
		text += fmt.Sprintf("; %s, %s of what was shipped", core.Count(c.Shipped.Sent, "object"), core.Size(c.Shipped.SentBytes))
	}
	return core.Fact{"copied to", text}
}
