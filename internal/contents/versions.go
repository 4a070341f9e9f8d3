package contents

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/server"
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
func (x *Version) Where() opened.State {
	if x.From != "" {
		return opened.State{Backup: string(x.From)}
	}
	return opened.State{At: x.Last}
}

// History lists every revision of a document that a backup or moment still has.
func (r *Reader) History(ctx context.Context, who *access.Caller, instance, db, id string) (*History, error) {
	v, err := r.repository(ctx, who, instance)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	ctx, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	h, err := serve.History(ctx, v.Repo, v.Name, db, id)
	switch {
	case errors.Is(err, serve.ErrNoDatabase):
		return nil, refuse(server.NotFound, "No backup or moment has such a database.")
	case errors.Is(err, couchfile.ErrNotFound):
		return nil, refuse(server.NotFound, "No backup or moment has such a document, nor a deletion of it.")
	case err != nil:
		return nil, fault(ctx, err)
	}
	out := &History{States: []DocState{}, Revisions: []Version{}}
	for _, s := range h.States {
		out.States = append(out.States, DocState{s, catalogID(v.Backups, s.From)})
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
		out.Revisions = append(out.Revisions, Version{x, catalogID(v.Backups, x.From), now[x.Rev]})
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
	At  opened.State
	Rev string
}

// Diff holds a document in two states against each other. A database or document that isn't there is none; one that is in
// neither is refused.
func (r *Reader) Diff(ctx context.Context, who *access.Caller, instance, db, id string, from, to Place) (*Diff, error) {
	out := &Diff{}
	for _, x := range []struct {
		side *Side
		at   Place
	}{{&out.From, from}, {&out.To, to}} {
		if err := r.side(ctx, who, instance, db, id, x.at, x.side); err != nil {
			return nil, err
		}
	}
	if out.From.Rev == "" && out.To.Rev == "" {
		return nil, refuse(server.NotFound, "The document is in neither of the two.")
	}
	list, err := serve.Diff(out.From.Document, out.To.Document)
	if err != nil {
		return nil, fault(ctx, err)
	}
	out.Changes = append([]serve.Change{}, list...)
	return out, nil
}

func (r *Reader) side(ctx context.Context, who *access.Caller, instance, db, id string, at Place, out *Side) error {
	v, err := r.view(ctx, who, instance, at.At)
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
