package cluster

import (
	"context"
	"errors"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// Copies reads the copies of shards that the backups hold.
type Copies struct {
	readers []*repo.Reader
	files   []map[string]*manifest.File
}

// Copies returns what reads the members' copies; Close ends it.
func (c *Cluster) Copies(r *repo.Repo) *Copies {
	out := &Copies{}
	for i := range c.Members {
		m := &c.Members[i]
		out.readers = append(out.readers, m.in(r).NewSharing(m.Manifest))
		out.files = append(out.files, m.Manifest.Databases())
	}
	return out
}

// Close ends the reading of all copies.
func (k *Copies) Close() {
	for _, rd := range k.readers {
		rd.Close()
	}
}

// File returns a shard's file in the backup of one member, nil if it has none.
func (k *Copies) File(member int, name shard.Name) *manifest.File {
	return k.files[member][name.Path()]
}

// Open opens the copy of a shard in the backup of one member; done closes it.
func (k *Copies) Open(ctx context.Context, member int, name shard.Name) (db *couchfile.DB, done func(), err error) {
	f := k.File(member, name)
	if f == nil || f.Header == nil {
		return nil, nil, errors.New("the backup holds none that can be read")
	}
	file, err := k.readers[member].Database(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	if db, err = couchfile.OpenOffset(couchfile.WithContext(ctx, file), file.Size, file.Header); err != nil {
		file.Close()
		return nil, nil, err
	}
	return db, file.Close, nil
}
