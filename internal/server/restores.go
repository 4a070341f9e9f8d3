package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
	"github.com/slipcover/slipcover/internal/words"
)

// A restore that several agents carry out together goes in steps. Its document says which step it is in and how each node does
// in it; a step's jobs have ids that are made of the restore's, so that any server may hand them out again. The end of
// a job is noted in the document before the job is marked as ended, and when all nodes have ended a step the next one is begun, by whichever
// server sees it first. So a server may die at any moment: the sweep goes on.
//
// The steps of a database are arranged so that it is there as a whole or not at all. Nothing is taken back once a map may
// be written: see next.

const (
	maxPlan      = 256 << 10           // bytes
	maxRestoring = 200                 // nodes of a plan
	keepRestored = 30 * 24 * time.Hour // that a restore which has ended is listed
	maxOfAPart   = 50                  // problems and notes of a node
	aheadOfUs    = time.Minute         // that a suffix may be: as long as an agent waits for it
	undoneLater  = "its agent is not heard of: what it has put beside its data goes when it is back"
)

// RestoreRequest asks for a restore by several agents.
type RestoreRequest struct {
	Plan   string            // as topology.Parse reads it
	Agents map[string]string // by the plan's nodes: names of the agents
	// DB is a database that comes into a running cluster, whose nodes are the plan's, and As its name there; "" keeps it.
	DB, As string
	// Replace has it take the place of the database of its name, or of all that is in the nodes' data directories. A database's node must be
	// alone: of several, some would answer out of the old files until they have read the new map.
	Replace bool
}

// StartRestore begins a restore, or goes on with the one that was asked for by the same request.
func (s *Server) StartRestore(ctx context.Context, who *access.Caller, q RestoreRequest) (*job.Restore, error) {
	ctx = whole(ctx)
	r, plan, err := s.newRestore(who, q)
	if err != nil {
		return nil, err
	}
	if err := s.mayRestore(who, plan); err != nil {
		return nil, err
	}
	r.Attempt = 1
	s.begins(r, job.StepCheck)
	s.logRestore(nil, r)
	err = s.restores.create(ctx, r.ID, r)
	if errors.Is(err, bus.ErrExists) {
		r, err = s.changeRestore(ctx, r.ID, func(now *job.Restore) error { return s.askAgain(now, r, plan) })
	}
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "restore begun", "restore", r.ID, "cluster", r.Cluster, "database", r.DB, "replace", r.Replace, "attempt", r.Attempt, "step", r.Step)
	return s.advance(ctx, r.ID)
}

// newRestore makes the document of what is asked for.
func (s *Server) newRestore(who *access.Caller, q RestoreRequest) (*job.Restore, *topology.Plan, error) {
	if len(q.Plan) > maxPlan {
		return nil, nil, refuse(Invalid, "The plan is longer than %d KiB.", maxPlan>>10)
	}
	plan, err := topology.Parse(strings.NewReader(q.Plan))
	if err != nil {
		return nil, nil, refuse(Invalid, "%s.", firstLine(err.Error()))
	}
	if len(plan.Nodes) > maxRestoring {
		return nil, nil, refuse(Invalid, "The plan has more than %d nodes.", maxRestoring)
	}
	r := &job.Restore{By: who.User, Project: who.Project, Plan: q.Plan, Cluster: plan.Cluster, DB: q.DB, As: cmp.Or(q.As, q.DB), Replace: q.Replace}
	tidy(maxName, &r.Cluster)
	switch {
	case q.DB == "" && q.As != "":
		return nil, nil, refuse(Invalid, "A new name is for one database.")
	case q.DB != "" && (!shard.ValidDB(r.DB) || !shard.ValidDB(r.As)):
		return nil, nil, refuse(Invalid, "CouchDB gives no database such a name.")
	case strings.HasPrefix(r.As, "_"):
		return nil, nil, refuse(Invalid, "%s is a system database: bring it back over HTTP.", r.As)
	}
	if q.Replace && q.DB != "" && len(plan.Nodes) > 1 {
		return nil, nil, refuse(Invalid, "A database of a cluster is not replaced: until each node has read the new shard map, some would answer out of the old files and take writes into them. Restore it under another name, or drop the old one first.")
	}
	taken := map[string]string{}
	for _, n := range plan.Nodes {
		name := q.Agents[n.Name]
		if name == "" {
			return nil, nil, refuse(Invalid, "The plan's node %s has no agent: name one for each node.", n.Name)
		}
		if taken[name] != "" {
			return nil, nil, refuse(Invalid, "The agent %s is to be both %s and %s.", name, taken[name], n.Name)
		}
		taken[name] = n.Name
		a := s.agentNamed(who.Project, name)
		if a == nil {
			return nil, nil, refuse(NotFound, "There is no agent %q.", name)
		}
		r.Nodes = append(r.Nodes, job.RestoreNode{Name: n.Name, Agent: a.ID, AgentName: a.Name})
	}
	for node := range q.Agents {
		if !slices.ContainsFunc(plan.Nodes, func(n topology.Node) bool { return n.Name == node }) {
			return nil, nil, refuse(Invalid, "%s is none of the plan's nodes.", node)
		}
	}
	for _, n := range r.Nodes {
		a := s.agents.have(n.Agent)
		if a == nil {
			return nil, nil, refuse(NotFound, "There is no agent %q.", n.AgentName)
		}
		if _, online := s.hello(a); !online {
			return nil, nil, refuse(Busy, "The agent %s is offline.", n.AgentName)
		}
	}
	if r.Replace {
		r.Round = s.now()
	}
	r.ID = idOf(r)
	return r, plan, nil
}

// idOf makes the id of a restore of what it is: a cluster's of its plan, and a database's of where it goes, since a plan
// that is made a moment later may have newer backups.
func idOf(r *job.Restore) string {
	text := []string{"restore", r.Project, r.As}
	if r.DB == "" {
		text = append(text, r.Plan)
	}
	if r.Replace {
		text = append(text, "replace")
	}
	for _, n := range r.Nodes {
		text = append(text, n.Name, n.AgentName)
	}
	return uuid.NewSHA1(namespace, []byte(strings.Join(text, "\x00"))).String()
}

func (s *Server) agentNamed(project, name string) (found *job.Agent) {
	s.agents.all(func(_ string, a *job.Agent) bool {
		if a.Project == project && a.Name == name && (found == nil || a.ID > found.ID) {
			found = a
		}
		return true
	})
	return found
}

// mayRestore refuses backups that are being deleted, and those of instances that aren't known as the project's: several projects may share a repository. An
// administrator may restore all but other projects'.
func (s *Server) mayRestore(who *access.Caller, plan *topology.Plan) error {
	mine, theirs := map[string]bool{}, map[string]bool{}
	note := func(name, project string) {
		if project == who.Project {
			mine[name] = true
		} else {
			theirs[name] = true
		}
	}
	s.instances.all(func(_ string, i *job.Instance) bool { note(i.RepoName, i.Project); return true })
	going, stays := map[string]bool{}, map[string]bool{} // by their ids in repositories
	s.backups.all(func(_ string, b *job.Backup) bool {
		note(b.RepoName, b.Project)
		if b.Status == job.BackupDeleting {
			going[b.RepoID] = true
		} else {
			stays[b.RepoID] = true
		}
		return true
	})
	for _, b := range plan.Backups {
		switch {
		case theirs[b.Instance]:
			return refuse(Forbidden, "The instance %s of the plan is another project's.", b.Instance)
		case !mine[b.Instance] && !who.May(access.Admin):
			return refuse(Forbidden, "The service knows no instance %s, so only an administrator may have its backups restored.", b.Instance)
		case going[string(b.ID)] && !stays[string(b.ID)]:
			return refuse(Conflict, "The backup %s of %s is being deleted: make the plan again.", b.ID, b.Node)
		}
	}
	return nil
}

// askAgain has a restore that has ended begin again, where it must go on.
func (s *Server) askAgain(now, asked *job.Restore, plan *topology.Plan) error {
	open := now.State == job.Running || now.Undecided || now.Written && now.State == job.Failed
	if open && now.DB != "" && !sameState(now, asked, plan) {
		return refuse(Conflict, "The restore of another state into %s was not finished: it is %s, step %s. Ask for that one again, or wait for its end.", now.As, now.State, now.Step)
	}
	if now.State == job.Running {
		return errSame
	}
	if now.Replace && now.State == job.Done {
		now.Round = roundAfter(now.Round, s.now())
	}
	now.Attempt++
	now.State, now.Fault, now.Ended, now.Updated = job.Running, "", nil, s.now()
	now.By, now.Cancelled, now.Reason = asked.By, "", ""
	for i, n := range asked.Nodes { // one that was joined again is another agent
		now.Nodes = slices.Clone(now.Nodes)
		now.Nodes[i].Agent = n.Agent
	}
	switch {
	case open && now.Written:
		s.begins(now, job.StepAnswer)
	case open:
		s.begins(now, job.StepMap)
	default:
		now.Plan, now.Cluster, now.DB, now.Written, now.Undecided = asked.Plan, asked.Cluster, asked.DB, false, false
		s.begins(now, job.StepCheck)
	}
	return nil
}

// roundAfter is when a round is begun: directories are named by its second, which no round before has.
func roundAfter(last, now time.Time) time.Time {
	if next := last.Truncate(time.Second).Add(time.Second); now.Before(next) {
		return next
	}
	return now
}

// sameState reports whether two requests for a database mean the same state of it, but for backups that were made in between.
func sameState(now, asked *job.Restore, plan *topology.Plan) bool {
	old, err := topology.Parse(strings.NewReader(now.Plan))
	return err == nil && now.DB == asked.DB && old.Cluster == plan.Cluster && old.At.Equal(plan.At) && old.N == plan.N
}

// begins puts a restore at a step, with a job for each node that has something to do in it.
func (s *Server) begins(r *job.Restore, step job.Step) {
	r.Step, r.Updated = step, s.now()
	r.State = job.Running
	r.Nodes = slices.Clone(r.Nodes)
	if r.Created.IsZero() {
		r.Created = r.Updated
	}
	if step == job.StepCheck && r.DB != "" { // CouchDB's suffixes are seconds, and no attempt has that of one before
		last, _ := strconv.ParseInt(strings.TrimPrefix(r.Suffix, "."), 10, 64) // 0 of the first attempt
		if last > s.now().Add(aheadOfUs).Unix() {                              // of a clock that was ahead: agents refuse it, and all that came after it
			last = 0
		}
		r.Suffix = fmt.Sprintf(".%010d", max(s.now().Unix(), last+1))
	}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.State, n.Job, n.At = job.Done, "", job.Progress{}
		if step == job.StepCheck {
			n.Problems, n.Notes = nil, nil
		}
		if step != job.StepUndo { // which says why
			n.Fault = ""
		}
		if step == job.StepMap && i > 0 {
			continue
		}
		n.State = job.Queued
		n.Job = uuid.NewSHA1(namespace, fmt.Appendf(nil, "restore/%s/%d/%s/%s", r.ID, r.Attempt, step, n.Name)).String()
	}
}

// advance hands out the jobs of a restore's step, and begins the next one when all have ended.
func (s *Server) advance(ctx context.Context, id string) (*job.Restore, error) {
	for ended := ""; ; {
		r, err := s.changeRestore(ctx, id, func(r *job.Restore) error {
			if r.State != job.Running || !s.next(r) {
				return errSame
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if r.State != job.Running {
			return r, nil
		}
		wait, cancelled := false, r.Cancelled != "" && r.Step != job.StepUndo
		for _, n := range r.Nodes {
			if n.Job == "" || n.State.Ended() {
				continue
			}
			wait = true
			if cancelled {
				if err := s.cancelStep(ctx, r, n); err != nil {
					return r, err
				}
				continue
			}
			if s.jobs.have(n.Job) != nil {
				continue
			}
			again := r.Step == job.StepMap && r.Undecided
			j := stepJob(r, n)
			j.Spec.Part.Again = again
			if err := s.enqueue(ctx, j); err != nil {
				s.log.WarnContext(ctx, "a step of a restore could not be handed out; the sweep will", "restore", r.ID, "node", n.Name, "err", err)
			}
		}
		if round := fmt.Sprint(r.Attempt, r.Step); wait && cancelled && ended != round {
			ended = round
			continue // all of it has ended
		}
		if wait {
			return r, nil
		}
	}
}

// next changes a restore of which all nodes have ended the step, and reports whether it did. Nothing was written when a check
// fails; the files of a database go again unless a map was written or may be.
func (s *Server) next(r *job.Restore) bool {
	if slices.ContainsFunc(r.Nodes, func(n job.RestoreNode) bool { return !n.State.Ended() }) {
		return false
	}
	fault := faultsOf(r)
	if r.Cancelled != "" && (r.Step == job.StepCheck || r.Step == job.StepFiles) { // even if all were done by then
		fault = job.Cancelled + r.Cancelled
	}
	end := func(state job.State, fault string) {
		now := s.now()
		r.State, r.Fault, r.Updated, r.Ended = state, clipSentence(fault), now, &now
	}
	switch {
	case r.Step == job.StepCheck && fault != "":
		end(job.Failed, fault+". Nothing was written")
	case r.Step == job.StepCheck:
		s.begins(r, job.StepFiles)
	case r.Step == job.StepFiles && r.DB == "" && r.Cancelled != "":
		what := ""
		if r.Replace {
			what = ", and what was there before beside it, in a directory with .before- and a time behind its name: move that back"
		}
		end(job.Failed, fault+". What was restored by then is in the nodes' data directories"+what+". The same request goes on with it")
	case r.Step == job.StepFiles && r.DB == "" && fault != "":
		end(job.Failed, fault)
	case r.Step == job.StepFiles && r.DB == "":
		end(job.Done, "")
	case r.Step == job.StepFiles && fault == "":
		s.begins(r, job.StepMap)
	case r.Step == job.StepMap && r.Written:
		s.begins(r, job.StepAnswer)
	case r.Step == job.StepMap && r.Undecided:
		end(job.Failed, fault+". It is not known whether the shard map was written: the files stay where they are, and the same request goes on")
	case r.Step == job.StepFiles, r.Step == job.StepMap:
		r.Reason = clipSentence(fault)
		r.Fault = r.Reason
		s.begins(r, job.StepUndo)
	case r.Step == job.StepAnswer && fault != "":
		end(job.Failed, fault+". The database is there; the same request looks again")
	case r.Step == job.StepAnswer:
		end(job.Done, "")
	default: // undone
		end(job.Failed, undone(r))
	}
	return true
}

// undone says what is left of a restore that was undone.
func undone(r *job.Restore) string {
	var left []string
	for _, n := range r.Nodes {
		if n.State == job.Failed {
			left = append(left, n.Name)
		}
	}
	if len(left) > 0 {
		return fmt.Sprintf("%s. No shard map was written; files are still on %s", r.Reason, strings.Join(left, ", "))
	}
	if r.Replace {
		return r.Reason + ". The database is the one that it was before"
	}
	return r.Reason + ". Nothing of the database is left in the cluster"
}

// stepJob is the job of a node for a restore's step.
func stepJob(r *job.Restore, n job.RestoreNode) *job.Job {
	return &job.Job{ID: n.Job, Kind: job.KindRestore, Agent: n.Agent, Project: r.Project, By: r.By, Spec: job.Spec{Name: cmp.Or(r.As, r.Cluster),
		Part: &job.Part{Restore: r.ID, Step: r.Step, Plan: r.Plan, Node: n.Name, DB: r.DB, As: r.As, Suffix: r.Suffix, Replace: r.Replace, Round: r.Round}}}
}

// cancelStep ends a node's step of a restore that was cancelled. Where there is no job yet, one that has failed takes its place, so that no server
// can hand it out later.
func (s *Server) cancelStep(ctx context.Context, r *job.Restore, n job.RestoreNode) error {
	now := s.now()
	dead := stepJob(r, n)
	dead.State, dead.Fault, dead.Created, dead.Updated, dead.Ended = job.Failed, job.Cancelled+r.Cancelled, now, now, &now
	dead.Log = dead.Log.With(now, words.UpperFirst(dead.Fault)+".")
	err := s.jobs.create(ctx, n.Job, dead)
	switch {
	case err == nil:
		return s.endStep(ctx, dead, job.Report{State: job.Failed, Fault: dead.Fault})
	case !errors.Is(err, bus.ErrExists):
		return err
	}
	k, err := s.jobs.read(ctx, n.Job)
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return nil
	case err != nil:
		return err
	case k.doc.State.Ended(): // by a server that died before it noted that
		return s.endStep(ctx, k.doc, job.Report{State: k.doc.State, Fault: k.doc.Fault, At: k.doc.At})
	}
	return s.end(ctx, k.doc, job.Report{State: job.Failed, Fault: dead.Fault, At: k.doc.At})
}

// outrun ends a job of a step that its restore went on without, and reports whether it did: a server that dies can leave one, and files that an agent made
// for it now would come after those that are taken away. What is to be taken away is never too late.
func (s *Server) outrun(ctx context.Context, id string) (bool, error) {
	j, err := s.jobs.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && (j.Kind != job.KindRestore || j.Spec.Part == nil || j.Spec.Part.Step == job.StepUndo || j.State.Ended()) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	k, err := s.restores.read(ctx, j.Spec.Part.Restore)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return false, err
	}
	if err == nil && slices.ContainsFunc(k.doc.Nodes, func(n job.RestoreNode) bool { return n.Job == id }) {
		return false, nil
	}
	return true, s.giveUp(ctx, id, "the restore went on without it")
}

// CancellableRestore reports whether a restore by several agents can be ended before it is done, and else why not, in a sentence: as long as
// nothing is put in its place.
func CancellableRestore(r *job.Restore) (why string) {
	switch {
	case r.State.Ended():
		return "It has ended already."
	case r.Cancelled != "":
		return "It is being cancelled already, for " + r.Cancelled + "."
	case r.Step == job.StepUndo:
		return "It failed, and what it wrote is being taken away already."
	case r.Step == job.StepMap:
		return "Its shard map is being written: from then on the database may be there, and who has seen it would miss it. It ends within minutes; delete the database then if you don't want it."
	case r.Step == job.StepAnswer:
		return "The database is there: its shard map is written, and only the nodes' answers are waited for. Delete it like any other if you don't want it."
	}
	return ""
}

// CancelRestore ends a restore by several agents before anything is put in its place: their jobs stop at their next report, and the files of a database are
// taken away again on all nodes. What of a cluster was restored stays in the data directories.
func (s *Server) CancelRestore(ctx context.Context, who *access.Caller, id string) (*job.Restore, error) {
	ctx = whole(ctx)
	if _, err := s.Restore(ctx, who, id); err != nil {
		return nil, err
	}
	_, err := s.changeRestore(ctx, id, func(r *job.Restore) error {
		if why := CancellableRestore(r); why != "" {
			return refuse(Conflict, "The restore %s can't be cancelled. %s", id, why)
		}
		r.Cancelled, r.Updated = cmp.Or(who.User, "somebody"), s.now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := s.advance(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.shownRestore(r), nil
}

// faultsOf says which nodes failed in the step, and why; "" if none did.
func faultsOf(r *job.Restore) string {
	var out []string
	for _, n := range r.Nodes {
		if n.State == job.Failed {
			out = append(out, n.Name+": "+strings.TrimSuffix(n.Fault, "."))
		}
	}
	return strings.Join(out, "; ")
}

func clipSentence(text string) string {
	tidy(4*maxSentence, &text)
	return text
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// endStep notes how a node's step ended.
func (s *Server) endStep(ctx context.Context, j *job.Job, r job.Report) error {
	p := j.Spec.Part
	if p == nil {
		return nil
	}
	_, err := s.changeRestore(ctx, p.Restore, func(doc *job.Restore) error {
		i := slices.IndexFunc(doc.Nodes, func(n job.RestoreNode) bool { return n.Job == j.ID })
		if i < 0 || doc.Nodes[i].State == r.State {
			return errSame
		}
		doc.Nodes = slices.Clone(doc.Nodes)
		n := &doc.Nodes[i]
		n.State, n.At = r.State, r.At
		if r.State == job.Failed {
			n.Fault = cmp.Or(r.Fault, "its agent did not say why")
		}
		if n.State == job.Done {
			n.Fault = ""
		}
		n.Problems, n.Notes = addOnce(n.Problems, r.Problems), addOnce(n.Notes, notesOf(r.Result))
		if doc.Step == job.StepMap && doc.State == job.Running {
			doc.Written = r.State == job.Done
			doc.Undecided = r.State == job.Failed && !r.Unwritten
		}
		if doc.Step == job.StepUndo && doc.State.Ended() { // by an agent that was given up
			doc.Fault = clipSentence(undone(doc))
		}
		doc.Updated = s.now()
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

func notesOf(r *job.Result) []string {
	if r == nil {
		return nil
	}
	return r.Notes
}

func addOnce(list, more []string) []string {
	list = slices.Clone(list)
	for _, m := range more {
		if len(list) < maxOfAPart && !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// afterStep goes on with the restore of a job that has ended.
func (s *Server) afterStep(ctx context.Context, j *job.Job) {
	if j.Kind != job.KindRestore || j.Spec.Part == nil {
		return
	}
	if _, err := s.advance(ctx, j.Spec.Part.Restore); err != nil && !errors.Is(err, bus.ErrNotFound) {
		s.log.WarnContext(ctx, "a restore could not go on; the sweep will", "restore", j.Spec.Part.Restore, "err", err)
	}
}

// sweepRestores goes on with what a dead server left, gives up on agents that are gone where others wait for
// them, and forgets what ended long ago.
func (s *Server) sweepRestores(ctx context.Context) error {
	var running, old []*job.Restore
	s.restores.each(func(_ string, r *job.Restore, ago time.Duration) bool {
		switch {
		case r.State == job.Running:
			running = append(running, r)
		case ago > keepRestored && !r.Undecided:
			old = append(old, r)
		}
		return true
	})
	var errs []error
	for _, r := range old {
		errs = append(errs, s.restores.remove(ctx, r.ID))
	}
	for _, r := range running {
		for _, n := range r.Nodes {
			if n.Job != "" && !n.State.Ended() && s.live.silent(n.Agent) > s.cfg.Offline {
				errs = append(errs, s.without(ctx, r, n))
			}
		}
		_, err := s.advance(ctx, r.ID)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// without goes on without an agent that is gone. What a database's restore has put on its node goes when it is back: that job
// stays. A map that it was to write may be written, and who restores a cluster's node waits for it, as for any job.
func (s *Server) without(ctx context.Context, r *job.Restore, n job.RestoreNode) error {
	switch {
	case r.Step == job.StepUndo:
		_, err := s.changeRestore(ctx, r.ID, func(doc *job.Restore) error {
			i := slices.IndexFunc(doc.Nodes, func(m job.RestoreNode) bool { return m.Job == n.Job })
			if i < 0 || doc.Nodes[i].State.Ended() {
				return errSame
			}
			doc.Nodes = slices.Clone(doc.Nodes)
			doc.Nodes[i].State, doc.Nodes[i].Fault = job.Failed, undoneLater
			return nil
		})
		return err
	case r.Step == job.StepCheck, r.Step == job.StepFiles && r.DB != "", r.Step == job.StepAnswer:
		return s.giveUp(ctx, n.Job, "its agent is not heard of")
	}
	return nil
}

// Restores returns the restores of a project by several agents, the newest first.
func (s *Server) Restores(who *access.Caller) []*job.Restore {
	var out []*job.Restore
	s.restores.all(func(_ string, r *job.Restore) bool {
		if mine(who, r.Project) {
			out = append(out, s.shownRestore(r))
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Restore) int {
		return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(a.ID, b.ID))
	})
	return out
}

// Restore returns one of them.
func (s *Server) Restore(ctx context.Context, who *access.Caller, id string) (*job.Restore, error) {
	r, err := s.restores.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && !mine(who, r.Project) {
		return nil, notFound(id)
	}
	if err != nil {
		return nil, err
	}
	return s.shownRestore(r), nil
}

// shownRestore is a restore with how far its jobs are.
func (s *Server) shownRestore(r *job.Restore) *job.Restore {
	shown := *r
	shown.Nodes = slices.Clone(r.Nodes)
	for i := range shown.Nodes {
		n := &shown.Nodes[i]
		if j := s.jobs.have(n.Job); j != nil && !n.State.Ended() {
			n.State, n.At = j.State, s.live.progressOf(j)
			if j.State.Ended() { // and the document says so in a moment
				n.State = job.Running
			}
		}
	}
	return &shown
}
