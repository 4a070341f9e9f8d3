package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/newest"
)

// metrics is what Prometheus is told of the catalog, read from it at each scrape; and
// what is counted as it happens. docs/metrics.md lists all names.
type metrics struct {
	s        *Server
	outcomes *prometheus.CounterVec   // jobs ended
	took     *prometheus.HistogramVec // their seconds
	ahead    prometheus.Counter       // schedules that a clock ahead had put off
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("slipcover_"+name, help, labels, nil)
}

var (
	descInstances   = desc("instances", "Instances by status.", "status")
	descBackups     = desc("backups", "Backups by status.", "status")
	descAgents      = desc("agents", "Agents that are online or offline.", "state")
	descAgentSeen   = desc("agent_last_seen_timestamp_seconds", "When an agent was heard of last.", "agent")
	descJobs        = desc("jobs", "Jobs that have not ended.", "kind", "state")
	descQueueOldest = desc("queue_oldest_seconds", "How long the oldest job has been waiting for its agent; 0 if none does.")
	descDamaged     = desc("catalog_damaged", "Whether entries of the catalog are lost.")
	descConnected   = desc("bus_connected", "Whether the bus can be used.")
	instanceLabels  = []string{"instance", "instance_id", "project"}
	descLast        = desc("backup_last_success_timestamp_seconds", "When the newest completed backup of an instance was finished; 0 if there is none.", instanceLabels...)
	descLastSize    = desc("backup_last_size_bytes", "Size of that backup, as restored.", instanceLabels...)
	descLastStored  = desc("backup_last_stored_bytes", "What it added to the repository.", instanceLabels...)
	descLastTook    = desc("backup_last_duration_seconds", "How long it took.", instanceLabels...)
	descUncopied    = desc("backup_last_missing_copies", "How many further repositories of its agent could not be given it.", instanceLabels...)
	descProved      = desc("restore_test_last_timestamp_seconds", "When a backup of the instance was last restored for a test.", instanceLabels...)
	descProvedOK    = desc("restore_test_last_success", "Whether that test found the backup sound.", instanceLabels...)
	descShipping    = desc("ship_reported", "Whether the agent of an instance that is to be shipped says that it does.", instanceLabels...)
	descShipFails   = desc("ship_failing", "Whether something could not be stored last.", instanceLabels...)
	descShipLag     = desc("ship_lag_seconds", "How old the oldest commit may be that isn't stored; 0 if all are.", instanceLabels...)
	descShipBytes   = desc("ship_lag_bytes", "How much is committed that isn't stored.", instanceLabels...)
	descShipOldest  = desc("ship_oldest_timestamp_seconds", "Since when any moment of an instance can be had back.", instanceLabels...)
	descShipNewest  = desc("ship_newest_timestamp_seconds", "Up to when.", instanceLabels...)
	descShipChain   = desc("ship_chain_start_timestamp_seconds", "Since when it is shipped without a gap.", instanceLabels...)
	clusterLabels   = []string{"cluster", "project"}
	descSetWhole    = desc("set_last_whole_timestamp_seconds", "When the newest set of a cluster that is whole was begun; 0 if there is none.", clusterLabels...)
	descSetMissing  = desc("set_last_missing_nodes", "How many nodes of the cluster have no backup in its newest set that has ended.", clusterLabels...)
	roomLabels      = []string{"url", "repository", "agent", "project"}
	descRoomFree    = desc("room_free_bytes", "How much room is left in the place of a repository, as its agents tell.", roomLabels...)
	descRoomTotal   = desc("room_total_bytes", "How much room the place of a repository has in all.", roomLabels...)
	descRoomFull    = desc("room_full_seconds", "In how long the place of a repository is full, if it goes on as in the last weeks.", roomLabels...)
	descNext        = desc("schedule_next_timestamp_seconds", "When a schedule fires next.", "schedule", "instance", "project")
	descMissed      = desc("schedule_missed_total", "Firings of a schedule that could not begin in their window.", "schedule", "instance", "project")
)

func newMetrics(s *Server) *metrics {
	m := &metrics{s: s,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipcover_jobs_ended_total", Help: "Jobs that ended, by outcome."}, []string{"kind", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipcover_job_duration_seconds", Help: "From the request to the end of a job.",
			Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600}}, []string{"kind"}),
	}
	m.ahead = prometheus.NewCounter(prometheus.CounterOpts{Name: "slipcover_schedules_set_right_total", Help: "Schedules that a server whose clock was ahead had put off, and that were set right."})
	for _, k := range kinds { // from 0 on, so that the first failure counts
		for _, outcome := range []string{string(job.Done), string(job.Failed), outcomeCancelled} {
			m.outcomes.WithLabelValues(string(k), outcome)
		}
	}
	return m
}

var kinds = []job.Kind{job.KindBackup, job.KindCreate, job.KindRestart, job.KindDeleteInstance, job.KindDeleteBackup, job.KindProve, job.KindAdopt, job.KindPin, job.KindUnpin, job.KindDocuments, job.KindRestore}

// outcomeCancelled is that of jobs that somebody ended: they are failed, and nobody needs to
// be told.
const outcomeCancelled = "cancelled"

func (m *metrics) ended(j *job.Job) {
	outcome := string(j.State)
	if j.WasCancelled() {
		outcome = outcomeCancelled
	}
	m.outcomes.WithLabelValues(string(j.Kind), outcome).Inc()
	m.took.WithLabelValues(string(j.Kind)).Observe(max(0, j.Ended.Sub(j.Created).Seconds())) // the clock may have been set
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInstances, descBackups, descAgents, descAgentSeen, descJobs, descQueueOldest, descConnected, descDamaged, descLast,
		descLastSize, descLastStored, descLastTook, descUncopied, descProved, descProvedOK, descNext, descMissed,
		descShipping, descShipFails, descShipLag, descShipBytes, descShipOldest, descShipNewest, descShipChain, descSetWhole, descSetMissing,
		descRoomFree, descRoomTotal, descRoomFull} {
		ch <- d
	}
	m.outcomes.Describe(ch)
	m.ahead.Describe(ch)
	m.took.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.outcomes.Collect(ch)
	m.ahead.Collect(ch)
	m.took.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descConnected, number(m.s.cfg.Bus.Connected() == nil))
	gauge(descDamaged, number(m.s.damaged() != nil))
	m.collectInstances(gauge)
	m.collectSets(gauge)
	m.collectAgents(gauge)
	m.collectRooms(gauge)
	m.collectJobs(gauge)
	m.collectSchedules(gauge, func(v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(descMissed, prometheus.CounterValue, v, labels...)
	})
}

// collectSchedules gives schedules of one name and instance as one: two metrics with the
// same labels would spoil the whole answer.
func (m *metrics) collectSchedules(gauge gaugeFunc, missed func(v float64, labels ...string)) {
	type key struct{ schedule, instance, project string }
	nexts, misses := map[key]time.Time{}, map[key]int{}
	m.s.schedules.all(func(_ string, c *job.Schedule) bool {
		k := key{c.Name, target(c), c.Project}
		if i := m.s.instances.have(c.Instance); i != nil {
			k.instance = i.Name
		}
		if at, ok := nexts[k]; c.Enabled && !c.Next.IsZero() && (!ok || c.Next.Before(at)) {
			nexts[k] = c.Next
		}
		misses[k] += c.Missed
		return true
	})
	for k, at := range nexts {
		gauge(descNext, seconds(at), k.schedule, k.instance, k.project)
	}
	for k, n := range misses {
		missed(float64(n), k.schedule, k.instance, k.project)
	}
}

// collectSets tells of clusters that have sets. One that is at work or goes says nothing of the cluster.
func (m *metrics) collectSets(gauge gaugeFunc) {
	type key struct{ cluster, project string }
	last, whole := map[key]*SetInfo{}, map[key]*SetInfo{}
	var all []*job.Set
	m.s.sets.all(func(_ string, t *job.Set) bool {
		all = append(all, t)
		return true
	})
	for _, t := range all {
		k := key{t.Cluster, t.Project}
		if n, w := last[k], whole[k]; n != nil && w != nil && !after(t, n.Set) && !after(t, w.Set) {
			continue
		}
		i := m.s.infoOf(t)
		if n := last[k]; (i.State == SetWhole || i.State == SetPartial) && (n == nil || after(t, n.Set)) {
			last[k] = i
		}
		if w := whole[k]; i.State == SetWhole && (w == nil || after(t, w.Set)) {
			whole[k] = i
		}
	}
	for k, i := range last {
		gauge(descSetMissing, float64(len(i.Members)-i.Usable()), k.cluster, k.project)
		at := time.Unix(0, 0)
		if w := whole[k]; w != nil {
			at = w.Created
		}
		gauge(descSetWhole, seconds(at), k.cluster, k.project)
	}
}

type gaugeFunc func(d *prometheus.Desc, v float64, labels ...string)

func (m *metrics) collectInstances(gauge gaugeFunc) {
	statuses := map[job.InstanceStatus]int{job.InstanceActive: 0, job.InstanceBackup: 0, job.InstanceBuild: 0, job.InstanceFailed: 0, job.InstanceError: 0}
	var list []*job.Instance
	m.s.instances.all(func(_ string, i *job.Instance) bool {
		statuses[i.Shown()]++
		list = append(list, i)
		return true
	})
	for status, n := range statuses {
		gauge(descInstances, float64(n), string(status))
	}
	for _, i := range list {
		m.collectShipping(gauge, i)
	}
	m.s.backups.mu.RLock()
	defer m.s.backups.mu.RUnlock()
	for status, n := range m.s.index.statuses {
		gauge(descBackups, float64(n), string(status))
	}
	for _, i := range list {
		labels := []string{i.Name, i.ID, i.Project}
		b := m.s.index.last[i.ID]
		if b == nil {
			gauge(descLast, 0, labels...)
		} else {
			at := b.Updated
			if b.Started != nil && b.Finished != nil {
				gauge(descLastTook, max(0, b.Finished.Sub(*b.Started).Seconds()), labels...)
				at = *b.Finished
			}
			if newest.Ahead(at, m.s.now()) { // by its node's clock; nobody knows, so let it alert
				at = time.Unix(0, 0)
			}
			gauge(descLast, seconds(at), labels...)
			gauge(descLastSize, float64(b.Size), labels...)
			gauge(descLastStored, float64(b.Stored), labels...)
			gauge(descUncopied, float64(b.Uncopied), labels...)
		}
		if p := m.s.index.proofs[i.ID]; p != nil {
			gauge(descProved, seconds(p.Proof.At), labels...)
			gauge(descProvedOK, number(p.Proof.OK), labels...)
		}
	}
}

// collectShipping tells of an instance that is shipped, or is to be.
func (m *metrics) collectShipping(gauge gaugeFunc, i *job.Instance) {
	p := m.s.Shipping(i)
	if p == nil {
		return
	}
	labels := []string{i.Name, i.ID, i.Project}
	gauge(descShipping, number(p.Reported), labels...)
	gauge(descShipFails, number(p.Error != ""), labels...)
	if p.Newest.IsZero() {
		return
	}
	gauge(descShipLag, p.LagSeconds, labels...)
	gauge(descShipBytes, float64(p.LagBytes), labels...)
	gauge(descShipOldest, seconds(p.Window), labels...)
	gauge(descShipNewest, seconds(p.Newest), labels...)
	gauge(descShipChain, seconds(p.Chain), labels...)
}

func (m *metrics) collectAgents(gauge gaugeFunc) {
	online, offline := 0, 0
	seen := map[string]time.Time{} // by name, which two may have: when one replaces the other, or in two projects
	for _, a := range m.s.Agents() {
		if a.Online {
			online++
		} else {
			offline++
		}
		if a.Seen.After(seen[a.Name]) {
			seen[a.Name] = a.Seen
		}
	}
	for name, at := range seen {
		gauge(descAgentSeen, seconds(at), name)
	}
	gauge(descAgents, float64(online), "online")
	gauge(descAgents, float64(offline), "offline")
}

// collectRooms tells of the rooms of agents that are online: what others said may be long ago.
func (m *metrics) collectRooms(gauge gaugeFunc) {
	now := m.s.now()
	for _, r := range m.s.Rooms(&access.Caller{}, true) {
		if !r.Online {
			continue
		}
		labels := []string{r.URL, r.Repository, "", r.project}
		if r.Repository == "" {
			labels[2] = r.Agents[0]
		}
		gauge(descRoomFree, float64(r.Free), labels...)
		gauge(descRoomTotal, float64(r.Total), labels...)
		if !r.Full.IsZero() {
			gauge(descRoomFull, max(0, r.Full.Sub(now).Seconds()), labels...)
		}
	}
}

func (m *metrics) collectJobs(gauge gaugeFunc) {
	type key struct {
		kind  job.Kind
		state job.State
	}
	counts := map[key]int{}
	for _, k := range kinds {
		counts[key{k, job.Queued}], counts[key{k, job.Running}] = 0, 0
	}
	var oldest time.Duration
	m.s.jobs.each(func(_ string, j *job.Job, ago time.Duration) bool {
		if j.State.Ended() {
			return true
		}
		counts[key{j.Kind, j.State}]++
		if j.State == job.Queued {
			age, _ := newest.Since(j.Created, m.s.now())
			oldest = max(oldest, ago, age)
		}
		return true
	})
	for k, n := range counts {
		gauge(descJobs, float64(n), string(k.kind), string(k.state))
	}
	gauge(descQueueOldest, oldest.Seconds())
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
