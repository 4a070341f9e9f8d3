package trove

import (
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
)

// absolute is the first of the limits.
type absolute struct {
	Verb      string `json:"verb"`
	Instances int    `json:"max_instances"`
	Backups   int    `json:"max_backups"`
	Volumes   int    `json:"max_volumes"`
}

type rate struct {
	Verb      string `json:"verb"`
	Value     int    `json:"value"` // requests per unit
	Remaining int    `json:"remaining"`
	Unit      string `json:"unit"`
}

func (c *call) listLimits() (int, any, error) {
	most := absolute{Verb: "ABSOLUTE"}
	for _, q := range c.Server.Quotas(c.who.Project) {
		switch q.Resource {
		case "instances":
			most.Instances = q.Limit
		case "backups":
			most.Backups = q.Limit
		case "volumes":
			most.Volumes = q.Limit
		}
	}
	limits := []any{most}
	if c.allowed.Limit > 0 { // one for all verbs together
		for _, verb := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			limits = append(limits, rate{verb, c.allowed.Limit, c.allowed.Remaining, "MINUTE"})
		}
	}
	return http.StatusOK, map[string]any{"limits": limits}, nil
}

type quota struct {
	Resource string `json:"resource"`
	Limit    int    `json:"limit"` // -1: none
	InUse    int    `json:"in_use"`
	Reserved int    `json:"reserved"`
}

func (c *call) showQuotas() (int, any, error) {
	project := c.r.PathValue("project")
	if !access.ValidProject(project) {
		return 0, nil, api.NoResource(project)
	}
	list := []quota{}
	for _, q := range c.Server.Quotas(project) {
		list = append(list, quota{q.Resource, q.Limit, q.InUse, q.Reserved})
	}
	return http.StatusOK, map[string]any{"quotas": list}, nil
}

func (c *call) updateQuotas() (int, any, error) {
	project := c.r.PathValue("project")
	c.log.Target = project
	if !access.ValidProject(project) {
		return 0, nil, api.NoResource(project)
	}
	o, err := c.body("quotas")
	if err != nil {
		return 0, nil, err
	}
	var known []string
	for _, q := range c.Server.Quotas(project) {
		known = append(known, q.Resource)
	}
	limits := map[string]int{}
	for resource := range o.fields {
		if !slices.Contains(known, resource) {
			return 0, nil, api.Refuse(http.StatusNotFound, fmt.Sprintf("Quota for '%s' could not be found.", resource))
		}
		if n, ok := o.number(resource, -1, math.MaxInt32); ok {
			limits[resource] = n
		}
	}
	if err := o.err(); err != nil {
		return 0, nil, err
	}
	for resource, limit := range limits {
		if err := c.Server.SetQuota(c.r.Context(), c.who, project, resource, limit); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, map[string]any{"quotas": limits}, nil
}
