package admin

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

type retentionView struct {
	Schedule     string         `json:"schedule"`
	ScheduleName string         `json:"schedule_name"`
	Keep         job.Keep       `json:"keep"`
	At           time.Time      `json:"at,omitzero"`
	Goes         int            `json:"goes"`
	FreesBytes   int64          `json:"frees_bytes"`
	Backups      []retainedView `json:"backups"`
}

type retainedView struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Schedule    string    `json:"schedule,omitempty"`
	Created     time.Time `json:"created"`
	StoredBytes int64     `json:"stored_bytes"`
	Damage      int       `json:"damage"`
	Stays       bool      `json:"stays"`
	Reasons     []string  `json:"reasons"`
	Missed      []string  `json:"missed,omitempty"`
	Fault       string    `json:"fault,omitempty"`
	Pin         *job.Pin  `json:"pin,omitempty"`
}

func viewRetained(list []server.Retained) []retainedView {
	out := []retainedView{}
	for _, r := range list {
		b := r.Backup
		out = append(out, retainedView{ID: b.ID, Name: b.Name, Schedule: b.Schedule, Created: b.Created, StoredBytes: b.Stored, Damage: b.Damage, Stays: r.Stays,
			Reasons: r.Reasons, Missed: r.Missed, Fault: b.Fault, Pin: b.Pin})
	}
	return out
}

func viewRetention(r *server.Retention) retentionView {
	v := retentionView{Schedule: r.Schedule.ID, ScheduleName: r.Schedule.Name, Keep: r.Keep, At: r.At, Backups: viewRetained(r.Backups)}
	v.Goes, v.FreesBytes = r.Frees()
	return v
}

// showRetention is of a schedule, by its own rules or by those that the query proposes.
func (c *call) showRetention() (int, any, error) {
	s, err := c.schedule()
	if err != nil {
		return 0, nil, err
	}
	keep, err := ProposedKeep(c.r.URL.Query())
	if err != nil {
		return 0, nil, err
	}
	r, err := c.Server.ScheduleRetention(c.r.Context(), c.who, s.ID, keep)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"retention": viewRetention(r)}, nil
}

// ProposedKeep reads rules that are only proposed: the parameters keep_last, keep_hourly, keep_daily, keep_weekly,
// keep_monthly, keep_yearly and keep_within, where one that is missing or empty is no rule. It returns nil if none is there.
func ProposedKeep(q url.Values) (*job.Keep, error) {
	k, proposed := &job.Keep{Within: q.Get("keep_within")}, q.Has("keep_within")
	for _, r := range []struct {
		key string
		to  *int
	}{{"keep_last", &k.Last}, {"keep_hourly", &k.Hourly}, {"keep_daily", &k.Daily}, {"keep_weekly", &k.Weekly}, {"keep_monthly", &k.Monthly}, {"keep_yearly", &k.Yearly}} {
		proposed = proposed || q.Has(r.key)
		if text := q.Get(r.key); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				return nil, api.Invalid("%s must be a number.", r.key)
			}
			*r.to = n
		}
	}
	if !proposed {
		return nil, nil //nolint:nilnil // as said
	}
	return k, nil
}

func (c *call) showInstanceRetention() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	list, rest, err := c.Server.InstanceRetention(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	views := []retentionView{}
	for _, r := range list {
		views = append(views, viewRetention(r))
	}
	return http.StatusOK, map[string]any{"retentions": views, "others": viewRetained(rest)}, nil
}
