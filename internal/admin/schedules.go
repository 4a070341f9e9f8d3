package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/schedule"
	"github.com/slipcover/slipcover/internal/server"
)

// scheduleFields are what a schedule can be told.
type scheduleFields struct {
	Name      string   `json:"name"`
	Enabled   bool     `json:"enabled"`
	Cron      string   `json:"cron"`
	TimeZone  string   `json:"time_zone"`
	Jitter    length   `json:"jitter"`
	Window    length   `json:"window"`
	CatchUp   bool     `json:"catch_up"`
	Keep      job.Keep `json:"keep"`
	ProveCron string   `json:"prove_cron"`
	Heartbeat string   `json:"heartbeat"`
}

type newSchedule struct {
	Instance string `json:"instance"` // id or name
	Cluster  string `json:"cluster"`  // name, instead of an instance
	scheduleFields
}

type scheduleView struct {
	ID           string `json:"id"`
	Project      string `json:"project"`
	Instance     string `json:"instance,omitempty"`
	Cluster      string `json:"cluster,omitempty"`
	InstanceName string `json:"instance_name,omitempty"`
	scheduleFields
	Next      time.Time  `json:"next,omitzero"`
	ProveNext time.Time  `json:"prove_next,omitzero"`
	Last      firingView `json:"last"`
	Missed    int        `json:"missed"`
	Skipped   int        `json:"skipped"`
	Created   time.Time  `json:"created"`
	Updated   time.Time  `json:"updated"`
}

type firingView struct {
	Due     time.Time `json:"due,omitzero"`
	Backup  string    `json:"backup,omitempty"`
	Set     string    `json:"set,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
}

func fieldsOf(s *job.Schedule) scheduleFields {
	return scheduleFields{Name: s.Name, Enabled: s.Enabled, Cron: s.Cron, TimeZone: s.TimeZone, Jitter: length(s.Jitter), Window: length(s.Window),
		CatchUp: s.CatchUp, Keep: s.Keep, ProveCron: s.ProveCron, Heartbeat: s.Heartbeat}
}

func (f *scheduleFields) set(s *job.Schedule) {
	s.Name, s.Enabled, s.Cron, s.TimeZone = f.Name, f.Enabled, f.Cron, f.TimeZone
	s.Jitter, s.Window, s.CatchUp = time.Duration(f.Jitter), time.Duration(f.Window), f.CatchUp
	s.Keep, s.ProveCron, s.Heartbeat = f.Keep, f.ProveCron, f.Heartbeat
}

// instanceNames are those of the project's instances, by id.
func (c *call) instanceNames() map[string]string {
	names := map[string]string{}
	for _, i := range c.Server.Instances(c.who, false) {
		names[i.ID] = i.Name
	}
	return names
}

func (c *call) viewSchedule(s *job.Schedule, names map[string]string) scheduleView {
	v := scheduleView{ID: s.ID, Project: s.Project, Instance: s.Instance, InstanceName: names[s.Instance], scheduleFields: fieldsOf(s),
		Cluster: s.Cluster, Last: firingView{Due: s.Last.Due, Backup: s.Last.Backup, Outcome: s.Last.Outcome}, Missed: s.Missed, Skipped: s.Skipped, Created: s.Created, Updated: s.Updated}
	if s.Cluster != "" {
		v.Last.Backup, v.Last.Set = "", s.Last.Backup
	}
	v.TimeZone = cmp.Or(v.TimeZone, "UTC")
	if s.Enabled {
		v.Next, v.ProveNext = s.Next, s.ProveNext
	}
	if v.Heartbeat != "" && !c.who.May(access.Operator) {
		v.Heartbeat = "***" // who knows it can say that all is well
	}
	return v
}

func (c *call) oneSchedule(status int, s *job.Schedule) (int, any, error) {
	return status, map[string]any{"schedule": c.viewSchedule(s, c.instanceNames())}, nil
}

func (c *call) listSchedules() (int, any, error) {
	instance := c.r.URL.Query().Get("instance")
	if instance != "" {
		var err error
		if instance, err = c.findInstance(instance); err != nil {
			return 0, nil, err
		}
	}
	names := c.instanceNames()
	list := []scheduleView{}
	for _, s := range c.Server.Schedules(c.who, instance) {
		list = append(list, c.viewSchedule(s, names))
	}
	return http.StatusOK, map[string]any{"schedules": list}, nil
}

func (c *call) createSchedule() (int, any, error) {
	n := newSchedule{scheduleFields: scheduleFields{Enabled: true}}
	if err := c.read(&n); err != nil {
		return 0, nil, err
	}
	s := &job.Schedule{Cluster: n.Cluster}
	var err error
	switch {
	case n.Instance == "" && n.Cluster == "":
		return 0, nil, api.Invalid("instance is missing: the id or the name of the instance to back up; or cluster, the name of a cluster.")
	case n.Instance != "" && n.Cluster != "":
		return 0, nil, api.Invalid("A schedule is of an instance or of a cluster: name one of the two.")
	case n.Instance != "":
		s.Instance, err = c.findInstance(n.Instance)
	}
	if err != nil {
		return 0, nil, err
	}
	n.set(s)
	if s, err = c.Server.CreateSchedule(c.r.Context(), c.who, s); err != nil {
		return 0, nil, err
	}
	c.log.Target = s.ID
	return c.oneSchedule(http.StatusCreated, s)
}

// findInstance returns the id of an instance of the project by its id or name.
func (c *call) findInstance(ref string) (string, error) {
	found := ""
	for _, i := range c.Server.Instances(c.who, false) {
		switch {
		case i.ID == ref:
			return ref, nil
		case i.Name == ref && found != "":
			return "", api.Refuse(http.StatusConflict, "Several instances have this name: give the id of one.")
		case i.Name == ref:
			found = i.ID
		}
	}
	if found != "" {
		return found, nil
	}
	return "", api.Refuse(http.StatusNotFound, fmt.Sprintf("There is no instance %.100q in project %s.", ref, c.who.Project))
}

// schedule returns the one of the path.
func (c *call) schedule() (*job.Schedule, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, err
	}
	return c.Server.Schedule(c.r.Context(), c.who, id)
}

func (c *call) showSchedule() (int, any, error) {
	s, err := c.schedule()
	if err != nil {
		return 0, nil, err
	}
	return c.oneSchedule(http.StatusOK, s)
}

// updateSchedule changes the fields that the body names, those in keep one by one too.
func (c *call) updateSchedule() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	text, err := body(c.r)
	if err != nil {
		return 0, nil, err
	}
	s, err := c.Server.UpdateSchedule(c.r.Context(), c.who, id, func(s *job.Schedule) error {
		f := fieldsOf(s)
		if err := decode(text, &f); err != nil {
			return err
		}
		f.set(s)
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return c.oneSchedule(http.StatusOK, s)
}

func (c *call) deleteSchedule() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, c.Server.DeleteSchedule(c.r.Context(), c.who, id)
}

// runSchedule backs its instance or cluster up now. The backup, or the set, isn't one of the schedule's: it has
// its name, but retention leaves it alone.
func (c *call) runSchedule() (int, any, error) {
	s, err := c.schedule()
	if err != nil {
		return 0, nil, err
	}
	if s.Cluster != "" {
		name := []rune(s.Name)
		i, err := c.Server.CreateSet(c.r.Context(), c.who, server.NewSet{Name: string(name[:min(len(name), 180)]) + " " + time.Now().UTC().Format("2006-01-02 15:04"), Cluster: s.Cluster,
			Description: "asked for by " + c.who.User})
		if err != nil {
			return 0, nil, err
		}
		return http.StatusAccepted, map[string]any{"set": c.viewSet(i)}, nil
	}
	b, err := c.Server.RunSchedule(c.r.Context(), c.who, s.ID)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"backup": c.viewBackup(b)}, nil
}

// mostFirings is how many firings ahead are told.
const mostFirings = 5

// showFirings says when a line of cron would fire next, before a schedule has it.
func (c *call) showFirings() (int, any, error) {
	q := c.query()
	line := q.need("cron")
	if q.err != nil {
		return 0, nil, q.err
	}
	spec, err := schedule.Parse(line, q.Get("time_zone"))
	if err != nil {
		return 0, nil, api.Invalid("%s", err.Error())
	}
	list := []time.Time{}
	for at := time.Now(); len(list) < mostFirings; {
		if at = spec.Next(at); at.IsZero() {
			break
		}
		list = append(list, at)
	}
	return http.StatusOK, map[string]any{"firings": list}, nil
}
