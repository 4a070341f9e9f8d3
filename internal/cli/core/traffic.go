package core

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/limit"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// TrafficFlags are those of commands that use a storage; the settings of these
// names have the values.
func TrafficFlags(f *pflag.FlagSet) {
	f.String("limit-upload", "", "send at most `RATE` to the storage, such as 20MiB/s")
	f.String("limit-download", "", "read at most `RATE` from the storage, such as 20MiB/s")
}

// CountTraffic begins to count what the command asks of its storages.
func (e *Env) CountTraffic(s *Settings) {
	if e.Traffic == nil {
		e.Traffic, e.limits = &meter.Meter{}, limit.NewLimits(int64(s.LimitUpload), int64(s.LimitDownload))
	}
}

// Measured counts and limits what goes through a storage.
func Measured(env *Env, s *Settings, store storage.Store) storage.Store {
	env.CountTraffic(s)
	return limit.New(meter.New(store, env.Traffic), env.limits)
}

// TrafficJSON is what a command asked of its storages, as "storage" of its result.
type TrafficJSON struct {
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

// TrafficJSON is what the command has asked of its storages until now.
func (e *Env) TrafficJSON() *TrafficJSON {
	t := e.Traffic.Snapshot()
	out := &TrafficJSON{t.Requests(), t.Retries, t.Errors(), t.Up, t.Down, Seconds(t.Busy), map[string]requestsJSON{}}
	for k, c := range t.Kinds {
		out.Kinds[k.String()] = requestsJSON{c.Requests, c.Errors, Seconds(c.Sum), Seconds(c.Max)}
	}
	return out
}

// TrafficLine is the same in a line: "storage: 31 requests, 2 tried again, 25.0 MiB
// up in 1.2s".
func (e *Env) TrafficLine() string {
	t := e.Traffic.Snapshot()
	parts := []string{Count(int(t.Requests()), "request")}
	if t.Retries > 0 {
		parts = append(parts, fmt.Sprintf("%d tried again", t.Retries))
	}
	if t.Up > 0 {
		parts = append(parts, Size(t.Up)+" up")
	}
	if t.Down > 0 {
		parts = append(parts, Size(t.Down)+" down")
	}
	return fmt.Sprintf("storage: %s in %s", strings.Join(parts, ", "), Took(t.Busy))
}
