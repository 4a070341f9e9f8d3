package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/ship"
)

type shipOptions struct {
	open.Options
	takeOver bool
	once     bool
}

// NewShip is the command ship.
func NewShip(env *core.Env, g *core.Global) *cobra.Command {
	o := &shipOptions{}
	c := &cobra.Command{
		Use:   "ship",
		Short: "Store what a CouchDB node commits as it happens, so that any moment can be had back",
		Long: `Follow the files of a CouchDB node and store every commit within a second or two, between two backups. A restore can then
bring back any moment: "slipcover restore --at 2026-11-22T10:32:00Z". "slipcover points" shows which.

Shipping goes on from the node's last backup, and waits for the first one if there is none. The next backup takes over from
it. Nothing in CouchDB is changed, locked or paused. While nothing is committed nothing is stored or asked. While the storage
can't be reached nothing is lost: CouchDB's files have it.

It runs in the foreground until SIGTERM, SIGINT or SIGHUP, and ships first what is new.

If another machine has shipped the instance since this one did, as a copy of it or an older image would, shipping is refused
(exit code 11).`,
		Args: core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, _ []string) error {
			return runShip(ctx, env, s, o)
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "to ship (default: that of its backups)")
	core.NodeFlags(f)
	f.String("ship-interval", "", "ship every `TIME` in which something was committed")
	f.String("keep-moments", "", "keep what was shipped for a `SPAN`: 36h, 14d, 2w, 3m (months) or 1y, counted from the newest moment")
	f.BoolVar(&o.once, "once", false, "ship what is new and end")
	f.BoolVar(&o.takeOver, "take-over", false, "begin anew from this node's last backup though another machine has shipped the instance")
	c.AddCommand(newShipStatus(env, g), newShipEnable(env, g), newShipDisable(env, g), newShipList(env, g))
	return c
}

func runShip(ctx context.Context, env *core.Env, s *core.Settings, o *shipOptions) error {
	ctx, stop := untilHangUp(ctx)
	defer stop()
	log := newLog(env, s)
	r, err := open.Repo(ctx, env, s, false)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := node.Locate(ctx, node.Options{DataDir: s.DataDir, ConfigDir: s.ConfigDir, URL: s.CouchURL,
		NodeName: s.NodeName, User: s.CouchUser, Password: s.CouchPassword.Reveal(), Getenv: env.Getenv})
	if err != nil {
		return err
	}
	if s.Origin("instance") == "host name" {
		if s.Instance, _, err = backup.DefaultInstance(ctx, r.Repo, s.StateDir, n, s.Instance); err != nil {
			return err
		}
	}
	sh, err := openShipper(ctx, log, ship.Options{
		Repo: r.Repo, Node: n, Instance: s.Instance, StateDir: s.StateDir, Tool: "slipcover " + core.ToolVersion(), Interval: s.ShipInterval,
		KeepMoments: s.KeepMoments.Longest(), Protect: s.ImmutableFor.Longest(), TakeOver: o.takeOver, Log: log, Now: env.Now,
	}, o.once)
	if err != nil {
		return ended(ctx, err)
	}
	told := sh.Tell()
	log.InfoContext(ctx, "shipping", "instance", s.Instance, "repository", r.URL())
	if o.once {
		err = sh.Tick(ctx)
	} else {
		tellReady(ctx, log)
		err = sh.Run(ctx)
	}
	st := sh.Status()
	told()
	if err := sh.Close(); err != nil {
		log.WarnContext(ctx, "not closed", "err", err)
	}
	if err != nil {
		return ended(ctx, err)
	}
	env.Done("%s shipped", core.Count(int(st.Ticks), "tick"))
	if env.JSON {
		return core.PrintJSON(env.Stdout, st)
	}
	_, err = fmt.Fprintf(env.Stdout, "shipped %s, %s stored\n", core.Count(int(st.Ticks), "tick"), core.Size(st.Bytes))
	return err
}

// waitForBase is how often a shipper looks whether there is a backup to go on from.
const waitForBase = 10 * time.Second

// openShipper opens a shipper, if need be when there is a backup.
func openShipper(ctx context.Context, log *slog.Logger, o ship.Options, once bool) (*ship.Shipper, error) {
	for told := false; ; told = true {
		sh, err := ship.Open(ctx, o)
		if once || !errors.Is(err, ship.ErrNoBase) && !errors.Is(err, repo.ErrKeyGone) {
			return sh, err
		}
		if !told {
			log.WarnContext(ctx, "waiting for a backup to go on from: slipcover backup create makes one", "why", err)
		}
		select {
		case <-time.After(waitForBase):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
