package trove

import (
	"net/http"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
)

type strategy struct {
	ProjectID      string `json:"project_id"`
	InstanceID     string `json:"instance_id"` // "": of the project's other instances
	Backend        string `json:"backend"`
	SwiftContainer string `json:"swift_container"`
}

func viewStrategy(s *job.Strategy) strategy {
	return strategy{s.Project, s.Instance, "swift", s.Container}
}

// strategyQuery returns whose strategies are meant; only an administrator may mean those
// of another project.
func (c *call) strategyQuery() (project, instance string, err error) {
	q := c.r.URL.Query()
	project, instance = q.Get("project_id"), strings.ToLower(q.Get("instance_id"))
	if project == "" {
		project = c.who.Project
	}
	if project != c.who.Project && !c.who.May(access.Admin) {
		return "", "", api.Refuse(http.StatusForbidden, "Only administrators see backup strategies of other projects.")
	}
	return project, instance, nil
}

func (c *call) listStrategies() (int, any, error) {
	project, instance, err := c.strategyQuery()
	if err != nil {
		return 0, nil, err
	}
	list := []strategy{}
	for _, s := range c.Server.Strategies(c.who, project, instance) {
		list = append(list, viewStrategy(s))
	}
	return http.StatusOK, map[string]any{"backup_strategies": list}, nil
}

func (c *call) createStrategy() (int, any, error) {
	o, err := c.body("backup_strategy")
	if err != nil {
		return 0, nil, err
	}
	instance, container := o.id("instance_id", false), o.container("swift_container")
	if container == "" {
		o.wrong("swift_container", "is required")
	}
	if err := o.err(); err != nil {
		return 0, nil, err
	}
	s, err := c.Server.SetStrategy(c.r.Context(), c.who, instance, container)
	if err != nil {
		return 0, nil, err
	}
	c.log.Target = instance
	return http.StatusAccepted, map[string]any{"backup_strategy": viewStrategy(s)}, nil
}

func (c *call) deleteStrategy() (int, any, error) {
	project, instance, err := c.strategyQuery()
	if err != nil {
		return 0, nil, err
	}
	if _, ok := api.ParseID(instance); instance != "" && !ok {
		return 0, nil, api.NoResource(instance)
	}
	c.log.Target = instance
	return http.StatusAccepted, nil, c.Server.DeleteStrategy(c.r.Context(), c.who, project, instance)
}
