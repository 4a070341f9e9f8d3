package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/retention"
	"github.com/slipcover/slipcover/internal/schedule"
	"github.com/slipcover/slipcover/internal/words"
)

// Bounds of what a schedule may be told.
const (
	maxSchedules    = 50 // of an instance, or of a cluster
	maxScheduleName = 200
	maxCron         = 500 // bytes; a line that names each minute, hour and day has some 400
	maxZone         = 64  // bytes; the longest of the database has 32
	maxHeartbeat    = 2048
)

// Outcomes of a firing; others are the sentence of a refusal.
const (
	firing  = "starting" // stored before the backup is begun
	waiting = "waiting: the instance's agent is not online"
	started = "started"
	skipped = "skipped: the instance was busy"
	missed  = "missed: it could not begin in time"
)

// Schedules returns the schedules of the caller's project, or of one instance.
func (s *Server) Schedules(who *access.Caller, instance string) []*job.Schedule {
	var out []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if mine(who, c.Project) && (instance == "" || c.Instance == instance) {
			out = append(out, c)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Schedule) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Schedule returns a schedule of the caller's project.
func (s *Server) Schedule(ctx context.Context, who *access.Caller, id string) (*job.Schedule, error) {
	c, err := s.schedules.get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && !mine(who, c.Project) {
		return nil, notFound(id)
	}
	return c, err
}

// CreateSchedule stores a schedule; its id, project, trust and times are set here.
func (s *Server) CreateSchedule(ctx context.Context, who *access.Caller, c *job.Schedule) (*job.Schedule, error) {
	n := *c
	n.ID, n.Project, n.Created, n.Updated = newID(), who.Project, s.now(), s.now()
	err := s.checkSchedule(ctx, who, &n, &job.Schedule{})
	if err != nil {
		return nil, err
	}
	if err := s.checkHeartbeat(ctx, n.Heartbeat); err != nil {
		return nil, err
	}
	if err := s.roomForSchedule(who, &n); err != nil {
		return nil, err
	}
	if n.Trust, err = s.giveTrust(ctx, who); err != nil {
		return nil, err
	}
	ctx = whole(ctx)
	defer s.alone(target(&n))()
	if err := s.roomForSchedule(who, &n); err != nil { // others were quicker
		s.endTrust(ctx, who, &n)
		return nil, err
	}
	return &n, s.schedules.create(ctx, n.ID, &n)
}

func (s *Server) roomForSchedule(who *access.Caller, of *job.Schedule) error {
	n := 0
	for _, c := range s.Schedules(who, "") {
		if c.Instance == of.Instance && c.Cluster == of.Cluster {
			n++
		}
	}
	if n < maxSchedules {
		return nil
	}
	if of.Cluster != "" {
		return refuse(OverQuota, "The cluster has %d schedules, which is the most: change or delete one.", maxSchedules)
	}
	return refuse(OverQuota, "The instance has %d schedules, which is the most: change or delete one.", maxSchedules)
}

// UpdateSchedule changes a schedule by change, which may be called several times. Of one
// whose trust Keystone doesn't honour, the caller's takes the place.
func (s *Server) UpdateSchedule(ctx context.Context, who *access.Caller, id string, change func(*job.Schedule) error) (*job.Schedule, error) {
	was, err := s.Schedule(ctx, who, id)
	if err != nil {
		return nil, err
	}
	n := *was
	if err := s.changeSchedule(ctx, who, &n, change); err != nil {
		return nil, err
	}
	if n.Heartbeat != was.Heartbeat {
		if err := s.checkHeartbeat(ctx, n.Heartbeat); err != nil {
			return nil, err
		}
	}
	trust := ""
	if n.Enabled {
		if trust, err = s.newTrust(ctx, who, was); err != nil {
			return nil, err
		}
	}
	ctx = whole(ctx)
	done, err := s.schedules.update(ctx, id, func(c *job.Schedule) error {
		if trust != "" {
			c.Trust = trust
		}
		return s.changeSchedule(ctx, who, c, change)
	})
	if err == nil && trust != "" {
		s.endTrust(ctx, who, was)
	}
	return done, err
}

func (s *Server) changeSchedule(ctx context.Context, who *access.Caller, c *job.Schedule, change func(*job.Schedule) error) error {
	was := *c
	if err := change(c); err != nil {
		return err
	}
	c.ID, c.Project, c.Instance, c.Cluster, c.Trust, c.Created, c.Updated = was.ID, was.Project, was.Instance, was.Cluster, was.Trust, was.Created, s.now()
	if c.Last.Outcome == waiting && !c.Enabled { // else it began when the schedule is enabled again
		c.Last.Outcome, c.Last.Backup = missed, ""
		c.Missed++
	}
	if c.Cron == was.Cron && c.TimeZone == was.TimeZone && c.Enabled == was.Enabled && c.ProveCron == was.ProveCron {
		c.Next, c.ProveNext = was.Next, was.ProveNext
		return s.checkFields(c, &was)
	}
	return s.checkSchedule(ctx, who, c, &was)
}

// DeleteSchedule removes a schedule; its backups stay.
func (s *Server) DeleteSchedule(ctx context.Context, who *access.Caller, id string) error {
	c, err := s.Schedule(ctx, who, id)
	if err != nil {
		return err
	}
	return s.dropSchedule(ctx, who, c)
}

func (s *Server) dropSchedule(ctx context.Context, who *access.Caller, c *job.Schedule) error {
	if err := s.schedules.remove(ctx, c.ID); err != nil {
		return err
	}
	s.endTrust(ctx, who, c)
	return nil
}

// dropSchedules removes the schedules of an instance that goes.
func (s *Server) dropSchedules(ctx context.Context, who *access.Caller, instance string) error {
	var list []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if c.Instance == instance {
			list = append(list, c)
		}
		return true
	})
	for _, c := range list {
		if err := s.dropSchedule(ctx, who, c); err != nil {
			return err
		}
	}
	return nil
}

// checkSchedule checks a schedule, as far as it isn't as it was, and sets when it fires
// next.
func (s *Server) checkSchedule(ctx context.Context, who *access.Caller, c, was *job.Schedule) error {
	switch {
	case c.Cluster == "":
		if _, err := s.Instance(ctx, who, c.Instance); err != nil {
			return err
		}
	case was.Cluster == "": // it is made; later the cluster may not be known for a while
		if _, err := s.cluster(who.Project, c.Cluster); err != nil {
			return err
		}
	}
	if err := s.checkFields(c, was); err != nil {
		return err
	}
	spec, err := schedule.Parse(c.Cron, c.TimeZone)
	if err != nil {
		return &Error{Kind: Invalid, Message: "The schedule's cron line can't be used: " + err.Error() + ".", Cause: err}
	}
	c.Next, c.ProveNext = spec.Next(s.now()), time.Time{}
	if c.ProveCron != "" {
		if spec, err = schedule.Parse(c.ProveCron, c.TimeZone); err != nil {
			return &Error{Kind: Invalid, Message: "The cron line of the restore tests can't be used: " + err.Error() + ".", Cause: err}
		}
		c.ProveNext = spec.Next(s.now())
	}
	return nil
}

// checkFields checks what a schedule is told by itself. What is as it was stays allowed: a
// schedule of an earlier version can be changed in the rest, or disabled.
func (s *Server) checkFields(c, was *job.Schedule) error {
	switch {
	case (c.Name == "" || c.Name != was.Name) && !words.IsName(c.Name, maxScheduleName):
		return refuse(Invalid, "A schedule needs a name of 1 to %d characters in one line, without control characters.", maxScheduleName)
	case c.Cron != was.Cron && len(c.Cron) > maxCron, c.ProveCron != was.ProveCron && len(c.ProveCron) > maxCron:
		return refuse(Invalid, "A cron line has at most %d characters: use steps and ranges, such as */5 or 8-18.", maxCron)
	case c.TimeZone != was.TimeZone && len(c.TimeZone) > maxZone:
		return refuse(Invalid, "A time zone is a name such as Europe/Berlin, of at most %d characters.", maxZone)
	case c.Heartbeat != was.Heartbeat && len(c.Heartbeat) > maxHeartbeat:
		return refuse(Invalid, "The heartbeat's URL has more than %d characters.", maxHeartbeat)
	}
	if c.Jitter < 0 || c.Window < 0 || c.Jitter > 7*24*time.Hour || c.Window > 7*24*time.Hour {
		return refuse(Invalid, "Jitter and window are times from 0 to 168h.")
	}
	if _, err := policyOf(c.Keep); err != nil {
		return &Error{Kind: Invalid, Message: "The retention can't be used: " + err.Error() + ".", Cause: err}
	}
	if c.Heartbeat != "" {
		u, err := url.Parse(c.Heartbeat)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return refuse(Invalid, "The heartbeat must be a URL such as https://hc.example/ping/1234.")
		}
	}
	return nil
}

// policyOf is a retention as package retention has it.
func policyOf(k job.Keep) (retention.Policy, error) {
	p := retention.Policy{KeepLast: k.Last, KeepHourly: k.Hourly, KeepDaily: k.Daily, KeepWeekly: k.Weekly, KeepMonthly: k.Monthly, KeepYearly: k.Yearly}
	if k.Within != "" {
		var err error
		if p.KeepWithin, err = calendar.ParseSpan(k.Within); err != nil {
			return p, err
		}
	}
	_, err := retention.Decide(p, nil, time.Time{})
	return p, err
}

// Tick fires the schedules that are due. Any server may do it: who stores a firing, by
// revision, begins it.
func (s *Server) Tick(ctx context.Context) error {
	var due, unfinished, proofs, ahead []*job.Schedule
	now := s.now()
	s.schedules.each(func(_ string, c *job.Schedule, ago time.Duration) bool {
		if c.Enabled && (s.isAhead(c.Cron, c.TimeZone, c.Next) || s.isAhead(c.ProveCron, c.TimeZone, c.ProveNext)) {
			ahead = append(ahead, c)
			return true
		}
		if c.Enabled && !c.Next.IsZero() && !c.Next.After(now) {
			due = append(due, c)
		}
		if c.Enabled && !c.ProveNext.IsZero() && !c.ProveNext.After(now) {
			proofs = append(proofs, c)
		}
		// Later than the sweep, which lets go the instance that a dead server held for it.
		if c.Last.Outcome == firing && ago > 2*acceptFor || c.Last.Outcome == waiting {
			unfinished = append(unfinished, c)
		}
		return true
	})
	var errs []error
	down := false // Keystone, which may take long to be: it is asked again next time
	each := func(list []*job.Schedule, do func(context.Context, *job.Schedule) error) {
		for _, c := range list {
			if down && c.Trust != "" {
				continue
			}
			err := do(ctx, c)
			down = down || c.Trust != "" && isKind(err, Unavailable) && !errors.Is(err, errOffline)
			errs = append(errs, err)
		}
	}
	each(ahead, s.setRight)
	each(due, s.fire)
	each(unfinished, s.resume)
	each(proofs, s.fireProof)
	return errors.Join(errs...)
}

// isAhead reports whether a stored firing of a cron line can only come of a clock that was
// ahead, and would keep the schedule silent for as long.
func (s *Server) isAhead(cron, zone string, next time.Time) bool {
	if cron == "" || !next.After(s.now().Add(24*time.Hour)) { // most; the rest is parsed
		return false
	}
	spec, err := s.specs.parse(cron, zone)
	return err == nil && spec.Ahead(s.now(), next)
}

// setRight gives a schedule the firings that it would have had if the clock had not been
// ahead, and says so: what should have been made meanwhile was not.
func (s *Server) setRight(ctx context.Context, c *job.Schedule) error {
	read := *c
	next, err := s.schedules.update(ctx, c.ID, func(c *job.Schedule) error {
		if !c.Next.Equal(read.Next) || !c.ProveNext.Equal(read.ProveNext) || c.Cron != read.Cron || c.TimeZone != read.TimeZone || c.ProveCron != read.ProveCron {
			return errOther
		}
		if spec, err := s.specs.parse(c.Cron, c.TimeZone); err == nil && spec.Ahead(s.now(), c.Next) {
			c.Next = spec.Next(s.now())
		}
		if spec, err := s.specs.parse(c.ProveCron, c.TimeZone); err == nil && c.ProveCron != "" && spec.Ahead(s.now(), c.ProveNext) {
			c.ProveNext = spec.Next(s.now())
		}
		return nil
	})
	if errors.Is(err, errOther) || errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.met.ahead.Inc()
	s.log.ErrorContext(ctx, "a server's clock was ahead: a schedule would have been silent until then, and is set right", "schedule", c.Name, "instance", target(c),
		"was", read.Next, "next", next.Next, "prove_was", read.ProveNext, "prove_next", next.ProveNext)
	return nil
}

// specs are cron lines that were parsed. The zero value has none.
type specs struct {
	mu     sync.Mutex
	parsed map[[2]string]*parsedSpec // by line and zone; guarded by mu
}

// parsedSpec is a line with the two firings after a moment, which are the same for each moment until the first of them.
type parsedSpec struct {
	schedule.Spec
	from, first, second time.Time // guarded by the lock of specs
}

func (p *specs) parse(cron, zone string) (schedule.Spec, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, err := p.parsedOf(cron, zone)
	if err != nil {
		return schedule.Spec{}, err
	}
	return k.Spec, nil
}

// every returns how long it is from a line's first firing after now to the one after that.
func (p *specs) every(cron, zone string, now time.Time) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, err := p.parsedOf(cron, zone)
	if err != nil {
		return 0, err
	}
	if k.first.IsZero() || now.Before(k.from) || !now.Before(k.first) {
		k.from, k.first = now, k.Next(now)
		k.second = k.Next(k.first)
	}
	return k.second.Sub(k.first), nil
}

// location returns the time zone of a schedule; nil if it can't be used.
func (p *specs) location(c *job.Schedule) *time.Location {
	if spec, err := p.parse(c.Cron, c.TimeZone); err == nil {
		return spec.Location()
	}
	loc, _ := time.LoadLocation(c.TimeZone) // nil with an error
	return loc
}

// parsedOf is called with the lock held.
func (p *specs) parsedOf(cron, zone string) (*parsedSpec, error) {
	key := [2]string{cron, zone}
	if k := p.parsed[key]; k != nil {
		return k, nil
	}
	spec, err := schedule.Parse(cron, zone)
	if err != nil {
		return nil, err
	}
	if p.parsed == nil || len(p.parsed) > 10000 { // lines that were changed long ago
		p.parsed = map[[2]string]*parsedSpec{}
	}
	k := &parsedSpec{Spec: spec}
	p.parsed[key] = k
	return k, nil
}

// fire decides about a schedule that may be due, stores the decision, and begins the
// backup.
func (s *Server) fire(ctx context.Context, c *job.Schedule) error {
	spec, err := schedule.Parse(c.Cron, c.TimeZone)
	if err != nil {
		return fmt.Errorf("schedule %s: %w", c.ID, err)
	}
	busy := s.allBusy(c)
	read := *c
	d := planOf(c, spec).Decide(s.now(), c.Next, busy)
	if !d.Fire && !d.Skipped && d.Missed == 0 && d.Next.Equal(c.Next) {
		return nil
	}
	var late bool
	next, err := s.schedules.update(ctx, c.ID, func(c *job.Schedule) error {
		if !c.Next.Equal(read.Next) || !c.Enabled {
			return errOther
		}
		c.Next, c.Updated = d.Next, s.now()
		c.Missed += d.Missed
		late = s.pending(c) && !c.CatchUp // else this one makes up for it
		if late {
			c.Missed++
		}
		if s.pending(c) { // it was tried until now
			c.Last.Outcome, c.Last.Backup = missed, ""
		}
		switch {
		case d.Fire:
			c.Last = job.Firing{Due: d.Due, Backup: firingID(c.ID, d.Due), Outcome: firing}
		case d.Skipped:
			c.Last = job.Firing{Due: d.Due, Outcome: skipped}
			c.Skipped++
		}
		return nil
	})
	if errors.Is(err, errOther) || errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if late {
		s.heartbeat(ctx, next, false)
	}
	if d.Missed > 0 || d.Skipped || late {
		s.log.WarnContext(ctx, "a schedule could not begin a backup", "schedule", c.Name, "instance", target(c), "missed", d.Missed, "skipped", d.Skipped)
	}
	if !d.Fire {
		return nil
	}
	return s.start(ctx, next)
}

var errOther = errors.New("another server did it")

func planOf(c *job.Schedule, spec schedule.Spec) schedule.Plan {
	return schedule.Plan{ID: c.ID, Spec: spec, Jitter: c.Jitter, Window: c.Window, CatchUp: c.CatchUp}
}

// pending reports whether a schedule's last firing is stored, and its backup not begun.
func (s *Server) pending(c *job.Schedule) bool {
	begun := s.backups.have(c.Last.Backup) != nil || c.Cluster != "" && s.sets.have(c.Last.Backup) != nil
	return (c.Last.Outcome == firing || c.Last.Outcome == waiting) && !begun
}

// over reports whether the last firing may begin no more. With CatchUp, or without a
// window, it may until the next one begins, which then takes its place.
func over(c *job.Schedule, now time.Time) bool {
	spec, err := schedule.Parse(c.Cron, c.TimeZone)
	if err != nil || c.Window <= 0 || c.CatchUp {
		return false
	}
	return !now.Before(planOf(c, spec).Begin(c.Last.Due).Add(c.Window))
}

// resume goes on with a firing that is stored and not begun: by a server that died in
// between, when something was down, or when the agent wasn't online, as after a downtime
// of the server's that was long enough for all of them to be forgotten. The server that
// stores that it does so does it.
func (s *Server) resume(ctx context.Context, c *job.Schedule) error {
	if c.Last.Outcome == waiting && s.allAway(c) && !over(c, s.now()) {
		return nil
	}
	read := *c
	next, err := s.schedules.update(ctx, c.ID, func(c *job.Schedule) error {
		if c.Last.Outcome != read.Last.Outcome || c.Last.Backup != read.Last.Backup || !c.Updated.Equal(read.Updated) {
			return errOther
		}
		c.Last.Outcome, c.Updated = firing, s.now()
		return nil
	})
	if errors.Is(err, errOther) || errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.start(ctx, next)
}

// firingID is the id of the backup of a firing, so that one firing makes one backup.
func firingID(schedule string, due time.Time) string {
	u := uuid.NewSHA1(namespace, []byte("firing/"+schedule+"/"+due.UTC().Format(time.RFC3339)))
	ms := due.UnixMilli() // as a UUID of version 7, which sorts by time
	for i := range 6 {
		u[i] = byte(ms >> (8 * (5 - i)))
	}
	u[6] = u[6]&0x0f | 0x70
	return u.String()
}

// start begins the backup of a firing that is stored, and stores what came of it.
func (s *Server) start(ctx context.Context, c *job.Schedule) error {
	if n := s.schedules.have(c.ID); n == nil || n.Last.Backup != c.Last.Backup {
		return nil // the next one has begun
	}
	outcome := started
	err := s.backUp(ctx, c)
	again := isKind(err, Unavailable) // not refused
	var refusal *Error
	switch {
	case again:
		outcome = firing
	case errors.Is(err, errOffline):
		outcome = waiting
		s.log.WarnContext(ctx, "a scheduled backup waits for its agent, which is not online", "schedule", c.Name, "instance", target(c))
	case errors.As(err, &refusal):
		outcome = refusal.Message
		s.log.WarnContext(ctx, "a scheduled backup was refused", "schedule", c.Name, "instance", target(c), "err", err)
		s.heartbeat(ctx, c, false)
	case err != nil:
		return err
	}
	_, stored := s.schedules.update(ctx, c.ID, func(n *job.Schedule) error {
		if n.Last.Outcome != firing || n.Last.Backup != c.Last.Backup {
			return errSame
		}
		switch n.Last.Outcome = outcome; outcome {
		case started:
		case firing, waiting:
			n.Updated = s.now() // from when on it counts until it is tried again
		case missed:
			n.Missed++
			fallthrough
		default:
			n.Last.Backup = ""
		}
		return nil
	})
	if errors.Is(stored, bus.ErrNotFound) {
		stored = nil
	}
	if again {
		return errors.Join(err, stored)
	}
	return stored
}

// backUp begins the backup, or the set, of a firing, unless it has begun.
func (s *Server) backUp(ctx context.Context, c *job.Schedule) error {
	if s.backups.have(c.Last.Backup) != nil || s.sets.have(c.Last.Backup) != nil {
		return nil
	}
	if over(c, s.now()) { // it was tried until now
		return refuse(Busy, missed)
	}
	who, err := s.actor(ctx, c)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s %s", c.Name, c.Last.Due.UTC().Format("2006-01-02 15:04"))
	if c.Cluster != "" {
		_, err = s.CreateSet(ctx, who, NewSet{Name: name, Cluster: c.Cluster, id: c.Last.Backup, schedule: c.ID})
	} else {
		_, err = s.CreateBackup(ctx, who, NewBackup{Name: name, Instance: c.Instance, id: c.Last.Backup, schedule: c.ID})
	}
	if errors.Is(err, bus.ErrExists) {
		return nil
	}
	return err
}

// toProve returns the newest backup of a schedule's instance, or those of the newest set of its cluster that is whole.
func (s *Server) toProve(who *access.Caller, c *job.Schedule) []*job.Backup {
	if c.Cluster != "" {
		_, whole := s.newestSets(c.Project)
		if i := whole[c.Cluster]; i != nil && !slices.ContainsFunc(i.Backups, func(b *job.Backup) bool { return !reaches(who, &b.Repository) }) {
			return i.Backups
		}
		return nil
	}
	if b := s.newest(who, c.Instance); b != nil {
		return []*job.Backup{b}
	}
	return nil
}

// allBusy reports whether what a schedule backs up is busy: of a cluster all instances, since the others can begin.
func (s *Server) allBusy(c *job.Schedule) bool {
	return s.allAre(c, func(i *job.Instance) bool { return i.Task != "" })
}

// allAway reports whether the agents of what a schedule backs up are known and not online.
func (s *Server) allAway(c *job.Schedule) bool {
	return s.allAre(c, func(i *job.Instance) bool { return !s.Live(i).Online })
}

// allAre reports whether something holds for all instances that a schedule backs up, of which there is at least one.
func (s *Server) allAre(c *job.Schedule, is func(*job.Instance) bool) bool {
	if c.Cluster == "" {
		i := s.instances.have(c.Instance)
		return i != nil && is(i)
	}
	all, some := true, false
	if of, err := s.cluster(c.Project, c.Cluster); err == nil {
		for _, n := range of.Nodes {
			if n.Instance != nil {
				all, some = all && is(n.Instance), true
			}
		}
	}
	return all && some
}

// fireProof begins a restore test of the instance's newest backup, or of each of the cluster's newest whole set.
func (s *Server) fireProof(ctx context.Context, c *job.Schedule) error {
	spec, err := schedule.Parse(c.ProveCron, c.TimeZone)
	if err != nil {
		return fmt.Errorf("schedule %s: %w", c.ID, err)
	}
	who, refused := s.actor(ctx, c)
	var list []*job.Backup
	if refused == nil {
		list = s.toProve(who, c)
		for _, b := range list {
			refused = cmp.Or(refused, s.away(b))
		}
	}
	later := isKind(refused, Unavailable)
	at := c.ProveNext
	_, err = s.schedules.update(ctx, c.ID, func(c *job.Schedule) error {
		if !c.ProveNext.Equal(at) {
			return errOther
		}
		c.ProveNext = spec.Next(s.now())
		if again := s.now().Add(2 * acceptFor); later && again.Before(c.ProveNext) {
			c.ProveNext = again
		}
		return nil
	})
	if errors.Is(err, errOther) || errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil || later {
		return errors.Join(err, refused)
	}
	if refused == nil && len(list) > 0 {
		if s.proving(func(j *job.Job) bool {
			return j.Schedule == c.ID || slices.ContainsFunc(list, func(b *job.Backup) bool { return j.Backup == b.ID })
		}) {
			s.log.WarnContext(ctx, "a scheduled restore test was left out: the one before it has not ended", "schedule", c.Name, "instance", target(c))
			return nil
		}
		for _, b := range list {
			_, err := s.prove(ctx, who, b.ID, c.ID)
			refused = cmp.Or(refused, err)
		}
	}
	var refusal *Error
	if errors.As(refused, &refusal) {
		s.log.WarnContext(ctx, "a scheduled restore test was refused", "schedule", c.Name, "instance", target(c), "err", refused)
		s.heartbeat(ctx, c, false)
		return nil
	}
	return refused
}

// away refuses a restore test for as long as the agent for it is not online.
func (s *Server) away(b *job.Backup) error {
	agent := s.removerOf(b)
	if agent == nil {
		return nil
	}
	if _, online := s.hello(agent); online {
		return nil
	}
	return &Error{Kind: Unavailable, Message: "The restore test waits for the agent " + agent.Name + ", which is not online.", Cause: errOffline}
}

// newest returns the newest backup that was made of an instance and that the caller can
// reach; nil if there is none.
func (s *Server) newest(who *access.Caller, instance string) *job.Backup {
	s.backups.mu.RLock()
	defer s.backups.mu.RUnlock()
	b := s.index.last[instance]
	if b == nil || reaches(who, &b.Repository) {
		return b
	}
	b = nil
	for _, o := range s.index.order {
		if o.Instance == instance && o.Status == job.BackupCompleted && reaches(who, &o.Repository) && (b == nil || newest.After(orderOf(o), orderOf(b))) {
			b = o
		}
	}
	return b
}

// afterwards does what a schedule asks for once its backup or restore test has ended.
func (s *Server) afterwards(ctx context.Context, j *job.Job) {
	b, c := s.backups.have(j.Backup), s.schedules.have(j.Schedule)
	if b == nil || c == nil {
		return
	}
	if t := s.sets.have(b.Set); t != nil && c.Cluster != "" {
		s.afterSet(ctx, c, t, j)
		return
	}
	ok := b.Status.Usable() && (j.Kind != job.KindProve || j.State == job.Done && b.Proof != nil && b.Proof.OK)
	s.heartbeat(ctx, c, ok)
	if j.Kind == job.KindBackup && ok {
		if err := s.retain(ctx, c); err != nil {
			s.log.WarnContext(ctx, "retention could not be applied; it is again after the next backup", "schedule", c.Name, "err", err)
		}
	}
}

// retain deletes the backups of a schedule that its retention doesn't keep, and again
// those of which a deletion failed. What others were made of by parent_id is kept with
// them.
func (s *Server) retain(ctx context.Context, c *job.Schedule) error {
	if c.Keep.IsZero() {
		return nil
	}
	who, err := s.actor(ctx, c)
	if err != nil {
		return err
	}
	if c.Cluster != "" {
		return s.retainSets(ctx, c, who)
	}
	decisions, err := s.decide(c, c.Keep, nil, s.now())
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range decisions {
		if d.Stays || len(s.family(d.Backup)) > 1 {
			continue
		}
		s.log.InfoContext(ctx, "backup goes by retention", "backup", d.Backup.ID, "schedule", c.Name, "why", strings.Join(d.Reasons, ", "))
		if err := s.DeleteBackup(ctx, who, d.Backup.ID); err != nil && !isKind(err, NotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SchedulesOf returns the schedules of the caller's project, or all, oldest first.
func (s *Server) SchedulesOf(who *access.Caller, all bool) []*job.Schedule {
	var out []*job.Schedule
	s.schedules.all(func(_ string, c *job.Schedule) bool {
		if all || mine(who, c.Project) {
			out = append(out, c)
		}
		return true
	})
	slices.SortFunc(out, func(a, b *job.Schedule) int { return strings.Compare(a.ID, b.ID) })
	return out
}
