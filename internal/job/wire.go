package job

import "time"

// The verbs of an agent's requests.
const (
	VerbHello  = "hello"
	VerbClaim  = "claim"
	VerbReport = "report"
)

// Hello is what an agent says when it starts and every HelloReply.Every after that.
type Hello struct {
	Session string `json:"session"`
	// Start is higher than that of each process before: of two sessions servers take the one with the lower for dead, until the
	// other is offline. 0 is of an agent that doesn't say.
	Start int64 `json:"start,omitempty"`
	// Number counts the hellos of a session, from 1: servers compare it to know which of
	// two is newer, since their clocks don't agree. 0 is of an agent that doesn't count.
	Number    int64  `json:"number,omitempty"`
	Version   string `json:"version"` // "slipcover 0.1.0"
	Host      string `json:"host"`
	Address   string `json:"address,omitempty"`
	Recipient string `json:"recipient,omitempty"`
	// Repository is the one of the agent's configuration; zero if it has none.
	Repository Repository `json:"repository"`
	// NoRepository says, of an agent that joins, that its configuration names none.
	NoRepository bool `json:"no_repository,omitempty"`
	CanRead      bool `json:"can_read"` // it has a key that reads
	// Reads says that servers may have it read out of backups for them, see Look.
	Reads bool `json:"reads,omitempty"`
	// Writes says that servers may have documents written into the node's CouchDB, and WritesAs that it has a user for that.
	Writes   bool `json:"writes,omitempty"`
	WritesAs bool `json:"writes_as,omitempty"`
	// Restores says that servers may have clusters and databases restored onto the node; nil is of an agent that doesn't say.
	Restores  *bool `json:"restores,omitempty"`
	CanCreate bool  `json:"can_create"`        // it makes new instances
	Moments   bool  `json:"moments,omitempty"` // of moments too, see Spec.At
	FreeBytes int64 `json:"free_bytes"`        // where it makes them
	// Instances is how the CouchDBs are that it has, by the instances' ids; the node
	// that was there before has the id "" until HelloReply tells it.
	Instances []Seen   `json:"instances"`
	Running   []string `json:"running"` // ids of the jobs at work
	// Rooms are how much room is left where it stores backups, as far as the storages say.
	Rooms []Room `json:"rooms,omitempty"`
}

// Room is how much room is left in the place of a repository, with what others store there.
type Room struct {
	URL        string `json:"url"`                  // without secrets
	Repository string `json:"repository,omitempty"` // its id, if the agent knows it
	Copy       bool   `json:"copy,omitempty"`       // one of the agent's further repositories
	FreeBytes  int64  `json:"free_bytes"`
	TotalBytes int64  `json:"total_bytes"`
}

// Seen is how an agent finds a CouchDB.
type Seen struct {
	Instance   string `json:"instance"`
	Up         bool   `json:"up"`
	Version    string `json:"version,omitempty"`
	UsedBytes  int64  `json:"used_bytes"`
	Databases  int    `json:"databases"`
	CanRestart bool   `json:"can_restart"`
	// Member is which node of which cluster it is; nil if the agent doesn't know, or is of a version that doesn't say.
	Member *Member `json:"member,omitempty"`
	// Ship is how its shipping is doing; nil if it isn't shipped.
	Ship *Shipping `json:"ship,omitempty"`
}

// Member is which node of which cluster a CouchDB is, as the records of its backups say it: see manifest.Summary.
type Member struct {
	Node       string   `json:"node,omitempty"`    // Erlang's name
	Nodes      []string `json:"nodes,omitempty"`   // of the cluster, this one among them, sorted; none of a node that is alone
	Cluster    string   `json:"cluster,omitempty"` // as the configuration calls it
	ServerUUID string   `json:"server_uuid,omitempty"`
	MapUUID    string   `json:"map_uuid,omitempty"`
	AgeSeconds float64  `json:"age_seconds,omitempty"` // since it was read, when this is said
}

// HelloReply answers Hello.
type HelloReply struct {
	Every time.Duration `json:"every"`
	// Node is the id of the instance that is the agent's own node; "" if it was let go.
	Node string `json:"node"`
	// NodeName is its name in repositories.
	NodeName string `json:"node_name"`
	// Instances are the ids that the agent should have made; it removes nothing that
	// isn't in it, but says so in its log.
	Instances []string `json:"instances"`
	// Ship are the instances that the agent is to ship.
	Ship []Ship `json:"ship,omitempty"`
}

// Claim asks for a job.
type Claim struct {
	Session string `json:"session"`
	Job     string `json:"job"`
}

// Verdict is what to do.
type Verdict string

// The verdicts.
const (
	Go   Verdict = "go"   // do it; go on
	Drop Verdict = "drop" // it is ended, or another's: acknowledge the queue's message and forget it
	Stop Verdict = "stop" // stop working on it and report nothing more
)

// ClaimReply answers Claim. Job is there with Go.
type ClaimReply struct {
	Verdict Verdict `json:"verdict"`
	Job     *Job    `json:"job,omitempty"`
}

// Report says how far a job is, or how it ended. One with a State that is not ended
// may get lost; one that ended is repeated until it was taken.
type Report struct {
	Session string   `json:"session"`
	Job     string   `json:"job"`
	State   State    `json:"state"`
	At      Progress `json:"progress"`
	Fault   string   `json:"fault,omitempty"` // one sentence

	// Kept says of a deletion that failed that it has removed nothing: the backup is
	// pinned, or its storage protects it.
	Kept bool `json:"kept,omitempty"`
	// Pin is how the backup is pinned, of a deletion that is refused for it and of a KindAdopt.
	Pin *Pin `json:"pin,omitempty"`
	// Pins are all that are pinned in the repository of the instance that was backed up, by their ids there; nil if the agent
	// doesn't say.
	Pins map[string]Pin `json:"pins,omitzero"`
	// Unwritten says of StepMap that failed that no shard map was written, nor will be.
	Unwritten bool `json:"unwritten,omitempty"`
	// Problems are what a restore couldn't restore as it was backed up.
	Problems []string `json:"problems,omitempty"`

	Result         *Result     `json:"result,omitempty"`     // of a backup
	Repository     *Repository `json:"repository,omitempty"` // where it was made
	Proof          *Proof      `json:"proof,omitempty"`      // of a restore test
	URL            string      `json:"url,omitempty"`        // of a new instance
	CouchDBVersion string      `json:"couchdb_version,omitempty"`

	Documents *DocumentsDone `json:"documents,omitempty"` // of a KindDocuments

	// Said is what the agent has to say of it that no server has told it to have heard, the oldest first.
	Said []Said `json:"said,omitempty"`
}

// ReportReply answers Report.
type ReportReply struct {
	Verdict Verdict `json:"verdict"`
	// Heard is the number of the last Said that is in the job's log.
	Heard int64 `json:"heard,omitempty"`
}

// Question is what a server asks an agent, which answers at once.
type Question struct {
	Databases string `json:"databases,omitempty"` // id of the instance whose databases are asked for
}

// Answer answers a Question.
type Answer struct {
	Databases []string `json:"databases,omitempty"`
	Fault     string   `json:"fault,omitempty"`
}
