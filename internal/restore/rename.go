package restore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// renaming gives this node another name in restored _dbs.couch and _nodes.couch, which
// are written anew with the documents that they hold. Each document keeps its revision
// unless it changes; deleted ones and local ones are left out.
type renaming struct {
	self *shard.Self
	to   string
}

// renaming returns nil if the shard maps know this node by the name that it is to have,
// and if the repository can't give them back, which is a problem: all else is restored.
func (p *planner) renaming(ctx context.Context) (*renaming, error) {
	if p.opts.NodeName == "" {
		return nil, nil
	}
	f := p.databases[dbsPath]
	if f == nil || f.Header == nil {
		return nil, fmt.Errorf("%w, so there is nothing to give the node's name to: restore without --node-name", ErrNoShardMap)
	}
	rd := p.opts.Repo.NewReader(p.m, nil)
	defer rd.Close()
	all, err := readMaps(ctx, rd.ReaderAt(ctx, f), f.Size, p.m, p.opts.NodeName)
	damaged := len(rd.DamagedSegments()) > 0
	switch {
	case repo.Damaged(err), damaged && errors.Is(err, couchfile.ErrCorrupt), damaged && err == nil && len(all.problems) > 0:
		p.res.problem("the shard maps (%s) can't be read back, so the name %s was not written into them: with --db and --node-name, a restore makes the maps of databases anew", dbsPath, p.opts.NodeName)
		return nil, nil
	case err != nil:
		return nil, err
	case len(all.problems) > 0:
		return nil, fmt.Errorf("the shard maps can't be rewritten for %s: %s: restore without --node-name", p.opts.NodeName, all.problems[0])
	}
	n := &renaming{self: all.self, to: p.opts.NodeName}
	for _, m := range all.list {
		if n.from(m.Map) != "" {
			return n, nil
		}
	}
	return nil, nil
}

// from returns the name in m that is to be replaced, or "".
func (n *renaming) from(m shard.Map) string {
	if _, known := m.ByNode[n.to]; known {
		return ""
	}
	return n.self.As(m)
}

// rewrite writes the node's name into a whole _dbs.couch or _nodes.couch that was just
// restored, and returns its new size.
func (n *renaming) rewrite(ctx context.Context, f *os.File, size int64, path string) (int64, error) {
	change := n.dbsDoc
	if path == nodesPath {
		change = n.nodesDoc
	}
	return rewrite(ctx, f, size, path, n.to, change, func() []newDoc { return nil })
}

// rewrite writes a whole node-local database of size bytes anew, for the node to: each
// document as change returns it, and then those of rest. It returns its new size.
func rewrite(ctx context.Context, f *os.File, size int64, path, to string, change func(id string, doc []byte) (newDoc, error), rest func() []newDoc) (int64, error) {
	if err := rewriteDocs(ctx, f, size, to, change, rest); err != nil {
		return 0, fmt.Errorf("write %s for the node %s: %w", path, to, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	rep, err := couchfile.Verify(ctx, f, info.Size(), couchfile.VerifyOptions{})
	if err != nil {
		return 0, err
	}
	if len(rep.Findings) > 0 {
		return 0, fmt.Errorf("%s that was written for the node %s does not read back: %s", path, to, rep.Findings[0])
	}
	return info.Size(), nil
}

// newDoc is what becomes of a document.
type newDoc struct {
	id     string // "" if it goes
	body   []byte // nil if it stays as it is
	parent string // revision that it follows; "" is the one that it has, if its id stays
}

func (n *renaming) dbsDoc(id string, doc []byte) (newDoc, error) {
	m, ok, err := shard.ParseMap(doc)
	if err != nil {
		return newDoc{}, err
	}
	from := ""
	if ok {
		from = n.from(m)
	}
	if from == "" {
		return newDoc{id: id}, nil
	}
	body, err := renameNode(doc, from, n.to)
	return newDoc{id: id, body: body}, err
}

// nodesDoc gives this node's document its new id; the other nodes keep theirs.
func (n *renaming) nodesDoc(id string, doc []byte) (newDoc, error) {
	if id != n.self.Name {
		return newDoc{id: id}, nil
	}
	return newDoc{id: n.to, body: doc}, nil
}

// renameNode replaces a node in a shard map document.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_bdu.erl, validate: by_node and by_range must
// mirror each other.
func renameNode(doc []byte, from, to string) ([]byte, error) {
	var d map[string]json.RawMessage
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, err
	}
	var byNode map[string]json.RawMessage
	var byRange map[string][]any
	var changes [][]any // such as ["add", range, node]; a split's have numbers too
	parts := map[string]any{"by_node": &byNode, "by_range": &byRange, "changelog": &changes}
	for key, v := range parts {
		if d[key] == nil {
			delete(parts, key)
		} else if err := json.Unmarshal(d[key], v); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	byNode[to] = byNode[from]
	delete(byNode, from)
	for _, list := range slices.Concat(slices.Collect(maps.Values(byRange)), changes) {
		for i, s := range list {
			if s == from {
				list[i] = to
			}
		}
	}
	for key, v := range parts {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		d[key] = b
	}
	return json.Marshal(d)
}

// rewriteDocs writes the documents of a node-local database of size bytes anew, into
// the same file: first beside it, so that it never needs all of them in memory.
func rewriteDocs(ctx context.Context, f *os.File, size int64, node string, change func(id string, doc []byte) (newDoc, error), rest func() []newDoc) (err error) {
	db, err := couchfile.Open(f, size)
	if err != nil {
		return err
	}
	temp, err := os.OpenFile(durable.TempPath(filepath.Join(filepath.Dir(f.Name()), "rewritten")), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Close(), os.Remove(temp.Name())) }()
	uuid := make([]byte, 16)
	_, _ = rand.Read(uuid) // it never fails
	// MD5, since CouchDB before 3.4 knows no other; and of the version that it is of, since an
	// older CouchDB opens no newer one.
	opts := couchgen.Options{NodeName: node, NodeLocal: true, UUID: hex.EncodeToString(uuid), Checksum: couchgen.MD5,
		DiskVersion: db.Header().DiskVersion}
	if opts.Security, err = securityOf(db); err != nil {
		return err
	}
	g, err := couchgen.Create(temp, opts)
	if err != nil {
		return err
	}
	n := 0
	for info, err := range db.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := putDoc(g, db, info, change); err != nil {
			return fmt.Errorf("document %q: %w", info.ID, err)
		}
		if n++; n%1000 == 0 {
			if err := g.Commit(); err != nil {
				return err
			}
		}
	}
	for _, d := range rest() {
		if err := putNew(g, d); err != nil {
			return fmt.Errorf("document %q: %w", d.id, err)
		}
		if n++; n%1000 == 0 {
			if err := g.Commit(); err != nil {
				return err
			}
		}
	}
	if err := g.Commit(); err != nil {
		return err
	}
	return replaceBytes(f, temp)
}

// securityOf returns the security object of db, or nil if it has none yet.
func securityOf(db *couchfile.DB) (couchgen.Object, error) {
	if db.Header().SecurityPtr < 0 {
		return nil, nil
	}
	b, err := db.Security()
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, err
	}
	out := couchgen.Object{}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		out = append(out, couchgen.Member{Key: key, Value: members[key]})
	}
	return out, nil
}

func replaceBytes(f, by *os.File) error {
	if _, err := by.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(f, by)
	return err
}

// putDoc writes one document, changed or as it is.
func putDoc(g *couchgen.Generator, db *couchfile.DB, info *couchfile.DocInfo, change func(id string, doc []byte) (newDoc, error)) error {
	win := info.Winner()
	doc, err := db.RevisionJSON(info, win, couchfile.DocOptions{})
	if err != nil {
		return err
	}
	to, err := change(info.ID, doc)
	if err != nil || to.id == "" {
		return err
	}
	switch {
	case to.body == nil: // as it is
		_, id, _ := strings.Cut(win.Rev.String(), "-")
		put := couchgen.Doc{ID: to.id, RevID: id}
		if win.Rev.Pos > 1 {
			put.Parent = fmt.Sprintf("%d-%032x", win.Rev.Pos-1, 0)
		}
		if put.Body, err = bodyOf(doc); err == nil {
			_, err = g.Put(put)
		}
		return err
	case to.id == info.ID && to.parent == "": // the next revision, so that the cluster's other nodes take it
		to.parent = win.Rev.String()
	}
	return putNew(g, to)
}

// putNew writes a document that has changed.
func putNew(g *couchgen.Generator, d newDoc) error {
	body, err := bodyOf(d.body)
	if err != nil {
		return err
	}
	_, err = g.Put(couchgen.Doc{ID: d.id, Body: body, Parent: d.parent})
	return err
}

// bodyOf takes _id, _rev and the like off a document.
func bodyOf(doc []byte) (json.RawMessage, error) {
	var d map[string]json.RawMessage
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, err
	}
	maps.DeleteFunc(d, func(key string, _ json.RawMessage) bool { return strings.HasPrefix(key, "_") })
	return json.Marshal(d)
}
