package web

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/schedule"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/words"
)

var scheduleRoutes = []route{
	{"GET /schedules", access.Viewer, "", (*call).schedulesPage},
	{"GET /schedules/new", access.Operator, "", (*call).newSchedule},
	{"POST /schedules/new", access.Operator, "schedule.create", (*call).createSchedule},
	{"GET /schedules/{id}", access.Viewer, "", (*call).schedulePage},
	{"POST /schedules/{id}", access.Operator, "schedule.update", (*call).updateSchedule},
	{"POST /schedules/{id}/run", access.Operator, "schedule.run", (*call).runSchedule},
	{"POST /schedules/{id}/pause", access.Operator, "schedule.update", (*call).pauseSchedule},
	{"GET /schedules/{id}/delete", access.Operator, "", (*call).askDeleteSchedule},
	{"POST /schedules/{id}/delete", access.Operator, "schedule.delete", (*call).deleteSchedule},
	{"GET /schedules/firings", access.Viewer, "", (*call).firings},
}

type scheduleRow struct {
	*job.Schedule
	Of   string // name of the instance
	When string
	Pill pill
	Note string
}

type schedulesPage struct {
	Rows   []scheduleRow
	Pager  pager
	Count  int
	Paused int
}

func (c *call) schedulesPage() (*answer, error) {
	names := c.names()
	var p schedulesPage
	var all []scheduleRow
	for _, s := range c.schedules() {
		if !s.Enabled {
			p.Paused++
		}
		all = append(all, c.scheduleRow(s, names))
	}
	p.Count = len(all)
	slices.SortStableFunc(all, func(a, b scheduleRow) int {
		return cmp.Or(strings.Compare(a.Of, b.Of), strings.Compare(a.Name, b.Name))
	})
	p.Rows, p.Pager = paged(c, all, func(s scheduleRow) string { return s.Name + " " + s.Of + " " + s.Cron + " " + s.Pill.Text })
	return c.livePage("Schedules", "schedules", "schedules.live", p), nil
}

func (c *call) scheduleRow(s *job.Schedule, names map[string]string) scheduleRow {
	row := scheduleRow{Schedule: s, Of: cmp.Or(names[s.Instance], "an instance that is gone"), When: s.Cron + " " + cmp.Or(s.TimeZone, "UTC")}
	row.Pill, row.Note = firingPill(s)
	return row
}

// scheduleForm is a schedule as it is typed: all fields are texts.
type scheduleForm struct {
	ID, Instance, Name, Cron, TimeZone, Jitter, Window, ProveCron, Heartbeat string
	Last, Hourly, Daily, Weekly, Monthly, Yearly, Within                     string
	CatchUp, Enabled                                                         bool
}

type schedulePage struct {
	Form      scheduleForm
	Was       *job.Schedule // nil of a new one
	Row       scheduleRow
	Instances []*state
	Problem   string
	Firings   firingsOf
}

// firingsOf is what a schedule would do as it is typed.
type firingsOf struct {
	Next       []time.Time
	Jitter     string
	CronWrong  string
	ProveNext  time.Time
	ProveWrong string
	Zone       string
	Read       bool     // there is something to show
	Keeps      *keepsOf // nil of a schedule that isn't stored yet
}

// keepsOf is what a schedule's retention would do after its next backup, as it is typed.
type keepsOf struct {
	Wrong       string
	All         bool // no rule deletes
	Goes, Stays int
	Frees       int64
	Stored      int               // how many go by the rules that are stored
	First       []server.Retained // of those that go
}

// mostGone is how many of the backups that go are named.
const mostGone = 5

// keepsOf works out what a form would do to the backups that there are.
func (c *call) keepsOf(f scheduleForm) *keepsOf {
	who, err := c.as(f.ID)
	if err != nil {
		return nil
	}
	was, err := c.o.Server.ScheduleRetention(c.r.Context(), who, f.ID, nil)
	if err != nil {
		return nil
	}
	var s job.Schedule
	out := &keepsOf{}
	if out.Wrong = f.into(&s); out.Wrong != "" {
		return out
	}
	is, err := c.o.Server.ScheduleRetention(c.r.Context(), who, f.ID, &s.Keep)
	if problem, ok := theirs(err); ok {
		out.Wrong = problem
		return out
	}
	if err != nil {
		return nil
	}
	out.All = s.Keep.IsZero()
	out.Stored, _ = was.Frees()
	out.Goes, out.Frees = is.Frees()
	out.Stays = len(is.Backups) - out.Goes
	for _, b := range is.Backups {
		if !b.Stays && len(out.First) < mostGone {
			out.First = append(out.First, b)
		}
	}
	return out
}

func formOf(s *job.Schedule) scheduleForm {
	n := func(v int) string {
		if v == 0 {
			return ""
		}
		return strconv.Itoa(v)
	}
	d := func(v time.Duration) string {
		if v == 0 {
			return ""
		}
		text := v.String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
		return text
	}
	k := s.Keep
	return scheduleForm{ID: s.ID, Instance: s.Instance, Name: s.Name, Cron: s.Cron, TimeZone: s.TimeZone, Jitter: d(s.Jitter), Window: d(s.Window), ProveCron: s.ProveCron, Heartbeat: s.Heartbeat,
		Last: n(k.Last), Hourly: n(k.Hourly), Daily: n(k.Daily), Weekly: n(k.Weekly), Monthly: n(k.Monthly), Yearly: n(k.Yearly), Within: k.Within, CatchUp: s.CatchUp, Enabled: s.Enabled}
}

// typed is the form of a request.
func (c *call) typed() scheduleForm {
	v := func(name string) string { return strings.TrimSpace(c.r.FormValue(name)) }
	return scheduleForm{ID: c.r.PathValue("id"), Instance: v("instance"), Name: v("name"), Cron: v("cron"), TimeZone: v("zone"), Jitter: v("jitter"), Window: v("window"), ProveCron: v("prove"), Heartbeat: v("heartbeat"),
		Last: v("last"), Hourly: v("hourly"), Daily: v("daily"), Weekly: v("weekly"), Monthly: v("monthly"), Yearly: v("yearly"), Within: v("within"), CatchUp: v("catchup") != "", Enabled: v("enabled") != ""}
}

// into writes the form into a schedule; problem is what can't be meant.
func (f *scheduleForm) into(s *job.Schedule) (problem string) {
	s.Name, s.Cron, s.TimeZone, s.ProveCron, s.Heartbeat, s.CatchUp, s.Enabled = f.Name, f.Cron, f.TimeZone, f.ProveCron, f.Heartbeat, f.CatchUp, f.Enabled
	for _, d := range []struct {
		text, name string
		to         *time.Duration
	}{{f.Jitter, "Jitter", &s.Jitter}, {f.Window, "May begin for", &s.Window}} {
		*d.to = 0
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v < 0 {
			return d.name + ": write it as 15m, 1h30m or 12h."
		}
		*d.to = v
	}
	k := &s.Keep
	for _, n := range []struct {
		text, name string
		to         *int
	}{{f.Last, "last", &k.Last}, {f.Hourly, "hourly", &k.Hourly}, {f.Daily, "daily", &k.Daily}, {f.Weekly, "weekly", &k.Weekly}, {f.Monthly, "monthly", &k.Monthly}, {f.Yearly, "yearly", &k.Yearly}} {
		*n.to = 0
		if n.text == "" {
			continue
		}
		v, err := strconv.Atoi(n.text)
		if err != nil || v < 0 {
			return "Keep " + n.name + ": a whole number, or nothing."
		}
		*n.to = v
	}
	k.Within = f.Within
	return ""
}

// firingsOf works out what a form would do, five firings ahead.
func (c *call) firingsOf(f scheduleForm) firingsOf {
	out := firingsOf{Zone: cmp.Or(f.TimeZone, "UTC"), Jitter: f.Jitter, Keeps: c.keepsOf(f)}
	if f.Cron == "" {
		return out
	}
	out.Read = true
	spec, err := schedule.Parse(f.Cron, f.TimeZone)
	if err != nil {
		out.CronWrong = words.UpperFirst(err.Error()) + "."
		return out
	}
	for at := c.now(); len(out.Next) < 5; {
		if at = spec.Next(at); at.IsZero() {
			break
		}
		out.Next = append(out.Next, at)
	}
	if f.ProveCron != "" {
		if spec, err = schedule.Parse(f.ProveCron, f.TimeZone); err != nil {
			out.ProveWrong = words.UpperFirst(err.Error()) + "."
		} else {
			out.ProveNext = spec.Next(c.now())
		}
	}
	return out
}

// firings shows what the form that is being typed would do.
func (c *call) firings() (*answer, error) {
	f := c.typed()
	f.ID = c.r.FormValue("schedule")
	return c.page("Next five firings", "firings", c.firingsOf(f)), nil
}

func (c *call) newSchedule() (*answer, error) {
	f := scheduleForm{Instance: c.r.FormValue("instance"), Name: "nightly", Cron: "30 2 * * *", TimeZone: c.set.zone.String(), Jitter: "20m", Window: "3h", Daily: "14", Weekly: "8", ProveCron: "0 5 * * sun", CatchUp: true, Enabled: true}
	if f.TimeZone == "Local" {
		f.TimeZone = ""
	}
	return c.scheduleAnswer(f, nil, ""), nil
}

// scheduleAnswer is the page of a schedule with its form.
func (c *call) scheduleAnswer(f scheduleForm, was *job.Schedule, problem string) *answer {
	p := schedulePage{Form: f, Was: was, Instances: c.states(), Problem: problem, Firings: c.firingsOf(f)}
	title := "New schedule"
	if was != nil {
		p.Row = c.scheduleRow(was, c.names())
		title = was.Name
	}
	if problem != "" {
		return c.again(title, "schedule", p)
	}
	return c.page(title, "schedule", p)
}

func (c *call) createSchedule() (*answer, error) {
	f := c.typed()
	f.Enabled = true
	s := &job.Schedule{Instance: f.Instance}
	if problem := f.into(s); problem != "" {
		return c.scheduleAnswer(f, nil, problem), nil
	}
	who, err := c.as(f.Instance)
	if err != nil {
		return c.scheduleAnswer(f, nil, "Choose an instance."), nil
	}
	made, err := c.o.Server.CreateSchedule(c.r.Context(), who, s)
	if problem, ok := theirs(err); ok {
		return c.scheduleAnswer(f, nil, problem), nil
	}
	if err != nil {
		return nil, err
	}
	c.log.Target = made.ID
	return c.see(pathOf("schedules", made.ID), "The schedule is stored; it fires next "+when(made.Next, c.now(), c.set.zone)+"."), nil
}

// findSchedule returns a schedule that the caller sees, and the caller in its project.
func (c *call) findSchedule() (*job.Schedule, *access.Caller, error) {
	id := c.r.PathValue("id")
	who, err := c.as(id)
	if err != nil {
		return nil, nil, err
	}
	s, err := c.o.Server.Schedule(c.r.Context(), who, id)
	return s, who, err
}

func (c *call) schedulePage() (*answer, error) {
	s, _, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	return c.scheduleAnswer(formOf(s), s, ""), nil
}

func (c *call) updateSchedule() (*answer, error) {
	s, who, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	f := c.typed()
	f.Instance, f.Enabled = s.Instance, s.Enabled
	if problem := f.into(&job.Schedule{}); problem != "" {
		return c.scheduleAnswer(f, s, problem), nil
	}
	_, err = c.o.Server.UpdateSchedule(c.r.Context(), who, s.ID, func(s *job.Schedule) error {
		enabled := s.Enabled
		f.into(s)
		s.Enabled = enabled
		return nil
	})
	if problem, ok := theirs(err); ok {
		return c.scheduleAnswer(f, s, problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(pathOf("schedules", s.ID), "Saved."), nil
}

func (c *call) pauseSchedule() (*answer, error) {
	s, who, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	on := c.r.FormValue("enabled") != ""
	_, err = c.o.Server.UpdateSchedule(c.r.Context(), who, s.ID, func(s *job.Schedule) error {
		s.Enabled = on
		return nil
	})
	if problem, ok := theirs(err); ok {
		return c.scheduleAnswer(formOf(s), s, problem), nil
	}
	if err != nil {
		return nil, err
	}
	said := "The schedule is paused."
	if on {
		said = "The schedule goes on."
	}
	return c.see(pathOf("schedules", s.ID), said), nil
}

func (c *call) runSchedule() (*answer, error) {
	s, who, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	b, err := c.o.Server.RunSchedule(c.r.Context(), who, s.ID)
	if problem, ok := theirs(err); ok {
		return c.scheduleAnswer(formOf(s), s, problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(pathOf("backups", b.ID), "The backup was begun."), nil
}

type deleteSchedulePage struct {
	Row     scheduleRow
	Confirm confirm
}

func (c *call) scheduleDeletion(s *job.Schedule) deleteSchedulePage {
	row := c.scheduleRow(s, c.names())
	return deleteSchedulePage{row, confirm{Action: pathOf("schedules", s.ID, "delete"), Back: pathOf("schedules", s.ID), Word: s.Name, Do: "Delete schedule",
		Head: "The schedule " + s.Name + " of " + row.Of + " fires no more.",
		Points: []point{{"ok", "ok", "Its backups stay:", "no rule of it deletes them any more."},
			{"warn", "warn", row.Of + " is late after 26 h", "unless another schedule, or somebody, makes backups of it."}}}}
}

func (c *call) askDeleteSchedule() (*answer, error) {
	s, _, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	return c.page("Delete schedule", "schedule-delete", c.scheduleDeletion(s)), nil
}

func (c *call) deleteSchedule() (*answer, error) {
	s, who, err := c.findSchedule()
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(c.r.FormValue("word")) != strings.TrimSpace(s.Name) {
		p := c.scheduleDeletion(s)
		p.Confirm.Wrong = "That is not the schedule's name. Nothing was deleted."
		return c.again("Delete schedule", "schedule-delete", p), nil
	}
	if err := c.o.Server.DeleteSchedule(c.r.Context(), who, s.ID); err != nil {
		return nil, err
	}
	return c.see("/schedules", "The schedule "+s.Name+" was deleted."), nil
}
