package httpd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"
)

const (
	checkTimeout = 5 * time.Second
	checkEvery   = time.Second // answers are kept for this long, whoever asks
)

// Check is something that must be well for the server to do its work.
type Check struct {
	Name string
	// Run returns what isn't well. It may be called until the context's end, 5 seconds, and
	// after that is taken to have failed.
	Run func(context.Context) error
}

// Healthz says that the process lives: 200 and "ok".
func Healthz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
}

// Readyz says whether all checks go well, as 200 or 503 and
//
//	{"ready": false, "checks": {"bus": "ok", "keystone": "connection refused"}}
//
// The checks are shown on this machine, if no proxy asks for somebody else, and to who
// sends the token, unless that is empty, as "Authorization: Bearer"; others learn no
// more than whether it is ready. What isn't well is logged too, when it changes.
func Readyz(log *slog.Logger, token string, checks ...Check) http.Handler {
	return &readyz{log: log, token: token, checks: checks}
}

type readyz struct {
	log    *slog.Logger
	token  string
	checks []Check

	mu     sync.Mutex
	at     time.Time // of the answer; guarded by mu
	answer readiness // guarded by mu
}

type readiness struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks,omitempty"`
}

func (z *readyz) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := z.ask(r.Context())
	if !onThisMachine(r) && (z.token == "" || !hasBearer(r, z.token)) {
		a.Checks = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !a.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(a) // whoever asked may be gone
}

// ask runs the checks, unless that was just done.
func (z *readyz) ask(ctx context.Context) readiness {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.at.IsZero() && time.Since(z.at) < checkEvery {
		return z.answer
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout) // the answer is for others too
	defer cancel()
	errs := make([]chan error, len(z.checks))
	for i, c := range z.checks {
		errs[i] = make(chan error, 1)
		go func() { errs[i] <- c.Run(ctx) }() // ends with ctx, if it keeps to it
	}
	a := readiness{Ready: true, Checks: map[string]string{}}
	for i, c := range z.checks {
		var err error
		select {
		case err = <-errs[i]:
		case <-ctx.Done():
			select {
			case err = <-errs[i]: // while another had no answer
			default:
				err = fmt.Errorf("no answer within %v", checkTimeout)
			}
		}
		a.Checks[c.Name] = "ok"
		if err != nil {
			a.Ready, a.Checks[c.Name] = false, err.Error()
		}
	}
	switch same := maps.Equal(a.Checks, z.answer.Checks); {
	case !a.Ready && !same:
		z.log.WarnContext(ctx, "not ready", "checks", a.Checks)
	case a.Ready && !same && !z.at.IsZero():
		z.log.InfoContext(ctx, "ready again")
	}
	z.at, z.answer = time.Now(), a
	return a
}
