package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/words"
)

// A set is stored before anything of it begins, and its backups have ids that are made of its own. So whoever goes on with
// it, after a server that died or for a node that was down, makes what is missing and nothing twice. How it is doing is never
// stored: it is what its backups say.

// completeFor is for how long a set that was asked for by hand waits for nodes that were down.
const completeFor = 24 * time.Hour

// SetState is how a set is doing.
type SetState string

// The states of sets.
const (
	SetRunning SetState = "running" // one of its backups at least is being made
	SetWhole   SetState = "whole"   // each node of the cluster has one
	SetPartial SetState = "partial"
	SetGoing   SetState = "going" // it is being deleted: some of it is gone, or may be
)

// SetInfo is a set as it is now.
type SetInfo struct {
	*job.Set
	State   SetState
	Backups []*job.Backup // of each member; nil of one that has none
}

// Usable returns how many members have a backup that can be restored.
func (i *SetInfo) Usable() (n int) {
	for _, b := range i.Backups {
		if b != nil && b.Status.Usable() {
			n++
		}
	}
	return n
}

// Proven reports whether all of a set was restored for a test, and found sound.
func (i *SetInfo) Proven() bool {
	return i.State == SetWhole && !slices.ContainsFunc(i.Backups, func(b *job.Backup) bool { return b.Proof == nil || !b.Proof.OK })
}

// Lacks says why a member has no backup that can be restored, as the end of a sentence; "" if it has one, or may get it.
func (i *SetInfo) Lacks(member int) string {
	m, b := &i.Members[member], i.Backups[member]
	switch {
	case b == nil && m.Instance == "":
		return cmp.Or(m.Why, "no instance of the project is that node")
	case b == nil && m.Begun:
		return "it was deleted"
	case b == nil:
		return cmp.Or(m.Why, "it has not begun")
	case b.Status == job.BackupFailed:
		return "it failed: " + b.Fault
	case b.Status == job.BackupDeleting, b.Status == job.BackupDeleteFailed:
		return "it is being deleted"
	}
	return ""
}

// infoOf puts a set together with its backups, as far as this server has heard of them.
func (s *Server) infoOf(set *job.Set) *SetInfo {
	s.backups.mu.RLock()
	list := s.index.sets[set.ID]
	s.backups.mu.RUnlock()
	return gather(set, list)
}

func gather(set *job.Set, list []*job.Backup) *SetInfo {
	i := &SetInfo{Set: set, Backups: make([]*job.Backup, len(set.Members))}
	running := false
	for n, m := range set.Members {
		for _, b := range list {
			if b.Instance == m.Instance && b.Project == set.Project { // a repository may say anything
				i.Backups[n], running = b, running || b.Status.Running()
			}
		}
	}
	switch {
	case set.Going > 0:
		i.State = SetGoing
	case running:
		i.State = SetRunning
	case len(set.Members) > 0 && i.Usable() == len(set.Members):
		i.State = SetWhole
	default:
		i.State = SetPartial
	}
	return i
}

// lateInfo is infoOf with what another server may have ended just now.
func (s *Server) lateInfo(ctx context.Context, set *job.Set) (*SetInfo, error) {
	s.backups.mu.RLock()
	list := slices.Clone(s.index.sets[set.ID])
	s.backups.mu.RUnlock()
	var out []*job.Backup
	for _, b := range list {
		b, err := s.lately(ctx, b, b.Status.Running())
		if err == nil {
			out = append(out, b)
		} else if !isKind(err, NotFound) {
			return nil, err
		}
	}
	return gather(set, out), nil
}

// SetFilter says which sets to list.
type SetFilter struct {
	Cluster string // name; "" is all
	All     bool   // of all projects
}

// Sets returns the sets of the caller's project, or of all, the newest first.
func (s *Server) Sets(who *access.Caller, f SetFilter) []*SetInfo {
	var list []*job.Set
	add := func(_ string, t *job.Set) bool {
		if f.All || mine(who, t.Project) {
			list = append(list, t)
		}
		return true
	}
	if f.Cluster == "" {
		s.sets.all(add)
	} else {
		s.sets.mu.RLock()
		for _, t := range s.setIndex.of[f.Cluster] {
			add(t.ID, t)
		}
		s.sets.mu.RUnlock()
	}
	slices.SortFunc(list, func(a, b *job.Set) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.Order, a.Order), strings.Compare(b.ID, a.ID))
	})
	out := make([]*SetInfo, len(list))
	for n, t := range list {
		out[n] = s.infoOf(t)
	}
	return out
}

// Set returns a set of the caller's project.
func (s *Server) Set(ctx context.Context, who *access.Caller, id string) (*SetInfo, error) {
	t, err := s.sets.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && !mine(who, t.Project) {
		return nil, notFound(id)
	}
	if err != nil {
		return nil, err
	}
	return s.infoOf(t), nil
}

// after is the order of sets of one cluster.
func after(a, b *job.Set) bool {
	return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.ID, b.ID)) > 0
}

// newestSets returns, of the clusters of a project, the newest set of each, and the newest that is whole.
func (s *Server) newestSets(project string) (last, whole map[string]*SetInfo) {
	last, whole = map[string]*SetInfo{}, map[string]*SetInfo{}
	s.sets.all(func(_ string, t *job.Set) bool {
		if t.Project != project {
			return true
		}
		if l := last[t.Cluster]; l != nil && whole[t.Cluster] != nil && after(l.Set, t) && after(whole[t.Cluster].Set, t) {
			return true
		}
		i := s.infoOf(t)
		if l := last[t.Cluster]; l == nil || after(t, l.Set) {
			last[t.Cluster] = i
		}
		if w := whole[t.Cluster]; i.State == SetWhole && (w == nil || after(t, w.Set)) {
			whole[t.Cluster] = i
		}
		return true
	})
	return last, whole
}

// NewSet is a set to be made.
type NewSet struct {
	Cluster     string // name
	Name        string
	Description string

	id, schedule string // of a schedule's firing
}

// CreateSet begins backups of all nodes of a cluster that can be backed up now, at one moment. The others are in the set
// with the reason, and are begun later if that goes away. It refuses if none can begin.
func (s *Server) CreateSet(ctx context.Context, who *access.Caller, n NewSet) (*SetInfo, error) {
	ctx = whole(ctx)
	if n.schedule == "" && !words.IsName(n.Name, maxScheduleName) {
		return nil, refuse(Invalid, "A set needs a name of 1 to %d characters in one line, without control characters.", maxScheduleName)
	}
	c, err := s.cluster(who.Project, n.Cluster)
	if err != nil {
		return nil, err
	}
	if c.Unclear != "" {
		return nil, refuse(Conflict, "%s", c.Unclear)
	}
	set := &job.Set{ID: cmp.Or(n.id, newID()), Name: n.Name, Description: n.Description, Project: who.Project, Cluster: c.Name, Schedule: n.schedule,
		Lent: s.cfg.OwnSwift && who.Token != "", Created: s.now(), Updated: s.now()}
	highest := int64(0)
	s.sets.all(func(_ string, t *job.Set) bool {
		if t.Project == set.Project && t.Cluster == set.Cluster {
			highest = max(highest, t.Order)
		}
		return true
	})
	set.Order = newest.Next(highest, set.Created)
	all := 0
	for _, node := range c.Nodes {
		m := job.SetMember{Node: node.Node}
		if i := node.Instance; i != nil {
			m.Instance, m.InstanceName = i.ID, i.Name
			all++
		}
		set.Members = append(set.Members, m)
	}
	defer s.making(who.Project)()
	if err := s.room(who.Project, "backups", all); err != nil { // for all of them, whenever they begin
		return nil, err
	}
	ready, err := s.prepareSet(ctx, who, set, func(*job.SetMember) bool { return true })
	if err != nil {
		return nil, err
	}
	if len(ready) == 0 {
		return nil, s.noneBegan(c, set)
	}
	stored := *set
	stored.Members = slices.Clone(set.Members)
	if err := s.sets.create(ctx, set.ID, &stored); err != nil {
		return nil, err
	}
	began := s.beginTogether(ctx, set, ready)
	if err := s.noteWhy(ctx, set); err != nil {
		s.log.WarnContext(ctx, "why a node is not in a set can't be noted", "set", set.ID, "err", err)
	}
	if info := s.infoOf(set); began == 0 && !slices.ContainsFunc(info.Backups, func(b *job.Backup) bool { return b != nil }) {
		return nil, errors.Join(s.noneBegan(c, set), s.sets.remove(ctx, set.ID))
	}
	s.log.InfoContext(ctx, "set accepted", "set", set.ID, "cluster", set.Cluster, "begun", began, "nodes", len(set.Members))
	return s.infoOf(set), nil
}

// noneBegan refuses a set of which no backup can begin. That the agents are not online is the cause only if it is that of
// all: then their next hellos put an end to it.
func (s *Server) noneBegan(c *Cluster, set *job.Set) error {
	var why []string
	offline := true
	for n, m := range set.Members {
		if m.Instance != "" {
			why = append(why, m.Node+": "+cmp.Or(m.Why, "it could not be begun"))
			offline = offline && !c.Nodes[n].Online
		}
	}
	e := &Error{Kind: Busy, Message: fmt.Sprintf("No node of the cluster %s can be backed up now (%s).", c.Name, strings.Join(why, "; "))}
	if offline {
		e.Cause = errOffline
	}
	return e
}

// setBackupID is the id of the backup of an instance that is of a set.
func setBackupID(set, instance string) string {
	u := uuid.NewSHA1(namespace, []byte("set/"+set+"/"+instance))
	if of, err := uuid.Parse(set); err == nil {
		copy(u[:6], of[:6]) // sorts by the time of the set
	}
	u[6] = u[6]&0x0f | 0x70
	return u.String()
}

// prepareSet makes what is to be stored of the members that may begin, and notes why others can't. The error is of what is
// the matter with whoever asks, and not with one node.
func (s *Server) prepareSet(ctx context.Context, who *access.Caller, set *job.Set, which func(*job.SetMember) bool) ([]*prepared, error) {
	var out []*prepared
	for n := range set.Members {
		m := &set.Members[n]
		if m.Instance == "" || !which(m) {
			continue
		}
		p, err := s.prepare(ctx, who, NewBackup{Name: memberName(set.Name, m.InstanceName), Description: memberText(set, m), Instance: m.Instance,
			id: setBackupID(set.ID, m.Instance), schedule: set.Schedule, set: set})
		switch {
		case errors.Is(err, errOffline):
			m.Why = "its agent is not online"
		case isKind(err, Busy):
			m.Why = "it was busy"
		case isKind(err, NotFound) && s.instances.have(m.Instance) == nil:
			m.Why = "its instance is gone"
		case err != nil:
			return nil, err
		default:
			out = append(out, p)
		}
	}
	return out, nil
}

// maxBackupName is how long the name of a backup may be, as Trove has it, in characters.
const maxBackupName = 255

// memberName is what a backup of a set is called.
func memberName(set, instance string) string {
	name := []rune(set)
	if most := maxBackupName - len([]rune(instance)) - 1; len(name) > most {
		name = name[:max(most, 0)]
	}
	return string(name) + " " + instance
}

// memberText is how a backup of a set is described.
func memberText(set *job.Set, m *job.SetMember) string {
	text := fmt.Sprintf("node %s of the set %s of the cluster %s", m.Node, set.ID, set.Cluster)
	if set.Description != "" {
		text = set.Description + "\n" + text
	}
	return text
}

// beginTogether begins backups at one moment: all instances are held, then all backups and all jobs are stored, and then
// all jobs are put into the queues, one right after the other. It notes in the set why some did not begin, and returns how
// many did.
func (s *Server) beginTogether(ctx context.Context, set *job.Set, list []*prepared) (began int) {
	each := func(do func(*prepared) (why string)) {
		list = slices.DeleteFunc(list, func(p *prepared) bool {
			why := do(p)
			n := slices.IndexFunc(set.Members, func(m job.SetMember) bool { return m.Instance == p.instance.ID })
			set.Members[n].Why, set.Members[n].Begun = why, why == ""
			return why != ""
		})
	}
	broken := func(p *prepared, err error) string {
		s.log.WarnContext(ctx, "a backup of a set could not be begun", "set", set.ID, "instance", p.instance.Name, "err", err)
		return "the server could not begin it"
	}
	each(func(p *prepared) string {
		err := s.hold(ctx, p.job, nil)
		switch {
		case isKind(err, Busy):
			return "it was busy"
		case isKind(err, NotFound):
			return "its instance is gone"
		case err != nil:
			return broken(p, err)
		}
		return ""
	})
	each(func(p *prepared) string {
		err := s.backups.create(ctx, p.backup.ID, p.backup)
		if err == nil {
			return ""
		}
		s.letGo(ctx, p.job, nil)
		if errors.Is(err, bus.ErrExists) { // another server did it, and its backup says the rest
			return "it has begun"
		}
		return broken(p, err)
	})
	each(func(p *prepared) string {
		err := s.storeJob(ctx, p.job)
		switch {
		case err == nil:
			return ""
		case errors.Is(err, errOpen): // the sweep ends it, or it goes on
			return broken(p, err)
		}
		s.letGo(ctx, p.job, nil)
		return broken(p, errors.Join(err, s.backups.remove(ctx, p.backup.ID)))
	})
	for _, p := range list {
		s.queue(ctx, p.job)
	}
	return len(list)
}

// noteBegun stores that backups have begun of which a server that died didn't.
func (s *Server) noteBegun(ctx context.Context, i *SetInfo) error {
	set := *i.Set
	set.Members = slices.Clone(set.Members)
	for n, b := range i.Backups {
		if b != nil {
			set.Members[n].Begun, set.Members[n].Why = true, ""
		}
	}
	if slices.Equal(set.Members, i.Set.Members) {
		return nil
	}
	return s.noteWhy(ctx, &set)
}

// noteWhy stores why members have no backup.
func (s *Server) noteWhy(ctx context.Context, set *job.Set) error {
	_, err := s.sets.update(ctx, set.ID, func(t *job.Set) error {
		if slices.Equal(t.Members, set.Members) || len(t.Members) != len(set.Members) {
			return errSame
		}
		t.Members, t.Updated = slices.Clone(set.Members), s.now()
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	return err
}

// sweepSets goes on with sets: those that are to be deleted, and those of which a node could not be backed up when they
// began.
func (s *Server) sweepSets(ctx context.Context) error {
	type key struct{ project, cluster, schedule string }
	last := map[key]*job.Set{}
	var going []*job.Set
	s.sets.all(func(_ string, t *job.Set) bool {
		if t.Going > 0 {
			going = append(going, t)
		}
		k := key{t.Project, t.Cluster, t.Schedule}
		if l := last[k]; l == nil || after(t, l) {
			last[k] = t
		}
		return true
	})
	var errs []error
	for _, t := range going {
		errs = append(errs, s.goOnDeleting(ctx, t))
	}
	for _, t := range last {
		if t.Going == 0 {
			errs = append(errs, s.complete(ctx, t))
		}
	}
	return errors.Join(errs...)
}

// complete begins the backups that a set lacks because their nodes were down or busy, or the server died, if these nodes
// can be backed up by now. What failed isn't made again.
func (s *Server) complete(ctx context.Context, t *job.Set) error {
	info := s.infoOf(t)
	settled := s.sets.ago(t.ID) > acceptFor // else another server may be beginning it just now
	missing := map[string]bool{}
	for n, m := range t.Members {
		if i := s.instances.have(m.Instance); i != nil && info.Backups[n] == nil && !m.Begun && (m.Why != "" || settled) &&
			i.Task == "" && i.Status == job.InstanceActive && s.Live(i).Online {
			missing[m.Instance] = true
		}
	}
	if len(missing) == 0 {
		return s.noteBegun(ctx, info)
	}
	who, err := s.completer(ctx, t)
	if who == nil || err != nil {
		return err
	}
	c, err := s.cluster(t.Project, t.Cluster)
	if err != nil || c.Unclear != "" {
		return nil //nolint:nilerror // it isn't a cluster any more, which whoever asks for the next set is told
	}
	set := *t
	set.Members = slices.Clone(t.Members)
	defer s.making(t.Project)()
	if err := s.room(t.Project, "backups", len(missing)); err != nil {
		for n := range set.Members {
			if m := &set.Members[n]; missing[m.Instance] {
				m.Why = "the quota of backups was used up"
			}
		}
		return s.noteWhy(ctx, &set)
	}
	ready, err := s.prepareSet(ctx, who, &set, func(m *job.SetMember) bool {
		return missing[m.Instance] && slices.ContainsFunc(c.Nodes, func(n ClusterNode) bool { return n.Node == m.Node && n.Instance != nil && n.Instance.ID == m.Instance })
	})
	if err != nil {
		s.log.WarnContext(ctx, "a set can't be completed now", "set", t.ID, "cluster", t.Cluster, "err", err)
		return nil
	}
	if began := s.beginTogether(ctx, &set, ready); began > 0 {
		s.log.InfoContext(ctx, "a set is completed", "set", t.ID, "cluster", t.Cluster, "begun", began)
	}
	return s.noteWhy(ctx, &set)
}

// completer returns who goes on with a set; nil if it stays as it is.
func (s *Server) completer(ctx context.Context, t *job.Set) (*access.Caller, error) {
	if t.Schedule == "" {
		if age, _ := newest.Since(t.Created, s.now()); t.Lent || age > completeFor {
			return nil, nil
		}
		return s.service(t), nil
	}
	c := s.schedules.have(t.Schedule)
	if c == nil || !c.Enabled || c.Last.Backup != "" && c.Last.Backup != t.ID || // another one began, though it may be gone
		c.Window > 0 && !c.CatchUp && !s.now().Before(t.Created.Add(c.Window)) {
		return nil, nil
	}
	who, err := s.actor(ctx, c)
	if err != nil {
		s.log.WarnContext(ctx, "a set can't be completed now", "set", t.ID, "cluster", t.Cluster, "err", err)
		return nil, nil
	}
	return who, nil
}

// service acts for nobody in particular.
func (s *Server) service(t *job.Set) *access.Caller {
	return &access.Caller{Project: t.Project, User: "the service", Role: access.Operator}
}

// mayGoAlone refuses the deletion of one backup of a set that is whole or may become so. Of a partial one each may go: there
// is nothing whole to lose.
func (s *Server) mayGoAlone(b *job.Backup) error {
	t := s.sets.have(b.Set)
	if t == nil || !b.Status.Usable() {
		return nil
	}
	if i := s.infoOf(t); i.State == SetWhole || i.State == SetRunning {
		return refuse(Conflict, "Backup %s is of the set %s of the cluster %s, which is restored as one, and goes as one: \"slipcover sets delete %s\" deletes all of it.", b.ID, t.ID, t.Cluster, t.ID)
	}
	return nil
}

// DeleteSet deletes all backups of a set, and those that were made on them. Nothing is deleted if one of them can't be, as
// far as that is known.
func (s *Server) DeleteSet(ctx context.Context, who *access.Caller, id string) error {
	ctx = whole(ctx)
	i, err := s.Set(ctx, who, id)
	if err != nil {
		return err
	}
	return s.deleteSet(ctx, who, i.Set)
}

func (s *Server) deleteSet(ctx context.Context, who *access.Caller, t *job.Set) error {
	i, list, err := s.goingWithSet(ctx, who, t)
	if err != nil {
		return err
	}
	had := max(i.Usable(), 1)
	if _, err := s.sets.update(ctx, t.ID, func(t *job.Set) error {
		if t.Going > 0 {
			return errSame
		}
		t.Going, t.Updated = had, s.now()
		return nil
	}); err != nil && !errors.Is(err, bus.ErrNotFound) {
		return err
	}
	if err := s.deleteAll(ctx, who, keptFirst(list)); err != nil {
		return err
	}
	return s.goOnDeleting(ctx, t)
}

// MayDeleteSet says in an error why DeleteSet would refuse a set now.
func (s *Server) MayDeleteSet(ctx context.Context, who *access.Caller, t *job.Set) error {
	_, _, err := s.goingWithSet(ctx, who, t)
	return err
}

// SetFamily returns the backups of a set with those that were made on them, which go with it.
func (s *Server) SetFamily(i *SetInfo) []*job.Backup { return s.families(i) }

// goingWithSet returns a set's backups with those that were made on them, if all of them may be deleted.
func (s *Server) goingWithSet(ctx context.Context, who *access.Caller, t *job.Set) (*SetInfo, []*job.Backup, error) {
	i, err := s.lateInfo(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	list, err := s.deletable(ctx, s.families(i))
	if err != nil {
		return nil, nil, err
	}
	for _, b := range list {
		if !reaches(who, &b.Repository) {
			return nil, nil, refuse(Invalid, "The backup %s is in the Swift account of project %s: ask with a token of that project.", b.ID, who.Project)
		}
		if b.RepoID != "" && b.Status != job.BackupDeleting && !s.shared(b) && s.removerOf(b) == nil {
			return nil, nil, refuse(Busy, "The set %s can't be deleted now: no agent has the repository of backup %s.", t.ID, b.ID)
		}
	}
	return i, list, nil
}

// families are the backups of a set with those that were made on them.
func (s *Server) families(i *SetInfo) []*job.Backup {
	var out []*job.Backup
	for _, b := range i.Backups {
		if b == nil {
			continue
		}
		for _, m := range s.family(b) {
			if !slices.ContainsFunc(out, func(o *job.Backup) bool { return o.ID == m.ID }) {
				out = append(out, m)
			}
		}
	}
	return out
}

// keptFirst returns of backups that are to go those of which a deletion was refused before, as one that is pinned; all if
// there are none. As long as they stay the others do.
func keptFirst(list []*job.Backup) []*job.Backup {
	var kept []*job.Backup
	for _, b := range list {
		if b.Status.Usable() && b.Fault != "" {
			kept = append(kept, b)
		}
	}
	if len(kept) > 0 {
		return kept
	}
	return list
}

// goOnDeleting ends the deletion of a set that has no backups any more. One of which all is there still, since it is pinned
// or protected, is a set as before. It goes on with one of which a server that died, or deleteSet, left some; what can't be
// deleted is left to the next retention, or to whoever asks again.
func (s *Server) goOnDeleting(ctx context.Context, t *job.Set) error {
	i, err := s.lateInfo(ctx, t)
	if err != nil {
		return err
	}
	var left, kept, going int
	var rest []*job.Backup
	for _, b := range i.Backups {
		switch {
		case b == nil:
			continue
		case b.Status == job.BackupDeleting:
			going++
		case b.Status.Usable() && (b.Fault != "" || b.Held()):
			kept++
		case b.Status != job.BackupDeleteFailed:
			rest = append(rest, b)
		}
		left++
	}
	switch {
	case left == 0:
		s.log.InfoContext(ctx, "set deleted", "set", t.ID, "cluster", t.Cluster)
		return s.sets.remove(ctx, t.ID)
	case going > 0:
		return nil
	case kept > 0 && i.Usable() == t.Going:
		_, err := s.sets.update(ctx, t.ID, func(t *job.Set) error {
			t.Going, t.Updated = 0, s.now()
			return nil
		})
		s.log.WarnContext(ctx, "a set stays, since a backup of it can't be deleted", "set", t.ID, "cluster", t.Cluster)
		if errors.Is(err, bus.ErrNotFound) {
			return nil
		}
		return err
	case kept > 0 || len(rest) == 0:
		return nil
	}
	who := s.service(t)
	if c := s.schedules.have(t.Schedule); c != nil {
		if who, err = s.actor(ctx, c); err != nil {
			return nil //nolint:nilerror // it is tried again
		}
	}
	var all []*job.Backup
	for _, b := range rest {
		if !reaches(who, &b.Repository) {
			return nil
		}
		all = append(all, s.family(b)...)
	}
	if all, err = s.deletable(ctx, all); err != nil {
		return nil //nolint:nilerror // it is tried again
	}
	return s.deleteAll(ctx, who, all)
}
