// Package contents answers what was in the backups and moments of an instance: which there are, databases, documents with their
// versions and attachments, what differs and what changed. It reads where it runs: in a server that has the key, or in an agent
// that has it, by package states; package looks chooses. What it answers is what the service's own API and the dashboard both show,
// and what agents send to servers as JSON; field names of its types are those of docs/service-api.md.
//
// A look is bounded: lists come in pages, one that walks a database ends after walkTime and then says that it isn't complete,
// and so many walk at a time as may. All of it ends with its context.
//
// # How to add a look
//
// A look is a method of Reader that takes a query and returns an answer, and a Look that names it:
//
//	var LookSizes = newLook("sizes", (*Reader).sizes)
//
//	func (r *Reader) sizes(ctx context.Context, of *states.Shelf, q SizesQuery) (*SizesAnswer, error)
//
// Query and answer go between servers and agents as JSON and must come out of it as they went in: all that is read of an answer
// has a name in it. Package looks asks it with Ask. An agent of a version that doesn't know the look says so.
package contents

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/mango"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/states"
)

const (
	// walkTime is how long a look may walk a database, and walks how many may at a time.
	walkTime = 25 * time.Second
	walks    = 6
	walkWait = 5 * time.Second
	// DefaultLimit is how many rows a page has, and MostLimit how many it may have.
	DefaultLimit = 50
	MostLimit    = 500
)

// Reader answers.
type Reader struct {
	views *states.Set
	walks chan struct{}
	held  holdings
}

// New returns a reader of what a set opens.
func New(views *states.Set) *Reader {
	return &Reader{views: views, walks: make(chan struct{}, walks)}
}

// State says which backup or moment an answer is of.
type State struct {
	State      time.Time `json:"state"`  // what is shown was the state then
	Moment     bool      `json:"moment"` // it was shipped, and is no backup
	Backup     string    `json:"backup,omitempty"`
	BackupName string    `json:"backup_name,omitempty"`
}

func stateOf(v *states.View) State {
	s := State{State: v.Taken, Moment: v.Moment}
	if v.Backup != nil {
		s.Backup, s.BackupName = v.Backup.ID, v.Backup.Name
	}
	return s
}

// Named is the state by which the same one is found again: its backup, or its time.
func (s State) Named() states.State {
	if s.Backup != "" {
		return states.State{Backup: s.Backup}
	}
	return states.State{At: s.State}
}

// database opens a database of a state.
func (r *Reader) database(ctx context.Context, of *states.Shelf, q states.State, db string) (*states.View, *serve.Database, error) {
	v, err := r.views.View(ctx, of, q)
	if err != nil {
		return nil, nil, err
	}
	d, err := v.Node.Database(db)
	if err != nil {
		v.Close()
		return nil, nil, fault(ctx, err)
	}
	return v, d, nil
}

// fault says what went wrong with a look, in a sentence.
func fault(ctx context.Context, err error) error {
	var own *refusal.Error
	var bad *mango.Error
	switch {
	case err == nil, errors.As(err, &own):
		return err
	case errors.As(err, &bad):
		return refusal.New(refusal.Invalid, "The selector can't be used: %s.", strings.TrimSuffix(bad.Reason, "."))
	case errors.Is(err, serve.ErrNoDatabase):
		return &refusal.Error{Kind: refusal.NotFound, Cause: err, Message: "There is no such database in that state."}
	case errors.Is(err, serve.ErrNoShard):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "A part of the database isn't in that state, so this can't be told: the shard was missing on the node."}
	case errors.Is(err, couchfile.ErrNotFound):
		return &refusal.Error{Kind: refusal.NotFound, Cause: err, Message: "There is no such document, revision or attachment in that state."}
	case errors.Is(err, couchfile.ErrMissing):
		return &refusal.Error{Kind: refusal.Conflict, Cause: err, Message: "The body of that revision isn't in the file any more: a compaction removed it. Another backup may have it."}
	case errors.Is(err, couchfile.ErrDeleted):
		return &refusal.Error{Kind: refusal.NotFound, Cause: err, Message: "The document is deleted in that state."}
	case ctx.Err() != nil:
		return &refusal.Error{Kind: refusal.Unavailable, Cause: err, Message: "It took too long to read: ask for less, or try again."}
	}
	return states.Told(ctx, err)
}

// walk reserves one of the places of those that walk databases, and bounds its time. done ends it.
func (r *Reader) walk(ctx context.Context) (_ context.Context, done func(), err error) {
	wait, cancel := context.WithTimeout(ctx, walkWait)
	defer cancel()
	select {
	case r.walks <- struct{}{}:
	case <-wait.Done():
		return nil, nil, refusal.New(refusal.Unavailable, "Too many others walk through databases here just now: try again in a moment.")
	}
	ctx, cancelWalk := context.WithTimeoutCause(ctx, walkTime, errSlow)
	return ctx, func() { cancelWalk(); <-r.walks }, nil
}

// errSlow ends a walk whose time is over.
var errSlow = errors.New("the time for a walk is over")

// Page is which rows of a list are wanted.
type Page struct {
	Offset, Limit int
}

func (p *Page) fill() {
	if p.Limit <= 0 {
		p.Limit = DefaultLimit
	}
	p.Limit, p.Offset = min(p.Limit, MostLimit), max(p.Offset, 0)
}

// cut returns the rows of a page, and whether there are more.
func cut[T any](list []T, p Page) ([]T, bool) {
	from := min(p.Offset, len(list))
	to := min(from+p.Limit, len(list))
	return slices.Clip(list[from:to]), to < len(list)
}

// glob returns what fits a name in which * is any text.
func glob(pattern string) func(string) bool {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	re := regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
	return re.MatchString
}

// catalogID returns the id in the catalog of a backup by that in the repository, "" if the catalog hasn't it.
func catalogID(list []*job.Backup, id manifest.BackupID) string {
	for _, b := range list {
		if id != "" && b.RepoID == string(id) {
			return b.ID
		}
	}
	return ""
}

// Target names in the audit log what was looked at.
func Target(instance, db, doc string) string {
	out := instance
	for _, part := range []string{db, doc} {
		if part == "" {
			break
		}
		out += "/" + part
	}
	return out[:min(len(out), 1024)]
}
