package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/limit"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// trafficFlags are those of commands that use a storage; the settings of these
// names have the values.
func trafficFlags(f *pflag.FlagSet) {
	f.String("limit-upload", "", "send at most `RATE` to the storage, such as 20MiB/s")
	f.String("limit-download", "", "read at most `RATE` from the storage, such as 20MiB/s")
}

// count begins to count what the command asks of its storages.
func (e *Env) count(s *settings) {
	if e.traffic == nil {
		e.traffic, e.limits = &meter.Meter{}, limit.NewLimits(int64(s.LimitUpload), int64(s.LimitDownload))
	}
}

// measured counts and limits what goes through a storage.
func measured(env *Env, s *settings, store storage.Store) storage.Store {
	env.count(s)
	return limit.New(meter.New(store, env.traffic), env.limits)
}

// trafficJSON is what a command asked of its storages, as "storage" of its result.
type trafficJSON struct {
	Requests   int64                   `json:"requests"` // each try counts
	Retries    int64                   `json:"retries"`
	Errors     int64                   `json:"errors"`
	Uploaded   int64                   `json:"uploaded_bytes"`
	Downloaded int64                   `json:"downloaded_bytes"`
	Busy       float64                 `json:"busy_seconds"` // in which a request was under way
	Kinds      map[string]requestsJSON `json:"kinds"`        // put, get, stat, list, delete, delete_all, retain
}

type requestsJSON struct {
	Requests int64   `json:"requests"`
	Errors   int64   `json:"errors"`
	Seconds  float64 `json:"seconds"` // of all of them together
	Max      float64 `json:"max_seconds"`
}

func (e *Env) trafficJSON() *trafficJSON {
	t := e.traffic.Snapshot()
	out := &trafficJSON{t.Requests(), t.Retries, t.Errors(), t.Up, t.Down, seconds(t.Busy), map[string]requestsJSON{}}
	for k, c := range t.Kinds {
		out.Kinds[k.String()] = requestsJSON{c.Requests, c.Errors, seconds(c.Sum), seconds(c.Max)}
	}
	return out
}

// trafficLine is the same in a line: "storage: 31 requests, 2 tried again, 25.0 MiB
// up in 1.2s".
func (e *Env) trafficLine() string {
	t := e.traffic.Snapshot()
	parts := []string{count(int(t.Requests()), "request")}
	if t.Retries > 0 {
		parts = append(parts, fmt.Sprintf("%d tried again", t.Retries))
	}
	if t.Up > 0 {
		parts = append(parts, size(t.Up)+" up")
	}
	if t.Down > 0 {
		parts = append(parts, size(t.Down)+" down")
	}
	return fmt.Sprintf("storage: %s in %s", strings.Join(parts, ", "), took(t.Busy))
}
