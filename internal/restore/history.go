package restore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// History says what a restore does with what clients know of the databases: sequences of
// _changes, which name the uuids of the shards, and checkpoints of replications.
//
// A server that is asked for what came after a sequence looks at the uuid and not at
// whether it ever got so far: it gives nothing, without a word, until the restored shard
// has passed that number. And where both ends of a replication have a checkpoint of the same
// session, as while it runs, the source's counts: what it sent after the backup was made
// isn't sent again. With a new history each restored shard has another uuid and no
// checkpoints, and all consumers start over.
//
// Source: CouchDB 3.5, src/couch/src/couch_db.erl, calculate_start_seq;
// src/couch_replicator/src/couch_replicator_scheduler_job.erl, compare_replication_logs.
type History int

const (
	// HistoryKept leaves the files as they were backed up.
	HistoryKept History = iota
	// HistoryByMoment keeps it for the newest backup of an instance, restored whole. Older
	// ones, moments, and chosen databases, which may come into a living server, get a new one.
	HistoryByMoment
	// HistoryNew begins a new one.
	HistoryNew
)

// HistoryResult is what a restore did with the history, and what that means.
type HistoryResult struct {
	New    bool   `json:"new"`
	Reason string `json:"reason"` // why it was kept or not
	Means  string `json:"means"`  // for clients; two sentences
	Shards int    `json:"shards"` // files that have a new history
	// Checkpoints is how many local documents went with the old one: checkpoints of
	// replications, and those between a cluster's copies.
	Checkpoints int `json:"checkpoints"`
}

// String says all of it, in three sentences.
func (h *HistoryResult) String() string {
	what := "kept"
	if h.New {
		what = "new"
	}
	if h.Shards > 0 {
		what = fmt.Sprintf("new in %d shards", h.Shards)
		if h.Shards == 1 {
			what = "new in 1 shard"
		}
	}
	return fmt.Sprintf("history: %s, %s. %s", what, h.Reason, h.Means)
}

const (
	meansNew  = "Replications, _changes followers and mobile clients start over and miss nothing. What they hold that is newer than the backup comes back with those that write to it."
	meansKept = "Replications, _changes followers and mobile clients go on where they were. One that saw a change after this backup misses what comes, without a word, until the database has as many changes again: then use --new-history."
)

// findLater finds the backups of the instance that were made after this one. known says
// whether it could tell.
func (r *run) findLater(ctx context.Context) (known bool) {
	if r.opts.trial || r.opts.Part != nil {
		return true
	}
	recs, _, err := r.opts.Repo.List(ctx, r.m.Instance)
	if err != nil {
		r.res.warn("which backups of %s are newer could not be read, nor what was purged since: %v", r.m.Instance, err)
		return false
	}
	i := slices.IndexFunc(recs, func(rec *manifest.Record) bool { return rec.ID == r.opts.Record.ID })
	r.later = recs[i+1:] // all of them if it was removed meanwhile
	return true
}

// decideHistory puts the decision into the mark of the restore and returns the reason.
func (r *run) decideHistory(mark *marker, known bool) string {
	kept, why := r.opts.History == HistoryKept, "as asked"
	if r.opts.History == HistoryByMoment {
		switch {
		case r.opts.Part != nil:
			why = "the copies of a range come from backups of several nodes"
		case !r.whole():
			why = "chosen databases may take the place of living ones"
		case r.opts.Moment != nil:
			why = "a moment lies behind what clients may have seen"
		case !known:
			why = "it is not known whether the backup is the newest"
		case len(r.later) > 0:
			why = "the backup is not the newest of its instance"
		default:
			kept, why = true, "the backup is the newest of its instance"
		}
	}
	if !kept {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // it never fails
		mark.NewHistory = hex.EncodeToString(b)
	}
	return why
}

// MadeAnew is the history of a database that got its documents by HTTP.
func MadeAnew() *HistoryResult {
	return &HistoryResult{New: true, Reason: "the database was made anew", Means: meansNew}
}

// tellHistory writes the decision into the result.
func (r *run) tellHistory(why string) {
	shards := r.opts.Part != nil && len(r.opts.Part.Takes) > 0
	for _, f := range r.m.Files {
		shards = shards || f.Kind == manifest.Shard
	}
	if !shards {
		return
	}
	h := &HistoryResult{New: r.newHistory != "", Reason: why, Means: meansKept}
	if h.New {
		h.Means = meansNew
	}
	if r.res.Continued {
		h.Reason = "as the restore began that was not finished"
	}
	r.res.History = h
}

// begins reports whether a file is to have a new history. System databases keep theirs:
// no client follows them, and the uuid of _dbs.couch says which CouchDB this is.
func (r *run) begins(it item) bool {
	return r.newHistory != "" && it.f.Kind == manifest.Shard && it.f.Header != nil
}

// uuidOf is the uuid that a shard gets instead of its own: another run that goes on with
// this restore gives it the same one.
func (r *run) uuidOf(it item) string {
	return shard.NewHistory(it.f.Header.UUID, r.newHistory+" "+it.f.Path)
}

// begin gives a whole shard, as it was backed up, a new history.
func (w *writer) begin(ctx context.Context, f *os.File, it item) error {
	if !w.run.begins(it) {
		return nil
	}
	h, err := w.run.historyOf(ctx, f, it)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(h.bytes, it.f.Size); err != nil {
		return err
	}
	w.run.begun(f, it, h)
	return nil
}

// begun notes a shard's new history, and reads it back.
func (r *run) begun(f *os.File, it item, h *newHistory) {
	if h.problem != "" {
		r.res.problem("%s", h.problem)
	}
	if len(h.bytes) == 0 {
		return
	}
	end := it.f.Size + int64(len(h.bytes))
	r.resized(it, end)
	raw, err := couchfile.FindHeader(f, end)
	if err == nil && raw.End != end {
		err = fmt.Errorf("its newest header ends at %d, not at %d", raw.End, end)
	}
	if err == nil {
		want := *it.f.Header
		want.UUID = r.uuidOf(it)
		err = checkDatabase(f, raw, &want)
	}
	if err != nil {
		r.res.problem("%s has a new history that does not read back: %v", it.path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.History.Shards++
	r.res.History.Checkpoints += h.dropped
}

func (r *run) resized(it item, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rewritten[it.path] = size
}

// keepShard is keep for a shard that gets a new history and begins with the bytes of the
// backup: what comes behind them is right already, or the file is copied without it. It is
// never changed in place, since it may have other names.
func (w *writer) keepShard(ctx context.Context, f *os.File, it item, path string, sync bool) error {
	h, err := w.run.historyOf(ctx, f, it)
	if err != nil {
		return err
	}
	behind, err := io.ReadAll(io.NewSectionReader(f, it.f.Size, int64(len(h.bytes))+1))
	if err != nil {
		return err
	}
	if !bytes.Equal(behind, h.bytes) {
		return w.beside(ctx, it, path, sync, nil, func(to *os.File) error { return w.copyShard(ctx, f, to, it.f) })
	}
	if err := w.finish(f, it); err != nil {
		return err
	}
	w.run.begun(f, it, h)
	if sync {
		return f.Sync()
	}
	return nil
}

// copyShard copies the bytes of the backup out of a file that begins with them, and
// closes it, since some systems give no open file's name to another.
func (w *writer) copyShard(ctx context.Context, from, to *os.File, want *manifest.File) error {
	defer from.Close()
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for left := want.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, min(left, 64<<20))
		if err != nil {
			return err
		}
		left -= n
	}
	same, err := w.same(ctx, to, want)
	if err == nil && !same {
		err = fmt.Errorf("copy what is there: %w", ErrMismatch)
	}
	return err
}

// newHistory is what is appended to a shard for a new history; no bytes if it keeps its own.
type newHistory struct {
	bytes   []byte
	dropped int // checkpoints
	problem string
}

// historyOf makes a shard's new history. Damage keeps nothing from being restored:
// checkpoints that can't be read stay, and so does a history whose header can't.
func (r *run) historyOf(ctx context.Context, f io.ReaderAt, it item) (*newHistory, error) {
	gone, err := checkpoints(ctx, f, it.f.Size)
	var h *newHistory
	if err == nil {
		h, err = makeHistory(f, it.f.Size, r.uuidOf(it), gone, r.security())
	}
	if !unfit(err) {
		return h, err
	}
	problem := fmt.Sprintf("%s has a new history, but its checkpoints can't be read and stay: %v", it.path, err)
	if h, err = makeHistory(f, it.f.Size, r.uuidOf(it), nil, r.security()); unfit(err) {
		return &newHistory{problem: fmt.Sprintf("%s keeps its history: %v", it.path, err)}, nil
	}
	if err == nil {
		h.problem = problem
	}
	return h, err
}

// security is the stored security object that all shards get; nil leaves each its own.
func (r *run) security() []byte {
	if r.opts.Part == nil || r.opts.Part.DB == nil {
		return nil
	}
	return r.opts.Part.DB.security
}

// unfit reports whether an error says that a file is damaged or no database of a version
// that can be continued.
func unfit(err error) bool {
	for _, is := range []error{couchfile.ErrCorrupt, couchwriter.ErrUnpredicted, couchfile.ErrNoHeader,
		couchfile.ErrNotDatabase, couchfile.ErrUnsupportedVersion} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// makeHistory makes what is appended to a database of size bytes: the tree of local
// documents without those that are gone, and its header with another uuid, and with another security object if
// one is given as it is stored.
func makeHistory(f io.ReaderAt, size int64, uuid string, gone []erlterm.Term, security []byte) (*newHistory, error) {
	raw, err := couchfile.FindHeader(f, size)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	out := couchwriter.NewFile(&b, nil, size, raw.Checksum)
	db, err := couchwriter.OpenDatabase(out, couchfile.NewChunkReader(f, size), raw.Term, couchwriter.DatabaseOptions{})
	if err != nil {
		return nil, err
	}
	db.SetUUID(uuid)
	if security != nil {
		db.SetSecurity(security)
	}
	if err := db.Update(couchwriter.Update{LocalsGone: gone}); err != nil {
		return nil, err
	}
	if _, err := out.Header(db.Header()); err != nil {
		return nil, err
	}
	return &newHistory{bytes: b.Bytes(), dropped: len(gone)}, nil
}

// checkpoints returns the keys of the local documents that say how far somebody got in a
// history: replications, by the shape that CouchDB's and PouchDB's have; and the
// replication and the purges between a cluster's copies, whose ids are made of uuids that
// no file has any more. Those of indexes, _local/purge-mrview-…, are tied to no uuid and
// stay, as do all others.
//
// Source: CouchDB 3.5, src/couch_replicator/src/couch_replicator_scheduler_job.erl,
// do_checkpoint; src/mem3/src/mem3_rep.erl, make_local_id and make_purge_id, and
// mem3_rpc.erl, load_checkpoint_rpc; PouchDB 9.0, pouchdb-checkpointer.
func checkpoints(ctx context.Context, f io.ReaderAt, size int64) ([]erlterm.Term, error) {
	db, err := couchfile.Open(couchfile.WithContext(ctx, f), size)
	if err != nil {
		return nil, err
	}
	var gone []erlterm.Term
	for doc, err := range db.LocalDocs("") {
		if err != nil {
			return nil, err
		}
		if isCheckpoint(doc) {
			gone = append(gone, erlterm.PutBinary(nil, doc.ID))
		}
	}
	return gone, nil
}

func isCheckpoint(doc *couchfile.LocalDoc) bool {
	for _, prefix := range []string{"_local/shard-sync-", "_local/purge-mem3-"} {
		if strings.HasPrefix(doc.ID, prefix) {
			return true
		}
	}
	b, err := doc.JSON()
	if err != nil {
		return false
	}
	var c struct {
		Session *string            `json:"session_id"`
		History *[]json.RawMessage `json:"history"`
		CouchDB json.RawMessage    `json:"source_last_seq"`
		PouchDB json.RawMessage    `json:"last_seq"`
	}
	if json.Unmarshal(b, &c) != nil {
		return false
	}
	return c.Session != nil && c.History != nil && (c.CouchDB != nil || c.PouchDB != nil)
}
