package cli

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/repo"
)

// settings is what a command works with: flags, else environment, else the
// configuration file, else defaults.
type settings struct {
	*config.Config
	identities []string // files; --identity replaces identity_file
	fromCache  bool     // the command may answer from the cache's folder
}

// load gathers the settings. A flag counts if it was given and has the name of a
// setting; --repo and --no-indexes are other words for two of them.
func (g *globalOptions) load(env *Env, cmd *cobra.Command) (*settings, error) {
	given := map[string]string{}
	f := cmd.Flags()
	for _, k := range config.Keys() {
		if flag := f.Lookup(k.Flag()); flag != nil && flag.Changed && !k.Secret {
			given[k.Name] = flag.Value.String()
		}
	}
	if flag := f.Lookup("repo"); flag != nil && flag.Changed {
		place, err := repositoryURL(flag.Value.String())
		if err != nil {
			return nil, err
		}
		given["repository"] = place
	}
	if flag := f.Lookup("no-indexes"); flag != nil && flag.Value.String() == "true" {
		given["indexes"] = "false"
	}
	c, err := config.Load(config.Options{File: g.config, Flags: given, Environ: env.Environ})
	if err != nil {
		return nil, say(errUsage, "%s", err)
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(env.Stderr, "slipcover: warning: %s\n", w)
	}
	s := &settings{Config: c}
	if c.IdentityFile != "" {
		s.identities = []string{c.IdentityFile}
	}
	if flag := f.Lookup("identity"); flag != nil && flag.Changed {
		if s.identities, err = f.GetStringArray("identity"); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// withSettings is the RunE of a command that runs with the settings.
func withSettings(env *Env, g *globalOptions, run func(ctx context.Context, s *settings, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := g.load(env, cmd)
		if err != nil {
			return err
		}
		return run(cmd.Context(), s, args)
	}
}

// repositoryURL makes a URL of a folder's path; a URL stays as it is.
func repositoryURL(place string) (string, error) {
	if before, _, ok := strings.Cut(place, ":"); place == "" || ok && len(before) > 1 && !strings.ContainsAny(before, `/\`) {
		return place, nil
	}
	abs, err := filepath.Abs(place)
	if err != nil {
		return "", err
	}
	abs = filepath.ToSlash(abs)
	if !strings.HasPrefix(abs, "/") {
		abs = "/" + abs
	}
	return (&url.URL{Scheme: "file", Path: abs}).String(), nil
}

// level is the compression of what is written.
func (s *settings) level() repo.Level {
	switch s.Compression {
	case "fastest":
		return repo.Fastest
	case "better":
		return repo.Better
	}
	return repo.Default
}

// whoLogsIn is all that stands before the host of a URL: NATS takes a token there, without
// a colon.
var whoLogsIn = regexp.MustCompile(`://[^/\s,]*@`)

// values returns the settings by key, as they are printed: secrets hide
// themselves, a duration is text, and the URLs of servers have nobody who logs in.
func (s *settings) values() map[string]any {
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
