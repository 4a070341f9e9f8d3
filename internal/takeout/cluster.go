package takeout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/shard"
)

// A database comes into a running cluster by files in steps, each of which may be done again: on every node its files get their
// names, under a suffix that the cluster never had; then one node is given the shard map, which internal replication of _dbs
// brings to the others; then each node is asked for what it has. A node that learns of a map makes the shards that it lacks, empty,
// so no map is written before all nodes have their files.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_shards.erl, create_if_missing.

var (
	// ErrOtherData says that a server's files are not those that were named.
	ErrOtherData = errors.New("the files are not that server's")
	// ErrUndecided says that it isn't known whether a shard map was written.
	ErrUndecided = errors.New("it is not known whether the shard map was written")
	// ErrServed says that a shard map names the files.
	ErrServed = errors.New("the shard map of the database names these files")
)

// Member is what a node says of itself and its cluster.
type Member struct {
	Name      string   // such as couchdb@db1.example
	Nodes     []string // of the cluster
	Connected []string // those that it sees now, itself too
}

// Member asks a server which node it is, and proves that a data directory is its own, by the uuid of its _dbs.couch. It returns ErrOtherData.
func (s *Server) Member(ctx context.Context, data string) (*Member, error) {
	var self struct{ Name string }
	if err := s.call(ctx, http.MethodGet, "/_node/_local", nil, &self); err != nil {
		return nil, err
	}
	var seen struct {
		All     []string `json:"all_nodes"`
		Cluster []string `json:"cluster_nodes"`
	}
	if err := s.call(ctx, http.MethodGet, "/_membership", nil, &seen); err != nil {
		return nil, err
	}
	own, reason, err := s.sameData(ctx, data)
	if err == nil && !own {
		err = fmt.Errorf("%w: %s", ErrOtherData, reason)
	}
	return &Member{Name: self.Name, Nodes: seen.Cluster, Connected: seen.All}, err
}

// MapDocument returns the shard map document of a database and the suffix that it names; nil if the server has none.
func (s *Server) MapDocument(ctx context.Context, db string) (doc []byte, suffix string, err error) {
	m, err := s.mapOf(ctx, db)
	if m == nil || err != nil {
		return nil, "", err
	}
	doc, err = json.Marshal(m.doc)
	return doc, m.suffix, err
}

// MapInFile reports whether the shard maps in a data directory have one of a database, and which suffix that names, whether its server
// runs or not.
func MapInFile(data, db string) (suffix string, has bool, err error) {
	f, err := os.Open(filepath.Join(data, "_dbs.couch"))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", false, err
	}
	file, err := couchfile.Open(f, st.Size())
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", f.Name(), err)
	}
	info, err := file.DocInfo(db)
	if err != nil || info == nil || info.Winner().Deleted {
		if errors.Is(err, couchfile.ErrNotFound) {
			err = nil
		}
		return "", false, err
	}
	doc, err := file.Bodies().RevisionJSON(info, info.Winner(), couchfile.DocOptions{})
	if err != nil {
		return "", false, err
	}
	m, ok, err := shard.ParseMap(doc)
	return m.Suffix, ok, err
}

// Staged are the files of a database's node that are to get their names there: shards and .shards below folders beside the
// data of the node.
type Staged struct {
	Folder  string `json:"folder"`  // with shards
	Indexes string `json:"indexes"` // with .shards; may be the same
	Data    string `json:"data"`    // couchdb/database_dir
	Index   string `json:"index"`   // couchdb/view_index_dir
}

// Link gives the files their names, on the disk. A name that another file has is ErrStale.
func (f *Staged) Link() error {
	if err := link(f.Folder, "shards", f.Data); err != nil {
		return err
	}
	return link(f.Indexes, ".shards", f.Index)
}

// Unlink takes back the names that Link gave, on the disk. What has another file by now stays.
func (f *Staged) Unlink() error {
	if err := unlink(f.Folder, "shards", f.Data); err != nil {
		return err
	}
	return unlink(f.Indexes, ".shards", f.Index)
}

// Discard removes the folders.
func (f *Staged) Discard() error {
	return errors.Join(os.RemoveAll(f.Folder), os.RemoveAll(f.Indexes))
}

// unlink is the opposite of link. Folders that are empty then, and have the name of a file's index, go too.
func unlink(staged, folder, to string) error {
	var dirs []string
	err := filepath.WalkDir(filepath.Join(staged, folder), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(staged, path)
		if err != nil {
			return err
		}
		full := filepath.Join(to, rel)
		if e.IsDir() {
			dirs = append(dirs, full)
			return nil
		}
		a, aerr := os.Lstat(path)
		b, berr := os.Lstat(full)
		if aerr != nil || berr != nil || !os.SameFile(a, b) {
			return nil
		}
		return os.Remove(full)
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if folder == ".shards" && strings.HasSuffix(d, "_design") || filepath.Base(d) == "mrview" {
			_ = os.Remove(d) // if nothing is in it
		}
		if info, err := os.Stat(d); err != nil || !info.IsDir() {
			continue // it never came to be, or is gone
		}
		if err := durable.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// PutMap writes the shard map of a database through the server, and waits as long as ctx allows where that doesn't answer. It takes the place
// of one that names the suffix was; without that there may be none. When before is set, an earlier call may have written it. Its error is
// ErrUndecided if the map may be written, or come to be; any other one says that none was.
func (s *Server) PutMap(ctx context.Context, db string, doc []byte, was string, before bool) error {
	want, err := parseMapDoc(doc)
	if err != nil {
		return err
	}
	delete(want.doc, "_rev")
	undecided := before
	for wait := firstWait; ; wait = min(2*wait, 5*time.Second) {
		err := s.putMap(ctx, db, want, was)
		if err == nil {
			return nil
		}
		var refused *notAskedError
		undecided = undecided || !errors.As(err, &refused)
		if errors.Is(err, ErrTaken) || errors.Is(err, errGone) {
			return err
		}
		if status := statusOf(err); status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
			now, merr := s.mapOf(ctx, db)
			switch {
			case merr != nil:
			case now == nil:
				return fmt.Errorf("write the shard map: %w", err)
			case now.suffix == want.suffix:
				return nil
			case now.suffix != was:
				return madeMeanwhile(db)
			}
		}
		if serr := sleep(ctx, wait); serr != nil {
			if undecided {
				err = fmt.Errorf("%w: %w", ErrUndecided, err)
			}
			return err
		}
	}
}

// errGone says that the map isn't there that was to be replaced.
var errGone = errors.New("write the shard map: the database is gone")

func madeMeanwhile(db string) error {
	return fmt.Errorf("%w: %q, which somebody has made meanwhile", ErrTaken, db)
}

// notAskedError is of a server that was not even asked to write.
type notAskedError struct{ error }

func (e *notAskedError) Unwrap() error { return e.error }

// putMap tries once.
func (s *Server) putMap(ctx context.Context, db string, want *mapDoc, was string) error {
	if was != "" {
		now, err := s.mapOf(ctx, db)
		switch {
		case err != nil:
			return &notAskedError{err}
		case now == nil:
			return errGone
		case now.suffix == want.suffix:
			return nil
		case now.suffix != was:
			return madeMeanwhile(db)
		}
		want.doc["_rev"] = now.doc["_rev"]
	}
	body, err := json.Marshal(want.doc)
	if err != nil {
		return &notAskedError{err}
	}
	err = s.once(ctx, http.MethodPut, mapPath(db), body, nil)
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		return &notAskedError{err}
	}
	return err
}

// Answers waits, as long as ctx allows, until the server's node has the shard map of a database with a suffix, and opens its own
// shards of it, each with as many documents as it was restored with, or more.
func (s *Server) Answers(ctx context.Context, db, suffix string, shards []RestoredShard) error {
	for wait := firstWait; ; wait = min(2*wait, 2*time.Second) {
		err := s.answersNow(ctx, db, suffix, shards)
		if err == nil || errors.Is(err, ErrTaken) {
			return err
		}
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

func (s *Server) answersNow(ctx context.Context, db, suffix string, shards []RestoredShard) error {
	var raw json.RawMessage
	err := s.once(ctx, http.MethodGet, mapPath(db), nil, &raw)
	if statusOf(err) == http.StatusNotFound {
		return fmt.Errorf("the shard map of %q has not come to this node", db)
	}
	if err != nil {
		return err
	}
	m, err := parseMapDoc(raw)
	if err != nil {
		return err
	}
	if m.suffix != suffix {
		return madeMeanwhile(db)
	}
	for _, sh := range shards {
		problem, err := s.checkShard(ctx, "_local", sh)
		if err != nil {
			return err
		}
		if problem != "" {
			return fmt.Errorf("the shard %s: %s", sh.Name.Range, problem)
		}
	}
	return nil
}

// FileUUID returns the uuid of a database's file.
func FileUUID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	raw, err := couchfile.FindHeader(f, st.Size())
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	h, err := couchfile.ParseHeader(raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return h.UUID, nil
}
