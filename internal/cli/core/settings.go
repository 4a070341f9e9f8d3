package core

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/config"
)

// Settings is what a command works with: flags, else environment, else the
// configuration file, else defaults.
type Settings struct {
	*config.Config
	Identities []string // files; --identity replaces identity_file
	FromCache  bool     // the command may answer from the cache's folder
}

// ownFlag is the annotation of flags that OwnFlags names.
const ownFlag = "slipcover_own"

// OwnFlags says of flags of a command that they aren't the settings of these names, which are of the service.
func OwnFlags(f *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if flag := f.Lookup(name); flag != nil {
			flag.Annotations = map[string][]string{ownFlag: {}}
		}
	}
}

// Load gathers the settings. A flag counts if it was given and has the name of a
// setting, unless OwnFlags names it; --repo and --no-indexes are other words for two of them.
func (g *Global) Load(env *Env, cmd *cobra.Command) (*Settings, error) {
	given := map[string]string{}
	f := cmd.Flags()
	for _, k := range config.Keys() {
		if flag := f.Lookup(k.Flag()); flag != nil && flag.Changed && !k.Secret && flag.Annotations[ownFlag] == nil {
			given[k.Name] = flag.Value.String()
		}
	}
	if flag := f.Lookup("repo"); flag != nil && flag.Changed {
		place, err := RepositoryURL(flag.Value.String())
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
		return nil, Say(ErrUsage, "%s", err)
	}
	if err := neededFault(c, f); err != nil {
		return nil, err
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(env.Stderr, "slipcover: warning: %s\n", w)
	}
	s := &Settings{Config: c}
	if c.IdentityFile != "" {
		s.Identities = []string{c.IdentityFile}
	}
	if flag := f.Lookup("identity"); flag != nil && flag.Changed {
		if s.Identities, err = f.GetStringArray("identity"); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// needed pairs settings that can have a fault with the flags of the commands that need
// them.
var needed = [][2]string{
	{"couch_url", "couch-url"}, {"couch_password_file", "couch-url"},
	{"state_dir", "state-dir"}, {"instance", "state-dir"},
	{"passphrase_file", "state-dir"}, {"passphrase_file", "passphrase-file"},
	{"token_file", "token-file"},
}

func neededFault(c *config.Config, flags *pflag.FlagSet) error {
	for _, n := range needed {
		if flag := flags.Lookup(n[1]); flag != nil && flag.Annotations[ownFlag] == nil && c.Faults[n[0]] != nil {
			err := c.Faults[n[0]]
			return Say(ErrUsage, "%s", err)
		}
	}
	return nil
}

// Need returns what is wrong with settings that a command needs which has no flags for
// them.
func (s *Settings) Need(keys ...string) error {
	for _, key := range keys {
		if err := s.Faults[key]; err != nil {
			return Say(ErrUsage, "%s", err)
		}
	}
	return nil
}

// WithSettings is the RunE of a command that runs with the settings.
func WithSettings(env *Env, g *Global, run func(ctx context.Context, s *Settings, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := g.Load(env, cmd)
		if err != nil {
			return err
		}
		return run(cmd.Context(), s, args)
	}
}

// RepositoryURL makes a URL of a folder's path; a URL stays as it is.
func RepositoryURL(place string) (string, error) {
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

// Global are the flags of all commands.
type Global struct {
	config string
	json   bool
}

// Flags adds them.
func (g *Global) Flags(f *pflag.FlagSet) {
	f.StringVar(&g.config, "config", "", "configuration `FILE`; see slipcover config example")
	f.BoolVar(&g.json, "json", false, "print the result, and an error, as JSON (docs/json.md)")
}

// ClusterFlag is that of who makes backups.
func ClusterFlag(f *pflag.FlagSet) {
	f.String("cluster", "", "`NAME` of the CouchDB cluster that the node is of, the same on all its nodes (default: none, and the nodes recognise each other)")
}

// At returns the settings with another repository.
func (s *Settings) At(place string) *Settings {
	c := *s.Config
	c.Repository = place
	return &Settings{Config: &c, Identities: s.Identities}
}

// NodeFlags say where CouchDB is.
func NodeFlags(f *pflag.FlagSet) {
	f.String("data-dir", "", "CouchDB's data `DIR`, with _dbs.couch and shards")
	f.String("config-dir", "", "`DIR` of default.ini and local.ini, which says where the data is and is backed up too")
	f.String("couch-url", "", "`URL` of the running node on this machine, which says where its data is")
	f.String("node-name", "", "Erlang `NAME` of the node, such as couchdb@127.0.0.1, if its files don't tell it")
	f.String("state-dir", "", "`DIR` for what the next incremental must know; losing it costs a full backup")
	f.String("parallel", "", "read `N` files at once (default: the number of CPUs, at most 4)")
	f.String("compression", "", "fastest, default or better")
}
