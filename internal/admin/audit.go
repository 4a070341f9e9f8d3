package admin

import (
	"net/http"
	"os"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
)

type auditView struct {
	Audit      []httpd.AuditRecord `json:"audit"`
	Next       string              `json:"next,omitempty"`
	Complete   bool                `json:"complete"`
	Unreadable int                 `json:"unreadable"`
	Compressed bool                `json:"compressed"`
	File       string              `json:"file"`
	Host       string              `json:"host"`
}

// showAudit reads the audit log of this server. Who reads it is in it, too.
func (c *call) showAudit() (int, any, error) {
	q := c.query()
	a := httpd.AuditQuery{Since: q.time("since"), Until: q.time("until"), Who: q.Get("who"), Action: q.Get("action"), Target: q.Get("target"), Before: q.Get("before"), Limit: q.number("limit")}
	if a.Limit > api.MostAudit {
		q.invalid("limit is %d at most.", api.MostAudit)
	}
	if q.err != nil {
		return 0, nil, q.err
	}
	if !c.all && q.Get("project") != "" {
		a.Project = c.who.Project
	}
	c.log.Looked, c.log.Target = true, "audit"
	p, err := api.Audit(c.r.Context(), c.Audit, a)
	if err != nil {
		return 0, nil, err
	}
	host, _ := os.Hostname() // or it has none
	v := auditView{Audit: p.Records, Next: p.Next, Complete: p.Complete, Unreadable: p.Unreadable, Compressed: p.Compressed, File: c.Audit.Path(), Host: host}
	if v.Audit == nil {
		v.Audit = []httpd.AuditRecord{}
	}
	return http.StatusOK, v, nil
}
