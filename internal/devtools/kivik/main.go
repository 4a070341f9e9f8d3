// Command kivik reads databases of a CouchDB with the client go-kivik, and prints what it read, a line of JSON for each
// thing.
//
//	kivik URL DB...
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-kivik/kivik/v4"
	_ "github.com/go-kivik/kivik/v4/couchdb"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := read(ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func say(db, what string, v any) {
	b, err := json.Marshal([]any{db, what, v})
	if err != nil {
		b = []byte(err.Error())
	}
	fmt.Printf("%s\n", b)
}

// failure is what the client makes of an error.
func failure(err error) any { return []any{kivik.HTTPStatus(err), fmt.Sprint(err)} }

func read(ctx context.Context, url string, dbs []string) error {
	c, err := kivik.New("couch", url)
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := c.AllDBs(ctx)
	if err != nil {
		return err
	}
	say("", "AllDBs", slices.DeleteFunc(all, func(n string) bool { return !slices.Contains(dbs, n) }))
	version, err := c.Version(ctx)
	if err != nil {
		return err
	}
	say("", "Version", version.Version)
	session, err := c.Session(ctx)
	if err != nil {
		return err
	}
	say("", "Session", []any{session.Name, session.Roles})
	up, err := c.Ping(ctx)
	if err != nil {
		return err
	}
	say("", "Ping", up)
	exists, err := c.DBExists(ctx, "nosuch")
	say("", "DBExists", []any{exists, err})
	_, err = c.DB("nosuch").Stats(ctx)
	say("", "Stats of no database", failure(err))
	for _, name := range dbs {
		if err := readDB(ctx, c.DB(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// row is a row of a list or view.
type row struct {
	ID, Key    string
	Value, Doc json.RawMessage
}

// rows reads all rows, and what they have of values and documents: the client has no word for what isn't there.
func rows(rs *kivik.ResultSet, values, docs bool) ([]row, error) {
	var out []row
	for r, err := range rs.Iterator() {
		if err != nil {
			return nil, err
		}
		one := row{}
		one.ID, _ = r.ID() // rows of _find have none
		key, _ := r.Key()
		one.Key = string(key)
		if values {
			if err := r.ScanValue(&one.Value); err != nil {
				return nil, err
			}
		}
		if docs {
			if err := r.ScanDoc(&one.Doc); err != nil {
				return nil, err
			}
		}
		out = append(out, one)
	}
	return out, nil
}

func readDB(ctx context.Context, db *kivik.DB) error {
	stats, err := db.Stats(ctx)
	if err != nil {
		return err
	}
	say(db.Name(), "Stats", []any{stats.DocCount, stats.DeletedCount, stats.Cluster})
	security, err := db.Security(ctx)
	if err != nil {
		return err
	}
	say(db.Name(), "Security", security)
	list, err := rows(db.AllDocs(ctx, kivik.IncludeDocs(), kivik.Param("conflicts", true)), true, true)
	if err != nil {
		return err
	}
	say(db.Name(), "AllDocs", list)
	some, err := rows(db.AllDocs(ctx, kivik.Params(map[string]any{"startkey": "doc010", "limit": 7, "descending": true})), true, false)
	if err != nil {
		return err
	}
	say(db.Name(), "AllDocs of some", some)
	if err := readDocs(ctx, db, list); err != nil {
		return err
	}
	if err := ask(ctx, db); err != nil {
		return err
	}
	return follow(ctx, db)
}

// readDocs gets documents, and their attachments.
func readDocs(ctx context.Context, db *kivik.DB, list []row) error {
	for _, r := range list[:min(len(list), 30)] {
		doc := db.Get(ctx, r.ID, kivik.Params(map[string]any{"revs": true, "conflicts": true}))
		var body struct {
			Rev         string         `json:"_rev"`
			Attachments map[string]any `json:"_attachments"`
			Rest        json.RawMessage
		}
		if err := doc.ScanDoc(&body.Rest); err != nil {
			return err
		}
		if err := json.Unmarshal(body.Rest, &body); err != nil {
			return err
		}
		say(db.Name(), "Get", body.Rest)
		if len(body.Attachments) > 0 {
			if err := readAttachments(ctx, db, r.ID); err != nil {
				return err
			}
		}
		rev, err := db.GetRev(ctx, r.ID)
		if err != nil {
			return err
		}
		say(db.Name(), "GetRev", rev)
		revs, err := rows(db.OpenRevs(ctx, r.ID, []string{"all"}), false, true)
		say(db.Name(), "OpenRevs", []any{revs, fmt.Sprint(err)})
		got, err := rows(db.BulkGet(ctx, []kivik.BulkGetReference{{ID: r.ID}, {ID: r.ID, Rev: body.Rev}}), false, true)
		if err != nil {
			return err
		}
		say(db.Name(), "BulkGet", got)
	}
	err := db.Get(ctx, "p1:nosuch").Err()
	say(db.Name(), "Get of what is not there", failure(err))
	return nil
}

func readAttachments(ctx context.Context, db *kivik.DB, id string) error {
	with := db.Get(ctx, id, kivik.IncludeDocs(), kivik.Param("attachments", true))
	atts, err := with.Attachments()
	if err != nil {
		return err
	}
	var names []string
	for {
		att, err := atts.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(att.Content)
		if err != nil {
			return err
		}
		names = append(names, att.Filename)
		say(db.Name(), "Attachments", []any{att.Filename, att.ContentType, att.Digest, b})
	}
	if err := with.Close(); err != nil {
		return err
	}
	for _, name := range names {
		att, err := db.GetAttachment(ctx, id, name)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(att.Content)
		if err != nil {
			return err
		}
		say(db.Name(), "GetAttachment", []any{att.Filename, att.ContentType, att.Digest, att.Size, b})
		meta, err := db.GetAttachmentMeta(ctx, id, name)
		if err != nil {
			return err
		}
		say(db.Name(), "GetAttachmentMeta", []any{meta.ContentType, meta.Digest, meta.Size})
	}
	_, err = db.GetAttachment(ctx, id, "nosuch")
	say(db.Name(), "GetAttachment of what is not there", failure(err))
	return nil
}

// ask asks views and Mango.
func ask(ctx context.Context, db *kivik.DB) error {
	if db.Name() == "parted" {
		stats, err := db.PartitionStats(ctx, "p1")
		if err != nil {
			return err
		}
		say(db.Name(), "PartitionStats", stats)
	} else {
		view, err := rows(db.Query(ctx, "_design/views", "_view/by_n", kivik.IncludeDocs(), kivik.Params(map[string]any{"reduce": false, "startkey": 3})), true, true)
		if err != nil {
			return err
		}
		say(db.Name(), "Query", view)
		reduced, err := rows(db.Query(ctx, "views", "by_n", kivik.Param("group", true)), true, false)
		if err != nil {
			return err
		}
		say(db.Name(), "Query reduced", reduced)
	}
	found, err := rows(db.Find(ctx, map[string]any{"selector": map[string]any{"type": "x"}, "limit": 1000}), false, true)
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b row) int { return strings.Compare(string(a.Doc), string(b.Doc)) })
	say(db.Name(), "Find", found)
	indexes, err := db.GetIndexes(ctx)
	if err != nil {
		return err
	}
	say(db.Name(), "GetIndexes", indexes)
	plan, err := db.Explain(ctx, map[string]any{"selector": map[string]any{"type": "x"}})
	if err != nil {
		return err
	}
	say(db.Name(), "Explain", []any{plan.Index, plan.Selector})
	return nil
}

// follow reads feeds of changes: one that ends, and one that waits.
func follow(ctx context.Context, db *kivik.DB) error {
	var got []string
	changes := db.Changes(ctx, kivik.IncludeDocs(), kivik.Params(map[string]any{"style": "all_docs", "feed": "normal"}))
	for changes.Next() {
		var doc json.RawMessage
		if err := changes.ScanDoc(&doc); err != nil {
			return err
		}
		got = append(got, fmt.Sprint(changes.ID(), changes.Changes(), changes.Deleted(), string(doc)))
	}
	if err := changes.Err(); err != nil {
		return err
	}
	slices.Sort(got)
	say(db.Name(), "Changes", got)
	// One that waits is left when it has told all there is: the client can't have it end by itself.
	waiting := db.Changes(ctx, kivik.Params(map[string]any{"feed": "continuous", "since": "0"}))
	n := 0
	for n < len(got) && waiting.Next() {
		n++
	}
	if err := waiting.Err(); err != nil {
		return err
	}
	say(db.Name(), "Changes that wait", n)
	return waiting.Close()
}
