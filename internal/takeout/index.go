package takeout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/viewindex"
)

// ErrNoIndex says that a state has no index of a design document.
var ErrNoIndex = errors.New("no index of the design document was backed up")

// PlacedIndex is an index file of a shard.
type PlacedIndex struct {
	Path    string `json:"path"`              // below the index directory
	There   bool   `json:"there,omitempty"`   // it was there, and stays as it is
	Refused string `json:"refused,omitempty"` // why it isn't put there
	Behind  uint64 `json:"behind"`            // how many changes of the shard it lacks
}

// PlaceIndex puts the index files that a state has of a design document, as it was then, into the index directory of a node
// that may be running. CouchDB trusts an index that it finds, up to its sequence; so one whose shard here is another one, or
// behind it, is refused, and so is one of a shard that was set back in between: its last changes must be those that the index
// was built of. The signature is what the files are named by.
func PlaceIndex(ctx context.Context, n *serve.Node, db *serve.Database, ddoc, data, index string) (signature string, out []PlacedIndex, err error) {
	file, err := db.Find(ctx, ddoc)
	if err != nil {
		return "", nil, err
	}
	b, err := file.Doc(ddoc, couchfile.DocOptions{})
	if err != nil {
		return "", nil, err
	}
	v, err := ejson.Parse(b)
	if err != nil {
		return "", nil, err
	}
	o, _ := v.(ejson.Object)
	design, err := viewindex.ParseDesign(o)
	if err != nil {
		return "", nil, err
	}
	found := false
	for _, s := range db.Shards {
		if s.File == nil {
			continue
		}
		name, err := shard.ParsePath(s.File.Path)
		if err != nil {
			return "", nil, err
		}
		x := PlacedIndex{Path: name.ViewPath(design.Signature)}
		view, _, err := db.Index(ctx, s, design.Signature)
		if err != nil {
			return "", nil, err
		}
		if view == nil {
			x.Refused = "it was not backed up"
			out = append(out, x)
			continue
		}
		found = true
		if err := placeIndex(ctx, n, db, s, view.Header(), data, index, &x); err != nil {
			return "", nil, fmt.Errorf("%s: %w", x.Path, err)
		}
		out = append(out, x)
	}
	if !found {
		return "", nil, fmt.Errorf("%w: %s of %s, %s", ErrNoIndex, ddoc, db.Name, design.Signature)
	}
	return design.Signature, out, nil
}

func placeIndex(ctx context.Context, n *serve.Node, db *serve.Database, s *serve.Shard, head couchfile.ViewHeader, data, index string, x *PlacedIndex) error {
	target := filepath.Join(index, filepath.FromSlash(x.Path))
	if _, err := os.Lstat(target); err == nil {
		x.There = true
		return nil
	}
	was, err := db.Open(ctx, s)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(data, filepath.FromSlash(s.File.Path)))
	if errors.Is(err, fs.ErrNotExist) {
		x.Refused = "its shard is not here: the database was made anew"
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	live, err := couchfile.Open(couchfile.WithContext(ctx, f), st.Size())
	if err != nil {
		return err
	}
	if x.Refused, x.Behind, err = fits(was, live, head); err != nil || x.Refused != "" {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	err = durable.WriteNewFile(target, 0o640, func(to *os.File) error { return n.WriteIndex(ctx, x.Path, to) })
	if errors.Is(err, fs.ErrExist) { // CouchDB made it just now
		x.There = true
		return nil
	}
	return err
}

// compared is how many of the last changes that an index was built of are looked up.
const compared = 100

// fits says why an index doesn't fit the shard that is here, or "", and how many changes it lacks.
func fits(was, live *couchfile.DB, head couchfile.ViewHeader) (refused string, behind uint64, err error) {
	h := live.Header()
	info, err := live.Info()
	if err != nil {
		return "", 0, err
	}
	switch {
	case h.UUID == "" || h.UUID != was.Header().UUID:
		return "its shard has another history: it was restored or made anew", 0, nil
	case head.UpdateSeq > h.UpdateSeq:
		return fmt.Sprintf("it is ahead of its shard: update_seq %d, the shard has %d", head.UpdateSeq, h.UpdateSeq), 0, nil
	case head.PurgeSeq > info.PurgeSeq:
		return fmt.Sprintf("it is ahead of its shard: purge_seq %d, the shard has %d", head.PurgeSeq, info.PurgeSeq), 0, nil
	}
	same, err := goesOn(was, live, head)
	if err != nil {
		return "", 0, err
	}
	if !same {
		return "its shard was set back since, and went on otherwise", 0, nil
	}
	return "", h.UpdateSeq - head.UpdateSeq, nil
}

// goesOn reports whether the last changes up to an index are the same in both states of a shard.
func goesOn(was, live *couchfile.DB, head couchfile.ViewHeader) (bool, error) {
	purged := map[string]bool{}
	for p, err := range live.Purges(head.PurgeSeq) {
		if err != nil {
			return false, err
		}
		purged[p.DocID] = true
	}
	n := 0
	for d, err := range was.Changes(0, true) {
		if err != nil {
			return false, err
		}
		if d.UpdateSeq > head.UpdateSeq {
			continue
		}
		now, err := live.DocInfo(d.ID)
		switch {
		case errors.Is(err, couchfile.ErrNotFound) && purged[d.ID]: // which the index learns of the purges
		case errors.Is(err, couchfile.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case now.UpdateSeq <= head.UpdateSeq && (now.UpdateSeq != d.UpdateSeq || now.Winner().Rev != d.Winner().Rev):
			return false, nil
		}
		if n++; n == compared {
			break
		}
	}
	for d, err := range live.Changes(head.UpdateSeq-min(head.UpdateSeq, compared), false) {
		if err != nil {
			return false, err
		}
		if d.UpdateSeq > head.UpdateSeq {
			break
		}
		then, err := was.DocInfo(d.ID)
		if errors.Is(err, couchfile.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if then.UpdateSeq != d.UpdateSeq && !purged[d.ID] {
			return false, nil
		}
	}
	return true, nil
}
