package open

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// When names a moment on the command line.
type When struct {
	At           string
	AtSeq        []string
	BeforeChange string
	Zone         string
}

// Flags adds the flags.
func (w *When) Flags(f *pflag.FlagSet) {
	f.StringVar(&w.At, "at", "", "the state at that `TIME`, out of what was shipped: 2026-11-22T10:32:00Z, \"2026-11-22 10:32\", \"yesterday 18:00\", \"90m ago\"")
	f.StringArrayVar(&w.AtSeq, "at-seq", nil, "the newest state in which a database has no later sequence: `DB=SEQ` with the one that CouchDB shows, or DB/RANGE=N, a number of one shard; may be repeated")
	f.StringVar(&w.BeforeChange, "before-change", "", "the state before the last change of a document, its deletion too: `DB/DOC`")
	f.StringVar(&w.Zone, "zone", "", "time `ZONE` of --at, such as Europe/Berlin, where it names none (default: this machine's)")
}

// ClusterFlags adds those of a moment of each node of a cluster.
func (w *When) ClusterFlags(f *pflag.FlagSet) {
	f.StringVar(&w.At, "at", "", "the newest moment of each node up to this `TIME`, out of what was shipped, in the place of its newest backup: such as now, or \"yesterday 18:00\"")
	f.StringVar(&w.Zone, "zone", "", "time `ZONE` of --at, such as Europe/Berlin, where it names none (default: this machine's)")
}

// Given reports whether a moment is named.
func (w *When) Given() bool { return w.At != "" || len(w.AtSeq) > 0 || w.BeforeChange != "" }

// Database is the one whose commits are named, "" if none are.
func (w *When) Database() string {
	c, err := w.commit()
	if err != nil || c == nil {
		return ""
	}
	return c.DB
}

// Time returns the time that At names; a zero time is that of the newest moment.
func (w *When) Time(now time.Time) (time.Time, error) {
	zone, err := Zone(w.Zone)
	if err != nil {
		return time.Time{}, err
	}
	if w.At == "" || strings.TrimSpace(w.At) == "now" { // whatever the clocks say
		return time.Time{}, nil
	}
	t, err := calendar.ParseWhen(w.At, now, zone)
	if err != nil {
		return t, core.Usage("--at: %v", err)
	}
	return t, nil
}

// Zone returns the time zone of a name; "" is this machine's.
func Zone(name string) (*time.Location, error) {
	if name == "" {
		return time.Local, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, core.Usage("--zone %s: %v", name, err)
	}
	return zone, nil
}

// Moment opens the repository and finds the moment that is named.
func Moment(ctx context.Context, env *core.Env, s *core.Settings, instance string, w *When) (*Repository, *manifest.Manifest, *repo.Moment, error) {
	at, err := w.Time(env.Now())
	if err != nil {
		return nil, nil, nil, err
	}
	commit, err := w.commit()
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := Repo(ctx, env, s, true)
	if err != nil {
		return nil, nil, nil, err
	}
	m, moment, err := momentIn(ctx, r, instance, at, commit)
	if err != nil {
		r.Close()
		return nil, nil, nil, err
	}
	return r, m, moment, nil
}

// OneInstance returns the instance that is named, or the only one of the repository for "".
func OneInstance(ctx context.Context, r *Repository, instance string) (string, error) {
	if instance != "" {
		return instance, nil
	}
	names, err := r.Instances(ctx)
	if err != nil {
		return "", err
	}
	if len(names) != 1 {
		return "", fmt.Errorf("%w: moments are of one instance; pass --instance with one of: %s", repo.ErrAmbiguous, strings.Join(names, ", "))
	}
	return names[0], nil
}

func momentIn(ctx context.Context, r *Repository, instance string, at time.Time, commit *repo.Commit) (*manifest.Manifest, *repo.Moment, error) {
	instance, err := OneInstance(ctx, r, instance)
	if err != nil {
		return nil, nil, err
	}
	if err := r.Unlock(ctx); err != nil {
		return nil, nil, err
	}
	if commit != nil {
		return r.AtCommit(ctx, instance, at, *commit)
	}
	return r.At(ctx, instance, at)
}

// State reads the manifest of a backup, or of a moment, out of a repository that is open: text is a time, or names a backup.
// It says which one that is.
func State(ctx context.Context, r *Repository, instance, text string, now time.Time, zone *time.Location) (*manifest.Manifest, string, error) {
	at, err := calendar.ParseWhen(text, now, zone)
	if err == nil {
		if text == "now" { // whatever the clocks say
			at = time.Time{}
		}
		m, moment, err := momentIn(ctx, r, instance, at, nil)
		if err != nil {
			return nil, "", err
		}
		return m, MomentText(moment.At, zone), nil
	}
	rec, err := r.Find(ctx, instance, text)
	if err == nil {
		err = r.Unlock(ctx)
	}
	if err != nil {
		return nil, "", err
	}
	m, err := r.Manifest(ctx, rec)
	return m, backupText(rec), err
}
