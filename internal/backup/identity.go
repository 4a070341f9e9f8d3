package backup

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/state"
)

// kinSample is how many shards are opened to see whether they are those of the backup
// before.
const kinSample = 64

// recognize refuses to back up another CouchDB than the one that the instance's
// backups are of: the wrong files, fresh ones in a directory whose disk isn't mounted,
// or another node under the same name. With TakeOver it makes a full backup instead.
func (r *run) recognize(ctx context.Context, st *state.State, l *node.Listing, before beforeFunc) error {
	var name string
	if r.identity, name = state.Identify(r.opts.Node); r.nodeName == "" {
		r.nodeName = name
	}
	if err := r.checkServed(ctx); err != nil {
		return err
	}
	err := r.checkWriter(ctx, st, name, before)
	if err == nil && st != nil {
		err = r.checkKin(st, l)
	}
	return r.admit(err)
}

// admit lets TakeOver pass by a refusal.
func (r *run) admit(err error) error {
	if !errors.Is(err, ErrOtherNode) || !r.opts.TakeOver {
		return err
	}
	r.tookOver = true
	r.note(fmt.Sprintf("the instance was taken over, so this is a full backup: %v", err))
	return nil
}

// checkKin refuses files that have nothing in common with the backup before, or, where
// the shard map is another file, less than half of the shards. The same map beside other
// shards is that of a node whose shards were not there when it started: CouchDB made
// empty ones at their places.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_util.erl, get_or_create_db.
func (r *run) checkKin(st *state.State, l *node.Listing) error {
	was := identityOf(st)
	shards := 0
	for _, k := range st.Files {
		if k.File.Kind == manifest.Shard {
			shards++
		}
	}
	common := r.common(st, l)
	mapsDiffer := was.MapUUID != "" && r.identity.MapUUID != ""
	serversDiffer := was.ServerUUID != "" && r.identity.ServerUUID != "" && was.ServerUUID != r.identity.ServerUUID
	switch {
	case was.MapUUID != "" && was.MapUUID == r.identity.MapUUID && (common > 0 || !r.shared(st, l)):
		return nil
	case common > 0 && (!mapsDiffer || common*2 >= shards):
		return nil
	case shards == 0 && !mapsDiffer && !serversDiffer:
		return nil
	}
	return fmt.Errorf(`%w: what is in %s (%s, %s) has %d of %d shards in common with backup %s of %s (%s, %s). `+
		`If its disk is not mounted, mount it; if this is another CouchDB, give this one a name of its own with the setting instance; if it has really replaced the one before, run this once with --take-over`,
		ErrOtherNode, r.opts.Node.DataDir, databases(countListed(l)), mapText(r.identity), common, shards, st.Summary.ID.Short(), r.opts.Instance, databases(st.Summary.DatabaseCount), mapText(was))
}

// identityOf is who a state's backup is of. The shard map is among its files also
// where the record says nothing.
func identityOf(st *state.State) manifest.Identity {
	id := st.Summary.Identity
	if k := st.Files[capture.Name{Root: manifest.DataRoot, Path: state.MapFile}]; k != nil && k.File.Header != nil {
		id.MapUUID = k.File.Header.UUID
	}
	return id
}

// shared reports whether a shard is at a path where the backup before had one too, of
// which the uuid is known.
func (r *run) shared(st *state.State, l *node.Listing) bool {
	return slices.ContainsFunc(l.Shards, func(e node.Entry) bool {
		k := st.Files[capture.Name{Root: e.Root, Path: e.Path}]
		return k != nil && k.File.Header != nil && k.File.Header.UUID != ""
	})
}

// madeAnew is what is damaged about a shard that is another file than in the backup
// before. Its name has the time at which its database was made, so the database was not
// deleted and made again: CouchDB did not find the shard's file and made an empty one.
// It is told until a full backup takes it as it is.
const madeAnew = "shard made anew"

// checkUUID finds a shard that is another file than in the backup before.
func (r *run) checkUUID(f, old *manifest.File) (found []manifest.Damage) {
	if f.Kind != manifest.Shard || old.Header == nil || old.Header.UUID == "" || f.Header.UUID == "" {
		return nil
	}
	if f.Header.UUID == old.Header.UUID {
		for _, d := range r.oldDamage[capture.Name{Root: f.Root, Path: f.Path}] {
			if d.What == madeAnew {
				found = append(found, d)
			}
		}
		return found
	}
	if shard.SameOrigin(f.Header.UUID, old.Header.UUID) { // a restore gave it a new history
		return nil
	}
	return []manifest.Damage{{What: madeAnew, Error: fmt.Sprintf(
		"it is another file (uuid %.8s) than in the backup before (%.8s), of the same database: CouchDB makes an empty shard where it doesn't find the file. It holds %d documents, and held %d. If that is right, run a full backup",
		f.Header.UUID, old.Header.UUID, f.Header.Docs, old.Header.Docs)}}
}

// common counts the shards at paths that the backup before had too, and returns 0 if
// those looked into are other files, by their uuids: nodes of one cluster have shards of
// the same paths.
func (r *run) common(st *state.State, l *node.Listing) int {
	n, looked, same := 0, 0, false
	for i := range l.Shards {
		e := &l.Shards[i]
		k := st.Files[capture.Name{Root: e.Root, Path: e.Path}]
		if k == nil {
			continue
		}
		n++
		if same || looked == kinSample || k.File.Header == nil || k.File.Header.UUID == "" {
			continue
		}
		h, err := state.FileHeader(r.opts.Node.Path(e))
		same = err == nil && shard.SameOrigin(h.UUID, k.File.Header.UUID)
		looked++
	}
	if !same {
		return 0
	}
	return n
}

// checkWriter refuses to go on where another one has backed up under the instance's
// name: while this node does so too, or if it is not surely the same node.
func (r *run) checkWriter(ctx context.Context, st *state.State, nodeName string, before beforeFunc) error {
	mine := manifest.BackupID("")
	if st != nil {
		mine = st.Summary.ID
	}
	rec, err := before(ctx, mine)
	if err == nil && rec == nil && st == nil {
		rec, err = r.newest(ctx)
	}
	if err != nil || rec == nil {
		return err
	}
	r.before = rec
	me, err := state.WriterKey(r.opts.StateDir)
	if err != nil {
		return err
	}
	own := rec.Writer == "" || rec.Writer == base64.StdEncoding.EncodeToString(me.Public().(ed25519.PublicKey))
	agrees := r.identity.Agrees(rec.Identity) && (nodeName == "" || rec.NodeName == "" || nodeName == rec.NodeName)
	differs := rec.Identity.MapUUID != "" && r.identity.MapUUID != "" && !agrees
	switch {
	case own && (st != nil || !differs):
		if _, err := os.Stat(journalPath(r.dir)); st != nil && errors.Is(err, fs.ErrNotExist) { // with it, a run ended before it stored its state
			r.note(fmt.Sprintf("backup %s was made with this node's key, and after %s, the last one that the state here knows: this machine or its state directory was set back, or there is a copy of it. A copy that still backs up needs another instance name",
				rec.ID.Short(), mine.Short()))
		}
		return nil
	case st == nil && agrees:
		r.note(fmt.Sprintf("backup %s was made with another state directory, of the same node by its shard map: it goes on here. If that directory is still used, the next backup with it is refused: use one", rec.ID.Short()))
		return nil
	case st != nil:
		return fmt.Errorf(`%w: %s was backed up from here last as %s, and since then from elsewhere: %s. Two nodes must not write under one name: `+
			`give each a name of its own with the setting instance, or end the other one's backups and run this once with --take-over`, ErrOtherNode, r.opts.Instance, mine.Short(), writerText(rec))
	}
	return fmt.Errorf(`%w: the newest backup of %s is of another CouchDB, or nothing shows that it is of this one: %s; this is node %s, %s. `+
		`If this is another CouchDB, give this one a name of its own with the setting instance; if it replaces that one, run this once with --take-over`,
		ErrOtherNode, r.opts.Instance, writerText(rec), orUnknown(nodeName), mapText(r.identity))
}

// newest returns the newest record of the instance by the listing, nil if there is none.
func (r *run) newest(ctx context.Context) (*manifest.Record, error) {
	recs, _, err := r.opts.Repo.List(ctx, r.opts.Instance)
	if err != nil || len(recs) == 0 {
		return nil, err
	}
	return recs[len(recs)-1], nil
}

// writerText says of a record who made it, and when.
func writerText(rec *manifest.Record) string {
	return fmt.Sprintf("%s of %s, node %s, %s, %s, signed with %.8s…", rec.ID.Short(), rec.Started.UTC().Format(time.RFC3339), orUnknown(rec.NodeName),
		databases(rec.DatabaseCount), mapText(rec.Identity), rec.Writer)
}

func mapText(id manifest.Identity) string {
	text := state.MapFile + " unknown"
	if id.MapUUID != "" {
		text = fmt.Sprintf("%s %.8s", state.MapFile, id.MapUUID)
	}
	if id.ServerUUID != "" {
		text += fmt.Sprintf(", server %.8s", id.ServerUUID)
	}
	return text
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func databases(n int) string {
	if n == 1 {
		return "1 database"
	}
	return fmt.Sprintf("%d databases", n)
}

func countListed(l *node.Listing) int {
	seen := map[string]bool{}
	for _, e := range l.Shards {
		seen[e.DB+e.Suffix] = true
	}
	return len(seen)
}

// checkServed refuses files that a server, asked for their place, doesn't serve: it
// may run in a container, where the same path is another directory.
func (r *run) checkServed(ctx context.Context) error {
	n := r.opts.Node
	s := n.Served
	if s == nil || r.identity.MapUUID == "" {
		return nil
	}
	refuse := func(why string) error {
		return fmt.Errorf("%w: the files in %s are not those that the server at %s serves: %s. Is it in a container? Pass --data-dir, the place of its data on this machine", ErrOtherNode, n.DataDir, s.URL, why)
	}
	if s.MapUUID != "" {
		if s.MapUUID != r.identity.MapUUID {
			return refuse(fmt.Sprintf("its shard map is %.8s, and _dbs.couch there is %.8s", s.MapUUID, r.identity.MapUUID))
		}
		return nil
	}
	named, err := r.databaseNames(ctx)
	if err != nil { // the copy tells it
		return nil
	}
	system := func(db string) bool { return strings.HasPrefix(db, "_") } // every CouchDB has those
	served := slices.DeleteFunc(slices.Clone(s.Databases), system)
	named = slices.DeleteFunc(named, system)
	if len(served)+len(named) == 0 || slices.ContainsFunc(served, func(db string) bool { return slices.Contains(named, db) }) {
		return nil
	}
	return refuse(fmt.Sprintf("it has %s (%s), and the shard map there %s (%s), none of them the same", databases(len(served)), joinShort(served), databases(len(named)), joinShort(named)))
}

// databaseNames reads the names of databases in the node's shard map.
func (r *run) databaseNames(ctx context.Context) ([]string, error) {
	f, err := os.Open(filepath.Join(r.opts.Node.DataDir, state.MapFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	maps, _, err := couchMaps(ctx, f, info.Size())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range maps {
		out = append(out, m.DB)
	}
	slices.Sort(out)
	return out, nil
}

// judge tells what the files that were copied say of each other and of the backup
// before: a shard map that is missing or knows little of what is there is damage, and so
// are databases that went away with their map. What else went away is noted.
func (r *run) judge(l *node.Listing) {
	f := r.files[capture.Name{Root: manifest.DataRoot, Path: state.MapFile}]
	if f == nil && len(l.Shards) > 0 {
		r.damaged(capture.Name{Root: manifest.DataRoot, Path: state.MapFile}, manifest.Damage{What: "shard map", Error: r.whyNoMap(l)})
	}
	if f != nil && r.maps != nil {
		r.judgeOrphans(l)
	}
	other := r.wasMap != "" && (f == nil || f.Header != nil && f.Header.UUID != r.wasMap)
	gone := r.goneDatabases()
	switch {
	case len(gone) > 0 && other:
		r.damaged(capture.Name{Root: manifest.DataRoot, Path: "shards"}, manifest.Damage{What: "databases", Error: fmt.Sprintf(
			"%s of the backup before went away, and not by being deleted, since the shard map is not the file that it was: %s. Is all of the data mounted?", databases(len(gone)), joinShort(gone))})
	case len(gone) > 0:
		r.note("deleted since the backup before: " + joinShort(gone))
	case other && f != nil:
		r.note("the shard map, _dbs.couch, is another file than in the backup before")
	}
	r.noteIndexes(l)
}

// whyNoMap says what stands in place of _dbs.couch.
func (r *run) whyNoMap(l *node.Listing) string {
	path := filepath.Join(r.opts.Node.DataDir, state.MapFile)
	what := "it is missing"
	if to, err := os.Readlink(path); err == nil {
		what = fmt.Sprintf("it is a link to %s, where nothing is (is its disk mounted?)", to)
	} else if i := slices.IndexFunc(r.leftOut, func(o manifest.LeftOut) bool { return o.Root == manifest.DataRoot && o.Path == state.MapFile }); i >= 0 {
		what = r.leftOut[i].Reason
	}
	return fmt.Sprintf("%s. Without it CouchDB shows none of the %s here", strings.TrimSuffix(what, "."), databases(countListed(l)))
}

// judgeOrphans says which shards no map names: databases deleted just now, or files
// left behind. They are in the backup, and CouchDB doesn't see them. If they are most
// of what is there, it is the map that is wrong.
func (r *run) judgeOrphans(l *node.Listing) {
	named := map[string]bool{}
	for _, m := range r.maps {
		named[m.DB+m.Suffix] = true
	}
	orphans := map[string]bool{} // and whether a file of it is still there
	for i := range l.Shards {
		e := &l.Shards[i]
		if db := e.DB + e.Suffix; !named[db] && r.files[capture.Name{Root: e.Root, Path: e.Path}] != nil && !orphans[db] {
			_, err := os.Stat(r.opts.Node.Path(e))
			orphans[db] = err == nil
		}
	}
	if len(orphans) == 0 {
		return
	}
	still := 0
	for _, there := range orphans {
		if there {
			still++
		}
	}
	list := slices.Sorted(maps.Keys(orphans))
	if still > len(named) {
		r.damaged(capture.Name{Root: manifest.DataRoot, Path: state.MapFile}, manifest.Damage{What: "shard map", Error: fmt.Sprintf(
			"it names %s, and %d more are here that CouchDB won't show: %s. Was it made anew because CouchDB did not find its own?", databases(len(named)), still, joinShort(list))})
		return
	}
	r.note("in the backup, but in no shard map, so CouchDB won't show them: " + joinShort(list))
}

// goneDatabases lists the databases of the backup before of which no file is there
// any more.
func (r *run) goneDatabases() []string {
	have := map[string]bool{}
	for nm, f := range r.files {
		if db, ok := databaseOf(nm, f); ok {
			have[db] = true
		}
	}
	gone := map[string]bool{}
	for nm, old := range r.old { // what is left in it was not found
		if db, ok := databaseOf(nm, old.File); ok && !have[db] {
			gone[db] = true
		}
	}
	for _, m := range r.maps { // still in the map: its shards are missing, and told as that
		delete(gone, m.DB+m.Suffix)
	}
	return slices.Sorted(maps.Keys(gone))
}

// databaseOf returns the database that a file is a shard of, with its suffix.
func databaseOf(nm capture.Name, f *manifest.File) (string, bool) {
	if f.Kind != manifest.Shard {
		return "", false
	}
	n, err := shard.ParsePath(nm.Path)
	return n.DB + n.Suffix, err == nil
}

// noteIndexes says that all indexes went away, or that their directory isn't there: it
// is on a disk that isn't mounted, or CouchDB is building them anew.
func (r *run) noteIndexes(l *node.Listing) {
	n := r.opts.Node
	if !r.opts.Indexes || len(l.Views) > 0 || len(l.Shards) == 0 {
		return
	}
	had := 0
	for _, old := range r.old {
		if old.File.Kind == manifest.View {
			had++
		}
	}
	_, err := os.Stat(n.IndexDir)
	switch {
	case had > 0:
		r.note(fmt.Sprintf("no view index is in %s, and the backup before had %d: if couchdb/view_index_dir is on a disk of its own, check that it is mounted. CouchDB builds them anew", n.IndexDir, had))
	case n.IndexDir != n.DataDir && errors.Is(err, fs.ErrNotExist):
		r.note(fmt.Sprintf("couchdb/view_index_dir is %s, which is not there: if there are indexes, check that its disk is mounted", n.IndexDir))
	}
}

// scanTries bounds how often a node is scanned again because its shard map was just
// being swapped by a compaction.
const scanTries = 3

// scan lists the files of the node.
func scan(ctx context.Context, opts *Options) (*node.Listing, error) {
	path := filepath.Join(opts.Node.DataDir, state.MapFile)
	for try := 1; ; try++ {
		l, err := opts.Node.Scan(ctx, node.ScanOptions{Indexes: opts.Indexes})
		if err != nil {
			return nil, err
		}
		if len(l.Shards)+len(l.System) == 0 {
			return nil, fmt.Errorf("%w: %s holds no .couch files; is it couchdb/database_dir?", ErrNothing, opts.Node.DataDir)
		}
		if try == scanTries || slices.ContainsFunc(l.System, func(e node.Entry) bool { return e.Path == state.MapFile }) || !capture.Swapping(path) {
			return l, nil
		}
	}
}
