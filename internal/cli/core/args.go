package core

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// AsGroup makes c a command that only holds others: alone it prints its help, and
// an unknown one below it is an error.
func AsGroup(c *cobra.Command) {
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := fmt.Sprintf("%q lists them", cmd.CommandPath()+" --help")
		if cmd.SuggestionsMinimumDistance <= 0 {
			cmd.SuggestionsMinimumDistance = 2
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %s?", strings.Join(near, " or "))
		}
		return Usage("there is no command %q in %s; %s", args[0], cmd.CommandPath(), hint)
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// Arguments checks the number of arguments; what names them in the message.
func Arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return Usage("%s needs %s; see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		case most >= 0 && len(args) > most:
			if most == 0 {
				return Usage("%s takes no argument, and there is %q", cmd.CommandPath(), args[0])
			}
			return Usage("%s takes %s, and then there is %q", cmd.CommandPath(), what, args[most])
		}
		return nil
	}
}
