package service

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/job"
)

type pinOptions struct {
	project string
	reason  string
	noWait  bool
	remove  bool // of the pin
}

func newPin(env *core.Env, g *core.Global) *cobra.Command {
	o := &pinOptions{}
	c := pinCommand(env, g, o, "pin BACKUP", "Have an agent keep a backup from every deletion, for a reason",
		`Have an agent pin a backup of the service in its repository: from then on no retention and no deletion, of the service or of
others, removes it, nor the set that it is of, until it is unpinned. One that is pinned already gets the new reason. The command
waits for the end unless --no-wait is given; the service deletes the backup no more in any case.`)
	c.Flags().StringVar(&o.reason, "reason", "", "why, for those who find it later")
	return c
}

func newUnpin(env *core.Env, g *core.Global) *cobra.Command {
	return pinCommand(env, g, &pinOptions{remove: true}, "unpin BACKUP", "Let retention decide about a backup of the service again",
		"Have an agent take the pin of a backup away. It is no error if there is none. The command waits for the end unless --no-wait is given.")
}

func pinCommand(env *core.Env, g *core.Global, o *pinOptions, use, short, long string) *cobra.Command {
	return onBackup(env, g, &cobra.Command{Use: use, Short: short, Long: long}, &o.project, &o.noWait, func(ctx context.Context, c *serviceClient, s *core.Settings, backup string) error {
		return runPin(ctx, env, c, s, o, backup)
	})
}

type pinnedJSON struct {
	Backup string   `json:"backup"`
	Job    string   `json:"job"`
	Pin    *job.Pin `json:"pin,omitempty"`
}

func runPin(ctx context.Context, env *core.Env, c *serviceClient, s *core.Settings, o *pinOptions, backup string) error {
	verb, did, doing, in := "/pin", "pinned", "pinning", any(map[string]string{"reason": o.reason})
	if o.remove {
		verb, did, doing, in = "/unpin", "unpinned", "unpinning", nil
	} else if o.reason == "" {
		return core.Usage("pass --reason: who finds the pin in a year wants to know why")
	}
	out := &pinnedJSON{Backup: backup}
	path := "backups/" + url.PathEscape(backup)
	if err := c.call(ctx, http.MethodPost, inProject(path+verb, o.project), in, out); err != nil {
		return err
	}
	env.Done("job %s has begun", out.Job)
	said := fmt.Sprintf("job %s has begun; \"slipcover jobs\" shows it", out.Job)
	if !o.noWait {
		fault, err := c.await(ctx, env, s, inProject("jobs/"+url.PathEscape(out.Job), o.project), doing)
		if err != nil {
			return core.WhenStopped(ctx, err, "job "+out.Job+" goes on; \"slipcover jobs\" shows it")
		}
		var now struct {
			Backup struct{ Pin *job.Pin }
		}
		if err := c.call(ctx, http.MethodGet, inProject(path, o.project), nil, &now); err != nil {
			return err
		}
		out.Pin = now.Backup.Pin
		if fault != "" || (out.Pin == nil) != o.remove {
			return core.Say(core.ErrProblem, "the backup could not be %s: %s", did, core.Clean(cmp.Or(fault, "the server says otherwise; somebody else may have been at it")))
		}
		env.Done("the backup was %s", did)
		said = did + " " + core.Clean(backup)
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, out)
	}
	_, err := fmt.Fprintln(env.Stdout, said)
	return err
}
