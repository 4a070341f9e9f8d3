package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/durable"
)

// AuditRecord says who did what to which thing, and with what outcome. It is one line
// of JSON in the audit log.
type AuditRecord struct {
	Time      time.Time `json:"time"`
	RequestID string    `json:"request_id,omitempty"`
	User      string    `json:"user"`
	UserID    string    `json:"user_id,omitempty"`
	Project   string    `json:"project,omitempty"`
	Role      string    `json:"role,omitempty"`
	Address   string    `json:"address,omitempty"`
	Action    string    `json:"action"`           // such as "backup.create"
	Target    string    `json:"target,omitempty"` // such as the backup's id
	Outcome   string    `json:"outcome"`          // "ok" or "failed"
	Status    int       `json:"status,omitempty"` // of the answer
}

// Audit is the audit log. Nil logs nothing.
type Audit struct {
	path   string
	log    *slog.Logger
	errors prometheus.Counter

	mu   sync.Mutex
	file *os.File // guarded by mu
	torn bool     // the file may end within a line; guarded by mu
}

// OpenAudit opens the audit log, a file for its owner alone, and makes it if need be.
// What can't be written is logged, and counted as slipcover_audit_failures_total in reg.
func OpenAudit(path string, log *slog.Logger, reg prometheus.Registerer) (*Audit, error) {
	a := &Audit{path: path, log: log, errors: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "slipcover_audit_failures_total", Help: "Records that could not be written to the audit log."})}
	if err := reg.Register(a.errors); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if err := a.Reopen(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reopen opens the file of that name anew, as after it was renamed to begin another.
// If it can't be opened, the one before stays in use.
func (a *Audit) Reopen() error {
	if a == nil {
		return nil
	}
	f, torn, err := openAudit(a.path)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil {
		a.file.Close() // all that is in it is synced
	}
	a.file, a.torn = f, torn
	return nil
}

// openAudit says as well whether the file ends within a line, as after a power cut.
func openAudit(path string) (f *os.File, torn bool, err error) {
	f, err = durable.Open(path, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, false, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > 0 {
		last := make([]byte, 1)
		_, err = f.ReadAt(last, size-1)
		torn = last[0] != '\n'
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, torn, nil
}

// Write appends a record; when it returns the record is on the disk, or the failure
// is logged and counted.
func (a *Audit) Write(ctx context.Context, r AuditRecord) {
	if a == nil {
		return
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	if err := a.append(r); err != nil {
		a.errors.Inc()
		a.log.ErrorContext(ctx, "audit log can't be written", "err", err, "request_id", r.RequestID, "user", r.User,
			"project", r.Project, "action", r.Action, "target", r.Target, "status", r.Status)
	}
}

func (a *Audit) append(r AuditRecord) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return errors.New("the audit log is closed")
	}
	if a.torn {
		line = append([]byte{'\n'}, line...)
	}
	a.torn = true
	if _, err := a.file.Write(line); err != nil {
		return err
	}
	a.torn = false
	return a.file.Sync()
}

// Close ends the log.
func (a *Audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
