package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// TrialOptions are the options of Trial.
type TrialOptions struct {
	Repo   *repo.Repo
	Record *manifest.Record
	// Moment is as in Options: what is tested instead of the backup. That takes a CouchDB.
	Moment *manifest.Manifest

	// Parent is where a scratch directory is made, which takes what the whole backup
	// does; "" is the system's directory for temporary files. CouchDB takes no path with
	// spaces, and its user must be able to get there.
	Parent     string
	CouchDBBin string // as in CreateOptions; without a CouchDB the backup is verified
	NoServer   bool   // as if there were no CouchDB
	Owner      string // as in CreateOptions

	Timeout  time.Duration // for the server's first answer; 30 s if 0
	Parallel int
	Progress *Progress
}

// TrialReport is what a trial found.
type TrialReport struct {
	Backup  manifest.BackupID `json:"backup"`
	Server  bool              `json:"server"`            // a CouchDB was started on the restored files
	Version string            `json:"version,omitempty"` // of that CouchDB

	Databases int      `json:"databases"` // that were compared
	Docs      uint64   `json:"docs"`      // in them, without deleted ones
	Deleted   uint64   `json:"deleted_docs"`
	Partial   []string `json:"partial"` // databases whose other shards are on other nodes: only their files were compared

	Differences []TrialDifference `json:"differences"`
	Problems    []string          `json:"problems"` // of the restore, as in Result
	Lost        int               `json:"lost"`     // files that can't be read back, indexes too
	// Verify is what reading the backup found, if no CouchDB is there; else nil.
	Verify *VerifyReport `json:"verify"`
	Took   time.Duration `json:"took_ns"`
}

// TrialDifference is a database that is not what the backup says.
type TrialDifference struct {
	Database string `json:"database"`
	What     string `json:"what"`
	Known    bool   `json:"known"` // the backup itself says that one of its shards is damaged or missing
}

// OK reports whether the backup restores to what it says it holds.
func (r *TrialReport) OK() bool {
	if r.Lost > 0 {
		return false
	}
	for _, d := range r.Differences {
		if !d.Known {
			return false
		}
	}
	return r.Verify == nil || r.Verify.New == 0
}

// trialPrefix begins the names of scratch directories.
const trialPrefix = "slipcover-trial-"

// trialIni keeps the server from changing what it was started to show: it waits with
// replications, does not compact, and doesn't note in _global_changes that it wrote its
// own design documents.
//
// Source: CouchDB 3.5.0, etc/default.ini, replicator/cluster_start_period and
// smoosh/db_channels; couch_replicator_clustering.erl; global_changes_listener.erl, init.
const trialIni = `
[replicator]
cluster_start_period = 1000000
cluster_quiet_period = 1000000

[smoosh]
db_channels =
view_channels =
cleanup_channels =

[global_changes]
update_db = false
`

// trialAltered, if a test sets it, is called with the data directory between the
// steps of a trial: "restored", "read" before the server starts, and "started".
var trialAltered func(step, data string)

// Trial restores a backup into a scratch directory, starts a CouchDB on it, and holds
// what that answers against the files and the manifest: for each database the numbers
// of documents and of deleted ones, and a digest over id, winning revision and deletion
// of all documents. Where there is no CouchDB, or one whose Erlang is too old to run
// beside the original, it is Verify.
//
// The scratch directory is removed whatever happens; after a kill the next Trial with
// the same Parent removes it. What is wrong with the backup goes into the report; an
// error is one of the storage, the key, the disk, the start of the server, or ctx.
func Trial(ctx context.Context, opts TrialOptions) (*TrialReport, error) {
	started := time.Now()
	rep := &TrialReport{Backup: opts.Record.ID}
	err := rep.run(ctx, opts)
	if err != nil {
		return nil, err
	}
	rep.Partial, rep.Differences, rep.Problems = nonNil(rep.Partial), nonNil(rep.Differences), nonNil(rep.Problems)
	rep.Took = time.Since(started)
	return rep, nil
}

func (r *TrialReport) run(ctx context.Context, opts TrialOptions) error {
	parent, err := filepath.Abs(opts.Parent)
	if opts.Parent == "" {
		parent, err = os.TempDir(), nil
	}
	if err != nil {
		return err
	}
	if err := removeTrials(ctx, parent); err != nil {
		return fmt.Errorf("remove what an earlier trial left: %w", err)
	}
	bin := CouchDBBinary(opts.CouchDBBin)
	switch {
	case opts.NoServer:
		bin = ""
	case bin == "" && opts.CouchDBBin != "":
		return fmt.Errorf("%w: there is no CouchDB program %s", ErrOptions, opts.CouchDBBin)
	case bin != "" && oldErlang(bin): // it can't run beside the original
		bin = ""
	case bin != "":
		m := opts.Moment
		if m == nil {
			if m, err = opts.Repo.Manifest(ctx, opts.Record); err != nil {
				return err
			}
		}
		if manifest.CouchDB1(m.Files) { // which no server that is here serves
			bin = ""
		}
	}
	if bin == "" && opts.Moment != nil {
		return fmt.Errorf("%w: there is no CouchDB here that a moment can be tested with", ErrOptions)
	}
	if bin == "" {
		r.Verify, err = Verify(ctx, VerifyOptions{Repo: opts.Repo, Record: opts.Record, Scratch: parent, Parallel: opts.Parallel, Progress: opts.Progress})
		return err
	}
	c := &creation{bin: bin, opts: CreateOptions{Repo: opts.Repo, Record: opts.Record, Moment: opts.Moment, History: HistoryKept, Name: "trial", Dir: filepath.Join(parent, trialPrefix+strings.ToLower(rand.Text()[:12])),
		CouchDBBin: bin, Owner: opts.Owner, Timeout: opts.Timeout, Parallel: opts.Parallel, Progress: opts.Progress, extraIni: trialIni, trial: true}}
	if err := c.opts.check(); err != nil {
		return err
	}
	in, err := claim(c.opts.Dir, c.opts.card())
	if err != nil {
		return err
	}
	defer in.release()
	t := &trial{report: r, c: c}
	return errors.Join(t.run(ctx, in), removeTrial(ctx, in))
}

// removeTrial removes a scratch directory also when ctx is done.
func removeTrial(ctx context.Context, in *instance) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience+killPatience+time.Minute)
	defer cancel()
	return in.remove(ctx)
}

// removeTrials removes the scratch directories of trials that were killed.
func removeTrials(ctx context.Context, parent string) error {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.MkdirAll(parent, 0o711) // CouchDB's user must get through
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), trialPrefix) {
			continue
		}
		err := Remove(ctx, filepath.Join(parent, e.Name()))
		// Another trial may be under way, and a name is no proof.
		if err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNoInstance) {
			return err
		}
	}
	return nil
}

// trial is one in the making.
type trial struct {
	report *TrialReport
	c      *creation
	m      *manifest.Manifest
	dbs    []trialDB
}

// trialDB is a database and what its restored files say.
type trialDB struct {
	name    string
	partial bool
	known   bool // the manifest says that something of it is damaged or missing
	digest  digest
	docs    uint64 // as the shards' headers in the manifest say
	deleted uint64
}

func (t *trial) run(ctx context.Context, in *instance) error {
	if t.m = t.c.opts.Moment; t.m == nil {
		var err error
		if t.m, err = t.c.opts.Repo.Manifest(ctx, t.c.opts.Record); err != nil {
			return err
		}
	}
	if _, err := t.c.create(ctx, in); err != nil { // without a start
		return err
	}
	t.report.Problems, t.report.Lost = t.c.state.Restored.Problems, t.c.state.Restored.LostCount
	data := in.path(dataName)
	if trialAltered != nil {
		trialAltered("restored", data)
	}
	if guarded(filepath.Join(data, dbsPath)) {
		t.differs(&trialDB{name: dbsPath}, "no CouchDB can be started on what was restored: %s", without(dbsPath))
		return nil
	}
	if err := t.readFiles(ctx, data); err != nil {
		return err
	}
	if trialAltered != nil {
		trialAltered("read", data)
	}
	t.c.opts.Start = true
	made, err := t.c.finish(ctx)
	if err != nil {
		return err
	}
	if trialAltered != nil {
		trialAltered("started", data)
	}
	t.report.Server = true
	s, err := node.Ask(ctx, made.URL, made.User, made.Password)
	if err != nil {
		return err
	}
	t.report.Version = s.Version
	for i := range t.dbs {
		if err := t.compare(ctx, made, &t.dbs[i]); err != nil {
			return err
		}
	}
	return nil
}

// readFiles reads all databases out of the restored files.
func (t *trial) readFiles(ctx context.Context, data string) error {
	f, err := os.Open(filepath.Join(data, dbsPath))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	maps, err := readMaps(ctx, f, info.Size(), t.m, "")
	if err != nil {
		return err
	}
	for _, p := range maps.problems {
		t.differs(&trialDB{name: dbsPath}, "%s", p)
	}
	damaged := map[string]bool{}
	for _, d := range t.m.Damage {
		damaged[d.Path] = true
	}
	for _, l := range t.m.LeftOut {
		damaged[l.Path] = true
	}
	files := t.m.Databases()
	for _, m := range maps.list {
		db := trialDB{name: m.DB}
		ranges := maps.self.Ranges(m.Map)
		_, db.partial = gap(ranges)
		for _, rg := range ranges {
			path := shard.Name{Range: rg, DB: m.DB, Suffix: m.Suffix}.Path()
			db.known = db.known || damaged[path]
			if err := t.readShard(ctx, &db, filepath.Join(data, filepath.FromSlash(path)), files[path]); err != nil {
				return err
			}
		}
		t.dbs = append(t.dbs, db)
	}
	return nil
}

// readShard adds a restored file to its database.
func (t *trial) readShard(ctx context.Context, db *trialDB, path string, want *manifest.File) error {
	if want == nil || want.Header == nil {
		t.differs(db, "the backup doesn't hold its shard %s so that it can be read", filepath.Base(filepath.Dir(path)))
		return nil
	}
	db.docs, db.deleted = db.docs+want.Header.Docs, db.deleted+want.Header.DeletedDocs
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		t.differs(db, "%s can't be read back", want.Path)
		return nil
	}
	if info.Size() != want.Size {
		t.differs(db, "%s has %d bytes, not %d as the backup says", want.Path, info.Size(), want.Size)
		return nil
	}
	if err := checkHeader(f, want); err != nil {
		t.differs(db, "%s: %v", want.Path, err)
		return nil
	}
	err = db.digest.addFile(ctx, f, info.Size(), db.name)
	if errors.Is(err, couchfile.ErrCorrupt) {
		t.differs(db, "%s: %v", want.Path, err)
		return nil
	}
	return err
}

// compare holds a database of the server against its files.
func (t *trial) compare(ctx context.Context, made *Created, db *trialDB) error {
	t.report.Docs += db.docs
	t.report.Deleted += db.deleted
	if db.partial {
		t.report.Partial = append(t.report.Partial, db.name)
		return nil
	}
	t.report.Databases++
	s := changes{url: made.URL, user: made.User, password: made.Password, db: db.name}
	docs, deleted, err := s.counts(ctx)
	if err == nil && !ownDesign(db.name) && (docs != db.docs || deleted != db.deleted) {
		t.differs(db, "the server counts %d documents and %d deleted ones, the backup says %d and %d", docs, deleted, db.docs, db.deleted)
	}
	var got digest
	if err == nil {
		got, err = s.digest(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		t.differs(db, "%v", err)
	case got != db.digest:
		t.differs(db, "the server lists %d documents and %d deleted ones, the files %d and %d: they are not the same ones in the same revisions",
			got.docs, got.deleted, db.digest.docs, db.digest.deleted)
	}
	return nil
}

func (t *trial) differs(db *trialDB, format string, args ...any) {
	t.report.Differences = append(t.report.Differences, TrialDifference{Database: db.name, What: fmt.Sprintf(format, args...), Known: db.known})
}
