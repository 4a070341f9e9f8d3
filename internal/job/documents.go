package job

import "time"

// KindDocuments puts documents of a state back into the CouchDB of the agent's own node, or says what that would do.
const KindDocuments Kind = "restore_docs"

// StateRef names a state of an instance: a backup by its id in the repository, or the newest moment up to a time; with neither
// it is the newest moment.
type StateRef struct {
	RepoID string    `json:"repo_id,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Documents is what an agent does for a KindDocuments: a Spec's. It is about one document, or about all that are in From and
// deleted in Until.
type Documents struct {
	DB     string    `json:"db"`
	Target string    `json:"target"` // the database that they are written to
	From   StateRef  `json:"from"`
	Doc    string    `json:"doc,omitempty"`
	Rev    string    `json:"rev,omitempty"` // of Doc; "" is the one that wins in From
	Until  *StateRef `json:"until,omitempty"`
	DryRun bool      `json:"dry_run,omitempty"`
	// On is, of Doc, the revision that must win there, "" if it must not be there; nil is whatever there is.
	On *string `json:"on,omitempty"`
	// Replace replaces documents that are there with another content; of one Doc that is always so.
	Replace bool `json:"replace,omitempty"`
}

// DocumentsDone is what became of documents. It has no contents of any.
type DocumentsDone struct {
	State     string         `json:"state"` // which backup or moment, in words
	DryRun    bool           `json:"dry_run"`
	Counts    map[string]int `json:"counts"`    // by outcome, as slipcover restore-doc has them
	Purged    int            `json:"purged"`    // that were purged since, and stay so
	Documents []DocumentDone `json:"documents"` // some of them
	More      int            `json:"more"`      // that are left out of it
}

// DocumentDone is what became of one.
type DocumentDone struct {
	ID         string   `json:"id"`
	Outcome    string   `json:"outcome"`
	From       string   `json:"from,omitempty"` // the revision in the state
	Was        string   `json:"was,omitempty"`  // the one that won there
	WasDeleted bool     `json:"was_deleted,omitempty"`
	Rev        string   `json:"rev,omitempty"` // the new one
	Reason     string   `json:"reason,omitempty"`
	Paths      []string `json:"paths,omitempty"` // JSON Pointers of what differs, without the values
}
