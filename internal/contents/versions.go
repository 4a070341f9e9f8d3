package contents

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/states"
)

// History is what backups and moments still have of a document.
type History struct {
	States    []DocState `json:"states"`    // the oldest first
	Revisions []Version  `json:"revisions"` // those whose bodies are had, in the order in which they were seen first
}

// DocState is a state of a document, as slipcover history has it.
type DocState struct {
	serve.DocState
	Backup string `json:"backup,omitempty"` // id in the catalog
}

// Version is a revision whose body a backup or moment has.
type Version struct {
	serve.DocRevision
	Backup string `json:"backup,omitempty"` // id in the catalog of the newest backup that has it
	Now    string `json:"now,omitempty"`    // in the newest state that has the document: winner, conflict, or deleted_leaf
}

// Where is the state that has it.
func (x *Version) Where() states.State {
	if x.Backup != "" {
		return states.State{Backup: x.Backup}
	}
	return states.State{At: x.Last}
}

// HistoryQuery names a document.
type HistoryQuery struct {
	DB, Doc string
}

// LookHistory lists every revision of a document that a backup or moment still has.
var LookHistory = newLook("history", (*Reader).history)

func (r *Reader) history(ctx context.Context, of *states.Shelf, q HistoryQuery) (*History, error) {
	v, err := r.views.Repository(ctx, of)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	ctx, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	h, err := serve.History(ctx, v.Repo, v.Name, q.DB, q.Doc)
	switch {
	case errors.Is(err, serve.ErrNoDatabase):
		return nil, refusal.New(refusal.NotFound, "No backup or moment has such a database.")
	case errors.Is(err, couchfile.ErrNotFound):
		return nil, refusal.New(refusal.NotFound, "No backup or moment has such a document, nor a deletion of it.")
	case err != nil:
		return nil, fault(ctx, err)
	}
	out := &History{States: []DocState{}, Revisions: []Version{}}
	for _, s := range h.States {
		backup := catalogID(v.Backups, s.From)
		s.From = "" // which Backup hides in JSON
		out.States = append(out.States, DocState{s, backup})
	}
	last := h.States[len(h.States)-1]
	now := map[string]string{}
	for _, l := range last.Leaves {
		if now[l.Rev] = "conflict"; l.Deleted {
			now[l.Rev] = "deleted_leaf"
		}
	}
	if last.Kind != serve.DocPurged {
		now[last.Rev] = "winner"
	}
	for _, x := range h.Revisions {
		backup := catalogID(v.Backups, x.From)
		x.From = ""
		out.Revisions = append(out.Revisions, Version{x, backup, now[x.Rev]})
	}
	return out, nil
}

// Side is a document as one of two states has it.
type Side struct {
	State
	Rev      string          `json:"rev,omitempty"` // "" if it isn't there
	Deleted  bool            `json:"deleted,omitempty"`
	Document json.RawMessage `json:"document,omitempty"`
}

// Diff is what differs between two.
type Diff struct {
	From    Side           `json:"from"`
	To      Side           `json:"to"`
	Changes []serve.Change `json:"changes"`
}

// Place is a revision of a document in a state; the winning one without Rev.
type Place struct {
	At  states.State
	Rev string
}

// DiffQuery names a document and the two states.
type DiffQuery struct {
	DB, Doc  string
	From, To Place
}

// LookDiff holds a document in two states against each other. A database or document that isn't there is none; one that is in
// neither is refused.
var LookDiff = newLook("diff", (*Reader).diff)

func (r *Reader) diff(ctx context.Context, of *states.Shelf, q DiffQuery) (*Diff, error) {
	out := &Diff{}
	for _, x := range []struct {
		side *Side
		at   Place
	}{{&out.From, q.From}, {&out.To, q.To}} {
		if err := r.side(ctx, of, q.DB, q.Doc, x.at, x.side); err != nil {
			return nil, err
		}
	}
	if out.From.Rev == "" && out.To.Rev == "" {
		return nil, refusal.New(refusal.NotFound, "The document is in neither of the two.")
	}
	list, err := serve.Diff(out.From.Document, out.To.Document)
	if err != nil {
		return nil, fault(ctx, err)
	}
	out.Changes = append([]serve.Change{}, list...)
	return out, nil
}

func (r *Reader) side(ctx context.Context, of *states.Shelf, db, id string, at Place, out *Side) error {
	v, err := r.views.View(ctx, of, at.At)
	if err != nil {
		return err
	}
	defer v.Close()
	out.State = stateOf(v)
	d, err := v.Node.Database(db)
	if errors.Is(err, serve.ErrNoDatabase) {
		return nil
	}
	if err != nil {
		return fault(ctx, err)
	}
	x, err := document(v, d, id, at.Rev)
	switch {
	case errors.Is(err, couchfile.ErrNotFound) && at.Rev == "":
		return nil
	case err == nil && x.Gone:
		err = couchfile.ErrMissing
	}
	if err != nil {
		return fault(ctx, err)
	}
	out.Rev, out.Deleted, out.Document = x.Rev, x.Deleted, x.Document
	return nil
}
