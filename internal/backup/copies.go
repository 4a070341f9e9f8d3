package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// shareKey stores a new key in the repositories that the backup will be copied to,
// as its secret is at hand only now. One that doesn't take it, and has other
// recipients, can have copies only from who can read.
func shareKey(ctx context.Context, opts *Options, key *repo.WriteKey) {
	for _, r := range opts.Copies {
		if !r.Config().Encrypted() { // nothing can be copied there
			continue
		}
		pin, err := acceptedPin(opts.StateDir, r, opts.Instance, opts.Recipients)
		if err == nil {
			_, err = r.AddKey(ctx, opts.Instance, key, repo.KeyOptions{Pin: pin, Recipients: opts.Recipients})
		}
		if err != nil {
			key.Notes = append(key.Notes, fmt.Sprintf("the new key of this instance could not be stored in %s: %v", r.URL(), err))
		}
	}
}

// AdoptOptions are the options of Adopt.
type AdoptOptions struct {
	StateDir   string
	From, To   *repo.Repo
	Record     *manifest.Record // of the backup, which both repositories have
	Recipients []string         // as those of Options
}

// Adopt makes a backup that was copied to another repository the one that this
// node's next incremental there builds on: it takes over the state, and the key that
// it was written with. It does nothing if the node's last backup in From is another
// one, or if it made a later one in To.
func Adopt(ctx context.Context, o AdoptOptions) error {
	rec := o.Record
	from, to := state.Dir(o.StateDir, o.From.Config().ID, rec.Instance), state.Dir(o.StateDir, o.To.Config().ID, rec.Instance)
	st, err := state.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer st.Close()
	if st.Summary().ID != rec.ID || !st.Of(o.From.Config().ID) {
		return nil
	}
	if old, err := state.Open(to); err == nil {
		old.Close()
		if newer, err := isNewer(ctx, o.To, old.Summary(), rec); err != nil || newer {
			return err
		}
	}
	if err := durable.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := adoptPin(ctx, o, from, to); err != nil {
		return err
	}
	if err := st.Copy(to, o.To.Config().ID); err != nil {
		return fmt.Errorf("store state: %w", err)
	}
	return nil
}

// isNewer reports whether a backup that the node made in r is that of rec, or newer. One
// that is gone from r is nothing to build on.
func isNewer(ctx context.Context, r *repo.Repo, made manifest.Summary, rec *manifest.Record) (bool, error) {
	if made.ID == rec.ID {
		return true, nil
	}
	old, err := r.Record(ctx, rec.Instance, made.ID)
	if errors.Is(err, repo.ErrNoBackup) {
		return false, nil
	}
	return err == nil && newest.After(repo.OrderOf(old), repo.OrderOf(rec)), err
}

// adoptPin pins the key of one repository for another. Whom the node accepts as
// recipients there doesn't change.
func adoptPin(ctx context.Context, o AdoptOptions, from, to string) error {
	used, err := state.ReadPin(from)
	if err != nil || used == nil || used.InstanceRecipient == "" {
		return err
	}
	old, err := acceptedPin(o.StateDir, o.To, o.Record.Instance, o.Recipients)
	if err != nil {
		return err
	}
	pin, err := o.To.PinKey(ctx, o.Record.Instance, used.InstanceRecipient)
	if err != nil {
		return err
	}
	pin.Earlier = used.Earlier
	if old != nil {
		pin.Recipients = old.Recipients
	}
	if old != nil && old.InstanceRecipient != pin.InstanceRecipient {
		if err := (&journal{dir: to}).remove(); err != nil { // as for a new key
			return err
		}
	}
	return writePin(to, pin)
}
