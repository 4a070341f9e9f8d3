package restores

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/takeout"
)

type databaseOptions struct {
	open.Options
	open.When
	backup  string
	target  target
	as      string
	replace bool
	byHTTP  bool
	cluster string
	twins   open.Twins
	q       int
	history history
	agents  []string // NODE=AGENT, of the cluster that it goes to
	n       int
	noWait  bool
	ask     core.AskTogether
}

func newRestoreDB(env *core.Env, g *core.Global, ask core.AskTogether) *cobra.Command {
	o := &databaseOptions{ask: ask}
	c := &cobra.Command{
		Use:   "restore-db DB --to-server URL | --to-cluster NODE=AGENT,…",
		Short: "Put a database of a backup or moment back into a running CouchDB",
		Long: `Make a database of a running CouchDB out of a backup (--backup) or a moment, the newest one without either: one that was
dropped, or another one beside what is there (--as).

Where the server is the CouchDB of this machine, alone, and its data directory can be written to, the files are put beside its
own, with their indexes, and the shard map is written through it: all is there at once, and no index is built. Else the documents are written
over HTTP with their histories, conflicts, deletions and attachments, as a replication does, and the server builds indexes.
Either goes on where it was stopped when it is run again.

--cluster takes the database out of the backups of all nodes of a cluster, into any CouchDB or cluster. Over HTTP it may also
get another number of ranges (--q).

--to-cluster puts the files into a running cluster, with the agents of a server on its nodes, which must accept it
(accept_restores): all files on all nodes first, and then the shard map, once. So it is there as a whole or not at all. With
--replace it takes the place of a database of a CouchDB that is alone.

--replace puts it in the place of a database of that name, by files alone: the old one answers until the new one is there, and
its files stay and are named. CouchDB renames no database, so over HTTP restore under another name, and drop the old one first
if it must be that one.`,
		Args: core.Arguments(1, 1, "a DB"),
		RunE: core.WithSettings(env, g, func(ctx context.Context, s *core.Settings, args []string) error {
			return runRestoreDB(ctx, env, s, o, args[0])
		}),
	}
	f := c.Flags()
	o.Options.Flags(f, "whose database it is (default: the only one)")
	o.When.Flags(f)
	f.StringVar(&o.backup, "backup", "", "out of this backup: its `ID`, name, or \"latest\"")
	o.target.flags(f, "to-server", "the server: `URL`, with a user and no password")
	f.StringVar(&o.as, "as", "", "the `NAME` that it gets (default: its own)")
	f.BoolVar(&o.replace, "replace", false, "put it in the place of a database of that name, whose files stay")
	f.BoolVar(&o.byHTTP, "by-http", false, "write documents over HTTP where files could be put too")
	f.StringVar(&o.cluster, "cluster", "", "out of the newest backups of all nodes of the cluster `NAME`, or --at a time, over HTTP")
	f.StringSliceVar(&o.agents, "to-cluster", nil, "by files into a running cluster: `NODE=AGENT` for each of its nodes that gets a part")
	f.IntVar(&o.n, "n", 0, "with --to-cluster: how many nodes get a copy of each range (default: as many as had one)")
	f.BoolVar(&o.noWait, "no-wait", false, "with --to-cluster: don't wait for the end")
	o.twins.TwinsFlag(f)
	f.IntVar(&o.q, "q", 0, "over HTTP: how many ranges the database gets (default: as many as it had)")
	core.OwnFlags(f, "cluster")
	core.ServerFlags(f)
	o.history.flags(f, "a new one")
	f.String("parallel", "", "write `N` files at once (default: the number of CPUs, at most 4)")
	core.ProgressFlag(f)
	return c
}

type databaseJSON struct {
	State    string                 `json:"state"`
	Server   string                 `json:"server"`
	Database string                 `json:"database"`
	By       string                 `json:"by"`            // files or http
	Why      string                 `json:"why,omitempty"` // http
	Files    *takeout.Placed        `json:"files,omitempty"`
	HTTP     *takeout.Pushed        `json:"http,omitempty"`
	History  *restore.HistoryResult `json:"history"`
	Notes    []string               `json:"notes"`
	Took     float64                `json:"took_seconds"`
	Storage  *core.TrafficJSON      `json:"storage"`
}

// databaseRun is one restore-db.
type databaseRun struct {
	*databaseOptions
	env   *core.Env
	s     *core.Settings
	from  *source
	m     *manifest.Manifest
	state string // names what it is taken out of
	name  string // in the backup
	db    *serve.Database
	srv   *takeout.Server
	out   *databaseJSON
}

func runRestoreDB(ctx context.Context, env *core.Env, s *core.Settings, o *databaseOptions, name string) error {
	if len(o.agents) > 0 {
		return o.toCluster(ctx, env, s, name)
	}
	if o.n > 0 || o.noWait {
		return core.Usage("--n and --no-wait go with --to-cluster")
	}
	if o.target.url == "" {
		return core.Usage("restore-db needs --to-server with the URL of the server, such as http://admin@127.0.0.1:5984")
	}
	if o.backup == "" && !o.Given() {
		o.At = "now"
	}
	history, err := o.history.chosen()
	if err != nil {
		return err
	}
	began := time.Now()
	r := &databaseRun{databaseOptions: o, env: env, s: s, name: name, out: &databaseJSON{Notes: []string{}}}
	n, done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	if r.db, err = open.Database(n, name); err != nil {
		return err
	}
	for _, sh := range r.db.Shards {
		if _, err := r.db.Open(ctx, sh); err != nil {
			return fmt.Errorf("%w: what is there of a damaged database `slipcover restore --db` gives back as files", err)
		}
	}
	var db string
	if r.srv, db, err = o.target.open(ctx, env, s); err != nil {
		return err
	}
	if db != "" {
		return core.Usage("--to-server takes the URL of a server, and --as the name of the database")
	}
	r.out.Server, r.out.Database = r.srv.URL, name
	if o.as != "" {
		r.out.Database = o.as
	}
	if err := r.run(ctx, history); err != nil {
		return core.WhenStopped(ctx, err, "the same command goes on with it")
	}
	env.Done("the database %s was restored", r.out.Database)
	r.out.Took = core.Seconds(time.Since(began))
	if env.JSON {
		r.out.Storage = env.TrafficJSON()
		err = core.PrintJSON(env.Stdout, r.out)
	} else {
		err = r.out.print(env.Stdout)
	}
	if err == nil && r.out.HTTP != nil && len(r.out.HTTP.Refused) > 0 {
		d := r.out.HTTP.Refused[0]
		err = core.Say(core.ErrProblem, "the server refused %s, such as %s: %s", core.Count(len(r.out.HTTP.Refused), "revision"), core.Clean(d.ID), core.Clean(d.Reason))
	}
	return err
}

// open opens what the database is taken out of.
func (r *databaseRun) open(ctx context.Context) (n *serve.Node, done func(), err error) {
	o := r.databaseOptions
	if o.cluster != "" {
		if o.backup != "" || o.Instance != "" || o.replace || o.history.keep {
			return nil, nil, core.Usage("--cluster is for the backups of all its nodes, and goes over HTTP: leave out --backup, --instance, --replace and --keep-history")
		}
		n, r.out.State, _, done, err = open.ClusterNode(ctx, r.env, r.s, o.cluster, &o.twins, &o.When)
		if err == nil {
			ids := make([]string, 0, len(n.Members))
			for _, m := range n.Members {
				ids = append(ids, string(m.ID)+" "+m.Finished.String())
			}
			r.state = strings.Join(ids, " ")
		}
		return n, done, err
	}
	if err := o.twins.Alone(); err != nil {
		return nil, nil, err
	}
	from, err := openSource(ctx, r.env, r.s, o.Instance, o.backup, &o.When)
	if err != nil {
		return nil, nil, err
	}
	r.from, r.m = from, from.made
	if r.m == nil {
		r.m, err = from.repo.Manifest(ctx, from.rec)
	}
	if err == nil {
		n, err = serve.OpenNode(ctx, from.repo.Repo, r.m)
	}
	if err != nil {
		from.repo.Close()
		return nil, nil, err
	}
	r.state, r.out.State = r.m.Instance+" "+string(r.m.ID), "backup "+from.rec.ID.Short()
	if from.moment != nil {
		r.out.State = open.MomentText(from.moment.At, from.zone)
	}
	return n, func() {
		n.Close()
		from.repo.Close()
	}, nil
}

// run restores by files if that can be, and else over HTTP.
func (r *databaseRun) run(ctx context.Context, history restore.History) error {
	local, why, err := r.ownNode(ctx)
	if err != nil {
		return err
	}
	if local != nil {
		r.out.By = "files"
		err := r.byFiles(ctx, local, history)
		if !errors.Is(err, takeout.ErrStale) {
			return err
		}
		if err := r.removeStaged(local); err != nil {
			return err
		}
		return r.byFiles(ctx, local, history)
	}
	r.out.By, r.out.Why = "http", why
	switch {
	case r.replace:
		return core.Usage("--replace is for files, and the documents have to go over HTTP (%s), where CouchDB can't give a database another's name: restore it with --as, or drop the old one first", why)
	case r.history.keep:
		return core.Usage("--keep-history is for files, and the documents have to go over HTTP (%s): the server gives sequences of its own", why)
	}
	p := &takeout.Progress{}
	stop := core.StartProgress(r.env, r.s.Progress, "restoring", core.TakeoutReading(p))
	defer stop()
	state := sha256.Sum256([]byte(r.state + " " + r.name))
	r.out.HTTP, err = takeout.Push(ctx, takeout.PushOptions{Server: r.srv, DB: r.out.Database, From: r.db, Q: r.q, State: hex.EncodeToString(state[:16]), Progress: p})
	r.out.History = restore.MadeAnew()
	if err == nil && r.out.HTTP.LeftOut > 0 {
		r.out.Notes = append(r.out.Notes, core.Count(r.out.HTTP.LeftOut, "local document")+" did not come along: these belong to a server, as checkpoints do")
	}
	return err
}

// localNode is the server's node, whose files are here.
type localNode struct {
	*node.Node
	owner string
}

// ownNode returns the server's node if files can be put there, and else why not.
func (r *databaseRun) ownNode(ctx context.Context) (n *localNode, why string, err error) {
	switch {
	case r.byHTTP || r.q > 0:
		return nil, "as asked", nil
	case r.cluster != "":
		return nil, "out of a cluster's backups", nil
	}
	at, err := node.Locate(ctx, node.Options{URL: r.srv.URL, User: r.srv.User(), Password: r.srv.Password(), Getenv: func(string) string { return "" }})
	if err != nil {
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		return nil, "its data is not found here", nil //nolint:nilerr // it goes another way
	}
	own, why, err := r.srv.OwnData(ctx, at.DataDir)
	if err != nil || !own {
		return nil, why, err
	}
	owner, ok := restore.OwnerOf(filepath.Join(at.DataDir, "_dbs.couch"))
	if !ok {
		return nil, "only root and CouchDB's own user can give it files", nil
	}
	return &localNode{at, owner}, "", nil
}

// staged is the folder in a node's data where its new files are made: one for each state and name.
func (r *databaseRun) staged(root string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %v %v", r.m.Instance, r.m.ID, r.name, r.out.Database, r.history.keep, r.history.begin))
	return filepath.Join(root, ".slipcover-restore-"+hex.EncodeToString(sum[:6]))
}

// removeStaged removes the folders, that of the indexes first: whatever is left when it is killed, another run goes on with.
func (r *databaseRun) removeStaged(n *localNode) error {
	return errors.Join(durable.RemoveAll(r.staged(n.IndexDir)), durable.RemoveAll(r.staged(n.DataDir)))
}

// restoredName is of the file that says what was restored into the folder, once that is whole.
const restoredName = "slipcover-restored.json"

func (r *databaseRun) byFiles(ctx context.Context, n *localNode, history restore.History) error {
	staged, indexes := r.staged(n.DataDir), r.staged(n.IndexDir)
	res := &restore.Result{}
	_, err := durable.ReadJSON(filepath.Join(staged, restoredName), res)
	_, unfinished := os.Lstat(filepath.Join(staged, restore.MarkerName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && unfinished == nil { // the marker was still to go
		res, err = r.makeFiles(ctx, n, staged, indexes, history)
	}
	if err != nil {
		return err
	}
	r.out.History = res.History
	for _, d := range res.Dropped {
		r.out.Notes = append(r.out.Notes, "the index "+d.Path+" is built anew: "+d.Reason)
	}
	r.out.Files, err = takeout.Place(ctx, takeout.Placement{Server: r.srv, DB: r.out.Database, From: r.db, Staged: staged, Indexes: indexes,
		Data: n.DataDir, Index: n.IndexDir, Replace: r.replace})
	if err != nil {
		return err
	}
	if r.out.Files.OldSuffix != "" {
		r.out.Notes = append(r.out.Notes, "what was written to the old database stays in its files alone; CouchDB's views may follow its design documents for a minute")
	}
	return r.removeStaged(n)
}

// makeFiles restores the files into their folder.
func (r *databaseRun) makeFiles(ctx context.Context, n *localNode, staged, indexes string, history restore.History) (*restore.Result, error) {
	if _, err := os.Lstat(staged); errors.Is(err, fs.ErrNotExist) { // what a removal left that was killed
		if err := r.removeStaged(n); err != nil {
			return nil, err
		}
	}
	if !r.replace {
		taken, err := r.srv.Exists(ctx, r.out.Database)
		if err != nil {
			return nil, err
		}
		if taken {
			return nil, fmt.Errorf("%w: %q; --as restores under another name, --replace in its place", takeout.ErrTaken, r.out.Database)
		}
	}
	// Creation stamps are seconds, and the server may be removing files of a database that it made in this one.
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Until(time.Now().Truncate(time.Second).Add(1001 * time.Millisecond))):
	}
	p := &restore.Progress{}
	stop := core.StartProgress(r.env, r.s.Progress, "restoring", core.RestoreReading(p))
	defer stop()
	o := restore.Options{Repo: r.from.repo.Repo, Record: r.from.rec, Moment: r.from.made, To: staged, Databases: []string{r.name},
		As: r.as, NodeName: n.NodeName, History: history, Tell: tellComesBack(r.env), Owner: n.owner, Parallel: r.s.Parallel, Progress: p}
	if indexes != staged {
		o.IndexTo = indexes
	}
	o.Whole = func(res *restore.Result) error {
		if !res.OK() {
			return core.Say(core.ErrProblem, "the database can't be restored whole: %s; `slipcover restore --db` gives what is there as files", strings.Join(res.Wrong(), "; "))
		}
		return durable.WriteJSON(filepath.Join(staged, restoredName), 0o600, res)
	}
	res, err := restore.Files(ctx, o)
	stop()
	if errors.Is(err, core.ErrProblem) {
		err = errors.Join(err, r.removeStaged(n))
	}
	return res, err
}

func (x *databaseJSON) print(w io.Writer) error {
	how := "by files"
	if x.HTTP != nil {
		how = "over HTTP (" + x.Why + "), " + core.Count(x.HTTP.Revisions, "revision") + " written"
	}
	fmt.Fprintf(w, "restored %s of %s to %s, %s, in %s\n", core.Clean(x.Database), x.State, x.Server+"/"+url.PathEscape(x.Database), how, core.Took(time.Duration(x.Took*float64(time.Second))))
	compared := 0
	switch {
	case x.HTTP != nil:
		compared = x.HTTP.Compared
		if x.HTTP.Continued {
			fmt.Fprintln(w, "went on with a restore that was not finished")
		}
	case x.Files != nil:
		compared = x.Files.Compared
	}
	if compared > 0 {
		fmt.Fprintf(w, "it answers with as many documents as were backed up, and with the revisions of %s that were looked up\n", core.Count(compared, "document"))
	}
	if x.Files != nil && x.Files.OldSuffix != "" {
		fmt.Fprintln(w, "the files of the old database stay, until you remove them:")
		for _, f := range x.Files.OldFiles {
			fmt.Fprintf(w, "  %s\n", f)
		}
	}
	if x.History != nil {
		fmt.Fprintln(w, x.History)
	}
	for _, n := range x.Notes {
		fmt.Fprintf(w, "note: %s\n", core.Clean(n))
	}
	return nil
}
