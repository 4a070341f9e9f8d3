package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/repo"
)

// Copier copies backups to another repository.
type Copier struct {
	From, To   *repo.Repo
	StateDir   string   // as that of Options; if it is the node's own, its next incremental builds on the copies
	Recipients []string // as those of Options
	Copy       repo.CopyOptions

	// What was done, of all calls together.
	Done    []Copied // those that were sent, or could not be
	Already int      // how many more were there
	Notes   []string
}

// ToCopy is a backup to be copied; Err says that its record can't be used.
type ToCopy struct {
	Instance string
	ID       manifest.BackupID
	Record   *manifest.Record
	Err      error
}

// Copied is what came of a backup to be copied.
type Copied struct {
	Instance string
	ID       manifest.BackupID
	Name     string
	repo.CopyResult
	Err error
}

// All copies backups. What is wrong with one doesn't stop the next, since each restores
// alone; what is wrong with a repository does.
func (c *Copier) All(ctx context.Context, list []ToCopy) error {
	var first error
	failed := 0
	for _, b := range list {
		err := c.one(ctx, b)
		switch {
		case err == nil:
			continue
		case !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrSignature) && !errors.Is(err, repo.ErrFormat) && !errors.Is(err, repo.ErrNoBackup):
			return err
		}
		if failed++; first == nil {
			first = err
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d backups were not copied, the first for this reason: %w", failed, first)
	}
	return first
}

// Newer copies the backups of an instance that were made after the newest that is
// in To, and in any case the one of id must. What is older and not there, the retention
// of To may have removed.
func (c *Copier) Newer(ctx context.Context, instance string, must manifest.BackupID) error {
	there, err := c.To.IDs(ctx, instance)
	if err != nil {
		return err
	}
	var todo []ToCopy
	if len(there) > 0 {
		if todo, err = c.behind(ctx, instance, there); err != nil {
			return err
		}
	}
	// To may be empty, and the locks and the listing late or of other hands.
	if must != "" && !slices.ContainsFunc(todo, func(b ToCopy) bool { return b.ID == must }) {
		rec, err := c.From.Record(ctx, instance, must)
		todo = append(todo, ToCopy{instance, must, rec, err})
	}
	return c.All(ctx, todo)
}

// behind returns the backups in From that were made after the newest in To, oldest first.
func (c *Copier) behind(ctx context.Context, instance string, there []manifest.BackupID) ([]ToCopy, error) {
	has := func(id manifest.BackupID) bool { return slices.Contains(there, id) }
	recs, ok, err := c.From.MadeSince(ctx, instance, has)
	if err != nil {
		return nil, err
	}
	if !ok {
		if recs, err = c.allSince(ctx, instance, has); err != nil {
			return nil, err
		}
	}
	var todo []ToCopy
	for _, rec := range recs {
		todo = append(todo, ToCopy{instance, rec.ID, rec, nil})
	}
	return todo, nil
}

// allSince is From.MadeSince by the records of both repositories.
func (c *Copier) allSince(ctx context.Context, instance string, has func(manifest.BackupID) bool) ([]*manifest.Record, error) {
	theirs, _, err := c.To.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	ours, _, err := c.From.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(theirs, slices.DeleteFunc(ours, func(rec *manifest.Record) bool { return has(rec.ID) }))
	newest.Sort(all, repo.OrderOf)
	last := len(all) - 1
	for last >= 0 && !has(all[last].ID) {
		last--
	}
	return all[last+1:], nil
}

func (c *Copier) one(ctx context.Context, b ToCopy) error {
	out := Copied{Instance: b.Instance, ID: b.ID, Err: b.Err}
	if out.Err == nil {
		out.Name = b.Record.Name
		out.CopyResult, out.Err = repo.Copy(ctx, c.To, c.From, b.Record, c.Copy)
	}
	if out.Err != nil {
		c.Done = append(c.Done, out)
		return fmt.Errorf("backup %s was not copied: %w", b.ID, out.Err)
	}
	if out.Already {
		c.Already++
	} else {
		c.Done = append(c.Done, out)
	}
	err := Adopt(ctx, AdoptOptions{StateDir: c.StateDir, From: c.From, To: c.To, Record: b.Record, Recipients: c.Recipients})
	if err != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("backup %s was copied, but this node's next backup in %s will be larger than it need be: %v", b.ID, c.To.URL(), err))
	}
	return nil
}
