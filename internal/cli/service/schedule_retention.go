package service

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

func newScheduleRetention(env *core.Env, g *core.Global) *cobra.Command {
	project, within := "", ""
	keep := map[string]*int{}
	c := &cobra.Command{
		Use:   "retention SCHEDULE",
		Short: "Show what a schedule's retention will delete next, and why each backup stays or goes",
		Long: `Show what a schedule's retention will delete after its next backup, and why each backup stays or goes. It changes nothing. With
the flags --keep-... it shows what these rules would do, in place of the schedule's own: schedule update then sets them.`,
		Args: core.Arguments(1, 1, "one SCHEDULE"),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			id, err := c.findSchedule(ctx, args[0], project)
			if err != nil {
				return err
			}
			path, q := inProject("schedules/"+id+"/retention", project), url.Values{}
			for key, n := range keep {
				if cmd.Flags().Changed("keep-" + key) {
					q.Set("keep_"+key, strconv.Itoa(*n))
				}
			}
			if cmd.Flags().Changed("keep-within") {
				q.Set("keep_within", within)
			}
			if len(q) > 0 {
				sep := "?"
				if strings.Contains(path, "?") {
					sep = "&"
				}
				path += sep + q.Encode()
			}
			return show(ctx, env, c, path, func(r *oneRetentionJSON) error { return r.Retention.print(env) })
		})(cmd, args)
	}
	for _, key := range []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"} {
		keep[key] = c.Flags().Int("keep-"+key, 0, "in place of the schedule's rules: as the setting keep_"+key)
	}
	c.Flags().StringVar(&within, "keep-within", "", "in place of the schedule's rules: all of the last `SPAN`, such as 30d")
	projectFlag(c.Flags(), &project, "whose schedule it is")
	serviceFlags(c.Flags())
	return c
}

type oneRetentionJSON struct {
	Retention retentionJSON `json:"retention"`
}

type retentionJSON struct {
	ScheduleName string    `json:"schedule_name"`
	Keep         job.Keep  `json:"keep"`
	At           time.Time `json:"at"`
	Goes         int       `json:"goes"`
	FreesBytes   int64     `json:"frees_bytes"`
	Backups      []struct {
		ID          string    `json:"id"`
		Name        string    `json:"name"`
		Created     time.Time `json:"created"`
		StoredBytes int64     `json:"stored_bytes"`
		Stays       bool      `json:"stays"`
		Reasons     []string  `json:"reasons"`
		Missed      []string  `json:"missed"`
	} `json:"backups"`
}

func (r *retentionJSON) print(env *core.Env) error {
	var rows [][]string
	for _, b := range r.Backups {
		stays, frees := "stays", ""
		if !b.Stays {
			stays, frees = "goes", core.Size(b.StoredBytes)
		}
		rows = append(rows, []string{b.ID, moment(b.Created), stays, strings.Join(append(b.Reasons, b.Missed...), "; "), frees})
	}
	if err := core.Table(env.Stdout, []string{"ID", "MADE (UTC)", "", "BECAUSE", "FREES"}, rows); err != nil {
		return err
	}
	when := "after the next backup at " + core.When(r.At) + " UTC"
	if r.At.IsZero() {
		when = "now, if the schedule were not paused"
	}
	keeps := (&scheduleJSON{Keep: r.Keep}).keep()
	_, err := fmt.Fprintf(env.Stdout, "%s, about %s, of %d go %s; kept: %s\n", core.Count(r.Goes, "backup"), core.Size(r.FreesBytes), len(r.Backups), when, keeps)
	return err
}
