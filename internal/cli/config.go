package cli

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
)

func newConfig(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Print an example of the configuration file, or the settings in force"}
	core.AsGroup(c)
	c.AddCommand(&cobra.Command{
		Use:   "example",
		Short: "Print a configuration file with all settings, what they mean, and their defaults",
		Args:  core.Arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			if env.JSON {
				return core.PrintJSON(env.Stdout, struct {
					Example string `json:"example"`
				}{config.Example()})
			}
			_, err := io.WriteString(env.Stdout, config.Example())
			return err
		},
	}, &cobra.Command{
		Use:   "show",
		Short: "Print the settings in force and where each comes from; secrets are masked",
		Args:  core.Arguments(0, 0, ""),
		RunE: core.WithSettings(env, g, func(_ context.Context, s *core.Settings, _ []string) error {
			return runConfigShow(env, s)
		}),
	})
	return c
}

type settingJSON struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

func runConfigShow(env *core.Env, s *core.Settings) error {
	list := []settingJSON{}
	all := values(s)
	for _, k := range config.Keys() {
		list = append(list, settingJSON{k.Name, all[k.Name], s.Origin(k.Name)})
	}
	if env.JSON {
		return core.PrintJSON(env.Stdout, struct {
			File     string        `json:"file"`
			Settings []settingJSON `json:"settings"`
		}{s.File, list})
	}
	var rows [][]string
	for _, e := range list {
		rows = append(rows, []string{e.Key, text(e.Value), e.Origin})
	}
	return core.Table(env.Stdout, []string{"SETTING", "VALUE", "FROM"}, rows)
}

// whoLogsIn is all that stands before the host of a URL: NATS takes a token there, without
// a colon.
var whoLogsIn = regexp.MustCompile(`://[^/\s,]*@`)

// values returns the settings by key, as they are printed: secrets hide
// themselves, a duration is text, and the URLs of servers have nobody who logs in.
func values(s *core.Settings) map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(*s.Config)
	for i, f := range reflect.VisibleFields(v.Type()) {
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		out[key] = v.Field(i).Interface()
		if d, ok := out[key].(time.Duration); ok {
			out[key] = d.String()
		}
		if at, ok := out[key].(string); ok && strings.HasSuffix(key, "_url") {
			out[key] = whoLogsIn.ReplaceAllString(at, "://***@")
		}
	}
	return out
}

func text(v any) string {
	if list, ok := v.([]string); ok {
		return strings.Join(list, " ")
	}
	return fmt.Sprint(v)
}
