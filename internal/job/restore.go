package job

import "time"

// KindRestore is a step of a restore that the agents of several nodes carry out together.
const KindRestore Kind = "restore"

// Step is a step of a Restore, which all of its nodes have taken before the next one begins.
type Step string

// The steps. A cluster's plan takes StepCheck and StepFiles.
const (
	StepCheck  Step = "check"  // whether all can be done; nothing is written
	StepFiles  Step = "files"  // the node's files are restored, and those of a database get their names
	StepMap    Step = "map"    // one node is given the shard map of the database
	StepAnswer Step = "answer" // each node answers with its shards of it
	StepUndo   Step = "undo"   // no map was written, and the files go again
)

// Part is what an agent does for a Restore: a Spec's, of KindRestore.
type Part struct {
	Restore string `json:"restore"` // id
	Step    Step   `json:"step"`
	Plan    string `json:"plan"` // as topology.Parse reads it
	Node    string `json:"node"` // of the plan, whose part it is
	// DB is the one database that comes into a running cluster, As its name there and Suffix that of its files; empty for all of
	// a cluster.
	DB     string `json:"db,omitempty"`
	As     string `json:"as,omitempty"`
	Suffix string `json:"suffix,omitempty"`
	// Replace has what is restored take the place of what is there: a database that of its name, of a CouchDB that is alone, and a node's
	// files those in its data directory. Round is when that was begun; what was restored in an earlier one is there to be replaced.
	Replace bool      `json:"replace,omitempty"`
	Round   time.Time `json:"round,omitzero"`
	// Again says of StepMap that it was begun before, by a job that didn't tell how it ended.
	Again bool `json:"again,omitempty"`
}

// Restore is a plan that the agents of several nodes carry out together.
type Restore struct {
	ID      string `json:"id"` // made of what was asked for
	Project string `json:"project"`
	Plan    string `json:"plan"`
	Cluster string `json:"cluster"` // of the plan
	DB      string `json:"db,omitempty"`
	As      string `json:"as,omitempty"`
	Suffix  string `json:"suffix,omitempty"`
	// Replace and Round are as in Part.
	Replace bool      `json:"replace,omitempty"`
	Round   time.Time `json:"round,omitzero"`

	State   State         `json:"state"`   // Running, Done or Failed
	Attempt int           `json:"attempt"` // counts the requests that began it, or began it again
	Step    Step          `json:"step"`
	Fault   string        `json:"fault,omitempty"`
	Nodes   []RestoreNode `json:"nodes"`
	// Written says that the shard map is there, and Undecided that it may be: then the same request goes on, and nothing is
	// taken back.
	Written   bool `json:"written,omitempty"`
	Undecided bool `json:"undecided,omitempty"`

	// By is the name of who asked for it last, and Cancelled of who ended it before anything was put in its place; "" if nobody did.
	By        string `json:"by,omitempty"`
	Cancelled string `json:"cancelled,omitempty"`
	// Reason is why it is undone, or was.
	Reason string `json:"reason,omitempty"`
	Log    Log    `json:"log,omitzero"`

	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// WasCancelled reports whether somebody ended the restore.
func (r *Restore) WasCancelled() bool { return r.State == Failed && r.Cancelled != "" }

// RestoreNode is how a node's part of a Restore is doing, in its step.
type RestoreNode struct {
	Name      string   `json:"name"`
	Agent     string   `json:"agent"` // id
	AgentName string   `json:"agent_name"`
	Job       string   `json:"job,omitempty"` // of the step; "" if the node has nothing to do in it
	State     State    `json:"state"`
	Fault     string   `json:"fault,omitempty"`
	At        Progress `json:"progress"`
	// Problems are what isn't restored as it was backed up, and Notes what else is to be known.
	Problems []string `json:"problems,omitempty"`
	Notes    []string `json:"notes,omitempty"`
}
