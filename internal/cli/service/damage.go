package service

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newDamage(env *core.Env, g *core.Global) *cobra.Command {
	project := ""
	c := &cobra.Command{
		Use:   "damage INSTANCE",
		Short: "Show what a server's backups of an instance found damaged, since when, and which one has it whole",
		Long: `Show what a server's backups of an instance, named by its name or id, found damaged in its source: databases and documents, since
which backup, and the newest backup before that which has it whole. The server reads the records of the newest 60 backups,
and so needs a key that reads them.`,
		Args: core.Arguments(1, 1, "one INSTANCE"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			id, err := c.findInstance(ctx, args[0], project)
			if err != nil {
				return err
			}
			return show(ctx, env, c, inProject("instances/"+id+"/damage", project), func(d *damageJSON) error { return d.print(env) })
		}),
	}
	projectFlag(c.Flags(), &project, "whose instance it is")
	serviceFlags(c.Flags())
	return c
}

type backedJSON struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
}

type damageJSON struct {
	Findings []struct {
		Database string      `json:"database"`
		Document string      `json:"document"`
		What     string      `json:"what"`
		Now      bool        `json:"now"`
		Since    backedJSON  `json:"since"`
		Last     backedJSON  `json:"last"`
		Whole    *backedJSON `json:"whole"`
	} `json:"findings"`
	Looked int `json:"looked"`
}

func (d *damageJSON) print(env *core.Env) error {
	var rows [][]string
	for _, f := range d.Findings {
		until, whole := "now", "none"
		if !f.Now {
			until = core.When(f.Last.At)
		}
		if f.Whole != nil {
			whole = core.When(f.Whole.At) + " " + f.Whole.Backup
		}
		rows = append(rows, []string{f.Database, f.Document, f.What, core.When(f.Since.At), until, whole})
	}
	if len(rows) > 0 {
		if err := core.Table(env.Stdout, []string{"DATABASE", "DOCUMENT", "WHAT", "SINCE (UTC)", "UNTIL (UTC)", "WHOLE IN"}, rows); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(env.Stdout, "%s in %s\n", core.Count(len(d.Findings), "finding"), core.Count(d.Looked, "backup"))
	return err
}
