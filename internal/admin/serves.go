package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/opened"
)

type serveView struct {
	ID         string    `json:"id"`
	Backup     string    `json:"backup"`
	BackupName string    `json:"backup_name"`
	Instance   string    `json:"instance"`
	Project    string    `json:"project"`
	State      time.Time `json:"state"`
	Moment     bool      `json:"moment"`
	Node       string    `json:"node"`
	Databases  int       `json:"databases"`
	URL        string    `json:"url"`
	User       string    `json:"user"`
	Opened     time.Time `json:"opened"`
	OpenedBy   string    `json:"opened_by"`
	Idle       length    `json:"idle"`
	Used       time.Time `json:"used"`
	Ends       time.Time `json:"ends"`
	Requests   int64     `json:"requests"`
	UnderWay   int       `json:"under_way"`
}

func (c *call) viewServe(o *opened.Opened) serveView {
	use := c.Serves.Use(o)
	return serveView{ID: o.ID, Backup: o.Backup.ID, BackupName: o.Backup.Name, Instance: o.Backup.Instance, Project: o.Backup.Project, State: o.State, Moment: o.Moment,
		Node: o.Node, Databases: o.Databases(), URL: c.root() + o.Path() + "/", User: opened.User, Opened: o.Opened, OpenedBy: o.By, Idle: length(o.Idle),
		Used: use.Used.UTC(), Ends: o.Ends, Requests: use.Requests, UnderWay: use.UnderWay}
}

// root is where the client reaches the server.
func (c *call) root() string {
	if c.URL != "" {
		return c.URL
	}
	scheme := "http://"
	if c.r.TLS != nil {
		scheme = "https://"
	}
	return scheme + c.r.Host
}

type newServe struct {
	At   time.Time `json:"at,omitzero"`
	Idle length    `json:"idle"`
}

// servesAny refuses where there are no serves.
func (c *call) servesAny() error {
	if c.Serves == nil {
		return api.Refuse(http.StatusNotImplemented, "This server opens no backups.")
	}
	return nil
}

// openServe opens a backup, or a moment of its instance. The body may be left out.
func (c *call) openServe() (int, any, error) {
	id, err := api.ID(c.r)
	if err == nil {
		err = c.servesAny()
	}
	if err != nil {
		return 0, nil, err
	}
	var n newServe
	if c.r.ContentLength != 0 {
		if err := c.read(&n); err != nil {
			return 0, nil, err
		}
	}
	o, err := c.Serves.Open(c.r.Context(), c.who, opened.Request{Backup: id, At: n.At, Idle: time.Duration(n.Idle), Token: access.TokenOf(c.r)})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"serve": c.viewServe(o), "password": o.Password}, nil
}

func (c *call) listServes() (int, any, error) {
	list := []serveView{}
	if c.Serves != nil {
		for _, o := range c.Serves.List(c.who, c.all) {
			list = append(list, c.viewServe(o))
		}
	}
	return http.StatusOK, map[string]any{"serves": list}, nil
}

func (c *call) closeServe() (int, any, error) {
	id, err := api.ID(c.r)
	if err == nil {
		err = c.servesAny()
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, c.Serves.Close(context.WithoutCancel(c.r.Context()), c.who, c.all, id)
}
