package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/state"
)

// Options are the options of Run.
type Options struct {
	Repo     *repo.Repo
	Node     *node.Node
	Instance string
	StateDir string // where the state of instances and the writer's key are kept

	// ID is the id of the new backup; "" makes one. A given one must be new: it names
	// one attempt. Who finds the lock of a run that died gives its backup up for good, by
	// an empty record under its id (docs/decisions/0004-deletions-need-no-clock.md), so a
	// second attempt can't be committed under the id of the first. One that was used in
	// any way is repo.ErrIDUsed, before anything is copied.
	ID          manifest.BackupID
	Name        string
	Description string
	Labels      map[string]string // to find the backup by; see manifest.CheckLabels
	Cluster     string            // what the node's cluster is called; "" if nobody says
	Tool        string            // name and version of the program
	Strategy    string
	Namespace   string

	Full          bool          // store all, whatever the state says
	Parent        string        // id of the backup to build on; "" is the newest of this node
	Prove         bool          // read each file whole to prove what the parent holds of it
	TakeOver      bool          // make a full backup though the instance's backups are another node's
	ProveInterval time.Duration // prove each file so after half to all of that time; 0 is never
	// Recipients, if any, are those that the repository must have for a key to be
	// made; none takes those that this node has accepted, at first any.
	Recipients []string
	// Copies are repositories that the backup will be copied to: a new key is stored
	// in them too.
	Copies []*repo.Repo

	// Compaction is how a database that was compacted is stored: Replay, Copy, or Whole; ""
	// is Whole.
	Compaction string
	// Tails is how what was appended to a database is stored: Replay, or Whole; "" is Whole.
	Tails string

	// Strict lets damage in the source fail the backup, and looks for it: each file that
	// is new or has grown is read a second time, all of it, as CouchDB would.
	Strict   bool
	Indexes  bool // take view indexes too
	Parallel int  // files read and segments packed at once; 0 is the number of CPUs, at most 4

	Progress *Progress        // counters; may be nil
	Now      func() time.Time // the clock that backups are stamped by; nil is time.Now
}

func (o *Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// Result is what a run did.
type Result struct {
	Record  *manifest.Record
	LeftOut []manifest.LeftOut
	Damage  []manifest.Damage
	Notes   []string
	// Problems are what was wrong with stored keys, also if this run put it right.
	Problems []string
	Resumed  int64 // bytes that an interrupted run had stored and this one took up
	// Replayed are the bytes of files that this run stored as replays.
	Replayed int64
	// TakenOver are the bytes of files that shipping had stored, and this run neither read nor stored.
	TakenOver int64
}

// minPackers is the least number of segments that are packed or stored at once.
// It may be above the number of CPUs, since storing waits for a disk.
const minPackers = 4

// run is one backup in the making.
type run struct {
	opts      Options
	dir       string // of the state of the instance in the repository
	id        manifest.BackupID
	key       *repo.WriteKey
	started   time.Time
	proofs    *proofs                         // nil for a full backup
	identity  manifest.Identity               // of the node, as it was before anything was copied
	wasMap    string                          // uuid of the shard map of the backup before; "" if not known
	tookOver  bool                            // the instance's backups before are not of this node
	before    *manifest.Record                // newest backup of the instance if this node's state doesn't know it
	old       map[capture.Name]*capture.Known // what the backup before knows; nil for a full one
	oldDamage map[capture.Name][]manifest.Damage
	inRepo    []bool      // whether the parent's segments are stored, by index
	journaled storedParts // what unfinished runs stored
	shipped   map[capture.Name][]state.Kept
	objects   map[string]*storedSegment // of chains, by key: those that are stored, if the backup may refer to them
	segments  *segmenter
	takers    *capture.Takers

	read, added, resumed, replayed, takenOver atomic.Int64
	generations                               atomic.Int64

	mu       sync.Mutex
	files    map[capture.Name]*manifest.File // guarded by mu, like what follows
	locals   map[capture.Name]capture.Local
	leftOut  []manifest.LeftOut
	damage   []manifest.Damage
	notes    []string
	nodeName string   // as tellSelf found it
	nodes    []string // of the cluster; see clusterNodes
	maps     []shardMap
	// mapEpochs are those of _dbs.couch, newest first; writers says how many files a node
	// was the last to write to.
	mapEpochs []couchfile.Epoch
	writers   map[string]int
	self      *shard.Self
	oldName   string // the node's, as the parent has it
}

// Run makes a backup. It returns repo.ErrLocked while another one of the same
// instance runs, repo.ErrIDUsed if the id that was given is not new, ErrOptions for
// an id, labels or a cluster out of form, repo.ErrRecipients if it must not encrypt to those that the
// repository names, ErrPermission, ErrDamaged with Strict, or what the storage said;
// after an error the repository holds no new backup, but segments that the next
// run takes up.
func Run(ctx context.Context, opts Options) (*Result, error) {
	if opts.Progress == nil {
		opts.Progress = &Progress{}
	}
	if opts.Parallel <= 0 {
		opts.Parallel = defaultParallel()
	}
	id, err := opts.newID()
	if err != nil {
		return nil, err
	}
	signer, err := state.WriterKey(opts.StateDir)
	if err != nil {
		return nil, err
	}
	dir := state.Dir(opts.StateDir, opts.Repo.Config().ID, opts.Instance)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	lock, err := opts.Repo.Lock(ctx, opts.Instance, "backup", id)
	if err != nil {
		return nil, err
	}
	var res *Result
	if opts.ID != "" { // asked under the lock, since taking it may be what gives the id up
		err = opts.Repo.CheckNewID(ctx, opts.Instance, id)
	}
	if err == nil {
		res, err = runLocked(ctx, opts, id, dir, lock.Before, func(m *manifest.Manifest, key *repo.WriteKey) (*manifest.Record, error) {
			return opts.Repo.Commit(ctx, lock, m, key, signer)
		})
	}
	if errors.Is(err, repo.ErrLockLost) {
		err = fmt.Errorf("%w; the next backup uses what this one stored, unless a prune has removed it", err)
	}
	if rerr := lock.End(ctx); rerr != nil && err == nil {
		res.Notes = append(res.Notes, fmt.Sprintf("the backup is complete, but its lock could not be released: %v", rerr))
	}
	return res, err
}

// newID checks what the options say of the backup itself and returns its id.
func (o *Options) newID() (manifest.BackupID, error) {
	if err := errors.Join(manifest.CheckLabels(o.Labels), manifest.CheckCluster(o.Cluster, nil)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if o.ID == "" {
		return manifest.NewID()
	}
	if !o.ID.Valid() {
		return "", fmt.Errorf("%w: %q is not the id of a backup: it is a UUID in lower case", ErrOptions, o.ID)
	}
	return o.ID, nil
}

type commitFunc func(*manifest.Manifest, *repo.WriteKey) (*manifest.Record, error)

// beforeFunc is the method Before of a lock.
type beforeFunc func(ctx context.Context, mine manifest.BackupID) (*manifest.Record, error)

func runLocked(ctx context.Context, opts Options, id manifest.BackupID, dir string, before beforeFunc, commit commitFunc) (*Result, error) {
	started := opts.now().UTC()
	listing, err := scan(ctx, &opts)
	if err != nil {
		return nil, err
	}
	key, err := writeKey(ctx, &opts, dir)
	if err != nil {
		return nil, err
	}
	r := &run{opts: opts, dir: dir, id: id, key: key, started: started, notes: key.Notes, files: map[capture.Name]*manifest.File{}, locals: map[capture.Name]capture.Local{}}
	r.newTakers()
	parent, err := r.load(ctx, dir, listing, before)
	if err == nil {
		err = r.findShipped(ctx, parent)
	}
	if err != nil {
		return nil, err
	}
	j, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.copyAll(ctx, j, parent, listing), j.close()); err != nil {
		return nil, err
	}
	if opts.Strict && len(r.damage) > 0 {
		d := r.damage[0]
		return nil, fmt.Errorf("%w: %s, at %d: %s: %s (%d findings in all); without --strict it is backed up as it is", ErrDamaged, d.Path, d.Offset, d.What, d.Error, len(r.damage))
	}
	r.notes = append(r.notes, r.proofs.notes()...)
	m := r.manifest(started, parent)
	rec, err := commit(m, key)
	if err != nil {
		return nil, err
	}
	res := &Result{Record: rec, LeftOut: m.LeftOut, Damage: m.Damage, Notes: m.Notes, Problems: key.Problems, Resumed: r.resumed.Load(), Replayed: r.replayed.Load(), TakenOver: r.takenOver.Load()}
	if err := settlePin(dir, key, rec); err != nil {
		res.Notes = append(res.Notes, err.Error())
	}
	// The backup is made; without its state the next one is only larger.
	m.Summary = rec.Summary
	if err := state.Write(dir, opts.Repo.Config().ID, key, m, r.locals); err != nil {
		res.Notes = append(res.Notes, fmt.Sprintf("the backup is complete, but the next one will be larger than it need be: %v", err))
		return res, nil
	}
	if err := errors.Join(j.remove(), r.takers.Tidy(r.locals)); err != nil {
		res.Notes = append(res.Notes, err.Error())
	}
	return res, nil
}

// load finds the parent, and what unfinished runs left.
func (r *run) load(ctx context.Context, dir string, l *node.Listing, before beforeFunc) (*state.State, error) {
	st, why, err := state.Read(dir, r.opts.Repo.Config().ID)
	if err != nil {
		return nil, err
	}
	if err := r.recognize(ctx, st, l, before); err != nil {
		return nil, err
	}
	r.journaled, err = readJournal(dir, func() (map[repo.SegmentID]int64, error) {
		return r.opts.Repo.Segments(ctx, r.opts.Instance)
	})
	if err != nil {
		return nil, err
	}
	parent, err := r.parent(ctx, st, why)
	if err != nil || parent == nil {
		return nil, err
	}
	if parent != st { // it was not looked at yet
		if err := r.admit(r.checkKin(parent, l)); err != nil || r.tookOver {
			return nil, err
		}
	}
	r.old, r.wasMap = parent.Files, identityOf(parent).MapUUID
	r.oldName = parent.Summary.NodeName
	r.oldDamage = map[capture.Name][]manifest.Damage{}
	for _, d := range parent.Damage {
		if d.What == manifest.DamageNode { // the name was a guess
			r.oldName = ""
			continue
		}
		nm := capture.Name{Root: d.Root, Path: d.Path}
		r.oldDamage[nm] = append(r.oldDamage[nm], d)
	}
	if r.inRepo, err = r.opts.Repo.Stored(ctx, r.opts.Instance, parent.Segments); err != nil {
		return nil, err
	}
	r.proofs = newProofs(&r.opts, parent, r.started)
	return parent, nil
}

// parent returns the state to build on, or nil for a full backup.
func (r *run) parent(ctx context.Context, st *state.State, why string) (*state.State, error) {
	if r.opts.Full || r.tookOver {
		return nil, nil
	}
	if r.key.Full != "" {
		r.note(r.key.Full + ": this is a full backup")
		return nil, nil
	}
	if st != nil && !knowsKey(r.key.Pin, st.Key) {
		st, why = nil, "the key of the earlier backup is gone"
	}
	if r.opts.Parent != "" {
		rec, err := r.opts.Repo.Find(ctx, r.opts.Instance, r.opts.Parent)
		if err != nil {
			return nil, err
		}
		if st == nil || st.Summary.ID != rec.ID {
			return r.stateOf(ctx, rec)
		}
	}
	if st == nil {
		return r.noState(ctx, why)
	}
	if _, err := r.opts.Repo.Record(ctx, r.opts.Instance, st.Summary.ID); errors.Is(err, repo.ErrNoBackup) {
		return r.noState(ctx, fmt.Sprintf("backup %s, which this node made last, was deleted", st.Summary.ID.Short()))
	} else if err != nil {
		return nil, err
	}
	return st, nil
}

// noState deals with a missing state: with a key the newest backup's manifest
// serves, without one the backup is a full one.
func (r *run) noState(ctx context.Context, why string) (*state.State, error) {
	if r.before == nil {
		var err error
		if r.before, err = r.newest(ctx); err != nil || r.before == nil {
			return nil, err
		}
	}
	if !r.opts.Repo.CanRead() {
		r.note(why + ", so this is a full backup")
		return nil, nil
	}
	r.note(why + ": built on the newest backup in the repository, proving what is unchanged by reading it")
	st, err := r.stateOf(ctx, r.before)
	if errors.Is(err, repo.ErrKeyGone) {
		r.note("the key of the newest backup in the repository is gone, so this is a full backup after all")
		return nil, nil
	}
	return st, err
}

// stateOf makes a state from a backup in the repository, which needs its key. It
// knows no inodes, so what it says of a file must be proven by reading the file.
func (r *run) stateOf(ctx context.Context, rec *manifest.Record) (*state.State, error) {
	m, err := r.opts.Repo.Manifest(ctx, rec)
	if err != nil {
		return nil, fmt.Errorf("%s %w: the state in this node is of another backup, and its manifest can't be read: %w", rec.ID, ErrParent, err)
	}
	st := &state.State{Summary: rec.Summary, Segments: m.Segments, Damage: m.Damage, Files: make(map[capture.Name]*capture.Known, len(m.Files))}
	for _, f := range m.Files {
		st.Files[capture.Name{Root: f.Root, Path: f.Path}] = &capture.Known{File: f}
	}
	return st, nil
}

// copyAll copies the files of the node, kind by kind.
func (r *run) copyAll(ctx context.Context, j *journal, parent *state.State, listing *node.Listing) error {
	for _, l := range listing.LeftOut {
		r.leaveOut(capture.Name{Root: l.Root, Path: l.Path}, l.Reason)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n := r.opts.Parallel
	r.opts.Progress.begin()
	r.segments = newSegmenter(ctx, r.opts.Repo, r.key, r.id, r.opts.Instance, j, max(n, minPackers), n+1, r.opts.Progress)
	if parent != nil {
		r.segments.table = slices.Clone(parent.Segments)
	}
	err := r.copyListing(ctx, listing, n)
	if err != nil {
		cancel(err)
	}
	// The packers' error is the cause when a worker could not go on for want of them.
	if perr := r.segments.close(); perr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = perr
	}
	return err
}

func (r *run) copyListing(ctx context.Context, l *node.Listing, n int) error {
	workers := make([]*worker, n)
	for i := range workers {
		workers[i] = r.newWorker()
	}
	r.plan(l)
	for _, group := range [][]node.Entry{l.Views, l.Shards, l.System} {
		if err := copyGroup(ctx, workers, group); err != nil {
			return err
		}
	}
	if err := r.reconcile(ctx, workers, l); err != nil {
		return err
	}
	r.judge(l)
	r.nodes = r.clusterNodes(ctx, l)
	if err := copyGroup(ctx, workers, l.Config); err != nil {
		return err
	}
	r.opts.Progress.allRead()
	for _, w := range workers {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// plan tells the progress how much there is to do.
func (r *run) plan(l *node.Listing) {
	p := r.opts.Progress
	for _, group := range [][]node.Entry{l.Views, l.Shards, l.System, l.Config} {
		p.Files.Add(int64(len(group)))
		for i := range group {
			info, err := os.Stat(r.opts.Node.Path(&group[i]))
			if err != nil {
				continue
			}
			n := info.Size()
			if old := r.old[capture.Name{Root: group[i].Root, Path: group[i].Path}]; old != nil && old.Local.Ino == capture.LocalOf(info).Ino {
				n = max(0, n-old.File.Size)
			}
			p.planned.Add(n)
		}
	}
}

// copyGroup copies files with all workers and returns when all are done.
func copyGroup(ctx context.Context, workers []*worker, entries []node.Entry) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range workers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(entries) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				if err := w.copyFile(ctx, entries[i]); err != nil {
					return err
				}
				w.run.opts.Progress.FilesDone.Add(1)
			}
		})
	}
	return g.Wait()
}

// segmentsStored reports whether all bytes of a file of the parent are stored.
func (r *run) segmentsStored(f *manifest.File) bool {
	for e := range f.Stored() {
		if !r.inRepo[e.Seg] {
			return false
		}
	}
	return true
}

func (r *run) leaveOut(nm capture.Name, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leftOut = append(r.leftOut, manifest.LeftOut{Root: nm.Root, Path: nm.Path, Reason: reason})
}

func (r *run) damaged(nm capture.Name, d manifest.Damage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.Root, d.Path = nm.Root, nm.Path
	r.damage = append(r.damage, d)
}

func (r *run) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

// manifest puts together what the run found. Segments that no file uses are left
// out of it.
func (r *run) manifest(started time.Time, parent *state.State) *manifest.Manifest {
	m := &manifest.Manifest{Format: manifest.Format, LeftOut: r.leftOut, Damage: r.damage, Notes: r.notes}
	m.Files = make([]*manifest.File, 0, len(r.files))
	for _, f := range r.files {
		m.Files = append(m.Files, f)
	}
	slices.SortFunc(m.Files, func(a, b *manifest.File) int {
		return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path))
	})
	m.Segments = compactSegments(r.segments.table, m.Files)
	m.Summary = manifest.Summary{
		ID: r.id, Instance: r.opts.Instance, Name: r.opts.Name, Description: r.opts.Description, Labels: r.opts.Labels,
		Type: manifest.Full, Status: manifest.Completed, Strategy: r.opts.Strategy, Namespace: r.opts.Namespace,
		Started: started, NodeName: r.nodeName, Identity: r.identity, Nodes: r.nodes, Cluster: r.opts.Cluster, CouchDBVersion: r.opts.Node.Version, Tool: r.opts.Tool,
		FileCount: len(m.Files), DatabaseCount: countDatabases(m.Files), ReadBytes: r.read.Load(), AddedBytes: r.added.Load(),
		StoredBytes: r.segments.bytes, LeftOutCount: len(m.LeftOut), DamageCount: len(m.Damage),
	}
	if parent != nil {
		m.Type, m.Parent = manifest.Incremental, parent.Summary.ID
	}
	if len(m.Damage) > 0 {
		m.Status = manifest.CompletedDamaged
	}
	for _, f := range m.Files {
		m.SizeBytes += f.Size
		if len(f.Replays) > 0 {
			m.Format = manifest.ReplayFormat
		}
	}
	if slices.ContainsFunc(m.Segments, func(s manifest.Segment) bool { return s.Key != "" }) {
		m.Format = manifest.ShippedFormat
	}
	if manifest.CouchDB1(m.Files) {
		m.Notes = append(m.Notes, "these are the files of a CouchDB 1.x: databases without shards and without a shard map")
	}
	m.Finished = started.Add(r.opts.now().Sub(started)) // by the watch of the process: the clock may be set meanwhile
	return m
}

// countDatabases counts the databases that have shards, or all of a CouchDB 1.x.
func countDatabases(files []*manifest.File) int {
	one, seen := manifest.CouchDB1(files), map[string]bool{}
	for _, f := range files {
		if n, err := shard.ParsePath(f.Path); err == nil && f.Kind == manifest.Shard {
			seen[n.DB+n.Suffix] = true
		}
		if f.Kind == manifest.System && one {
			seen[f.Path] = true
		}
	}
	return len(seen)
}

// compactSegments drops the segments of table that no file uses and gives the
// files' extents the new numbers.
func compactSegments(table []manifest.Segment, files []*manifest.File) []manifest.Segment {
	used := make([]bool, len(table))
	for _, f := range files {
		for e := range f.Stored() {
			used[e.Seg] = true
		}
	}
	to := make([]int, len(table))
	var out []manifest.Segment
	for i, s := range table {
		if used[i] {
			to[i] = len(out)
			out = append(out, s)
		}
	}
	for _, f := range files {
		for e := range f.Stored() {
			e.Seg = to[e.Seg]
		}
	}
	return out
}
