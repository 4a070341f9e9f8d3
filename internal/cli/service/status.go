package service

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newStatus(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "status",
		Short: "Show whether the instances of a server are safe, and what needs somebody",
		Long: `Show whether the instances of a server are safe: each with a good backup within 26 hours, or when its schedule has the next one;
shipped less than a minute behind, if it is; and proven within 8 days, if its backups are. Those that need somebody come first.
Exit code 4 if one does.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			var l standingListJSON
			path := inProject("instances", project)
			if env.JSON { // the answer as it is
				if err := show(ctx, env, c, path, func(*standingListJSON) error { return nil }); err != nil {
					return err
				}
			}
			if err := c.call(ctx, "GET", path, nil, &l); err != nil {
				return err
			}
			if !env.JSON {
				if err := l.print(env); err != nil {
					return err
				}
			}
			if n := l.need(); n > 0 {
				return core.Say(core.ErrProblem, "%d of %s %s somebody", n, core.Count(len(l.Instances), "instance"), map[bool]string{true: "needs", false: "need"}[n == 1])
			}
			return nil
		}),
	}
	c.Flags().StringVar(&project, "project", "", "`ID` of the project whose instances to show (default: all that the token may see)")
	serviceFlags(c.Flags())
	return c
}

type standingListJSON struct {
	Instances []struct {
		Name     string `json:"name"`
		Project  string `json:"project"`
		Standing struct {
			Safe     bool      `json:"safe"`
			Problems []string  `json:"problems"`
			BackupAt time.Time `json:"backup_at"`
			ProvenAt time.Time `json:"proven_at"`
			Next     time.Time `json:"next"`
		} `json:"standing"`
		Ship struct {
			LagSeconds float64 `json:"lag_seconds"`
		} `json:"ship"`
	} `json:"instances"`
}

// problemWords are what a server calls problems, as people read them.
var problemWords = map[string]string{"proof_failed": "a backup does not restore", "unproven": "not proven for 8 days", "damaged": "damaged source", "uncopied": "not in all repositories",
	"silent": "its agent is silent", "failed": "the last job failed", "behind": "shipping is behind", "late": "no good backup for too long"}

func (l *standingListJSON) need() (n int) {
	for _, i := range l.Instances {
		if !i.Standing.Safe {
			n++
		}
	}
	return n
}

func (l *standingListJSON) print(env *core.Env) error {
	var rows [][]string
	for _, safe := range []bool{false, true} {
		for _, i := range l.Instances {
			s := i.Standing
			if s.Safe != safe {
				continue
			}
			var why []string
			for _, p := range s.Problems {
				why = append(why, cmp.Or(problemWords[p], p))
			}
			behind := ""
			if i.Ship.LagSeconds > 0 {
				behind = core.Took(time.Duration(i.Ship.LagSeconds * float64(time.Second)))
			}
			rows = append(rows, []string{i.Name, i.Project, cmp.Or(strings.Join(why, ", "), "safe"), cmp.Or(moment(s.BackupAt), "none"), behind, cmp.Or(moment(s.ProvenAt), "never"), moment(s.Next)})
		}
	}
	if err := core.Table(env.Stdout, []string{"INSTANCE", "PROJECT", "STATE", "LAST GOOD BACKUP (UTC)", "BEHIND", "PROVEN (UTC)", "NEXT (UTC)"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.Stdout, "%d of %s %s safe\n", len(l.Instances)-l.need(), core.Count(len(l.Instances), "instance"), map[bool]string{true: "is", false: "are"}[len(l.Instances) == 1])
	return err
}
