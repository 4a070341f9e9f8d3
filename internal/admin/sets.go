package admin

import (
	"cmp"
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

type clusterView struct {
	Name    string            `json:"name"`
	Project string            `json:"project"`
	Nodes   []clusterNodeView `json:"nodes"`
	Problem string            `json:"problem,omitempty"`
	Newest  *setBrief         `json:"newest,omitempty"`
	Whole   *setBrief         `json:"newest_whole,omitempty"`
}

type clusterNodeView struct {
	Name         string `json:"name"`
	Instance     string `json:"instance,omitempty"`
	InstanceName string `json:"instance_name,omitempty"`
	Online       bool   `json:"online"`
}

type setBrief struct {
	ID      string    `json:"id"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
}

func brief(i *server.SetInfo) *setBrief {
	if i == nil {
		return nil
	}
	return &setBrief{i.ID, string(i.State), i.Created}
}

func (c *call) listClusters() (int, any, error) {
	list := []clusterView{}
	for _, of := range c.Server.Clusters(c.who, c.all) {
		list = append(list, viewCluster(&of))
	}
	return http.StatusOK, map[string]any{"clusters": list}, nil
}

func (c *call) showCluster() (int, any, error) {
	of, err := c.Server.Cluster(c.who, c.r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"cluster": viewCluster(of)}, nil
}

func viewCluster(of *server.Cluster) clusterView {
	v := clusterView{Name: of.Name, Project: of.Project, Nodes: []clusterNodeView{}, Problem: of.Unclear, Newest: brief(of.Newest), Whole: brief(of.Whole)}
	for _, n := range of.Nodes {
		node := clusterNodeView{Name: n.Node, Online: n.Online}
		if n.Instance != nil {
			node.Instance, node.InstanceName = n.Instance.ID, n.Instance.Name
		}
		v.Nodes = append(v.Nodes, node)
	}
	return v
}

type setView struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Project     string       `json:"project"`
	Cluster     string       `json:"cluster"`
	Schedule    string       `json:"schedule,omitempty"`
	State       string       `json:"state"`
	Proven      bool         `json:"proven"`
	Members     []memberView `json:"members"`
	// Spread is how many seconds lie between the starts of its backups.
	Spread    float64   `json:"spread_seconds"`
	SizeBytes int64     `json:"size_bytes"`
	Created   time.Time `json:"created"`
}

type memberView struct {
	Node         string        `json:"node"`
	Instance     string        `json:"instance,omitempty"`
	InstanceName string        `json:"instance_name,omitempty"`
	Backup       string        `json:"backup,omitempty"`
	Status       string        `json:"status,omitempty"`
	Lacks        string        `json:"lacks,omitempty"`
	Fault        string        `json:"fault,omitempty"`
	Progress     *progressView `json:"progress,omitempty"`
	SizeBytes    int64         `json:"size_bytes"`
	StoredBytes  int64         `json:"stored_bytes"`
	Damage       int           `json:"damage"`
	Proof        *job.Proof    `json:"proof,omitempty"`
	Pin          *job.Pin      `json:"pin,omitempty"`
	Started      *time.Time    `json:"started,omitempty"`
	Finished     *time.Time    `json:"finished,omitempty"`
}

func (c *call) viewSet(i *server.SetInfo) setView {
	v := setView{ID: i.ID, Name: i.Name, Description: i.Description, Project: i.Project, Cluster: i.Cluster, Schedule: i.Schedule, State: string(i.State),
		Proven: i.Proven(), Members: []memberView{}, Created: i.Created}
	var first, last time.Time
	for n, m := range i.Members {
		w := memberView{Node: m.Node, Instance: m.Instance, InstanceName: m.InstanceName, Lacks: i.Lacks(n)}
		if b := i.Backups[n]; b != nil {
			w.Backup, w.Status, w.SizeBytes, w.StoredBytes, w.Damage, w.Proof, w.Pin, w.Started, w.Finished = b.ID, string(b.Status), b.Size, b.Stored, b.Damage, b.Proof, b.Pin, b.Started, b.Finished
			if b.Status.Usable() {
				w.Fault = b.Fault // why it could not be deleted
			}
			if at, ok := c.Server.Progress(b); ok {
				p := viewProgress(at)
				w.Progress = &p
			}
			if v.SizeBytes += b.Size; b.Started != nil {
				if first.IsZero() || b.Started.Before(first) {
					first = *b.Started
				}
				if b.Started.After(last) {
					last = *b.Started
				}
			}
		}
		v.Members = append(v.Members, w)
	}
	v.Spread = last.Sub(first).Seconds()
	return v
}

func (c *call) listSets() (int, any, error) {
	list := []setView{}
	for _, i := range c.Server.Sets(c.who, server.SetFilter{All: c.all, Cluster: c.r.URL.Query().Get("cluster")}) {
		list = append(list, c.viewSet(i))
	}
	return http.StatusOK, map[string]any{"sets": list}, nil
}

func (c *call) showSet() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	i, err := c.Server.Set(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"set": c.viewSet(i)}, nil
}

type newSet struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// backUpCluster begins a set. The body may be left out.
func (c *call) backUpCluster() (int, any, error) {
	n, cluster := newSet{}, c.r.PathValue("id")
	if c.r.ContentLength != 0 {
		if err := c.read(&n); err != nil {
			return 0, nil, err
		}
	}
	i, err := c.Server.CreateSet(c.r.Context(), c.who, server.NewSet{Cluster: cluster, Description: n.Description,
		Name: cmp.Or(n.Name, cluster+" "+time.Now().UTC().Format("2006-01-02 15:04"))})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"set": c.viewSet(i)}, nil
}

func (c *call) deleteSet() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, c.Server.DeleteSet(c.r.Context(), c.who, id)
}
