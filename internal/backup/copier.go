package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/slipcover/slipcover/internal/manifest"
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
	ids := []manifest.BackupID{must}
	if len(there) > 0 || must == "" {
		if ids, err = c.From.IDs(ctx, instance); err != nil {
			return err
		}
		if must != "" && !slices.Contains(ids, must) { // the listing is late
			ids = append(ids, must)
		}
	}
	var todo []ToCopy
	for _, id := range ids {
		if id != must && (len(there) == 0 || id <= there[len(there)-1]) {
			continue
		}
		rec, err := c.From.Record(ctx, instance, id)
		if errors.Is(err, repo.ErrNoBackup) && id != must { // deleted since it was listed
			continue
		}
		todo = append(todo, ToCopy{instance, id, rec, err})
	}
	return c.All(ctx, todo)
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
