package takeout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/shard"
)

// RestoredNode is what a node must have of a cluster that came back.
type RestoredNode struct {
	Name   string
	Shards []RestoredShard
}

// RestoredShard is a file that it must have opened.
type RestoredShard struct {
	Name shard.Name
	// Docs is how many documents it had, deleted ones too; there may be more by now, which other copies brought.
	Docs uint64
}

// RestoredDB is what was found of a database.
type RestoredDB struct {
	Name     string   `json:"name"`
	Shards   int      `json:"shards"` // copies that answer as they were restored
	Problems []string `json:"problems"`
}

// Restored is what was found of a cluster.
type Restored struct {
	Databases []RestoredDB `json:"databases"` // sorted
	Problems  []string     `json:"problems"`  // of the nodes
	// Maintenance are the nodes that are in maintenance mode, and Opened those that were taken out of it.
	Maintenance []string `json:"maintenance"`
	Opened      []string `json:"opened"`
}

// OK says that all is as it was restored.
func (r *Restored) OK() bool {
	return len(r.Problems) == 0 && !slices.ContainsFunc(r.Databases, func(d RestoredDB) bool { return len(d.Problems) > 0 })
}

// checksAtOnce is how many shards are asked for at once.
const checksAtOnce = 16

// CheckRestored asks the nodes of a cluster, through one of them, whether they are those that a plan names and no others,
// and have each map and each shard as restored. It works while they are in maintenance mode. maps are the databases.
//
// Source: CouchDB 3.5, src/chttpd/src/chttpd_node.erl, which passes requests on to any node of the cluster.
func (s *Server) CheckRestored(ctx context.Context, nodes []RestoredNode, maps []shard.Map) (*Restored, error) {
	out := &Restored{Databases: []RestoredDB{}, Problems: []string{}, Maintenance: []string{}, Opened: []string{}}
	if err := s.checkMembers(ctx, nodes, out); err != nil || len(out.Problems) > 0 {
		return out, err
	}
	found := map[string]*RestoredDB{}
	for _, m := range maps {
		found[m.DB] = &RestoredDB{Name: m.DB, Problems: []string{}}
	}
	for _, n := range nodes {
		if err := s.checkNode(ctx, n, maps, found, out); err != nil {
			return out, err
		}
	}
	for _, m := range maps {
		out.Databases = append(out.Databases, *found[m.DB])
	}
	return out, nil
}

// checkMembers holds the nodes that see each other against the plan's.
func (s *Server) checkMembers(ctx context.Context, nodes []RestoredNode, out *Restored) error {
	var seen struct {
		All     []string `json:"all_nodes"`
		Cluster []string `json:"cluster_nodes"`
	}
	if err := s.call(ctx, http.MethodGet, "/_membership", nil, &seen); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, n := range nodes {
		want[n.Name] = true
		if !slices.Contains(seen.All, n.Name) {
			out.Problems = append(out.Problems, n.Name+" is not connected: start it, with the cookie of the others")
		}
	}
	for _, name := range slices.Concat(seen.All, seen.Cluster) {
		if !want[name] {
			want[name] = true
			out.Problems = append(out.Problems, name+" is none of the plan's nodes and is in this cluster: if it is one of the original, stop the restored nodes now, give them another cookie and restore them again")
		}
	}
	return nil
}

func nodePath(node string, parts ...string) string {
	return "/_node/" + url.PathEscape(node) + "/" + strings.Join(parts, "/")
}

// checkNode looks at the maps and shards of one node.
func (s *Server) checkNode(ctx context.Context, n RestoredNode, maps []shard.Map, found map[string]*RestoredDB, out *Restored) error {
	var mode string
	err := s.call(ctx, http.MethodGet, nodePath(n.Name, "_config", "couchdb", "maintenance_mode"), nil, &mode)
	if err != nil && statusOf(err) != http.StatusNotFound {
		return err
	}
	if mode == "true" || mode == "nolb" {
		out.Maintenance = append(out.Maintenance, n.Name)
	}
	if err := s.checkMaps(ctx, n.Name, maps, found); err != nil {
		return err
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(checksAtOnce)
	for _, sh := range n.Shards {
		g.Go(func() error {
			problem, err := s.checkShard(gctx, n.Name, sh)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			d := found[sh.Name.DB]
			if problem == "" {
				d.Shards++
			} else {
				d.Problems = append(d.Problems, fmt.Sprintf("%s on %s: %s", sh.Name.Range, n.Name, problem))
			}
			return nil
		})
	}
	return g.Wait()
}

// checkMaps holds a node's shard maps against those that were restored.
func (s *Server) checkMaps(ctx context.Context, node string, maps []shard.Map, found map[string]*RestoredDB) error {
	left := map[string]shard.Map{}
	for _, m := range maps {
		left[m.DB] = m
	}
	start := ""
	for {
		var page struct {
			Rows []struct {
				ID  string
				Doc json.RawMessage
			}
		}
		path := nodePath(node, "_dbs", "_all_docs") + "?include_docs=true&limit=" + fmt.Sprint(pageDocs)
		if start != "" {
			key, err := json.Marshal(start)
			if err != nil {
				return err
			}
			path += "&skip=1&startkey=" + url.QueryEscape(string(key))
		}
		if err := s.call(ctx, http.MethodGet, path, nil, &page); err != nil {
			return err
		}
		for _, row := range page.Rows {
			start = row.ID
			want, ok := left[row.ID]
			if !ok {
				continue
			}
			delete(left, row.ID)
			got, _, err := shard.ParseMap(row.Doc)
			if err != nil || got.Suffix != want.Suffix || !sameRanges(got, want) {
				d := found[row.ID]
				d.Problems = append(d.Problems, "the shard map on "+node+" is not the one that was restored")
			}
		}
		if len(page.Rows) < pageDocs {
			break
		}
	}
	for db := range left {
		found[db].Problems = append(found[db].Problems, node+" has no shard map of it")
	}
	return nil
}

// checkShard says what is wrong with a shard, "" if nothing.
func (s *Server) checkShard(ctx context.Context, node string, sh RestoredShard) (string, error) {
	var info struct {
		Docs    uint64 `json:"doc_count"`
		Deleted uint64 `json:"doc_del_count"`
	}
	err := s.once(ctx, http.MethodGet, nodePath(node, escape(sh.Name.String())), nil, &info)
	var f *failure
	switch {
	case errors.As(err, &f) && f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden:
		return f.Error(), nil
	case err != nil:
		return "", err
	case info.Docs+info.Deleted < sh.Docs:
		return fmt.Sprintf("it has %d documents, deleted ones too, and was restored with %d", info.Docs+info.Deleted, sh.Docs), nil
	}
	return "", nil
}

func sameRanges(a, b shard.Map) bool {
	if len(a.ByNode) != len(b.ByNode) {
		return false
	}
	for node, ranges := range b.ByNode {
		has := slices.Clone(a.ByNode[node])
		slices.SortFunc(has, shard.Range.Compare)
		want := slices.SortedFunc(slices.Values(ranges), shard.Range.Compare)
		if !slices.Equal(has, want) {
			return false
		}
	}
	return true
}

// Remade says why a database is not the one that was restored, "" if nothing says so: it was deleted since, or deleted and
// made again. suffix is that of its shards.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3.erl, shard_creation_time, which takes the suffix for the instance_start_time; before
// 3.3 that is always "0".
func (s *Server) Remade(ctx context.Context, db, suffix string) (string, error) {
	var info struct {
		Start string `json:"instance_start_time"`
	}
	err := s.call(ctx, http.MethodGet, dbPath(db), nil, &info)
	switch {
	case statusOf(err) == http.StatusNotFound:
		return "the server has no such database any more", nil
	case err != nil:
		return "", err
	}
	if was := strings.TrimPrefix(suffix, "."); was != "" && info.Start != "" && info.Start != "0" && info.Start != was {
		return "it was deleted and made again since it was restored", nil
	}
	return "", nil
}

// OpenNodes takes nodes out of maintenance mode, one after the other, and has them bring the copies of each database together:
// what copies tried of it meanwhile did not reach security objects.
//
// Source: CouchDB 3.5, src/mem3/src/mem3_httpd.erl, handle_sync_req; tried on three nodes.
func (s *Server) OpenNodes(ctx context.Context, r *Restored) error {
	for _, name := range r.Maintenance {
		if err := s.call(ctx, http.MethodPut, nodePath(name, "_config", "couchdb", "maintenance_mode"), []byte(`"false"`), nil); err != nil {
			return fmt.Errorf("take %s out of maintenance mode: %w", name, err)
		}
		r.Opened = append(r.Opened, name)
	}
	if len(r.Opened) == 0 {
		return nil
	}
	for _, d := range r.Databases {
		if err := s.call(ctx, http.MethodPost, dbPath(d.Name, "_sync_shards"), nil, nil); err != nil {
			return fmt.Errorf("bring the copies of %s together: %w", d.Name, err)
		}
	}
	return nil
}
