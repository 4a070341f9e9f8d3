package admin

import (
	"net/http"
	"time"
)

type spaceView struct {
	StoredBytes  int64            `json:"stored_bytes"`
	SizeBytes    int64            `json:"size_bytes"`
	AddedBytes   int64            `json:"added_7d_bytes"`
	Backups      int              `json:"backups"`
	Goes         int              `json:"goes"`
	FreesBytes   int64            `json:"frees_bytes"`
	Times        []time.Time      `json:"times"`
	Instances    []instanceSpace  `json:"instances"`
	Repositories []repositorySize `json:"repositories"`
	// Sampled is since when points are what was stored then; missing before there is a sample of an earlier day.
	Sampled time.Time  `json:"sampled,omitzero"`
	Rooms   []roomView `json:"rooms"`
}

type roomView struct {
	URL        string    `json:"url"`
	Repository string    `json:"repository,omitempty"`
	Copy       bool      `json:"copy"`
	Agents     []string  `json:"agents"`
	FreeBytes  int64     `json:"free_bytes"`
	TotalBytes int64     `json:"total_bytes"`
	Heard      time.Time `json:"heard,omitzero"`
	Online     bool      `json:"online"`
	GrowsBytes int64     `json:"grows_bytes_per_day,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Full       time.Time `json:"full,omitzero"`
}

type instanceSpace struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Gone        bool    `json:"gone"`
	StoredBytes int64   `json:"stored_bytes"`
	SizeBytes   int64   `json:"size_bytes"`
	AddedBytes  int64   `json:"added_7d_bytes"`
	Backups     int     `json:"backups"`
	Points      []int64 `json:"points"`
}

type repositorySize struct {
	Repository  repositoryView `json:"repository"`
	StoredBytes int64          `json:"stored_bytes"`
	Backups     int            `json:"backups"`
}

func (c *call) showSpace() (int, any, error) {
	s, times := c.Server.Space(c.who, c.all)
	v := spaceView{s.Stored, s.Size, s.Added, s.Backups, s.Goes, s.Frees, []time.Time{}, []instanceSpace{}, []repositorySize{}, s.Since, []roomView{}}
	for _, t := range times {
		v.Times = append(v.Times, t.UTC().Truncate(time.Second))
	}
	for _, i := range s.Instances {
		v.Instances = append(v.Instances, instanceSpace{i.ID, i.Name, i.Gone, i.Stored, i.Size, i.Added, i.Backups, i.Points})
	}
	for _, r := range s.Repositories {
		v.Repositories = append(v.Repositories, repositorySize{viewRepository(r.Repository), r.Stored, r.Backups})
	}
	for _, r := range c.Server.Rooms(c.who, c.all) {
		v.Rooms = append(v.Rooms, roomView{r.URL, r.Repository, r.Copy, r.Agents, r.Free, r.Total, r.Heard.UTC().Truncate(time.Second), r.Online, r.Grows, r.Since, r.Full.Truncate(time.Second)})
	}
	return http.StatusOK, map[string]any{"space": v}, nil
}
