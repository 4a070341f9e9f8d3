package service

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

func newSchedule(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "schedule",
		Short: "Say when a server backs up instances, and how long it keeps the backups",
		Long: `Say when a server backs up instances, how long it keeps the backups, and when it tests that they restore.
A schedule is named by its id, or by its name if no other of the project has it.`,
	}
	core.AsGroup(c)
	c.AddCommand(newScheduleCreate(env, g), newScheduleList(env, g), newScheduleShow(env, g), newScheduleUpdate(env, g),
		newScheduleRetention(env, g), newScheduleFirings(env, g),
		newScheduleDelete(env, g), newScheduleRun(env, g))
	return c
}

// scheduleFlags are what a schedule can be told, as flags; those that are given are sent.
type scheduleFlags struct {
	text    map[string]*string // by key
	enabled bool
	catchUp bool
	keep    map[string]*int // by key in keep
	within  string
}

func (s *scheduleFlags) flags(f *pflag.FlagSet) {
	s.text, s.keep = map[string]*string{}, map[string]*int{}
	for _, t := range []struct{ key, what string }{
		{"name", "`NAME` of the schedule; its backups get it too"},
		{"cron", "when to back up: five `FIELDS` minute, hour, day of the month, month and day of the week, or @daily and the like"},
		{"time_zone", "`ZONE` of those times, such as Europe/Berlin (default: UTC)"},
		{"jitter", "begin up to this `TIME` later, such as 15m, so that not all nodes begin at once"},
		{"window", "`TIME` after which a backup that could not begin counts as missed, such as 2h (default: when the next one is due)"},
		{"prove_cron", "when to restore the newest backup as a test, `FIELDS` as for --cron (default: never)"},
		{"heartbeat", "`URL` to request after each success, and with /fail appended after each failure"},
	} {
		s.text[t.key] = f.String(flagOf(t.key), "", t.what)
	}
	f.BoolVar(&s.enabled, "enabled", true, "whether it fires; --enabled=false pauses it")
	f.BoolVar(&s.catchUp, "catch-up", false, "after downtime, make one backup for all that were missed")
	for _, key := range []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"} {
		s.keep[key] = f.Int("keep-"+key, 0, "retention of its backups, as the setting keep_"+key)
	}
	f.StringVar(&s.within, "keep-within", "", "retention, as the setting keep_within: all of the last `SPAN`, such as 30d")
}

func flagOf(key string) string { return strings.ReplaceAll(key, "_", "-") }

// given returns the fields whose flags were given, as the API takes them.
func (s *scheduleFlags) given(f *pflag.FlagSet) map[string]any {
	in, keep := map[string]any{}, map[string]any{}
	for key, value := range s.text {
		if f.Changed(flagOf(key)) {
			in[key] = *value
		}
	}
	for _, key := range []string{"jitter", "window"} {
		if in[key] == "" {
			in[key] = "0"
		}
	}
	if f.Changed("enabled") {
		in["enabled"] = s.enabled
	}
	if f.Changed("catch-up") {
		in["catch_up"] = s.catchUp
	}
	for key, n := range s.keep {
		if f.Changed("keep-" + key) {
			keep[key] = *n
		}
	}
	if f.Changed("keep-within") {
		keep["within"] = s.within
	}
	if len(keep) > 0 {
		in["keep"] = keep
	}
	return in
}

func newScheduleCreate(env *core.Env, g *core.Global) *cobra.Command {
	o, instance, cluster, project := &scheduleFlags{}, "", "", ""
	c := &cobra.Command{
		Use:   "create {--instance NAME | --cluster NAME} --name NAME --cron FIELDS",
		Short: "Back up an instance, or all nodes of a cluster at one moment, at given times",
		Long: `Back up an instance at given times, or with --cluster all nodes of a CouchDB cluster at one moment, as one set: retention
keeps or deletes sets as wholes, restore tests are of each backup of the newest set that is whole, and the heartbeat tells of
success when a set is whole.

Without any of the flags --keep-... all of the schedule's backups are kept. With them,
backups that no rule keeps are deleted after each backup, but never the newest, and never one that others were built on.`,
		Args: core.Arguments(0, 0, ""),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			in := o.given(cmd.Flags())
			if (instance == "") == (cluster == "") || in["name"] == nil || in["cron"] == nil {
				return core.Usage("schedule create needs --instance or --cluster, --name and --cron")
			}
			if cluster != "" {
				in["cluster"] = cluster
			} else {
				in["instance"] = instance
			}
			return c.changeSchedule(ctx, env, http.MethodPost, inProject("schedules", project), in, "was made")
		})(cmd, args)
	}
	f := c.Flags()
	f.StringVar(&instance, "instance", "", "`NAME` or id of the instance to back up")
	f.StringVar(&cluster, "cluster", "", "`NAME` of the cluster to back up; \"slipcover sets clusters\" lists them")
	o.flags(f)
	projectFlag(f, &project, "whose instance it is")
	serviceFlags(f)
	return c
}

func newScheduleUpdate(env *core.Env, g *core.Global) *cobra.Command {
	o, project := &scheduleFlags{}, ""
	c := &cobra.Command{
		Use:   "update SCHEDULE",
		Short: "Change parts of a schedule; the rest stays",
		Long:  `Change parts of a schedule; the rest stays. An empty text removes an optional part: --heartbeat "".`,
		Args:  core.Arguments(1, 1, "one SCHEDULE"),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			in := o.given(cmd.Flags())
			if len(in) == 0 {
				return core.Usage("nothing to change was given: pass a flag such as --cron or --keep-last")
			}
			id, err := c.findSchedule(ctx, args[0], project)
			if err != nil {
				return err
			}
			return c.changeSchedule(ctx, env, http.MethodPatch, inProject("schedules/"+id, project), in, "was changed")
		})(cmd, args)
	}
	o.flags(c.Flags())
	projectFlag(c.Flags(), &project, "whose schedule it is")
	serviceFlags(c.Flags())
	return c
}

// changeSchedule makes or changes a schedule and prints it.
func (c *serviceClient) changeSchedule(ctx context.Context, env *core.Env, method, path string, in any, verb string) error {
	return request(ctx, env, c, method, path, in,
		func(s *oneScheduleJSON) string { return fmt.Sprintf("schedule %s %s", s.Schedule.ID, verb) },
		func(s *oneScheduleJSON) error { return s.Schedule.print(env.Stdout) })
}

// findSchedule returns the id of a schedule by its id or its name.
func (c *serviceClient) findSchedule(ctx context.Context, ref, project string) (string, error) {
	if _, err := uuid.Parse(ref); err == nil {
		return url.PathEscape(ref), nil
	}
	var l scheduleListJSON
	if err := c.call(ctx, http.MethodGet, inProject("schedules", project), nil, &l); err != nil {
		return "", err
	}
	var found []string
	for _, s := range l.Schedules {
		if s.Name == ref {
			found = append(found, s.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", core.Say(core.ErrMissing, "there is no schedule %q; \"slipcover schedule list\" lists them", ref)
	case 1:
		return url.PathEscape(found[0]), nil
	}
	return "", core.Usage("%d schedules are called %q: name one by its id, such as %s", len(found), ref, found[0])
}

type scheduleJSON struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Project      string    `json:"project"`
	Instance     string    `json:"instance"`
	Cluster      string    `json:"cluster"`
	InstanceName string    `json:"instance_name"`
	Enabled      bool      `json:"enabled"`
	Cron         string    `json:"cron"`
	TimeZone     string    `json:"time_zone"`
	Jitter       string    `json:"jitter"`
	Window       string    `json:"window"`
	CatchUp      bool      `json:"catch_up"`
	Keep         job.Keep  `json:"keep"`
	ProveCron    string    `json:"prove_cron"`
	Heartbeat    string    `json:"heartbeat"`
	Next         time.Time `json:"next"`
	ProveNext    time.Time `json:"prove_next"`
	Last         struct {
		Due     time.Time `json:"due"`
		Backup  string    `json:"backup"`
		Set     string    `json:"set"`
		Outcome string    `json:"outcome"`
	} `json:"last"`
	Missed  int `json:"missed"`
	Skipped int `json:"skipped"`
}

type scheduleListJSON struct {
	Schedules []scheduleJSON `json:"schedules"`
}

type oneScheduleJSON struct {
	Schedule scheduleJSON `json:"schedule"`
}

// of says what it backs up.
func (s *scheduleJSON) of() string {
	if s.Cluster != "" {
		return "cluster " + s.Cluster
	}
	return cmp.Or(s.InstanceName, s.Instance)
}

// next says when it fires.
func (s *scheduleJSON) next() string {
	if !s.Enabled {
		return "paused"
	}
	return moment(s.Next)
}

// keep says what retention keeps: "7 last, 14 daily".
func (s *scheduleJSON) keep() string {
	var words []string
	k := s.Keep
	for _, r := range []struct {
		n    int
		what string
	}{{k.Last, "last"}, {k.Hourly, "hourly"}, {k.Daily, "daily"}, {k.Weekly, "weekly"}, {k.Monthly, "monthly"}, {k.Yearly, "yearly"}} {
		if r.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", r.n, r.what))
		}
	}
	if k.Within != "" && k.Within != "0" {
		words = append(words, "all within "+k.Within)
	}
	return cmp.Or(strings.Join(words, ", "), "all")
}

func (s *scheduleJSON) print(w io.Writer) error {
	last := ""
	if !s.Last.Due.IsZero() {
		last = core.When(s.Last.Due) + ", " + s.Last.Outcome
		if s.Last.Backup != "" {
			last += ", backup " + s.Last.Backup
		}
		if s.Last.Set != "" {
			last += ", set " + s.Last.Set
		}
	}
	unlessZero := func(text string) string { return strings.TrimPrefix(text+"", "0s") }
	yes := ""
	if s.CatchUp {
		yes = "yes"
	}
	prove := s.ProveCron
	if !s.ProveNext.IsZero() {
		prove += ", next at " + core.When(s.ProveNext)
	}
	return core.Facts(w, []core.Fact{
		{"schedule", s.ID}, {"name", s.Name}, {"project", s.Project}, {"instance", cmp.Or(s.InstanceName, s.Instance)}, {"cluster", s.Cluster},
		{"cron", s.Cron}, {"time zone", s.TimeZone},
		{"jitter", unlessZero(s.Jitter)}, {"window", unlessZero(s.Window)}, {"catch up", yes}, {"keeps", s.keep()},
		{"restore tests", prove},
		{"heartbeat", s.Heartbeat}, {"next (UTC)", s.next()}, {"last (UTC)", last}, {"missed", number(s.Missed)},
		{"skipped", number(s.Skipped)},
	})
}

// number is a count, or nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func newScheduleList(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "List the schedules, oldest first",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, inProject("schedules", project), func(l *scheduleListJSON) error {
				var rows [][]string
				for _, s := range l.Schedules {
					rows = append(rows, []string{s.ID, s.Name, s.of(), s.Cron, s.TimeZone,
						s.keep(), s.next(), s.Last.Outcome})
				}
				return core.Table(env.Stdout, []string{"ID", "NAME", "OF", "CRON", "ZONE", "KEEPS", "NEXT (UTC)",
					"LAST"}, rows)
			})
		}),
	}
	projectFlag(c.Flags(), &project, "whose schedules to list")
	serviceFlags(c.Flags())
	return c
}

// newScheduleAction is a command about one schedule.
func newScheduleAction(
	env *core.Env, g *core.Global, use, short string,
	run func(ctx context.Context, c *serviceClient, id, project string) error,
) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   use + " SCHEDULE",
		Short: short,
		Args:  core.Arguments(1, 1, "one SCHEDULE"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			id, err := c.findSchedule(ctx, args[0], project)
			if err != nil {
				return err
			}
			return run(ctx, c, id, project)
		}),
	}
	projectFlag(c.Flags(), &project, "whose schedule it is")
	serviceFlags(c.Flags())
	return c
}

func newScheduleShow(env *core.Env, g *core.Global) *cobra.Command {
	return newScheduleAction(env, g, "show", "Show a schedule, with when it fires next and how it went last", func(ctx context.Context, c *serviceClient, id, project string) error {
		return show(ctx, env, c, inProject("schedules/"+id, project), func(s *oneScheduleJSON) error {
			return s.Schedule.print(env.Stdout)
		})
	})
}

func newScheduleFirings(env *core.Env, g *core.Global) *cobra.Command {
	zone := ""
	c := &cobra.Command{
		Use:   "firings CRON",
		Short: "Show when a line of cron would fire next, before a schedule has it",
		Long: `Show the next five times at which a schedule would fire whose --cron, or --prove-cron, is CRON, such as "30 2 * * *" or @daily,
without --jitter. The server must accept it, so this checks a line, too.`,
		Args: core.Arguments(1, 1, "one line of CRON, in quotes"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			q := url.Values{"cron": {args[0]}}
			if zone != "" {
				q.Set("time_zone", zone)
			}
			type answer struct {
				Firings []time.Time `json:"firings"`
			}
			return show(ctx, env, c, "schedules/firings?"+q.Encode(), func(a *answer) error {
				var rows [][]string
				for _, at := range a.Firings {
					rows = append(rows, []string{core.When(at)})
				}
				return core.Table(env.Stdout, []string{"FIRES (UTC)"}, rows)
			})
		}),
	}
	c.Flags().StringVar(&zone, "time-zone", "", "`ZONE` of those times, such as Europe/Berlin (default: UTC)")
	serviceFlags(c.Flags())
	return c
}

func newScheduleDelete(env *core.Env, g *core.Global) *cobra.Command {
	return newScheduleAction(env, g, "delete", "Delete a schedule; its backups stay", func(ctx context.Context, c *serviceClient, id, project string) error {
		return c.remove(ctx, env, inProject("schedules/"+id, project), id, "deleted",
			"schedule "+id+" is deleted; its backups stay")
	})
}

func newScheduleRun(env *core.Env, g *core.Global) *cobra.Command {
	return newScheduleAction(env, g, "run", "Back the schedule's instance or cluster up now; retention leaves that backup, or set, alone", func(ctx context.Context, c *serviceClient, id, project string) error {
		type begun struct {
			Backup struct{ ID, Name string }
			Set    struct{ ID, Name string }
		}
		say := func(b *begun) string {
			if b.Set.ID != "" {
				return fmt.Sprintf("set %s, %s, has begun", b.Set.ID, core.Clean(b.Set.Name))
			}
			return fmt.Sprintf("backup %s, %s, has begun", b.Backup.ID, core.Clean(b.Backup.Name))
		}
		return request(ctx, env, c, http.MethodPost, inProject("schedules/"+id+"/run", project), nil, say, func(b *begun) error {
			_, err := fmt.Fprintln(env.Stdout, say(b))
			return err
		})
	})
}
