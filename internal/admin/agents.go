package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

type agentView struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Project    string         `json:"project"`
	Online     bool           `json:"online"`
	Seen       time.Time      `json:"seen,omitzero"`
	Version    string         `json:"version,omitempty"`
	Host       string         `json:"host,omitempty"`
	Address    string         `json:"address,omitempty"`
	Repository repositoryView `json:"repository"`
	CanRead    bool           `json:"can_read"`
	CanCreate  bool           `json:"can_create"`
	// Restores and Writes say whether the node accepts them; missing of an agent that doesn't say.
	Restores  *bool          `json:"accepts_restores,omitempty"`
	Writes    *bool          `json:"accepts_writes,omitempty"`
	FreeBytes int64          `json:"free_bytes"`
	Running   int            `json:"running"`
	Instances []instanceView `json:"instances"`
	Created   time.Time      `json:"created"`
}

type instanceView struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Project      string    `json:"project"`
	Agent        string    `json:"agent,omitempty"`
	Status       string    `json:"status"`
	Made         bool      `json:"made"`
	Up           bool      `json:"up"`
	URL          string    `json:"url,omitempty"`
	Address      string    `json:"address,omitempty"`
	Version      string    `json:"version,omitempty"`
	UsedBytes    int64     `json:"used_bytes"`
	Databases    int       `json:"databases"`
	RestoredFrom string    `json:"restored_from,omitempty"`
	RestoredAt   time.Time `json:"restored_at,omitzero"`
	Fault        string    `json:"fault,omitempty"`
	Notes        []string  `json:"notes,omitempty"`
	Created      time.Time `json:"created"`
	Ship         *shipView `json:"ship,omitempty"`
	// Standing is in the list of instances alone.
	Standing *standingView `json:"standing,omitempty"`
}

type repositoryView struct {
	URL     string `json:"url,omitempty"`
	ID      string `json:"id,omitempty"`
	Storage string `json:"storage,omitempty"`
}

func viewRepository(r job.Repository) repositoryView { return repositoryView{r.URL, r.ID, r.Storage} }

func (c *call) listAgents() (int, any, error) {
	instances := map[string][]instanceView{}
	for _, i := range c.Server.Instances(c.who, c.all) {
		instances[i.Agent] = append(instances[i.Agent], c.viewInstance(i))
	}
	list := []agentView{}
	for _, a := range c.Server.Agents() {
		if c.all || a.Project == c.who.Project {
			list = append(list, viewAgent(a, instances[a.ID]))
		}
	}
	return http.StatusOK, map[string]any{"agents": list}, nil
}

func (c *call) listInstances() (int, any, error) {
	list := []instanceView{}
	stand := map[string]*server.Standing{}
	for _, st := range c.Server.Standings(c.who, c.all) {
		stand[st.ID] = st
	}
	for _, i := range c.Server.Instances(c.who, c.all) {
		v := c.viewInstance(i)
		if st := stand[i.ID]; st != nil {
			v.Standing = viewStanding(st)
		}
		list = append(list, v)
	}
	return http.StatusOK, map[string]any{"instances": list}, nil
}

// standingView is how an instance stands.
type standingView struct {
	Safe     bool     `json:"safe"`
	Problems []string `json:"problems"`
	// Backup is the newest good one, and BackupAt when it was finished; missing if nobody knows.
	Backup   string    `json:"backup,omitempty"`
	BackupAt time.Time `json:"backup_at,omitzero"`
	// ProvenBackup was restored for a test last.
	ProvenBackup string    `json:"proven_backup,omitempty"`
	ProvenAt     time.Time `json:"proven_at,omitzero"`
	Next         time.Time `json:"next,omitzero"` // when it is backed up next
	Damage       int       `json:"damage"`        // findings in the source, by the newest good backup
	StoredBytes  int64     `json:"stored_bytes"`
	Backups      int       `json:"backups"`
}

func viewStanding(st *server.Standing) *standingView {
	v := &standingView{Problems: st.Problems(), BackupAt: st.At, Next: st.Next, Damage: st.Damaged, StoredBytes: st.Stored, Backups: st.Backups}
	v.Safe = len(v.Problems) == 0
	if st.Last != nil {
		v.Backup = st.Last.ID
	}
	if st.Proven != nil {
		v.ProvenBackup, v.ProvenAt = st.Proven.ID, st.Proven.Proof.At
	}
	return v
}

func (c *call) viewInstance(i *job.Instance) instanceView {
	live := c.Server.Live(i)
	v := instanceView{ID: i.ID, Name: i.Name, Project: i.Project, Agent: i.Agent, Status: string(i.Shown()), Made: i.Made, Up: live.Up, URL: i.URL, Address: i.Address,
		Version: live.Version, UsedBytes: live.UsedBytes, Databases: live.Databases, RestoredFrom: i.RestoredFrom, RestoredAt: i.RestoredAt, Notes: i.Notes, Created: i.Created}
	if ship := c.viewShipping(i); ship.Enabled || ship.Reported {
		v.Ship = &ship
	}
	if i.Fault != nil {
		v.Fault = i.Fault.Message
	}
	return v
}

func viewAgent(a server.AgentInfo, instances []instanceView) agentView {
	h := a.Hello
	restores, writes := a.Accepts()
	return agentView{ID: a.ID, Name: a.Name, Project: a.Project, Online: a.Online, Seen: a.Seen, Version: h.Version, Host: h.Host, Address: h.Address,
		Repository: viewRepository(h.Repository), CanRead: h.CanRead, CanCreate: h.CanCreate, Restores: restores, Writes: writes, FreeBytes: h.FreeBytes, Running: len(h.Running),
		Instances: nonNil(instances), Created: a.Created}
}

func (c *call) removeAgent() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	if !c.all && !slices.ContainsFunc(c.Server.Agents(), func(a server.AgentInfo) bool { return a.ID == id && a.Project == c.who.Project }) {
		return 0, nil, api.NoResource(id)
	}
	return http.StatusNoContent, nil, c.Server.RemoveAgent(c.r.Context(), id)
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
