package takeout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/shard"
)

// ErrStale says that the files of a Placement may have been served and deleted meanwhile: they must be made anew, under another
// suffix.
var ErrStale = errors.New("these files were in the server before")

// Placement is a database whose files lie in a folder beside the data of the node that is to serve them, as restore writes
// chosen databases: shards, .shards, and shard-maps.
type Placement struct {
	Server  *Server
	DB      string // its name there
	From    *serve.Database
	Staged  string // the folder
	Indexes string // that of the indexes; may be the same
	Data    string // couchdb/database_dir
	Index   string // couchdb/view_index_dir
	Replace bool   // a database of that name
}

// Placed is what became of a Placement.
type Placed struct {
	Suffix string `json:"suffix"`
	// OldSuffix is that of the files that were served before, which stay; "" if none were.
	OldSuffix string   `json:"old_suffix,omitempty"`
	OldFiles  []string `json:"old_files,omitempty"`
	Compared  int      `json:"compared"` // documents of a sample, which the server has
}

// OwnData reports whether a data directory is that of the server, by the uuid of its _dbs.couch, and of this server alone.
// The reason says why not.
func (s *Server) OwnData(ctx context.Context, data string) (own bool, reason string, err error) {
	var members struct {
		All     []string `json:"all_nodes"`
		Cluster []string `json:"cluster_nodes"`
	}
	if err := s.call(ctx, http.MethodGet, "/_membership", nil, &members); err != nil {
		return false, "", err
	}
	if len(members.All) > 1 || len(members.Cluster) > 1 {
		return false, "the server is one of a cluster's", nil
	}
	return s.sameData(ctx, data)
}

// sameData reports whether a data directory is that of the server, and if not, why not.
func (s *Server) sameData(ctx context.Context, data string) (own bool, reason string, err error) {
	var info struct{ UUID string }
	if err := s.call(ctx, http.MethodGet, "/_node/_local/_dbs", nil, &info); err != nil {
		return false, "", err
	}
	f, err := os.Open(filepath.Join(data, "_dbs.couch"))
	if err != nil {
		return false, "its data can't be read here", nil //nolint:nilerr // it goes another way
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, "", err
	}
	raw, err := couchfile.FindHeader(f, st.Size())
	if err != nil {
		return false, "", fmt.Errorf("%s: %w", f.Name(), err)
	}
	h, err := couchfile.ParseHeader(raw)
	if err != nil || h.UUID == "" || h.UUID != info.UUID {
		return false, "what is in " + data + " is another CouchDB's", nil //nolint:nilerr // it goes another way
	}
	return true, "", nil
}

// mapDoc is a shard map document, and the suffix that it names.
type mapDoc struct {
	suffix string
	doc    map[string]json.RawMessage
}

func parseMapDoc(b []byte) (*mapDoc, error) {
	parsed, _, err := shard.ParseMap(b)
	if err != nil {
		return nil, err
	}
	m := &mapDoc{suffix: parsed.Suffix}
	return m, json.Unmarshal(b, &m.doc)
}

func mapPath(db string) string { return "/_node/_local/_dbs/" + escape(db) }

// mapOf returns the shard map of a database, nil if there is none.
func (s *Server) mapOf(ctx context.Context, db string) (*mapDoc, error) {
	var raw json.RawMessage
	err := s.call(ctx, http.MethodGet, mapPath(db), nil, &raw)
	if statusOf(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseMapDoc(raw)
}

// putMarker is written into the folder before the server is told of the files. It has the suffix of those that they replace.
const putMarker = "slipcover-served"

// Place gives a server files: first these get their names beside those that it has, under a suffix that it never had, and then
// the shard map names them. It answers with them from then on. With Replace the old files stay, and the map names them again
// if the server doesn't answer with the new ones. Whatever ends it, another call goes on.
func Place(ctx context.Context, p Placement) (*Placed, error) {
	b, err := os.ReadFile(filepath.Join(p.Staged, "shard-maps", url.QueryEscape(p.DB)+".json"))
	if err != nil {
		return nil, err
	}
	want, err := parseMapDoc(b)
	if err != nil {
		return nil, fmt.Errorf("the shard map that was made of %s: %w", p.DB, err)
	}
	out := &Placed{Suffix: want.suffix}
	old, err := p.Server.mapOf(ctx, p.DB)
	if err != nil {
		return nil, err
	}
	was, err := os.ReadFile(filepath.Join(p.Staged, putMarker))
	told := err == nil
	switch {
	case old != nil && old.suffix == out.Suffix && told: // and it was stopped then
		if out.OldSuffix = string(was); len(was) > 0 {
			out.OldFiles = p.filesOf(out.OldSuffix)
		}
		out.Compared, err = p.Server.compareDatabase(ctx, p.DB, p.From)
		return out, err
	case told || old != nil && old.suffix == out.Suffix:
		return nil, ErrStale
	case old != nil && !p.Replace:
		return nil, fmt.Errorf("%w: %q; --as restores under another name, --replace in its place", ErrTaken, p.DB)
	}
	if err := link(p.Staged, "shards", p.Data); err != nil {
		return nil, err
	}
	if err := link(p.Indexes, ".shards", p.Index); err != nil {
		return nil, err
	}
	if old != nil {
		want.doc["_rev"] = old.doc["_rev"]
		out.OldSuffix, out.OldFiles = old.suffix, p.filesOf(old.suffix)
	}
	err = durable.WriteFile(filepath.Join(p.Staged, putMarker), 0o600, func(f *os.File) error {
		_, err := f.WriteString(out.OldSuffix)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := p.Server.call(ctx, http.MethodPut, mapPath(p.DB), want.doc, nil); err != nil {
		if now, merr := p.Server.mapOf(ctx, p.DB); merr != nil || now == nil || now.suffix != out.Suffix { // the answer may have been lost
			return nil, fmt.Errorf("write the shard map: %w", err)
		}
	}
	if out.Compared, err = p.Server.compareDatabase(ctx, p.DB, p.From); err == nil || ctx.Err() != nil || old == nil {
		return out, err
	}
	return nil, errors.Join(err, p.back(ctx, old, want))
}

// back makes the map name the old files again, unless the database isn't the one any more that was put there.
func (p *Placement) back(ctx context.Context, old, put *mapDoc) error {
	now, err := p.Server.mapOf(ctx, p.DB)
	switch {
	case err != nil:
	case now == nil:
		err = errors.New("the shard map is gone")
	case now.suffix != put.suffix:
		err = errors.New("the database is another one now")
	}
	if err == nil {
		old.doc["_rev"] = now.doc["_rev"]
		err = p.Server.call(ctx, http.MethodPut, mapPath(p.DB), old.doc, nil)
	}
	if err != nil {
		return fmt.Errorf("the shard map does not name the old files again: %w", err)
	}
	return errors.New("the database is the one that it was before")
}

// link gives the files below a folder their names below another one, on the disk. Folders that it makes belong to
// whom the files' own do.
func link(staged, folder, to string) error {
	var dirs []string
	err := filepath.WalkDir(filepath.Join(staged, folder), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // there are no indexes
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
			err := durable.Mkdir(full, 0o750)
			if err == nil {
				err = giveLike(full, path)
			}
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			dirs = append(dirs, full)
			return nil
		}
		err = os.Link(path, full)
		if errors.Is(err, fs.ErrExist) { // of a run that was stopped
			a, aerr := os.Lstat(path)
			b, berr := os.Lstat(full)
			if aerr == nil && berr == nil && os.SameFile(a, b) {
				return nil
			}
			return fmt.Errorf("%w: %s is there already", ErrStale, full)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := durable.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// filesOf are the shard files of the database with a suffix, by their paths.
func (p *Placement) filesOf(suffix string) []string {
	list, _ := filepath.Glob(filepath.Join(p.Data, "shards", "*")) // the pattern is right
	var out []string
	for _, d := range list {
		rg, err := shard.ParseRange(filepath.Base(d))
		if err != nil {
			continue
		}
		path := filepath.Join(p.Data, filepath.FromSlash(shard.Name{Range: rg, DB: p.DB, Suffix: suffix}.Path()))
		if _, err := os.Lstat(path); err == nil {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// sampled is how many documents of each end of a shard are looked up at the server.
const sampled = 25

// compareDatabase holds a database against the state that it was made of: it has as many documents, or more if somebody
// writes already, and knows the revisions of a sample.
func (s *Server) compareDatabase(ctx context.Context, name string, from *serve.Database) (compared int, err error) {
	ask := map[string][]string{}
	var docs uint64
	for _, sh := range from.Shards {
		db, err := from.Open(ctx, sh)
		if err != nil {
			return 0, err
		}
		info, err := db.Info()
		if err != nil {
			return 0, err
		}
		docs += info.DocCount + info.DeletedCount
		for _, descending := range []bool{false, true} {
			n := 0
			for d, err := range db.Docs(couchfile.DocsOptions{Deleted: true, Descending: descending}) {
				if err != nil {
					return 0, err
				}
				if ask[d.ID] = []string{d.Winner().String()}; n == sampled {
					break
				}
				n++
			}
		}
	}
	err = s.again(ctx, func() error {
		var lacks map[string]json.RawMessage
		var info struct {
			Docs    uint64 `json:"doc_count"`
			Deleted uint64 `json:"doc_del_count"`
		}
		if err := s.once(ctx, http.MethodGet, dbPath(name), nil, &info); err != nil {
			if statusOf(err) == http.StatusNotFound { // its cache of shard maps follows
				err = fmt.Errorf("%w: it does not know %q yet", ErrUnavailable, name)
			}
			return err
		}
		if err := s.call(ctx, http.MethodPost, dbPath(name, "_revs_diff"), ask, &lacks); err != nil {
			return err
		}
		if len(lacks) > 0 || info.Docs+info.Deleted < docs {
			return fmt.Errorf("%w with what was restored: of %d documents, deleted ones too, it has %d, and it lacks %d of a sample of %d",
				ErrUnavailable, docs, info.Docs+info.Deleted, len(lacks), len(ask))
		}
		return nil
	})
	return len(ask), err
}
