package serve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/shard"
)

// HasIndexes says that the node has an index of some database.
func (n *Node) HasIndexes() bool { return len(n.indexes) > 0 }

// Signatures are those of the indexes that a shard has files of, sorted.
func (d *Database) Signatures(s *Shard) []string {
	if s.File == nil {
		return nil
	}
	var out []string
	for path := range d.node.indexes {
		owner, signature, ok := shard.CutView(path)
		if ok && strings.TrimPrefix(owner, ".")+".couch" == s.File.Path {
			out = append(out, signature)
		}
	}
	slices.Sort(out)
	return out
}

// Index returns the index of a shard's views that has a signature, as viewindex.Design has it, and how many bytes its file has;
// nil if none is there, or none that has a header. It is read for as long as the context lasts that opened it first.
func (d *Database) Index(ctx context.Context, s *Shard, signature string) (v *couchfile.View, size int64, err error) {
	if s.File == nil {
		return nil, 0, nil
	}
	path := "." + strings.TrimSuffix(s.File.Path, ".couch") + "_design/mrview/" + signature + ".view"
	f := d.node.indexes[path]
	if f == nil || f.Header == nil {
		return nil, 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.indexes[path]; v != nil {
		return v, f.Size, nil
	}
	r := d.node.reader(f).ReaderAt(ctx, f)
	raw, err := couchfile.ReadHeader(r, f.Size, f.Header.Offset)
	if err == nil {
		v, err = couchfile.OpenViewAt(r, f.Size, raw)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	if s.indexes == nil {
		s.indexes = map[string]*couchfile.View{}
	}
	s.indexes[path] = v
	return v, f.Size, nil
}
