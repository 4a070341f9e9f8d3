// Package diverge tells what the copies of one shard disagree about: the files of one range on the nodes of a cluster, which
// hold the same documents once internal replication has caught up. It reads couch files and needs no server.
//
// Of each document the leaf revisions are compared, and which of them are deletions. A leaf that another copy has as an inner
// revision is no difference of its own: that copy is ahead. Sequences, sizes, places in the file and older revisions differ
// by nature and are not compared, nor are bodies: a revision's name stands for what it holds.
//
//	missing  a copy has no record of a document that others have
//	behind   a copy has the document, but not all leaf revisions that others have
//	purged   what a copy lacks was purged there, and the purge is not known where it lives
//	only     no other copy has the document
//
// Internal replication brings missing revisions, and purges both ways. It doesn't bring local documents, which a write sends
// to all copies at once: a node that was down then never gets them, and keeps those that were deleted meanwhile. They are
// compared by revision and body, and counted apart. What each node writes for itself is left out: shard-sync and purge
// checkpoints.
//
// A difference is one between the moments at which the copies were taken. What was written in between is among them.
//
// Source: CouchDB 3.5, src/mem3/src/mem3_rep.erl, find_missing_revs, push_purges and make_local_id; src/fabric/src/
// fabric_doc_update.erl; src/couch/src/couch_db_split.erl, which tells the kinds of local documents.
package diverge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/slipcover/slipcover/couchfile"
)

// Copy is one copy of a shard.
type Copy struct {
	Node   string    // whose it is
	Moment time.Time // as of when, for people; zero if that is not known
	DB     *couchfile.DB
}

// Options of Compare.
type Options struct {
	// First is how many documents of each kind the report names for each copy: 1000 if 0, none if negative.
	First int
	// Each is called with each difference: those of documents in the order of their ids, then those of local documents. Its
	// error ends the comparison and is passed on. What it is given may be kept.
	Each func(Difference) error
	// Gone says which errors of reading mean that bytes are damaged or gone, beside those of package couchfile. After others,
	// as of a storage that is away, the rest of a tree soon counts as unreadable. Nil is none.
	Gone func(error) bool
}

const (
	defaultFirst = 1000
	mostCopies   = 64
)

// Report says what copies disagree about.
type Report struct {
	Documents uint64 `json:"documents"` // in any copy, deleted ones too
	Equal     uint64 `json:"equal"`     // all copies have the same leaf revisions
	Different uint64 `json:"different"`
	Unread    uint64 `json:"unread"` // neither: the copies that could be read there agree, but not all could

	Local Local `json:"local"`

	Copies   []CopyReport `json:"copies"`   // in the order of the copies
	Settings []Setting    `json:"settings"` // those that differ

	// SameState says that all files are one file at one state, so that its documents were not walked.
	SameState bool `json:"same_state,omitempty"`
	// Reached is how far a comparison came whose context ended; nil if it is whole.
	Reached *Reached `json:"reached,omitempty"`
	// PurgesLeftOut is how many purged revisions were too many to be kept in mind; what else they explain counts as missing.
	PurgesLeftOut uint64 `json:"purges_left_out,omitempty"`
}

// Reached says up to where copies were compared. What is behind that is in none of a report's numbers.
type Reached struct {
	Part  string `json:"part"`            // of the files; those before it were compared
	After string `json:"after,omitempty"` // the last key in it that was compared: an id, and of purges a uuid
}

// Local counts local documents, but for CouchDB's own checkpoints.
type Local struct {
	Documents uint64 `json:"documents"` // in any copy
	Equal     uint64 `json:"equal"`
	Different uint64 `json:"different"`
	Unread    uint64 `json:"unread"`
}

// CopyReport is what is the matter with one copy.
type CopyReport struct {
	Node   string     `json:"node"`
	Moment *time.Time `json:"moment,omitempty"`
	UUID   string     `json:"uuid"`

	Documents uint64 `json:"documents"` // that were met in it, deleted ones too

	Only    List `json:"only"`    // documents that no other copy has, with their leaf revisions
	Missing List `json:"missing"` // documents that it has no record of, with the leaf revisions that others have
	Behind  List `json:"behind"`  // documents of which it lacks leaf revisions, with these
	Purged  List `json:"purged"`  // documents whose revisions that it lacks were purged in it, with these

	LocalMissing List `json:"local_missing"` // local documents that others have, with their revisions there
	LocalDiffers List `json:"local_differs"` // local documents of which others have another revision or body, with its own

	Unread  uint64   `json:"unread"`  // documents of others, and local ones, that lie where it can't be read
	Damage  []Damage `json:"damage"`  // what can't be read, the first ones
	Damaged uint64   `json:"damaged"` // how many of these there are
}

// List is how many documents are of a kind, and the first of them.
type List struct {
	Count uint64     `json:"count"`
	First []Document `json:"first"`
}

// Document names revisions of a document.
type Document struct {
	ID   string   `json:"id"`
	Revs []string `json:"revs"` // those that are deletions end with " deleted"
}

// Parts of a file, in Damage.
const (
	PartDocuments = "documents"
	PartLocal     = "local documents"
	PartPurges    = "purges"
	PartSecurity  = "security"
	PartProps     = "props"
)

// Damage is a part of a copy that can't be read.
type Damage struct {
	Part  string `json:"part"`
	After string `json:"after,omitempty"` // of documents: the last id before it, "" if it is the first part
	Last  string `json:"last,omitempty"`  // the last id in it, "" if it goes on to the end
	Error string `json:"error"`           // where in the file, and why
}

// Setting is something of the database as a whole that differs.
type Setting struct {
	Name   string            `json:"name"`   // "security", "props", "revs_limit", "purge_infos_limit"
	Values []json.RawMessage `json:"values"` // in the order of the copies; null where it can't be read
}

// Agrees says that nothing differs, and that all was compared and could be read.
func (r *Report) Agrees() bool {
	return r.Reached == nil && r.Documents == r.Equal && r.Local.Documents == r.Local.Equal && len(r.Settings) == 0 && !r.Damaged()
}

// Damaged says that some part of a copy could not be read.
func (r *Report) Damaged() bool {
	for i := range r.Copies {
		if r.Copies[i].Damaged > 0 {
			return true
		}
	}
	return false
}

// State is how a copy stands to a document that copies disagree about.
type State uint8

// States of a copy.
const (
	Complete State = iota // it has all leaf revisions that any copy has
	Missing               // it has no record of the document
	Behind                // it lacks leaf revisions that others have
	Purged                // all that it lacks was purged in it
	Unread                // it can't be read there
	Differs               // of a local document: it has one, and others have another or none
)

var stateNames = [...]string{"complete", "missing", "behind", "purged", "unread", "differs"}

func (s State) String() string { return stateNames[s] }

// Difference is a document that copies disagree about.
type Difference struct {
	ID     string // with its prefix if it is a local document
	Local  bool
	Leaves []Leaf // of all copies together, without those that are inner revisions in one; none of local documents
	Copies []Held // in the order of the copies
}

// Leaf is a leaf revision: its name, and whether it is a deletion. CouchDB has but one with a name, so that a deletion and
// something else with the same name in two copies can't be brought together.
type Leaf struct {
	couchfile.Rev
	Deleted bool
}

// Held is what one copy has of a document that copies disagree about.
type Held struct {
	State  State
	Info   *couchfile.DocInfo  // nil if it has none, or can't be read
	Local  *couchfile.LocalDoc // instead of Info, of local documents
	Lacks  []Leaf              // those of all leaves that it hasn't
	Purged []Leaf              // those of them that were purged in it, while no copy that has them knows of that
}

// Compare compares two or more copies of one shard, at most 64 of them. It holds in memory what does not grow with the
// files: some hundred KiB for each copy, the names in the report, and up to a million purged revisions that not all copies
// know of. What can't be read of a copy is told in the report, and is no difference. Its error is that of ctx, of
// opts.Each, or of copies that are too few or too many. With that of ctx comes what was found before, see Report.Reached.
//
// Files that are one file at one state, such as copies of a file that no node has written to since, are not walked.
func Compare(ctx context.Context, copies []Copy, opts Options) (*Report, error) {
	if len(copies) < 2 || len(copies) > mostCopies {
		return nil, fmt.Errorf("compare %d copies: want 2 to %d", len(copies), mostCopies)
	}
	if opts.First == 0 {
		opts.First = defaultFirst
	}
	c := &comparison{copies: copies, opts: opts, report: newReport(copies)}
	for _, step := range []struct {
		part string
		do   func(context.Context) error
	}{{PartProps, c.settings}, {PartPurges, c.purges}, {PartDocuments, c.documents}, {PartLocal, c.locals}} {
		c.passed = c.passed[:0]
		err := step.do(ctx)
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			return nil, err
		}
		c.report.Reached = &Reached{Part: step.part, After: string(c.passed)}
		return c.report, err
	}
	return c.report, nil
}

func newReport(copies []Copy) *Report {
	r := &Report{Settings: []Setting{}}
	for _, c := range copies {
		empty := func() List { return List{First: []Document{}} }
		out := CopyReport{
			Node: c.Node, UUID: c.DB.Header().UUID, Damage: []Damage{},
			Only: empty(), Missing: empty(), Behind: empty(), Purged: empty(), LocalMissing: empty(), LocalDiffers: empty(),
		}
		if !c.Moment.IsZero() {
			out.Moment = &c.Moment
		}
		r.Copies = append(r.Copies, out)
	}
	return r
}

// comparison is one run of Compare.
type comparison struct {
	copies []Copy
	opts   Options
	report *Report
	purged purgeIndex
	passed []byte // the last key of the part in hand that was compared
}

// mostDamage is how many damaged parts of a copy the report names.
const mostDamage = 100

// damage notes what can't be read of a copy.
func (c *comparison) damage(i int, d Damage) {
	r := &c.report.Copies[i]
	if r.Damaged++; len(r.Damage) < mostDamage {
		r.Damage = append(r.Damage, d)
	}
}

// add counts a document, and names it if it is among the first.
func (c *comparison) add(l *List, id string, revs func() []string) {
	if l.Count++; len(l.First) < c.opts.First {
		l.First = append(l.First, Document{ID: id, Revs: revs()})
	}
}

// each passes a difference on.
func (c *comparison) each(d Difference) error {
	if c.opts.Each == nil {
		return nil
	}
	return c.opts.Each(d)
}

// mostFailures is how many parts of a tree may fail otherwise than by damage, as a storage does, until the rest of it counts
// as unreadable: each may have taken its time.
const mostFailures = 20

// passOver decides whether a walk goes on behind err.
func (o *Options) passOver(ctx context.Context, failures *int, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if errors.Is(err, couchfile.ErrCorrupt) || o.Gone != nil && o.Gone(err) {
		return true
	}
	*failures++
	return *failures <= mostFailures
}
