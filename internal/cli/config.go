package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/config"
)

func newConfig(env *Env, g *globalOptions) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Print an example of the configuration file, or the settings in force"}
	asGroup(c)
	c.AddCommand(&cobra.Command{
		Use:   "example",
		Short: "Print a configuration file with all settings, what they mean, and their defaults",
		Args:  arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			if env.json {
				return printJSON(env.Stdout, struct {
					Example string `json:"example"`
				}{config.Example()})
			}
			_, err := io.WriteString(env.Stdout, config.Example())
			return err
		},
	}, &cobra.Command{
		Use:   "show",
		Short: "Print the settings in force and where each comes from; secrets are masked",
		Args:  arguments(0, 0, ""),
		RunE:  withSettings(env, g, func(_ context.Context, s *settings, _ []string) error { return runConfigShow(env, s) }),
	})
	return c
}

type settingJSON struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

func runConfigShow(env *Env, s *settings) error {
	list := []settingJSON{}
	values := s.values()
	for _, k := range config.Keys() {
		list = append(list, settingJSON{k.Name, values[k.Name], s.Origin(k.Name)})
	}
	if env.json {
		return printJSON(env.Stdout, struct {
			File     string        `json:"file"`
			Settings []settingJSON `json:"settings"`
		}{s.File, list})
	}
	var rows [][]string
	for _, e := range list {
		rows = append(rows, []string{e.Key, text(e.Value), e.Origin})
	}
	return table(env.Stdout, []string{"SETTING", "VALUE", "FROM"}, rows)
}
