package job

import "time"

// Schedule says when an instance, or a cluster, is backed up, how long its backups stay, and when one
// is proven.
type Schedule struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Project  string `json:"project"`
	Instance string `json:"instance"` // id; "" where Cluster is what is backed up
	// Cluster is the name of the cluster whose nodes are backed up, at one moment; "" of a schedule of one instance.
	Cluster string `json:"cluster,omitempty"`
	Enabled bool   `json:"enabled"`

	Cron     string        `json:"cron"`             // five fields, or @daily and the like
	TimeZone string        `json:"time_zone"`        // of the time zone database; "" is UTC
	Jitter   time.Duration `json:"jitter,omitempty"` // at most so much later, always the same for one firing
	// Window is for how long after its time a firing may still begin. What could not
	// begin in it, since the agent wasn't online or Keystone was down, counts as missed.
	// 0 is until the next one.
	Window time.Duration `json:"window,omitempty"`
	// CatchUp makes one backup, after a downtime, for all the firings that were missed.
	CatchUp bool `json:"catch_up"`
	// Keep is the retention of the instance's scheduled backups; zero keeps all.
	Keep Keep `json:"keep"`
	// ProveCron is when the newest backup is restored for a test; "" is never.
	ProveCron string `json:"prove_cron,omitempty"`
	// Heartbeat is a URL that is asked for after each success, and with /fail behind it
	// after each failure.
	Heartbeat string `json:"heartbeat,omitempty"`

	// Trust is the id of the trust of Keystone's by which the server acts for whoever made
	// the schedule; "" without one. It is no secret: it is good for the server alone.
	Trust string `json:"trust,omitempty"`

	// Next is when it fires next, and ProveNext the same of the restore tests.
	Next      time.Time `json:"next"`
	ProveNext time.Time `json:"prove_next"`
	Last      Firing    `json:"last"`
	Missed    int       `json:"missed"`  // firings that could not begin in their window
	Skipped   int       `json:"skipped"` // firings at which the instance was busy

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Firing is what came of one time.
type Firing struct {
	Due     time.Time `json:"due"`
	Backup  string    `json:"backup,omitempty"`  // id; of a cluster's schedule that of the set
	Outcome string    `json:"outcome,omitempty"` // "", started, skipped, missed, or why it was refused
}

// Keep is a retention policy, as the settings keep_last and so on.
type Keep struct {
	Last    int    `json:"last,omitempty"`
	Hourly  int    `json:"hourly,omitempty"`
	Daily   int    `json:"daily,omitempty"`
	Weekly  int    `json:"weekly,omitempty"`
	Monthly int    `json:"monthly,omitempty"`
	Yearly  int    `json:"yearly,omitempty"`
	Within  string `json:"within,omitempty"` // 30d, 2w, 1y6m
}

// IsZero says that nothing is ever removed.
func (k Keep) IsZero() bool { return k == Keep{} }
