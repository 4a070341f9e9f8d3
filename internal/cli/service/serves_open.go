package service

import (
	"context"
	"slices"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// openedSet is the backups that this server opens to be read, with what they ask of storages counted.
func (v *service) openedSet(checker access.Checker) (*opened.Set, error) {
	env := *v.env
	env.Stderr = discardWriter{} // the server has a log of its own
	env.Traffic = nil
	env.CountTraffic(v.settings)
	if err := v.registry.Register(meter.Collector(env.Traffic, "slipcover_serve_storage_")); err != nil {
		return nil, err
	}
	r := &servedRepositories{env: &env, settings: v.settings}
	return opened.New(opened.Options{Server: v.server, Checker: checker, Repo: r.open, Most: v.settings.Serves, Version: core.BuildVersion().Version, Log: v.log, Metrics: v.registry})
}

// servedRepositories opens the repositories of backups that the server reads.
type servedRepositories struct {
	env      *core.Env
	settings *core.Settings
}

// open opens the repository of a backup. What agents say of where their backups are is not where the server goes: it must be
// a place of its own settings, or the caller's own Swift account.
func (r *servedRepositories) open(ctx context.Context, who *access.Caller, b *job.Backup) (*repo.Repo, func(), error) {
	env := *r.env
	at, err := r.place(who, b)
	if err != nil {
		return nil, nil, err
	}
	s := r.settings.At(at)
	useServiceKey(s)
	s.Progress, s.CacheDir, s.CacheSize = "none", "", min(s.CacheSize, config.Bytes(opened.CacheSize))
	if b.Repository.Storage != "" {
		log := map[string]string{"OS_STORAGE_URL": who.SwiftURL, "OS_AUTH_TOKEN": who.Token.Reveal()}
		env.StorageEnv = func(name string) string { return log[name] }
	}
	found, err := open.Repo(ctx, &env, s, false)
	if err != nil {
		return nil, nil, err
	}
	return found.Repo, found.Close, nil
}

// place is where a backup is, as the settings name it.
func (r *servedRepositories) place(who *access.Caller, b *job.Backup) (string, error) {
	s := r.settings
	if b.Repository.Storage != "" {
		if who.SwiftURL != b.Repository.Storage {
			return "", &server.Error{Kind: server.Conflict, Message: "The backup is in another Swift account than that of your token."}
		}
		return b.Repository.URL, nil
	}
	for _, place := range slices.Concat([]string{s.Repository}, s.Repositories) {
		if place != "" && isRepository(b.Repository.URL, place) {
			return place, nil
		}
	}
	return "", &server.Error{Kind: server.Conflict, Cause: states.ErrElsewhere, Message: "The backup is in a repository that this server doesn't have: give it the settings repository and identity_file, " +
		"or run slipcover serve on a machine that reaches the repository and has its key."}
}
