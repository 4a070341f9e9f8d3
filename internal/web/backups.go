package web

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/words"
)

// Horizon's three actions have its names: Create backup, Restore to a new instance, Delete
// backup.
var backupRoutes = []route{
	{"GET /backups", access.Viewer, "", (*call).backupsPage},
	{"GET /backups/new", access.Operator, "", (*call).newBackup},
	{"POST /backups/new", access.Operator, "backup.create", (*call).createBackup},
	{"GET /backups/{id}", access.Viewer, "", (*call).backupPage},
	{"POST /backups/{id}/prove", access.Operator, "backup.prove", (*call).proveBackup},
	{"GET /backups/{id}/pin", access.Operator, "", (*call).askPin},
	{"POST /backups/{id}/pin", access.Operator, "backup.pin", (*call).pinBackup},
	{"POST /backups/{id}/unpin", access.Operator, "backup.unpin", (*call).unpinBackup},
	{"GET /backups/{id}/restore", access.Operator, "", (*call).askRestore},
	{"GET /backups/{id}/delete", access.Operator, "", (*call).askDelete},
	{"POST /backups/{id}/delete", access.Operator, "backup.delete", (*call).deleteBackup},
}

// listedBackup is a backup in words.
type listedBackup struct {
	*job.Backup
	Pill     pill
	Instance string // its name
	Home     string // path of the instance; "" if it is gone
	At       time.Time
	Took     time.Duration
	Progress
}

func (c *call) listBackup(b *job.Backup, names map[string]string) listedBackup {
	row := listedBackup{Backup: b, Pill: backupPill(b), Instance: cmp.Or(names[b.Instance], b.RepoName), At: b.Updated}
	if names[b.Instance] != "" {
		row.Home = pathOf("instances", b.Instance)
	}
	if b.Finished != nil {
		row.At = *b.Finished
		if b.Started != nil {
			row.Took = b.Finished.Sub(*b.Started)
		}
	}
	return row
}

type backupsPage struct {
	Rows  []listedBackup
	Pager pager
	Names map[string]string
}

func (c *call) backupsPage() (*answer, error) {
	var p backupsPage
	var page []*job.Backup
	names := c.names()
	if find := finderOf(c.r.URL.Query().Get("q")); find.none() {
		from, total := c.asked("page", perPage), 0
		page, total = c.o.Server.BackupPage(c.who, c.all(), from, perPage)
		p.Pager = c.pagerOf("q", "page", perPage, from, total)
	} else {
		var found []*job.Backup
		c.o.Server.EachBackup(c.who, c.all(), func(b *job.Backup) bool {
			if find.backup(b, names) {
				found = append(found, b)
			}
			return true
		})
		page, p.Pager = paged(c, found, nil)
	}
	for _, b := range page {
		p.Rows = append(p.Rows, c.listBackup(b, names))
	}
	return c.livePage("Backups", "backups", "backups.live", p), nil
}

// backup reports whether each word is in a backup's names, its id or its state.
func (f *finder) backup(b *job.Backup, names map[string]string) bool {
	in, ok := f.known[b.Instance]
	if !ok || in.also != b.RepoName {
		in = seen{b.RepoName, f.in(names[b.Instance], 0) | f.in(b.RepoName, 0)}
		f.known[b.Instance] = in
	}
	bits := in.bits
	if all := f.all(); bits != all {
		if bits |= f.in(b.Name, bits) | f.inID(b.ID, bits); bits != all {
			bits |= f.in(backupPill(b).Text, bits)
		}
	}
	return bits == f.all()
}

// findBackup returns a backup that the caller sees, and the caller in its project.
func (c *call) findBackup() (*job.Backup, *access.Caller, error) {
	id := c.r.PathValue("id")
	who, err := c.as(id)
	if err != nil {
		return nil, nil, err
	}
	b, err := c.o.Server.Backup(c.r.Context(), who, id)
	return b, who, err
}

type backupPage struct {
	listedBackup
	Schedule string
	Parent   string // name of the backup that it was made on
	Job      *jobRow
	Proving  *jobRow // a restore test that runs
	Pins     *jobRow // what pins or unpins it
	Restores []*job.Instance
}

func (c *call) backupPage() (*answer, error) {
	b, _, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	names := c.names()
	p := backupPage{listedBackup: c.listBackup(b, names)}
	for _, s := range c.schedules() {
		if s.ID == b.Schedule {
			p.Schedule = s.Name
		}
	}
	for _, j := range c.jobs() {
		if j.Backup != b.ID || j.State.Ended() {
			continue
		}
		row := c.jobRow(j, names, nil)
		switch j.Kind {
		case job.KindProve:
			p.Proving = &row
		case job.KindPin, job.KindUnpin:
			p.Pins = &row
		default:
			p.Job = &row
		}
	}
	for _, i := range c.o.Server.Instances(c.who, c.all()) {
		if i.RestoredFrom == b.ID {
			p.Restores = append(p.Restores, i)
		}
	}
	return c.livePage("Backup "+b.Name, "backup", "backup.live", p), nil
}

// newBackupForm is what Create backup asks.
type newBackupForm struct {
	Instance, Name, Description string
	Instances                   []*state
	Problem                     string
}

func (c *call) backupForm() newBackupForm {
	f := newBackupForm{Instance: c.r.FormValue("instance"), Name: strings.TrimSpace(c.r.FormValue("name")), Description: strings.TrimSpace(c.r.FormValue("description"))}
	f.Instances = slices.Clone(c.states())
	slices.SortStableFunc(f.Instances, func(a, b *state) int { // those that can be backed up now come first
		switch {
		case a.Online == b.Online:
			return 0
		case a.Online:
			return -1
		}
		return 1
	})
	return f
}

func (c *call) newBackup() (*answer, error) {
	return c.page("Create backup", "backup-new", c.backupForm()), nil
}

func (c *call) createBackup() (*answer, error) {
	f := c.backupForm()
	f.Name = cmp.Or(f.Name, "by hand, "+c.now().In(c.set.zone).Format("2006-01-02 15:04"))
	who, err := c.as(f.Instance)
	if err != nil {
		f.Problem = "Choose an instance."
		return c.again("Create backup", "backup-new", f), nil
	}
	if !words.IsName(f.Name, 255) {
		f.Problem = "The name must have 1 to 255 characters in one line."
		return c.again("Create backup", "backup-new", f), nil
	}
	b, err := c.o.Server.CreateBackup(c.r.Context(), who, server.NewBackup{Name: f.Name, Description: f.Description, Instance: f.Instance})
	if problem, ok := theirs(err); ok {
		f.Problem = problem
		return c.again("Create backup", "backup-new", f), nil
	}
	if err != nil {
		return nil, err
	}
	c.log.Target = b.ID
	return c.see(pathOf("backups", b.ID), "The backup was begun."), nil
}

func (c *call) proveBackup() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	id, err := c.o.Server.Prove(c.r.Context(), who, b.ID)
	if problem, ok := theirs(err); ok {
		return c.see(pathOf("backups", b.ID), problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(pathOf("jobs", id), "The restore test was begun."), nil
}

// askRestore leads to the plan of a new instance.
func (c *call) askRestore() (*answer, error) {
	b, _, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	return c.see(restoreOf(b.Instance, b.ID)+"&what=all&where=new", ""), nil
}

// deletePage shows what deleting a backup does.
type deletePage struct {
	listedBackup
	Confirm  confirm
	Children []*job.Backup // that go with it
}

// confirm is a typed confirmation.
type confirm struct {
	Action, Back, Head, Word, Do, Wrong string
	Calm                                bool
	Points                              []point
	// Closed is why it can't be done, in a sentence, and Step with the address To what may open it.
	Closed, Step, To string
}

// point is one consequence: its outcome first.
type point struct{ Level, Icon, Head, Text string }

func (c *call) deletion(b *job.Backup, who *access.Caller) deletePage {
	p := deletePage{listedBackup: c.listBackup(b, c.names())}
	stored := int64(0)
	for _, m := range c.o.Server.Family(b) {
		stored += m.Stored
		if m.ID != b.ID {
			p.Children = append(p.Children, m)
		}
	}
	k := &p.Confirm
	k.Action, k.Back = pathOf("backups", b.ID, "delete"), pathOf("backups", b.ID)
	k.Word, k.Do, k.Head = b.Name, "Delete backup", "The backup "+b.Name+" of "+p.Instance+" is deleted, and can't be had back."
	if err := c.o.Server.MayDelete(c.r.Context(), who, b.ID); err != nil {
		k.Closed, k.Head = sentenceOf(err), "The backup "+b.Name+" of "+p.Instance+" can't be deleted now."
		k.Points = nil
		for _, m := range append(p.Children, b) {
			if m.Pin != nil {
				k.Step, k.To = "Unpin "+m.Name, pathOf("backups", m.ID)
			}
		}
		if set := c.setOf(b, who); set != nil && k.To == "" {
			k.Step, k.To = "Delete its set…", pathOf("sets", set.ID, "delete")
		}
	}
	if n := len(p.Children); n > 0 {
		k.Points = append(k.Points, point{"bad", "bad", plural(n, "backup goes", "backups go") + " with it:", "made with it as their parent, as Trove has it, though each would restore alone."})
	}
	k.Points = append(k.Points, c.dependsOn(b, who, p.Instance)...)
	k.Points = append(k.Points, freed(stored)...)
	return p
}

// freed is what every deletion says last.
func freed(stored int64) []point {
	return []point{{"info", "info", "It frees at most " + Bytes(stored) + ":", "objects that other backups need stay."},
		{"info", "info", "Object Lock keeps it, or a pin that others set in the repository:", "then it stays as good as it is, and the job says so."}}
}

// setOf is the set that a backup is of; nil if it is of none.
func (c *call) setOf(b *job.Backup, who *access.Caller) *server.SetInfo {
	if b.Set == "" {
		return nil
	}
	set, err := c.o.Server.Set(c.r.Context(), who, b.Set)
	if err != nil { // it is gone
		return nil
	}
	return set
}

// dependsOn says what depends on a backup, and what does not though somebody may think so.
func (c *call) dependsOn(b *job.Backup, who *access.Caller, instance string) (out []point) {
	newest := c.o.Server.Newest(who, b.Instance)
	i, err := c.o.Server.Instance(c.r.Context(), who, b.Instance)
	shipped := err == nil && c.o.Server.Shipping(i) != nil && b.RepoName == i.RepoName
	switch {
	case newest != nil && newest.ID == b.ID && shipped:
		out = append(out, point{"warn", "warn", "It is the newest good backup of " + instance + ".", "What is shipped rests on it until the next one."})
	case newest != nil && newest.ID == b.ID:
		out = append(out, point{"warn", "warn", "It is the newest good backup of " + instance + ".", "Without it the one before is the newest that can be had back."})
	case shipped:
		out = append(out, point{"info", "info", "Moments between backups may rest on it:", "then it stays as long as these are kept, and the job says so."})
	}
	if b.Proof != nil && b.Proof.OK {
		proven := false
		c.o.Server.EachBackup(who, false, func(o *job.Backup) bool {
			proven = proven || o.ID != b.ID && o.Instance == b.Instance && o.Status.Usable() && o.Proof != nil && o.Proof.OK
			return !proven
		})
		if !proven {
			out = append(out, point{"warn", "warn", "No other backup of " + instance + " is proven by a restore.", "Prove another one first."})
		}
	}
	if set := c.setOf(b, who); set != nil {
		out = append(out, point{"warn", "warn", "It is of the set " + set.Name + ":", "without it the cluster can’t be restored as a whole out of that set."})
	}
	made := 0
	for _, i := range c.o.Server.Instances(who, false) {
		if i.RestoredFrom == b.ID {
			made++
		}
	}
	if made > 0 {
		out = append(out, point{"ok", "ok", plural(made, "instance was made of it and stays:", "instances were made of it and stay:"), "what was restored needs it no more."})
	}
	if len(out) == 0 {
		out = append(out, point{"ok", "ok", "Nothing depends on it:", "each other backup restores alone."})
	}
	return out
}

func (c *call) askDelete() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	return c.page("Delete backup", "backup-delete", c.deletion(b, who)), nil
}

func (c *call) deleteBackup() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(c.r.FormValue("word")) != strings.TrimSpace(b.Name) {
		p := c.deletion(b, who)
		p.Confirm.Wrong = "That is not the name of the backup. Nothing was deleted."
		return c.again("Delete backup", "backup-delete", p), nil
	}
	err = c.o.Server.DeleteBackup(c.r.Context(), who, b.ID)
	if problem, ok := theirs(err); ok {
		p := c.deletion(b, who)
		p.Confirm.Wrong = problem
		return c.again("Delete backup", "backup-delete", p), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see("/backups", "The backup "+b.Name+" is being deleted."), nil
}

// theirs is what is wrong with a request, in a sentence, if whoever asked can do something
// about it on the same page.
func theirs(err error) (string, bool) {
	own, ok := asRefusal(err)
	if !ok || own == http.StatusNotFound || own == http.StatusServiceUnavailable || own == http.StatusInternalServerError {
		return "", false
	}
	return err.Error(), true
}
