package admin

import (
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

// maxRestoreBody is more than a plan needs, in bytes.
const maxRestoreBody = 512 << 10

type restoreRequest struct {
	Plan     string            `json:"plan"`
	Agents   map[string]string `json:"agents"`
	Database string            `json:"database"`
	As       string            `json:"as"`
	Replace  bool              `json:"replace"`
}

type restoreView struct {
	ID        string            `json:"id"`
	Project   string            `json:"project"`
	Cluster   string            `json:"cluster"`
	Database  string            `json:"database,omitempty"`
	As        string            `json:"as,omitempty"`
	Replace   bool              `json:"replace,omitempty"`
	State     string            `json:"state"`
	Step      string            `json:"step"`
	Attempt   int               `json:"attempt"`
	Fault     string            `json:"fault,omitempty"`
	Nodes     []restoreNodeView `json:"nodes"`
	Plan      string            `json:"plan"`
	By        string            `json:"by,omitempty"`
	Cancelled string            `json:"cancelled,omitempty"`
	Log       logView           `json:"log"`
	Created   time.Time         `json:"created"`
	Updated   time.Time         `json:"updated"`
	Ended     *time.Time        `json:"ended,omitempty"`
}

type restoreNodeView struct {
	Name     string       `json:"name"`
	Agent    string       `json:"agent"`
	State    string       `json:"state"`
	Fault    string       `json:"fault,omitempty"`
	Progress progressView `json:"progress"`
	Problems []string     `json:"problems"`
	Notes    []string     `json:"notes"`
}

func viewRestore(r *job.Restore) restoreView {
	v := restoreView{ID: r.ID, Project: r.Project, Cluster: r.Cluster, Database: r.DB, As: r.As, Replace: r.Replace, State: string(r.State), Step: string(r.Step), Attempt: r.Attempt,
		Fault: r.Fault, Plan: r.Plan, By: r.By, Cancelled: r.Cancelled, Log: viewLog(r.Log), Created: r.Created, Updated: r.Updated, Ended: r.Ended, Nodes: []restoreNodeView{}}
	for _, n := range r.Nodes {
		v.Nodes = append(v.Nodes, restoreNodeView{Name: n.Name, Agent: n.AgentName, State: string(n.State), Fault: n.Fault, Progress: viewProgress(n.At),
			Problems: nonNil(n.Problems), Notes: nonNil(n.Notes)})
	}
	return v
}

func (c *call) startRestore() (int, any, error) {
	text, err := api.Body(c.r, maxRestoreBody)
	if err != nil {
		return 0, nil, err
	}
	var q restoreRequest
	if err := decode(text, &q); err != nil {
		return 0, nil, err
	}
	r, err := c.Server.StartRestore(c.r.Context(), c.who, server.RestoreRequest{Plan: q.Plan, Agents: q.Agents, DB: q.Database, As: q.As, Replace: q.Replace})
	if err != nil {
		return 0, nil, err
	}
	c.log.Target = r.ID
	return http.StatusAccepted, map[string]any{"restore": viewRestore(r)}, nil
}

// cancelRestore ends one before anything is put in its place.
func (c *call) cancelRestore() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	r, err := c.Server.CancelRestore(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"restore": viewRestore(r)}, nil
}

func (c *call) listRestores() (int, any, error) {
	list := []restoreView{}
	for _, r := range c.Server.Restores(c.who) {
		list = append(list, viewRestore(r))
	}
	return http.StatusOK, map[string]any{"restores": list}, nil
}

func (c *call) showRestore() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	r, err := c.Server.Restore(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"restore": viewRestore(r)}, nil
}
