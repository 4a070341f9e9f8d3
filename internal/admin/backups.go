package admin

import (
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
)

type backupView struct {
	ID             string         `json:"id"`
	Name           string         `json:"name"`
	Description    string         `json:"description,omitempty"`
	Project        string         `json:"project"`
	Instance       string         `json:"instance"`
	Parent         string         `json:"parent,omitempty"`
	Schedule       string         `json:"schedule,omitempty"`
	Set            string         `json:"set,omitempty"`
	Status         string         `json:"status"`
	Fault          string         `json:"fault,omitempty"`
	Job            string         `json:"job,omitempty"`
	Progress       *progressView  `json:"progress,omitempty"`
	Type           string         `json:"type,omitempty"`
	CouchDBVersion string         `json:"couchdb_version,omitempty"`
	SizeBytes      int64          `json:"size_bytes"`
	StoredBytes    int64          `json:"stored_bytes"`
	Databases      int            `json:"databases"`
	Damage         int            `json:"damage"`
	Checksum       string         `json:"checksum,omitempty"`
	Location       string         `json:"location,omitempty"`
	Repository     repositoryView `json:"repository"`
	RepoName       string         `json:"repo_name"`
	RepoID         string         `json:"repo_id,omitempty"`
	Notes          []string       `json:"notes"`
	Proof          *job.Proof     `json:"proof,omitempty"`
	Pin            *job.Pin       `json:"pin,omitempty"`
	Pinning        string         `json:"pinning,omitempty"`
	Started        *time.Time     `json:"started,omitempty"`
	Finished       *time.Time     `json:"finished,omitempty"`
	Created        time.Time      `json:"created"`
	Updated        time.Time      `json:"updated"`
}

type progressView struct {
	Files       int64 `json:"files"`
	FilesDone   int64 `json:"files_done"`
	Bytes       int64 `json:"bytes"`
	BytesDone   int64 `json:"bytes_done"`
	StoredBytes int64 `json:"stored_bytes"`
}

func viewProgress(p job.Progress) progressView {
	return progressView{p.Files, p.FilesDone, p.Bytes, p.BytesDone, p.Stored}
}

func (c *call) viewBackup(b *job.Backup) backupView {
	v := backupView{ID: b.ID, Name: b.Name, Description: b.Description, Project: b.Project, Instance: b.Instance, Parent: b.Parent, Schedule: b.Schedule, Set: b.Set,
		Status: string(b.Status), Fault: b.Fault, Job: b.Job, Type: b.Type, CouchDBVersion: b.CouchDBVersion, SizeBytes: b.Size, StoredBytes: b.Stored,
		Databases: b.Databases, Damage: b.Damage, Checksum: b.Checksum, Location: b.Location(), Repository: viewRepository(b.Repository),
		RepoName: b.RepoName, RepoID: b.RepoID, Notes: nonNil(b.Notes), Proof: b.Proof, Pin: b.Pin, Pinning: b.Pinning, Started: b.Started, Finished: b.Finished,
		Created: b.Created, Updated: b.Updated}
	if at, ok := c.Server.Progress(b); ok {
		p := viewProgress(at)
		v.Progress = &p
	}
	return v
}

func (c *call) showBackup() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	b, err := c.Server.Backup(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"backup": c.viewBackup(b)}, nil
}

func (c *call) prove() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	j, err := c.Server.Prove(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"job": j}, nil
}

// pin pins a backup, or gives one that is pinned another reason.
func (c *call) pin() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	var in struct {
		Reason string `json:"reason"`
	}
	if err := c.read(&in); err != nil {
		return 0, nil, err
	}
	j, err := c.Server.Pin(c.r.Context(), c.who, id, in.Reason)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"job": j}, nil
}

func (c *call) unpin() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	j, err := c.Server.Unpin(c.r.Context(), c.who, id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"job": j}, nil
}

// jobView leaves out what the agent is told.
type jobView struct {
	ID       string       `json:"id"`
	Kind     string       `json:"kind"`
	State    string       `json:"state"`
	Project  string       `json:"project"`
	Agent    string       `json:"agent"`
	Instance string       `json:"instance,omitempty"`
	Backup   string       `json:"backup,omitempty"`
	Name     string       `json:"name,omitempty"`
	Schedule string       `json:"schedule,omitempty"`
	By       string       `json:"by,omitempty"`
	Attempt  int          `json:"attempt"`
	Fault    string       `json:"fault,omitempty"`
	Progress progressView `json:"progress"`
	// Documents is what became of documents that were put back.
	Documents *job.DocumentsDone `json:"documents,omitempty"`
	// Restore is the restore by several agents that it is a step of, and Step which.
	Restore string `json:"restore,omitempty"`
	Step    string `json:"step,omitempty"`
	// Log is left out of lists.
	Log     *logView   `json:"log,omitempty"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
	Ended   *time.Time `json:"ended,omitempty"`
}

func (c *call) viewJob(j *job.Job) jobView {
	at := j.At
	if j.Kind == job.KindBackup && !j.State.Ended() { // what is stored is up to 15 s old
		if b, err := c.Server.Backup(c.r.Context(), c.who, j.Backup); err == nil {
			if p, ok := c.Server.Progress(b); ok {
				at = p
			}
		}
	}
	done := j.Documents
	if !c.who.MayRead() { // ids of documents are no more than those may know
		done = nil
	}
	view := jobView{ID: j.ID, Kind: string(j.Kind), State: string(j.State), Project: j.Project, Agent: j.Agent, Instance: j.Instance, Backup: j.Backup,
		Name: j.Spec.Name, Schedule: j.Schedule, By: j.By, Attempt: j.Attempt, Fault: j.Fault, Progress: viewProgress(at), Documents: done, Created: j.Created, Updated: j.Updated, Ended: j.Ended}
	if p := j.Spec.Part; p != nil {
		view.Restore, view.Step = p.Restore, string(p.Step)
	}
	return view
}

// logView is what happened, in words; left are lines behind the first ones that were left out.
type logView struct {
	Lines []job.Line `json:"lines"`
	Left  int        `json:"left,omitempty"`
}

func viewLog(l job.Log) logView { return logView{nonNil(l.Lines), l.Left} }

func (c *call) listJobs() (int, any, error) {
	list := []jobView{}
	jobs := c.Server.Jobs(c.who)
	if text := c.r.URL.Query().Get("since"); text != "" {
		var since length
		if err := since.UnmarshalText([]byte(text)); err != nil {
			return 0, nil, err
		}
		jobs = c.Server.JobsSince(c.who, false, time.Duration(since))
	}
	for _, j := range jobs {
		list = append(list, c.viewJob(j))
	}
	return http.StatusOK, map[string]any{"jobs": list}, nil
}

func (c *call) showJob() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	for _, j := range c.Server.JobsSince(c.who, false, allJobs) {
		if j.ID == id {
			view, log := c.viewJob(j), viewLog(j.Log)
			view.Log = &log
			return http.StatusOK, map[string]any{"job": view}, nil
		}
	}
	return 0, nil, api.NoResource(id)
}

// allJobs is longer than any job stays that has ended.
const allJobs = 365 * 24 * time.Hour

func (c *call) cancelJob() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, c.Server.CancelJob(c.r.Context(), c.who, id)
}
