package web

import (
	"fmt"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/words"
)

// What the dashboard says stands in the templates, but for what depends on more than one
// thing: that is here.

// verdict is the first sentence of the overview.
func verdict(t totals) string {
	safe := t.Count - t.Need
	switch {
	case t.Need == 0 && t.Count == 1:
		return "The instance is safe."
	case t.Need == 0:
		return fmt.Sprintf("All %s instances are safe.", Number(t.Count))
	case safe == 0 && t.Count == 1:
		return "The instance is not safe."
	case safe == 0:
		return fmt.Sprintf("None of %s instances is safe.", Number(t.Count))
	}
	are := "are"
	if safe == 1 {
		are = "is"
	}
	return fmt.Sprintf("%s of %s instances %s safe.", Number(safe), Number(t.Count), are)
}

// stateOf puts into words how an instance stands.
func (c *call) stateOf(st *server.Standing) *state {
	now := c.now()
	s := &state{Standing: st}
	if st.Ship != nil {
		s.Lag = time.Duration(st.Ship.LagSeconds * float64(time.Second))
	}
	add := func(level, icon, head, text, to, step string) {
		s.Trouble = append(s.Trouble, trouble{level, icon, head, text, to, step, st.Name})
	}
	home := pathOf("instances", st.ID)
	silent := c.silence(st)
	switch {
	case st.Never && st.Late:
		add("bad", "late", st.Name+" was never backed up.", "It has been here for "+short(now.Sub(st.Created))+". "+silent+noSchedule(st), home, "Open "+st.Name)
	case st.Late && st.At.IsZero():
		add("bad", "late", st.Name+": nobody knows how old its newest backup is.", "Its node's clock was ahead when it was made. Set that clock right, and make another backup.", home, "Open "+st.Name)
	case st.Late:
		add("bad", "late", st.Name+" is late: no backup for "+short(now.Sub(st.At))+".", silent+failure(st)+noSchedule(st)+"What was written since then is in its own files alone"+shipped(st)+".", home, "Open "+st.Name)
	}
	if st.Behind {
		head, text := behind(st, s.Lag)
		add("bad", "late", head, text+silent, home, "Open "+st.Name)
	}
	if st.Unproven {
		p := st.Proven.Proof
		if p.OK {
			add("warn", "warn", st.Name+": no backup was proven for "+short(now.Sub(p.At))+".", "A restore test each week shows that the backups can be had back.", pathOf("backups", st.Proven.ID), "Open the backup")
		} else {
			add("bad", "bad", st.Name+": a backup does not restore.", "The restore test of "+short(now.Sub(p.At))+" ago failed: "+p.Problem+". Take it for lost, and make a new full backup.", pathOf("backups", st.Proven.ID), "Open the backup")
		}
	}
	if st.Damaged > 0 {
		add("warn", "damaged", st.Name+" holds damaged data: "+plural(st.Damaged, "finding", "findings")+".", "What can't be read on that node's disk can't be in the backup. Look whether a copy of it is whole.", pathOf("backups", st.Last.ID), "Open the backup")
	}
	if st.Uncopied > 0 {
		add("warn", "warn", st.Name+": its newest backup is missing in "+plural(st.Uncopied, "further repository", "further repositories")+".", "The notes of the backup say where and why.", pathOf("backups", st.Last.ID), "Open the backup")
	}
	if !st.Online && !st.Late && !st.Behind {
		add("warn", "late", st.Name+": its agent is silent.", silent+"Nothing can be backed up or shipped until it is back.", home, "Open "+st.Name)
	}
	if st.Failed != "" && !st.Late {
		add("warn", "warn", st.Name+": the last job failed.", words.UpperFirst(st.Failed)+".", "/jobs?f=bad", "Open jobs")
	}
	s.Pill, s.Why = statePill(s, now)
	return s
}

func statePill(s *state, now time.Time) (pill, string) {
	switch {
	case s.Task == job.KindBackup:
		return pill{"run", "Backing up"}, ""
	case s.Status == job.InstanceBuild:
		return pill{"run", "Being made"}, ""
	case s.Status == job.InstanceShutdown:
		return pill{"run", "Being deleted"}, ""
	case s.Status != job.InstanceActive:
		return pill{"bad", "Failed"}, s.Failed
	case s.Never && s.Late:
		return pill{"late", "Never"}, "no backup yet"
	case s.Late && !s.Online && !s.Heard.IsZero():
		return pill{"late", "Late"}, "silent for " + short(now.Sub(s.Heard))
	case s.Late:
		return pill{"late", "Late"}, "no backup for " + short(now.Sub(s.At))
	case s.Behind:
		return pill{"late", "Behind"}, "shipping"
	case s.Unproven && !s.Proven.Proof.OK:
		return pill{"bad", "Not sound"}, "its restore test failed"
	case s.Damaged > 0:
		return pill{"damaged", "Damaged source"}, plural(s.Damaged, "finding", "findings")
	case !s.Online:
		return pill{"warn", "Silent"}, "its agent does not call"
	case s.Unproven:
		return pill{"warn", "Not proven"}, "for " + short(now.Sub(s.Proven.Proof.At))
	case s.Uncopied > 0:
		return pill{"warn", "Copy missing"}, ""
	case s.Failed != "":
		return pill{"warn", "Failed last"}, s.Failed
	case s.Never:
		return pill{"never", "Never"}, "no backup yet"
	}
	return pill{"ok", "Safe"}, ""
}

// silence is a sentence about an agent that isn't heard of; "" if it is.
func (c *call) silence(st *server.Standing) string {
	switch {
	case st.Online:
		return ""
	case st.AgentName == "":
		return "Its agent was removed. "
	case st.Heard.IsZero():
		return "Its agent has never called. "
	}
	return "Its agent has been silent since " + when(st.Heard, c.now(), c.set.zone) + ". "
}

func failure(st *server.Standing) string {
	if st.Failed == "" {
		return ""
	}
	return "The last job failed: " + st.Failed + ". "
}

func noSchedule(st *server.Standing) string {
	if st.Schedule != nil {
		return ""
	}
	return "It has no schedule. "
}

func shipped(st *server.Standing) string {
	if st.Ship != nil && st.Ship.Reported {
		return ", and in what was shipped"
	}
	return ""
}

func behind(st *server.Standing, lag time.Duration) (head, text string) {
	switch {
	case !st.Ship.Reported:
		return st.Name + " is not shipped.", "Its agent does not say that it ships it. "
	case st.Ship.Error != "":
		return st.Name + " can't be shipped.", words.UpperFirst(st.Ship.Error) + ". "
	}
	return st.Name + ": shipping is " + Duration(lag) + " behind.", "Its files still have what isn't shipped; it catches up by itself when the storage is fast enough. "
}

// whatJob names a job: "Backup of shop-1".
func whatJob(j *job.Job, instance string) string {
	of := func(what string) string {
		if instance == "" {
			return what
		}
		return what + " of " + instance
	}
	switch j.Kind {
	case job.KindBackup:
		return of("Backup")
	case job.KindCreate:
		if j.Backup != "" {
			return "Restore to the new instance " + j.Spec.Name
		}
		return "New instance " + j.Spec.Name
	case job.KindRestart:
		return of("Restart")
	case job.KindDeleteInstance:
		return of("Removal")
	case job.KindDeleteBackup:
		return "Delete a backup of " + j.Spec.RepoName
	case job.KindProve:
		return "Proof of a backup of " + j.Spec.RepoName
	case job.KindPin:
		return "Pin of a backup of " + j.Spec.RepoName
	case job.KindUnpin:
		return "Unpin of a backup of " + j.Spec.RepoName
	case job.KindDocuments:
		if d := j.Spec.Documents; d != nil && d.DryRun {
			return "Preview: documents put back into " + j.Spec.Name
		}
		return "Documents put back into " + j.Spec.Name
	case job.KindRestore:
		if p := j.Spec.Part; p != nil {
			return "Restore of " + j.Spec.Name + " on " + p.Node + ": " + stepWords(p.Step)
		}
		return "Restore of " + j.Spec.Name
	case job.KindAdopt:
		return "Read in a backup of " + j.Spec.RepoName
	}
	return string(j.Kind)
}

// jobPill is the state of a job.
func jobPill(j *job.Job) pill {
	switch {
	case j.State == job.Queued:
		return pill{"queued", "Waits for its agent"}
	case j.State == job.Running:
		return pill{"run", "Running"}
	case j.WasCancelled():
		return pill{"cancel", "Cancelled"}
	case j.State == job.Failed:
		return pill{"bad", "Failed"}
	case j.Kind == job.KindProve:
		return pill{"proven", "Proven"}
	}
	return pill{"ok", "Done"}
}

// jobNote is what came of a job, or why nothing did.
func (c *call) jobNote(j *job.Job) string {
	switch {
	case !j.State.Ended():
		return ""
	case j.WasCancelled():
		return j.Fault
	case j.State == job.Failed:
		return j.Fault
	case j.Kind == job.KindBackup:
		return Bytes(j.At.Stored) + " new, " + plural(int(j.At.Files), "file", "files")
	}
	return ""
}

// cancelLeaves is what is there after a job was cancelled.
func cancelLeaves(j *job.Job) string {
	switch j.Kind {
	case job.KindBackup:
		return "what is stored by then. It is no backup, and the next one takes it up instead of storing it again."
	case job.KindProve:
		return "nothing: what was restored for the test is removed, and the backup is as good or bad as before."
	case job.KindCreate:
		return "the new instance, as one that failed. Delete it to free its space; the backup is as it was."
	}
	return "all that was there before."
}

// backupPill is the state of a backup.
func backupPill(b *job.Backup) pill {
	switch {
	case b.Status == job.BackupNew:
		return pill{"queued", "Waits for its agent"}
	case b.Status == job.BackupBuilding:
		return pill{"run", "Being made"}
	case b.Status == job.BackupFailed && job.IsCancelled(b.Fault):
		return pill{"cancel", "Cancelled"}
	case b.Status == job.BackupFailed:
		return pill{"bad", "Failed"}
	case b.Status == job.BackupDeleteFailed:
		return pill{"bad", "Not deleted"}
	case b.Status == job.BackupDeleting:
		return pill{"queued", "Being deleted"}
	case b.Proof != nil && !b.Proof.OK:
		return pill{"bad", "Not sound"}
	case b.Damage > 0:
		return pill{"damaged", "Done, " + plural(b.Damage, "note", "notes")}
	case b.Uncopied > 0:
		return pill{"warn", "Copy missing"}
	case b.Proof != nil:
		return pill{"proven", "Proven"}
	}
	return pill{"ok", "Done"}
}

// firingPill is what came of a schedule's last firing.
func firingPill(s *job.Schedule) (pill, string) {
	at := s.Last.Outcome
	switch {
	case !s.Enabled:
		return pill{"paused", "Paused"}, ""
	case at == "":
		return pill{"queued", "Not yet"}, "it has not fired"
	case at == "started", at == "starting":
		return pill{"ok", "Begun"}, ""
	case strings.HasPrefix(at, "waiting"):
		return pill{"queued", "Waits for its agent"}, ""
	case strings.HasPrefix(at, "skipped"):
		return pill{"warn", "Skipped"}, "the instance was busy"
	case strings.HasPrefix(at, "missed"):
		return pill{"bad", "Missed"}, "it could not begin in time"
	}
	return pill{"bad", "Refused"}, at
}
