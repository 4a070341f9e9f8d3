// Package cli is the command line. It puts the commands of the packages below it together, a package for each group of the
// help, and runs the one that is asked for.
package cli

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/backups"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/look"
	"github.com/slipcover/slipcover/internal/cli/restores"
	"github.com/slipcover/slipcover/internal/cli/service"
)

// Run runs the command that args name and returns the exit code.
func Run(ctx context.Context, env *core.Env, args []string) int {
	ctx, stop := withSignals(ctx, env)
	defer stop()
	env.JSON = asksJSON(args)
	env.WatchOutput()
	root := newRoot(env) //nolint:contextcheck // commands get theirs from ExecuteContext
	root.SetArgs(args)
	return core.Finish(ctx, env, root.ExecuteContext(ctx))
}

// withSignals cancels ctx at the first SIGINT or SIGTERM, with the signal as the
// cause. The second one ends the process where it stands: what is on disk and in
// the repository is safe at any moment.
func withSignals(ctx context.Context, env *core.Env) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	// A reader who went away, as head does, is told at the end, and not by dying where we
	// stand. Ignored it would be inherited by programs that we start.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		for n := 0; ; n++ {
			select {
			case s := <-ch:
				if n > 0 {
					os.Exit(core.ExitOf(core.Interrupted{Signal: s}).Code)
				}
				cancel(core.Interrupted{Signal: s})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel(nil)
	}
}

// asksJSON looks for --json before the flags are parsed, so that a mistake in
// them is told in JSON too.
func asksJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

const rootLong = `Slipcover backs up a running Apache CouchDB by copying its files, and gets back anything from it.

Three commands to begin with:

  slipcover init --repo /backups
        make a repository, and the key that reads it
  slipcover backup create --repo /backups --data-dir /opt/couchdb/data
        back up a running node; the next time, only what is new is read and stored
  slipcover restore latest --to /opt/couchdb/data --repo /backups --identity slipcover-identity.txt
        bring the files back

"slipcover demo" shows all of it on a small sample in a temporary folder.

Each setting comes from its flag, else from the environment (SLIPCOVER_REPOSITORY
and so on), else from the configuration file, else it has a default. "slipcover
config example" shows them all. --repo takes a folder or a URL; its setting is
"repository". Trove's spellings work too: backup-create INSTANCE NAME,
backup-list, backup-show ID, backup-delete ID, create NAME --backup ID.

Exit codes:
`

func newRoot(env *core.Env) *cobra.Command {
	root := &cobra.Command{
		Use:               "slipcover",
		Short:             "Back up a running CouchDB by its files",
		Long:              rootLong + core.ExitTable(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: core.ExpandPaths,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Version:           core.ToolVersion(),
	}
	root.SetVersionTemplate("slipcover {{.Version}}\n")
	core.AsGroup(root)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return core.Usage("%s", flagMistake(err)) })
	g := &core.Global{}
	g.Flags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: "make", Title: "Backing up:"},
		&cobra.Group{ID: "get", Title: "Getting back:"},
		&cobra.Group{ID: "look", Title: "Looking:"},
		&cobra.Group{ID: "service", Title: "The service:"},
		&cobra.Group{ID: "trove", Title: "As Trove spells them:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("make", backups.Commands(env, g, service.NewClusterBackup(env, g))...)
	add("make", service.NewShip(env, g))
	add("get", restores.Commands(env, g, service.Together)...)
	add("look", look.Commands(env, g, service.NewClusterRestore(env, g))...)
	add("service", service.Commands(env, g)...)
	add("trove", backups.TroveCommands(env, g)...)
	root.AddCommand(newConfig(env, g), newVersion(env), newCompletion(env), newExitCodes())
	root.SetHelpCommand(newHelp(root))
	return root
}

// flagMistake says what is wrong with a flag in one sentence.
func flagMistake(err error) string {
	return strings.TrimSuffix(err.Error(), ".") + "; --help lists the flags"
}

func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command, and \"help exit-codes\"",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || c == nil || len(rest) > 0 {
				return core.Usage("there is no help about %q", strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// newExitCodes is a topic, not a command: it has nothing to run.
func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "The exit codes and what they mean",
		Long:  "The exit codes, and the same as \"code\" in the JSON of an error:\n\n" + core.ExitTable(),
	}
}
