package job

import (
	"strings"
	"time"
)

// InstanceStatus is the status of an instance in Trove's words.
type InstanceStatus string

// What is stored of an instance. While a backup of it runs, Trove shows BACKUP: that is
// derived from Task, see Instance.Shown.
const (
	InstanceBuild    InstanceStatus = "BUILD"
	InstanceActive   InstanceStatus = "ACTIVE"
	InstanceFailed   InstanceStatus = "FAILED"   // could not be made
	InstanceError    InstanceStatus = "ERROR"    // could not be deleted
	InstanceShutdown InstanceStatus = "SHUTDOWN" // being deleted
	InstanceBackup   InstanceStatus = "BACKUP"   // shown, never stored
	InstanceReboot   InstanceStatus = "REBOOT"   // shown, never stored
)

// Fault is why something failed, for its owner to read.
type Fault struct {
	Message string    `json:"message"`
	Created time.Time `json:"created"`
}

// Instance is a CouchDB node under our care.
type Instance struct {
	ID      string `json:"id"` // UUID
	Name    string `json:"name"`
	Project string `json:"project"`
	Agent   string `json:"agent"` // id
	// RepoName is its name in repositories, which never changes.
	RepoName string `json:"repo_name"`
	// Made says that Slipcover made it: deleting it removes its CouchDB and files. One
	// that was there before is only let go.
	Made   bool           `json:"made"`
	Status InstanceStatus `json:"status"`
	// Task is the kind of the job that occupies it, and Job that job's id; both empty
	// if none does. Whoever sets them holds the instance until he clears them.
	Task Kind   `json:"task,omitempty"`
	Job  string `json:"job,omitempty"`

	Flavor         string `json:"flavor"`    // id
	VolumeGB       int    `json:"volume_gb"` // as asked for; 0 of a node that was there before
	CouchDBVersion string `json:"couchdb_version,omitempty"`
	Address        string `json:"address,omitempty"` // host or IP
	URL            string `json:"url,omitempty"`     // of its CouchDB, if Slipcover made it
	// RestoredFrom is the id of the backup that it was made of, and RestoredAt the moment of that one's instance, if it was made of one.
	RestoredFrom string    `json:"restored_from,omitempty"`
	RestoredAt   time.Time `json:"restored_at,omitzero"`
	Fault        *Fault    `json:"fault,omitempty"`
	// Notes are sentences of the agent that made it.
	Notes []string `json:"notes,omitempty"`
	// Ship says that its agent is to ship it, and KeepMoments for how long what was shipped is
	// kept, as a calendar.Span: "" is as the agent's settings say.
	Ship        bool   `json:"ship,omitempty"`
	KeepMoments string `json:"keep_moments,omitempty"`
	// ShipSince is when it was asked for that it is shipped.
	ShipSince time.Time `json:"ship_since,omitzero"`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Shown is the status to show.
func (i *Instance) Shown() InstanceStatus {
	if i.Status != InstanceActive {
		return i.Status
	}
	switch i.Task {
	case KindBackup:
		return InstanceBackup
	case KindRestart:
		return InstanceReboot
	}
	return i.Status
}

// BackupStatus is the status of a backup in Trove's words.
type BackupStatus string

// The statuses of backups.
const (
	BackupNew          BackupStatus = "NEW"      // accepted
	BackupBuilding     BackupStatus = "BUILDING" // an agent works on it
	BackupCompleted    BackupStatus = "COMPLETED"
	BackupFailed       BackupStatus = "FAILED"
	BackupRestored     BackupStatus = "RESTORED"      // adopted from where it was stored; as good as COMPLETED
	BackupDeleting     BackupStatus = "DELETING"      // gone for users, its objects not yet
	BackupDeleteFailed BackupStatus = "DELETE_FAILED" // its objects could not be removed
)

// Running says that an agent has or will get it.
func (s BackupStatus) Running() bool { return s == BackupNew || s == BackupBuilding }

// Usable says that it can be restored.
func (s BackupStatus) Usable() bool { return s == BackupCompleted || s == BackupRestored }

// Backup is a restorable state, or one in the making.
type Backup struct {
	ID          string `json:"id"` // UUID of version 7
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Project     string `json:"project"`
	Instance    string `json:"instance"` // id; the instance may be gone
	// Parent is the id of the backup that it was asked to build on. Deleting that
	// deletes this one, as in Trove, though each restores alone.
	Parent   string       `json:"parent,omitempty"`
	Schedule string       `json:"schedule,omitempty"` // id of the one that asked for it
	Set      string       `json:"set,omitempty"`      // id of the set that it is of
	Status   BackupStatus `json:"status"`
	Fault    string       `json:"fault,omitempty"` // why it failed
	// MayBeStored says that its job was given up when an agent had begun it: it may have been
	// made, and nobody could say so.
	MayBeStored bool   `json:"may_be_stored,omitempty"`
	Job         string `json:"job,omitempty"` // id of the one that works on it
	// Was is the status that it had, as a usable one, when its deletion was asked for.
	Was BackupStatus `json:"was,omitempty"`

	CouchDBVersion string `json:"couchdb_version,omitempty"`
	Result
	Repository Repository `json:"repository"`
	RepoName   string     `json:"repo_name"` // of the instance in the repository

	Proof *Proof `json:"proof,omitempty"` // of the last restore test
	// Pin is there if the repository is known to have it pinned. Pinning is the id of the job that pins or unpins it.
	Pin     *Pin   `json:"pin,omitempty"`
	Pinning string `json:"pinning,omitempty"`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Location is the URL of the backup's manifest, without secrets; "" if it has none.
func (b *Backup) Location() string {
	if strings.HasPrefix(b.LocationRef, "/") {
		return b.folder() + b.LocationRef
	}
	return b.LocationRef
}

// ShortenLocation leaves of LocationRef what the backup's other fields don't say, most
// often /manifest.json.zst.age, which all backups of a repository have.
func (b *Backup) ShortenLocation() {
	if name, ok := strings.CutPrefix(b.LocationRef, b.folder()); ok && strings.HasPrefix(name, "/") {
		b.LocationRef = name
	}
}

// folder is where a backup is in its repository, as a URL.
func (b *Backup) folder() string {
	place := b.Repository.URL
	if container, ok := strings.CutPrefix(place, "swift://"); ok && b.Repository.Storage != "" {
		place = strings.TrimRight(b.Repository.Storage, "/") + "/" + container
	}
	return place + "/backups/" + b.RepoName + "/" + b.RepoID
}

// Repository says where backups are. The zero value is what the agent's own
// configuration says.
type Repository struct {
	URL string `json:"url,omitempty"` // without secrets
	ID  string `json:"id,omitempty"`  // of slipcover.json; known once a backup was made
	// Storage is the URL of the Swift account, when the caller's own is used.
	Storage string `json:"storage,omitempty"`
	// Recipients encrypt a repository that is made with the first backup.
	Recipients []string `json:"recipients,omitempty"`
}

// Result is what a backup turned out to be. Bytes are of the backup as restored
// (Size) and of what this one added to the repository, compressed and encrypted (Stored).
type Result struct {
	RepoID      string     `json:"repo_id,omitempty"` // of the backup in the repository
	Type        string     `json:"type,omitempty"`    // full or incremental: how it was made
	Size        int64      `json:"size,omitempty"`
	Stored      int64      `json:"stored,omitempty"`
	Databases   int        `json:"databases,omitempty"`
	Order       int64      `json:"order,omitempty"`        // greater in what was made later, see manifest.Record.Order; 0 if not known
	Node        string     `json:"node,omitempty"`         // names the CouchDB that it is of, see manifest.Summary.Node
	Damage      int        `json:"damage,omitempty"`       // findings in the source
	Checksum    string     `json:"checksum,omitempty"`     // SHA-256 of the manifest object, hex
	LocationRef string     `json:"location_ref,omitempty"` // Backup.Location says where
	Started     *time.Time `json:"started,omitempty"`      // of the run that made it
	Finished    *time.Time `json:"finished,omitempty"`     // of that run
	// Uncopied counts the further repositories of its agent that could not be given it.
	Uncopied int      `json:"uncopied,omitempty"`
	Notes    []string `json:"notes,omitempty"`
}

// Pin keeps a backup from every deletion until it is unpinned. It is a mark in the repository, see repo.Pin.
type Pin struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// MadeAt is when the run began that made the backup, or when it was asked for, of one that isn't made yet.
func (b *Backup) MadeAt() time.Time {
	if b.Started != nil {
		return *b.Started
	}
	return b.Created
}

// Held reports whether a backup is pinned, or that may be so once the job has ended which pins or unpins it.
func (b *Backup) Held() bool { return b.Pin != nil || b.Pinning != "" }

// Proof is the outcome of a restore test.
type Proof struct {
	At        time.Time `json:"at"`
	OK        bool      `json:"ok"`
	Server    bool      `json:"server"` // a CouchDB was started on it
	Databases int       `json:"databases"`
	Documents uint64    `json:"documents"`
	Took      float64   `json:"took_seconds"`
	Problem   string    `json:"problem,omitempty"` // the first of them
	// Served says that, without a CouchDB, the stored state was opened as one by Slipcover itself, which was asked for all of
	// its databases; and Sampled how many documents it was asked for.
	Served  bool `json:"served,omitempty"`
	Sampled int  `json:"sampled,omitempty"`
	// Moment is the newest moment that was shipped, if that was tested too, and Compared how many of
	// its files were held against those of the running CouchDB, at the same sequences.
	Moment   time.Time `json:"moment,omitzero"`
	Compared int       `json:"compared,omitempty"`
}

// Kind is what a job is for.
type Kind string

// The kinds of jobs.
const (
	KindBackup         Kind = "backup"
	KindCreate         Kind = "create"          // make a new instance
	KindRestart        Kind = "restart"         // restart its CouchDB
	KindDeleteInstance Kind = "delete_instance" // free an instance that Slipcover made
	KindDeleteBackup   Kind = "delete_backup"   // remove a backup from its repository
	KindProve          Kind = "prove"           // a restore test
	KindAdopt          Kind = "adopt"           // read what a stored backup is, which the catalog doesn't have
	KindPin            Kind = "pin"             // keep a backup from every deletion, in its repository
	KindUnpin          Kind = "unpin"           // take its pin away
)

// State is how far a job is.
type State string

// The states of jobs.
const (
	Queued  State = "queued"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed"
)

// Ended says that nothing more will happen.
func (s State) Ended() bool { return s == Done || s == Failed }

// Cancelled begins the fault of a job that somebody ended; behind it is who.
const Cancelled = "cancelled by "

// IsCancelled reports whether a fault is that of a job that somebody ended.
func IsCancelled(fault string) bool { return strings.HasPrefix(fault, Cancelled) }

// WasCancelled reports whether somebody ended the job.
func (j *Job) WasCancelled() bool { return j.State == Failed && IsCancelled(j.Fault) }

// MaxAttempts is how many of an agent's processes may begin a job.
const MaxAttempts = 10

// Job is work for an agent.
type Job struct {
	ID       string `json:"id"` // UUID of version 7
	Kind     Kind   `json:"kind"`
	Agent    string `json:"agent"`
	Project  string `json:"project"`
	Instance string `json:"instance,omitempty"`
	Backup   string `json:"backup,omitempty"`
	Schedule string `json:"schedule,omitempty"` // id of the one that asked for it
	By       string `json:"by,omitempty"`       // name of who did, if it was no schedule
	State    State  `json:"state"`
	// Session is the agent's process that has it, and Attempt counts those that had.
	Session string   `json:"session,omitempty"`
	Attempt int      `json:"attempt,omitempty"`
	Spec    Spec     `json:"spec"`
	Fault   string   `json:"fault,omitempty"`
	At      Progress `json:"progress"`
	// Documents is what a KindDocuments did.
	Documents *DocumentsDone `json:"documents,omitempty"`
	// Log is what happened to it, and Heard the number of the last Said that is in it, of this Session.
	Log   Log   `json:"log,omitzero"`
	Heard int64 `json:"heard,omitempty"`

	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"` // last claim or report
	Ended   *time.Time `json:"ended,omitempty"`
}

// Spec is what an agent must know to do a job, beside what its own configuration
// says. It holds no secret in clear.
type Spec struct {
	RepoName    string     `json:"repo_name,omitempty"` // of the instance whose backup it is
	Name        string     `json:"name,omitempty"`      // of the backup, or of the instance to make
	Description string     `json:"description,omitempty"`
	Parent      string     `json:"parent,omitempty"` // RepoID of the backup to build on; "" is the newest
	Repository  Repository `json:"repository"`
	// RepoID is of the backup to restore, prove, pin, unpin or delete. To delete without it is to
	// delete whatever the repository has with the label of the job's backup, but for Keep.
	RepoID string `json:"repo_id,omitempty"`
	// At is the moment to make an instance of, in place of the backup: the newest state up to then. Only agents whose hello has
	// Moments know it.
	At     time.Time `json:"at,omitzero"`
	Moment bool      `json:"moment,omitempty"` // prove the newest moment that was shipped too
	Pin    *Pin      `json:"pin,omitempty"`    // of KindPin
	Keep   []string  `json:"keep,omitempty"`   // RepoIDs of backups that were taken in
	// KeepMoments is for how long moments of the instance are kept, where something is deleted; 0 is as the agent's
	// settings say.
	KeepMoments time.Duration     `json:"keep_moments,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`    // of the backup's record
	Documents   *Documents        `json:"documents,omitempty"` // of KindDocuments
	// Part is the step of a restore, of KindRestore.
	Part *Part `json:"part,omitempty"`
	// Sealed is a Secrets as JSON, encrypted to the agent's age recipient.
	Sealed []byte `json:"sealed,omitempty"`
}

// Secrets is what a Spec seals.
type Secrets struct {
	Token    string `json:"token,omitempty"`    // of Keystone, for Repository.Storage
	Password string `json:"password,omitempty"` // of the admin of an instance to make
	// CouchUser and CouchPassword are whom to write into CouchDB as, where the caller said so.
	CouchUser     string `json:"couch_user,omitempty"`
	CouchPassword string `json:"couch_password,omitempty"`
}

// Labels in the records of backups that the service made, by which its catalog can be
// made anew from repositories alone.
const (
	LabelBackup       = "backup"   // id in the service
	LabelProject      = "project"  //
	LabelInstance     = "instance" // id
	LabelInstanceName = "instance-name"
	LabelParent       = "parent"
	LabelSchedule     = "schedule"
	LabelSet          = "set"       // id of the set
	LabelCluster      = "cluster"   // name of the set's cluster in the service
	LabelSetNodes     = "set-nodes" // how many nodes the set is of
)

// OfOtherProject reports whether the labels of a record say that it is of another project. What the service didn't make says none.
func OfOtherProject(labels map[string]string, project string) bool {
	of := labels[LabelProject]
	return of != "" && of != project
}

// Progress is how far a job's work is, in files and bytes.
type Progress struct {
	Files     int64 `json:"files"`
	FilesDone int64 `json:"files_done"`
	Bytes     int64 `json:"bytes"`
	BytesDone int64 `json:"bytes_done"` // of a backup those that are stored, not what is only read
	Stored    int64 `json:"stored"`     // what that added to the repository
}

// Agent is a process on a node.
type Agent struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Project   string    `json:"project"` // whose node it is
	PublicKey string    `json:"public_key"`
	Recipient string    `json:"recipient"` // age, for secrets
	Session   string    `json:"session,omitempty"`
	Hello     Hello     `json:"hello"`
	Seen      time.Time `json:"seen"` // last hello that was stored; servers know later ones
	Created   time.Time `json:"created"`
}

// Strategy says which container backups go to, in Trove's words: of an instance, or
// of a project's others where Instance is empty.
type Strategy struct {
	Project   string    `json:"project"`
	Instance  string    `json:"instance"`
	Container string    `json:"container"`
	Created   time.Time `json:"created"`
}

// Quota is what a project may have; -1 is no limit.
type Quota struct {
	Project   string `json:"project"`
	Instances int    `json:"instances"`
	Backups   int    `json:"backups"`
	Volumes   int    `json:"volumes"` // GB of all of them
}
