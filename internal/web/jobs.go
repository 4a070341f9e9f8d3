package web

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
)

var jobRoutes = []route{
	{"GET /jobs", access.Viewer, "", (*call).jobsPage},
	{"GET /jobs/{id}", access.Viewer, "", (*call).jobPage},
	{"GET /jobs/{id}/cancel", access.Operator, "", (*call).askCancel},
	{"POST /jobs/{id}/cancel", access.Operator, "job.cancel", (*call).cancelJob},
}

// jobsFor is how far back the dashboard lists jobs that have ended: as long as they are kept.
const jobsFor = 8 * 24 * time.Hour

// jobs are those that the caller may see, the newest first. They are asked for once for a page, which needs them for the menu too.
func (c *call) jobs() []*job.Job {
	if c.worked == nil {
		c.worked = c.o.Server.JobsSince(c.who, c.all(), jobsFor)
	}
	return c.worked
}

// jobRow is a job in words.
type jobRow struct {
	*job.Job
	What   string // "Backup of shop-1"
	By     string
	Pill   pill
	Note   string // what came of it, or why not
	At     time.Time
	Took   time.Duration
	Cancel bool   // it can be ended
	About  string // path of what it is about
	Progress
}

// Progress is how far something is.
type Progress struct {
	Known   bool
	Percent int
	Label   string
	Text    string
}

// jobRows are all jobs in words: those that have not ended, the oldest first, and those
// that have, the last first.
func (c *call) jobRows() (running, ended []jobRow) {
	names, schedules := c.names(), map[string]string{}
	for _, s := range c.schedules() {
		schedules[s.ID] = s.Name
	}
	for _, j := range c.jobs() {
		row := c.jobRow(j, names, schedules)
		if j.State.Ended() {
			ended = append(ended, row)
		} else {
			running = append(running, row)
		}
	}
	slices.Reverse(running)
	slices.SortStableFunc(ended, func(a, b jobRow) int { return b.At.Compare(a.At) })
	return running, ended
}

// schedules are those that the caller sees.
func (c *call) schedules() []*job.Schedule {
	return c.o.Server.SchedulesOf(c.who, c.all())
}

func (c *call) jobRow(j *job.Job, names, schedules map[string]string) jobRow {
	row := jobRow{Job: j, What: whatJob(j, names[j.Instance]), Pill: jobPill(j), Note: c.jobNote(j), At: j.Created, Cancel: server.Cancellable(j) && c.who.May(access.Operator)}
	if j.Ended != nil {
		row.At = *j.Ended
		row.Took = j.Ended.Sub(j.Created)
	}
	switch {
	case j.Schedule != "":
		row.By = "schedule " + cmp.Or(schedules[j.Schedule], "that is gone")
	case j.By == c.who.User && j.By != "":
		row.By = "you"
	default:
		row.By = cmp.Or(j.By, "the server")
	}
	switch {
	case j.Kind == job.KindRestore && j.Spec.Part != nil:
		row.About = pathOf("restores", j.Spec.Part.Restore)
	case j.Kind == job.KindDocuments && c.has("/instances/{id}/restore-doc"):
		row.About = pathOf("instances", j.Instance, "restore-doc") + "?job=" + j.ID
	case j.Kind == job.KindCreate && j.Instance != "" && names[j.Instance] != "":
		row.About = pathOf("instances", j.Instance)
	case j.Backup != "" && j.Kind != job.KindDeleteBackup:
		row.About = pathOf("backups", j.Backup)
	case names[j.Instance] != "":
		row.About = pathOf("instances", j.Instance)
	}
	row.Progress = c.progress(j, row.What)
	return row
}

// progress is how far a job is, in words: 62 %, 1.4 of 2.3 GB, 84 MB/s, 4 min left.
func (c *call) progress(j *job.Job, what string) Progress {
	at := j.At
	switch {
	case j.State == job.Queued:
		return Progress{Text: "not begun; it begins by itself as soon as the agent has time"}
	case j.State.Ended():
		return Progress{}
	case at.Bytes <= 0 && at.Files <= 0:
		return Progress{Text: "begun " + Ago(j.Created, c.now())}
	}
	p := Progress{Known: true}
	parts := []string{}
	took := c.now().Sub(j.Created).Seconds()
	if at.Bytes > 0 {
		p.Percent = int(100 * min(at.BytesDone, at.Bytes) / at.Bytes)
		parts = append(parts, amountOf(at.BytesDone, at.Bytes))
		if rate := float64(at.BytesDone) / max(took, 1); rate > 0 && at.BytesDone > 0 {
			parts = append(parts, Bytes(int64(rate))+"/s")
			if left := float64(at.Bytes-at.BytesDone) / rate; left >= 1 {
				parts = append(parts, short(time.Duration(left*float64(time.Second)))+" left")
			}
		}
	} else {
		p.Percent = int(100 * min(at.FilesDone, at.Files) / at.Files)
	}
	if at.Files > 0 {
		parts = append(parts, "file "+Number(at.FilesDone)+" of "+Number(at.Files))
	}
	if p.Percent == 100 { // a job that works isn't done
		p.Percent, parts = 99, append(parts, restOf(j.Kind))
	}
	p.Text = Number(p.Percent) + " %, " + strings.Join(parts, ", ")
	p.Label = what + ", " + Number(p.Percent) + " %"
	return p
}

// restOf is what a job does when all its bytes are done.
func restOf(k job.Kind) string {
	switch k {
	case job.KindBackup:
		return "all stored; its record and its copies follow"
	case job.KindProve:
		return "all read back; what it holds is tested"
	}
	return "all written; the last steps follow"
}

// amountOf is "1.4 of 2.3 GB", or with two units if they differ.
func amountOf(done, of int64) string {
	a, b := Bytes(done), Bytes(of)
	n, unit, _ := strings.Cut(a, " ")
	if strings.HasSuffix(b, " "+unit) {
		return n + " of " + b
	}
	return a + " of " + b
}

type jobsPage struct {
	Running []jobRow
	Ended   []jobRow
	Pager   pager
	Filter  string
	Bad     int
	Done    int // in the last day
	Failed  int
}

func (c *call) jobsPage() (*answer, error) {
	running, ended := c.jobRows()
	p := jobsPage{Running: running, Filter: c.r.FormValue("f")}
	day := c.now().Add(-24 * time.Hour)
	var list []jobRow
	for _, j := range ended {
		bad := j.State == job.Failed && !j.WasCancelled()
		if bad {
			p.Bad++
		}
		if j.At.After(day) {
			if bad {
				p.Failed++
			} else {
				p.Done++
			}
		}
		if p.Filter == "" || p.Filter == "bad" && bad || p.Filter == string(j.Kind) || p.Filter == "restore" && (j.Kind == job.KindCreate || j.Kind == job.KindDocuments) {
			list = append(list, j)
		}
	}
	p.Ended, p.Pager = paged(c, list, func(j jobRow) string {
		text := []string{j.What, j.Job.By, j.By, j.Note, j.Pill.Text, j.ID, j.Backup, j.Fault}
		for _, line := range j.Log.Lines {
			text = append(text, line.Text)
		}
		return strings.Join(text, " ")
	})
	return c.livePage("Jobs", "jobs", "jobs.live", p), nil
}

// find returns a job that the caller sees.
func (c *call) findJob() (*jobRow, error) {
	id := c.r.PathValue("id")
	for _, j := range c.jobs() {
		if j.ID == id {
			schedules := map[string]string{}
			for _, s := range c.schedules() {
				schedules[s.ID] = s.Name
			}
			row := c.jobRow(j, c.names(), schedules)
			return &row, nil
		}
	}
	return nil, api.NoResource(id)
}

type jobPage struct {
	*jobRow
	Lines     shownLog
	Agent     string
	Leaves    string // what cancelling leaves
	Instances map[string]string
}

func (c *call) jobPage() (*answer, error) {
	j, err := c.findJob()
	if err != nil {
		return nil, err
	}
	p := jobPage{jobRow: j, Lines: c.shownLog(j.Log), Leaves: cancelLeaves(j.Job), Instances: c.names()}
	for _, a := range c.o.Server.Agents() {
		if a.ID == j.Job.Agent {
			p.Agent = a.Name
		}
	}
	return c.livePage(j.What, "job", "job.live", p), nil
}

// shownLog is a log as pages show it.
type shownLog struct {
	Lines []shownLine
	Days  bool // it is not all of today
}

type shownLine struct {
	At    time.Time
	Class string
	Text  string
}

func (c *call) shownLog(l job.Log) (out shownLog) {
	day := func(t time.Time) string { return t.In(c.set.zone).Format(time.DateOnly) }
	for n, line := range l.Lines {
		if n == job.FirstLines && l.Left > 0 {
			out.Lines = append(out.Lines, shownLine{line.At, "warn", plural(l.Left, "line is left out here.", "lines are left out here.")})
		}
		class := ""
		switch first, _, _ := strings.Cut(line.Text, ":"); {
		case first == "Failed", first == "Problem", first == "Ended", strings.HasSuffix(first, " failed"), strings.HasPrefix(first, "The test has ended"):
			class = "bad"
		case first == "Note", strings.HasPrefix(first, "Cancelled"), strings.HasPrefix(first, "It waits"):
			class = "warn"
		}
		out.Days = out.Days || day(line.At) != day(c.now())
		out.Lines = append(out.Lines, shownLine{line.At, class, line.Text})
	}
	return out
}

func (c *call) askCancel() (*answer, error) {
	j, err := c.findJob()
	if err != nil {
		return nil, err
	}
	if !j.Cancel {
		return c.see(pathOf("jobs", j.ID), ""), nil
	}
	return c.page("Cancel "+j.What, "cancel", jobPage{jobRow: j, Leaves: cancelLeaves(j.Job)}), nil
}

func (c *call) cancelJob() (*answer, error) {
	id := c.r.PathValue("id")
	who, err := c.as(id)
	if err != nil {
		return nil, err
	}
	if err := c.o.Server.CancelJob(c.r.Context(), who, id); err != nil {
		return nil, err
	}
	return c.see(pathOf("jobs", id), "The job was cancelled."), nil
}
