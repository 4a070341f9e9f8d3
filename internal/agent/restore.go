package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/topology"
)

// What a server may have restored is bounded here, as in accept.go: only if the node's settings say so, only out of the
// node's own repository, only into the directories that they name, and only where nothing is that could be lost. A cluster's part goes into
// an empty data directory, and a database under a suffix that the cluster hasn't got. Its name is new too, unless it is to replace a
// database: the files of that one stay.

// errRestores says that the node's settings allow no restores.
var errRestores = errors.New("it lets no server restore onto it: if it shall, set accept_restores: true in its slipcover.yml and start the agent again")

// errReplaces says that the node's settings let nothing that is there be replaced.
var errReplaces = errors.New("it lets no server put anything in the place of what it has: if it shall, set accept_writes: true too in its slipcover.yml and start the agent again")

// errWrittenTo says that a restore was whole, and that its directory isn't what it was then.
var errWrittenTo = errors.New("it holds another CouchDB's files than those that this plan restored there")

const (
	mapTime    = 10 * time.Minute // for a CouchDB to take a shard map
	answerWait = 5 * time.Minute  // for the map and the shards of a database to answer
	stampWait  = time.Minute      // that the clock of a node may be behind the server's
	spareBytes = 64 << 20         // that must be free beside what is restored
)

// carrying is one step of a restore on this node.
type carrying struct {
	*agent
	w    *work
	p    *job.Part
	plan *topology.Plan
}

// carry does a step of a restore that several agents carry out together.
func (a *agent) carry(ctx context.Context, w *work) (*job.Report, error) {
	p := w.job.Spec.Part
	if p == nil {
		return nil, errors.New("the job says nothing of a restore")
	}
	if !a.o.AcceptRestores || a.o.Target == nil {
		return &job.Report{Unwritten: w.job.Attempt <= 1 && !p.Again}, errRestores
	}
	plan, err := topology.Parse(strings.NewReader(p.Plan))
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(plan.Nodes, func(n topology.Node) bool { return n.Name == p.Node }) {
		return nil, fmt.Errorf("%w: %q is none of its nodes", topology.ErrPlan, p.Node)
	}
	c := &carrying{agent: a, w: w, p: p, plan: plan}
	if p.DB == "" {
		return c.clusterStep(ctx)
	}
	return c.databaseStep(ctx)
}

// open opens the backups of the plan and works out this node's part. It returns how to close them.
func (c *carrying) open(ctx context.Context) (part *restore.Part, r *repo.Repo, done func(), err error) {
	if c.o.RepositoryURL == "" {
		return nil, nil, nil, errors.New("this agent has no repository: set repository to that of the plan")
	}
	r, done, err = c.o.OpenRepo(ctx, Open{})
	if err != nil {
		return nil, nil, nil, err
	}
	if !r.CanRead() {
		err = errors.New("this agent has no key that reads backups: set identity_file")
	} else if err = r.Unlock(ctx); err == nil {
		var of *cluster.Cluster
		if of, err = cluster.OfPlan(ctx, r, c.plan); err == nil && c.p.DB == "" {
			part, err = restore.PartOf(of, c.plan, c.p.Node)
		} else if err == nil {
			part, err = restore.PartOfDB(ctx, r, of, c.plan, c.p.Node, c.p.DB, c.p.As, c.p.Suffix)
		}
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return part, r, done, nil
}

// report is one with what a restore couldn't do.
func reportOf(res *restore.Result) *job.Report {
	r := &job.Report{Problems: res.Wrong(), Result: &job.Result{}}
	for _, d := range res.Dropped {
		r.Result.Notes = append(r.Result.Notes, "the index "+d.Path+" is built anew: "+d.Reason)
	}
	r.Result.Notes = append(r.Result.Notes, res.Warnings...)
	return r
}

// room refuses what the disk of a directory, which need not be there, has no room for.
func room(dir string, n *restore.Needs) error {
	if free, need := freeBytes(existing(dir)), n.Bytes-n.There+spareBytes; free < need {
		return fmt.Errorf("the disk of %s has %d MiB free, and %d are needed", dir, free>>20, need>>20)
	}
	return nil
}

// A cluster's part.

// restoredPart is what the agent keeps of a part that it restored whole.
type restoredPart struct {
	Part     string    `json:"part"` // Part.Key
	Dir      string    `json:"dir"`
	MapUUID  string    `json:"map_uuid"`       // of its _dbs.couch
	Round    time.Time `json:"round,omitzero"` // of a part that took the place of what was there
	Problems []string  `json:"problems,omitempty"`
}

func (c *carrying) restoredPath() string { return filepath.Join(c.dir, "restored.json") }

func (c *carrying) clusterStep(ctx context.Context) (*job.Report, error) {
	n, err := c.o.Target(ctx)
	if err != nil {
		return nil, fmt.Errorf("the settings of this node don't say where its data is to be: set data_dir (%w)", err)
	}
	part, r, done, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	switch {
	case part.Node.DataDir != "" && filepath.Clean(part.Node.DataDir) != n.DataDir:
		return nil, fmt.Errorf("the plan has %s restored to %s, and by its settings the data of this node is in %s", part.Node.Name, part.Node.DataDir, n.DataDir)
	case n.NodeName != "" && n.NodeName != part.Node.Name:
		return nil, fmt.Errorf("by %s this node is %s, and the plan's is %s", n.NameSource, n.NodeName, part.Node.Name)
	}
	if report, err := c.finished(part, n.DataDir, n.IndexDir); report != nil || err != nil {
		return report, err
	}
	o := restore.Options{Repo: r, Part: part, To: n.DataDir, History: restore.HistoryByMoment, Owner: c.ownerAt(n.DataDir), Parallel: c.o.Backup.Parallel, Progress: &restore.Progress{}}
	if n.IndexDir != n.DataDir {
		o.IndexTo = n.IndexDir
	}
	needs, aside, err := c.toGo(ctx, o)
	if err != nil {
		return nil, err
	}
	if c.p.Step == job.StepCheck {
		c.tellNeeds(n.DataDir, needs)
		return nil, room(n.DataDir, needs)
	}
	for _, dir := range aside {
		c.w.say("What is in %s goes to %s.", dir, asideOf(dir, c.p.Round))
		if err := restore.Aside(ctx, dir, asideOf(dir, c.p.Round), o.Owner); err != nil {
			return nil, err
		}
	}
	c.w.trackRestore(o.Progress)
	o.Whole = func(res *restore.Result) error { return c.noteRestored(part, n.DataDir, res.Wrong()) }
	res, err := restore.Files(ctx, o)
	if err != nil {
		return nil, err
	}
	report := reportOf(res)
	report.Result.Notes = append(report.Result.Notes, c.whatWas(n.DataDir, n.IndexDir)...)
	report.Result.Notes = append(report.Result.Notes, "start CouchDB on it as "+part.Node.Name+" once all nodes are restored")
	if c.p.Replace {
		report.Result.Notes = append(report.Result.Notes, "then back it up: shipping goes on from that backup")
	}
	c.measure(ctx, "", c.o.Locate)
	c.tellNews(ctx)
	return report, nil
}

// toGo are the directories with what this restore takes the place of; none if it replaces nothing, or goes on. It says what the restore needs
// then.
func (c *carrying) toGo(ctx context.Context, o restore.Options) (needs *restore.Needs, dirs []string, err error) {
	needs, err = restore.Check(ctx, o)
	if !c.p.Replace || !errors.Is(err, restore.ErrNotEmpty) && !errors.Is(err, restore.ErrUnfinished) {
		return needs, nil, err
	}
	if !c.o.AcceptWrites {
		return nil, nil, errReplaces
	}
	for _, dir := range []string{o.To, o.IndexTo} {
		if list, _ := os.ReadDir(dir); dir == "" || len(list) == 0 || isThere(asideOf(dir, c.p.Round)) {
			continue // it went before
		}
		if err := restore.MayGoAside(ctx, dir); err != nil {
			return nil, nil, err
		}
		dirs = append(dirs, dir)
	}
	if len(dirs) > 0 { // as it will be when they are gone
		o.To, o.IndexTo = asideOf(o.To, c.p.Round), ""
	}
	needs, err = restore.Check(ctx, o)
	return needs, dirs, err
}

// whatWas says where that is which a restore took the place of, in a note for each of a node's directories. They may be the same one.
func (c *carrying) whatWas(dataDir, indexDir string) (notes []string) {
	for _, dir := range slices.Compact([]string{dataDir, indexDir}) {
		if old := asideOf(dir, c.p.Round); c.p.Replace && dir != "" && isThere(old) {
			notes = append(notes, "what was in "+dir+" before is in "+old+": remove it when nobody needs it")
		}
	}
	return notes
}

// asideOf is the name that a directory gets when another one takes its place.
func asideOf(dir string, round time.Time) string {
	return dir + ".before-" + round.UTC().Format("20060102T150405Z")
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// ownerAt is whom files below a directory are given to: whose it is, or as the settings say.
func (c *carrying) ownerAt(dir string) string {
	if owner, ok := restore.OwnerOf(dir); ok && owner != "" {
		return owner
	}
	return c.o.Owner
}

// noteRestored keeps that a part is whole, and what is wrong with it.
func (c *carrying) noteRestored(part *restore.Part, dir string, problems []string) error {
	uuid, err := mapUUID(dir)
	if err != nil {
		return err
	}
	return durable.WriteJSON(c.restoredPath(), 0o600, restoredPart{Part: part.Key(), Dir: dir, MapUUID: uuid, Round: c.p.Round, Problems: problems})
}

func mapUUID(dir string) (string, error) {
	uuid, err := takeout.FileUUID(filepath.Join(dir, "_dbs.couch"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return uuid, err
}

// finished reports a part that was restored whole and is still there, whatever CouchDB did to it since; nil if it is to be
// restored.
func (c *carrying) finished(part *restore.Part, dir, indexDir string) (*job.Report, error) {
	kept := restoredPart{}
	_, err := durable.ReadJSON(c.restoredPath(), &kept)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (kept.Part != part.Key() || kept.Dir != dir || !kept.Round.Equal(c.p.Round)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, restore.MarkerName)); err == nil {
		return nil, nil // the marker was still to go
	}
	uuid, err := mapUUID(dir)
	switch {
	case err != nil:
		return nil, err
	case uuid == "": // it was emptied
		return nil, nil
	case uuid != kept.MapUUID:
		return nil, fmt.Errorf("%s: %w", dir, errWrittenTo)
	}
	notes := append([]string{"this node was restored before: nothing was to be done"}, c.whatWas(dir, indexDir)...) // of which nobody may have heard
	return &job.Report{Problems: kept.Problems, Result: &job.Result{Notes: notes}}, nil
}

// One database.

// placing is where a database's files are made on this node.
type placing struct {
	files  takeout.Staged
	node   *node.Node
	server *takeout.Server
	owner  string
}

// wholeName is of the file in a folder of files that says that all are there.
const wholeName = "slipcover-restored.json"

// begun is what the agent keeps of files that it makes, until they are served or taken back.
type begun struct {
	Restore string         `json:"restore"`
	DB      string         `json:"db"`
	Suffix  string         `json:"suffix"`
	Files   takeout.Staged `json:"files"`
	// Old is the shard map document that is replaced, and OldSuffix what that names.
	Old       json.RawMessage `json:"old,omitempty"`
	OldSuffix string          `json:"old_suffix,omitempty"`
}

// begunPath is where it keeps them: a file for each restore and suffix.
func (c *carrying) begunPath(restore, suffix string) string {
	sum := sha256.Sum256([]byte(restore + " " + suffix))
	return filepath.Join(c.dir, "placing", hex.EncodeToString(sum[:6])+".json")
}

func (c *carrying) databaseStep(ctx context.Context) (*job.Report, error) {
	if strings.HasPrefix(c.p.As, "_") || !shard.ValidDB(c.p.As) {
		return &job.Report{Unwritten: true}, fmt.Errorf("%q is no database that is put into a cluster", c.p.As)
	}
	stamp, err := stampOf(c.p.Suffix) // of each step: names of files are made of it
	if err != nil {
		return &job.Report{Unwritten: true}, err
	}
	if c.p.Step == job.StepUndo {
		return nil, c.undo()
	}
	if c.p.Replace && !c.o.AcceptWrites {
		return &job.Report{Unwritten: c.unwritten()}, errReplaces
	}
	d, err := c.place(ctx)
	if err != nil {
		return &job.Report{Unwritten: c.unwritten()}, err
	}
	switch c.p.Step {
	case job.StepCheck:
		return nil, c.checkDatabase(ctx, d)
	case job.StepFiles:
		return c.placeFiles(ctx, d, stamp)
	case job.StepMap:
		return c.putMap(ctx, d)
	case job.StepAnswer:
		return nil, c.awaitAnswers(ctx, d)
	}
	return nil, fmt.Errorf("this agent (%s) does not know the step %q of a restore: update it to the server's version", c.o.Version, c.p.Step)
}

// unwritten reports whether no earlier job of this step can have written the map.
func (c *carrying) unwritten() bool {
	return c.p.Step == job.StepMap && c.w.job.Attempt <= 1 && !c.p.Again
}

// place finds the running node, and proves that it is the one that the plan means and that its files are here.
func (c *carrying) place(ctx context.Context) (*placing, error) {
	n, err := c.o.Locate(ctx)
	if err != nil {
		return nil, err
	}
	url := cmp.Or(c.o.CouchURL, urlOf(n))
	if url == "" {
		return nil, errors.New("this agent doesn't know where its CouchDB answers: set couch_url")
	}
	if c.o.CouchUser == "" || c.o.CouchPassword == "" {
		return nil, errors.New("this agent may not ask its CouchDB: set couch_user and couch_password to those of a server admin")
	}
	d := &placing{node: n}
	if d.server, _, err = takeout.Open(ctx, url, c.o.CouchUser, c.o.CouchPassword); err != nil {
		return nil, err
	}
	self, err := d.server.Member(ctx, n.DataDir)
	if err != nil {
		return nil, err
	}
	if self.Name != c.p.Node {
		return nil, fmt.Errorf("the CouchDB at %s is %s, and the plan's node is %s", d.server.URL, self.Name, c.p.Node)
	}
	if c.p.Replace && len(self.Nodes) > 1 {
		return nil, fmt.Errorf("it is one of %d nodes, of which some would go on answering out of the old files: restore it under another name", len(self.Nodes))
	}
	for _, other := range c.plan.Nodes {
		if !slices.Contains(self.Nodes, other.Name) {
			return nil, fmt.Errorf("%s is no node of its cluster", other.Name)
		}
		if c.p.Step != job.StepAnswer && !slices.Contains(self.Connected, other.Name) {
			return nil, fmt.Errorf("it doesn't see %s: all nodes must run", other.Name)
		}
	}
	var ok bool
	if d.owner, ok = restore.OwnerOf(filepath.Join(n.DataDir, "_dbs.couch")); !ok {
		return nil, errors.New("only root and CouchDB's own user can give it files: run the agent as one of them")
	}
	d.files = c.staged(n)
	return d, nil
}

// staged are the folders of a restore's files: others for each suffix.
func (c *carrying) staged(n *node.Node) takeout.Staged {
	sum := sha256.Sum256([]byte(c.p.Restore + " " + c.p.Suffix))
	name := placingPrefix + hex.EncodeToString(sum[:6])
	return takeout.Staged{Folder: filepath.Join(n.DataDir, name), Indexes: filepath.Join(n.IndexDir, name), Data: n.DataDir, Index: n.IndexDir}
}

const placingPrefix = ".slipcover-restore-"

// checkDatabase refuses what can't be done, and removes what an attempt before left here.
func (c *carrying) checkDatabase(ctx context.Context, d *placing) error {
	if _, _, err := c.old(ctx, d); err != nil {
		return err
	}
	if err := c.tidy(); err != nil {
		return err
	}
	o, _, done, err := c.options(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	needs, err := restore.Check(ctx, o)
	if err != nil {
		return err
	}
	c.tellNeeds(d.node.DataDir, needs)
	return room(d.node.DataDir, needs)
}

// tellNeeds says what is to be restored, and whether there is room.
func (c *carrying) tellNeeds(dir string, n *restore.Needs) {
	c.w.say("Room: %s needed in %s, %s free.", job.Amount(max(n.Bytes-n.There, 0)), dir, job.Amount(freeBytes(existing(dir))))
}

// existing is the folder itself, or the one above that is there.
func existing(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			return at
		}
	}
}

// old is the shard map document of the database that is replaced, and the suffix that it names. Without one to be replaced there
// may be none.
func (c *carrying) old(ctx context.Context, d *placing) (doc []byte, suffix string, err error) {
	doc, suffix, err = d.server.MapDocument(ctx, c.p.As)
	switch {
	case err != nil:
	case !c.p.Replace && doc != nil:
		err = fmt.Errorf("%w: %q; --as restores under another name", takeout.ErrTaken, c.p.As)
	case c.p.Replace && doc == nil:
		err = fmt.Errorf("there is no database %q that could be replaced: restore it without", c.p.As)
	}
	return doc, suffix, err
}

// tidy removes the files of attempts before that were taken back while this agent was away.
func (c *carrying) tidy() error {
	list, err := filepath.Glob(filepath.Join(c.dir, "placing", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range list {
		b := begun{}
		if _, err := durable.ReadJSON(path, &b); err != nil || b.Restore != c.p.Restore || b.Suffix == c.p.Suffix {
			continue
		}
		if err := c.takeBack(b); err != nil {
			return err
		}
	}
	return nil
}

// options are those of the restore of the files.
func (c *carrying) options(ctx context.Context, d *placing) (o restore.Options, part *restore.Part, done func(), err error) {
	part, r, done, err := c.open(ctx)
	if err != nil {
		return o, nil, nil, err
	}
	o = restore.Options{Repo: r, Part: part, To: d.files.Folder, History: restore.HistoryNew, Owner: d.owner, Parallel: c.o.Backup.Parallel, Progress: &restore.Progress{}}
	if d.files.Indexes != d.files.Folder {
		o.IndexTo = d.files.Indexes
	}
	return o, part, done, nil
}

// placeFiles restores the files beside the node's own, and gives them their names.
func (c *carrying) placeFiles(ctx context.Context, d *placing, stamp int64) (*job.Report, error) {
	old, oldSuffix, err := c.old(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := pastStamp(ctx, stamp); err != nil {
		return nil, err
	}
	o, part, done, err := c.options(ctx, d)
	if err != nil {
		return nil, err
	}
	defer done()
	report := &job.Report{}
	if part.DB.Unlike {
		report.Result = &job.Result{Notes: []string{"the copies in the backups have different security objects: all got the one that most have"}}
	}
	whole := filepath.Join(d.files.Folder, wholeName)
	_, unfinished := os.Lstat(filepath.Join(d.files.Folder, restore.MarkerName))
	if _, err := os.Lstat(whole); err != nil || unfinished == nil {
		c.w.trackRestore(o.Progress)
		b := begun{Restore: c.p.Restore, DB: c.p.As, Suffix: c.p.Suffix, Files: d.files, Old: old, OldSuffix: oldSuffix}
		o.Whole = func(*restore.Result) error { return durable.WriteJSON(whole, 0o600, b) }
		path := c.begunPath(b.Restore, b.Suffix)
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := durable.WriteJSON(path, 0o600, b); err != nil {
			return nil, err
		}
		res, err := restore.Files(ctx, o)
		if err != nil {
			return nil, err
		}
		if !res.OK() {
			return nil, fmt.Errorf("the database can't be restored whole: %s", strings.Join(res.Wrong(), "; "))
		}
		got := reportOf(res)
		got.Result.Notes = append(got.Result.Notes, notes(report)...)
		report = got
	}
	return report, d.files.Link()
}

func notes(r *job.Report) []string {
	if r.Result == nil {
		return nil
	}
	return r.Result.Notes
}

// stampOf is the second that a suffix of files stands for, as CouchDB writes it.
func stampOf(suffix string) (stamp int64, err error) {
	if _, err := fmt.Sscanf(suffix, ".%d", &stamp); err != nil || stamp <= 0 || suffix != fmt.Sprintf(".%010d", stamp) {
		return 0, fmt.Errorf("%q is no suffix of files", suffix)
	}
	return stamp, nil
}

// pastStamp waits until the second is over that the files are named by: nobody's database has that suffix then.
func pastStamp(ctx context.Context, stamp int64) error {
	over := time.Unix(stamp+1, int64(time.Millisecond))
	wait := time.Until(over)
	if wait > stampWait {
		return fmt.Errorf("the clock of this machine is %s behind that of the server: set it", wait.Round(time.Second))
	}
	if !pause(ctx, max(0, wait)) {
		return ctx.Err()
	}
	return nil
}

// putMap gives the node the shard map.
func (c *carrying) putMap(ctx context.Context, d *placing) (*job.Report, error) {
	part, _, done, err := c.open(ctx)
	if err != nil {
		return &job.Report{Unwritten: c.unwritten()}, err
	}
	defer done()
	limited, cancel := context.WithTimeout(ctx, mapTime)
	defer cancel()
	b := begun{}
	if c.p.Replace {
		if _, err := durable.ReadJSON(c.begunPath(c.p.Restore, c.p.Suffix), &b); err != nil {
			return &job.Report{Unwritten: c.unwritten()}, fmt.Errorf("what this agent kept of the files: %w", err)
		}
	}
	c.w.say("It gives CouchDB the shard map of %s.", c.p.As)
	err = d.server.PutMap(limited, c.p.As, part.DB.Map, b.OldSuffix, !c.unwritten())
	if err != nil || !c.p.Replace {
		return &job.Report{Unwritten: err != nil && !errors.Is(err, takeout.ErrUndecided)}, err
	}
	return c.replaced(ctx, d, part, b)
}

// replaced waits until the database answers with the files that took the place of others. If it doesn't, those are it again.
func (c *carrying) replaced(ctx context.Context, d *placing, part *restore.Part, b begun) (*job.Report, error) {
	err := c.answers(ctx, d, part)
	if err == nil || ctx.Err() != nil {
		note := fmt.Sprintf("the files that %s had before stay, and have what was written since: shards/*/%s%s.couch in %s; remove them when nobody needs them", c.p.As, c.p.As, b.OldSuffix, d.node.DataDir)
		return &job.Report{Result: &job.Result{Notes: []string{note}}}, err
	}
	limited, cancel := context.WithTimeout(ctx, mapTime)
	defer cancel()
	c.w.say("It doesn't answer, and gets the files that it had before.")
	if berr := d.server.PutMap(limited, c.p.As, b.Old, c.p.Suffix, true); berr != nil {
		return nil, errors.Join(err, fmt.Errorf("the shard map does not name the files from before again: %w", berr))
	}
	return &job.Report{Unwritten: true}, err
}

// awaitAnswers waits until the node has the map and answers with its shards, and removes the folders: the files have other names.
func (c *carrying) awaitAnswers(ctx context.Context, d *placing) error {
	part, _, done, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := c.answers(ctx, d, part); err != nil {
		return err
	}
	return c.forget(begun{Restore: c.p.Restore, Suffix: c.p.Suffix, Files: d.files})
}

// answers waits until the node answers with its shards of the database.
func (c *carrying) answers(ctx context.Context, d *placing, part *restore.Part) error {
	var shards []takeout.RestoredShard
	for _, s := range part.DB.Shards {
		shards = append(shards, takeout.RestoredShard{Name: s.Name, Docs: s.Docs})
	}
	c.w.say("It waits until CouchDB answers with %d shards of %s.", len(shards), c.p.As)
	limited, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return d.server.Answers(limited, c.p.As, c.p.Suffix, shards)
}

// undo takes back what this node has of a restore that came to nothing, whether its CouchDB runs or not.
func (c *carrying) undo() error {
	b := begun{}
	_, err := durable.ReadJSON(c.begunPath(c.p.Restore, c.p.Suffix), &b)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.takeBack(b)
}

// takeBack removes the names of files and the files, unless a shard map names them.
func (c *carrying) takeBack(b begun) error {
	suffix, has, err := takeout.MapInFile(b.Files.Data, b.DB)
	if err != nil {
		return err
	}
	if has && suffix == b.Suffix {
		return fmt.Errorf("%w: %q", takeout.ErrServed, b.DB)
	}
	if err := b.Files.Unlink(); err != nil {
		return err
	}
	return c.forget(b)
}

// forget removes the folders of files, and then what is kept of them.
func (c *carrying) forget(b begun) error {
	if err := b.Files.Discard(); err != nil {
		return err
	}
	if err := os.Remove(c.begunPath(b.Restore, b.Suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
