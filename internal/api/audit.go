package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/slipcover/slipcover/internal/httpd"
)

// MostAudit is how many records of the audit log one answer may have.
const MostAudit = 500

// Audit reads records of the server's audit log, or refuses what can't be read; see httpd.Audit.Read.
func Audit(ctx context.Context, a *httpd.Audit, q httpd.AuditQuery) (*httpd.AuditPage, error) {
	p, err := a.Read(ctx, q)
	switch {
	case errors.Is(err, httpd.ErrAuditUnread) && a.Path() != "":
		return nil, Refuse(http.StatusNotImplemented, "The audit log of this server goes to "+a.Path()+", which can't be read back: set audit_file to a file.")
	case errors.Is(err, httpd.ErrAuditUnread):
		return nil, Refuse(http.StatusNotImplemented, "This server keeps no audit log.")
	case errors.Is(err, httpd.ErrAuditPlace):
		return nil, Invalid("There is no such place in the audit log, or its file is gone: begin with the newest records.")
	}
	return p, err
}
