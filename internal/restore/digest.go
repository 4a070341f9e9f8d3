package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/slipcover/slipcover/couchfile"
)

// digest is over the documents of a database in any order, since shards answer in
// none: the sum, modulo 2^256, of one SHA-256 for each document.
type digest struct {
	docs, deleted uint64
	sum           [4]uint64 // little-endian
}

// add adds a document: its id, its winning revision, and whether that is a deletion.
func (d *digest) add(id, rev string, deleted bool) {
	b := binary.AppendUvarint(nil, uint64(len(id)))
	b = append(append(b, id...), rev...)
	if deleted {
		d.deleted++
		b = append(b, '-')
	} else {
		d.docs++
		b = append(b, '+')
	}
	h := sha256.Sum256(b)
	var carry uint64
	for i := range d.sum {
		d.sum[i], carry = bits.Add64(d.sum[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

// addFile adds the documents of a shard of db.
func (d *digest) addFile(ctx context.Context, r io.ReaderAt, size int64, db string) error {
	f, err := couchfile.Open(couchfile.WithContext(ctx, r), size)
	if err != nil {
		return err
	}
	for doc, err := range f.Docs(couchfile.DocsOptions{Deleted: true}) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !ownDesign(db) || !couchfile.IsDesign(doc.ID) {
			d.add(doc.ID, doc.Winner().String(), doc.Deleted)
		}
	}
	return nil
}

// ownDesign reports whether the server writes design documents into a database when
// it starts: they are not the backup's.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_auth_cache.erl,
// ensure_auth_ddoc_exists.
func ownDesign(db string) bool { return slices.Contains(systemDatabases, db) }

const (
	// changesPage is how many documents one request asks for; it bounds the memory.
	changesPage = 2000
	// changesTimeout is how long one may take.
	changesTimeout = 5 * time.Minute
	// changesLimit bounds an answer, in bytes.
	changesLimit = 64 << 20
)

// changes asks a server for all documents of a database.
type changes struct {
	url, user, password string
	db                  string
}

// digest is that of all documents in the feed of changes.
func (c changes) digest(ctx context.Context) (digest, error) {
	var d digest
	for since := "0"; ; {
		var page struct {
			Results []struct {
				ID      string
				Changes []struct{ Rev string }
				Deleted bool
			}
			LastSeq json.RawMessage `json:"last_seq"`
		}
		query := fmt.Sprintf("/_changes?limit=%d&seq_interval=%d&since=%s", changesPage, changesPage, url.QueryEscape(since))
		if err := c.get(ctx, query, &page); err != nil {
			return d, err
		}
		for _, r := range page.Results {
			if len(r.Changes) != 1 {
				return d, fmt.Errorf("the server lists document %q with %d revisions", r.ID, len(r.Changes))
			}
			if !ownDesign(c.db) || !couchfile.IsDesign(r.ID) {
				d.add(r.ID, r.Changes[0].Rev, r.Deleted)
			}
		}
		if len(page.Results) == 0 {
			return d, nil
		}
		if err := json.Unmarshal(page.LastSeq, &since); err != nil {
			return d, fmt.Errorf("the server's feed of changes ends without a sequence: %w", err)
		}
	}
}

func (c changes) counts(ctx context.Context) (docs, deleted uint64, err error) {
	var info struct {
		Docs    uint64 `json:"doc_count"`
		Deleted uint64 `json:"doc_del_count"`
	}
	err = c.get(ctx, "", &info)
	return info.Docs, info.Deleted, err
}

func (c changes) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, changesTimeout)
	defer cancel()
	// CouchDB reads "+" in a path as a space, so it is escaped as in a query.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/"+url.QueryEscape(c.db)+path, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(c.user, c.password)
	resp, err := direct.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // the status is enough
		return fmt.Errorf("the server answers %s: %s", resp.Status, bytes.TrimSpace(b))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, changesLimit)).Decode(v); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
