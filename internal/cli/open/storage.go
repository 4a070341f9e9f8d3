package open

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cache"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/storage/retry"
)

// openPlace opens the storage at place, with all that a repository's storage has
// around it: counting at each try, limits, and for what isn't on this machine
// retries and a cache of ranged reads.
func openPlace(ctx context.Context, env *core.Env, s *core.Settings, place string, create bool) (storage.Store, error) {
	bare, err := openAgain(ctx, env, s, place, create)
	if err != nil || isLocal(bare) {
		return bare, err
	}
	store, err := guard(env, s, bare)
	if err != nil {
		_ = bare.Close()
		return nil, err
	}
	return store, nil
}

// openFor bounds how long opening is tried again, below the setting for all else:
// what isn't available may also not be there, and then its name must be corrected.
const openFor = 30 * time.Second

// openAgain opens a storage, and tries again while it isn't available, unless it is
// on this machine. A host that the DNS says doesn't exist is not waited for.
func openAgain(
	ctx context.Context, env *core.Env, s *core.Settings, place string, create bool,
) (store storage.Store, err error) {
	if !strings.Contains(place, "://") || strings.HasPrefix(place, "file://") || s.RetryFor == 0 {
		return Bare(ctx, env, s, place, create)
	}
	var noHost error
	w := newWaiting(env, s)
	err = retry.Do(ctx, retry.Options{For: min(openFor, s.RetryFor), OnRetry: w.told}, "open", func() (err error) {
		var dns *net.DNSError
		store, err = Bare(ctx, env, s, place, create)
		if errors.As(err, &dns) && dns.IsNotFound {
			noHost = err
			return nil
		}
		return err
	})
	return store, cmp.Or(noHost, err)
}

// guard puts retries and a cache around a remote storage.
func guard(env *core.Env, s *core.Settings, store storage.Store) (storage.Store, error) {
	if s.RetryFor > 0 {
		w := newWaiting(env, s)
		store = retry.New(store, retry.Options{For: s.RetryFor, OnRetry: w.told})
	}
	return cache.New(store, cache.Options{Size: int64(s.CacheSize), Dir: cacheDir(s), Immutable: isSegment})
}

// Bare opens the storage at place with no more around it than counts and limits.
func Bare(ctx context.Context, env *core.Env, s *core.Settings, place string, create bool) (storage.Store, error) {
	store, err := drivers.Open(ctx, place, drivers.Options{Create: create, Getenv: env.StorageEnv})
	if err != nil && core.ExitOf(err).Code == core.ExitError.Code {
		return nil, core.Say(core.ErrUsage, "%s", err)
	}
	if err != nil {
		return nil, err
	}
	return core.Measured(env, s, store), nil
}

func isLocal(s storage.Store) bool { return strings.HasPrefix(s.URL(), "file://") }

// isSegment tells the objects that are read by ranges and never change: those of backups, and those that were shipped.
func isSegment(k storage.Key) bool {
	return strings.HasPrefix(string(k), "segments/") || strings.HasPrefix(string(k), "ship/")
}

// cacheDir is the folder of the cache, for commands that may answer from what was
// read before; one that proves what is stored may not.
func cacheDir(s *core.Settings) string {
	if !s.FromCache {
		return ""
	}
	return s.CacheDir
}

// waiting tells that a storage isn't available and what is tried again: when that
// begins, and each minute while it lasts. It says nothing of short waits, nor of each
// of many requests that wait side by side.
type waiting struct {
	env  *core.Env
	mode string // of progress

	mu    sync.Mutex
	since time.Time // when it began; guarded by mu
	until time.Time // end of the longest wait; guarded by mu
	last  time.Time // it was told, zero if not yet; guarded by mu
}

const (
	shortWait  = time.Second
	shortTime  = 5 * time.Second // of short waits, between tries that each take long
	tellWaits  = time.Minute
	calm       = 90 * time.Second // without a wait, longer than a try: it was available in between
	clearsLine = "\r\x1b[K"
)

func newWaiting(env *core.Env, s *core.Settings) *waiting {
	env.CountTraffic(s)
	return &waiting{env: env, mode: s.Progress}
}

type waitingJSON struct {
	Waiting string    `json:"waiting"` // what is tried again: open, put, get, stat, list, delete, retain
	Since   time.Time `json:"since"`
	Seconds float64   `json:"wait_seconds"`
	Message string    `json:"message"`
}

func (w *waiting) told(op string, _ storage.Key, err error, wait time.Duration) {
	w.env.Traffic.Retried()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.until) > calm {
		w.since, w.last = now, time.Time{}
	}
	if end := now.Add(wait); end.After(w.until) {
		w.until = end
	}
	if wait < shortWait && now.Sub(w.since) < shortTime || w.mode == "none" || now.Sub(w.last) < tellWaits {
		return
	}
	w.last = now
	text := core.Mask(core.OneLine(err.Error()))
	since := w.since.UTC().Truncate(time.Second)
	if w.mode == "json" {
		_ = json.NewEncoder(w.env.Stderr).Encode(waitingJSON{op, since, core.Seconds(wait), text})
		return
	}
	clear := ""
	if w.env.StderrTerminal {
		clear = clearsLine // of the bar, which draws itself again
	}
	text = strings.Replace(text, storage.ErrUnavailable.Error()+": ", "", 1) // it is said already
	fmt.Fprintf(w.env.Stderr, "%sslipcover: the storage is not available since %s, %s is tried again in %s: %s\n",
		clear, since.Format(time.TimeOnly+" MST"), op, core.Took(wait), core.Clean(text))
}
