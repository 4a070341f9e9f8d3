package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/retention"
)

type pruneOptions struct {
	open.Options
	dryRun bool
	forget []string
}

func newPrune(env *core.Env, g *core.Global) *cobra.Command {
	o := &pruneOptions{}
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove backups that no retention rule keeps, and what nothing needs",
		Long: `Remove the backups that no keep_ rule keeps, for each instance by itself, and the stored objects that no backup needs. A
backup stays if any rule keeps it. The newest one, the newest verified one and pinned ones always stay. Backups of several
CouchDBs under one name are counted separately. Without any rule all backups stay, and only what interrupted runs left behind
is removed.

  slipcover prune --repo /backups --keep-daily 7 --keep-monthly 12 --dry-run

--dry-run shows what would be done, with the reason for each backup.`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runPrune(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Place(f)
	f.StringVar(&o.Instance, "instance", "", "`NAME` of the CouchDB node whose backups to prune (default: all)")
	f.StringArrayVar(&o.forget, "forget", nil, "remove what is stored of the backup with this `ID`, whose record vanished; may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be removed and why the rest stays, and change nothing")
	f.String("keep-last", "", "keep the newest `N`")
	f.String("keep-hourly", "", "keep the newest of each of the last `N` hours that have a backup")
	f.String("keep-daily", "", "the same for `N` days")
	f.String("keep-weekly", "", "the same for `N` weeks")
	f.String("keep-monthly", "", "the same for `N` months")
	f.String("keep-yearly", "", "the same for `N` years")
	f.String("keep-within", "", "keep all within this `TIME`, such as 30d, before the newest")
	f.String("keep-minimum", "", "never leave less than `N`")
	f.String("keep-moments", "", "keep what was shipped within this `SPAN` before the newest moment, and the backups that it rests on: 36h, 14d, 2w, 3m (months) or 1y")
	return c
}

type pruneResult struct {
	DryRun    bool              `json:"dry_run"`
	Instances []pruneInstance   `json:"instances"`
	Storage   *core.TrafficJSON `json:"storage"`
}

type pruneInstance struct {
	Instance string         `json:"instance"`
	Backups  []decisionJSON `json:"backups"`
	Freed    repo.Freed     `json:"freed"`
}

// decisionJSON says of one backup whether it stays.
type decisionJSON struct {
	ID      manifest.BackupID `json:"id"`
	Name    string            `json:"name"`
	Started time.Time         `json:"started"`
	Keep    bool              `json:"keep"`
	Reasons []string          `json:"reasons"`
	// Incomplete says what isn't stored any more of what restoring it needs; empty if all is.
	Incomplete string `json:"incomplete,omitempty"`
}

func runPrune(ctx context.Context, env *core.Env, s *core.Settings, o *pruneOptions) error {
	policy := retention.Policy{
		KeepLast: s.KeepLast, KeepHourly: s.KeepHourly, KeepDaily: s.KeepDaily, KeepWeekly: s.KeepWeekly, KeepMonthly: s.KeepMonthly,
		KeepYearly: s.KeepYearly, KeepWithin: s.KeepWithin, Minimum: s.KeepMinimum, Location: s.RetentionTimeZone.Location,
	}
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	instances, err := r.Instances(ctx)
	if err != nil {
		return err
	}
	if o.Instance != "" {
		if !slices.Contains(instances, o.Instance) {
			return core.Say(core.ErrMissing, "there is nothing of instance %s in %s; it has %s", o.Instance, r.URL(),
				listed(instances))
		}
		instances = []string{o.Instance}
	}
	out := pruneResult{DryRun: o.dryRun, Instances: []pruneInstance{}}
	forget, err := o.toForget()
	if err != nil {
		return err
	}
	var failed []error // of one instance, which is no reason to leave the others
	for _, instance := range instances {
		p, err := pruneOne(ctx, env, r.Repo, policy, s.KeepMoments, instance, forget, o.dryRun)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("prune %s: %w", instance, err))
			continue
		}
		out.Instances = append(out.Instances, *p)
	}
	out.Storage = env.TrafficJSON()
	if len(failed) < len(instances) || len(instances) == 0 {
		failed = append(failed, out.print(env))
	}
	return errors.Join(append(failed, out.lost(forget))...)
}

// toForget checks the ids of --forget.
func (o *pruneOptions) toForget() ([]manifest.BackupID, error) {
	var out []manifest.BackupID
	for _, s := range o.forget {
		id := manifest.BackupID(s)
		if !id.Valid() {
			return nil, core.Usage("--forget %q is not the id of a backup", s)
		}
		out = append(out, id)
	}
	return out, nil
}

// lost is the error of a prune that found backups without a record or without what
// restoring them needs, or not what was to be forgotten.
func (p *pruneResult) lost(forget []manifest.BackupID) error {
	n, incomplete := 0, 0
	for _, i := range p.Instances {
		n += len(i.Freed.Lost)
		for _, b := range i.Backups {
			if b.Incomplete != "" {
				incomplete++
			}
		}
		forget = slices.DeleteFunc(slices.Clone(forget),
			func(id manifest.BackupID) bool { return slices.Contains(i.Freed.Forgotten, id) })
	}
	switch {
	case len(forget) > 0:
		return core.Say(core.ErrMissing, "%s is no backup whose record vanished; `slipcover check` names those", forget[0])
	case n > 0:
		return core.Say(core.ErrProblem, "the record of %s vanished, and what is stored of it was left",
			core.Count(n, "backup"))
	case incomplete > 0:
		return core.Say(core.ErrProblem, "not all is stored any more that restoring %s needs; `slipcover check` says more", core.Count(incomplete, "backup"))
	}
	return nil
}

// listed joins names for a message.
func listed(names []string) string {
	if len(names) == 0 {
		return "no instance"
	}
	return strings.Join(names, ", ")
}

// pruneOne prunes one instance.
func pruneOne(
	ctx context.Context, env *core.Env, r *repo.Repo, policy retention.Policy, moments calendar.Span, instance string,
	forget []manifest.BackupID, dryRun bool,
) (*pruneInstance, error) {
	now := env.Now()
	keep := moments.After(now).Sub(now)
	if dryRun {
		p, remove, err := decide(ctx, r, policy, keep, instance, now)
		if err != nil {
			return nil, err
		}
		p.Freed, err = r.WouldPrune(ctx, instance, repo.PruneOptions{Remove: remove, Forget: forget, KeepMoments: keep, Now: now})
		return p, err
	}
	var p *pruneInstance
	err := withLock(ctx, r, instance, "prune", func(lock *repo.Lock) error {
		stored, err := lock.StorageTime(ctx)
		if err != nil {
			return err
		}
		if d := now.Sub(stored).Abs(); d > time.Hour {
			fmt.Fprintf(env.Stderr, "slipcover: warning: this machine's clock and the storage's differ by %s; retention goes by the earlier of the two\n", d.Round(time.Minute))
		}
		// Storages tell whole seconds: without the one that may be cut off, a backup made
		// just now would be in the future.
		if stored = stored.Add(time.Second); stored.Before(now) {
			now = stored
		}
		var remove []manifest.BackupID
		if p, remove, err = decide(ctx, r, policy, keep, instance, now); err != nil {
			return err
		}
		p.Freed, err = r.Prune(ctx, lock, repo.PruneOptions{Remove: remove, Forget: forget, KeepMoments: keep, Now: now})
		return err
	})
	return p, err
}

// withLock does something under an instance's lock, for the purpose that others are
// told.
func withLock(ctx context.Context, r *repo.Repo, instance, purpose string, do func(*repo.Lock) error) error {
	lock, err := r.Lock(ctx, instance, purpose, "")
	if err != nil {
		return err
	}
	err = do(lock)
	if rerr := lock.End(ctx); err == nil {
		err = rerr
	}
	return err
}

// decide asks the policy about the backups of an instance.
func decide(
	ctx context.Context, r *repo.Repo, policy retention.Policy, keep time.Duration, instance string, now time.Time,
) (*pruneInstance, []manifest.BackupID, error) {
	recs, bad, err := r.List(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	if len(bad) > 0 {
		return nil, nil, fmt.Errorf("nothing is deleted beside a backup that can't be read, %s: %w", bad[0].ID, bad[0].Err)
	}
	marks, err := r.Marks(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	incomplete, err := r.Incomplete(ctx, instance, recs)
	if err != nil {
		return nil, nil, err
	}
	bases, err := r.MomentBases(ctx, instance, keep, now)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]*manifest.Record{}
	var backups []retention.Backup
	for i, rec := range recs { // in the order that they were made in
		m := marks[rec.ID]
		b := retention.Backup{ID: string(rec.ID), Time: rec.Started, Order: i + 1, Full: rec.Type == manifest.Full,
			Damaged: rec.Status == manifest.CompletedDamaged, Incomplete: incomplete[rec.ID] != "",
			Pinned: m.Pin != nil, Verified: m.Verified != nil, Node: rec.Node(), Maker: rec.Writer + " " + rec.NodeName, Databases: rec.DatabaseCount}
		if m.Pin != nil {
			b.PinReason = m.Pin.Reason
		} else if bases[rec.ID] {
			b.Pinned, b.PinReason = true, "shipped moments rest on it"
		}
		if rec.RetainUntil != nil {
			b.RetainUntil = *rec.RetainUntil
		}
		byID[b.ID] = rec
		backups = append(backups, b)
	}
	decisions, err := retention.Decide(policy, backups, now)
	if err != nil {
		return nil, nil, err
	}
	out := &pruneInstance{Instance: instance, Backups: []decisionJSON{}}
	var remove []manifest.BackupID
	for _, d := range decisions {
		rec := byID[d.ID]
		out.Backups = append(out.Backups, decisionJSON{rec.ID, rec.Name, rec.Started, d.Keep, d.Reasons,
			incomplete[rec.ID]})
		if !d.Keep {
			remove = append(remove, rec.ID)
		}
	}
	return out, remove, nil
}

func (p *pruneResult) print(env *core.Env) error {
	if !p.DryRun {
		env.Done("it was pruned")
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, p)
	}
	if len(p.Instances) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "there is nothing to prune")
		return err
	}
	for _, i := range p.Instances {
		if err := i.print(env.Stdout, p.DryRun); err != nil {
			return err
		}
	}
	return nil
}

func (i *pruneInstance) print(w io.Writer, dryRun bool) error {
	removed, removes := "removed", "remove"
	if !dryRun {
		removes = removed
	}
	var rows [][]string
	for _, b := range i.Backups {
		what := "keep"
		if !b.Keep {
			what = removes
		}
		rows = append(rows, []string{string(b.ID), core.Clean(b.Name), core.When(b.Started), what,
			core.Clean(strings.Join(b.Reasons, "; "))})
	}
	fmt.Fprintf(w, "instance %s\n", i.Instance)
	if len(rows) > 0 {
		if err := core.Table(w, []string{"ID", "NAME", "STARTED (UTC)", "", "WHY"}, rows); err != nil {
			return err
		}
	}
	if dryRun {
		removed = "would be removed"
	}
	text := fmt.Sprintf("%s and %s of data in %s %s", core.Count(i.Freed.Backups, "backup"), core.Size(i.Freed.Bytes),
		core.Count(i.Freed.Segments, "object"), removed)
	if i.Freed.Unreferenced > 0 {
		text += fmt.Sprintf(", %d of them left by runs that did not end", i.Freed.Unreferenced)
	}
	if i.Freed.Shipped > 0 {
		text += fmt.Sprintf("; %s (%s) of moments that are kept no longer", core.Count(i.Freed.Shipped, "object"), core.Size(i.Freed.ShippedBytes))
	}
	if i.Freed.Kept > 0 {
		text += fmt.Sprintf("; %s of removed backups stay for others", core.Count(i.Freed.Kept, "object"))
	}
	if i.Freed.Protected > 0 {
		text += fmt.Sprintf("; the storage protects %s until later", core.Count(i.Freed.Protected, "object"))
	}
	fmt.Fprintln(w, text)
	for _, b := range i.Backups {
		if b.Incomplete != "" {
			fmt.Fprintf(w, "problem: %s can't be restored, or not all of it, and counts as damaged: %s\n", b.ID,
				b.Incomplete)
		}
	}
	for _, id := range i.Freed.Lost {
		fmt.Fprintf(w, "problem: the record of %s vanished, so what is stored of it stays; `slipcover check` says more, --forget %s lets it go\n", id, id)
	}
	return nil
}
