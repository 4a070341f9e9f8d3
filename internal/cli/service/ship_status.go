package service

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/ship"
)

func newShipStatus(env *core.Env, g *core.Global) *cobra.Command {
	maxLag := time.Minute
	c := &cobra.Command{
		Use:   "status [INSTANCE]",
		Short: "Tell how far behind the shipping of this node is, since when, and why",
		Long: `Tell how shipping is doing on this machine, whether "slipcover ship" or an agent does it: how far behind it is in seconds and
bytes, since when, and why; since when any moment can be had back; and what is still to be rolled up or deleted. It asks
neither the storage nor CouchDB: the shipper notes in its state how it is doing, and if none is running the node's files are
held against what was shipped.

It ends with exit code 4 if something is further behind than --max-lag, if a shipper isn't running, or if nothing was ever
shipped from here. "slipcover ship list" tells it of all nodes of a server.`,
		Args: core.Arguments(0, 1, "one INSTANCE"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runShipStatus(ctx, env, s, strings.Join(args, ""), maxLag)
		}),
	}
	f := c.Flags()
	f.DurationVar(&maxLag, "max-lag", maxLag, "the `TIME` that it may be behind")
	f.String("state-dir", "", "`DIR` of the shipper's state")
	return c
}

// shipStatus is what ship status prints.
type shipStatus struct {
	OK    bool           `json:"ok"`
	Nodes []*ship.Report `json:"nodes"`
}

func runShipStatus(ctx context.Context, env *core.Env, s *core.Settings, instance string, maxLag time.Duration) error {
	all, err := ship.Reports(ctx, s.StateDir, env.Now())
	if err != nil {
		return err
	}
	out := shipStatus{OK: true, Nodes: []*ship.Report{}}
	var wrong []string
	for _, r := range all {
		if instance != "" && r.Instance != instance {
			continue
		}
		out.Nodes = append(out.Nodes, r)
		switch {
		case !r.Running:
			wrong = append(wrong, r.Instance+" is not being shipped: nothing runs that does it")
		case r.LagSeconds > maxLag.Seconds():
			wrong = append(wrong, fmt.Sprintf("the shipping of %s is %s behind", r.Instance, lag(r.LagSeconds)))
		}
	}
	if len(out.Nodes) == 0 {
		wrong = append(wrong, "nothing is shipped with the state in "+s.StateDir+": `slipcover ship` does it")
	}
	out.OK = len(wrong) == 0
	if env.JSON {
		err = core.PrintJSON(env.Stdout, out)
	} else {
		err = printReports(env, out.Nodes)
	}
	if err == nil && !out.OK {
		err = core.Say(core.ErrProblem, "%s", strings.Join(wrong, "; "))
	}
	return err
}

func printReports(env *core.Env, list []*ship.Report) error {
	for i, r := range list {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		why := r.Error
		if !r.ErrorSince.IsZero() {
			why += ", since " + core.When(r.ErrorSince)
		}
		polling := ""
		if r.Polling != "" {
			polling = "by looking: " + r.Polling
		}
		late := ""
		if r.RollUpLate {
			late = ", late"
		}
		err := core.Facts(env.Stdout, []core.Fact{
			{"instance", r.Instance}, {"repository", r.Repository}, {"state", shipState(r)}, {"error", why},
			{"shipped until (UTC)", moment(r.Shipped)}, {"moments since (UTC)", moment(r.Window)},
			{"goes on from", string(r.Backup)}, {"chain", fmt.Sprintf("%s, tick %d", r.Chain, r.Tick)},
			{"to be rolled up", fmt.Sprintf("%s%s", core.Count(r.Unrolled, "tick"), late)}, {"roll-ups", number(r.RollUps)},
			{"to be deleted", number(r.Undeleted)}, {"learns of changes", polling}, {"not there", strings.Join(r.Missing, ", ")},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shipState says in some words how a shipper is doing.
func shipState(r *ship.Report) string {
	much := fmt.Sprintf("%s, %s", core.Count(r.LagFiles, "file"), core.Size(r.LagBytes))
	switch {
	case !r.Running && r.LagFiles > 0:
		return fmt.Sprintf("not running; not shipped: %s, committed since %s", much, core.When(r.Behind))
	case !r.Running:
		return "not running; nothing was committed since"
	case r.Behind.IsZero():
		return "up to date"
	}
	return fmt.Sprintf("%s behind, since %s: %s", lag(r.LagSeconds), core.When(r.Behind), much)
}

// lag prints seconds.
func lag(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}
