package core

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/userfile"
)

// ExpandPaths replaces "~" in the flags and arguments whose help calls them FILE, DIR or
// URL. It runs before each command.
func ExpandPaths(cmd *cobra.Command, args []string) error {
	for i, what := range strings.Fields(cmd.Use)[1:] {
		if expand := expanders[what]; expand != nil && i < len(args) {
			path, err := expand(args[i])
			if err != nil {
				return Usage("%s", err)
			}
			args[i] = path
		}
	}
	var bad error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		what, _ := pflag.UnquoteUsage(f)
		if expand := expanders[what]; expand != nil && bad == nil {
			bad = expandFlag(f, expand)
		}
	})
	return bad
}

// FileError is the error of reading a file that the user named. What is in it is a bad
// value; what the file system says keeps its kind.
func FileError(what string, err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return Usage("%s: %s", what, err)
}

var expanders = map[string]func(string) (string, error){"FILE": userfile.Path, "DIR": userfile.Path, "URL": userfile.Place}

func expandFlag(f *pflag.Flag, expand func(string) (string, error)) error {
	list, isList := f.Value.(pflag.SliceValue)
	values := []string{f.Value.String()}
	if isList {
		values = list.GetSlice()
	}
	for i := range values {
		path, err := expand(values[i])
		if err != nil {
			return Usage("--%s: %s", f.Name, err)
		}
		values[i] = path
	}
	if isList {
		return list.Replace(values)
	}
	return f.Value.Set(values[0])
}
