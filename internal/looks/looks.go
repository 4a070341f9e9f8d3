// Package looks has looks into backups answered, for the service's API and the dashboard: see package contents. It chooses who
// reads: this server, if it has the key.
package looks

import (
	"cmp"
	"context"
	"io"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

// Reader answers.
type Reader struct {
	set    *opened.Set
	here   *contents.Reader
	server *server.Server
}

// New returns a reader of what a set can open. A nil set reads nothing, and says so.
func New(set *opened.Set, s *server.Server) *Reader {
	r := &Reader{set: set, server: s}
	if set != nil {
		r.here = contents.New(set.Looks())
	}
	return r
}

// errNothing says that nothing can be read by this server at all.
var errNothing = &server.Error{Kind: server.Unsupported, Message: "Contents can't be shown: this server opens no backups."}

// shelf is what a caller may read of an instance.
func (r *Reader) shelf(ctx context.Context, who *access.Caller, instance string) (*states.Shelf, error) {
	if r.set == nil {
		return nil, errNothing
	}
	return r.set.Shelf(ctx, who, instance)
}

// Ask has a look done.
func Ask[Q, A any](ctx context.Context, r *Reader, who *access.Caller, instance string, look contents.Look[Q, A], q Q) (*A, error) {
	of, err := r.shelf(ctx, who, instance)
	if err != nil {
		return nil, err
	}
	return ask(ctx, r, of, instance, look, q)
}

func ask[Q, A any](ctx context.Context, r *Reader, of *states.Shelf, instance string, look contents.Look[Q, A], q Q) (*A, error) {
	a, err := look.Do(r.here, ctx, of, q)
	return a, r.told(instance, err)
}

// told says of an instance that this server can't read how to allow it.
func (r *Reader) told(instance string, err error) error {
	if err == nil || !states.CannotRead(err) {
		return err
	}
	agent := ""
	if a := r.server.ReaderOf(instance); a != "" {
		agent = " The agent " + a + " has one: slipcover serve opens backups on its machine."
	}
	return &server.Error{Kind: server.Conflict, Cause: err,
		Message: "Contents can't be shown: this server has no key for this repository." + agent +
			" To allow it here, give the server the settings repository (or repositories) and identity_file; all else works without."}
}

// Moments lists what can be had back of an instance.
func (r *Reader) Moments(ctx context.Context, who *access.Caller, instance string, q contents.MomentsQuery) (*contents.Moments, error) {
	of, err := r.shelf(ctx, who, instance)
	if err != nil {
		return nil, err
	}
	m, err := ask(ctx, r, of, instance, contents.LookMoments, q)
	if err != nil {
		return nil, err
	}
	m.Fill(of, q)
	return m, nil
}

// Databases lists the databases of a state.
func (r *Reader) Databases(ctx context.Context, who *access.Caller, instance string, at states.State, q contents.DatabasesQuery) (*contents.Databases, error) {
	q.At = at
	return Ask(ctx, r, who, instance, contents.LookDatabases, q)
}

// Database says what there is of a database.
func (r *Reader) Database(ctx context.Context, who *access.Caller, instance string, at states.State, db string) (*contents.DatabaseDetails, error) {
	return Ask(ctx, r, who, instance, contents.LookDatabase, contents.DatabaseQuery{At: at, DB: db})
}

// Documents lists documents of a database.
func (r *Reader) Documents(ctx context.Context, who *access.Caller, instance string, at states.State, q contents.DocumentsQuery) (*contents.Documents, error) {
	q.At = at
	return Ask(ctx, r, who, instance, contents.LookDocuments, q)
}

// Document reads a document of a state: the winning revision, a deletion too, or rev if it isn't "".
func (r *Reader) Document(ctx context.Context, who *access.Caller, instance string, at states.State, db, id, rev string) (*contents.Document, error) {
	return Ask(ctx, r, who, instance, contents.LookDocument, contents.DocumentQuery{At: at, DB: db, Doc: id, Rev: rev})
}

// History lists every revision of a document that a backup or moment still has.
func (r *Reader) History(ctx context.Context, who *access.Caller, instance, db, id string) (*contents.History, error) {
	return Ask(ctx, r, who, instance, contents.LookHistory, contents.HistoryQuery{DB: db, Doc: id})
}

// Diff holds a document in two states against each other.
func (r *Reader) Diff(ctx context.Context, who *access.Caller, instance, db, id string, from, to contents.Place) (*contents.Diff, error) {
	return Ask(ctx, r, who, instance, contents.LookDiff, contents.DiffQuery{DB: db, Doc: id, From: from, To: to})
}

// Changes compares a database in two states.
func (r *Reader) Changes(ctx context.Context, who *access.Caller, instance string, q contents.ChangesQuery) (*contents.Changes, error) {
	return Ask(ctx, r, who, instance, contents.LookChanges, q)
}

// DamageOf tells of the damage that an instance's backups found in its source.
func (r *Reader) DamageOf(ctx context.Context, who *access.Caller, instance string) (*contents.Damage, error) {
	return Ask(ctx, r, who, instance, contents.LookDamage, contents.DamageQuery{})
}

// ClusterDatabases lists what the newest good backups of a cluster's nodes hold together.
func (r *Reader) ClusterDatabases(ctx context.Context, who *access.Caller, name string, q contents.DatabasesQuery) (*contents.ClusterDatabases, error) {
	of, instance, err := r.clusterShelf(ctx, who, name)
	if err != nil {
		return nil, err
	}
	a, err := r.here.ClusterDatabases(ctx, of, q)
	return a, r.told(instance, err)
}

// Divergence compares what the nodes of a cluster hold of each range.
func (r *Reader) Divergence(ctx context.Context, who *access.Caller, name string, q contents.DivergenceQuery) (*contents.Divergence, error) {
	of, instance, err := r.clusterShelf(ctx, who, name)
	if err != nil {
		return nil, err
	}
	a, err := r.here.Divergence(ctx, of, q)
	return a, r.told(instance, err)
}

// clusterShelf is what a caller may read of the nodes of a cluster, and one of their instances. It is for this server to read
// alone: an agent's key reads the backups of its own node.
func (r *Reader) clusterShelf(ctx context.Context, who *access.Caller, name string) (of *contents.ClusterShelf, instance string, err error) {
	if r.set == nil {
		return nil, "", errNothing
	}
	k, err := r.server.Cluster(who, name)
	if err != nil {
		return nil, "", err
	}
	if k.Unclear != "" {
		return nil, "", &server.Error{Kind: server.Conflict, Message: k.Unclear}
	}
	of = &contents.ClusterShelf{Project: k.Project, Name: k.Name}
	var first error
	for _, node := range k.Nodes {
		x := contents.ClusterNode{Node: node.Node}
		var shelf *states.Shelf
		if i := node.Instance; i == nil {
			x.Why = "no instance of the project is that node"
		} else {
			x.Instance, x.InstanceName = i.ID, i.Name
			var err error
			if shelf, err = r.shelf(ctx, who, i.ID); err != nil {
				first = cmp.Or(first, err)
				x.Why = strings.TrimSuffix(err.Error(), ".")
			} else if instance == "" {
				instance = i.ID
			}
		}
		of.Nodes, of.Shelves = append(of.Nodes, x), append(of.Shelves, shelf)
	}
	if instance == "" && first != nil {
		return nil, "", first
	}
	return of, instance, nil
}

// AttachmentOf calls fn with an attachment and what reads its bytes, decoded. Who sends them on must not let a browser take them
// for a page of the server: users of a database stored what they liked.
func (r *Reader) AttachmentOf(ctx context.Context, who *access.Caller, instance string, at states.State, db, id, rev, name string, fn func(contents.Attachment, io.Reader) error) error {
	of, err := r.shelf(ctx, who, instance)
	if err != nil {
		return err
	}
	q := contents.AttachmentQuery{DocumentQuery: contents.DocumentQuery{At: at, DB: db, Doc: id, Rev: rev}, Name: name}
	return r.told(instance, r.here.Attachment(ctx, of, q, fn))
}
