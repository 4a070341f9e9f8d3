package contents

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/states"
)

// Databases is a page of the databases of a state.
type Databases struct {
	State
	Databases []Database `json:"databases"` // by name
	Total     int        `json:"total"`     // that begin so
	Rows      int        `json:"rows"`      // these, with those of a group as one if that was asked for
	More      bool       `json:"more"`
	// Before is when the backup before this state was begun, with which sizes are compared; missing without one.
	Before       time.Time `json:"before,omitzero"`
	BeforeBackup string    `json:"before_backup,omitempty"` // its id in the catalog
	// Dropped are those that the backup before has, and this state not any more: the first ones, by name; MoreDropped is how many
	// there are beside these.
	Dropped     []string `json:"dropped"`
	MoreDropped int      `json:"more_dropped"`
}

// Database is one of a state, or a group of some.
type Database struct {
	Name string `json:"name"`
	// Group is how many databases this row stands for, whose names all begin with Name; 0 of one database. It has no sizes but
	// those of files.
	Group     int    `json:"group,omitempty"`
	Documents uint64 `json:"documents"` // without deleted ones
	Deleted   uint64 `json:"deleted"`
	FileBytes int64  `json:"file_bytes"`
	// ActiveBytes and ExternalBytes are what CouchDB calls so: live data in the files, and documents as JSON with their attachments.
	ActiveBytes   int64 `json:"active_bytes"`
	ExternalBytes int64 `json:"external_bytes"`
	// GrewBytes is by how much its files grew since the backup before; missing if that had no such database.
	GrewBytes   *int64 `json:"grew_bytes,omitempty"`
	Shards      int    `json:"shards"`
	Missing     int    `json:"missing_shards"` // that the node didn't have: counts are of the others
	Partitioned bool   `json:"partitioned"`
	// Problem says why counts are missing.
	Problem string `json:"problem,omitempty"`
}

// DatabasesQuery says which databases.
type DatabasesQuery struct {
	At     states.State
	Prefix string
	// Group makes one row of databases whose names begin alike, see shard.GroupOf.
	Group bool
	Page
}

// LookDatabases lists the databases of a state.
var LookDatabases = newLook("databases", (*Reader).databases)

func (r *Reader) databases(ctx context.Context, of *states.Shelf, q DatabasesQuery) (*Databases, error) {
	q.fill()
	v, err := r.views.View(ctx, of, q.At)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	var names []string
	for _, n := range v.Node.Databases() {
		if strings.HasPrefix(n, q.Prefix) {
			names = append(names, n)
		}
	}
	out := &Databases{State: stateOf(v), Databases: []Database{}, Total: len(names)}
	before, err := r.before(ctx, v, out)
	if err != nil {
		return nil, err
	}
	if err := dropped(ctx, v, before, q.Prefix, out); err != nil {
		return nil, err
	}
	rows := rowsOf(names, q.Group)
	out.Rows = len(rows)
	rows, out.More = cut(rows, q.Page)
	for _, row := range rows {
		x := &Database{Name: row[0]}
		if len(row) > 1 {
			x, err = ofGroup(v, row)
		} else {
			var d *serve.Database
			if d, err = v.Node.Database(row[0]); err == nil {
				x, err = describe(ctx, v, d)
			}
		}
		if err != nil {
			return nil, fault(ctx, err)
		}
		grew, known := x.FileBytes, false
		for _, n := range row {
			was, ok := before[n]
			grew, known = grew-was, known || ok
		}
		if known {
			x.GrewBytes = &grew
		}
		out.Databases = append(out.Databases, *x)
	}
	return out, nil
}

// rowsOf makes rows of names, which are in order: of each one, or of each group.
func rowsOf(names []string, group bool) (rows [][]string) {
	members := map[string][]string{}
	for _, n := range names {
		if g := shard.GroupOf(n); g != "" && group {
			members[g] = append(members[g], n)
		}
	}
	for _, n := range names {
		switch g := members[shard.GroupOf(n)]; {
		case len(g) < shard.GroupFrom:
			rows = append(rows, []string{n})
		case g[0] == n:
			rows = append(rows, g)
		}
	}
	return rows
}

// ofGroup adds up databases by what the backup says of their files, without opening them.
func ofGroup(v *states.View, names []string) (*Database, error) {
	out := &Database{Name: shard.GroupOf(names[0]), Group: len(names)}
	for _, n := range names {
		d, err := v.Node.Database(n)
		if err != nil {
			return nil, err
		}
		out.Shards += len(d.Shards)
		for _, s := range d.Shards {
			if s.File == nil {
				out.Missing++
				continue
			}
			out.FileBytes += s.File.Size
			if h := s.File.Header; h != nil {
				out.Documents += h.Docs
				out.Deleted += h.DeletedDocs
			}
		}
	}
	return out, nil
}

// mostDropped is how many of the databases that were dropped are named.
const mostDropped = 100

// dropped finds those databases of the backup before that aren't in the state. before has the names of all whose files it has.
func dropped(ctx context.Context, v *states.View, before map[string]int64, prefix string, out *Databases) error {
	out.Dropped = []string{}
	list, err := v.Note("dropped", func() (any, error) {
		gone := []string{}
		for n := range before {
			if n == "_dbs" || n == "_nodes" { // a node's own, and of no list
				continue
			}
			if _, err := v.Node.Database(n); err != nil {
				gone = append(gone, n)
			}
		}
		slices.Sort(gone)
		if len(gone) == 0 {
			return gone, nil
		}
		_, m, err := v.Before(ctx) // there may be files in it that were no database any more
		if err != nil {
			return nil, err
		}
		node, err := serve.OpenNode(ctx, v.Repo, m)
		if err != nil {
			return nil, err
		}
		defer node.Close()
		return slices.DeleteFunc(gone, func(n string) bool {
			_, err := node.Database(n)
			return err != nil
		}), nil
	})
	if err != nil {
		return fault(ctx, err)
	}
	for _, n := range list.([]string) { //nolint:forcetypeassert // put there above
		switch {
		case !strings.HasPrefix(n, prefix):
		case len(out.Dropped) == mostDropped:
			out.MoreDropped++
		default:
			out.Dropped = append(out.Dropped, n)
		}
	}
	return nil
}

// before returns the sizes of databases' files in the backup before, by name.
func (r *Reader) before(ctx context.Context, v *states.View, out *Databases) (map[string]int64, error) {
	rec, m, err := v.Before(ctx)
	if err != nil {
		return nil, fault(ctx, err)
	}
	if rec == nil {
		return nil, nil
	}
	out.Before, out.BeforeBackup = rec.Started.UTC(), catalogID(v.Backups, rec.ID)
	sizes, err := v.Note("sizes before", func() (any, error) { return sizesOf(m), nil })
	if err != nil {
		return nil, err
	}
	return sizes.(map[string]int64), nil //nolint:forcetypeassert // put there above
}

func sizesOf(m *manifest.Manifest) map[string]int64 {
	out, files := map[string]int64{}, m.Databases()
	clustered := repo.ClusteredIn(maps.Keys(files))
	for path, f := range files {
		if clustered.Has(path) {
			out[repo.DatabaseName(path)] += f.Size
		}
	}
	return out
}

// describe says what a database has, as far as its shards are there and whole.
func describe(ctx context.Context, v *states.View, d *serve.Database) (*Database, error) {
	x, err := v.Note("database "+d.Name, func() (any, error) {
		out := Database{Name: d.Name, Shards: len(d.Shards)}
		for _, s := range d.Shards {
			if err := ctx.Err(); err != nil {
				return nil, fault(ctx, err)
			}
			if s.File == nil {
				out.Missing++
				continue
			}
			out.FileBytes += s.File.Size
			db, err := open(v, d, s)
			if err == nil {
				err = out.add(db)
			}
			if err != nil {
				if v.Life.Err() != nil {
					return nil, fault(v.Life, err) //nolint:contextcheck // which ended
				}
				out.Problem = "a part of it can't be read: " + firstLine(err)
			}
		}
		return out, nil
	})
	if err != nil {
		return nil, err
	}
	out := x.(Database) //nolint:forcetypeassert // put there above
	return &out, nil
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text[:min(len(text), 300)]
}

func (x *Database) add(db *couchfile.DB) error {
	i, err := db.Info()
	if err != nil {
		return err
	}
	x.Documents += i.DocCount
	x.Deleted += i.DeletedCount
	x.ActiveBytes += max(0, i.ActiveSize)
	x.ExternalBytes += max(0, i.ExternalSize)
	parted, err := db.Partitioned()
	x.Partitioned = x.Partitioned || parted
	return err
}

// DatabaseDetails is what there is beside the documents of a database.
type DatabaseDetails struct {
	State
	Database
	Security  json.RawMessage `json:"security"`
	Designs   int             `json:"design_documents"`
	Locals    int             `json:"local_documents"`
	Conflicts int             `json:"conflicts"` // documents with some; counted as far as Counted says
	Counted   bool            `json:"conflicts_counted"`
}

// countTime is for how long conflicts are counted.
const countTime = 4 * time.Second

// DatabaseQuery names a database of a state.
type DatabaseQuery struct {
	At states.State
	DB string
}

// LookDatabase says what there is of a database. Conflicts are counted if that is quick.
var LookDatabase = newLook("database", (*Reader).details)

func (r *Reader) details(ctx context.Context, of *states.Shelf, q DatabaseQuery) (*DatabaseDetails, error) {
	v, d, err := r.database(ctx, of, q.At, q.DB)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	x, err := describe(ctx, v, d)
	if err != nil {
		return nil, err
	}
	out := &DatabaseDetails{State: stateOf(v), Database: *x, Security: json.RawMessage("{}")}
	if err := out.beside(v, d); err != nil {
		return nil, fault(ctx, err)
	}
	counted, err := v.Note("conflicts "+q.DB, func() (any, error) {
		ctx, done, err := r.walk(ctx)
		if err != nil {
			return [2]int{}, nil
		}
		defer done()
		ctx, cancel := context.WithTimeout(ctx, countTime)
		defer cancel()
		n, whole, err := countConflicts(ctx, v, d)
		if !whole {
			return [2]int{n}, err
		}
		return [2]int{n, 1}, err
	})
	if err != nil {
		return nil, fault(ctx, err)
	}
	n := counted.([2]int) //nolint:forcetypeassert // put there above
	out.Conflicts, out.Counted = n[0], n[1] == 1
	return out, nil
}

// beside fills what is no ordinary document.
func (x *DatabaseDetails) beside(v *states.View, d *serve.Database) error {
	found := false
	for _, s := range d.Shards {
		db, err := open(v, d, s)
		if errors.Is(err, serve.ErrNoShard) {
			continue
		}
		if err != nil {
			return err
		}
		if sec, err := db.Security(); err != nil {
			return err
		} else if len(sec) > 0 && !found { // it is the same in each shard
			x.Security, found = sec, true
		}
		for info, err := range db.Docs(couchfile.DocsOptions{Start: designPrefix}) {
			if err != nil {
				return err
			}
			if !strings.HasPrefix(info.ID, designPrefix) {
				break
			}
			x.Designs++
		}
		for _, err := range db.LocalDocs("") {
			if err != nil {
				return err
			}
			if x.Locals++; x.Locals >= 100_000 {
				break
			}
		}
	}
	return nil
}

const (
	designPrefix = "_design/"
	localPrefix  = "_local/"
)

// countConflicts counts documents with conflicts, as far as it gets until ctx ends.
func countConflicts(ctx context.Context, v *states.View, d *serve.Database) (n int, whole bool, err error) {
	seen := 0
	for _, s := range d.Shards {
		db, err := open(v, d, s)
		if errors.Is(err, serve.ErrNoShard) {
			continue
		}
		if err != nil {
			return n, false, err
		}
		for info, err := range db.Docs(couchfile.DocsOptions{}) {
			if err != nil {
				return n, false, err
			}
			if len(info.Conflicts(false)) > 0 {
				n++
			}
			if seen++; seen%500 == 0 && ctx.Err() != nil {
				return n, false, nil
			}
		}
	}
	return n, true, nil
}
