package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/words"
)

// Each job and each restore has a log, in words: what it waits for, who took it, how far it came, what its agent said, how it
// ended. All changes of jobs go through changeJob and storeJob, and all of restores through changeRestore; what is told of a change is told by comparing
// what was with what is, so that no change is forgotten. A log lives as long as what it is of.

// changeJob is update of a job, with lines of what changed by it; r is the report that it is about, or nil.
func (s *Server) changeJob(ctx context.Context, id string, r *job.Report, fn func(*job.Job) error) (*job.Job, error) {
	return s.jobs.update(ctx, id, func(j *job.Job) error {
		was := *j
		if err := fn(j); err != nil {
			return err
		}
		s.logJob(&was, j, r)
		return nil
	})
}

// news reports whether an agent says what isn't in the job's log.
func news(j *job.Job, r *job.Report) bool {
	return slices.ContainsFunc(r.Said, func(l job.Said) bool { return l.Number > j.Heard })
}

// logJob adds to a job's log what makes it another one than it was; was is nil of a new one.
func (s *Server) logJob(was, j *job.Job, r *job.Report) {
	now := s.now()
	add := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		tidy(maxSaying, &text)
		j.Log = j.Log.With(now, text)
	}
	if was == nil {
		add("Asked for by %s.", s.asker(j))
		add("%s", s.waitsFor(j))
		return
	}
	if j.Attempt != was.Attempt {
		if name := s.agentName(j.Agent); j.Attempt == 1 {
			add("The agent %s took it.", name)
		} else {
			add("The agent %s was started anew and goes on with it: attempt %d.", name, j.Attempt)
		}
	}
	if r != nil && r.Session == j.Session {
		for _, l := range r.Said {
			if l.Number <= j.Heard {
				continue
			}
			j.Heard = l.Number
			at := now.Add(-time.Duration(min(max(l.Ago, 0), maxLag) * float64(time.Second)))
			if n := len(j.Log.Lines); n > 0 && at.Before(j.Log.Lines[n-1].At) {
				at = j.Log.Lines[n-1].At
			}
			if strings.TrimSpace(l.Text) != "" {
				j.Log = j.Log.With(at, l.Text)
			}
		}
	}
	if a, b := quarters(was.At), quarters(j.At); b > a && b < 4 && !j.State.Ended() {
		add("%d %%: %s of %s.", 25*b, job.Amount(j.At.BytesDone), job.Amount(j.At.Bytes))
	}
	if was.State.Ended() || !j.State.Ended() {
		return
	}
	if r != nil && r.Result != nil {
		for _, note := range r.Result.Notes {
			add("Note: %s.", strings.TrimSuffix(note, "."))
		}
	}
	if r != nil {
		for _, p := range r.Problems {
			add("Problem: %s.", strings.TrimSuffix(p, "."))
		}
	}
	switch {
	case j.WasCancelled():
		add("%s.", words.UpperFirst(j.Fault))
	case j.State == job.Failed:
		add("Failed: %s.", strings.TrimSuffix(cmp.Or(j.Fault, "its agent did not say why"), "."))
	default:
		add("%s", outcome(j, r))
	}
}

// asker is who asked for a job.
func (s *Server) asker(j *job.Job) string {
	if j.Schedule != "" {
		if c := s.schedules.have(j.Schedule); c != nil {
			return "the schedule " + c.Name
		}
		return "a schedule that is gone"
	}
	return cmp.Or(j.By, "the server")
}

func (s *Server) agentName(id string) string {
	if a := s.agents.have(id); a != nil {
		return a.Name
	}
	return "that was removed"
}

// waitsFor is what a new job waits for.
func (s *Server) waitsFor(j *job.Job) string {
	a := s.agents.have(j.Agent)
	if a == nil {
		return "Its agent was removed: it waits for another one of that id."
	}
	if _, seen, online := s.lastHeard(a); !online {
		if seen.IsZero() {
			return "It waits for the agent " + a.Name + ", which has not called yet."
		}
		return "It waits for the agent " + a.Name + ", which has been silent since " + seen.UTC().Format("2006-01-02 15:04") + " UTC."
	}
	return "It waits for the agent " + a.Name + "."
}

// quarters is how many quarters of the bytes are done.
func quarters(p job.Progress) int64 {
	if p.Bytes <= 0 {
		return 0
	}
	return int64(4 * float64(p.BytesDone) / float64(p.Bytes))
}

// outcome is what came of a job that was done.
func outcome(j *job.Job, r *job.Report) string {
	took := ""
	if j.Ended != nil {
		took = " after " + j.Ended.Sub(j.Created).Round(time.Second).String()
	}
	switch {
	case j.Kind == job.KindBackup && r != nil && r.Result != nil:
		return fmt.Sprintf("Done%s: %s as restored, %s of them new; %d databases.", took, job.Amount(r.Result.Size), job.Amount(r.Result.Stored), r.Result.Databases)
	case j.Kind == job.KindProve && r != nil && r.Proof != nil && r.Proof.OK:
		return fmt.Sprintf("Proven%s: %d databases, %d documents.", took, r.Proof.Databases, r.Proof.Documents)
	case j.Kind == job.KindProve && r != nil && r.Proof != nil:
		return fmt.Sprintf("The test has ended%s: the backup did not restore as it should: %s.", took, strings.TrimSuffix(r.Proof.Problem, "."))
	case j.Kind == job.KindDocuments && j.Documents != nil:
		var parts []string
		for what, n := range j.Documents.Counts {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(what, "_", " ")))
		}
		slices.Sort(parts)
		return fmt.Sprintf("Done%s: documents: %s.", took, cmp.Or(strings.Join(parts, ", "), "none"))
	case j.Kind == job.KindCreate && r != nil && r.URL != "":
		return fmt.Sprintf("Done%s: CouchDB answers at %s.", took, r.URL)
	}
	return "Done" + took + "."
}

// changeRestore is update of a restore, with lines of what changed by it.
func (s *Server) changeRestore(ctx context.Context, id string, fn func(*job.Restore) error) (*job.Restore, error) {
	return s.restores.update(ctx, id, func(r *job.Restore) error {
		was := *r
		if err := fn(r); err != nil {
			return err
		}
		s.logRestore(&was, r)
		return nil
	})
}

// stepSays begins the line of a step of a restore.
var stepSays = map[job.Step]string{job.StepCheck: "Looking whether it can be done, and writing nothing", job.StepFiles: "Restoring files",
	job.StepMap: "Writing the shard map; from here on nothing is taken back", job.StepAnswer: "Asking each node for its shards", job.StepUndo: "Taking the files away again"}

// logRestore adds to a restore's log what makes it another one than it was; was is nil of a new one.
func (s *Server) logRestore(was, r *job.Restore) {
	now := s.now()
	add := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		tidy(maxSaying, &text)
		r.Log = r.Log.With(now, text)
	}
	old := map[string]job.RestoreNode{}
	switch {
	case was == nil:
		add("Asked for by %s.", cmp.Or(r.By, "somebody"))
	case was.Attempt != r.Attempt:
		add("Asked for again by %s: attempt %d.", cmp.Or(r.By, "somebody"), r.Attempt)
	case r.Cancelled != was.Cancelled && r.Cancelled != "":
		add("Cancelled by %s.", r.Cancelled)
	}
	if was != nil {
		for _, n := range was.Nodes {
			old[n.Job] = n
		}
	}
	begun := was == nil || was.Step != r.Step || was.Attempt != r.Attempt
	var nodes []string
	for _, n := range r.Nodes {
		switch before, ok := old[n.Job]; {
		case n.Job == "":
		case !ok:
			nodes = append(nodes, n.Name+" by the agent "+n.AgentName)
		case before.State != n.State && n.State == job.Done:
			add("%s: done.", n.Name)
		case before.State != n.State && n.State == job.Failed:
			add("%s failed: %s.", n.Name, strings.TrimSuffix(n.Fault, "."))
		}
		for i := range n.Notes {
			if before, ok := old[n.Job]; ok && !slices.Contains(before.Notes, n.Notes[i]) {
				add("%s: %s.", n.Name, strings.TrimSuffix(n.Notes[i], "."))
			}
		}
	}
	if begun && len(nodes) > 0 {
		few := ""
		if len(nodes) > 3 {
			few = fmt.Sprintf(" and %d more", len(nodes)-3)
			nodes = nodes[:3]
		}
		add("%s: %s%s.", stepSays[r.Step], strings.Join(nodes, ", "), few)
	}
	if r.State.Ended() && (was == nil || !was.State.Ended()) {
		if r.State == job.Done {
			add("Done.")
		} else {
			add("Ended: %s.", strings.TrimSuffix(r.Fault, "."))
		}
	}
}
