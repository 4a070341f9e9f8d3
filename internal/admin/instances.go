package admin

import (
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/words"
)

type newInstance struct {
	Name     string    `json:"name"`
	Backup   string    `json:"backup"`   // id
	Instance string    `json:"instance"` // id of the one that At is of, where no backup is named
	At       time.Time `json:"at"`
	Agent    string    `json:"agent"` // name or id
	VolumeGB int       `json:"volume_gb"`
}

func isID(text string) bool {
	_, ok := api.ParseID(text)
	return ok || text == ""
}

// createInstance begins to make an instance, of a backup or of a moment.
func (c *call) createInstance() (int, any, error) {
	var q newInstance
	if err := c.read(&q); err != nil {
		return 0, nil, err
	}
	switch {
	case !words.IsName(q.Name, 255):
		return 0, nil, api.Invalid("The new instance needs a name of 1 to 255 characters in one line.")
	case (q.Backup == "") == (q.Instance == ""):
		return 0, nil, api.Invalid("Say what it is made of: backup, or instance with at.")
	case !isID(q.Backup) || !isID(q.Instance):
		return 0, nil, api.Invalid("backup and instance are ids.")
	case q.Instance != "" && q.At.IsZero():
		return 0, nil, api.Invalid("Say by at which moment of the instance it is made of.")
	case q.VolumeGB < 0 || q.VolumeGB > 1<<20:
		return 0, nil, api.Invalid("volume_gb is a whole number of GB.")
	}
	if q.Instance != "" {
		of, err := c.Server.Instance(c.r.Context(), c.who, q.Instance)
		if err != nil {
			return 0, nil, err
		}
		b, err := c.Server.Before(c.who, of, q.At)
		if err != nil {
			return 0, nil, err
		}
		q.Backup = b.ID
	}
	i, err := c.Server.CreateInstance(c.r.Context(), c.who, server.NewInstance{Name: q.Name, Flavor: "1", VolumeGB: q.VolumeGB, Backup: q.Backup, At: q.At, Agent: q.Agent})
	if err != nil {
		return 0, nil, err
	}
	c.log.Target = i.ID
	return http.StatusAccepted, map[string]any{"instance": c.viewInstance(i), "job": i.Job}, nil
}
