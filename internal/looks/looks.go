// Package looks has looks into backups answered, for the service's API and the dashboard: see package contents. It chooses who
// reads: this server, if it has the key; else the agent of the instance, if that has one and its node's setting accept_reads lets
// servers have it read. Who may look the callers of this package have seen to, and so is a line of the audit log theirs.
//
// docs/decisions/0016-agents-as-readers.md says what goes between a server and an agent, and who can read that.
package looks

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

// Reader answers.
type Reader struct {
	set    *opened.Set
	here   *contents.Reader
	server *server.Server
	agents chan struct{} // looks by agents that are under way

	mu     sync.Mutex
	cannot map[string]time.Time // instances of which lately nothing could be read here; guarded by mu, as what follows
	silent map[string]silence   // by instance
	kept   map[string]kept      // answers of agents, by what was asked
}

// silence is that of an instance's agent, which was asked.
type silence struct {
	since time.Time
	err   error
}

// kept is an answer that pages ask for again and again.
type kept struct {
	at   time.Time
	text []byte
}

const (
	// byAgents is how many looks agents may have under way for this server.
	byAgents = 32
	// agentTime is how long a look by an agent may take: what one takes here, and to open the repository.
	agentTime = 80 * time.Second
	// maxAnswer is how long an answer of an agent may be, in bytes; attachments may be longer.
	maxAnswer = 64 << 20
	// maxHead is how long may be what an agent says of an attachment, in bytes.
	maxHead = 64 << 10
	// again is for how long it isn't tried to read here what an agent reads.
	again = time.Minute
	// mostNoted bounds what is remembered of that, and of agents that are silent.
	mostNoted = 10_000
	// keep is for how long an answer of an agent is kept that pages ask for as they renew themselves, maxKept how long it may be, in
	// bytes, and mostKept how many are.
	keep     = 15 * time.Second
	maxKept  = 256 << 10
	mostKept = 64
)

// New returns a reader of what a set can open. A nil set reads nothing, and says so.
func New(set *opened.Set, s *server.Server) *Reader {
	r := &Reader{set: set, server: s, agents: make(chan struct{}, byAgents), cannot: map[string]time.Time{}, silent: map[string]silence{}, kept: map[string]kept{}}
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
	var a *A
	err := r.choose(instance, func() (err error) {
		a, err = look.Do(r.here, ctx, of, q)
		return err
	}, func() (err error) {
		a, err = askAgent(ctx, r, of, instance, look, q)
		return err
	})
	return a, err
}

// choose has something read here, or else by the instance's agent.
func (r *Reader) choose(instance string, here, agent func() error) error {
	of := r.server.ReadingOf(instance)
	byAgent := of.Reads && of.Online
	if !byAgent || !r.couldNot(instance) {
		err := here()
		if !states.CannotRead(err) || errors.Is(err, repo.ErrKeyGone) {
			return err
		}
		if !byAgent {
			return told(of, err)
		}
		r.note(instance, true)
	}
	if err := r.isSilent(instance, of.Heard); err != nil {
		return err
	}
	err := agent()
	if err != nil {
		r.note(instance, false) // here it may be read by now
	}
	if errors.Is(err, bus.ErrSilent) {
		r.mu.Lock()
		defer r.mu.Unlock()
		bounded(r.silent)[instance] = silence{time.Now(), err}
	}
	return err
}

// isSilent is why an agent isn't asked: it was silent, and nothing was heard of it since. Its hellos come every few seconds.
func (r *Reader) isSilent(instance string, heard time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.silent[instance]
	if ok && heard.After(s.since) {
		delete(r.silent, instance)
		return nil
	}
	return s.err
}

// bounded empties a map that has grown too large.
func bounded[V any](m map[string]V) map[string]V {
	if len(m) >= mostNoted {
		clear(m)
	}
	return m
}

// couldNot reports whether nothing of an instance could be read here a moment ago. To try costs the storage a question each time.
func (r *Reader) couldNot(instance string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.cannot[instance]
	return ok && time.Since(at) < again
}

func (r *Reader) note(instance string, cannot bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cannot, instance)
	if !cannot {
		return
	}
	bounded(r.cannot)[instance] = time.Now()
}

// told says of an instance that this server can't read, nor has an agent read, how to allow it.
func told(of server.Reading, err error) error {
	if !states.CannotRead(err) {
		return err
	}
	agent := ""
	switch {
	case of.Reads:
		agent = " Its agent, " + of.Agent + ", reads for this server, and is not online."
	case of.Key:
		agent = " Its agent, " + of.Agent + ", has one: the setting accept_reads: true on that node lets it read for this server."
	}
	return &server.Error{Kind: server.Conflict, Cause: err,
		Message: "Contents can't be shown: this server has no key for this repository." + agent +
			" To allow it here, give the server the settings repository (or repositories) and identity_file; all else works without."}
}

// askAgent has the agent of an instance do a look.
func askAgent[Q, A any](ctx context.Context, r *Reader, of *states.Shelf, instance string, look contents.Look[Q, A], q Q) (*A, error) {
	query, err := contents.Encode(q)
	if err != nil {
		return nil, err
	}
	key := ""
	if look.Name == contents.LookMoments.Name || look.Name == contents.LookDamage.Name {
		key = strings.Join([]string{instance, look.Name, string(query), of.Backups[0].ID, strconv.Itoa(len(of.Backups))}, "\n")
	}
	text := r.have(key)
	if text == nil {
		if text, err = r.wholeAnswer(ctx, of, instance, look.Name, query); err != nil {
			return nil, err
		}
		r.keep(key, text)
	}
	a := new(A)
	if err := contents.Decode(text, a); err != nil {
		return nil, unread(err)
	}
	return a, nil
}

// have returns an answer that was kept; nil if there is none.
func (r *Reader) have(key string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.kept[key]; ok && time.Since(k.at) < keep {
		return k.text
	}
	return nil
}

// keep keeps an answer for a while, unless its key is "".
func (r *Reader) keep(key string, text []byte) {
	if key == "" || len(text) > maxKept {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.kept, func(_ string, k kept) bool { return time.Since(k.at) >= keep })
	if len(r.kept) < mostKept {
		r.kept[key] = kept{time.Now(), text}
	}
}

// wholeAnswer asks an agent and reads all of its answer.
func (r *Reader) wholeAnswer(ctx context.Context, of *states.Shelf, instance, name string, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	in, done, err := r.fromAgent(ctx, of, instance, name, query)
	if err != nil {
		return nil, err
	}
	defer done()
	text, err := io.ReadAll(io.LimitReader(in, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = &server.Error{Kind: server.Conflict, Message: "The agent's answer is longer than a page can be: ask for less."}
	}
	return text, err
}

// unread is of an answer that isn't one. What went wrong on the way is in a sentence already.
func unread(err error) error {
	var own *server.Error
	if errors.As(err, &own) {
		return err
	}
	return &server.Error{Kind: server.Unavailable, Cause: err, Message: "What the instance's agent answers can't be read: it may be of another version than the server."}
}

// fromAgent asks an agent, and returns what reads the answer, and what ends that.
func (r *Reader) fromAgent(ctx context.Context, of *states.Shelf, instance, name string, query []byte) (_ *bufio.Reader, done func(), err error) {
	select {
	case r.agents <- struct{}{}:
	default:
		return nil, nil, &server.Error{Kind: server.Unavailable, Message: "Agents read too much for this server just now: try again in a moment."}
	}
	leave := func() { <-r.agents }
	in, err := r.server.Look(ctx, instance, job.Look{Name: name, Query: query, Backups: needed(of)})
	if err != nil {
		leave()
		return nil, nil, err
	}
	return bufio.NewReaderSize(in, maxHead), func() { in.Close(); leave() }, nil
}

// needed is what an agent needs to know of backups.
func needed(of *states.Shelf) []*job.Backup {
	list := make([]*job.Backup, 0, len(of.Backups))
	for _, b := range of.Backups {
		list = append(list, &job.Backup{ID: b.ID, Name: b.Name, Project: b.Project, Instance: b.Instance, RepoName: b.RepoName, Created: b.Created,
			Repository: job.Repository{URL: b.Repository.URL, ID: b.Repository.ID, Storage: b.Repository.Storage},
			Result:     job.Result{RepoID: b.RepoID, Started: b.Started, Damage: b.Damage}})
	}
	return list
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

// Space says where the bytes of a database are. The names of its design documents are only for who may read.
func (r *Reader) Space(ctx context.Context, who *access.Caller, instance string, at states.State, db string) (*contents.DatabaseSpace, error) {
	x, err := Ask(ctx, r, who, instance, contents.LookSpace, contents.DatabaseQuery{At: at, DB: db})
	if err != nil || who.MayRead() {
		return x, err
	}
	told := *x
	told.Indexes = slices.Clone(told.Indexes)
	for i := range told.Indexes {
		told.Indexes[i].Designs = []string{}
	}
	return &told, nil
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
	of, err := r.clusterShelf(ctx, who, name)
	if err != nil {
		return nil, err
	}
	a, err := r.here.ClusterDatabases(ctx, of, q)
	return a, told(server.Reading{}, err)
}

// Divergence compares what the nodes of a cluster hold of each range.
func (r *Reader) Divergence(ctx context.Context, who *access.Caller, name string, q contents.DivergenceQuery) (*contents.Divergence, error) {
	of, err := r.clusterShelf(ctx, who, name)
	if err != nil {
		return nil, err
	}
	a, err := r.here.Divergence(ctx, of, q)
	return a, told(server.Reading{}, err)
}

// clusterShelf is what a caller may read of the nodes of a cluster. It is for this server to read
// alone: an agent's key reads the backups of its own node.
func (r *Reader) clusterShelf(ctx context.Context, who *access.Caller, name string) (*contents.ClusterShelf, error) {
	if r.set == nil {
		return nil, errNothing
	}
	k, err := r.server.Cluster(who, name)
	if err != nil {
		return nil, err
	}
	if k.Unclear != "" {
		return nil, &server.Error{Kind: server.Conflict, Message: k.Unclear}
	}
	of := &contents.ClusterShelf{Project: k.Project, Name: k.Name}
	var first error
	some := false
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
			}
			some = some || shelf != nil
		}
		of.Nodes, of.Shelves = append(of.Nodes, x), append(of.Shelves, shelf)
	}
	if !some && first != nil {
		return nil, first
	}
	return of, nil
}

// AttachmentOf calls fn with an attachment and what reads its bytes, decoded. Who sends them on must not let a browser take them
// for a page of the server: users of a database stored what they liked.
func (r *Reader) AttachmentOf(ctx context.Context, who *access.Caller, instance string, at states.State, db, id, rev, name string, fn func(contents.Attachment, io.Reader) error) error {
	of, err := r.shelf(ctx, who, instance)
	if err != nil {
		return err
	}
	q := contents.AttachmentQuery{DocumentQuery: contents.DocumentQuery{At: at, DB: db, Doc: id, Rev: rev}, Name: name}
	return r.choose(instance, func() error { return r.here.Attachment(ctx, of, q, fn) }, func() error {
		query, err := contents.Encode(q)
		if err != nil {
			return err
		}
		in, done, err := r.fromAgent(ctx, of, instance, job.LookAttachment, query)
		if err != nil {
			return err
		}
		defer done()
		var x contents.Attachment
		line, err := in.ReadSlice('\n')
		if err == nil {
			err = contents.Decode(line, &x)
		}
		if err != nil {
			return unread(err)
		}
		return fn(x, in)
	})
}
